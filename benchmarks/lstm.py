"""A character LSTM, written node by node and rebuilt for every minibatch, beside the same program on the NumPy EDF.

    python benchmarks/lstm.py [--json FILE] [--minibatches 12] [--batch 1 20]

One layer of 200 units over 100 steps, about 2,600 nodes. Each engine runs in a process of its own, the NumPy EDF once
with one and once with two threads of its BLAS, in turns; what is reported are medians over minibatches, and the ratio
to the faster of the two. `find` is what it costs to find the plan of a rebuilt graph again, `compile` what it costs to
make one, both by node of the graph.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CLASSES, WIDTH, EMBEDDING, STEPS = 64, 200, 64, 100


def run(engine: str, batch: int, minibatches: int) -> dict[str, Any]:
    """Train in this process; return the seconds of each minibatch after the first four, and what was learnt."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import numpy as np

    import lstm_program

    if engine == "edfcore":
        import edfcore as edf

        nodes: Any = lstm_program.engine_nodes(edf)
    else:
        edf = importlib.import_module("numpy_edf")

        nodes = lstm_program.NUMPY_NODES
    edf.learning_rate = 0.01
    net = lstm_program.CharacterLSTM(edf, nodes, CLASSES, WIDTH, EMBEDDING)
    random = np.random.default_rng(1)
    text = random.integers(0, CLASSES, (minibatches + 4, STEPS + 1, batch))
    seconds, losses, building = [], [], []
    for some in text:
        begin = time.perf_counter()
        losses.append(net.step(some))
        seconds.append(time.perf_counter() - begin)
    for some in text[:5]:
        begin = time.perf_counter()
        net.build(some)
        building.append(time.perf_counter() - begin)
    found: dict[str, Any] = {
        "seconds": statistics.median(seconds[4:]), "best": min(seconds[4:]), "losses": losses[:3],
        "building": statistics.median(building), "nodes": len(edf.CompNodes),
    }  # fmt: skip
    if engine == "edfcore":
        found |= {"plans": edf.plan_stats(), "third": seconds[2]}
        finding = []
        for some in text[:9]:
            edf.memory_stats()  # finishes the step before, as `step` does, which looks at its loss
            loss = net.build(some)
            begin = time.perf_counter()
            edf.Forward()
            finding.append(time.perf_counter() - begin)
            edf.Backward(loss)
            edf.SGD()
        found["find_us_a_node"] = statistics.median(finding) / found["nodes"] * 1e6
        edf.plan(loss)
        begin = time.perf_counter()
        edf.plan(loss)
        found["compile_us_a_node"] = (time.perf_counter() - begin) / found["nodes"] * 1e6
    return found


def measured(engine: str, threads: int, batch: int, minibatches: int) -> dict[str, Any]:
    env = dict(os.environ, OPENBLAS_NUM_THREADS=str(threads), EDFCORE_NUM_THREADS=str(threads))
    command = [
        sys.executable,
        __file__,
        "--engine",
        engine,
        "--batch",
        str(batch),
        "--minibatches",
        str(minibatches),
    ]
    made = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(made.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--minibatches", type=int, default=12)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--engine", choices=["edfcore", "numpy"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(run(options.engine, options.batch[0], options.minibatches)))
        return
    table = []
    for batch in options.batch:
        runs = {
            f"{engine}, {threads} threads": measured(engine, threads, batch, options.minibatches)
            for engine in ("numpy", "edfcore")
            for threads in (1, 2)
        }
        ours = min(r["seconds"] for name, r in runs.items() if name.startswith("edfcore"))
        theirs = min(r["seconds"] for name, r in runs.items() if name.startswith("numpy"))
        table.append({"batch": batch, "ratio": theirs / ours, **runs})
        for name, r in runs.items():
            print(
                f"batch {batch:3}  {name:20} {r['seconds'] * 1e3:8.1f} ms (best {r['best'] * 1e3:.1f})  {r}"
            )
        print(f"batch {batch:3}  NumPy EDF / edfcore: {theirs / ours:.2f}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
