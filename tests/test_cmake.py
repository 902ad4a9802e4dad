"""What the switch EDFCORE_CUDA chooses, and for which GPUs, as CMake says when it configures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if not (ROOT / "CMakeLists.txt").exists():
    pytest.skip("needs the source tree", allow_module_level=True)

OPTIONS = ["-DEDFCORE_BUILD_PYTHON=OFF", "-DEDFCORE_MULTI_ISA=OFF", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")


def tool(name: str) -> str | None:
    """Where a program is: beside this Python, or on the PATH."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))


def configured(build: Path, *options: str, **env: str | None) -> tuple[int, str]:
    """Configure, with a variable of the environment removed where it is None; the exit status, and what was said."""
    cmake = tool("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    words = [cmake, "-S", str(ROOT), "-B", str(build), *OPTIONS, *options]
    if ninja := tool("ninja"):
        words += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    words += [f"-DCMAKE_CXX_COMPILER={shutil.which('c++') or 'c++'}"]
    launchers = dict.fromkeys(
        ("CMAKE_CXX_COMPILER_LAUNCHER", "CMAKE_CUDA_COMPILER_LAUNCHER")
    )  # need not be found
    settings = os.environ | launchers | {"CUDAARCHS": None} | env
    kept = {k: v for k, v in settings.items() if v is not None}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=kept)
    return done.returncode, done.stdout + done.stderr


def said(log: str) -> list[str]:
    """The lines that are edfcore's own."""
    return [line for line in log.splitlines() if line.startswith("-- edfcore: ")]


def without_nvcc(tmp_path: Path) -> dict[str, str | None]:
    """An environment whose PATH has what a build needs, and no nvcc."""
    if tool("cmake") is None:
        pytest.skip("needs cmake")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (
        "cmake",
        "ninja",
        "c++",
        "g++",
        "gcc",
        "cc",
        "ar",
        "ranlib",
        "ld",
        "as",
        "nm",
        "strip",
        "sh",
    ):
        if found := tool(name):
            (folder / name).symlink_to(found)
    if b"/env " in (folder / "cmake").read_bytes().split(b"\n", 1)[0]:
        pytest.skip("cmake is a script here whose interpreter is on the PATH")
    return {"PATH": str(folder), "CUDACXX": None, "CUDA_PATH": None, "CUDA_HOME": None}


def architectures(build: Path) -> set[tuple[str, str]]:
    """For every kernel file the same: (virtual, real) as nvcc is told, where the real one may be PTX."""
    commands = json.loads((build / "compile_commands.json").read_text())
    kernels = [c["command"] for c in commands if c["file"].endswith(".cu")]
    assert kernels
    found = []
    for command in kernels:
        pairs = set()
        for virtual, codes in re.findall(r"--generate-code=arch=compute_(\w+),code=\[?([\w,]+)\]?", command):
            pairs |= {(virtual, code) for code in codes.split(",")}
        found.append(pairs)
    assert all(pairs == found[0] for pairs in found)
    return found[0]


def test_on_without_nvcc_fails_and_says_what_to_do(tmp_path: Path) -> None:
    env = without_nvcc(tmp_path)
    code, log = configured(tmp_path / "build", "-DEDFCORE_CUDA=ON", **env)
    assert code != 0
    words = " ".join(log.split())
    assert "EDFCORE_CUDA is ON, and no nvcc was found: put it on the PATH, or name it by" in words
    assert said(log) == []


def test_auto_without_nvcc_says_so_in_one_line(tmp_path: Path) -> None:
    env = without_nvcc(tmp_path)
    code, log = configured(tmp_path / "build", "-DEDFCORE_CUDA=AUTO", **env)
    assert code == 0, log
    assert said(log) == ["-- edfcore: built without CUDA, since no nvcc was found (EDFCORE_CUDA=AUTO)"]


@needs_nvcc
@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="a GPU is here")
def test_auto_without_a_gpu_says_so_in_one_line(tmp_path: Path) -> None:
    code, log = configured(tmp_path / "build", "-DEDFCORE_CUDA=AUTO")
    assert code == 0, log
    assert said(log) == [
        "-- edfcore: built without CUDA, since no GPU is visible and no architecture was named (EDFCORE_CUDA=AUTO)"
    ]


@needs_nvcc
def test_auto_takes_the_architectures_that_are_named(tmp_path: Path) -> None:
    build = tmp_path / "build"
    code, log = configured(build, "-DEDFCORE_CUDA=AUTO", CUDAARCHS="80-real;90a")
    assert code == 0, log
    assert len(said(log)) == 1
    assert re.fullmatch(
        r"-- edfcore: built with CUDA [\d.]+ for architectures 80-real;90a \(EDFCORE_CUDA=AUTO, and they were named\)",
        said(log)[0],
    )
    assert architectures(build) == {("80", "sm_80"), ("90a", "sm_90a"), ("90a", "compute_90a")}


@needs_nvcc
def test_a_release_is_for_every_gpu_since_turing(tmp_path: Path) -> None:
    build = tmp_path / "build"
    code, log = configured(build, "-DEDFCORE_CUDA=ON")
    assert code == 0, log
    assert len(said(log)) == 1
    found = architectures(build)
    assert {real for _, real in found if real.startswith("sm_")} == {
        f"sm_{n}" for n in (75, 80, 86, 89, 90, 100, 120)
    }
    assert {real for _, real in found if real.startswith("compute_")} == {"compute_120"}, "one PTX"


@needs_nvcc
def test_native_is_left_to_nvcc(tmp_path: Path) -> None:
    build = tmp_path / "build"
    code, log = configured(build, "-DEDFCORE_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native")
    if code != 0:  # some versions of CMake ask for a GPU at once
        assert "native" in log, log
        return
    assert "-arch=native" in (build / "compile_commands.json").read_text()
    assert "architectures native (" in said(log)[0]


def test_unknown_choices_fail(tmp_path: Path) -> None:
    code, log = configured(tmp_path / "build", "-DEDFCORE_CUDA=MAYBE")
    assert code != 0
    assert "EDFCORE_CUDA is 'MAYBE': use AUTO, ON, OFF or SIM" in log
