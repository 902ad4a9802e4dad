"""Times what the large frameworks reach on this GPU, each as its experts would write it: the aim for our kernels.

    python benchmarks/peers.py --seconds 400 --out peers.json

It takes torch, jax, cupy and triton where they are. The result file is written anew around every row, most important
rows first; a peer that is missing, or fails, or takes too long, is listed under `failed` with the reason. Where the
file is there already, its rows are not measured again. The status is 3 where the device was lost.
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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peers_layers
import peers_rows
import peers_steps
from evidence import found_version
from peers_sizes import LATEST, lateness
from peers_timing import METHOD, SECONDS, Made, Peer, Setting, clock_for, load, measure, row_of
from table import Measure, Row, Table, failing

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


def timed(peer: Peer, setting: Setting, seconds: float, limit: float) -> list[Row]:
    """The line of the table."""
    with limited(limit):
        with contextlib.suppress(ImportError):
            load("torch").set_float32_matmul_precision("high" if peer.tf32 else "highest")
        begin = time.monotonic()
        made: Made = peer.make()
        made.call()
        prepared = time.monotonic() - begin
        figures = measure(made, clock_for(peer, setting), seconds)
    return [row_of(peer, made, figures, prepare_s=round(prepared, 2))]


def clear(setting: Setting) -> None:
    """Give the memory back that the last row took; raises where the device is lost."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if not setting.cpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def warm_torch(setting: Setting) -> None:
    """Import what is imported at first use: an import that a limit interrupts would harm the rows after it."""
    load("torch").ones(8, device=setting.device)


def warm_compiler(setting: Setting) -> None:
    """The same."""
    torch = load("torch")
    torch.compile(lambda x: torch.relu(x) + 1)(torch.ones(8, device=setting.device))


def warm_jax(setting: Setting) -> None:
    """The same."""
    jax = load("jax")
    jax.block_until_ready(jax.jit(jax.grad(lambda x: jax.nn.relu(x).sum()))(jax.numpy.ones(8)))


def warm_others(setting: Setting) -> None:
    """The same."""
    load("cupy")
    load("peers_triton")


def without_a_row(run: Callable[[Setting], None], setting: Setting) -> list[Row]:
    """What is only done."""
    run(setting)
    return []


def work(setting: Setting, pattern: str, limit: float) -> Iterator[tuple[str, Measure]]:
    """All rows, most important ones first: what each is called, and the function that measures it."""
    seconds = 0.02 if setting.quick else SECONDS
    for run in (warm_torch, warm_compiler, warm_jax, warm_others):
        yield run.__name__, partial(without_a_row, run, setting)
    peers: list[Peer] = []
    for family in FAMILIES:
        try:
            peers += family(setting)
        except Exception as error:
            yield family.__name__, failing(error)
    for late in range(LATEST + 1):
        for peer in peers:
            label = f"{peer.name} {peer.shape} {peer.who}"
            if lateness(peer) == late and re.search(pattern, label):
                yield label, partial(timed, peer, setting, seconds, limit)


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
    end = time.monotonic() + options.seconds
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    setting = Setting(options.cpu, options.quick)
    table = Table(options.out, method=METHOD, packages={name: found_version(name) for name in PACKAGES})
    return table.fill(work(setting, options.only, options.each), end, partial(clear, setting))


if __name__ == "__main__":
    sys.exit(main())
