"""EDF's values and gradients as arrays: looked at, assigned, held; and the log-loss that stays finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edfcore as edf


def chain(rows: int = 4) -> tuple[Any, Any, Any, Any]:
    """Make loss = sum over the columns of (-p)^2 for a parameter p of shape (rows, 3)."""
    p = edf.Parameter(np.arange(3.0 * rows).reshape(rows, 3))
    a = edf.Neg(p)
    b = edf.Square(a)
    return p, a, b, edf.Sum(b, axis=1)


def forward_backward(loss: Any) -> None:
    edf.Forward()
    edf.Backward(loss)


# Looking


def test_values_and_gradients_are_arrays(device: str) -> None:
    p, a, b, loss = chain()
    x = edf.Input(np.ones(3))
    forward_backward(loss)
    for node in (p, a, b, loss, x):
        for array in (node.value, node.grad):
            assert type(array) is np.ndarray
            assert array.dtype == np.float32
            assert array.shape == node.value.shape
            assert array.flags.c_contiguous
            assert array.flags.aligned
            assert array.flags.writeable


def test_an_array_outlives_its_node() -> None:
    _, a, _, loss = chain()
    forward_backward(loss)
    value, grad = a.value, a.grad
    expected = value.copy(), grad.copy()
    edf.clear_compgraph()
    del a, loss, _
    chain()
    edf.Forward()
    assert np.array_equal(value, expected[0])
    assert np.array_equal(grad, expected[1])


def test_the_array_of_a_computed_node_is_never_overwritten(device: str) -> None:
    x = edf.Input()
    nodes = [edf.Neg(x)]
    nodes += [edf.Square(nodes[0]), edf.Reshape(nodes[0], (-1, 1))]
    loss = edf.Sum(nodes[2], axis=1)
    random, held = np.random.default_rng(0), []
    for n in (4, 4, 2, 4):
        x.value = random.normal(size=n)
        edf.Forward()
        edf.Backward(loss)
        arrays = [array for node in nodes for array in (node.value, node.grad)]
        held += [(array, array.copy()) for array in arrays]
    assert all(np.array_equal(array, copy) for array, copy in held)


def test_memory_is_reused_when_nobody_holds_the_array() -> None:
    a = edf.Neg(edf.Input(np.ones(1000)))

    def look(times: int) -> None:
        for _ in range(times):
            a.value.sum()
            edf.Forward()

    edf.Forward()
    look(100)  # the arena of plans is as large as these need
    before = edf.memory_stats("cpu")["bytes"]
    look(20)
    assert edf.memory_stats("cpu")["bytes"] == before


def test_what_is_written_into_a_value_is_what_the_next_node_sees(device: str) -> None:
    x = edf.Input(np.zeros(3))
    a = edf.Neg(x)
    b = edf.Neg(a)
    x.value[1] = 5
    a.forward()
    a.value[2] = 7
    b.forward()
    assert np.array_equal(b.value, [0, 5, -7])
    p = edf.Parameter(np.zeros(2))
    p.value[0] = 1
    c = edf.Neg(p)
    c.forward()
    assert np.array_equal(c.value, [-1, 0])


def test_what_is_written_into_a_gradient_is_what_goes_on(device: str) -> None:
    p, a, b, loss = chain()
    forward_backward(loss)
    b.grad[...] = 0
    b.grad[1, 2] = 3
    a.grad = 0
    p.grad = 0
    b.backward()
    a.backward()
    expected = np.zeros((4, 3))
    expected[1, 2] = 3 * 2 * p.value[1, 2]
    assert np.array_equal(p.grad, expected)


def test_a_gradient_of_zero_can_be_looked_at(device: str) -> None:
    p, a, _, _ = chain()
    other = edf.Sum(edf.Square(edf.Parameter(np.ones((4, 1)))), axis=1)
    forward_backward(other)
    assert np.array_equal(a.grad, np.zeros((4, 3)))
    assert np.array_equal(p.grad, np.zeros((4, 3)))


# Assigning


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_computed_value_can_be_assigned_in_any_float_dtype(dtype: Any, device: str) -> None:
    a = edf.Neg(edf.Input(np.zeros((2, 2))))
    b = edf.Neg(a)
    edf.Forward()
    a.value = np.array([[1, 0], [0, 1]], dtype)
    b.forward()
    assert a.value.dtype == b.value.dtype == np.float32
    assert np.array_equal(b.value, [[-1, 0], [0, -1]])
    edf.Forward()
    assert np.array_equal(a.value, np.zeros((2, 2)))


def test_a_computed_value_may_be_assigned_in_another_shape(device: str) -> None:
    a = edf.Neg(edf.Input(np.zeros((2, 2))))
    b = edf.Sum(a, axis=1)
    edf.Forward()
    a.value = np.ones((3, 5))
    b.forward()
    assert np.array_equal(b.value, [5, 5, 5])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_integers_in_an_input_stay_integers(dtype: Any, device: str) -> None:
    y = edf.Input()
    for given in (np.array([0, 2, 1], dtype), np.array([1], dtype), np.array([2, 0, 1], dtype)):
        y.value = given
        assert y.value.dtype == dtype
        assert np.array_equal(y.value, given)
    y.value = np.array([0.5, 1.5])
    assert y.value.dtype == np.float32
    y.value = [1, 2]
    assert y.value.dtype == np.int64


def test_an_input_copies_what_it_is_given(device: str) -> None:
    x, batch = edf.Input(), np.ones((2, 3), np.float32)
    for _ in range(2):  # into new memory, and into its own
        x.value = batch
        batch[:] = 5
        assert np.array_equal(x.value, np.ones((2, 3)))
        batch[:] = 1


def test_an_input_takes_whatever_numpy_makes_an_array_of(device: str) -> None:
    x = edf.Input()
    grid = np.arange(24.0).reshape(2, 3, 4)
    for given in (
        [[1, 2], [3, 4]], 3.5, 7, True, np.float64(2), grid.T, grid[:, ::-1, ::2], np.asfortranarray(grid),
        grid.astype(">f8"), np.zeros((0, 3)), np.broadcast_to(np.arange(3.0), (4, 3)), range(3),
    ):  # fmt: skip
        x.value = given
        assert np.array_equal(x.value, given)
        y = edf.Reshape(x, (-1,))
        y.forward()
        assert np.array_equal(y.value, np.ravel(given))


def test_an_input_may_be_assigned_a_part_of_itself(device: str) -> None:
    x = edf.Input(np.arange(6.0))
    x.value = x.value[1:]
    assert np.array_equal(x.value, [1, 2, 3, 4, 5])
    x.value = x.value[::-1]
    assert np.array_equal(x.value, [5, 4, 3, 2, 1])
    x.value += 1
    assert np.array_equal(x.value, [6, 5, 4, 3, 2])
    p = edf.Parameter(np.arange(3.0))
    p.value = p.value[::-1]
    assert np.array_equal(p.value, [2, 1, 0])


def test_a_gradient_can_be_assigned(device: str) -> None:
    p, a, _, loss = chain()
    forward_backward(loss)
    for given in (np.ones((4, 3)), np.ones((4, 3), np.float16), np.ones((4, 3), int), 1, np.ones(3), [[1.0]]):
        p.grad = 0
        a.grad = given
        assert a.grad.dtype == np.float32
        assert np.array_equal(a.grad, np.ones((4, 3)))
        a.backward()
        assert np.array_equal(p.grad, -np.ones((4, 3)))
    given = np.ones((4, 3), np.float32)
    a.grad = given
    given[:] = 3
    assert np.array_equal(a.grad, np.ones((4, 3)))


def test_an_assigned_parameter_gradient_is_what_sgd_uses(device: str) -> None:
    p, _, _, loss = chain()
    forward_backward(loss)
    p.value, p.grad, edf.learning_rate = np.ones((4, 3)), np.full((4, 3), 2.0), 0.25
    edf.SGD()
    assert np.array_equal(p.value, np.full((4, 3), 0.5))


# The log-loss of a softmax


def loss_of(scores: Any, labels: Any) -> tuple[Any, Any, Any]:
    s = edf.Parameter(np.asarray(scores, np.float64))
    Q = edf.Softmax(s)
    return s, Q, edf.LogLoss(Q, edf.Input(np.asarray(labels)))


SCORES, LABELS = np.random.default_rng(0).normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])


def exact_gradient(scores: Any, labels: Any) -> Any:
    e = np.exp(scores - scores.max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True) - np.eye(scores.shape[1])[labels]) / len(labels)


@pytest.mark.parametrize("look", ["never", "before", "after", "both"])
def test_a_look_between_softmax_and_loss_changes_nothing(look: str, device: str) -> None:
    edf.DT = np.float64
    s, Q, ell = loss_of(SCORES, LABELS)
    edf.Forward()
    if look in {"before", "both"}:
        Q.value.sum()
    edf.Backward(ell)
    if look in {"after", "both"}:
        expected = np.zeros((5, 4))
        rows = np.arange(5)
        expected[rows, LABELS] = -ell.grad / Q.value[rows, LABELS]
        np.testing.assert_allclose(Q.grad, expected, rtol=1e-14)
    np.testing.assert_allclose(s.grad, exact_gradient(SCORES, LABELS), rtol=0, atol=1e-15)
    np.testing.assert_allclose(ell.value, -np.log(Q.value[np.arange(5), LABELS]), rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_a_thousand_stay_finite(dtype: Any, device: str) -> None:
    edf.DT = dtype
    scores = np.array([[1000.0, -1000, 0], [-1000, 1000, 0], [-1000, -1000, -1000], [1000, 1000, 1000]])
    labels = np.array([1, 1, 2, 0])
    s, Q, ell = loss_of(scores, labels)
    for _ in range(2):
        edf.Forward()
        edf.Backward(ell)
        np.testing.assert_allclose(ell.value, [2000, 0, np.log(3), np.log(3)], rtol=1e-6)
        np.testing.assert_allclose(s.grad, exact_gradient(scores, labels), rtol=0, atol=1e-7)
        assert Q.value[0, 1] == 0
        assert Q.grad[0, 1] == -np.inf  # what -1/p is; the next round shows that the look harmed nothing


def test_a_node_that_looks_at_the_gradient_keeps_the_loss_stable(device: str) -> None:
    """A node between softmax and loss reads Q.grad during Backward; what flows on is that of the scores."""
    seen = []

    class Watch:
        def __init__(self, node: Any) -> None:
            edf.CompNodes.append(self)
            self.node = node

        def forward(self) -> None:
            self.value = np.zeros(1)

        def backward(self) -> None:
            seen.append(self.node.grad.copy())

    scores, labels = np.array([[1000.0, -1000.0]]), np.array([1])
    s = edf.Parameter(scores)
    Q = edf.Softmax(s)
    Watch(Q)
    ell = edf.LogLoss(Q, edf.Input(labels))
    edf.Forward()
    edf.Backward(ell)
    assert np.array_equal(seen, [[[0, -np.inf]]])
    assert np.array_equal(s.grad, [[1, -1]])


def test_a_node_that_adds_to_the_gradient_is_heard(device: str) -> None:
    class Add:
        def __init__(self, node: Any) -> None:
            edf.CompNodes.append(self)
            self.node = node

        def forward(self) -> None:
            self.value = np.zeros(1)

        def backward(self) -> None:
            self.node.grad[:, 0] += 0.5

    edf.DT = np.float64
    s = edf.Parameter(SCORES)
    Q = edf.Softmax(s)
    Add(Q)
    ell = edf.LogLoss(Q, edf.Input(LABELS))
    edf.Forward()
    edf.Backward(ell)
    u = np.zeros((5, 4))
    u[:, 0] = 0.5
    extra = Q.value * (u - (u * Q.value).sum(1, keepdims=True))
    np.testing.assert_allclose(s.grad, exact_gradient(SCORES, LABELS) + extra, rtol=0, atol=1e-14)


def test_probabilities_assigned_by_hand_are_what_the_loss_is_of(device: str) -> None:
    edf.DT = np.float64
    s, Q, ell = loss_of(SCORES, LABELS)
    edf.Forward()
    by_hand = np.full((5, 4), 0.25)
    Q.value = by_hand
    ell.forward()
    np.testing.assert_allclose(ell.value, np.full(5, np.log(4)), rtol=1e-15)
    edf.Backward(ell)
    expected = np.zeros((5, 4))
    expected[np.arange(5), LABELS] = -1 / 5 / 0.25
    np.testing.assert_allclose(Q.grad, expected, rtol=1e-15)
    edf.Forward()  # and then they are those of the scores again
    edf.Backward(ell)
    np.testing.assert_allclose(s.grad, exact_gradient(SCORES, LABELS), rtol=0, atol=1e-15)


def test_probabilities_changed_in_place_by_assignment(device: str) -> None:
    edf.DT = np.float64
    _, Q, ell = loss_of(SCORES, LABELS)
    edf.Forward()
    Q.value /= 2
    expected = -np.log(Q.value[np.arange(5), LABELS])
    ell.forward()
    np.testing.assert_allclose(ell.value, expected, rtol=1e-15)


def test_probabilities_before_any_forward(device: str) -> None:
    s, Q, ell = loss_of(SCORES, LABELS)
    Q.value = np.full((5, 4), 0.25)
    ell.forward()
    np.testing.assert_allclose(ell.value, np.full(5, np.log(4)), rtol=1e-6)
    edf.Backward(ell)  # Softmax has its value, by hand, so its backward has all it needs
    u = np.zeros((5, 4))
    u[np.arange(5), LABELS] = -1 / 5 / 0.25
    expected = 0.25 * (u - (u * 0.25).sum(1, keepdims=True))
    np.testing.assert_allclose(s.grad, expected, rtol=1e-5, atol=1e-7)


def test_soft_labels_that_were_computed_get_their_gradient(device: str) -> None:
    """Also where the loss is that of the scores, which waits for the softmax before the labels'."""
    scores, weights = np.random.default_rng(3).normal(size=(2, 4, 5))
    a, b = edf.Parameter(scores), edf.Parameter(weights)
    p = edf.Softmax(a)
    q = edf.Softmax(b)
    loss = edf.LogLossSoft(p, q)
    edf.Forward()
    edf.Backward(loss)
    x, y = (edf.Tensor(t.value, requires_grad=True) for t in (a, b))
    edf.ops.log_loss_soft(edf.ops.softmax(x), edf.ops.softmax(y)).backward(np.full(4, 0.25, np.float32))
    assert np.array_equal(a.grad, x.grad.numpy())
    assert np.array_equal(b.grad, y.grad.numpy())
    np.testing.assert_allclose(p.grad, -q.value / p.value / 4, rtol=1e-5)


def test_concat_takes_any_number_of_nodes_and_keeps_them() -> None:
    a, b = edf.Parameter(np.ones((2, 3))), edf.Input(np.zeros((2, 2)))
    node = edf.Concat(a, b, a, axis=1)
    assert node.inputs == (a, b, a)
    edf.Forward()
    assert node.value.tolist() == [[1, 1, 1, 0, 0, 1, 1, 1]] * 2
    assert edf.ConCat is edf.Concat
    assert edf.Embed is edf.GatherRows


def test_split_is_slices() -> None:
    x = np.arange(12).reshape(2, 6)
    assert [part.numpy().tolist() for part in edf.ops.split(x, 2, axis=1)] == [
        x[:, :3].tolist(),
        x[:, 3:].tolist(),
    ]
    assert [part.shape for part in edf.ops.split(edf.Tensor(x), [1, -2], axis=-1)] == [(2, 1), (2, 3), (2, 2)]
    for at, axis, message in (
        (4, 1, "axis 1 of x has size 6, which is not 4 equal parts."),
        (2, 2, "there is no axis 2 in x of shape (2, 6)."),
    ):
        with pytest.raises(edf.ShapeError) as error:
            edf.ops.split(x, at, axis)
        assert str(error.value) == f"[split] {message}"
