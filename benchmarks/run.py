"""Times edfcore on the CPU beside what else there is, in turns, each framework as its experts would write it.

    python benchmarks/run.py [--suite train|ops|overhead|all] [--peers NAMES] [--threads N] [--minutes M]
                             [--json FILE] [--markdown FILE] [--data DIR] [--shapes N] [--rows WORDS]
                             [--no-limits]

Each peer runs in a process of its own, on the same N cores, and is asked in turns for a short batch of the same row,
for many rounds. The JSON file is written anew after every row, most important rows first.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite import limits, report, rows, start_up
from suite.peers import ENTRIES, OURS, PEERS, PeerError, Worker
from suite.problems import Unsupported, make
from suite.schedule import Clock, measure
from table import write_whole

SCHEMA = 1
METHOD = (
    "Wall clock. A batch is as many calls in a row as take about 10 ms, after some that are not timed; peers are timed "
    "in turns, one batch each, for up to 40 rounds; `us` is the median over rounds of a batch's time by its calls (and "
    "by its steps), p20 and p80 are percentiles. Training rows take 64 minibatches of random data in turn, which are "
    "in memory as the framework likes them. `of_limit` is the least time that the machine needs for the row's "
    "arithmetic, or for its memory by the copy of most nearly that size, over the median. `error` compares with "
    "float64: for ops the largest difference over the largest value, for training the difference of parameters after "
    "8 steps over the way that they went, in norms. A row whose error is above its tolerance has failed, and is no "
    "one's best. Ratios are the best peer's median over ours. Products of `torch-mkldnn` do not count the packing of "
    "their weights."
)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=["train", "ops", "overhead", "all"], default="all")
    parser.add_argument(
        "--peers", default=",".join(PEERS), help=f"any of {', '.join(PEERS)}; 'none' for ours alone"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of every peer (1)")
    parser.add_argument("--minutes", type=float, default=15.0, help="time for the whole (15)")
    parser.add_argument("--shapes", type=int, default=4, help="random products (4)")
    parser.add_argument("--rows", default="", help="only rows in whose title these words stand")
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST (EDFCORE_DATA)")
    parser.add_argument("--no-limits", action="store_true", help="do not measure what the machine can do")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    options.peers = [] if options.peers == "none" else [p for p in options.peers.split(",") if p]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"--peers: there is no {', '.join(sorted(unknown))}")
    if not (math.isfinite(options.minutes) and options.minutes > 0):
        parser.error("--minutes must be more than 0")
    if not 1 <= options.threads <= len(limits.cores()):
        parser.error(f"--threads: this process may use {len(limits.cores())} cores")
    if options.data is None and os.environ.get("EDFCORE_DATA"):
        options.data = Path(os.environ["EDFCORE_DATA"])
    return options


def processor() -> dict[str, Any]:
    """Its name, and what the system says of it."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "model": model,
        "machine": platform.machine(),
        "cores": len(limits.cores()),
        "system": platform.system(),
    }


def command_line(words: Sequence[str]) -> str:
    """As it was typed, with folders left out."""
    return " ".join(["python benchmarks/run.py", *(w if "/" not in w else Path(w).name for w in words)])


class Bench:
    """One run: its options, its processes, and the document that it writes."""

    def __init__(self, options: argparse.Namespace, words: Sequence[str]) -> None:
        self.options, self.clock = options, Clock(options.minutes)
        self.begin = time.monotonic()
        self.workers: dict[str, Worker] = {}
        self.limits = limits.Limits(options.threads, reason="no row of this run needs it")
        self.document: dict[str, Any] = {
            "schema": SCHEMA, "kind": "cpu", "complete": False, "command": command_line(words),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": 0.0, "method": METHOD,
            "cpu": processor(), "python": platform.python_version(), "threads": options.threads,
            "load": os.getloadavg()[0], "limits": self.limits.as_json(), "peers": {}, "rows": [], "left_out": [],
        }  # fmt: skip

    def table(self) -> list[rows.Row]:
        """The rows that were asked for."""
        found: list[rows.Row] = []
        if self.options.suite in ("train", "all"):
            found += rows.train()
        if self.options.suite in ("ops", "all"):
            found += rows.ops(self.options.shapes)
        return [row for row in found if self.options.rows in row.title]

    def start(self, suites: set[str]) -> None:
        """Start all processes at once, and say which peers are there."""
        peers: dict[str, Any] = self.document["peers"]
        for name in [*OURS, *self.options.peers]:
            if suites & set(ENTRIES[name].suites):
                self.workers[name] = Worker(name, self.options.threads, self.options.data)
                self.workers[name].start()
        for name, worker in list(self.workers.items()):
            peers[name] = {"words": ENTRIES[name].words}
            try:
                peers[name] |= worker.hello()
                versions = ", ".join(f"{k} {v}" for k, v in worker.about["versions"].items())
                print(f"{name}: {versions}; {ENTRIES[name].words}", flush=True)
                used = worker.about["threads"]
                if used not in (None, self.options.threads):
                    raise PeerError("missing", f"it uses {used} threads")
            except PeerError as error:
                peers[name]["missing"] = error.reason
                print(f"{name}: left out: {error.reason}", flush=True)
                worker.stop()
                del self.workers[name]

    def yardstick(self) -> None:
        """The machine's limit, and what the products of all peers make of it."""
        if self.options.no_limits:
            self.limits = limits.Limits(self.options.threads, reason="it was not asked for")
        else:
            self.limits = limits.measure(self.options.threads)
        row = rows.matmul((1024,) * 3, "nn")
        if self.clock.left() > 60 and not self.options.no_limits:
            for name, worker in self.workers.items():
                if "ops" in ENTRIES[name].suites:
                    try:
                        seconds = worker.prepare(row, 30.0)["seconds"]
                        self.limits.matmul_gflops[name] = row.flops / seconds * 1e-9
                    except PeerError:
                        continue
        for name in OURS:
            if name in self.workers:  # what a large product leaves behind is no row's memory
                self.workers[name].stop()
        self.document["limits"] = self.limits.as_json()
        print(f"limits: {report.limits_text(self.document['limits'])}", flush=True)

    def measure(self) -> None:
        """Every row for which there is time."""
        table = self.table()
        for at, row in enumerate(table):
            if self.clock.left() <= 0:
                self.document["left_out"] = [later.title for later in table[at:]]
                break
            workers = [w for name, w in self.workers.items() if row.suite in ENTRIES[name].suites]
            try:
                problem = make(row, self.options.data)
            except Unsupported as reason:
                print(f"{row.title}: skipped: {reason}", flush=True)
                self.document["left_out"].append(f"{row.title}: {reason}")
                continue
            share = self.clock.share(len(table) - at)
            found = measure(row, problem, workers, self.limits, share, self.clock.left())
            self.add(found)

    def add(self, found: list[dict[str, Any]]) -> None:
        """Print a row, and write the file."""
        self.document["rows"] += found
        print(report.row_text(found), flush=True)
        self.write()

    def write(self) -> None:
        """Replace the file by what is known now, in one step."""
        self.document["seconds"] = round(time.monotonic() - self.begin, 1)
        if self.options.json:
            write_whole(self.options.json, self.document)

    def run(self) -> int:
        """All of it."""
        if self.document["load"] > 0.5:
            print(
                f"the machine is busy, with a load of {self.document['load']:.1f}: expect noise", flush=True
            )
        limits.pin(self.options.threads)
        suites = {"train", "ops"} if self.options.suite == "all" else {self.options.suite}
        try:
            if suites != {"overhead"}:
                self.start(suites)
                self.yardstick()
                print(report.heads_text(), flush=True)
                self.measure()
        finally:
            for worker in self.workers.values():
                worker.stop()
        if self.options.suite in ("overhead", "all"):
            self.overhead()
        if self.document["left_out"]:
            print("there was no time, or no data, for: " + "; ".join(self.document["left_out"]))
        self.document["complete"] = not self.document["left_out"]
        self.write()
        if self.options.markdown:
            self.options.markdown.write_text(report.markdown(self.document), encoding="utf-8")
        wrong = [r for r in self.document["rows"] if r["who"] in OURS and r["status"] == "failed"]
        return 1 if wrong else 0

    def overhead(self) -> None:
        """What it costs beside the arithmetic."""
        if self.clock.left() <= 0:
            self.document["left_out"].append("overhead")
            return
        found = start_up.imports(self.options.peers, self.options.threads, self.clock)
        for r in found:
            about = self.document["peers"].setdefault(r["who"], {"words": "imported", "versions": {}})
            about.setdefault("versions", {}).setdefault(r["who"], r.pop("version", "not there"))
        self.add(found)
        self.document["overhead"] = start_up.engine(self.clock)
        print(start_up.engine_text(self.document["overhead"]), flush=True)


def main() -> int:
    """Run, and return 1 where an answer of ours was wrong."""
    return Bench(parse(), sys.argv[1:]).run()


if __name__ == "__main__":
    sys.exit(main())
