"""Times what the large frameworks reach on this GPU, each as its experts would write it: the aim for our kernels.

    python benchmarks/peers.py --seconds 400 --out peers.json

It needs torch, and takes jax, cupy and triton where they are. The result file is written anew after every row, most
important rows first; a peer that is missing, or fails, or takes too long, is listed under `failed` with the reason.
`--quick --cpu` tries the program out without a GPU: tiny sizes, and figures that mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import peers_layers
import peers_rows
import peers_steps
from evidence import write_whole
from peers_timing import METHOD, Made, Peer, Setting, clock_for, load, measure, row_of

FAMILIES = (
    peers_steps.steps,
    peers_steps.epochs,
    peers_rows.products,
    peers_layers.layers,
    peers_rows.split_products,
    peers_rows.softmaxes,
    peers_rows.losses,
    peers_rows.chains,
    peers_rows.optimisers,
    peers_layers.memory,
    peers_steps.slow_to_compile,
)
PACKAGES = ("torch", "triton", "jax", "jaxlib", "cupy-cuda13x", "numpy", "nvidia-cublas")


class TooLongError(Exception):
    """A peer took more time than it may."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Interrupt what is inside after so many seconds, as far as it can be interrupted."""

    def stop(number: int, frame: Any) -> None:
        raise TooLongError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # again, should the first be lost in a destructor
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def timed(peer: Peer, setting: Setting, seconds: float) -> dict[str, Any]:
    """One line of the table."""
    load("torch").set_float32_matmul_precision("high" if peer.tf32 else "highest")
    begin = time.monotonic()
    made: Made = peer.make()
    made.call()
    prepared = time.monotonic() - begin
    figures = measure(made, clock_for(peer, setting), seconds)
    return row_of(peer, made, figures, prepare_s=round(prepared, 2))


def clear(setting: Setting, compiled: bool) -> None:
    """Give the memory back that the last row took."""
    torch = load("torch")
    if compiled:
        torch._dynamo.reset()
        gc.collect()
    if not setting.cpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def warm_up(setting: Setting) -> None:
    """Import what is imported at first use: an import that a limit interrupts would harm the rows after it."""
    with contextlib.suppress(Exception):
        torch = load("torch")
        torch.compile(lambda x: torch.relu(x) + 1)(torch.ones(8, device=setting.device))
    for name in ("cupy", "peers_triton"):
        with contextlib.suppress(Exception):
            load(name)
    with contextlib.suppress(Exception):
        jax = load("jax")
        jax.block_until_ready(jax.jit(jax.grad(lambda x: jax.nn.relu(x).sum()))(jax.numpy.ones(8)))


def found_version(name: str) -> str | None:
    """The version of a package, if it is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


class Table:
    """The rows so far, and the file that holds them."""

    def __init__(self, path: Path, setting: Setting) -> None:
        torch = load("torch")
        self.path = path
        self.document: dict[str, Any] = {
            "method": METHOD, "device": "cpu" if setting.cpu else torch.cuda.get_device_name(),
            "packages": {name: found_version(name) for name in PACKAGES},
            "seconds": 0.0, "complete": False, "rows": [], "failed": [],
        }  # fmt: skip

    def write(self) -> None:
        """Replace the file as a whole."""
        write_whole(self.path, self.document)

    def add(self, peer: Peer, setting: Setting, seconds: float, limit: float) -> None:
        """Time one peer."""
        label = f"{peer.name} {peer.shape} {peer.who}"
        try:
            with limited(limit):
                row = timed(peer, setting, seconds)
            self.document["rows"].append(row)
            rate = row.get("gflop_per_s") or row.get("gb_per_s") or 0
            print(
                f"{label:90} {row['us']:12.2f} us {rate:10.0f} {row.get('error', '')}",
                file=sys.stderr,
                flush=True,
            )
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:600]
            self.document["failed"].append({"row": label, "reason": reason})
            print(f"{label:90} failed: {reason.splitlines()[0]}", file=sys.stderr, flush=True)


def options_from(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=400.0, help="time for all rows (400)")
    parser.add_argument(
        "--each", type=float, default=40.0, help="the most that one row may take, compilation too (40)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the JSON file to write")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="rows whose name, shape or peer matches"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--cpu", action="store_true", help="without a GPU")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Time all peers within the seconds given."""
    options = options_from(arguments)
    begin = time.monotonic()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    setting = Setting(options.cpu, options.quick)
    table = Table(options.out, setting)
    warm_up(setting)
    for family in FAMILIES:
        for peer in family(setting):
            if not re.search(options.only, f"{peer.name} {peer.shape} {peer.who}"):
                continue
            left = options.seconds - (time.monotonic() - begin)
            if left < 1:
                table.write()
                return 0
            table.add(peer, setting, 0.02 if options.quick else 0.4, min(options.each, left))
            with contextlib.suppress(Exception):
                clear(setting, "compile" in peer.who)
            table.document["seconds"] = round(time.monotonic() - begin, 1)
            table.write()
    table.document["complete"] = True
    table.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
