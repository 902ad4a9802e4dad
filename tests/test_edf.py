"""EDF's face: the module's lists and settings, the order of evaluation, the three calls, parameters."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edf_both import assert_agree, classifier, package


def mlp(n_in: int = 4, n_hidden: int = 5, n_out: int = 3) -> SimpleNamespace:
    random = np.random.default_rng(0)
    x, y = edf.Input(), edf.Input()
    Phi1, Phi2 = package(edf, random, n_in, n_hidden), package(edf, random, n_hidden, n_out)
    h = edf.Relu(edf.Affine(Phi1, x))
    s = edf.Affine(Phi2, h)
    Q = edf.Softmax(s)
    x.value, y.value = random.normal(size=(6, n_in)), random.integers(0, n_out, 6)
    return SimpleNamespace(x=x, y=y, Phi1=Phi1, Phi2=Phi2, h=h, s=s, Q=Q, ell=edf.LogLoss(Q, y))


def step(loss: Any) -> None:
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()


def squares(p: Any) -> Any:
    """Make the loss sum(p * p), of shape (1,), whose gradient is 2 p."""
    return edf.Reshape(edf.Sum(edf.Square(p)), (1,))


# The module's state


def test_a_program_finds_the_slides_state() -> None:
    assert edf.CompNodes == []
    assert edf.Parameters == []
    assert edf.learning_rate == 0.001
    assert edf.DT is np.float32


def test_learning_rate_is_read_at_the_call(device: str) -> None:
    p = edf.Parameter(np.ones(3))
    loss = squares(p)
    for rate, expected in ((0.25, 0.5), (np.float32(0.5), 0.0), (0, 0.0)):
        edf.learning_rate = rate
        step(loss)
        assert np.array_equal(p.value, np.full(3, expected, np.float32))


def test_learning_rate_at_sgd_counts_and_not_at_backward() -> None:
    p = edf.Parameter(np.ones(2))
    loss = squares(p)
    edf.Forward()
    edf.learning_rate = 1.0
    edf.Backward(loss)
    edf.learning_rate = 0.5
    edf.SGD()
    edf.learning_rate = 2.0
    assert np.array_equal(p.value, [0, 0])


def test_nodes_go_to_the_list_that_is_current() -> None:
    a = edf.Relu(edf.Input(np.ones(2)))
    first, edf.CompNodes = edf.CompNodes, []
    b = edf.Relu(a)
    assert first == [a]
    assert edf.CompNodes == [b]
    edf.CompNodes = [a, b]
    edf.Forward()
    assert np.array_equal(b.value, [1, 1])


def test_parameters_go_to_the_list_that_is_current(device: str) -> None:
    p, q = edf.Parameter(np.ones(2)), edf.Parameter(np.ones(2))
    loss = squares(edf.Add(p, q))
    assert edf.Parameters == [p, q]
    edf.Forward()
    edf.Backward(loss)
    edf.learning_rate = 0.25
    edf.Parameters = [q]  # p is frozen
    edf.SGD()
    assert np.array_equal(p.value, [1, 1])
    assert np.array_equal(q.value, [0, 0])


def test_clear_compgraph_makes_new_lists() -> None:
    n = mlp()
    nodes, parameters = edf.CompNodes, edf.Parameters
    edf.clear_compgraph()
    assert edf.CompNodes == []
    assert edf.Parameters == []
    assert len(nodes) == 5
    assert parameters == [n.Phi1.w, n.Phi1.b, n.Phi2.w, n.Phi2.b]
    edf.CompNodes, edf.Parameters = nodes, parameters
    step(n.ell)


def test_dt_is_fixed_when_an_object_is_made(device: str) -> None:
    x32, p32 = edf.Input(), edf.Parameter([1, 2])
    edf.DT = np.float64
    x64, p64 = edf.Input(), edf.Parameter([1, 2])
    edf.DT = "float32"
    for node, dtype in ((x32, np.float32), (x64, np.float64), (p32, np.float32), (p64, np.float64)):
        for given in (np.float16, np.float32, np.float64):
            node.value = np.array([0.5, 1.5], given)
            assert node.value.dtype == dtype
            assert np.array_equal(node.value, [0.5, 1.5])
    assert edf.Input(np.ones(1)).value.dtype == np.float32


@pytest.mark.parametrize("dt", [np.float64, "float64", np.dtype("float64"), float])
def test_dt_may_be_spelled_as_numpy_allows(dt: Any) -> None:
    edf.DT = dt
    assert edf.Parameter([1.0]).value.dtype == np.float64
    assert edf.AffineParams(2, 3).w.value.dtype == np.float64


@pytest.mark.parametrize("kind", [tuple, list])
def test_lists_may_be_other_sequences(kind: Any) -> None:
    n = mlp()
    edf.CompNodes, edf.Parameters = kind(edf.CompNodes), kind(edf.Parameters)
    step(n.ell)
    assert np.all(n.Phi1.w.grad.shape == (4, 5))


# The order of evaluation


def test_the_order_of_the_list_is_the_order_of_evaluation() -> None:
    x = edf.Input(np.array([3.0]))
    a = edf.Square(x)
    b = edf.Neg(a)
    edf.Forward()
    x.value = np.array([5.0])
    edf.CompNodes = [b, a]  # b comes first and sees the last value of a
    edf.Forward()
    assert (a.value[0], b.value[0]) == (25, -9)
    edf.Forward()
    assert (a.value[0], b.value[0]) == (25, -25)


def test_a_list_out_of_order_before_any_value() -> None:
    b = edf.Neg(edf.Square(edf.Input(np.ones(1))))
    edf.CompNodes.reverse()
    with pytest.raises(edf.GraphError, match=r"^\[neg\] input 0 has no value yet: run Forward\(\) first"):
        edf.Forward()
    assert not b.has_value


def test_backward_goes_through_the_list_in_reverse() -> None:
    p = edf.Parameter(np.ones(1))
    a = edf.Square(p)
    b = edf.Square(a)
    edf.Forward()
    edf.CompNodes = [b, a]  # a comes before b has handed on its gradient
    edf.Backward(b)
    assert np.array_equal(a.grad, [2])
    assert np.array_equal(p.grad, [0])


def test_only_the_listed_nodes_run() -> None:
    x = edf.Input(np.ones(1))
    a, b = edf.Square(x), edf.Neg(x)
    edf.CompNodes.remove(b)
    edf.Forward()
    assert a.has_value
    assert not b.has_value


def test_a_node_may_be_listed_twice(device: str) -> None:
    def build(module: Any, random: Any) -> Any:
        x = module.Input()
        h = module.Tanh(module.Affine(package(module, random, 3, 4), x))
        module.CompNodes.append(h)
        return classifier(module, h, random, x, (3,), 4)

    assert_agree(build)


def test_unused_nodes_get_values_and_zero_gradients(device: str) -> None:
    def build(module: Any, random: Any) -> Any:
        x = module.Input()
        a = module.Affine(package(module, random, 3, 4), x)
        module.Sigmoid(module.Relu(a))  # leads nowhere
        loss, feed = classifier(module, a, random, x, (3,), 4)
        module.Tanh(loss)
        return loss, feed

    assert_agree(build)


def test_the_loss_may_stand_anywhere_in_the_list(device: str) -> None:
    """Two losses in one graph: whichever is given, the nodes after it get zeros."""
    for which in (0, 1):

        def build(module: Any, random: Any, which: int = which) -> Any:
            x = module.Input()
            a = module.Tanh(module.Affine(package(module, random, 3, 4), x))
            first, feed_first = classifier(module, a, random, x, (3,), 4)
            b = module.Affine(package(module, random, 4, 2), a)
            second, feed_second = classifier(module, b, random, x, (3,), 2)

            def feed(n: int) -> None:
                feed_first(n)
                feed_second(n)

            return (first, second)[which], feed

        assert_agree(build)


def test_probabilities_with_several_consumers(device: str) -> None:
    def build(module: Any, random: Any) -> Any:
        x, y, z = module.Input(), module.Input(), module.Input()
        Q = module.Softmax(module.Affine(package(module, random, 3, 4), x))
        first, second = module.LogLoss(Q, y), module.LogLoss(Q, z)
        again = module.Softmax(module.Affine(package(module, random, 4, 4), Q))
        third = module.LogLoss(again, y)

        class Sum3(module.CompNode):  # type: ignore[misc]
            def __init__(self, *inputs: Any) -> None:
                module.CompNodes.append(self)
                self.inputs = inputs

            def forward(self) -> None:
                self.value = sum(node.value for node in self.inputs)

            def backward(self) -> None:
                for node in self.inputs:
                    node.addgrad(self.grad)

        def feed(n: int) -> None:
            x.value = random.normal(size=(n, 3))
            y.value, z.value = random.integers(0, 4, n), random.integers(0, 4, n)

        return Sum3(first, second, third), feed

    assert_agree(build)


# The three calls


def test_backward_zeroes_and_then_accumulates(device: str) -> None:
    n = mlp()
    edf.Forward()
    edf.Backward(n.ell)
    everything = [*edf.CompNodes, *edf.Parameters]
    first = [node.grad.copy() for node in everything]
    assert all(np.any(grad != 0) for grad in first)
    for _ in range(3):
        edf.Backward(n.ell)
    assert all(np.array_equal(node.grad, grad) for node, grad in zip(everything, first, strict=True))
    n.h.addgrad(np.ones_like(n.h.value))
    n.Phi1.w.grad[...] = 7
    edf.Backward(n.ell)
    assert all(np.array_equal(node.grad, grad) for node, grad in zip(everything, first, strict=True))


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_the_gradient_of_the_loss_is_one_over_the_batch(batch: int, device: str) -> None:
    n = mlp()
    n.x.value, n.y.value = np.ones((batch, 4)), np.zeros(batch, int)
    edf.Forward()
    edf.Backward(n.ell)
    assert np.array_equal(n.ell.grad, np.full(batch, 1 / batch, np.float32))


def test_a_scalar_loss_counts_as_one_example(device: str) -> None:
    p = edf.Parameter(np.arange(3.0))
    loss = edf.Sum(p)
    edf.Forward()
    edf.Backward(loss)
    assert loss.grad.shape == ()
    assert loss.grad == 1
    assert np.array_equal(p.grad, [1, 1, 1])


def test_a_loss_with_more_axes_is_averaged_over_the_first(device: str) -> None:
    p = edf.Parameter(np.ones((4, 3)))
    loss = edf.Square(p)
    edf.Forward()
    edf.Backward(loss)
    assert np.array_equal(loss.grad, np.full((4, 3), 0.25))
    assert np.array_equal(p.grad, np.full((4, 3), 0.5))


def test_nodes_one_by_one_do_what_the_three_calls_do(device: str) -> None:
    n = mlp()
    edf.Forward()
    edf.Backward(n.ell)
    everything = [*edf.CompNodes, *edf.Parameters]
    expected = [(node.value.copy(), node.grad.copy()) for node in everything]
    X, Y = n.x.value.copy(), n.y.value.copy()
    n.x.value, n.y.value = np.zeros((2, 4)), [0, 1]
    edf.Forward()  # so that nothing of the first batch is left over
    n.x.value, n.y.value = X, Y
    for node in edf.CompNodes:
        node.forward()
    for node in everything:
        node.grad = 0
    n.ell.grad = 1 / 6
    for node in edf.CompNodes[::-1]:
        node.backward()
    for node, (value, grad) in zip(everything, expected, strict=True):
        assert np.array_equal(node.value, value)
        assert np.array_equal(node.grad, grad)
    edf.learning_rate = 0.5
    for p in everything[-4:]:
        before = p.value.copy()
        p.SGD()
        np.testing.assert_allclose(p.value, before - 0.5 * p.grad, rtol=1e-6, atol=1e-7)


def test_the_same_graph_with_other_batch_sizes(device: str) -> None:
    n = mlp()
    alone = []
    X, Y = np.random.default_rng(4).normal(size=(9, 4)), np.arange(9) % 3
    for i in range(9):
        n.x.value, n.y.value = X[i : i + 1], Y[i : i + 1]
        edf.Forward()
        alone.append(n.ell.value[0])
    for size in (9, 1, 5, 9, 2):
        n.x.value, n.y.value = X[:size], Y[:size]
        edf.Forward()
        assert np.array_equal(n.ell.value, alone[:size])


def test_a_batch_of_nothing_goes_forward(device: str) -> None:
    n = mlp()
    n.x.value, n.y.value = np.zeros((0, 4)), np.zeros(0, int)
    edf.Forward()
    assert n.Q.value.shape == (0, 3)
    assert n.ell.value.shape == (0,)


def test_another_thread_may_take_over_the_graph(device: str) -> None:
    """One graph belongs to one thread at a time; which one may change between calls."""
    p = edf.Parameter(np.ones(3))
    loss = squares(p)
    edf.learning_rate = 0.25
    for _ in range(3):
        worker = threading.Thread(target=step, args=(loss,))
        worker.start()
        worker.join()
        step(loss)
    assert np.array_equal(p.value, np.full(3, 0.5**6, np.float32))
