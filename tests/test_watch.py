"""Watching: the first value that is not finite is named with its place, and the times of ops become a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edfcore as edf
from plan_programs import examples, mlp


@pytest.fixture(autouse=True)
def debugging() -> Iterator[None]:
    edf.debug(nan=True)
    yield
    edf.debug(nan=False)


def line_of_log() -> tuple[edf.Input, edf.OpNode]:
    x = edf.Input()
    return x, edf.Log(edf.Square(x))


def test_the_first_infinity_is_named(device: str) -> None:
    x, y = line_of_log()
    edf.Neg(y)
    x.value = np.array([[1.0, 2.0, 0.0], [4.0, 5.0, 6.0]])
    with pytest.raises(edf.DataError) as caught:
        edf.Forward()
    assert str(caught.value) == (
        "[log] made -inf at position 2 of (2, 3): input 0 (2, 3) from 0 to 36. Node made at test_watch.py:25."
    )
    edf.debug(nan=False)
    edf.Forward()
    assert y.value[0, 2] == -np.inf


def test_data_that_are_not_finite_are_told_from_ops() -> None:
    x = edf.Input()
    edf.Relu(x)
    x.value = np.array([1.0, np.nan, 3.0])
    with pytest.raises(
        edf.DataError, match=r"\[relu\] made nan at position 1 of \(3,\): input 0 \(3,\) from 1 to 3 with 1"
    ):
        edf.Forward()


def test_backward_names_the_node_whose_gradient_it_is(device: str) -> None:
    p = edf.Parameter(np.array([4.0, 0.0]))
    loss = edf.Sqrt(p)
    edf.Forward()
    with pytest.raises(edf.DataError) as caught:
        edf.Backward(loss)
    assert str(caught.value).startswith(
        "[sqrt_grad] made inf at position 1 of (2,): input 0 (2,) all 0.5, input 1 (2,) "
    )
    assert str(caught.value).endswith("In the gradient of [sqrt]. Node made at test_watch.py:54.")


def test_eager_ops_too() -> None:
    with pytest.raises(
        edf.DataError,
        match=r"\[div\] made inf at position 0 of \(\): input 0 \(\) all 1, input 1 \(\) all 0\.",
    ):
        edf.Tensor(1.0) / edf.Tensor(0.0)


def test_replay_stops_there_and_otherwise_gives_the_same() -> None:
    X, Y = examples(20)
    found = []
    for nan in (True, False):
        edf.debug(nan=nan)
        edf.clear_compgraph()
        x, y, loss = mlp([37, 6, 5], edf.Tanh)
        found.append(edf.replay(loss, {x: X, y: Y}, batch_size=7))
    assert np.array_equal(*found)
    edf.debug(nan=True)
    edf.clear_compgraph()
    x, y, loss = mlp([37, 6, 5], edf.Log)
    with pytest.raises(
        edf.DataError, match=r"\[log\] made nan at position \d+ of \(7, 6\): input 0 \(7, 6\) from -"
    ):
        edf.replay(loss, {x: X, y: Y}, batch_size=7)


def test_a_trace_holds_every_op(tmp_path: Path, device: str) -> None:
    X, Y = examples(20)
    x, y, loss = mlp([37, 6, 5])
    x.value, y.value = X, Y
    path = tmp_path / "trace.json"
    with edf.trace(path):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        edf.ops.relu(edf.Tensor(1.0))
    events = json.loads(path.read_text())["traceEvents"]
    phases = [event["cat"] for event in events]
    assert [e["name"] for e in events if e["cat"] == "forward"] == [
        "affine",
        "relu",
        "affine",
        "softmax",
        "log_loss",
    ]
    assert phases.count("eager") == 1
    assert [e["name"] for e in events if e["cat"] == "backward"].count("sgd") == 4
    assert events[0]["args"]["shape"] == "(20, 6)"
    assert all(event["dur"] >= 0 for event in events)
    starts = [event["ts"] for event in events]
    assert starts == sorted(starts)
    with edf.trace(path):
        edf.replay(loss, {x: X, y: Y}, batch_size=10)
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["cat"] for event in events} == {"plan"}
    assert [event["name"] for event in events].count("log_loss") == 2


def test_a_trace_is_written_when_the_block_fails(tmp_path: Path) -> None:
    x, _ = line_of_log()
    x.value = np.zeros(2)
    with pytest.raises(edf.DataError), edf.trace(tmp_path / "t.json"):
        edf.Forward()
    assert [e["name"] for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"]] == [
        "square",
        "log",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_an_infinite_gradient_in_a_replay_moves_no_parameter(device: str) -> None:
    x = edf.Input()
    W = edf.Parameter(np.full((3, 2), 1e-20))
    V = edf.Parameter(np.ones((2, 2)))
    h = edf.Scale(edf.Matmul(x, W), 1e10)  # finite, but the gradient of W is not
    loss = edf.Mean(edf.Matmul(h, V), axis=1)
    before = [p.value.copy() for p in (W, V)]
    edf.learning_rate = 0.1
    edf.debug(nan=True)
    try:
        with pytest.raises(edf.DataError, match=r"\[matmul\] made -?inf.*In replay") as raised:
            edf.replay(loss, {x: np.full((4, 3), 1.5e38, np.float32)}, batch_size=4)
    finally:
        edf.debug(nan=False)
    assert "no minibatch from here on was learnt from" in str(raised.value)
    for p, value in zip((W, V), before, strict=True):
        np.testing.assert_array_equal(p.value, value)


def after_plans(loss: edf.OpNode, x: edf.Input, bad: np.ndarray) -> None:
    """Watching begins between Forward and Backward of a step that runs as a plan, whose data are bad."""
    edf.debug(nan=False)
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    x.value = bad
    edf.Forward()
    edf.debug(nan=True)


def test_steps_that_run_together_are_watched_from_the_middle_of_a_step(device: str) -> None:
    edf.learning_rate = 0.0
    p, x = edf.Parameter(np.ones(4)), edf.Input(np.ones(4))
    edf.keep(p)
    loss = edf.Mean(edf.Tanh(edf.Scale(edf.Sqrt(edf.Mul(p, x)), 1.5)))
    after_plans(loss, x, np.zeros(4))
    edf.Backward(loss)
    with pytest.raises(edf.DataError, match=r"made nan at position 0"):
        p.grad.sum()


def test_a_product_with_sums_beside_it_is_watched(device: str) -> None:
    edf.DT, edf.learning_rate = np.float32, 0.0
    params, x = edf.AffineParams(4, 3), edf.Input(np.ones((5, 4)))
    edf.keep(params.w)
    edf.keep(params.b)
    loss = edf.Sum(edf.Mul(edf.Affine(params, x), edf.Input(np.full((5, 3), 2.0))))
    after_plans(loss, x, np.full((5, 4), 1.5e38))
    edf.Backward(loss)
    with pytest.raises(edf.DataError, match=r"\[matmul\] made inf at position 0"):
        params.w.grad.sum()
