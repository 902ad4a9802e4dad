"""What the machine can do with so many threads, measured when a run starts: the yardstick of every row."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import log
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "cpp" / "machine.cpp"


@dataclass
class Limits:
    """Peak of fused multiply-adds, and bandwidth of copies by elements; None and empty with a reason if unknown."""

    threads: int = 1
    fma_gflops: float | None = None
    copy_gb_per_s: dict[int, float] = field(default_factory=dict)
    reason: str = ""
    matmul_gflops: dict[str, float] = field(
        default_factory=dict
    )  # what frameworks reach, to compare with the peak

    def copy_at(self, moved: float) -> float | None:
        """The bandwidth of the copy that moves most nearly as many bytes."""
        if not self.copy_gb_per_s or moved <= 0:
            return None
        return self.copy_gb_per_s[min(self.copy_gb_per_s, key=lambda n: abs(log(8 * n / moved)))]

    def least_us(self, flops: float, moved: float) -> float | None:
        """The time below which no program can be: of its arithmetic, or of its memory, whichever is longer."""
        copy = self.copy_at(moved)
        times = [flops / self.fma_gflops * 1e-3] if flops and self.fma_gflops else []
        times += [moved / copy * 1e-3] if copy else []
        return max(times, default=None)

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


def measure(threads: int, seconds: float = 60.0) -> Limits:
    """Compile a program in a folder that goes away again, and run it."""
    compiler = next(
        (c for c in (os.environ.get("CXX"), "g++", "c++", "clang++") if c and shutil.which(c)), None
    )
    if compiler is None:
        return Limits(threads, reason="there is no C++ compiler to measure it with")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "machine"
        flags = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
        try:
            run([compiler, *flags, str(SOURCE), "-o", str(program)], seconds)
            found = json.loads(run([str(program), str(threads)], seconds))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            words = (getattr(error, "stderr", "") or str(error)).replace(folder, "").splitlines()
            return Limits(
                threads, reason=f"measuring it failed: {words[0] if words else type(error).__name__}"
            )
    copies = {int(n): float(rate) for n, rate in found["copy_gb_per_s"].items()}
    return Limits(threads, float(found["fma_gflops"]), copies)


def run(words: Sequence[str], seconds: float) -> str:
    """What a command prints."""
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=seconds)
    return done.stdout


def cores() -> list[int]:
    """The processors that this process may use, one of each core first."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    allowed, seen = sorted(os.sched_getaffinity(0)), set[str]()
    first: list[int] = []
    second: list[int] = []
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings = path.read_text().strip() if path.exists() else str(cpu)
        (second if siblings in seen else first).append(cpu)
        seen.add(siblings)
    return first + second


def pin(threads: int) -> list[int]:
    """Keep this process, and those that it will start, on so many cores: then nobody can use more threads."""
    chosen = cores()[:threads]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, chosen)
    return chosen
