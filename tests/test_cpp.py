"""An outside C++ program finds an installed edfcore by find_package, builds against it, and computes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONSUMER = Path(__file__).parent / "cpp" / "consumer"


def tool(*names: str) -> str:
    """Find one of these programs, or skip the test."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"needs {' or '.join(names)}")


def call(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the C++ library without Python and CUDA."""
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("needs the source tree")
    cmake, ninja = tool("cmake"), tool("ninja", "ninja-build")
    tool("c++", "g++", "clang++")
    build = tmp_path_factory.mktemp("build")
    call(
        cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-S", ROOT, "-B", build,
        "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0",  # quick to build, and that is all it is for
        "-DEDFCORE_CUDA=OFF", "-DEDFCORE_BUILD_PYTHON=OFF", "-DEDFCORE_MULTI_ISA=OFF",
    )  # fmt: skip
    call(cmake, "--build", build)
    return build


@pytest.fixture(scope="module")
def prefix(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install what C++ programs get."""
    installed = tmp_path_factory.mktemp("prefix")
    call(tool("cmake"), "--install", built, "--component", "cpp", "--prefix", installed)
    return installed


def test_what_is_installed(prefix: Path) -> None:
    files = {path.relative_to(prefix).as_posix() for path in prefix.rglob("*") if path.is_file()}
    headers = {name for name in files if name.endswith(".h")}
    assert {"include/edfcore/graph/node.h", "include/edfcore/ops/ops.h"} <= headers
    assert not any("/sim/" in name or "/bindings/" in name for name in headers)
    assert not any(name.endswith((".cpp", ".cu", ".py")) for name in files)
    assert any(name.endswith("cmake/edfcore/edfcore-config.cmake") for name in files)
    assert any(name.endswith("libedfcore_core.a") for name in files)


def test_an_outside_program_computes(prefix: Path, tmp_path: Path) -> None:
    cmake, ninja = tool("cmake"), tool("ninja", "ninja-build")
    source, build = tmp_path / "source", tmp_path / "build"
    shutil.copytree(CONSUMER, source)  # so that nothing is found beside it
    call(
        cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-S", source, "-B", build,
        f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror",
    )  # fmt: skip
    call(cmake, "--build", build)
    printed = call(build / "consumer").splitlines()
    assert len(printed) == 7
    assert all(line.startswith("ok: ") for line in printed)
    assert printed[5] == (
        "ok: [add] a has shape (2,) and b has shape (3,): counted from the last, their axes must be equal, "
        "or one of them 1."
    )


def test_the_benchmarks_run(built: Path) -> None:
    cmake = tool("cmake")
    on = subprocess.run(
        [cmake, str(built), "-DEDFCORE_BUILD_BENCHMARKS=ON"], capture_output=True, text=True, check=False
    )
    if "benchmarkConfig.cmake" in on.stderr:
        pytest.skip("needs Google Benchmark (on Debian libbenchmark-dev)")
    assert on.returncode == 0, on.stderr
    call(cmake, "--build", built, "--target", "core_bench")
    lines = call(
        built / "core_bench", "--benchmark_filter=step/cpu/4/|softmax/cpu/128/10/", "--benchmark_format=csv"
    ).splitlines()
    names = [line.split(",")[0] for line in lines if line.startswith('"')]
    assert {name.split("/")[0].strip('"') for name in names} == {"softmax", "log_softmax", "step"}
