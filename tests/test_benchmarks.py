"""The benchmarks on the CPU: that answers are compared, ratios are right, and a run writes what it should. No times."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numpy_edf

if not (Path(__file__).parent.parent / "benchmarks" / "run.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

from suite import limits, peers, problems, report, rows, schedule
from suite.limits import Limits

RUN = Path(__file__).parent.parent / "benchmarks" / "run.py"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a peer changes in this process beside the engine."""
    rate = numpy_edf.learning_rate
    yield
    numpy_edf.learning_rate = rate
    numpy_edf.clear_compgraph()


class Fake:
    """A peer that takes as long as it says, and answers what it is told to."""

    def __init__(self, name: str, us: float, answer: float = 1.0) -> None:
        self.name, self.us, self.answer = name, us, answer
        self.asked: list[int] = []

    def prepare(self, row: rows.Row, timeout: float) -> dict[str, Any]:
        return {"answer": [np.array([self.answer])], "seconds": self.us * 1e-6, "per_call": 2, "memory": None}

    def time(self, calls: int, timeout: float) -> float:
        self.asked.append(calls)
        return calls * self.us * 1e-6

    def drop(self) -> None:
        pass


class Missing(Fake):
    """A peer that does not know the row."""

    def prepare(self, row: rows.Row, timeout: float) -> dict[str, Any]:
        raise peers.PeerError("not supported", "no such op")


class Expected:
    """The right answer is 1."""

    def error(self, got: Sequence[Any]) -> float:
        return float(abs(got[0][0] - 1))


ROW = rows.Row("ops", "relu", "relu", "100", {}, flops=4e3, bytes=8e3, tolerance=1e-3, rounds=6)
MACHINE = Limits(1, 4.0, {1000: 16.0, 1_000_000: 2.0})


def measured(*workers: Fake, limit: float = 60.0) -> dict[str, dict[str, Any]]:
    clock = itertools.count(0, 0.01)
    found = schedule.measure(ROW, Expected(), workers, MACHINE, limit, limit, lambda: next(clock))
    return {r["who"]: r for r in found}


def test_a_wrong_answer_has_failed_and_is_no_ones_best() -> None:
    found = measured(
        Fake("edfcore", 4000), Fake("numpy", 8000), Fake("torch", 2000, 1.01), Fake("jax", 2.0, np.nan)
    )
    assert [found[who]["status"] for who in ("edfcore", "numpy", "torch", "jax")] == ["ok", "ok"] + [
        "failed"
    ] * 2
    assert found["torch"]["reason"] == "the error 0.01 is more than 0.001"
    assert found["torch"]["us"] == pytest.approx(1000)
    assert found["jax"]["error"] is None
    assert (found["edfcore"]["ratio"], found["edfcore"]["best_peer"]) == (pytest.approx(2.0), "numpy")
    text = report.row_text(list(found.values()))
    assert "FAILED: the error 0.01" in text
    assert "2.00 x numpy" in text


def test_a_wrong_answer_of_ours_has_no_ratio() -> None:
    found = measured(Fake("edfcore", 4000, 2.0), Fake("numpy", 8000), Missing("sklearn", 0))
    assert found["edfcore"]["status"] == "failed"
    assert "ratio" not in found["edfcore"]
    assert found["sklearn"]["reason"] == "no such op"


def test_figures() -> None:
    ours = measured(Fake("edfcore", 4000))["edfcore"]
    assert (ours["us"], ours["p20"], ours["p80"], ours["rounds"]) == (pytest.approx(2000),) * 3 + (6,)
    assert ours["gflop_per_s"] == pytest.approx(4e3 / 2e-3 / 1e9)
    assert ours["gb_per_s"] == pytest.approx(8e3 / 2e-3 / 1e9)
    assert ours["of_limit"] == pytest.approx(1.0 / 2000)
    assert "ratio" not in ours


def test_short_calls_are_timed_many_at_once_and_in_turns() -> None:
    fast, slow = Fake("edfcore", 10), Fake("numpy", 1e6)
    measured(fast, slow)
    assert fast.asked == [round(schedule.BATCH_SECONDS / 10e-6)] * ROW.rounds
    assert slow.asked == [1] * ROW.rounds


def test_without_time_a_row_says_so() -> None:
    found = measured(Fake("edfcore", 10), Fake("numpy", 10), limit=0.001)
    assert {r["status"] for r in found.values()} == {"no time"}
    assert "no time" in report.row_text(list(found.values()))


def test_percentiles() -> None:
    assert schedule.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert schedule.percentile([0.0, 10.0], 0.2) == 2.0
    assert schedule.percentile([7.0], 0.8) == 7.0


def test_the_limit_is_the_longer_of_arithmetic_and_memory() -> None:
    assert MACHINE.least_us(4e3, 8e3) == 1.0
    assert MACHINE.least_us(0, 8e6) == 4000.0
    assert MACHINE.least_us(0, 0) is None
    unknown = Limits(reason="there is none")
    assert unknown.least_us(1e6, 1e6) is None
    assert report.limits_text(unknown.as_json()) == "the machine's limit is unknown: there is none"


def test_without_a_compiler_the_limit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert limits.measure(1).reason == "there is no C++ compiler to measure it with"


def test_titles_differ() -> None:
    table = [*rows.train(), *rows.ops(200)]
    assert len({row.title for row in table}) == len(table)
    shapes = list(rows.random_shapes(200))
    assert shapes[:4] == list(rows.random_shapes(4))
    assert all(1 <= side <= 3000 for shape in shapes for side in shape)


SMALL = [
    *(rows.matmul((5, 7, 3), layout) for layout in ("nn", "nt", "tn", "tt")),
    rows.affine((5, 7, 3)),
    *(rows.elementwise(op, 33, backward) for op in rows.ACTIVATIONS for backward in (False, True)),
    *(rows.rowwise(op, 1 << 17, b) for op in ("softmax", "log_softmax", "loss") for b in (False, True)),
    *(rows.reduction(op, axis, (6, 8)) for op in ("sum", "mean", "max") for axis in (None, 0, 1)),
    *rows.movements(),
]
NETWORKS = [
    rows.network((4, 8, 2), 1),
    rows.network((5, 8, 6, 3), 4),
    rows.network((4, 8, 4), 20, activation="tanh", loss="squares", optimiser="adam", pool=1),
]


@pytest.mark.parametrize("who", ["edfcore", "edfcore-replay", "numpy", "edf-numpy"])
def test_peers_agree_with_float64(who: str) -> None:
    peer, known = peers.ENTRIES[who].load()(1), 0
    for row in SMALL + NETWORKS:
        if row.suite not in peers.ENTRIES[who].suites:
            continue
        problem = problems.make(row)
        try:
            program = peer.make(row, problem)
        except problems.Unsupported:
            continue
        assert problem.error(program.check()) <= row.tolerance, row.title
        assert program.time(2) > 0
        known += 1
    assert known >= 2


def test_errors_are_found() -> None:
    network, op = problems.make(NETWORKS[0]), problems.make(SMALL[0])
    assert isinstance(network, problems.Network)
    assert network.error(network.want) == 0
    assert network.error(network.first) == pytest.approx(1.0), "nothing was learnt"
    assert op.error([np.zeros((5, 4))]) == np.inf
    assert op.error([np.zeros((5, 3))]) == pytest.approx(1.0)


def test_without_data_the_row_is_skipped() -> None:
    fashion = next(row for row in rows.train() if row.op == "fashion")
    with pytest.raises(problems.Unsupported, match="--data"):
        problems.make(fashion)


def test_a_run_writes_its_results(tmp_path: Path) -> None:
    found, page = tmp_path / "found.json", tmp_path / "found.md"
    command = [sys.executable, str(RUN), "--suite", "train", "--rows", "4-64-2", "--no-limits",
               "--peers", "numpy", "--minutes", "0.1", "--json", str(found), "--markdown", str(page)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(found.read_text(encoding="utf-8"))
    assert document["schema"] == 1
    assert document["complete"]
    assert document["command"].endswith("--json found.json --markdown found.md")
    assert {"model", "cores"} <= document["cpu"].keys()
    assert document["peers"]["numpy"]["versions"] == {"numpy": np.__version__}
    assert [r["who"] for r in document["rows"]] == ["edfcore", "edfcore-replay", "numpy"]
    for r in document["rows"]:
        assert r["status"] == "ok", r
        assert r["error"] <= r["tolerance"]
        assert 0 < r["p20"] <= r["us"] <= r["p80"]
    ours, theirs = document["rows"][0], document["rows"][-1]
    assert ours["ratio"] == pytest.approx(theirs["us"] / ours["us"])
    assert ours["memory_bytes"] > 0
    assert "limit is unknown" in done.stdout
    assert "| 4-64-2 relu log-loss sgd, batch 1 | edfcore |" in page.read_text(encoding="utf-8")


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import plots

    found = [
        {**r, "op": op, "name": op, "size": size}
        for r in measured(Fake("edfcore", 4000), Fake("numpy", 8000), Fake("torch", 10, 2.0)).values()
        for op in ("matmul", "relu", "softmax", "mlp")
        for size in (10, 100)
    ]
    document = {"rows": found, "limits": MACHINE.as_json(), "cpu": {"model": "A processor"}, "threads": 1}
    written = plots.plot(document, tmp_path / "plots")
    assert [path.stem for path in written] == ["matmul", "elementwise", "rows", "train"]
    assert all(path.stat().st_size > 0 for path in written)
    assert {r["who"] for r in plots.panels(found)["train"]["mlp"]} == {"edfcore", "numpy"}, "torch was wrong"


def test_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    import run

    for words in (["--peers", "numpy,abacus"], ["--minutes", "0"], ["--threads", "0"]):
        with pytest.raises(SystemExit):
            run.parse(words)
        assert words[0] in capsys.readouterr().err
    assert run.parse(["--peers", "none"]).peers == []
