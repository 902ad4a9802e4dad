"""EDF's classes as objects of Python: parameters and their updates, packages, attributes, subclasses."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edf_both import assert_agree, classifier, package


def squares(*parameters: Any) -> Any:
    """Make the loss sum(p * p) over all parameters, of shape (1,)."""
    total = edf.Sum(edf.Square(parameters[0]))
    for p in parameters[1:]:
        total = edf.Add(total, edf.Sum(edf.Square(p)))
    return edf.Reshape(total, (1,))


def step(loss: Any) -> None:
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()


# Parameters


def test_a_parameter_copies_what_it_is_given(device: str) -> None:
    given = np.ones((2, 3), np.float32)
    p = edf.Parameter(given)
    given[:] = 5
    assert np.array_equal(p.value, np.ones((2, 3)))
    p.value[:] = 7
    assert np.array_equal(given, np.full((2, 3), 5))


@pytest.mark.parametrize("given", [[1, 2], (1.0, 2.0), np.array([1, 2], "i1"), np.array([1, 2], "f2")])
def test_a_parameter_is_cast_to_dt(given: Any) -> None:
    p = edf.Parameter(given)
    assert p.value.dtype == np.float32
    assert np.array_equal(p.value, [1, 2])
    p.value = [3, 4]
    assert p.value.dtype == np.float32
    assert np.array_equal(p.value, [3, 4])


def test_addgrad_of_a_parameter_sums_over_the_batch(device: str) -> None:
    p = edf.Parameter(np.zeros((2, 3)))
    loss = squares(p)
    edf.Forward()
    edf.Backward(loss)
    deltas = np.random.default_rng(0).normal(size=(2, 5, 2, 3)).astype(np.float32)
    p.addgrad(deltas[0])
    np.testing.assert_allclose(p.grad, deltas[0].sum(0), rtol=1e-6)
    p.addgrad(deltas[1].astype(np.float64))
    np.testing.assert_allclose(p.grad, deltas.sum((0, 1)), rtol=1e-5)


def test_addgrad_of_an_input_does_nothing(device: str) -> None:
    x = edf.Input()
    x.addgrad(np.ones((4, 4)))  # before there is a value, too
    x.value = np.ones(3)
    x.addgrad(np.ones(3))
    assert np.array_equal(x.grad, np.zeros(3))


def test_addgrad_of_a_node_adds(device: str) -> None:
    p = edf.Parameter(np.ones((2, 3)))
    a = edf.Neg(p)
    loss = edf.Sum(a, axis=1)
    edf.Forward()
    edf.Backward(loss)
    a.addgrad(np.full((2, 3), 2.0))
    assert np.array_equal(a.grad, np.full((2, 3), 2.5))
    a.addgrad(np.arange(3))  # broadcast, and of another dtype
    assert np.array_equal(a.grad, [[2.5, 3.5, 4.5]] * 2)


def test_updates_are_seen_under_an_array_that_is_held(device: str) -> None:
    p = edf.Parameter(np.ones(3))
    loss, held = squares(p), p.value
    edf.learning_rate = 0.25
    step(loss)
    assert held is not p.value
    assert np.array_equal(held, np.full(3, 0.5))
    p.value = np.full(3, 4.0)
    assert np.array_equal(held, np.full(3, 4))
    held[:] = 2
    step(loss)
    assert np.array_equal(held, np.full(3, 1))
    assert np.array_equal(p.value, held)


def test_a_parameter_that_nothing_uses_stays(device: str) -> None:
    p, unused = edf.Parameter(np.ones(2)), edf.Parameter(np.ones(2))
    edf.learning_rate = 0.5
    step(squares(p))
    assert np.array_equal(p.value, [0, 0])
    assert np.array_equal(unused.value, [1, 1])
    assert np.array_equal(unused.grad, [0, 0])


def test_affine_params() -> None:
    edf.seed(1)
    Phi = edf.AffineParams(300, 40)
    bound = edf.Xavier(300)
    assert bound == pytest.approx(0.1)
    assert Phi.w.value.shape == (300, 40)
    assert np.array_equal(Phi.b.value, np.zeros(40))
    assert 0.099 < np.abs(Phi.w.value).max() <= np.float32(bound)
    assert Phi.w.value.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert edf.Parameters == [Phi.w, Phi.b]
    assert isinstance(Phi, edf.ParameterPackage)
    edf.seed(1)
    assert np.array_equal(edf.AffineParams(300, 40).w.value, Phi.w.value)
    assert not np.array_equal(edf.AffineParams(300, 40).w.value, Phi.w.value)


# Updates of the user's own


class Momentum(edf.Parameter):
    velocity = 0.0

    def SGD(self) -> None:
        self.velocity = 0.5 * self.velocity + self.grad
        self.value -= edf.learning_rate * self.velocity


def test_sgd_overridden_by_a_subclass(device: str) -> None:
    p, q = Momentum(np.ones(2)), edf.Parameter(np.ones(2))
    loss = squares(p, q)
    edf.learning_rate = 0.25
    step(loss)
    assert np.array_equal(p.value, [0.5, 0.5])
    step(loss)  # the gradient is 1, the velocity 0.5 * 2 + 1
    assert np.array_equal(p.value, [0, 0])
    assert np.array_equal(q.value, [0.25, 0.25])


def test_sgd_of_a_subclass_may_call_the_original(device: str) -> None:
    class Decayed(edf.Parameter):
        def SGD(self) -> None:
            super().SGD()
            self.value *= 0.5

    p = Decayed(np.ones(2))
    edf.learning_rate = 0.25
    step(squares(p))
    assert np.array_equal(p.value, [0.25, 0.25])


def test_sgd_overridden_on_one_object(device: str) -> None:
    p, q = edf.Parameter(np.ones(2)), edf.Parameter(np.ones(2))
    loss, calls = squares(p, q), []
    p.SGD = lambda: calls.append("p")
    edf.learning_rate = 0.25
    step(loss)
    assert calls == ["p"]
    assert np.array_equal(p.value, [1, 1])
    assert np.array_equal(q.value, [0.5, 0.5])
    del p.SGD
    step(loss)
    assert np.array_equal(p.value, [0.5, 0.5])


def test_sgd_replaced_on_the_class(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = edf.Parameter(np.ones(2)), Momentum(np.ones(2))
    loss = squares(p, q)
    edf.learning_rate = 0.25

    def sign(self: Any) -> None:
        self.value -= edf.learning_rate * np.sign(self.grad)

    with monkeypatch.context() as patch:
        patch.setattr(edf.Parameter, "SGD", sign)
        step(loss)
    assert np.array_equal(p.value, [0.75, 0.75])
    assert np.array_equal(q.value, [0.5, 0.5])
    step(loss)
    assert np.array_equal(p.value, [0.375, 0.375])


def test_one_update_may_read_others_in_the_order_of_the_list(device: str) -> None:
    """As in NumPy EDF, parameters are updated one after the other."""

    class Copy(edf.Parameter):
        def SGD(self) -> None:
            self.value = first.value

    first, second = edf.Parameter(np.ones(2)), Copy(np.ones(2))
    third = edf.Parameter(np.ones(2))
    edf.learning_rate = 0.25
    step(squares(first, second, third))
    assert np.array_equal(second.value, [0.5, 0.5])
    assert np.array_equal(third.value, [0.5, 0.5])


# Affine takes its parameters in every spelling


FORMS = [
    pytest.param(lambda Phi: Phi, "wb", id=".w/.b"),
    pytest.param(lambda Phi: Phi, "WB", id=".W/.B"),
    pytest.param(lambda Phi: [Phi.w, Phi.b], "wb", id="[W, B]"),
    pytest.param(lambda Phi: (Phi.w, Phi.b), "wb", id="(W, B)"),
]


@pytest.mark.parametrize(("form", "names"), FORMS)
def test_affine(form: Any, names: str, device: str) -> None:
    def build(module: Any, random: Any) -> Any:
        x = module.Input()
        Phi = package(module, random, 3, 4, names)
        return classifier(module, module.Affine(form(Phi), x), random, x, (3,), 4)

    assert_agree(build)


def test_affine_with_constants(device: str) -> None:
    x = edf.Input(np.ones((2, 3)))
    y = edf.Affine([np.ones((3, 2)), np.array([1.0, 2.0])], x)
    edf.Forward()
    assert np.array_equal(y.value, [[4, 5], [4, 5]])


# Nodes as objects


def test_nodes_are_ordinary_objects() -> None:
    x = edf.Input(np.zeros((1, 0)))
    a, b = edf.Relu(x), edf.Relu(x)
    for node in (x, a, edf.Parameter([0.0])):
        assert node
        node.note = "mine"
        assert node.__dict__["note"] == "mine"
        assert node == node  # noqa: PLR0124
        assert node != a or node is a
        assert {node: 1}[node] == 1
    assert a != b
    assert [a, b].index(b) == 1
    assert isinstance(a, edf.CompNode)
    assert not isinstance(x, edf.CompNode)
    assert weakref.ref(a)() is a
    assert [*inspect.signature(edf.Affine).parameters] == ["Phi", "x"]
    assert [*inspect.signature(edf.Sum).parameters] == ["x", "axis", "keepdims"]
    assert [*inspect.signature(edf.Input).parameters] == ["value", "device"]


def test_inputs_are_attributes_under_their_names() -> None:
    x, y = edf.Input(), edf.Input()
    Phi = edf.AffineParams(3, 4)
    a = edf.Affine(Phi, x)
    Q = edf.Softmax(edf.Relu(a))
    ell = edf.LogLoss(Q, y)
    assert (a.x, a.Phi) == (x, Phi)
    assert Q.x.x is a
    assert (ell.p, ell.y) == (Q, y)
    assert a.inputs == (x, Phi.w, Phi.b)


def test_repr_says_what_and_where() -> None:
    x = edf.Input(np.zeros((2, 3)))
    a = edf.Relu(x)
    assert repr(a).startswith("<Relu, made at test_edf_classes.py:")
    edf.Forward()
    assert repr(a).startswith("<Relu (2, 3) float32, made at test_edf_classes.py:")
    assert repr(edf.Parameter([1.0])).startswith("<Parameter (1,) float32, made at")


def test_functions_record_nodes(device: str) -> None:
    a, b = edf.Input(np.ones((2, 3))), edf.Parameter(np.full(3, 2.0))
    c = edf.ops.add(a, b)
    d = edf.ops.mul(c, 2.0)
    e = edf.ops.sum(d, axis=1)
    assert [type(node) for node in edf.CompNodes] == [edf.Add, edf.Mul, edf.Sum]
    assert edf.CompNodes == [c, d, e]
    step(e)
    assert np.array_equal(e.value, [18, 18])
    assert np.array_equal(b.grad, [2, 2, 2])


def test_functions_record_nodes_like_their_classes() -> None:
    x, W, b = edf.Input(np.ones((2, 3))), edf.Parameter(np.ones((3, 4))), edf.Parameter(np.ones(4))
    a = edf.ops.affine(x, W, b)
    assert type(a) is edf.Affine
    assert a.x is x
    edf.Forward()
    assert np.array_equal(a.value, np.full((2, 4), 4))


def test_axes_and_shapes_as_numpy_takes_them(device: str) -> None:
    x = edf.Input(np.arange(6.0).reshape(2, 3))
    nodes = [
        edf.Reshape(x, 6),
        edf.Reshape(x, np.array([3, 2])),
        edf.Sum(x, axis=np.int64(1)),
        edf.Mean(x, axis=np.array([0, 1])),
        edf.Transpose(x, np.array([1, 0])),
    ]
    edf.Forward()
    values = [n.value.tolist() for n in nodes]
    assert values == [[0, 1, 2, 3, 4, 5], [[0, 1], [2, 3], [4, 5]], [3, 12], 2.5, [[0, 3], [1, 4], [2, 5]]]


# Subclasses of ours


def test_backward_overridden_by_a_subclass(device: str) -> None:
    class StraightThrough(edf.Relu):
        def backward(self) -> None:
            self.inputs[0].addgrad(self.grad)

    p = edf.Parameter([[-1.0, 2.0]])
    loss = edf.Sum(StraightThrough(edf.Neg(p)), axis=1)
    edf.Forward()
    edf.Backward(loss)
    assert np.array_equal(loss.value, [1])
    assert np.array_equal(p.grad, [[-1, -1]])


def test_forward_and_backward_may_call_the_originals(device: str) -> None:
    class Leaky(edf.Relu):
        calls = 0

        def forward(self) -> None:
            Leaky.calls += 1
            super().forward()

        def backward(self) -> None:
            super().backward()
            self.inputs[0].addgrad(0.5 * self.grad)

    p = edf.Parameter([[-1.0, 2.0]])
    loss = edf.Sum(Leaky(edf.Neg(edf.Neg(p))), axis=1)
    edf.Forward()
    edf.Backward(loss)
    assert Leaky.calls == 1
    assert np.array_equal(loss.value, [2])
    assert np.array_equal(p.grad, [[0.5, 1.5]])


def test_forward_alone_overridden_keeps_the_backward_of_the_class(device: str) -> None:
    class Relu6(edf.Relu):
        def forward(self) -> None:
            self.value = np.clip(self.inputs[0].value, 0, 6)

    p = edf.Parameter([[-1.0, 2.0, 8.0]])
    loss = edf.Sum(Relu6(edf.Neg(edf.Neg(p))), axis=1)
    edf.Forward()
    edf.Backward(loss)
    assert np.array_equal(loss.value, [8])
    assert np.array_equal(p.grad, [[0, 1, 1]])


def test_methods_overridden_on_one_object(device: str) -> None:
    p = edf.Parameter([[-1.0, 2.0]])
    a = edf.Relu(edf.Neg(p))
    loss = edf.Sum(a, axis=1)
    a.forward = lambda: setattr(a, "value", 3 * a.inputs[0].value)
    a.backward = lambda: a.inputs[0].addgrad(3 * a.grad)
    edf.Forward()
    edf.Backward(loss)
    assert np.array_equal(loss.value, [-3])
    assert np.array_equal(p.grad, [[-3, -3]])


def test_a_subclass_may_keep_its_input_under_any_name(device: str) -> None:
    class Scaled(edf.Relu):
        def __init__(self, x: Any, by: float) -> None:
            super().__init__(x)
            self.x, self.by = x, by

        def backward(self) -> None:
            self.x.addgrad(self.by * self.grad)

    p = edf.Parameter([[1.0, 2.0]])
    loss = edf.Sum(Scaled(edf.Neg(p), 4.0), axis=1)
    edf.Forward()
    edf.Backward(loss)
    assert np.array_equal(p.grad, [[-4, -4]])


def test_a_node_is_made_once_and_from_the_right_things() -> None:
    x = edf.Input(np.ones((2, 2)))
    node = edf.Relu(x)
    with pytest.raises(edf.GraphError, match="made already"):
        node.__init__(x)
    for wrong in [(node,), (node, edf.ops.relu.record, [x]), (x.value, edf.ops.relu.record, (x,))]:
        with pytest.raises(TypeError):
            edf._core.record(*wrong)
    with pytest.raises(TypeError):
        edf._core.record(edf.Relu.__new__(edf.Relu), edf.ops.relu.record, (x,), 3)
    edf.Forward()
    assert np.array_equal(node.value, x.value)
