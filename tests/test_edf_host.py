"""Nodes that the user wrote in NumPy, in any style, before, after and between the engine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edf_both import assert_agree, classifier, package
from numpy_nodes import make_nodes

# How a student hands a gradient on. `give(node, d)` must add d to what node.grad is in the end.


def by_addgrad(node: Any, d: Any) -> None:
    node.addgrad(d)


def by_plus_equals(node: Any, d: Any) -> None:
    node.grad += d


def by_assignment(node: Any, d: Any) -> None:
    node.grad = node.grad + d


def in_place(node: Any, d: Any) -> None:
    node.grad[...] += d


def by_slices(node: Any, d: Any) -> None:
    for i in range(len(d)):
        node.grad[i] += d[i]


def through_a_view(node: Any, d: Any) -> None:
    flat = node.grad.reshape(-1)
    picker = np.arange(flat.size)
    flat[picker] -= -np.ravel(d)


def by_numpy_out(node: Any, d: Any) -> None:
    np.add(node.grad, d, out=node.grad)


def in_two_parts(node: Any, d: Any) -> None:
    node.grad += 0.25 * d
    node.addgrad(0.75 * d)


STYLES = [
    by_addgrad, by_plus_equals, by_assignment, in_place,
    by_slices, through_a_view, by_numpy_out, in_two_parts,
]  # fmt: skip


def wave(module: Any, give: Callable[[Any, Any], None], base: type = object) -> type:
    """Make a node class x -> sin x, with or without the base class of the module."""

    class Wave(base):  # type: ignore[misc]
        def __init__(self, source: Any) -> None:
            module.CompNodes.append(self)
            self.whatever_i_call_it = source

        def forward(self) -> None:
            self.value = np.sin(self.whatever_i_call_it.value)

        def backward(self) -> None:
            x = self.whatever_i_call_it
            give(x, self.grad * np.cos(x.value))

        if base is object:

            def addgrad(self, delta: Any) -> None:
                self.grad += delta

    return Wave


@pytest.mark.parametrize("give", STYLES, ids=lambda give: give.__name__)
@pytest.mark.parametrize("place", ["before", "between", "after", "everywhere", "fan-out"])
def test_every_style_in_every_place(give: Any, place: str, device: str) -> None:
    def build(module: Any, random: Any) -> Any:
        Wave = wave(module, give, module.CompNode if place == "between" else object)
        x = module.Input()
        h = Wave(PlainInputOf(x)) if place in {"before", "everywhere"} else x
        h = module.Affine(package(module, random, 3, 4), h)
        if place in {"between", "everywhere"}:
            h = Wave(Wave(h))
        if place == "fan-out":  # one node of ours, with consumers of both kinds
            h = make_nodes(module).Add(Wave(h), make_nodes(module).Add(module.Tanh(h), Wave(h)))
        h = module.Tanh(h)
        if place in {"after", "everywhere"}:
            h = Wave(h)
        return classifier(module, h, random, x, (3,), 4)

    class PlainInputOf:
        """Take no gradient, as the slides' Input does, but allow every style."""

        def __init__(self, x: Any) -> None:
            self.x = x

        value = property(lambda self: self.x.value)
        grad = property(lambda self: np.zeros_like(self.x.value), lambda self, given: None)

        def addgrad(self, delta: Any) -> None:
            pass

    assert_agree(build)


@pytest.mark.parametrize("give", STYLES, ids=lambda give: give.__name__)
def test_gradients_into_an_input_go_nowhere(give: Any, device: str) -> None:
    """Gradients added to an Input, in whatever style, do no harm, also when the batch changes."""
    x = edf.Input()
    a = wave(edf, give)(x)
    loss = edf.Sum(a, axis=1)
    for n in (5, 2, 7):
        x.value = np.ones((n, 3))
        edf.Forward()
        edf.Backward(loss)
        assert np.array_equal(a.grad, np.full((n, 3), 1 / n, np.float32))


def test_the_slides_sigmoid_word_for_word(device: str) -> None:
    """It has no addgrad, so the engine's node behind it writes `.grad +=`, as it does itself."""

    class Sigmoid:
        def __init__(self, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x

        def forward(self) -> None:
            self.value = 1.0 / (1.0 + np.exp(-self.x.value))

        def backward(self) -> None:
            self.x.grad += self.grad * self.value * (1.0 - self.value)

    edf.DT, found = np.float64, []
    for node in (Sigmoid, edf.Sigmoid):
        random = np.random.default_rng(0)
        edf.clear_compgraph()
        x = edf.Input()
        h = node(edf.Affine(package(edf, random, 3, 5), x))
        loss, feed = classifier(edf, edf.Add(node(h), edf.Relu(h)), random, x, (3,), 5)
        for n in (4, 2):
            feed(n)
            edf.Forward()
            edf.Backward(loss)
            found.append([np.array(c.grad) for c in edf.CompNodes + edf.Parameters])
    for a, b in ((0, 2), (1, 3)):
        for theirs, ours in zip(found[a], found[b], strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-14)


def test_a_user_s_parameter_and_input(device: str) -> None:
    """The slides' own Input and Parameter, in pure Python, feed the engine's nodes."""

    def build(module: Any, random: Any) -> Any:
        class Input:
            def __init__(self) -> None:
                pass

            def addgrad(self, delta: Any) -> None:
                pass

        class Parameter:
            def __init__(self, value: Any) -> None:
                module.Parameters.append(self)
                self.value = value

            def addgrad(self, delta: Any) -> None:
                self.grad += np.sum(delta, axis=0)

            def SGD(self) -> None:
                self.value -= module.learning_rate * self.grad

        x = Input()
        W, b = Parameter(random.normal(size=(3, 4))), Parameter(random.normal(size=4))
        h = module.Tanh(module.Affine([W, b], x))
        return classifier(module, module.Affine([Parameter(np.eye(4)), b], h), random, x, (3,), 4)

    assert_agree(build)


def test_a_user_s_parameter_when_nodes_are_run_one_by_one(device: str) -> None:
    class Parameter:
        def __init__(self, value: Any) -> None:
            edf.Parameters.append(self)
            self.value = np.asarray(value, np.float32)

        def addgrad(self, delta: Any) -> None:
            self.grad += np.sum(delta, axis=0)

    W, b = Parameter(np.ones((3, 2))), Parameter(np.ones(2))
    loss = edf.Sum(edf.Affine([W, b], edf.Input(np.ones((4, 3)))), axis=1)
    edf.Forward()
    edf.Backward(loss)
    assert np.array_equal(W.grad, np.ones((3, 2)))
    expected = W.grad.copy(), b.grad.copy()
    for node in edf.CompNodes + edf.Parameters:
        node.grad = np.zeros_like(node.value)
    loss.grad = 1 / 4
    for node in edf.CompNodes[::-1]:
        node.backward()
    assert np.array_equal(W.grad, expected[0])
    assert np.array_equal(b.grad, expected[1])


def test_an_input_without_any_method(device: str) -> None:
    class Data:
        pass

    x, y = Data(), Data()
    p = edf.Parameter(np.zeros((3, 2)))
    loss = edf.LogLoss(edf.Softmax(edf.Matmul(x, p)), y)
    x.value, y.value = np.ones((4, 3)), np.array([0, 1, 1, 1])
    edf.Forward()
    edf.Backward(loss)
    np.testing.assert_allclose(p.grad, [[0.25, -0.25]] * 3, rtol=1e-6)


def test_the_whole_list_may_be_the_user_s(device: str) -> None:
    def build(module: Any, random: Any) -> Any:
        Wave, Plain = wave(module, by_addgrad, module.CompNode), wave(module, by_plus_equals)
        p = module.Parameter(random.normal(size=(1, 3)))

        class Tile(module.CompNode):  # type: ignore[misc]
            def __init__(self, p: Any) -> None:
                module.CompNodes.append(self)
                self.p = p
                self.n = 1

            def forward(self) -> None:
                self.value = np.tile(self.p.value, (self.n, 1))

            def backward(self) -> None:
                self.p.addgrad(self.grad[:, np.newaxis])  # one gradient for each example

        tile = Tile(p)
        loss = Wave(Plain(tile))
        return loss, lambda n: setattr(tile, "n", n)

    assert_agree(build)


def test_a_user_s_loss_of_the_engine_s_probabilities(device: str) -> None:
    def build(module: Any, random: Any) -> Any:
        class LogLoss(module.CompNode):  # type: ignore[misc]
            def __init__(self, p: Any, y: Any) -> None:
                module.CompNodes.append(self)
                self.p, self.y = p, y

            def forward(self) -> None:
                self.picker = np.arange(len(self.y.value)) * self.p.value.shape[1] + self.y.value
                self.value = -np.log(self.p.value.reshape(-1)[self.picker])

            def backward(self) -> None:
                flat = self.p.grad.reshape(-1)
                flat[self.picker] -= self.grad / self.p.value.reshape(-1)[self.picker]

        x, y = module.Input(), module.Input()
        Q = module.Softmax(module.Affine(package(module, random, 3, 4), x))

        def feed(n: int) -> None:
            x.value, y.value = random.normal(size=(n, 3)), random.integers(0, 4, n)

        return LogLoss(Q, y), feed

    assert_agree(build)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_user_s_value_in_another_dtype(dtype: Any, device: str) -> None:
    class Half:
        def __init__(self, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x

        def forward(self) -> None:
            self.value = (self.x.value / 2).astype(dtype)

        def backward(self) -> None:
            self.x.addgrad(self.grad / 2)

    p = edf.Parameter(np.ones((2, 3)))
    half = Half(edf.Neg(p))
    loss = edf.Sum(edf.Square(half), axis=1)
    edf.Forward()
    edf.Backward(loss)
    assert loss.value.dtype == np.float32
    assert half.grad.dtype == dtype
    assert np.array_equal(p.grad, np.full((2, 3), 0.25))


def test_values_that_are_strided_or_read_only(device: str) -> None:
    class Flip:
        def __init__(self, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x

        def forward(self) -> None:
            self.value = self.x.value.T[::-1]
            self.value.flags.writeable = False

        def backward(self) -> None:
            self.x.addgrad(self.grad[::-1].T)

        def addgrad(self, delta: Any) -> None:
            self.grad = self.grad + delta

    p = edf.Parameter(np.arange(6.0).reshape(2, 3))
    loss = edf.Sum(edf.Square(Flip(edf.Neg(p))), axis=1)
    edf.Forward()
    edf.Backward(loss)
    np.testing.assert_allclose(p.grad, 2 * p.value / 3, rtol=1e-6)


def test_a_node_without_a_value(device: str) -> None:
    """A node that only watches needs neither value nor gradient; the slides' Backward sets its grad to 0."""
    seen = []

    class Watch:
        def __init__(self) -> None:
            edf.CompNodes.append(self)

        def forward(self) -> None:
            seen.append("forward")

        def backward(self) -> None:
            seen.append("backward")

    p = edf.Parameter(np.ones((2, 3)))
    a = edf.Neg(p)
    Watch()
    loss = edf.Sum(a, axis=1)
    edf.Forward()
    edf.Backward(loss)
    assert seen == ["forward", "backward"]
    assert np.array_equal(p.grad, np.full((2, 3), -0.5))


def test_a_node_may_change_the_list_while_it_is_walked(device: str) -> None:
    class Brief:
        def __init__(self) -> None:
            edf.CompNodes.append(self)

        def forward(self) -> None:
            self.value = np.zeros(1)

        def backward(self) -> None:
            edf.CompNodes.clear()

    p = edf.Parameter(np.ones((2, 3)))
    loss = edf.Sum(edf.Neg(p), axis=1)
    Brief()
    edf.Forward()
    edf.Backward(loss)  # walks a copy, as the slides' CompNodes[::-1] is
    assert np.array_equal(p.grad, np.full((2, 3), -0.5))
    assert edf.CompNodes == []


def test_a_node_made_during_forward_runs_in_the_same_forward(device: str) -> None:
    made = []

    class Grow:
        def __init__(self) -> None:
            edf.CompNodes.append(self)

        def forward(self) -> None:
            self.value = np.zeros(1)
            if not made:
                made.append(edf.Neg(p))

    p = edf.Parameter(np.ones(3))
    Grow()
    edf.Forward()
    assert np.array_equal(made[0].value, [-1, -1, -1])


def test_the_engine_holds_the_user_s_objects_weakly_and_nodes_hold_them() -> None:
    class Data:
        value = np.ones(3)

    a = edf.Neg(Data())  # nobody else holds the object
    edf.Forward()
    assert np.array_equal(a.value, [-1, -1, -1])
