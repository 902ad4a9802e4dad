"""Momentum and Adam, on graphs that are run node by node and as plans, against the formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core
from plan_programs import GRAPHS, examples, mlp
from references import Array

RATE = 0.05
RULES: dict[str, Callable[[], None]] = {"Momentum": edf.Momentum, "Adam": edf.Adam}


class Reference:
    """One parameter's update, in float64."""

    def __init__(self, name: str, value: Array) -> None:
        self.name, self.value, self.t = name, value.astype(np.float64), 0
        self.m = self.v = np.zeros(value.shape)

    def step(self, g: Array) -> None:
        self.t += 1
        if self.name == "Momentum":
            self.m = 0.9 * self.m + g
            self.value = self.value - RATE * self.m
            return
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        mean, size = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        self.value = self.value - RATE * mean / (np.sqrt(size) + 1e-8)


def make(dtype: Any) -> Any:
    edf.DT, edf.learning_rate = dtype, RATE
    x, y, loss = mlp([37, 11, 5], edf.Tanh)
    x.value, y.value = examples(6)
    return loss


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RULES)
def test_updates_are_those_of_the_formulas(name: str, dtype: Any, device: str) -> None:
    loss = make(dtype)
    references = [Reference(name, p.value) for p in edf.Parameters]
    for _ in range(12):
        edf.Forward()
        edf.Backward(loss)
        for reference, p in zip(references, edf.Parameters, strict=True):
            reference.step(p.grad.astype(np.float64))
        RULES[name]()
        for reference, p in zip(references, edf.Parameters, strict=True):
            rtol, atol = (1e-12, 1e-13) if dtype == np.float64 else (2e-5, 2e-6)
            np.testing.assert_allclose(p.value, reference.value, rtol=rtol, atol=atol)
            reference.value = p.value.astype(np.float64)


@pytest.mark.parametrize("name", RULES)
def test_nobody_needs_to_look(name: str, device: str) -> None:
    """Plans and steps node by node give the same bits, and the loss goes down."""
    shown = []
    for keep in ("all", "looked"):
        edf.keep(keep)  # "looked" comes last, and stays
        edf.clear_compgraph()
        loss = make(np.float32)
        first = last = 0.0
        for i in range(20):
            edf.Forward()
            edf.Backward(loss)
            RULES[name]()
            if i in (0, 19):
                first, last = last, float(loss.value.mean())
        assert last < first / 2
        shown.append([p.value.copy() for p in edf.Parameters])
    for a, b in zip(*shown, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", RULES)
def test_what_is_kept_can_be_taken_along(name: str, device: str) -> None:
    """A run that is stopped, and resumed with what `optimised` and the values held, ends like one that was not."""

    def train(loss: Any, steps: int) -> None:
        for _ in range(steps):
            edf.Forward()
            edf.Backward(loss)
            RULES[name]()

    loss = make(np.float32)
    train(loss, 9)
    whole = [p.value.copy() for p in edf.Parameters]
    edf.clear_compgraph()
    loss = make(np.float32)
    train(loss, 4)
    saved = [(p.value.copy(), p.optimised) for p in edf.Parameters]
    assert all(kept[2] == 4 and kept[0].shape == value.shape for value, kept in saved)
    assert all((kept[1] is None) == (name == "Momentum") for _, kept in saved)
    edf.clear_compgraph()
    loss = make(np.float32)
    for p, (value, kept) in zip(edf.Parameters, saved, strict=True):
        p.value, p.optimised = value, kept
    train(loss, 5)
    for p, value in zip(edf.Parameters, whole, strict=True):
        np.testing.assert_array_equal(p.value, value)


def test_a_parameter_that_no_gradient_reaches_stays(device: str) -> None:
    loss = make(np.float32)
    alone = edf.Parameter(np.ones(3))
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.Adam()
    np.testing.assert_array_equal(alone.value, np.ones(3))


def trained(keep: str, program: Callable[[int, Any], None], dtype: Any = np.float32) -> list[Any]:
    """Values, moments and counts of all parameters after 9 steps of `program(step, loss)`."""
    edf.keep(keep)
    edf.clear_compgraph()
    _core.empty_cache(edf.get_device())
    edf.DT, edf.learning_rate = dtype, RATE
    x, y, loss = GRAPHS["beside"]()  # with a parameter that is read, but no gradient reaches it
    x.value, y.value = examples(6)
    edf.Parameters[-1].optimised = np.full(3, 2.0), np.full(3, 3.0), 4
    for i in range(9):
        edf.Forward()
        edf.Backward(loss)
        program(i, loss)
    edf.keep("looked")
    return [[p.value.copy(), *p.optimised] for p in edf.Parameters]


def same(a: Any, b: Any) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


PROGRAMS: dict[str, Callable[[int, Any], None]] = {
    "Momentum": lambda i, loss: edf.Momentum(),
    "Adam": lambda i, loss: edf.Adam(),
    "other numbers": lambda i, loss: edf.Adam(0.9 - 0.1 * (i // 3), 0.999, 1e-8 * (1 + i % 2)),
    "one after the other": lambda i, loss: (edf.SGD, edf.Momentum, edf.Adam)[i % 3](),
    "looks": lambda i, loss: (edf.Adam(), loss.value, i % 2 and edf.Parameters[0].grad, None)[-1],
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PROGRAMS)
def test_plans_keep_what_steps_node_by_node_keep(name: str, dtype: Any, device: str) -> None:
    want, got = (trained(keep, PROGRAMS[name], dtype) for keep in ("all", "looked"))
    for one, other in zip(want, got, strict=True):
        assert all(map(same, one, other))
    assert not np.array_equal(got[-1][0], np.ones(3)), "what was kept moves it, without a gradient"


@pytest.mark.parametrize("name", RULES)
def test_the_update_is_part_of_the_plan(name: str, device: str) -> None:
    """A plan that ends with the gradients would keep those of all parameters."""
    _core.empty_cache(device)
    before, loss = edf.plan_stats()["compiled"], make(np.float32)
    for _ in range(9):
        edf.Forward()
        edf.Backward(loss)
        RULES[name]()
    x = edf.CompNodes[0].inputs[0]
    x.value = np.zeros((6, 37))  # the last step is done
    assert edf.plan_stats()["compiled"] == before + 1
    with pytest.raises(edf.GraphError, match=r"\[Parameter\] its gradient is gone"):
        _ = edf.Parameters[0].grad


@pytest.mark.parametrize("name", RULES)
def test_a_step_that_fails_leaves_what_is_kept(name: str) -> None:
    """Also where nothing was kept before."""
    was = _core.set_straight_runs(0)
    try:
        loss = make(np.float32)
        labels = loss.inputs[1]
        for bad in range(2):
            before = [(p.value.copy(), *p.optimised) for p in edf.Parameters]
            labels.value = [0, 1, 7, 0, 1, 2]
            edf.Forward()
            edf.Backward(loss)
            RULES[name]()
            with pytest.raises(edf.DataError, match="holds 7 at position 2"):
                _ = loss.value
            for p, kept in zip(edf.Parameters, before, strict=True):
                assert all(map(same, (p.value, *p.optimised), kept))
                assert p.optimised[2] == bad
            labels.value = examples(6)[1]
            edf.Forward()
            edf.Backward(loss)
            RULES[name]()
    finally:
        _core.set_straight_runs(was)


def test_all_parameters_are_checked_before_one_moves(device: str) -> None:
    loss = make(np.float32)
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.Adam()
    before = [p.value.copy() for p in edf.Parameters]
    edf.Forward()
    edf.Backward(loss)
    edf.Parameter(np.ones(2))
    with pytest.raises(edf.GraphError, match="a parameter has no gradient yet"):
        edf.Adam()
    assert all(np.array_equal(p.value, b) for p, b in zip(edf.Parameters, before, strict=False))
    edf.Parameters.pop()
    edf.Adam()
    assert edf.Parameters[0].optimised[2] == 5


def test_wrong_uses(device: str) -> None:
    loss = make(np.float32)
    with pytest.raises(
        edf.GraphError, match=r"^\[adam\] a parameter has no gradient yet: call Backward\(loss\) first"
    ):
        edf.Adam()
    edf.Forward()
    edf.Backward(loss)
    p = edf.Parameters[0]
    with pytest.raises(
        edf.ShapeError, match=r"a moment of shape \(3,\) was given to a parameter of shape \(37, 11\)"
    ):
        p.optimised = np.zeros(3), None, 1

    class Own(edf.Parameter):
        def SGD(self) -> None:
            pass

    Own(np.ones(2))
    with pytest.raises(
        edf.GraphError, match=r"^Momentum: Parameters\[4\] is a Own, which the engine does not update"
    ):
        edf.Momentum()
    edf.Parameters.pop()
    edf.Momentum()


def test_bad_labels_move_nothing(device: str) -> None:
    loss = make(np.float32)
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.Adam()
    before = [(p.value.copy(), p.optimised[0]) for p in edf.Parameters]
    loss.inputs[1].value = [0, 1, 7, 0, 1, 2]

    def step() -> None:
        edf.Forward()
        edf.Backward(loss)
        edf.Adam()
        _ = loss.value

    with pytest.raises(edf.DataError, match="holds 7 at position 2"):
        step()
    for p, (value, moment) in zip(edf.Parameters, before, strict=True):
        np.testing.assert_array_equal(p.value, value)
        np.testing.assert_array_equal(p.optimised[0], moment)
    assert _core.find_op("adam").no_grad


@pytest.mark.parametrize("late", [0, 1, 3], ids=lambda late: f"{late} steps later")
@pytest.mark.parametrize("keep", ["looked", "all"])
@pytest.mark.parametrize("name", RULES)
def test_a_step_that_fails_is_not_counted(name: str, keep: str, late: int, device: str) -> None:
    """Nor are those that a device is given before its error is looked at: the next good step is the next one."""
    if device == "cpu" and late:
        pytest.skip("the step itself says so")
    edf.keep(keep)
    try:
        loss = make(np.float64)
        empty = edf.Parameter(np.ones((0, 3)))
        references = [Reference(name, p.value) for p in edf.Parameters[:-1]]
        labels, good = loss.inputs[1], examples(6)[1]

        def step() -> None:
            edf.Forward()
            edf.Backward(loss)
            RULES[name]()

        def failing() -> None:
            step()
            labels.value = good
            for _ in range(late):
                step()
            _ = empty.optimised

        for taken in range(9):
            if taken in (0, 1, 6):
                labels.value = [0, 1, 7, 0, 1, 2]
                with pytest.raises(edf.DataError, match="holds 7 at position 2"):
                    failing()
                labels.value = good
            assert [p.optimised[2] for p in edf.Parameters] == [taken] * 5
            edf.Forward()
            edf.Backward(loss)
            grads = [p.grad.copy() for p in edf.Parameters]
            RULES[name]()
            for reference, p, grad in zip(references, edf.Parameters, grads, strict=False):
                reference.step(grad)
                np.testing.assert_allclose(p.value, reference.value, rtol=1e-12, atol=1e-13)
                reference.value = p.value.copy()
    finally:
        edf.keep("looked")
