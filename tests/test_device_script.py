"""The script that collects evidence from a GPU: its options, its time, its file. Nothing is built here."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if not (Path(__file__).parent.parent / "benchmarks" / "device.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

import chip
import device as script
import evidence
import tested
from evidence import Budget, OutOfTimeError, Run

posix = pytest.mark.skipif(sys.platform == "win32", reason="process groups are those of POSIX")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(script.parse(["--sim", "--quick", "--scratch", str(tmp_path), "--out", str(tmp_path)]))
    made.path = tmp_path / "found.json"
    made.document["environment"] = {
        "packages": {"pytest": "9"},
        "gpu": {"name": "A GPU 100"},
        "commit": "abc123",
        "sources": "0123",
    }
    return made


def written(run: Run) -> dict[str, Any]:
    assert run.path is not None
    found: dict[str, Any] = json.loads(run.path.read_text(encoding="utf-8"))
    return found


class Clock:
    """Time passes by a second at every look."""

    def __init__(self, step: float = 1.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_options() -> None:
    real, trial = script.parse([]), script.parse(["--sim", "--minutes", "2"])
    assert (real.minutes, real.sim, real.quick) == (8.0, False, False)
    assert real.out.endswith("results")
    assert trial.minutes == 2.0
    assert "results" not in trial.out, "figures of the simulated device are no evidence"


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_wrong_minutes(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.parse(["--minutes", minutes])
    assert "--minutes" in capsys.readouterr().err


def test_budget() -> None:
    clock = Clock(0.0)
    budget = Budget(2.0, clock)
    assert budget.left() == 117.0
    clock.now = 60.0
    assert budget.share(0.5) == 28.5
    clock.now = 500.0
    assert budget.left() == 0.0


def test_a_section_is_written_at_once(run: Run) -> None:
    run.section("build", lambda run: {"ok": True})
    found = written(run)
    assert found["build"] == {"ok": True}
    assert found["sections"]["build"]["status"] == "done"
    assert found["complete"] is False
    assert found["schema"] == 1
    assert list(run.scratch.glob("*.part")) == []


def test_a_section_that_fails_does_not_end_the_run(run: Run) -> None:
    def fail(run: Run) -> None:
        raise ValueError(f"in {run.scratch}/x")

    run.section("tests", fail)
    assert written(run)["tests"] == {"error": "ValueError: in SCRATCH/x"}
    assert not script.succeeded({**run.document, "build": {"ok": True}})


def test_what_is_no_number_does_not_end_the_run(run: Run) -> None:
    run.section(
        "ours", lambda run: {"rows": [{"us": float("nan"), "error": np.float64("inf"), "shape": (1, 2.5)}]}
    )
    run.section("tests", lambda run: {"passed": 1})
    found = written(run)
    assert found["ours"]["rows"] == [{"us": None, "error": None, "shape": [1, 2.5]}]
    assert found["sections"]["tests"]["status"] == "done"


def test_a_section_without_time_is_not_started(run: Run) -> None:
    run.budget.seconds = 0
    run.section("timings", lambda run: pytest.fail("started"))
    assert written(run)["sections"]["timings"]["status"] == "out of time"
    assert script.succeeded({**run.document, "build": {"ok": True}})


def test_a_section_that_is_cut_short_keeps_what_it_has(run: Run) -> None:
    def half(run: Run) -> None:
        run.document["tests"] = {"passed": 3}
        raise OutOfTimeError

    run.section("tests", half)
    assert written(run)["tests"] == {"passed": 3}


@posix
def test_a_command_is_stopped_in_time(run: Run) -> None:
    sleep = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    with pytest.raises(OutOfTimeError, match="stopped after"):
        run.command(sleep, 1.0)
    assert run.command([sys.executable, "-c", "print(7); exit(3)"], 30.0) == script_finished(3, "7\n")
    with pytest.raises(OutOfTimeError):
        run.command(sleep, 0.5)


def script_finished(code: int, output: str) -> Any:
    from evidence import Finished

    return Finished(code, output)


def test_names_of_chips_and_files(run: Run) -> None:
    assert [script.architecture(c) for c in ("7.5", "8.6", "9.0", "12.0")] == ["75", "86", "90a", "120a"]
    run.document["started"] = "2026-01-31T12:00:00Z"
    assert script.file_name(run.document, sim=False) == "2026-01-31-a-gpu-100-abc123.json"
    assert script.file_name(run.document, sim=True) == "2026-01-31-simulated-abc123.json"


def test_a_dead_interpreter_says_where_it_died() -> None:
    log = "....\nFatal Python error: Segmentation fault\n\nCurrent thread:\n  File x\n" + "  File y\n" * 1000
    assert tested.what_killed(log).startswith("Fatal Python error: Segmentation fault\n\nCurrent thread")
    assert len(tested.what_killed(log)) == 500
    assert tested.what_killed("E  assert 1 == 2") == "E  assert 1 == 2"


def test_programs_beside_the_engine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chip, "compiled", lambda run, source, *flags: run.scratch / source.stem)
    limits, rows = (
        'copying ...\n{"rows": [1, nan]}\ndone',
        'begun\n{"row": "time", "us": -nan}\n{"row": "time',
    )
    outputs = {"limits": limits, "bash": "", "simt_matmul": rows, "rows": rows}
    code = 0

    def command(words: Any, seconds: float) -> Any:
        if code < 0:
            raise OutOfTimeError("stopped", outputs[Path(words[0]).name])
        return script_finished(code, outputs[Path(words[0]).name])

    monkeypatch.setattr(run, "command", command)
    for code, note in ((0, None), (1, "status 1"), (2, "status 2"), (-1, "stopped")):
        found = {work.__name__: work(run) for work in (chip.limits, chip.simt, chip.rows)}
        assert found["limits"]["rows"] == [1, None]
        assert found["simt"]["rows"] == found["rows"]["rows"] == [{"row": "time", "us": None}]
        assert all((note or "") in f.get("note", "") and ("note" in f) == (code != 0) for f in found.values())
    code = 0
    outputs |= dict.fromkeys(("limits", "simt_matmul", "rows"), '{"row": "error", "error": "no device')
    for broken in (chip.limits, chip.simt, chip.rows):
        with pytest.raises(RuntimeError, match="no device"):
            broken(run)
    assert "note" in chip.hopper(run), "the GPU here is no Hopper"
    run.document["environment"]["gpu"]["compute_cap"] = "9.0"
    with pytest.raises(RuntimeError):  # nothing was written
        chip.hopper(run)


PROGRAM = """
import os, sys, time
from pathlib import Path
from table import Table

def crash(): os._exit(9)
def hang(): time.sleep(60)
def wrong(): raise ValueError("wrong")
def clear():
    if table.document["done"][-1] == "last of this process": raise RuntimeError

out = Path(sys.argv[sys.argv.index("--out") + 1])
table = Table(out, head="new")
row = lambda us: lambda: [{"name": "relu", "shape": "(8,)", "who": "edfcore", "us": us}]
work = [("one", row(1.0)), ("crash", crash), ("nan", row(float("nan"))), ("last of this process", row(2.0)),
        ("wrong", wrong), ("hang", hang), ("three", row(3.0))]
sys.exit(table.fill(work, time.monotonic() + 60, clear))
"""


@pytest.fixture
def program(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PYTHONPATH", str(Path(script.__file__).parent))
    monkeypatch.setattr(evidence, "LOOK", 0.1)
    monkeypatch.setattr(evidence, "STALLED", 1.0)
    run.current = "ours"
    return [sys.executable, "-c", PROGRAM]


@posix
def test_rows_behind_one_that_dies_or_hangs_are_measured(run: Run, program: list[str]) -> None:
    found = run.figures(program, run.scratch / "ours.json", 30.0)
    assert [row["us"] for row in found["rows"]] == [1.0, None, 2.0, 3.0]
    assert [(f["row"], f["reason"].partition(":")[0]) for f in found["failed"]] == [
        ("crash", "ended with status 9"), ("wrong", "ValueError"), ("hang", "nothing was written for 1 s"),
    ]  # fmt: skip
    assert found["complete"]
    assert found["head"] == "new"
    assert "note" not in found
    assert not script.succeeded({**run.document, "build": {"ok": True}, "ours": found})


@posix
def test_figures_of_a_program_that_is_cut_short_count(
    run: Run, program: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "STALLED", 60.0)
    found = run.figures(program, run.scratch / "ours.json", 1.5)
    assert [row["us"] for row in found["rows"]] == [1.0, None, 2.0]
    assert found["note"].startswith("stopped after")
    assert [row["us"] for row in written(run)["ours"]["rows"]] == [1.0, None, 2.0], "written before the end"
    # Another run goes on behind them, and the next, after a complete one, begins anew.
    run.document["ours"] = {**found, "at": "hang", "done": [*found["done"], "hang"]}
    found = run.figures(program, run.scratch / "ours.json", 20.0)
    assert [row["us"] for row in found["rows"]] == [1.0, None, 2.0, 3.0]
    run.document["ours"] = found
    with pytest.raises(RuntimeError, match="nothing here"):
        run.figures(
            [sys.executable, "-c", "raise SystemExit('nothing here')"], run.scratch / "ours.json", 20.0
        )


@posix
def test_a_run_that_is_ended_keeps_what_it_has(tmp_path: Path) -> None:
    ended = f"""
import os, signal, threading, device, evidence
evidence.LOOK = 0.1
def figures(run):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    return run.figures([{sys.executable!r}, "-c", "import time; print(1); time.sleep(60)"], run.scratch / "x.json", 60)
device.environment = lambda run: {{"gpu": {{}}, "commit": "abc", "sources": "1"}}
device.build = lambda run: {{"ok": True}}
device.SECTIONS = {{"tests": (lambda run: {{"passed": 3}}, 1), "ours": (figures, 1)}}
device.main(["--scratch", {str(tmp_path)!r}, "--out", {str(tmp_path)!r}])
"""
    env = os.environ | {"PYTHONPATH": str(Path(script.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", ended], env=env, capture_output=True, text=True, check=False)
    assert "stopped" in done.stderr, done.stderr
    (path,) = tmp_path.glob("*-abc.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["tests"] == {"passed": 3}
    assert found["goals"] == []
    assert {name: section["status"] for name, section in found["sections"].items()} == {
        "environment": "done", "build": "done", "tests": "done", "ours": "stopped",
    }  # fmt: skip


def test_time_is_shared_among_the_sections_that_are_left(run: Run) -> None:
    run.budget = Budget(10.0, Clock(0.0))
    given = {}
    run.ahead = {"ours": 4.0, "peers": 6.0}
    for name in list(run.ahead):
        run.section(name, lambda run: given.update({run.current: run.share()}))
    assert given == {"ours": pytest.approx(0.4 * 597), "peers": pytest.approx(597)}


def test_runs_of_the_same_sources_on_the_same_device_are_put_together(run: Run) -> None:
    earlier = json.loads(json.dumps(run.document)) | {"limits": {"rows": [1]}, "ours": {"rows": [2]}}
    earlier["sections"] = {"limits": {"status": "done"}, "ours": {"status": "failed"}}
    for key in ("sources", "gpu"):
        other = json.loads(json.dumps(earlier))
        other["environment"][key] = {}
        run.adopt(other)
        assert "limits" not in run.document
    run.adopt(earlier)
    run.section("ours", lambda run: {"rows": [3]})
    found = written(run)
    assert (found["limits"], found["ours"]) == ({"rows": [1]}, {"rows": [3]})
    assert [section["status"] for section in found["sections"].values()] == ["done", "done"]
    assert [set(run["sections"]) for run in found["earlier"]] == [{"limits", "ours"}]


def test_what_is_measured_has_a_name_without_git(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.sources() == script.sources()
    monkeypatch.setattr(script, "ask", lambda *words: "")
    run.options.commit = ""
    found = run.document["environment"] = script.environment(run)
    assert found["uncommitted_changes"] is None
    run.document["started"] = "2026-01-31T12:00:00Z"
    assert script.file_name(run.document, sim=True) == f"2026-01-31-simulated-sources-{script.sources()}.json"


def test_the_build_uses_all_cores_for_one_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[list[str]] = []
    monkeypatch.setattr(
        run, "command", lambda words, seconds: configured.append(words) or script_finished(1, "")
    )
    run.options.sim = False
    run.document["environment"] |= {"nvcc": "13.0.88", "gpu": {"compute_cap": "9.0"}}
    assert script.build(run) == {"ok": False, "log": ""}
    assert {"-DCMAKE_CUDA_FLAGS=-split-compile=0", "-DCMAKE_CUDA_ARCHITECTURES=90a"} <= set(configured[0])


TESTS = """
import os, pytest
@pytest.mark.parametrize("n", range(4))
def test_numbers(n): assert n != 2
def test_crash(): os._exit(7)
def test_last(): pytest.skip("no reason")
def test_teardown(request): request.addfinalizer(lambda: 1 / 0)
"""


@posix
def test_the_suite_in_parts_whatever_dies(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    file = run.scratch / "test_it.py"
    file.write_text(TESTS)
    (run.scratch / "test_that.py").write_text("import not_there")
    monkeypatch.setitem(tested.PARTS, "test_it.py", 2)
    run.options.quick = False
    monkeypatch.setattr(tested, "SUITE", [])  # there is no conftest.py with these options
    jobs = tested.jobs_for(run, run.scratch / "tests", [file, run.scratch / "test_that.py"], [])
    seen: list[int] = []
    tested.run_jobs(run, jobs, 60.0, lambda: seen.append(tested.counted(jobs)["passed"]))
    found = tested.counted(jobs)
    assert (found["passed"], found["failed"], found["skipped"]) == (3, 4, 1)
    assert seen[-1] == 3
    assert [f["test"].rpartition("::")[2] for f in found["failures"]] == [
        "test_numbers[2]", "test_crash", "test_teardown", "test_that.py",
    ]  # fmt: skip
    assert "assert 2 != 2" in found["failures"][0]["why"]
    assert "ended with status 7" in found["failures"][1]["why"]
    assert "not_there" in found["failures"][3]["why"]
    assert (found["not_run"], found["cut_short"]) == ([], ["test_that-0"])
    again = tested.alone(run, [{"test": f"{file}::test_numbers[{n}]"} for n in (2, 3)], 20.0)
    assert list(again["alone"].values()) == ["failed", "passed"]


@posix
def test_what_a_suite_has_found_counts_when_the_time_is_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    file = run.scratch / "test_slow.py"
    file.write_text("import time\ndef test_a(): pass\ndef test_b(): time.sleep(60)\n")
    monkeypatch.setattr(tested, "SUITE", [])
    (job,) = tested.jobs_for(run, run.scratch / "tests", [file], [])
    tested.run_jobs(run, [job], 2.0, lambda: None)
    found = tested.counted([job])
    assert (found["passed"], found["failed"], found["cut_short"]) == (1, 0, ["test_slow-0"])


def test_the_suite_is_found() -> None:
    tests = Path(__file__).parent
    names = [path.name for path in tested.test_files(tests)]
    assert names[: len(tested.FIRST_TESTS)] == list(tested.FIRST_TESTS)
    for name in {f"test_{name}.py" for name in tested.NOT_ABOUT_A_DEVICE}:
        assert (tests / name).exists(), name
        assert name not in names
    assert all((tests / name).exists() for name in (*tested.PARTS, *tested.SANITIZED_TESTS))


def test_fuzzing_is_skipped_without_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    for name in ("fuzz_programs", "test_deferral"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(pytest.skip.Exception, match="hypothesis"):
            importlib.import_module(name)
