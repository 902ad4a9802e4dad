"""The order in which peers are timed: a short batch of each in turns, for many rounds, while there is time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import isfinite
from typing import Any, Protocol

from suite.limits import Limits
from suite.peers import OURS, PeerError
from suite.problems import Array
from suite.rows import Row

BATCH_SECONDS = 0.01
PAUSE = 0.003  # between batches
LONGEST_CALL = 300.0


class Timed(Protocol):
    """What the schedule asks of a worker."""

    name: str

    def prepare(self, row: Row, timeout: float) -> dict[str, Any]: ...
    def time(self, calls: int, timeout: float) -> float: ...
    def drop(self) -> None: ...


class Compares(Protocol):
    """What it asks of a problem."""

    def error(self, got: Sequence[Array]) -> float: ...


Record = dict[str, Any]


def percentile(values: Sequence[float], share: float) -> float:
    """Between the two nearest, in proportion."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def figures(row: Row, us: Sequence[float], limits: Limits) -> Record:
    """What was measured, and what it is of the machine's limit."""
    median = statistics.median(us)
    found: Record = {
        "us": median, "p20": percentile(us, 0.2), "p80": percentile(us, 0.8), "rounds": len(us),
        "gflop_per_s": row.flops / median * 1e-3 if row.flops else None,
        "gb_per_s": row.bytes / median * 1e-3 if row.bytes else None,
    }  # fmt: skip
    least = limits.least_us(row.flops, row.bytes)
    found["of_limit"] = least / median if least else None
    return found


def with_ratios(records: list[Record]) -> list[Record]:
    """Give ours the time of the best peer over their own. A wrong answer is no one's best."""
    peers = [r for r in records if r["who"] not in OURS and r["status"] == "ok"]
    best = min(peers, key=lambda r: float(r["us"]), default=None)
    for r in records:
        if r["who"] in OURS and r["status"] == "ok" and best:
            r["ratio"], r["best_peer"] = best["us"] / r["us"], best["who"]
    return records


def measure(
    row: Row,
    problem: Compares,
    workers: Sequence[Timed],
    limits: Limits,
    seconds: float,
    limit: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Record]:
    """Prepare a row everywhere, compare the answers, and time it in turns.

    All of it should take `seconds`, for which a few rounds are enough, and must not take more than `limit`.
    """
    begin = clock()

    def timeout(share: float = 1.0) -> float:
        left = share * (limit - (clock() - begin))
        if left <= 0:
            raise PeerError("no time", "the time of the run is over")
        return min(left + 5, LONGEST_CALL)

    records: dict[str, Record] = {}
    ready: dict[str, tuple[Timed, int, int]] = {}
    base = {"suite": row.suite, "name": row.name, "shape": row.shape, "op": row.op, "size": row.size,
            "tolerance": row.tolerance}  # fmt: skip
    for worker in workers:
        record = records[worker.name] = {**base, "who": worker.name}
        try:
            made = worker.prepare(row, timeout(0.5))  # a compiler leaves time for the rest
        except PeerError as error:
            record |= {"status": error.status, "reason": error.reason}
            continue
        error_ = problem.error(made["answer"])
        right = error_ <= row.tolerance  # false for NaN
        record |= {"status": "ok" if right else "failed", "error": error_ if isfinite(error_) else None,
                   "memory_bytes": made["memory"]}  # fmt: skip
        if not right:
            record["reason"] = f"the error {error_:.2g} is more than {row.tolerance:.2g}"
        calls = max(1, round(BATCH_SECONDS / made["seconds"])) if made["seconds"] > 0 else 1
        ready[worker.name] = worker, min(calls, 100_000), made["per_call"]
    us: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(row.rounds):
        spent = clock() - begin
        if spent > limit or (spent > seconds and turn >= row.least):
            break
        names = list(ready)
        for name in names[turn % len(names) :] + names[: turn % len(names)] if names else []:
            worker, calls, per_call = ready[name]
            time.sleep(PAUSE)
            try:
                us[name].append(worker.time(calls, timeout()) / calls / per_call * 1e6)
            except PeerError as error:
                if error.status != "no time" or not us[name]:
                    records[name] |= {"status": error.status, "reason": error.reason}
                del ready[name]
    for worker in workers:
        found = records[worker.name]
        if us.get(worker.name):
            found |= figures(row, us[worker.name], limits)
        elif found["status"] == "ok":
            found |= {"status": "no time", "reason": "no batch was timed"}
        with suppress(PeerError):  # the next row begins a new process
            worker.drop()
    return with_ratios(list(records.values()))


class Clock:
    """The time that is left, and the share of it that the next row may take."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.now, self.end = clock, clock() + 60 * minutes

    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.end - self.now())

    def share(self, rows: int) -> float:
        """Of this row and `rows - 1` after it: three times an equal part, as most rows need less."""
        return min(self.left(), 3 * self.left() / max(rows, 1))
