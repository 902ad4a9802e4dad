"""Times edfcore on this GPU, in rows of the same names and shapes as those of peers.py.

    python benchmarks/ours.py --seconds 120 --out ours.json

It needs no other framework. The result file is written anew after every row, most important rows first; a row that
fails is listed under `failed` with the reason. `--quick` takes tiny sizes, also for the simulated device.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ours_ops
import ours_steps
from evidence import write_whole
from peers_timing import METHOD, EventClock, Made, Peer, Setting, measure, row_of

FAMILIES: tuple[Callable[[Setting], Iterator[Peer]], ...] = (
    ours_steps.steps,
    ours_steps.epochs,
    ours_ops.products,
    ours_ops.layers,
    ours_ops.softmaxes,
    ours_ops.losses,
    ours_ops.chains,
    ours_ops.optimisers,
)


def timed(peer: Peer, seconds: float, wait: Callable[[], Any]) -> dict[str, Any]:
    """One line of the table, as peers.py has it."""
    import edfcore as edf

    begin = time.monotonic()
    with edf.no_grad():
        made: Made = peer.make()
        made.call()
        wait()
        prepared = time.monotonic() - begin
        figures = measure(made, EventClock(edf.cuda.Event), seconds)
    bound = figures["issue_us"] > 0.8 * figures["us"]
    return row_of(peer, made, figures, prepare_s=round(prepared, 2), host_bound=bound)


def described(words: dict[str, Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """One line of what is not timed by events."""
    return {**words, **run()}


def work(setting: Setting, wait: Callable[[], Any]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """All rows: what each is called, and the function that measures it."""
    seconds = 0.02 if setting.quick else 0.4
    for family in FAMILIES:
        for peer in family(setting):
            yield f"{peer.name} {peer.shape}", partial(timed, peer, seconds, wait)
    for words, run in ours_steps.measured(setting):
        yield f"{words['name']} {words['shape']} {words['who']}", partial(described, words, run)


def main(arguments: list[str] | None = None) -> int:
    """Measure all rows within the seconds given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="time for all rows (120)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    options = parser.parse_args(arguments)
    import edfcore as edf

    end = time.monotonic() + options.seconds
    edf.set_device("cuda")
    document: dict[str, Any] = {
        "method": METHOD, "device": edf.cuda.description(), "complete": False, "rows": [], "failed": [],
    }  # fmt: skip

    def write() -> None:
        write_whole(options.out, document, allow_nan=False)

    for label, run in work(Setting(quick=options.quick), edf.cuda.synchronize):
        if time.monotonic() > end:
            write()
            return 0
        try:
            row = run()
            document["rows"].append(row)
            figure = f"{row['us']:12.2f} us" if "us" in row else f"{row['peak_bytes']:12} bytes"
            print(f"{label:80} {figure} {row.get('error', '')}", file=sys.stderr, flush=True)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:600]
            document["failed"].append({"row": label, "reason": reason})
            print(f"{label:80} failed: {reason.splitlines()[0]}", file=sys.stderr, flush=True)
        edf.clear_compgraph()
        edf.set_float32_matmul("exact")
        gc.collect()
        edf.cuda.empty_cache()
        write()
    document["complete"] = True
    write()
    return 1 if document["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
