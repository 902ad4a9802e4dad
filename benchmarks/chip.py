"""Sections of device.py that measure the chip and its peers by programs of their own, beside the engine.

What the chip gives (cpp/limits.cu) and what the large frameworks reach on it (peers.py) are the yardsticks for every
figure of the engine; cpp/hopper_matmul.cu and cpp/simt_matmul.cu prove on hardware the kernels that the engine's matmul
is to become, and cpp/rows.cu the choices of its kernels for rows, scattered sums and columns.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from evidence import ROOT, Run

CPP = ROOT / "benchmarks" / "cpp"


def architecture(compute_capability: str) -> str:
    """CMake's name for a chip: 90a for 9.0, whose own instructions need the letter; 86 for 8.6."""
    major, _, minor = compute_capability.partition(".")
    return f"{major}{minor}a" if int(major) >= 9 else f"{major}{minor}"


def compiled(run: Run, source: Path, *flags: str) -> Path:
    """Compile one CUDA program for the GPU that is here."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise RuntimeError("nvcc is not on the path")
    number = architecture(run.document["environment"]["gpu"]["compute_cap"])
    program = run.scratch / source.stem
    words = [
        nvcc,
        "-O3",
        "-std=c++20",
        f"-gencode=arch=compute_{number},code=sm_{number}",
        "-split-compile=0",
        *flags,
    ]
    done = run.command([*words, "-o", program, source], run.budget.left())
    if done.code != 0:
        raise RuntimeError(run.clean(done.output))
    return program


def limits(run: Run) -> dict[str, Any]:
    """What the chip gives: bandwidth, arithmetic, and what launches, barriers and copies cost."""
    program = compiled(run, CPP / "limits.cu")
    done = run.command([program], min(75.0, run.budget.left()))
    start = done.output.find("\n{")
    if done.code != 0 or start < 0:
        raise RuntimeError(run.clean(done.output))
    result: dict[str, Any] = json.JSONDecoder().raw_decode(done.output[start + 1 :])[0]
    return result


def peers(run: Run) -> dict[str, Any]:
    """What torch, JAX, CuPy and Triton reach, most important rows first, in half of the time that is left."""
    seconds, path = run.budget.share(0.5), run.scratch / "peers.json"
    program = ROOT / "benchmarks" / "peers.py"
    return run.figures(
        [sys.executable, program, "--seconds", f"{seconds - 20:.0f}", "--out", path], path, seconds
    )


def hopper(run: Run) -> dict[str, Any]:
    """Check and time the matmul on Hopper's tensor cores: rows as the program prints them."""
    if not run.document["environment"]["gpu"].get("compute_cap", "").startswith("9."):
        return {"note": "not run: needs a GPU of compute capability 9"}
    path = run.scratch / "hopper_matmul.jsonl"
    path.unlink(missing_ok=True)
    program = compiled(run, CPP / "hopper_matmul.cu")
    seconds = min(60.0, run.budget.left() - 30)
    done = run.command(["bash", CPP / "hopper_matmul.sh", path, f"{seconds:.0f}", program], run.budget.left())
    if not path.exists():
        raise RuntimeError(run.clean(done.output))
    printed = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    return {"rows": printed, "summary": run.clean(done.output)}


def beside_the_engine(run: Run, source: str, most: float) -> dict[str, Any]:
    """Run a program that is compiled with the engine's own kernels: rows as it prints them."""
    program = compiled(run, CPP / source, "-fmad=false", "-DEDF_ISA=cuda", f"-I{ROOT / 'csrc'}")
    seconds = min(most, run.budget.left())
    done = run.command([program, f"{max(1.0, seconds - 10):.0f}"], seconds)
    printed = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    if not any(row["row"] == "time" for row in printed):
        raise RuntimeError(run.clean(done.output))
    return {"rows": printed}


def simt(run: Run) -> dict[str, Any]:
    """Check and time tilings of the SIMT matmul beside the engine's own."""
    return beside_the_engine(run, "simt_matmul.cu", 60.0)


def rows(run: Run) -> dict[str, Any]:
    """Check and time the kernels for rows, scattered sums and columns beside others that the engine may take."""
    return beside_the_engine(run, "rows.cu", 50.0)
