"""The simulated CUDA device reports planted bugs and lets correct kernels pass."""

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
SEEDS = range(8)


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


def compile_all(compiler: str, folder: Path, flags: list[str], name: str = "planted", *more: str) -> Build:
    """One command, as a reader would type it; the host compiler is told that .cu files are C++."""
    program = folder / name
    sources = [
        *sorted((CSRC / "device/sim").glob("*.cpp")),
        CSRC / "device/cuda.cu",
        *(CSRC / path for path in more),
        ROOT / f"tests/sim/{name}.cu",
    ]
    command = [*compiler.split(), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", *flags]
    command += ["-DEDFCORE_SIM", "-DEDFCORE_HAS_CUDA", "-DEDF_ISA=cuda", f"-I{CSRC}"]
    command += ["-x", "c++", *map(str, sources), "-o", str(program)]
    made = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
    )
    return Build(program if made.returncode == 0 else None, made.stderr)


@pytest.fixture(scope="session")
def compiler() -> str:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if found is None:
        pytest.skip("no C++ compiler was found ($CXX, g++ or c++)")
    return found


@pytest.fixture(scope="session")
def builds(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Build]:
    with ThreadPoolExecutor(2) as both:
        jobs = [both.submit(compile_all, compiler, tmp_path_factory.mktemp("sim"), f) for f in ([], SANITIZE)]
        plain, sanitized = (job.result() for job in jobs)
    assert plain.program is not None, plain.log
    if sanitized.program is None:
        # Some machines have a compiler without the sanitizers' libraries.
        assert "san" in sanitized.log, sanitized.log
        sanitized.log = "this compiler links no sanitizers: " + sanitized.log[-200:]
    return plain, sanitized


@pytest.fixture(scope="session")
def plain(builds: tuple[Build, Build]) -> Build:
    return builds[0]


@pytest.fixture(scope="session")
def sanitized(builds: tuple[Build, Build]) -> Build:
    return builds[1]


CORRECT = ["sums", "reversal", "warps", "status", "transfers", "reuse"]


@pytest.mark.parametrize("seed", SEEDS)
def test_correct_kernels_pass(plain: Build, seed: int) -> None:
    done = plain.run(*CORRECT, seed=seed)
    assert (done.returncode, done.stdout.split()) == (0, ["right"] * 7), done.stdout + done.stderr


def test_correct_kernels_pass_under_sanitizers(sanitized: Build) -> None:
    done = sanitized.run(*CORRECT)
    assert (done.returncode, done.stdout.split()) == (0, ["right"] * 7), done.stdout + done.stderr


@pytest.mark.parametrize("seed", SEEDS)
def test_missing_barrier_gives_a_wrong_result(plain: Build, seed: int) -> None:
    assert plain.run("no_barrier", seed=seed).stdout == "wrong\n"


def test_unwritten_element_is_nan(plain: Build) -> None:
    assert plain.run("unwritten").stdout == "1 NaN, the last: 1\n"


# What is said about each, beside the place of the launch and the block.
FAULTS = {
    "barrier_for_some": ["divergent barrier", "waits in __syncthreads at", "has left the kernel"],
    "two_barriers": ["divergent barrier", "waits in __syncthreads at"],
    "shuffle_for_some": [
        "divergent barrier",
        "a warp shuffle at",
        "(mask 0xffffffff)",
        "waits in __syncthreads",
    ],
    "wrong_mask": ["is not in the mask that it names at"],
    "too_much_shared": ["declares more shared memory than a block may have"],
}


@pytest.mark.parametrize("case", FAULTS)
def test_divergence_is_reported_and_nothing_hangs(plain: Build, sanitized: Build, case: str) -> None:
    for build in plain, sanitized:
        done = build.run(case, "sums")
        assert done.returncode == 3, done.stdout + done.stderr
        assert "planted.cu:" in done.stdout
        for part in ["kernel launched at", "block (", "thread (", *FAULTS[case]]:
            assert part in done.stdout
        assert "right" not in done.stdout


# What each says where nothing watches reads.
OVERRUNS = {
    "write_past": "a write past the end of an allocation of 396 bytes, at byte 396",
    "write_past_shared": "a write past the end of a shared array of 40 bytes, at byte 40",
    "write_released": "a write to memory that had been released, at byte 0",
}


@pytest.mark.parametrize("case", OVERRUNS)
def test_write_where_none_belongs_is_reported(plain: Build, case: str) -> None:
    done = plain.run(case)
    assert done.returncode == 3
    assert OVERRUNS[case] in done.stdout


@pytest.mark.parametrize("case", ["read_past", *OVERRUNS])
def test_sanitizers_see_the_first_wrong_access(sanitized: Build, case: str) -> None:
    report = sanitized.run(case).stderr
    assert "AddressSanitizer: use-after-poison" in report or "out of bounds" in report, report
    assert "planted.cu:" in report, "the report names no line of the kernel: " + report


def test_fault_is_told_once_and_then_the_device_is_lost(plain: Build) -> None:
    first, second = plain.run("lost").stdout.splitlines()
    assert first.startswith(
        "device: cuda:0 failed, as seen in earlier work: cudaErrorLaunchFailure: simulated "
    )
    assert first.endswith("The device is lost to this process.")
    assert second.startswith("device: cuda:0 is lost to this process since an earlier error (cudaErrorLaunch")


def test_impossible_launch_is_told_and_the_device_goes_on(plain: Build) -> None:
    first, second = plain.run("bad_launch").stdout.splitlines()
    assert first.startswith("cuda:0 failed, as seen in earlier work: cudaErrorInvalidConfiguration: ")
    assert second == "right"


def test_out_of_memory_names_the_figures_and_the_device_goes_on(plain: Build) -> None:
    first, second = plain.run("out_of_memory", EDFCORE_SIM_MEMORY=str(64 << 20)).stdout.splitlines()
    assert first.startswith(
        "memory: out of memory on cuda:0: 1073741824 bytes were asked for, 4000 are in use, "
    )
    assert "3145728 were cached and have been given back; the device has" in first
    assert second == "right"


# ---- products by tensor cores ----

PRODUCTS = ["ops/matmul.cu", "ops/matmul_mma.cu", "ops/update.cu", "ops/float32_matmul.cpp"]


@pytest.fixture(scope="session")
def products(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Build:
    made = compile_all(compiler, tmp_path_factory.mktemp("products"), [], "products", *PRODUCTS)
    assert made.program is not None, made.log
    return made


def printed(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("seed", [0, 1])
def test_fragments_are_those_of_the_instruction_set(products: Build, seed: int) -> None:
    words = ["tf32", "bf16", "f16", "cut", "rounding", "copies"]
    assert printed(products.run("words", seed=seed)) == [f"{word} right" for word in words]


@pytest.mark.parametrize("capability", ["90", "75"])
def test_matrices_are_multiplied(products: Build, capability: str) -> None:
    done = products.run("matrices", EDFCORE_SIM_CAPABILITY=capability)
    assert printed(done) == [f"{kind} right" for kind in ("bf16", "f16", "high", "medium")]


def test_large_matrices_are_multiplied(products: Build) -> None:
    assert printed(products.run("large")) == ["large bf16 right", "large f16 right"]
