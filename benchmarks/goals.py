"""What edfcore is to reach on a GPU, row by row, and which of it a run of device.py has found to be so.

A row of ours is compared with the best peer of the same name and shape in the same run, among those that compute in
full float32; with the memory's bandwidth, by the best copy that limits.cu has found; or with a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

LESS_PRECISE = ("tf32", "bfloat16", "default precision", "X3", "x3", "TF32")


@dataclass(frozen=True)
class Goal:
    """`what` of the rows of this name, and of the shapes that `where` takes, is to be `least` or more."""

    title: str
    name: str  # a pattern
    what: str  # "ratio": best peer's time over ours; "bandwidth": share of a copy's; "memory"; "us"; "stated"
    least: float = 0.0
    most: float = float("inf")
    where: Callable[[Sequence[int]], bool] = lambda sizes: True
    peers: str = ""  # a pattern; "" is any
    ours: str = "^edfcore"  # a pattern

    def words(self) -> str:
        """The goal for people."""
        names = {
            "ratio": "of the best peer's speed",
            "bandwidth": "of copy bandwidth",
            "memory": "of the best peer's memory",
            "us": "us",
        }
        if self.what == "stated":
            return "stated"
        return (
            f">= {self.least:g} {names[self.what]}" if self.least else f"<= {self.most:g} {names[self.what]}"
        )

    def met(self, figure: float) -> bool:
        """Whether the figure is good enough."""
        return self.least <= figure <= self.most


def last(least: int, most: int = 1 << 62) -> Callable[[Sequence[int]], bool]:
    """Rows whose last size lies in between."""
    return lambda sizes: least <= sizes[-1] <= most


SOFTMAX = r"^(log_)?softmax( backward)?$"
LOSS = "^cross_entropy value and gradient$"
OPTIMISER = "^(SGD|momentum|Adam)$"

GOALS = (
    Goal("float32 matmul", "^matmul ", "ratio", least=0.95, peers="^torch$",
         where=lambda s: min(s) >= 1024, ours="^edfcore$"),
    Goal("float32 matmul by tensor cores, as exact", "^matmul ", "ratio", least=1.0, peers="^torch$",
         where=lambda s: min(s) >= 1024, ours="^edfcore, high$"),
    Goal("layer triple", "^layer triple$", "ratio", least=1.2),
    Goal("softmax, log-softmax, rows from 4K up", SOFTMAX, "bandwidth", least=0.95, where=last(4096)),
    Goal("softmax, log-softmax, rows of 1K", SOFTMAX, "bandwidth", least=0.80, where=last(1024, 1024)),
    Goal("softmax, log-softmax, all rows", SOFTMAX, "ratio", least=1.0),
    Goal("cross-entropy, rows from 8K up", LOSS, "bandwidth", least=0.93, where=last(8192)),
    Goal("cross-entropy", LOSS, "ratio", least=1.5),
    Goal("activations and chains", "^(relu|gelu|multiply, add, relu, square)$", "bandwidth", least=0.97),
    Goal("updates of one large tensor", OPTIMISER, "bandwidth", least=0.97, where=lambda s: s[0] == 1),
    Goal("updates of many small tensors", OPTIMISER, "ratio", least=2.0, where=lambda s: s[0] > 1),
    Goal("step of 784-256-10, batch 64", "^training step$", "us", most=10.0, where=lambda s: s == [784, 256, 10, 64]),
    Goal("step of 784-256-10", "^training step$", "ratio", least=2.0, where=lambda s: s[:3] == [784, 256, 10]),
    Goal("epoch of 60,000 images", "^epoch$", "us", most=12_000.0, where=lambda s: s[0] == 60_000),
    Goal("peak memory of a step", "^peak memory of a step$", "memory", most=0.6),
    Goal("cold start", "^cold start$", "us", most=200_000.0),
    Goal("Fashion-MNIST epoch against NumPy EDF", "^Fashion-MNIST epoch, EDF loop$", "stated"),
    Goal("CPU scaling", "^CPU training step$", "stated"),
)  # fmt: skip


def copy_bandwidth(document: Row) -> float | None:
    """Bytes read and written in a second, in GB, or None where nobody has measured."""
    for row in document.get("limits", {}).get("rows", []):
        if row["name"] == "copy, best" and row["value"]:
            return float(row["value"])
    for row in document.get("timings", {}).get("rows", []):
        if row["kernel"] == "copy" and row["gb_per_s"]:
            return float(row["gb_per_s"])
    return None


def limit_us(document: Row, row: Row) -> float | None:
    """What the row's arithmetic or its memory takes at the least, by what limits.cu has found; None if unknown."""
    rates = {r["name"]: float(r["value"] or 0) for r in document.get("limits", {}).get("rows", [])}
    bandwidth, arithmetic = copy_bandwidth(document), rates.get("fp32 fused multiply-add")
    if row.get("bytes") and bandwidth:
        return float(row["bytes"] / bandwidth * 1e-3)
    if row.get("flops") and arithmetic:
        return float(row["flops"] / arithmetic * 1e-6)
    return None


def best_peer(goal: Goal, row: Row, peers: Sequence[Row]) -> Row | None:
    """The fastest of the same name and shape, or the one that takes the least memory."""
    key = "peak_bytes" if goal.what == "memory" else "us"
    found = [
        p
        for p in peers
        if (p["name"], p["shape"]) == (row["name"], row["shape"])
        and p.get(key)
        and re.search(goal.peers, p["who"])
        and not any(word in p["who"] for word in LESS_PRECISE)
    ]
    return min(found, key=lambda p: float(p[key]), default=None)


def figure_of(
    goal: Goal, row: Row, ours: Sequence[Row], peers: Sequence[Row], bandwidth: float | None
) -> tuple[float | None, str]:
    """What the goal is about, and against whom; None where that was not measured."""
    if goal.what == "us":
        return float(row["us"]), ""
    if goal.what == "bandwidth":
        return (row["gb_per_s"] / bandwidth if bandwidth and "gb_per_s" in row else None), "copy"
    if goal.what in ("ratio", "memory"):
        peer = best_peer(goal, row, peers)
        if peer is None:
            return None, ""
        if goal.what == "memory":
            return row["peak_bytes"] / peer["peak_bytes"], peer["who"]
        return peer["us"] / row["us"], peer["who"]
    others = [
        o for o in ours if o["name"] == row["name"] and (o["who"] == "edf-numpy" or o.get("threads") == 1)
    ]
    return (others[0]["us"] / row["us"], others[0]["who"]) if others else (None, "")


def rows_of(document: Row, section: str) -> list[Row]:
    """Those that have a figure."""
    return [
        row for row in document.get(section, {}).get("rows", []) if row.get("us") or row.get("peak_bytes")
    ]


def meant(goal: Goal, ours: Sequence[Row]) -> list[Row]:
    """The rows that a goal is about: where there are several ways to one result, the fastest."""
    found: dict[tuple[str, ...], Row] = {}
    for row in ours:
        sizes = [int(n) for n in re.findall(r"\d+", row["shape"])]
        if re.search(goal.name, row["name"]) and goal.where(sizes) and re.search(goal.ours, row["who"]):
            key = (row["name"], row["shape"], row["who"] if goal.what == "stated" else "")
            found[key] = min(found.get(key, row), row, key=lambda r: float(r.get("us") or 0))
    return list(found.values())


def judge(document: Row) -> list[Row]:
    """All goals over all rows of a run."""
    ours, peers = rows_of(document, "ours"), rows_of(document, "peers")
    bandwidth = copy_bandwidth(document)
    found: list[Row] = []
    for goal in GOALS:
        for row in meant(goal, ours):
            figure, against = figure_of(goal, row, ours, peers, bandwidth)
            limit = limit_us(document, row)
            stated = "stated" if goal.what == "stated" else ""
            verdict = (
                "not measured" if figure is None else stated or ("met" if goal.met(figure) else "missed")
            )
            found.append({
                "goal": goal.title, "wanted": goal.words(), "name": row["name"], "shape": row["shape"],
                "who": row["who"], "figure": None if figure is None else float(f"{figure:.4g}"), "against": against,
                "us": row.get("us"), "limit_us": limit and round(limit, 3),
                "of_limit": limit and round(limit / row["us"], 4), "error": row.get("error"),
                "batches": row.get("batches"), "host_bound": row.get("host_bound", False),
                "verdict": verdict,
            })  # fmt: skip
    return found


def lines(judged: Sequence[Row]) -> Iterator[str]:
    """The table for people, and how many goals were met."""
    for row in judged:
        figure = "-" if row["figure"] is None else f"{row['figure']:g}"
        against = f" ({row['against']})" if row["against"] else ""
        bound = ", bound by the host" if row["host_bound"] else ""
        wanted = "" if row["verdict"] == "stated" else f", wanted {row['wanted']}"
        limit = f", {row['of_limit']:.0%} of the limit" if row["of_limit"] else ""
        yield f"{row['verdict']:12} {row['name']} {row['shape']} {row['who']}: {figure}{against}{wanted}{limit}{bound}"
    count = {
        word: sum(row["verdict"] == word for row in judged) for word in ("met", "missed", "not measured")
    }
    yield ", ".join(f"{n} {word}" for word, n in count.items())
