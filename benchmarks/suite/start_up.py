"""What it costs to begin: importing each framework in a new process; and the figures of overhead.py."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite.limits import Limits
from suite.peers import BENCHMARKS, environment
from suite.rows import Row
from suite.schedule import Clock, figures, with_ratios

Record = dict[str, Any]
MODULES = {"edfcore": "edfcore", "numpy": "numpy", "torch": "torch", "jax": "jax.numpy",
           "sklearn": "sklearn.neural_network"}  # fmt: skip
TIMED = (
    "from time import perf_counter as t; a = t(); import {}; a = t() - a; import {}; print(a, {}.__version__)"
)
ROUNDS = 7


def imports(peers: Sequence[str], threads: int, clock: Clock) -> list[Record]:
    """Each module in turns; what a first import reads from the disk is not counted."""
    row = Row("overhead", "import", "import", "in a new process", {})
    us: dict[str, list[float]] = {who: [] for who in MODULES if who == "edfcore" or who in peers}
    records = {who: {"suite": row.suite, "name": row.name, "shape": row.shape, "op": row.op, "size": 0.0, "who": who,
                     "tolerance": None, "error": None, "memory_bytes": None} for who in us}  # fmt: skip
    for turn in range(ROUNDS + 1):
        for who in list(us):
            if turn > 2 and clock.left() <= 0:
                break
            done = subprocess.run(
                [sys.executable, "-c", TIMED.format(MODULES[who], who, who)],
                env=environment(threads), capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            if done.returncode:
                records[who] |= {"status": "missing", "reason": done.stderr.strip().splitlines()[-1]}
                del us[who]
            elif turn:
                seconds, records[who]["version"] = done.stdout.split()
                us[who].append(float(seconds) * 1e6)
    for who, found in us.items():
        records[who] |= {"status": "ok", **figures(row, found, Limits())}
    return with_ratios(list(records.values()))


def engine(clock: Clock, repeats: int = 5) -> dict[str, Any]:
    """Run overhead.py in a process of its own, and return its document."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overhead.json"
        command = [
            sys.executable,
            str(BENCHMARKS / "overhead.py"),
            "--json",
            str(path),
            "--repeats",
            str(repeats),
        ]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=clock.left(), env=environment(1)
            )
        except subprocess.TimeoutExpired:
            return {"note": "there was no time for it"}
        except subprocess.CalledProcessError as error:
            return {"note": f"it failed: {error.stderr.strip().splitlines()[-1]}"}
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def engine_text(found: dict[str, Any]) -> str:
    """Its figures in lines."""
    if "note" in found:
        return f"overhead.py: {found['note']}"
    lines = ["overhead.py, us: median (best)"]
    for part in ("making_us", "running_us"):
        lines += [f"  {name:<32}{median:>9.2f} ({best:.2f})" for name, (median, best) in found[part].items()]
    lines += [
        f"  a step of {h['nodes']} nodes in NumPy, batch {h['batch']} width {h['width']}: {h['edfcore_us']:.0f}, "
        f"on the NumPy EDF {h['numpy_us']:.0f}"
        for h in found["host"]
    ]
    return "\n".join(lines)
