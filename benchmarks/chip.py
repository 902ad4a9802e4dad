"""Sections of device.py that measure the chip and its peers by programs of their own, beside the engine.

What the chip gives (cpp/limits.cu) and what the large frameworks reach on it (peers.py) are the yardsticks for every
figure of the engine; cpp/hopper_matmul.cu and cpp/simt_matmul.cu prove on hardware the kernels that the engine's matmul
is to become, and cpp/rows.cu the choices of its kernels for rows, scattered sums and columns.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence import ROOT, OutOfTimeError, Run

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


def parsed(text: str) -> Any:
    """What JSON at the beginning of a text holds, of C's nan and inf nothing; None where there is none."""
    text = re.sub(r"(?<=[:,\[\s])-?(?:nan|inf)(?=[,}\]\s])", "null", text)
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except ValueError:
        return None


def parsed_lines(text: str) -> list[dict[str, Any]]:
    """The rows among the lines that a program has printed. A line that was cut is none."""
    found = [parsed(line) for line in text.splitlines() if line.startswith("{")]
    return [row for row in found if isinstance(row, dict)]


def printed(run: Run, words: Sequence[str | Path], seconds: float) -> tuple[str, dict[str, str]]:
    """What a program prints, cut short or not; and a note where it did not end well."""
    try:
        done = run.command(words, seconds)
    except OutOfTimeError as error:
        if not error.output:
            raise
        return error.output, {"note": str(error)}
    if done.code == 0:
        return done.output, {}
    return done.output, {"note": f"ended with status {done.code}: {run.clean(done.output, 500)}"}


def limits(run: Run) -> dict[str, Any]:
    """What the chip gives: bandwidth, arithmetic, and what launches, barriers and copies cost."""
    program = compiled(run, CPP / "limits.cu")
    output, note = printed(run, [program], min(75.0, run.budget.left()))
    result = parsed("{" + f"\n{output}".partition("\n{")[2])
    if not isinstance(result, dict):
        raise RuntimeError(run.clean(output))
    return {**result, **note}


def peers(run: Run) -> dict[str, Any]:
    """What torch, JAX, CuPy and Triton reach, most important rows first."""
    program = ROOT / "benchmarks" / "peers.py"
    return run.figures([sys.executable, program], run.scratch / "peers.json", run.share())


def hopper(run: Run) -> dict[str, Any]:
    """Check and time the matmul on Hopper's tensor cores: rows as the program prints them."""
    if not run.document["environment"]["gpu"].get("compute_cap", "").startswith("9."):
        return {"note": "not run: needs a GPU of compute capability 9"}
    path = run.scratch / "hopper_matmul.jsonl"
    path.unlink(missing_ok=True)
    program = compiled(run, CPP / "hopper_matmul.cu")
    seconds = min(90.0, run.share())
    words: list[str | Path] = [
        "bash",
        CPP / "hopper_matmul.sh",
        path,
        f"{max(1.0, seconds - 30):.0f}",
        program,
    ]
    output, note = printed(run, words, seconds)
    found = parsed_lines(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else []
    if not found:
        raise RuntimeError(run.clean(output))
    return {"rows": found, "summary": run.clean(output), **note}


def beside_the_engine(run: Run, source: str, most: float) -> dict[str, Any]:
    """Run a program that is compiled with the engine's own kernels: rows as it prints them."""
    program = compiled(run, CPP / source, "-fmad=false", "-DEDF_ISA=cuda", f"-I{ROOT / 'csrc'}")
    seconds = min(most, run.share())
    output, note = printed(run, [program, f"{max(1.0, seconds - 10):.0f}"], seconds)
    found = parsed_lines(output)
    if not any(row.get("row") == "time" for row in found):
        raise RuntimeError(run.clean(output))
    return {"rows": found, **note}


def simt(run: Run) -> dict[str, Any]:
    """Check and time tilings of the SIMT matmul beside the engine's own."""
    return beside_the_engine(run, "simt_matmul.cu", 60.0)


def rows(run: Run) -> dict[str, Any]:
    """Check and time the kernels for rows, scattered sums and columns beside others that the engine may take."""
    return beside_the_engine(run, "rows.cu", 50.0)
