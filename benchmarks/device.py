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
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chip
import goals
import table
import tested
from chip import architecture
from evidence import ROOT, Run, ask, ask_gpu, clocks, found_version


def sources() -> str:
    """A name for what is built, whether or not git knows it."""
    found = hashlib.sha256()
    paths = [path for folder in ("cmake", "csrc", "python") for path in (ROOT / folder).rglob("*.*")]
    for path in sorted([ROOT / "CMakeLists.txt", *paths]):
        if path.is_file() and path.suffix not in (".pyc", ".so"):
            found.update(f"{path.relative_to(ROOT).as_posix()} {path.stat().st_size} ".encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


def environment(run: Run) -> dict[str, Any]:
    """What was measured, on what, with what."""
    head = ask("git", "rev-parse", "--short=12", "HEAD")
    nvcc = re.search(r"release [\d.]+, V([\d.]+)", ask("nvcc", "--version"))
    cpu = (
        re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        if Path("/proc/cpuinfo").exists()
        else None
    )
    installed = {name: found_version(name) for name in ("numpy", "pybind11", "pytest", "hypothesis", "torch")}
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
        "clocks_before": clocks(),
        "nvcc": nvcc.group(1) if nvcc else "",
        "cmake": ask("cmake", "--version").partition("\n")[0],
        "compiler": ask(os.environ.get("CXX", "c++"), "--version").partition("\n")[0],
        "commit": run.options.commit or head,
        "uncommitted_changes": bool(ask("git", "status", "--porcelain"))
        if head
        else None,  # None: nobody knows
        "sources": sources(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu.group(1) if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "packages": {name: version for name, version in installed.items() if version},
    }


def build(run: Run) -> dict[str, Any]:
    """CMake and the compiler directly: pip would want to download its build requirements."""
    folder = run.scratch / "build"
    configure: list[str | Path] = ["cmake", "-S", ".", "-B", folder]
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
        if run.document["environment"]["nvcc"].startswith("13."):
            configure += ["-DCMAKE_CUDA_FLAGS=-split-compile=0"]  # every core has a part of the longest file
    commands: list[list[str | Path]] = [
        configure,
        ["cmake", "--build", folder, "--parallel", str(os.cpu_count() or 2)],
        ["cmake", "--install", folder, "--component", "python", "--prefix", run.site],
    ]
    log, stamp, is_built = (
        "",
        json.dumps([run.document["environment"]["sources"], *map(str, configure)]),
        run.site / "stamp",
    )
    if (
        is_built.exists() and is_built.read_text() == stamp
    ):  # by a run before this one, whatever the files' times say
        commands = []
    for words in commands:
        done = run.command(words, run.budget.share(0.7))
        log += done.output
        if done.code != 0:
            return {"ok": False, "log": run.clean(log)}
    is_built.parent.mkdir(parents=True, exist_ok=True)
    is_built.write_text(stamp)
    question = "import edfcore as edf; print(edf.cuda.build(), '|', edf.cuda.description())"
    answer = run.command([sys.executable, "-c", question], run.budget.share(0.2), package=True)
    built, _, device = answer.output.strip().rpartition("\n")[2].partition(" | ")
    ok = answer.code == 0
    return (
        {"ok": ok, "cuda": built, "device": device} if ok else {"ok": False, "log": run.clean(answer.output)}
    )


def timings(run: Run) -> dict[str, Any]:
    """Every kernel."""
    return measured(run, "time_kernels.py", "timings.json")


def ours(run: Run) -> dict[str, Any]:
    """The rows that have a goal."""
    return measured(run, "ours.py", "ours.json")


def measured(run: Run, program: str, table: str) -> dict[str, Any]:
    """By another process, which fills a table."""
    words: list[str | Path] = [sys.executable, ROOT / "benchmarks" / program]
    return run.figures(words, run.scratch / table, run.share(), package=True)


def file_name(document: dict[str, Any], sim: bool) -> str:
    """2026-01-31-nvidia-h200-0123456789ab.json."""
    gpu = "simulated" if sim else document["environment"]["gpu"].get("name", "no gpu")
    found = document["environment"]
    words = [document["started"][:10], gpu, found["commit"] or f"sources {found['sources']}"]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") + ".json"


def succeeded(document: dict[str, Any]) -> bool:
    """Whether everything that ran was right. Sections that found no time are no failure."""
    return (
        bool(document.get("build", {}).get("ok"))
        and document.get("tests", {}).get("failed", 0) == 0
        and not document.get("ours", {}).get("failed")
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


# In the order of what a run that is cut short should have; each with its weight in sharing out the time.
SECTIONS: dict[str, tuple[Callable[[Run], Any], float]] = {
    "limits": (chip.limits, 1),
    "ours": (ours, 4),
    "peers": (chip.peers, 6),
    "tests": (tested.tests, 5),
    "sanitizer": (tested.sanitizer, 3),
    "timings": (timings, 2),
    "hopper": (chip.hopper, 1),
    "simt": (chip.simt, 1),
    "rows": (chip.rows, 1),
}
ON_A_GPU = ("limits", "hopper", "simt", "rows", "peers")


def chosen(options: argparse.Namespace) -> list[str]:
    """The sections that are to be done."""
    return [
        name
        for name in SECTIONS
        if (not options.only or name in options.only) and not (options.sim and name in ON_A_GPU)
    ]


def work(run: Run) -> None:
    """All sections, as far as the time goes."""
    run.section("environment", environment)
    if "error" in run.document["environment"]:
        return
    run.path = Path(run.options.out).resolve() / file_name(run.document, run.options.sim)
    run.adopt(table.read(run.path))
    run.section("build", build)
    if not run.document["build"].get("ok"):
        return
    run.ahead = {name: SECTIONS[name][1] for name in chosen(run.options)}
    for name in list(run.ahead):
        run.section(name, SECTIONS[name][0])
    run.document["complete"] = {"environment", "build", *SECTIONS} == set(run.document["sections"]) and all(
        section["status"] == "done" and run.document[name].get("complete", True)
        for name, section in run.document["sections"].items()
    )


def stop(number: int, frame: Any) -> None:
    """Who ends this process wants what it has found."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect the evidence and say which goals were met."""
    run = Run(parse(arguments))
    run.scratch.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    try:
        work(run)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        run.write()
    for problem in run.document.get("environment", {}), run.document.get("build", {}):
        print(problem.get("error") or problem.get("log", ""), end="", file=sys.stderr)
    print("\n".join(goals.lines(run.document.get("goals", []))))
    print(f"{run.path}: {json.dumps(run.document['sections'])}")
    return 0 if succeeded(run.document) else 1


if __name__ == "__main__":
    sys.exit(main())
