"""What the engine costs beside the arithmetic: making nodes, running tiny ones, and running the user's own.

    python benchmarks/overhead.py [--json FILE] [--repeats 15]

Every figure is a median over repeats. Graphs of nodes written in NumPy run on the engine and on the NumPy EDF of the
tests in turns, in one process, so that a machine that is busy is busy for both.
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


def median_of(repeats: int, timed: Callable[[], float]) -> float:
    timed()
    return statistics.median(timed() for _ in range(repeats))


def clock(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# Making nodes


def making(repeats: int, n: int = 3000) -> dict[str, float]:
    """Microseconds to make one object of each kind, garbage collection included."""
    value = np.ones((2, 2), np.float32)

    def timed(make: Callable[[], Any]) -> float:
        def run() -> None:
            for _ in range(n):
                make()

        seconds = clock(run)
        edf.clear_compgraph()
        return seconds / n * US

    x, y, Phi = edf.Input(value), edf.Input(np.zeros(2, int)), edf.AffineParams(2, 2)
    Q = edf.Softmax(x)
    kinds: dict[str, Callable[[], Any]] = {
        "Relu(x)": lambda: edf.Relu(x),
        "Add(x, x)": lambda: edf.Add(x, x),
        "LogLoss(Q, y)": lambda: edf.LogLoss(Q, y),
        "Affine(Phi, x)": lambda: edf.Affine(Phi, x),
        "Sum(x, axis=1)": lambda: edf.Sum(x, axis=1),
        "ops.relu(x)": lambda: edf.ops.relu(x),
        "Input()": edf.Input,
        "Parameter(array)": lambda: edf.Parameter(value),
    }
    empty = median_of(repeats, lambda: timed(lambda: None))
    return {name: median_of(repeats, lambda make=make: timed(make)) - empty for name, make in kinds.items()}


# Running tiny nodes


def running(repeats: int, n: int = 2000) -> dict[str, float]:
    """Microseconds per node of the three calls over a chain of tiny nodes, and of one eager op."""
    edf.clear_compgraph()
    p = edf.Parameter(np.ones(1))
    node = p
    for _ in range(n):
        node = edf.Relu(node)
    edf.Forward()
    found = {
        "Forward, per node": median_of(repeats, lambda: clock(edf.Forward)) / n * US,
        "Backward, per node": median_of(repeats, lambda: clock(lambda: edf.Backward(node))) / n * US,
    }
    edf.clear_compgraph()
    parameters = [edf.Parameter(np.ones(1)) for _ in range(n)]
    for p in parameters:
        p.grad = np.ones(1)
    found["SGD, per parameter"] = median_of(repeats, lambda: clock(edf.SGD)) / n * US
    edf.clear_compgraph()

    def eager(call: Callable[[], Any]) -> float:
        def run() -> None:
            for _ in range(n):
                call()

        return median_of(repeats, lambda: clock(run)) / n * US

    t, g = edf.Tensor(np.ones(1, np.float32)), edf.Tensor([1.0], requires_grad=True)
    found["eager ops.relu(t)"] = eager(lambda: edf.ops.relu(t))
    found["eager t + t"] = eager(lambda: t + t)
    found["eager t + t, with gradient"] = eager(lambda: g + g)
    found["array of a value, x.value"] = eager(lambda x=edf.Input(np.ones(1)): x.value)
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

    ours, theirs = [], []
    for i in range(repeats * 40):
        for module in (edf, numpy_edf) if i % 2 else (numpy_edf, edf):
            (ours if module is edf else theirs).append(step(module))
    nodes = len(runs[edf][1])
    ours_s, theirs_s = statistics.median(ours[20:]), statistics.median(theirs[20:])
    for module in (edf, numpy_edf):
        module.clear_compgraph()
    return {
        "nodes": nodes,
        "work_us": theirs_s / (2 * nodes) * US,
        "numpy_us": theirs_s * US,
        "edfcore_us": ours_s * US,
        "slower_percent": 100 * (ours_s / theirs_s - 1),
    }


SIZES = [(8, 32), (64, 64), (128, 128), (256, 256)]


def main() -> int:
    parser = argparse.ArgumentParser(description="What the engine costs beside the arithmetic.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()

    made = making(options.repeats)
    print(f"{'making one object':<34}{'us':>8}")
    for name, us in made.items():
        print(f"  {name:<32}{us:>8.2f}{'' if name != 'Relu(x)' else f'   goal {GOAL_NODE_US}'}")
    ran = running(options.repeats)
    print(f"{'running tiny ones':<34}{'us':>8}")
    for name, us in ran.items():
        print(f"  {name:<32}{us:>8.2f}")
    print("graphs of nodes written in NumPy, one training step, against the NumPy EDF")
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
            f"{row['edfcore_us']:>10.0f} {row['slower_percent']:>6.1f} %{goal}"
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
