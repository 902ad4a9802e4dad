"""What a node in NumPy may do in the middle of a step that runs by plans: the bits are those of node by node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core
from host_programs import Wave, compare, segments, waves
from plan_programs import examples


@pytest.fixture(autouse=True)
def looked(device: str) -> Iterator[None]:
    _core.empty_cache(device)
    yield
    edf.keep("looked")


def test_late_looks_of_a_host(device: str) -> None:
    """From some step on it reads a value, a gradient and a parameter that it has not read before."""

    def program(see: Any) -> Any:
        count = [0]

        def forward() -> None:
            count[0] += 1
            if count[0] > 4:
                see(h[0].value)
                see(edf.Parameters[0].value)

        def backward() -> None:
            if count[0] > 5:
                see(h[1].grad)
                see(h[0].value)
                see(edf.Parameters[-1].grad)

        edf.seed(3)
        x = edf.Input(examples(6)[0])
        h = [edf.Affine(edf.AffineParams(37, 9), x)]
        h += [edf.Sigmoid(h[0]), edf.Exp(edf.Neg(edf.Square(h[0])))]
        a = Wave(edf.Mul(h[1], h[2]), forward, backward)
        return edf.Mean(edf.Affine(edf.AffineParams(9, 4), a), axis=1)

    assert compare(program) > 20


def test_a_gradient_that_is_looked_at_late_is_gone_once(device: str) -> None:
    loss = waves()
    hidden = edf.CompNodes[-3]  # the last Affine
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    with pytest.raises(edf.GraphError, match=r"\[affine\] its gradient is gone"):
        _ = hidden.grad
    edf.Forward()
    edf.Backward(loss)
    assert hidden.grad.shape == hidden.shape


@pytest.mark.parametrize("first", ["grad", "value"])
def test_a_gradient_that_is_looked_at_before_the_update_is_computed(first: str, device: str) -> None:
    """Of each node in turn, in a step of its own, after its value or alone."""
    shown: list[list[Any]] = []
    for how in ("all", "looked"):
        edf.keep(how)
        edf.clear_compgraph()
        edf.seed(4)
        loss, seen = waves(), []
        ours = [node for node in edf.CompNodes if isinstance(node, edf.CompNode)]
        assert len(ours) > 5
        for step in range(4 + len(ours)):
            edf.Forward()
            edf.Backward(loss)
            for node in ours[step - 4 : step - 3] if step >= 4 else []:
                seen += [node.value.copy()] if first == "value" else []
                seen.append(node.grad.copy())
            edf.SGD()
        shown.append(seen)
    for a, b in zip(*shown, strict=True):
        assert np.array_equal(a, b)


def test_a_gradient_is_computed_beside_a_host_that_holds_a_value(device: str) -> None:
    """Whether it has written it is seen by computing it once more."""

    class Turn:
        grad: Any

        def __init__(self, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x

        def forward(self) -> None:
            self.value = self.x.value.T  # the engine's own memory

        def backward(self) -> None:
            self.x.addgrad(self.grad.T)

        def addgrad(self, delta: Any) -> None:
            self.grad = self.grad + delta

    for write in (False, True):
        _core.empty_cache(device)
        shown = []
        for how in ("all", "looked"):
            edf.keep(how)
            edf.clear_compgraph()
            edf.seed(3)
            hidden = edf.Tanh(edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0])))
            top = edf.Sigmoid(hidden)
            turned = Turn(top)
            loss = edf.Mean(turned, axis=0)
            for step in range(6):
                edf.Forward()
                edf.Backward(loss)
                if step < 5:
                    edf.SGD()
            if write:
                turned.value[...] *= 2
            if write and how == "looked":
                with pytest.raises(edf.GraphError, match="its gradient is gone"):
                    _ = hidden.grad
            else:
                shown.append(hidden.grad.copy())
        assert all(np.array_equal(a, shown[0]) for a in shown)


def test_a_gradient_is_not_computed_from_what_may_have_been_written(device: str) -> None:
    loss = waves()
    ours = [node for node in edf.CompNodes if isinstance(node, edf.CompNode)]
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        _ = [p.value for p in edf.Parameters]
        edf.SGD()
    edf.Forward()
    edf.Backward(loss)
    for parameter in edf.Parameters:
        parameter.value[...] *= 2
    with pytest.raises(edf.GraphError, match="its gradient is gone"):
        _ = [node.grad for node in ours]
    edf.Forward()
    edf.Backward(loss)
    assert ours[0].grad.shape == ours[0].shape


def test_values_are_computed_when_they_are_looked_at_late(device: str) -> None:
    def program(see: Any) -> Any:
        edf.seed(3)
        h: Any = edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0]))
        nodes[:] = [h, edf.Square(h)]
        h = Wave(edf.Mul(edf.Sigmoid(nodes[1]), edf.Exp(edf.Neg(nodes[1]))))
        return edf.Mean(h, axis=1)

    nodes: list[Any] = []
    shown = []
    for how in ("all", "looked"):
        edf.keep(how)
        edf.clear_compgraph()
        program(None)
        for _ in range(5):
            edf.Forward()
        assert [n.shape for n in edf.CompNodes[:2]] == [(6, 9)] * 2
        shown.append([n.value.copy() for n in edf.CompNodes])
    for a, b in zip(*shown, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("way", ["adds", "adds later", "sets", "sets a parameter's", "in place"])
def test_a_host_changes_gradients_of_others(way: str, device: str) -> None:
    def program(see: Any) -> Any:
        count = [0]

        def backward() -> None:
            count[0] += 1
            if way == "adds" or (way == "adds later" and count[0] > 4):
                h[0].addgrad(0.5 * h[0].value)
            elif way == "sets":
                h[1].grad = 0.25 * h[1].value
            elif way == "sets a parameter's":
                edf.Parameters[0].grad = 0.01 * edf.Parameters[0].value
            elif way == "in place":
                h[1].grad[:] *= 0.5

        edf.seed(3)
        x = edf.Input(examples(6)[0])
        h = [edf.Affine(edf.AffineParams(37, 9), x)]
        h += [edf.Mul(edf.Sigmoid(h[0]), edf.Square(h[0]))]
        a = Wave(h[1], None, backward)
        return edf.Mean(edf.Add(edf.Affine(edf.AffineParams(9, 9), a), h[0]), axis=1)

    assert compare(program) > 20


def test_a_host_writes_what_it_was_handed(device: str) -> None:
    """Into a value after its consumers ran, and before others do; later it looks at what came of it."""

    def program(see: Any) -> Any:
        count = [0]

        def forward() -> None:
            count[0] += 1
            h[0].value[...] *= 0.5
            if count[0] > 5:
                see(h[1].value)

        edf.seed(3)
        h = [edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0]))]
        h += [edf.Neg(h[0])]
        a = Wave(edf.Exp(h[1]), forward)
        return edf.Mean(edf.Add(a, h[0]), axis=1)

    assert compare(program) > 20


def test_a_host_returns_another_shape_and_dtype(device: str) -> None:
    class Narrow(Wave):
        count = 0

        def forward(self) -> None:
            Narrow.count += 1
            self.cut = 9 if Narrow.count % 5 else 4
            self.value = np.sin(self.x.value[:, : self.cut]).astype(
                np.float32 if Narrow.count % 3 else np.float64
            )

        def backward(self) -> None:
            wide = np.zeros_like(self.x.value)
            wide[:, : self.cut] = self.grad
            self.x.addgrad(wide)

    def program(see: Any) -> Any:
        Narrow.count = 0
        edf.seed(3)
        h = Narrow(edf.Tanh(edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0]))))
        return edf.Mean(edf.Sigmoid(edf.Square(edf.Exp(edf.Neg(h)))), axis=1)

    assert compare(program, steps=20) > 40


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_what_a_host_raises_comes_out_and_changes_nothing(where: str, device: str) -> None:
    class TroubleError(Exception):
        pass

    def run() -> list[Any]:
        edf.clear_compgraph()
        count = [0]

        def trouble() -> None:
            count[0] += 1
            if count[0] == 5:
                raise TroubleError

        loss = waves(lambda x: Wave(x, *([trouble, None] if where == "forward" else [None, trouble])))
        for _ in range(8):
            before = [p.value.copy() for p in edf.Parameters]
            try:
                edf.Forward()
                edf.Backward(loss)
                edf.SGD()
            except TroubleError:
                for now, then in zip(edf.Parameters, before, strict=True):
                    assert np.array_equal(now.value, then)
        return [loss.value.copy(), *(p.value.copy() for p in edf.Parameters)]

    edf.learning_rate = 0.1
    edf.keep("all")
    want = run()
    edf.keep("looked")
    before = segments()
    for a, b in zip(run(), want, strict=True):
        assert np.array_equal(a, b)
    assert segments() > before


@pytest.mark.parametrize("other", ["plain", "mixed", "replay", "tensors"])
def test_a_host_runs_something_else_meanwhile(other: str, device: str) -> None:
    def program(see: Any) -> Any:
        def meanwhile() -> None:
            if other == "tensors":
                return see((edf.Tensor(np.ones((2, 3))) * 2.5).sum().numpy())
            ours = edf.CompNodes, edf.Parameters
            edf.CompNodes, edf.Parameters = [], []
            x = edf.Input(np.ones((5, 3)))
            h: Any = edf.Tanh(edf.Mul(edf.Parameter(np.ones((1, 3))), x))
            loss = edf.Mean(Wave(h) if other == "mixed" else h, axis=1)
            if other == "replay":
                edf.replay(loss, {x: np.ones((5, 3))})
            else:
                for _ in range(4):
                    edf.Forward()
                    edf.Backward(loss)
                    edf.SGD()
            see(edf.Parameters[0].value)
            edf.CompNodes, edf.Parameters = ours

        return waves(lambda x: Wave(x, meanwhile, meanwhile))

    planned = compare(program)
    assert planned > 20 or other != "tensors"


def test_the_list_changes_in_the_middle(device: str) -> None:
    def program(see: Any) -> Any:
        count = [0]

        def forward() -> None:
            count[0] += 1
            if count[0] == 5:
                edf.CompNodes.insert(edf.CompNodes.index(loss), spare)
            if count[0] == 7:
                edf.CompNodes.remove(spare)

        h = edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0]))
        w = Wave(edf.Tanh(h), forward)
        loss = edf.Mean(edf.Exp(edf.Neg(w)), axis=1)
        spare = edf.Tanh(h)
        edf.CompNodes.remove(spare)
        return loss

    def fresh(see: Any) -> Any:
        edf.seed(3)
        return program(see)

    assert compare(fresh) > 0
