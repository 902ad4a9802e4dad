"""What the engine costs beside the arithmetic: making nodes, running tiny ones, and running the user's own.

    python benchmarks/overhead.py [--json FILE] [--repeats 15]

Every figure is a median over repeats; beside it stands the best repeat, which is what a machine without other work
shows. Graphs of nodes written in NumPy run on the engine and on the NumPy EDF of the tests in turns, in one process,
so that a machine that is busy is busy for both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # one thread in the user's NumPy: less noise in both engines
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np

import edfcore as edf
import numpy_edf
from numpy_nodes import make_nodes

US = 1e6
GOAL_NODE_US = 1.5
GOAL_HOST_PERCENT = 10.0
SECONDS_PER_REPEAT = 0.2


Figure = tuple[float, float]  # median and best, in microseconds


def repeated(repeats: int, timed: Callable[[], float], n: int) -> Figure:
    """Time `n` of something `repeats` times after a warm-up; microseconds for one of them."""
    timed()
    seconds = [timed() / n * US for _ in range(repeats)]
    return statistics.median(seconds), min(seconds)


def clock(call: Callable[[], Any]) -> float:
    start = time.thread_time()  # of this thread alone: what other processes take does not count
    call()
    return time.thread_time() - start


# Making nodes


def making(repeats: int, n: int = 3000) -> dict[str, Figure]:
    """Make objects of each kind, garbage collection included."""
    value = np.ones((2, 2), np.float32)

    def timed(make: Callable[[], Any]) -> float:
        seconds = clock(lambda: [make() for _ in range(n)])
        edf.clear_compgraph()
        return seconds

    x, y, Phi = edf.Input(value), edf.Input(np.zeros(2, int)), edf.AffineParams(2, 2)
    Q = edf.Softmax(x)
    kinds: dict[str, Callable[[], Any]] = {
        "(an empty function)": lambda: None,
        "Relu(x)": lambda: edf.Relu(x),
        "Add(x, x)": lambda: edf.Add(x, x),
        "LogLoss(Q, y)": lambda: edf.LogLoss(Q, y),
        "Affine(Phi, x)": lambda: edf.Affine(Phi, x),
        "Sum(x, axis=1)": lambda: edf.Sum(x, axis=1),
        "ops.relu(x)": lambda: edf.ops.relu(x),
        "Input()": edf.Input,
        "Parameter(array)": lambda: edf.Parameter(value),
    }
    return {name: repeated(repeats, lambda make=make: timed(make), n) for name, make in kinds.items()}


# Running tiny nodes


def running(repeats: int, n: int = 2000) -> dict[str, Figure]:
    """Run the three calls over a chain of tiny nodes, and single eager ops."""
    edf.clear_compgraph()
    p = edf.Parameter(np.ones(1))
    node = p
    for _ in range(n):
        node = edf.Relu(node)
    edf.Forward()
    found = {
        "Forward, per node": repeated(repeats, lambda: clock(edf.Forward), n),
        "Backward, per node": repeated(repeats, lambda: clock(lambda: edf.Backward(node)), n),
    }
    edf.clear_compgraph()
    parameters = [edf.Parameter(np.ones(1)) for _ in range(n)]
    for p in parameters:
        p.grad = np.ones(1)
    found["SGD, per parameter"] = repeated(repeats, lambda: clock(edf.SGD), n)
    edf.clear_compgraph()

    def eager(call: Callable[[], Any]) -> Figure:
        def run() -> None:
            for _ in range(n):
                call()

        return repeated(repeats, lambda: clock(run), n)

    x, t, g = edf.Input(np.ones(1)), edf.Tensor(np.ones(1, np.float32)), edf.Tensor([1.0], requires_grad=True)
    found["eager ops.relu(t)"] = eager(lambda: edf.ops.relu(t))
    found["eager t + t"] = eager(lambda: t + t)
    found["eager t + t, with gradient"] = eager(lambda: g + g)
    found["array of a value, x.value"] = eager(lambda: x.value)
    return found


# Nodes written in NumPy


def own_nodes(module: Any, batch: int, width: int, layers: int) -> Any:
    """Make a residual network of which every node is the user's; return its loss."""
    np_, random = make_nodes(module), np.random.default_rng(0)
    x, y = module.Input(), module.Input()

    def package(w: Any, b: Any) -> Any:
        Phi = module.ParameterPackage()
        Phi.w, Phi.b = module.Parameter(w), module.Parameter(b)
        return Phi

    h = x
    for _ in range(layers):
        weights = package(random.normal(size=(width, width)) / width**0.5, np.zeros(width))
        a = np_.LayerNorm(package(np.ones(width), np.zeros(width)), np_.Linear(weights, h))
        h = np_.Softmax(np_.Scale(a, 2.0))
    x.value = random.normal(size=(batch, width)).astype(np.float32)
    y.value = random.integers(0, width, batch)
    return np_.LogLoss(h, y)


def host(repeats: int, batch: int, width: int, layers: int = 4) -> dict[str, float]:
    """One training step of such a network on both engines in turns, and how much longer ours takes."""
    runs = {}
    for module in (edf, numpy_edf):
        module.clear_compgraph()
        module.DT, module.learning_rate = np.float32, 1e-3
        loss = own_nodes(module, batch, width, layers)
        runs[module] = (loss, module.CompNodes, module.Parameters)

    def step(module: Any) -> float:
        loss, module.CompNodes, module.Parameters = runs[module]
        start = time.perf_counter()
        module.Forward()
        module.Backward(loss)
        module.SGD()
        return time.perf_counter() - start

    times: dict[Any, list[float]] = {edf: [], numpy_edf: []}
    start, warm_up = time.perf_counter(), 20
    while len(times[edf]) < warm_up + 20 or time.perf_counter() - start < repeats * SECONDS_PER_REPEAT:
        for module in (edf, numpy_edf) if len(times[edf]) % 2 else (numpy_edf, edf):
            times[module].append(step(module))
    nodes = len(runs[edf][1])
    ours, theirs = times[edf][warm_up:], times[numpy_edf][warm_up:]
    ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
    for module in (edf, numpy_edf):
        module.clear_compgraph()
    return {
        "nodes": nodes,
        "work_us": theirs_s / (2 * nodes) * US,
        "numpy_us": theirs_s * US,
        "edfcore_us": ours_s * US,
        "slower_percent": 100 * (ours_s / theirs_s - 1),
        "slower_percent_best": 100 * (min(ours) / min(theirs) - 1),
        "steps": len(ours),
    }


SIZES = [(2, 8), (8, 32), (16, 48), (64, 64)]  # batch and width: from almost no work in a node to much


def main() -> int:
    parser = argparse.ArgumentParser(description="What the engine costs beside the arithmetic.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()

    made, ran = making(options.repeats), running(options.repeats)
    for title, figures in (("making one object, us", made), ("running tiny ones, us", ran)):
        print(f"{title:<34}{'median':>8}{'best':>8}")
        for name, (median, best) in figures.items():
            goal = f"   goal {GOAL_NODE_US}" if name == "Relu(x)" else ""
            print(f"  {name:<32}{median:>8.2f}{best:>8.2f}{goal}")
    print("nodes written in NumPy, one training step, against the NumPy EDF; medians")
    print(
        f"  {'batch':>5} {'width':>5} {'nodes':>5} {'us/method':>10} {'NumPy us':>10} {'ours us':>10} {'slower':>8}"
    )
    hosts = []
    for batch, width in SIZES:
        row = {"batch": batch, "width": width, **host(options.repeats, batch, width)}
        hosts.append(row)
        goal = f"   goal {GOAL_HOST_PERCENT:.0f} %" if row["work_us"] > 20 else ""
        print(
            f"  {batch:>5} {width:>5} {row['nodes']:>5} {row['work_us']:>10.1f} {row['numpy_us']:>10.0f} "
            f"{row['edfcore_us']:>10.0f} {row['slower_percent']:>6.1f} %"
            f" (best of each: {row['slower_percent_best']:.1f} %){goal}"
        )
    if options.json:
        about = {
            "edfcore": edf.__version__, "python": platform.python_version(), "numpy": np.__version__,
            "machine": platform.machine(), "cores": os.cpu_count(), "threads": edf.get_num_threads(),
            "repeats": options.repeats,
        }  # fmt: skip
        options.json.write_text(
            json.dumps({"about": about, "making_us": made, "running_us": ran, "host": hosts}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
