"""Graphs with nodes in NumPy run by plans between those nodes, and show what they show node by node, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core
from host_programs import Mean, Wave, compare, waves
from plan_programs import examples


@pytest.fixture(autouse=True)
def looked(device: str) -> Iterator[None]:
    _core.empty_cache(device)
    yield
    edf.keep("looked")


def test_a_classifier_is_planned_from_the_third_step_on(device: str) -> None:
    steps, parts = 8, 3  # the first Affine; the second; the third with its loss
    planned = compare(lambda see: waves(), steps)
    assert planned == 2 * parts * (steps - 2) + 2 * parts * steps  # the second time its plans are found


def test_plans_are_found_again_by_rebuilt_graphs(device: str) -> None:
    values: list[Any] = []

    def run() -> None:
        edf.clear_compgraph()
        loss = waves()
        for p, value in zip(edf.Parameters, values, strict=bool(values)):
            p.value = value
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        values[:] = [p.value.copy() for p in edf.Parameters]

    shown = []
    for how in ("all", "looked"):
        edf.keep(how)
        values.clear()
        edf.learning_rate = 0.1
        before = edf.plan_stats()
        for _ in range(9):
            run()
        shown.append(list(values))
        after = edf.plan_stats()
    for a, b in zip(*shown, strict=True):
        assert np.array_equal(a, b)
    assert after["segments"] - before["segments"] == 7 * 6
    assert after["compiled"] - before["compiled"] <= 12


@pytest.mark.parametrize("place", ["beginning", "end", "two in a row", "reads an input", "everywhere"])
def test_hosts_in_every_place(place: str, device: str) -> None:
    def program(see: Any) -> Any:
        x = edf.Input(examples(6)[0])
        w = edf.AffineParams(37, 9)
        h: Any = Wave(x) if place in {"beginning", "everywhere"} else x
        h = edf.Tanh(edf.Add(edf.Affine(w, h), edf.Square(edf.Affine(w, h))))
        if place in {"two in a row", "everywhere"}:
            h = Wave(Wave(h))
        if place in {"reads an input", "everywhere"}:
            h = edf.Affine(edf.AffineParams(46, 9), edf.Concat(h, Wave(x), axis=1))
        h = edf.Mul(edf.Sigmoid(h), edf.Softplus(edf.Sub(h, edf.Square(h))))
        return Mean(h) if place in {"end", "everywhere"} else edf.Mean(h, axis=1)

    def fresh(see: Any) -> Any:
        edf.seed(3)
        return program(see)

    assert compare(fresh) > 20


def test_a_graph_whose_nodes_are_all_in_numpy(device: str) -> None:
    def program(see: Any) -> Any:
        return Mean(Wave(edf.Parameter(np.ones((2, 3)))))

    assert compare(program) == 0


def test_a_data_error_in_a_segment(device: str) -> None:
    loss = waves()
    labels = loss.y
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    before = [p.value.copy() for p in edf.Parameters]
    good, labels.value = labels.value.copy(), [0, 1, 2, 9, 0, 1]

    def step() -> None:
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()  # where a GPU's error comes out

    with pytest.raises(edf.DataError, match=r"^\[log_loss\] input 1 holds 9 at position 3"):
        step()
    for now, then in zip(edf.Parameters, before, strict=True):
        assert np.array_equal(now.value, then)
    labels.value = good
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()
    assert np.isfinite(loss.value).all()


def test_parameters_change_between_the_calls(device: str) -> None:
    """By hand, by a parameter's own SGD, and by one that is the user's from the ground up."""

    class Halved(edf.Parameter):
        def SGD(self) -> None:
            self.value = self.value - 0.5 * edf.learning_rate * self.grad

    class Own:
        def __init__(self, value: Any) -> None:
            edf.Parameters.append(self)  # type: ignore[arg-type]
            self.value: Any = value
            self.grad: Any = 0

        def addgrad(self, delta: Any) -> None:
            self.grad = self.grad + np.sum(delta, axis=0)

        def SGD(self) -> None:
            self.value = self.value - edf.learning_rate * self.grad

    def program(see: Any) -> Any:
        edf.seed(3)
        w = Halved(np.linspace(-1, 1, 37 * 9).reshape(37, 9))
        h = edf.Affine([w, edf.Parameter(np.zeros(9))], edf.Input(examples(6)[0]))
        h = edf.Tanh(edf.Matmul(Wave(edf.Tanh(h)), Own(np.eye(9, dtype=np.float32))))
        return edf.Mean(edf.Square(h), axis=1)

    def after(i: int) -> None:
        if i % 3 == 0:
            edf.Parameters[1].value *= 0.5
        if i % 3 == 1:
            edf.Parameters[0].value = 0.5 * edf.Parameters[0].value

    assert compare(program, after=after) > 20


def test_a_loss_that_fuses_across_a_host(device: str) -> None:
    """Labels that are an object's begin a segment after the softmax that the loss is computed with."""

    class Labels:
        value = examples(6)[1]

    labels = Labels()

    def program(see: Any) -> Any:
        edf.seed(3)
        h = Wave(edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0])))
        return edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(9, 5), h)), labels)

    assert compare(program) == 0  # node by node


def test_memory_does_not_grow(device: str) -> None:
    loss, seen = waves(), []
    for _ in range(12):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        stats = edf.memory_stats()
        seen.append((stats["allocations"], stats["bytes"], stats["peak_bytes"]))
    per_step = {b[0] - a[0] for a, b in itertools.pairwise(seen[5:])}
    assert len(per_step) == 1
    assert len({s[1:] for s in seen[5:]}) == 1


def test_evaluation_between_training_steps(device: str) -> None:
    """Other batch sizes, Forward alone, and gradients of several Backwards for one Forward."""

    def program(see: Any) -> Any:
        loss = waves()
        state[:] = [see, loss]
        return loss

    state: list[Any] = []

    def after(i: int) -> None:
        see, loss = state
        x, y = edf.CompNodes[0].x, loss.y
        for n in (9, 4):
            x.value, y.value = examples(n)
            edf.Forward()
            see(loss.value)
        x.value, y.value = examples(6)
        edf.Forward()
        for _ in range(2):
            edf.Backward(loss)
            see(edf.Parameters[0].grad)

    assert compare(program, after=after) > 50
