"""What nodes in NumPy cost in copies on a GPU: `edf.plan` shows it for the step that ran last."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from host_programs import Wave
from plan_programs import examples

HIDDEN = 6 * 11 * 4  # bytes of the value that goes through NumPy, in float32


def program() -> tuple[Any, Any, Any]:
    edf.clear_compgraph()
    edf.seed(0)
    x, y = edf.Input(), edf.Input()
    h = edf.Relu(edf.Affine(edf.AffineParams(37, 11), x))
    s = edf.Affine(edf.AffineParams(11, 5), Wave(h))
    return x, y, edf.LogLoss(edf.Softmax(s), y)


def steps(x: Any, y: Any, loss: Any, count: int) -> Any:
    for _ in range(count):
        x.value, y.value = examples(6)
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    return edf.plan(loss)


@pytest.mark.parametrize("count", [1, 5], ids=["node by node", "by plans"])
def test_a_node_in_numpy_shows_its_copies(count: int, device: str) -> None:
    plan = steps(*program(), count)
    lines = str(plan).splitlines()
    assert str(plan) == plan.describe()
    assert (plan.segments, plan.host_calls) == (2, 1)
    where = "cpu" if device == "cpu" else "cuda:0"
    assert lines[0].startswith(f"2 segments and 1 host_call on {where}, ")
    ours = [line for line in lines if not line.startswith("      ")]
    if device == "cpu":
        assert lines[0].endswith("no copies: NumPy has the engine's own memory")
        assert (plan.bytes_to_host, plan.bytes_to_device) == (0, 0)
        assert ours[1:] == [
            "  0 segment 0: affine, relu",
            "  2 host_call Wave",
            "  3 segment 1 (reads NumPy): affine, softmax, log_loss",
        ]
        return
    # Forward: the value down to NumPy, and what NumPy made of it up. Backward: the gradient down, and the one
    # that NumPy made of it up; the value is there already.
    assert ours[1] == "  0 segment 0: affine, relu"
    assert ours[2] == (
        f"  2 host_call Wave; Forward {HIDDEN} bytes to the host; Backward {HIDDEN} bytes to the device"
    )
    assert ours[3] == (
        f"  3 segment 1 (reads NumPy; Forward {HIDDEN} bytes to the device; Backward {HIDDEN} bytes to the host): "
        "affine, softmax, log_loss"
    )
    assert plan.bytes_to_host == 2 * HIDDEN
    assert 2 * HIDDEN <= plan.bytes_to_device <= 3 * HIDDEN
    assert f"copies in the last step: {plan.bytes_to_host:,} bytes to the host, " in lines[0]
    shown = sum(
        int(n.replace(",", ""))
        for line in ours[1:]
        for n in re.findall(r"([\d,]+) bytes to the device", line)
    )
    assert shown == plan.bytes_to_device


def test_plans_of_segments_are_shown(device: str) -> None:
    text = str(steps(*program(), 5))
    assert text.count("      Forward: ") == 2
    assert text.count("      Backward: ") == 2
    assert "affine: " in text


def test_before_a_step_the_copies_are_not_known(device: str) -> None:
    _, _, loss = program()
    text = str(edf.plan(loss))
    assert "2 segments and 1 host_call" in text
    assert ("is known after a step" in text) == (device == "cuda")


def test_another_graph_shows_its_own_copies(device: str) -> None:
    first = program()
    steps(*first, 3)
    graph = edf.CompNodes
    steps(*program(), 2)
    edf.CompNodes = graph
    plan = edf.plan(first[2])
    assert ("is known after a step" in str(plan)) == (device == "cuda")
    assert (plan.bytes_to_host, plan.bytes_to_device) == (0, 0)


def test_a_larger_minibatch_costs_more(device: str) -> None:
    x, y, loss = program()
    steps(x, y, loss, 3)
    x.value, y.value = examples(12)
    edf.Forward()
    edf.Backward(loss)
    assert edf.plan(loss).bytes_to_host == (4 * HIDDEN if device == "cuda" else 0)


def test_replay_reads_tensors_where_they_lie(device: str) -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(400, 37)).astype(np.float32), rng.integers(0, 5, 400)
    found = []
    for resident in (False, True):
        edf.clear_compgraph()
        edf.seed(0)
        x, y = edf.Input(), edf.Input()
        loss = edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(37, 5), x)), y)
        feeds = {x: edf.Tensor(X), y: edf.Tensor(Y)} if resident else {x: X, y: Y}
        before = edf.memory_stats()["bytes"]
        edf._core.reset_peak_memory(edf.get_device())
        losses = [*edf.replay(loss, feeds, batch_size=8), *edf.replay(loss, feeds, batch_size=8)]
        grown = edf.memory_stats()["peak_bytes"] - before
        assert (grown >= X.nbytes) == (device == "cuda" and not resident), grown
        found.append([np.array(losses), *(p.value.copy() for p in edf.Parameters)])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_replay_takes_tensors_of_other_kinds_and_places(device: str) -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(40, 37)), rng.integers(0, 5, 40)
    found = []
    for feed in (X, edf.Tensor(X), edf.Tensor(X, device="cpu")):
        edf.clear_compgraph()
        edf.seed(0)
        x, y = edf.Input(), edf.Input()
        loss = edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(37, 5), x)), y)
        found.append(edf.replay(loss, {x: feed, y: Y}, batch_size=8))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
