"""Graphs that run within a step of another, and updates asked for by hand: as node by node, or an error."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core

Act = Callable[[], object]
STEPS = 6


class Host(edf.CompNode):
    """A node in NumPy that hands its input on, and does something else in the middle of a step."""

    def __init__(self, x: Any, forward: Act = int, backward: Act = int) -> None:
        edf.CompNodes.append(self)
        self.x, self.acts = x, (forward, backward)

    def forward(self) -> None:
        self.value = self.x.value * 1
        self.acts[0]()

    def backward(self) -> None:
        self.acts[1]()
        self.x.addgrad(self.grad)


def leaves() -> tuple[Any, Any]:
    edf.clear_compgraph()
    edf.DT, edf.learning_rate = np.float32, 0.1
    return edf.Input(np.ones((4, 3))), edf.Parameter(np.linspace(-1, 1, 9).reshape(3, 3))


def squares(x: Any, w: Any) -> Any:
    """Make a loss of one product, in a list of its own; return it with what trains it."""
    outer, edf.CompNodes = edf.CompNodes, []
    loss = edf.Mean(edf.Square(edf.Matmul(x, w)), axis=1)
    inner, edf.CompNodes = edf.CompNodes, outer

    def run(train: bool) -> None:
        nodes, parameters = edf.CompNodes, edf.Parameters
        edf.CompNodes, edf.Parameters = inner, [w]
        edf.Forward()
        if train:
            edf.Backward(loss)
            edf.SGD()
        edf.CompNodes, edf.Parameters = nodes, parameters

    return SimpleNamespace(loss=loss, nodes=inner, run=run)


def same(program: Callable[[], list[Any]], device: str) -> None:
    """Run it node by node and by plans, which are to give the same numbers."""
    _core.empty_cache(device)
    seen = {}
    for how in ("all", "looked"):
        edf.keep(how)
        seen[how] = program()
    assert len(seen["all"]) == STEPS
    assert np.array_equal(seen["all"], seen["looked"]), seen


def test_a_node_that_trains_a_graph_of_its_own_in_forward(device: str) -> None:
    def program() -> list[Any]:
        x, w = leaves()
        inner = squares(x, w)
        h = Host(edf.Tanh(x), forward=lambda: inner.run(train=True))
        loss = edf.Mean(edf.Matmul(h, w), axis=1)
        seen = []
        for _ in range(STEPS):
            edf.Forward()
            seen.append(loss.value.copy())
        return seen

    same(program, device)


def test_a_node_that_trains_a_graph_of_its_own_in_backward(device: str) -> None:
    def program() -> list[Any]:
        x, w = leaves()
        inner = squares(x, w)
        a = edf.Tanh(edf.Matmul(x, w))
        h = Host(a, backward=lambda: inner.run(train=True))
        loss = edf.Mean(edf.Mul(edf.Matmul(h, w), a), axis=1)
        seen = []
        for _ in range(STEPS):
            edf.Forward()
            edf.Backward(loss)
            seen.append(w.grad.copy())
        return seen

    same(program, device)


def test_what_a_graph_within_made_is_read_behind_it(device: str) -> None:
    def program() -> list[Any]:
        x, w = leaves()
        inner = squares(x, w)
        h = Host(x, forward=lambda: inner.run(train=False))
        loss = edf.Mul(edf.Mean(h, axis=1), inner.loss)
        seen = []
        for i in range(STEPS):
            x.value = np.full((4, 3), 0.25 * i)
            edf.Forward()
            seen.append(loss.value.copy())
        return seen

    same(program, device)


def test_an_update_that_trains_a_graph_of_its_own(device: str) -> None:
    def program() -> list[Any]:
        x, w = leaves()
        inner = squares(x, w)
        scale = edf.Parameter(np.ones((1, 3)))
        scale.SGD = lambda: inner.run(train=True)
        edf.Parameters.reverse()  # it goes first, and the engine's own update after it
        loss = edf.Mean(edf.Mul(edf.Tanh(edf.Matmul(x, w)), scale), axis=1)
        seen = []
        for _ in range(STEPS):
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
            seen.append(w.value.copy())
        return seen

    same(program, device)


def test_a_second_backward_of_a_list_that_was_changed(device: str) -> None:
    def program() -> list[Any]:
        x, w = leaves()
        h = Host(edf.Tanh(edf.Sigmoid(edf.Exp(edf.Matmul(x, w)))))
        loss = edf.Mean(edf.Square(h), axis=1)
        idle = SimpleNamespace(forward=lambda: None, backward=lambda: None)
        seen = []
        for i in range(STEPS):
            edf.Forward()
            edf.Backward(loss)
            if i == STEPS - 2:
                edf.CompNodes.insert(2, idle)
                edf.Backward(loss)
            seen.append(w.grad.copy())
            edf.SGD()
        return seen

    same(program, device)


@pytest.mark.parametrize("hosted", [False, True])
def test_a_reshape_does_not_show_what_is_written_into_its_input(hosted: bool, device: str) -> None:
    def program() -> list[Any]:
        x, w = leaves()
        h = edf.Matmul(x, w)
        r = edf.Reshape(h, (2, 2, 3))
        kept = Host(r) if hosted else r
        loss = edf.Mean(edf.Square(kept), axis=(1, 2))
        seen = []
        for _ in range(STEPS):
            edf.Forward()
            array = h.value
            array[array < 0] = 0
            edf.Backward(loss)
            seen.append(w.grad.copy())
            edf.SGD()
        return seen

    same(program, device)


def by_hand(last: Callable[[Any, Any, Any], object], hosted: bool) -> Any:
    """Train by plans, and then ask for something by hand."""
    x, w = leaves()
    v = edf.Parameter(np.ones((1, 3)))
    h = edf.Matmul(x, w)
    t = edf.Tanh(edf.Mul(h, v))
    loss = edf.Mean(edf.Square(edf.Sigmoid(Host(t)) if hosted else t), axis=1)
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        edf.memory_stats()
    last(h, w, v)
    return w.value.copy()


def descend_again(h: Any, w: Any, v: Any) -> None:
    edf.Forward()
    w.SGD()


def freeze_one(h: Any, w: Any, v: Any) -> None:
    v.SGD = lambda: None
    edf.SGD()


def pass_back(h: Any, w: Any, v: Any) -> None:
    h.backward()
    w.SGD()


@pytest.mark.parametrize("last", [descend_again, freeze_one, pass_back], ids=lambda f: f.__name__)
@pytest.mark.parametrize("hosted", [False, True])
def test_what_is_gone_is_never_taken_for_zero(last: Any, hosted: bool, device: str) -> None:
    """Asked for by hand, a gradient that a plan did without is an error once, and then there."""
    _core.empty_cache(device)
    edf.keep("all")
    want = by_hand(last, hosted)
    edf.keep("looked")
    gone = 0
    for _ in range(6):
        try:
            got = by_hand(last, hosted)
        except edf.GraphError as error:
            if "is gone" not in str(error):
                raise
            gone += 1
            continue
        assert np.array_equal(got, want)
    assert gone < 4


def test_a_matrix_that_is_written_between_forward_and_backward(device: str) -> None:
    """Products in both phases take it transposed, which Forward must not do for Backward."""

    def program() -> list[Any]:
        x, w = leaves()
        a = edf.Tanh(edf.Matmul(x, w, trans_b=True))
        b = edf.Tanh(edf.Matmul(a, w, trans_b=True))
        c = edf.Tanh(edf.Matmul(edf.Matmul(b, w), w))
        loss = edf.Mean(edf.Square(c), axis=1)
        seen = []
        for _ in range(STEPS):
            edf.Forward()
            seen.append(a.value.sum())
            w.value *= 0.5
            edf.Backward(loss)
            edf.SGD()
            seen[-1] += w.value.sum()
        return seen

    same(program, device)


def test_a_look_at_the_gradient_of_an_argmax_in_the_middle_of_backward(device: str) -> None:
    x, w = leaves()
    a = edf.Matmul(x, w)
    best = edf.Argmax(a, axis=1)
    seen: list[Any] = []
    h = Host(edf.Tanh(a), backward=lambda: seen.append(best.grad))
    loss = edf.Mean(edf.Square(h), axis=1)
    for _ in range(STEPS):
        edf.Forward()
        edf.Backward(loss)
        assert not seen.pop().any()
        assert w.grad.any()
        edf.SGD()
