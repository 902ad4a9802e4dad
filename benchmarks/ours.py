"""Times edfcore on this GPU, in rows of the same names and shapes as those of peers.py.

    python benchmarks/ours.py --seconds 120 --out ours.json

It needs no other framework. The result file is written anew around every row, most important rows first; a row that
fails is listed under `failed` with the reason. Where the file is there already, its rows are not measured again. The
status is 3 where the device was lost. `--quick` takes tiny sizes, also for the simulated device.
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
from peers_sizes import LATEST, lateness
from peers_timing import METHOD, SECONDS, EventClock, Made, Peer, Setting, measure, row_of
from table import Measure, Row, Table

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


def timed(peer: Peer, seconds: float, wait: Callable[[], Any]) -> list[Row]:
    """The line of the table, as peers.py has it."""
    import edfcore as edf

    begin = time.monotonic()
    with edf.no_grad():
        made: Made = peer.make()
        made.call()
        wait()
        prepared = time.monotonic() - begin
        figures = measure(made, EventClock(edf.cuda.Event), seconds)
    bound = figures["issue_us"] > 0.8 * figures["us"]
    return [row_of(peer, made, figures, prepare_s=round(prepared, 2), host_bound=bound)]


def described(words: Row, run: Callable[[], Row]) -> list[Row]:
    """The line of what is not timed by events."""
    return [{**words, **run()}]


def work(setting: Setting, wait: Callable[[], Any]) -> Iterator[tuple[str, Measure]]:
    """All rows, most important ones first: what each is called, and the function that measures it."""
    seconds = 0.02 if setting.quick else SECONDS
    peers = [peer for family in FAMILIES for peer in family(setting)]
    for late in range(LATEST + 1):
        for peer in peers:
            if lateness(peer) == late:
                yield f"{peer.name} {peer.shape} {peer.who}", partial(timed, peer, seconds, wait)
        for words, run in ours_steps.measured(setting) if late == 0 else ():
            yield f"{words['name']} {words['shape']} {words['who']}", partial(described, words, run)


def clear() -> None:
    """What the last row has left behind goes; raises where the device is lost."""
    import edfcore as edf

    edf.clear_compgraph()
    edf.set_float32_matmul("exact")
    gc.collect()
    edf.cuda.synchronize()
    edf.cuda.empty_cache()


def main(arguments: list[str] | None = None) -> int:
    """Measure all rows within the seconds given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180.0, help="time for all rows (180)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the JSON file to fill")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    options = parser.parse_args(arguments)
    end, table = time.monotonic() + options.seconds, Table(options.out, method=METHOD)
    import edfcore as edf

    edf.set_device("cuda")
    table.document["device"] = edf.cuda.description()
    return table.fill(work(Setting(quick=options.quick), edf.cuda.synchronize), end, clear)


if __name__ == "__main__":
    sys.exit(main())
