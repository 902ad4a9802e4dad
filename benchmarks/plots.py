"""Plots of speed against size, from a result file of run.py.

    python benchmarks/plots.py RESULTS.json [--out FOLDER] [--format png]

`matmul` has GFLOP/s over the side of a cube of as much work, with the peak of the machine; `elementwise` and `rows`
have GB/s over elements, and over the width of rows; `train` has steps a second over the size of a minibatch. A point
whose answer was wrong is left out.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from suite.peers import OURS

Record = dict[str, Any]
Lines = dict[str, list[tuple[float, float]]]


def steps_per_s(r: Record) -> float:
    return 1e6 / float(r["us"])


def points(records: list[Record], value: Any) -> Lines:
    """For each peer its points, from the smallest size on."""
    lines: Lines = defaultdict(list)
    for r in records:
        lines[r["who"]].append((r["size"], value(r)))
    return {who: sorted(found) for who, found in lines.items()}


def panels(rows: list[Record]) -> dict[str, dict[str, list[Record]]]:
    """Which figure, and which panel of it, a record belongs to."""
    found: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        if r["status"] != "ok":
            continue
        if r["op"] in ("matmul", "affine"):
            found["matmul"][r["name"]].append(r)
        elif r["op"] in ("softmax", "log_softmax", "loss"):
            found["rows"][r["name"]].append(r)
        elif r["op"] in ("relu", "tanh", "sigmoid", "exp", "log", "gelu"):
            found["elementwise"][r["name"]].append(r)
        elif r["op"] == "mlp":
            found["train"][r["name"]].append(r)
    return found


AXES = {
    "matmul": ("side of a cube of as much work", "GFLOP/s", lambda r: r["gflop_per_s"]),
    "rows": ("width of a row", "GB/s", lambda r: r["gb_per_s"]),
    "elementwise": ("elements", "GB/s", lambda r: r["gb_per_s"]),
    "train": ("examples in a minibatch", "steps/s", steps_per_s),
}


def draw(name: str, groups: dict[str, list[Record]], document: Record, path: Path) -> None:
    """One figure, a panel for each op."""
    from matplotlib.figure import Figure

    across, down = min(3, len(groups)), -(-len(groups) // 3)
    figure = Figure(figsize=(5 * across, 3.5 * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    label_x, label_y, value = AXES[name]
    everyone = list(dict.fromkeys(r["who"] for records in groups.values() for r in records))
    for panel, (title, records) in zip(axes, groups.items(), strict=False):
        for who, found in points(records, value).items():
            style: dict[str, Any] = {"marker": ".", "linewidth": 1.0}
            if who in OURS:
                style = {"marker": "o", "linewidth": 2.5}
            if name == "matmul":  # shapes of one size need not be alike
                style["linestyle"] = ""
            panel.plot(*zip(*found, strict=True), label=who, color=f"C{everyone.index(who) % 10}", **style)
        peak = document["limits"]["fma_gflops"]
        if name == "matmul" and peak:
            panel.axhline(peak, color="grey", linestyle=":", label="peak")
        panel.set(title=title, xlabel=label_x, ylabel=label_y, xscale="log")
        if name == "train":
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize="x-small")
    for panel in axes[len(groups) :]:
        panel.set_visible(False)
    figure.suptitle(f"{document['cpu']['model']}, {document['threads']} threads")
    figure.savefig(path, dpi=120)


def plot(document: Record, folder: Path, kind: str = "png") -> list[Path]:
    """All figures for which there are records."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, groups in panels(document["rows"]).items():
        written.append(folder / f"{name}.{kind}")
        draw(name, groups, document, written[-1])
    return written


def main() -> None:
    """Read a result file and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, default=Path("plots"))
    parser.add_argument("--format", choices=["png", "svg", "pdf"], default="png")
    options = parser.parse_args()
    document = json.loads(options.results.read_text(encoding="utf-8"))
    for path in plot(document, options.out, options.format):
        print(path)


if __name__ == "__main__":
    main()
