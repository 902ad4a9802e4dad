"""The script that collects evidence from a GPU: its options, its time, its file. Nothing is built here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if not (Path(__file__).parent.parent / "benchmarks" / "device.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

import chip
import device as script
import kernels
import time_kernels
from edfcore import ops
from evidence import Budget, OutOfTimeError, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(script.parse(["--sim", "--quick", "--scratch", str(tmp_path), "--out", str(tmp_path)]))
    made.path = tmp_path / "found.json"
    made.document["environment"] = {
        "packages": {"pytest": "9"},
        "gpu": {"name": "A GPU 100"},
        "commit": "abc123",
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


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are those of POSIX")
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


def test_results_are_counted(tmp_path: Path) -> None:
    xml = tmp_path / "t.xml"
    xml.write_text(
        '<testsuites><testsuite><testcase classname="a" name="x"/><testcase classname="a" name="y"><failure/>'
        '</testcase><testcase classname="a" name="z"><skipped/></testcase></testsuite></testsuites>'
    )
    assert script.count(xml) == ({"passed": 1, "failed": 1, "skipped": 1}, ["a::y"])


def test_a_dead_interpreter_says_where_it_died() -> None:
    log = "....\nFatal Python error: Segmentation fault\n\nCurrent thread:\n  File x\n" + "  File y\n" * 1000
    assert script.what_killed(log).startswith("Fatal Python error: Segmentation fault\n\nCurrent thread")
    assert len(script.what_killed(log)) == 1500
    assert script.what_killed("E  assert 1 == 2") == "E  assert 1 == 2"


def test_programs_beside_the_engine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chip, "compiled", lambda run, source, *flags: run.scratch / source.stem)
    outputs = {
        "limits": 'copying ...\n{"rows": [1]}\ndone',
        "bash": "",
        **dict.fromkeys(("simt_matmul", "rows"), 'begun\n{"row": "time", "us": null}\n{"row": "summary"}\n'),
    }
    monkeypatch.setattr(
        run, "command", lambda words, seconds: script_finished(0, outputs[Path(words[0]).name])
    )
    assert chip.limits(run) == {"rows": [1]}
    outputs["limits"] = "no device"
    with pytest.raises(RuntimeError, match="no device"):
        chip.limits(run)
    assert "note" in chip.hopper(run), "the GPU here is no Hopper"
    run.document["environment"]["gpu"]["compute_cap"] = "9.0"
    with pytest.raises(RuntimeError):  # nothing was written
        chip.hopper(run)
    for section, program in ((chip.simt, "simt_matmul"), (chip.rows, "rows")):
        assert section(run) == {"rows": [{"row": "time", "us": None}, {"row": "summary"}]}
        outputs[program] = '{"row": "error", "error": "no device"}'
        with pytest.raises(RuntimeError, match="no device"):
            section(run)


def test_figures_of_a_program_that_is_cut_short_count(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    source = f"import time; open({str(path)!r}, 'w').write('{{\"rows\": [1]}}'); time.sleep(30)"
    found = run.figures([sys.executable, "-c", source], path, 2.0)
    assert found["rows"] == [1]
    assert found["note"].startswith("stopped after 2 s")
    with pytest.raises(RuntimeError, match="nothing here"):
        run.figures([sys.executable, "-c", "raise SystemExit('nothing here')"], path, 20.0)


def test_the_suite_is_found() -> None:
    names = [path.name for path in script.test_files(Path(__file__).parent)]
    assert names[0] == "test_ops.py"
    assert Path(__file__).name not in names


def test_timing() -> None:
    clock, calls = Clock(0.001), []
    found = time_kernels.measure(lambda: calls.append(1), lambda: None, 1.0, clock)
    assert found["launches"] == 4  # a millisecond each
    assert found["us"] == 500.0
    assert found["issue_us"] == 250.0
    assert not found["host_bound"]
    assert found["batches"] == time_kernels.BATCHES


def test_slow_calls_are_repeated_less() -> None:
    found = time_kernels.measure(lambda: None, lambda: None, 1.0, Clock(2.0))
    assert (found["launches"], found["batches"]) == (1, 1)


@pytest.mark.parametrize("family", kernels.FAMILIES, ids=lambda family: family.__name__)
def test_kernels_agree_with_numpy(family: Callable[..., Iterator[kernels.Kernel]]) -> None:
    for kernel in family(ops, None, True):
        rows = list(time_kernels.time_kernel(kernel, None, 0.0))
        assert [row["who"] for row in rows] == ["edfcore", "numpy"]
        assert rows[0]["error"] < 1e-5, kernel.name
        assert rows[0]["bytes"] > 0
        json.dumps(rows, allow_nan=False)


def test_difference() -> None:
    assert kernels.difference(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert kernels.difference(np.zeros(0), np.zeros(0)) == 0.0
