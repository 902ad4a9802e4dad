"""The sections of device.py that run the test suite: as it is, and under compute-sanitizer.

Many processes share the device. What each has found counts, whatever becomes of it: recorder.py writes it down.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recorder
from evidence import LOOK, ROOT, STALLED, OutOfTimeError, Run, kill

# What runs first is what says most about a device. The rest of the suite follows in the order of its names.
FIRST_TESTS = (
    "test_cuda_device.py", "test_cuda_graphs.py", "test_matmul_modes.py", "test_endings.py", "test_half.py",
    "test_replay.py", "test_plan.py", "test_golden.py", "test_edf.py", "test_ops.py",
)  # fmt: skip
# Other files have no test that takes a device, or are about programs for the CPU.
NOT_ABOUT_A_DEVICE = (
    "architecture", "benchmarks", "bits", "cmake", "cpp", "cuda_code", "demo_data", "device_script", "examples",
    "goals", "numpy_edf", "products", "simulator", "streams", "train", "transcendentals",
)  # fmt: skip
SUITE = ("--device", "cuda", "--device-only")  # what conftest.py has for this
PARTS = {
    "test_ops.py": 10,
    "test_endings.py": 2,
    "test_half.py": 2,
}  # into how many processes a file is split
CHECKS = ("memcheck", "racecheck", "synccheck")
# Kernels of all kinds: graphs, tensor cores, halves, endings, steps and their updates, replays, and each op's value.
SANITIZED_TESTS = (
    "test_cuda_graphs.py", "test_matmul_modes.py", "test_half.py", "test_endings.py", "test_edf.py", "test_replay.py",
    "test_optimisers.py", "test_ops.py",
)  # fmt: skip
SANITIZED = "not large and not test_gradient and not second_derivative and not unaligned and not in_every_bit"
DEATHS = 10  # of the processes of one job, after which the rest of it is given up
FOUND = 99  # the exit status of compute-sanitizer that has found something
OVER = (0, 1, 5, FOUND)  # the others are pytest's, where it has run what it was to run


@dataclass
class Job:
    """A part of a file of tests, and the process that runs it."""

    file: Path
    words: list[str]
    record: Path
    process: subprocess.Popen[str] | None = None
    log: str = ""
    code: int | None = None  # the exit status, where it has ended by itself
    deaths: int = 0
    looked: tuple[float, int] = (0.0, -1)  # when the record was seen to grow, and its size

    def start(self, run: Run) -> None:
        """Begin, or go on behind what is recorded."""
        with self.record.with_suffix(".log").open("a") as log:
            self.process = subprocess.Popen(
                self.words, cwd=ROOT, env=variables(run), stdout=log, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip
        self.looked = (time.monotonic(), -1)

    def stalled(self) -> bool:
        """Whether no test has begun or ended for long."""
        size = self.record.stat().st_size if self.record.exists() else 0
        if size != self.looked[1]:
            self.looked = (time.monotonic(), size)
        return time.monotonic() - self.looked[0] > STALLED

    def ended(self, run: Run) -> bool:
        """Whether there is nothing more to do. Who died is to start again, without the test where that was."""
        assert self.process is not None
        code, self.process = self.process.returncode, None
        self.log = run.clean(self.record.with_suffix(".log").read_text(errors="replace"))
        last = list(recorder.recorded(self.record).values())[-1:]
        begun = [line["test"] for line in last if line["outcome"] == "begun"]
        if code in OVER and not begun:
            self.code = code
            return True
        self.deaths += 1
        if begun or code != recorder.LOST:
            why = f"ended with status {code}: {what_killed(self.log)}"
            recorder.write(self.record, begun[0] if begun else self.file.name, "failed", why)
        if (begun or code == recorder.LOST) and self.deaths < DEATHS:
            return False
        self.code = code
        return True


def what_killed(output: str) -> str:
    """The part of a log that says why an interpreter died: where it was, innermost first, or else the end."""
    start = output.rfind("Fatal Python error")
    return output[start : start + 500] if start >= 0 else output[-500:]


def variables(run: Run) -> dict[str, str]:
    """The environment of a process among many."""
    found = run.variables(package=True)
    found["PYTHONPATH"] = os.pathsep.join([found["PYTHONPATH"], str(Path(__file__).parent)])
    return {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", **found}


def jobs_for(run: Run, folder: Path, files: Sequence[Path], before: Sequence[str], *more: str) -> list[Job]:
    """The files in parts, in their order."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    jobs = []
    for file in files:
        for part in range(parts := 1 if run.options.quick else PARTS.get(file.name, 1)):
            record = folder / f"{file.stem}-{part}.jsonl"
            words = [*before, sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider",
                     "-p", "recorder", f"--record={record}", f"--part={part}/{parts}", *SUITE, *more,
                     str(file)]  # fmt: skip
            jobs.append(Job(file, words, record))
    return jobs


def run_jobs(run: Run, jobs: Sequence[Job], seconds: float, look: Callable[[], None]) -> None:
    """Run them beside each other, for at most so long."""
    if seconds < 1:
        raise OutOfTimeError
    most, end, next_look = max(2, (os.cpu_count() or 2) * 3 // 4), time.monotonic() + seconds, 0.0
    waiting, running = list(jobs), list[Job]()
    try:
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < most:
                running.append(waiting.pop(0))
                running[-1].start(run)
            time.sleep(0.1)
            for job in list(running):
                assert job.process is not None
                if job.process.poll() is None and job.stalled():
                    kill(job.process)
                    job.process.wait()
                if job.process.poll() is not None:
                    running.remove(job)
                    waiting[:0] = [] if job.ended(run) else [job]
            if time.monotonic() > next_look:
                look()
                next_look = time.monotonic() + LOOK
    finally:
        for job in running:
            if job.process is not None:
                kill(job.process)
                job.process.wait()
        look()


def counted(jobs: Iterable[Job]) -> dict[str, Any]:
    """Results in all and by file, the names of tests that failed, and what there was no time for."""
    result: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failures": [], "files": {}}
    missing: dict[str, list[str]] = {"not_run": [], "cut_short": []}
    for job in jobs:
        file = result["files"].setdefault(job.file.name, {"passed": 0, "failed": 0, "skipped": 0})
        for line in recorder.recorded(job.record).values():
            if line["outcome"] == "begun":
                continue
            file[line["outcome"]] += 1
            result[line["outcome"]] += 1
            if line["outcome"] == "failed" and len(result["failures"]) < 100:
                result["failures"].append({"test": line["test"], "why": line.get("why", "")})
        if job.code not in OVER:
            missing["cut_short" if any(file.values()) else "not_run"].append(job.record.stem)
    return {**result, **missing, "complete": not any(missing.values())}


def test_files(folder: Path) -> list[Path]:
    """The suite's files, those that say most first."""
    left_out = {f"test_{name}.py" for name in NOT_ABOUT_A_DEVICE}
    found = sorted(p for p in folder.glob("test_*.py") if p.name not in left_out)
    return sorted(
        found, key=lambda p: FIRST_TESTS.index(p.name) if p.name in FIRST_TESTS else len(FIRST_TESTS)
    )


def tests(run: Run) -> dict[str, Any]:
    """The suite, as far as it is about a device."""
    if "pytest" not in run.document["environment"]["packages"]:
        return {"passed": 0, "failed": 0, "skipped": 0, "note": "pytest is not installed: no test was run"}
    files = test_files(ROOT / "tests")
    if run.options.quick:
        files = [p for p in files if p.name == "test_golden.py"]
    jobs = jobs_for(run, run.scratch / "tests", files, [])

    def look() -> None:
        run.document["tests"] = counted(jobs)
        run.write()

    end = time.monotonic() + run.share()
    run_jobs(run, jobs, 0.9 * (end - time.monotonic()), look)
    found = counted(jobs)
    return {**found, **alone(run, found["failures"], end - time.monotonic())}


def alone(run: Run, failures: Sequence[dict[str, str]], seconds: float) -> dict[str, Any]:
    """What becomes of tests that have failed beside others when nothing else runs."""
    names = [failure["test"] for failure in failures if "::" in failure["test"]]
    if not names or seconds < 1:
        return {}
    (job,) = jobs_for(run, run.scratch / "alone", [Path("alone")], [])
    job.words = [word for word in job.words if word != "alone"] + names
    run_jobs(run, [job], seconds, lambda: None)
    return {"alone": {name: line["outcome"] for name, line in recorder.recorded(job.record).items()}}


def sanitizer(run: Run) -> dict[str, Any]:
    """compute-sanitizer over a part of the suite."""
    tool = shutil.which("compute-sanitizer")
    if run.options.sim or tool is None or "pytest" not in run.document["environment"]["packages"]:
        return {"note": "not run: needs compute-sanitizer, pytest and a GPU"}
    result: dict[str, Any] = {}
    end = time.monotonic() + run.share()
    files = [ROOT / "tests" / name for name in SANITIZED_TESTS]
    for index, check in enumerate(CHECKS):
        before = [tool, "--tool", check, "--target-processes", "all", "--error-exitcode", str(FOUND)]
        jobs = jobs_for(run, run.scratch / check, files, before, "-k", SANITIZED)

        def look(check: str = check, jobs: list[Job] = jobs) -> None:
            result[check] = sanitized(jobs)
            run.document["sanitizer"] = result
            run.write()

        run_jobs(run, jobs, (end - time.monotonic()) / (len(CHECKS) - index), look)
    return result


def sanitized(jobs: Sequence[Job]) -> dict[str, Any]:
    """What a check has found so far: its last words, and the logs of the jobs that it does not like."""
    found, bad = counted(jobs), [job for job in jobs if job.code not in (None, 0, 5)]
    summaries = [re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", job.log)[-1:] for job in jobs]
    return {
        "exit_code": bad[0].code if bad else 0,
        "summary": sorted({words for summary in summaries for words in summary}),
        "tests_passed": found["passed"],
        "failures": found["failures"],
        "missing": found["not_run"] + found["cut_short"],
        "logs": {job.record.stem: job.log[-1500:] for job in bad},
    }
