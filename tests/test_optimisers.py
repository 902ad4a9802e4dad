"""Momentum and Adam, on graphs that are run node by node and as plans, against the formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core
from plan_programs import examples, mlp
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
