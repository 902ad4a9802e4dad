"""C++ programs on the simulated CUDA device, compiled from the sources without CMake: what tests of them share."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O0", "-g"]


@dataclass
class Build:
    program: Path | None
    log: str

    def run(self, *cases: str, seed: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        if self.program is None:
            pytest.skip(self.log)
        settings = {"EDFCORE_SIM_SEED": str(seed), "ASAN_OPTIONS": "detect_leaks=0", **env}
        return subprocess.run(
            [self.program, *cases],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | settings,
        )


def compiled(compiler: str, folder: Path, flags: list[str], *own: str) -> Build:
    """One command, as a reader would type it; the host compiler is told that .cu files are C++."""
    program = folder / "program"
    sources = [
        *sorted((CSRC / "device/sim").glob("*.cpp")),
        *sorted((CSRC / "device").glob("*.cu")),
        *(ROOT / source for source in own),
    ]
    command = [*compiler.split(), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", *flags]
    command += ["-ffp-contract=off", "-DEDFCORE_SIM", "-DEDFCORE_HAS_CUDA", "-DEDF_ISA=cuda", f"-I{CSRC}"]
    command += ["-x", "c++", *map(str, sources), "-o", str(program)]
    made = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
    )
    return Build(program if made.returncode == 0 else None, made.stderr)


def host_compiler() -> str:
    """The C++ compiler of this machine; skips the test where there is none."""
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if found is None:
        pytest.skip("no C++ compiler was found ($CXX, g++ or c++)")
    return found


def plain_and_sanitized(made: pytest.TempPathFactory, *own: str) -> tuple[Build, Build]:
    """Compile sources, beside those of the device, without and with sanitizers."""
    compiler = host_compiler()
    with ThreadPoolExecutor(2) as both:
        jobs = [both.submit(compiled, compiler, made.mktemp("sim"), f, *own) for f in ([], SANITIZE)]
        plain, sanitized = (job.result() for job in jobs)
    assert plain.program is not None, plain.log
    if sanitized.program is None:
        # Some machines have a compiler without the sanitizers' libraries.
        assert "san" in sanitized.log, sanitized.log
        sanitized.log = "this compiler links no sanitizers: " + sanitized.log[-200:]
    return plain, sanitized
