"""The simulated CUDA device reports planted bugs and lets correct kernels pass."""

import subprocess

import pytest

from sim_program import Build, compiled, host_compiler, plain_and_sanitized

SEEDS = range(8)


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Build]:
    return plain_and_sanitized(tmp_path_factory, "tests/sim/planted.cu")


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

PRODUCTS = [
    "tests/sim/products.cu", "csrc/ops/matmul.cu", "csrc/ops/matmul_mma.cu", "csrc/ops/float32_matmul.cpp",
]  # fmt: skip


@pytest.fixture(scope="session")
def products(tmp_path_factory: pytest.TempPathFactory) -> Build:
    made = compiled(host_compiler(), tmp_path_factory.mktemp("products"), [], *PRODUCTS)
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
