"""Evidence from a GPU, in one command: `python benchmarks/device.py [--out DIR] [--minutes N]`.

Builds the engine for the GPU that is here, measures what the chip gives, runs the test suite on it, times the rows that
have a goal beside what other frameworks reach, runs compute-sanitizer, and times every kernel, in the minutes given. At
the end it says which goals were met. Everything found goes into one JSON file, which is written anew after
every section, so that a run that is cut short leaves what it has. Needs nvcc, CMake 3.26, and Python with numpy and
pybind11; pytest, compute-sanitizer and torch are used where they are. `--sim --quick` tries the script itself out
against the simulated device: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import chip
import goals
from chip import architecture
from evidence import ROOT, OutOfTimeError, Run, ask, ask_gpu

# What runs first is what says most about a device. The rest of the suite follows in the order of its names.
FIRST_TESTS = ("test_ops.py", "test_edf.py", "test_golden.py")
NOT_ABOUT_A_DEVICE = (
    "test_simulator.py",
    "test_cpp.py",
    "test_device_script.py",
    "test_goals.py",
    "test_architecture.py",
)
SANITIZED_TESTS = ["tests/test_ops.py", "-k", "cuda and test_value and f32 and not large"]


def environment(run: Run) -> dict[str, Any]:
    """What was measured, on what, with what."""
    nvcc = re.search(r"release [\d.]+, V([\d.]+)", ask("nvcc", "--version"))
    cpu = (
        re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        if Path("/proc/cpuinfo").exists()
        else None
    )
    installed = {name: ask(sys.executable, "-c", f"import {name}; print({name}.__version__)") for name in
                 ("numpy", "pybind11", "pytest", "torch")}  # fmt: skip
    return {
        "gpu": ask_gpu(
            "name",
            "driver_version",
            "compute_cap",
            "memory.total",
            "power.limit",
            "clocks.max.sm",
            "clocks.max.mem",
        ),
        "clocks_before": ask_gpu("clocks.sm", "clocks.mem", "temperature.gpu"),
        "nvcc": nvcc.group(1) if nvcc else "",
        "cmake": ask("cmake", "--version").partition("\n")[0],
        "compiler": ask(os.environ.get("CXX", "c++"), "--version").partition("\n")[0],
        "commit": run.options.commit or ask("git", "rev-parse", "--short=12", "HEAD"),
        "uncommitted_changes": bool(ask("git", "status", "--porcelain")),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu.group(1) if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "packages": {name: version for name, version in installed.items() if version},
    }


def build(run: Run) -> dict[str, Any]:
    """CMake and the compiler directly: pip would want to download its build requirements."""
    folder, configure = run.scratch / "build", ["cmake", "-S", ".", "-B", run.scratch / "build"]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    configure += [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DEDFCORE_BUILD_PYTHON=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    if run.options.sim:
        configure += ["-DEDFCORE_CUDA=SIM", "-DEDFCORE_MULTI_ISA=OFF"]
        configure += ["-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG"]  # compiles faster, and figures mean nothing
    else:
        capability = run.document["environment"]["gpu"].get("compute_cap", "")
        if not capability:
            raise RuntimeError("nvidia-smi shows no GPU")
        configure += ["-DEDFCORE_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architecture(capability)}"]
    log = ""
    for words in (
        configure,
        ["cmake", "--build", folder, "--parallel", str(os.cpu_count() or 2)],
        ["cmake", "--install", folder, "--component", "python", "--prefix", run.site],
    ):
        done = run.command(words, run.budget.share(0.7))
        log += done.output
        if done.code != 0:
            return {"ok": False, "log": run.clean(log)}
    question = "import edfcore as edf; print(edf.cuda.build(), '|', edf.cuda.description())"
    answer = run.command([sys.executable, "-c", question], run.budget.share(0.2), package=True)
    built, _, device = answer.output.strip().rpartition("\n")[2].partition(" | ")
    ok = answer.code == 0
    return (
        {"ok": ok, "cuda": built, "device": device} if ok else {"ok": False, "log": run.clean(answer.output)}
    )


def count(xml: Path) -> tuple[dict[str, int], list[str]]:
    """Results in a file that pytest wrote, and the names of the tests that failed."""
    counts, failures = dict.fromkeys(("passed", "failed", "skipped"), 0), []
    for case in ElementTree.parse(xml).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            counts["failed"] += 1
            failures.append(f"{case.get('classname')}::{case.get('name')}")
        else:
            counts["skipped" if "skipped" in kinds else "passed"] += 1
    return counts, failures


def what_killed(output: str) -> str:
    """The part of a log that says why an interpreter died: where it was, innermost first, or else the end."""
    start = output.find("Fatal Python error")
    return output[start : start + 1500] if start >= 0 else output


def test_files(folder: Path) -> list[Path]:
    """The suite's files, those that say most first."""
    found = sorted(p for p in folder.glob("test_*.py") if p.name not in NOT_ABOUT_A_DEVICE)
    return sorted(
        found, key=lambda p: FIRST_TESTS.index(p.name) if p.name in FIRST_TESTS else len(FIRST_TESTS)
    )


def tests(run: Run) -> dict[str, Any]:
    """The suite, file by file, so that what has run counts even when the time is up."""
    result: dict[str, Any] = {
        "passed": 0,
        "failed": 0,
        "skipped": 0,
        "failures": [],
        "files": {},
        "not_run": [],
    }
    if "pytest" not in run.document["environment"]["packages"]:
        return {**result, "note": "pytest is not installed: no test was run"}
    files = test_files(ROOT / "tests")
    if run.options.quick:
        files = [p for p in files if p.name == "test_numpy_edf.py"]
    end = run.budget.spent() + run.budget.share(0.5)
    for file in files:
        xml = run.scratch / f"{file.stem}.xml"
        xml.unlink(missing_ok=True)
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={xml}", file]
        try:
            done = run.command(words, end - run.budget.spent(), package=True)
        except OutOfTimeError:
            result["not_run"].append(file.name)
            continue
        if not xml.exists():
            result["failed"] += 1
            result["failures"].append(f"{file.name}: {run.clean(what_killed(done.output), 1500)}")
            continue
        counts, failures = count(xml)
        result["files"][file.name] = counts
        for key, number in counts.items():
            result[key] += number
        result["failures"] += failures[: 50 - len(result["failures"])]
        run.document["tests"] = result
        run.write()
    return result


def timings(run: Run) -> dict[str, Any]:
    """Every kernel, timed by another process that adds to a file as it goes."""
    seconds, path = run.budget.share(0.65), run.scratch / "timings.json"
    program = ROOT / "benchmarks" / "time_kernels.py"
    words = [sys.executable, program, "--seconds", f"{seconds:.0f}", "--out", path]
    result = run.figures(words + ["--quick"] * run.options.quick, path, seconds + 20, package=True)
    result["clocks_after"] = ask_gpu("clocks.sm", "clocks.mem", "temperature.gpu")
    return result


def ours(run: Run) -> dict[str, Any]:
    """The rows that have a goal, by another process that adds to a file as it goes."""
    seconds, path = run.budget.share(0.4), run.scratch / "ours.json"
    program = ROOT / "benchmarks" / "ours.py"
    words = [sys.executable, program, "--seconds", f"{max(1.0, seconds - 10):.0f}", "--out", path]
    return run.figures(words + ["--quick"] * run.options.quick, path, seconds, package=True)


def sanitizer(run: Run) -> dict[str, Any]:
    """compute-sanitizer's memcheck and racecheck over a part of the suite."""
    tool = shutil.which("compute-sanitizer")
    if run.options.sim or tool is None or "pytest" not in run.document["environment"]["packages"]:
        return {"note": "not run: needs compute-sanitizer, pytest and a GPU"}
    result: dict[str, Any] = {}
    for index, check in enumerate(("memcheck", "racecheck")):
        words = [tool, "--tool", check, "--target-processes", "all", "--error-exitcode", "99"]
        words += [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *SANITIZED_TESTS]
        try:
            done = run.command(words, run.budget.share(0.5 if index == 0 else 1.0), package=True)
        except OutOfTimeError as error:
            result[check] = {"note": str(error) or "out of time"}
            continue
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", done.output)
        passed = re.findall(r"(\d+) passed", done.output)
        result[check] = {
            "exit_code": done.code,
            "summary": summary[-1] if summary else "",
            "tests_passed": int(passed[-1]) if passed else 0,
            **({} if done.code == 0 else {"log": run.clean(done.output)}),
        }
    return result


def file_name(document: dict[str, Any], sim: bool) -> str:
    """2026-01-31-nvidia-h200-0123456789ab.json."""
    gpu = "simulated" if sim else document["environment"]["gpu"].get("name", "no gpu")
    words = [document["started"][:10], gpu, document["environment"]["commit"] or "unknown"]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") + ".json"


def succeeded(document: dict[str, Any]) -> bool:
    """Whether everything that ran was right. Sections that found no time are no failure."""
    return (
        bool(document.get("build", {}).get("ok"))
        and document.get("tests", {}).get("failed", 0) == 0
        and all(section["status"] != "failed" for section in document["sections"].values())
        and all(
            check.get("exit_code", 0) == 0
            for check in document.get("sanitizer", {}).values()
            if isinstance(check, dict)
        )
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the JSON file (benchmarks/results; build/device-sim with --sim)",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything (8)")
    parser.add_argument("--scratch", metavar="DIR", help="folder for the build (build/device)")
    parser.add_argument("--commit", default="", help="the commit, where git cannot say it")
    parser.add_argument(
        "--only",
        action="append",
        metavar="SECTION",
        choices=list(SECTIONS),
        help="this section alone; repeatable",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries the script out")
    parser.add_argument("--sim", action="store_true", help="the simulated device instead of a GPU")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes < float("inf"):
        parser.error("--minutes must be a number above 0")
    name = "device-sim" if options.sim else "device"
    options.scratch = options.scratch or str(ROOT / "build" / name)
    options.out = options.out or str(
        ROOT / "build" / name if options.sim else ROOT / "benchmarks" / "results"
    )
    return options


# In the order of what a run that is cut short should have.
SECTIONS = {
    "limits": chip.limits,
    "tests": tests,
    "ours": ours,
    "peers": chip.peers,
    "sanitizer": sanitizer,
    "timings": timings,
    "hopper": chip.hopper,
    "simt": chip.simt,
    "rows": chip.rows,
}
ON_A_GPU = ("limits", "hopper", "simt", "rows", "peers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all sections, as far as the time goes."""
    run = Run(parse(arguments))
    run.scratch.mkdir(parents=True, exist_ok=True)
    try:
        run.section("environment", environment)
        if "error" in run.document["environment"]:
            print(run.document["environment"]["error"], file=sys.stderr)
            return 1
        run.path = Path(run.options.out).resolve() / file_name(run.document, run.options.sim)
        run.section("build", build)
        if run.document["build"].get("ok"):
            for name, work in SECTIONS.items():
                if (not run.options.only or name in run.options.only) and not (
                    run.options.sim and name in ON_A_GPU
                ):
                    run.section(name, work)
            run.document["goals"] = goals.judge(run.document)
        else:
            print(run.document["build"].get("log") or run.document["build"], file=sys.stderr)
        run.document["complete"] = {"environment", "build", *SECTIONS} == set(
            run.document["sections"]
        ) and all(section["status"] == "done" for section in run.document["sections"].values())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        run.write()
    print("\n".join(goals.lines(run.document.get("goals", []))))
    print(f"{run.path}: {json.dumps(run.document['sections'])}")
    return 0 if succeeded(run.document) else 1


if __name__ == "__main__":
    sys.exit(main())
