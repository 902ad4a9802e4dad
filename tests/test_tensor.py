"""The eager tensor: operators, NumPy, backward passes over every shape of graph, and the stable loss."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import ops

Array = np.ndarray[Any, Any]
A = np.array([[1.5, -2.0, 0.25], [3.0, 0.5, -1.0]], np.float32)
B = np.array([[0.5, 4.0, -2.0], [1.0, -0.125, 8.0]], np.float32)
SQUARE = np.array([[1.0, 2.0], [-1.0, 0.5]], np.float32)


def grad(x: Any) -> Any:
    return x.grad.numpy().tolist()


def leaf(data: Any, dtype: Any = np.float64) -> Any:
    return edf.Tensor(np.array(data, dtype), requires_grad=True)


# Operators.

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv]


OTHERS = {"array": B, "row": B[0], "scalar": np.float32(3), "int": 2, "float": 0.5, "bool": True}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("f", BINARY)
def test_binary_operators_and_their_reflections(f: Callable[..., Any], other: Any, device: str) -> None:
    x = edf.Tensor(A)
    for got, want in [(f(x, other), f(A, other)), (f(other, x), f(other, A))]:
        assert isinstance(got, edf.Tensor)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.numpy(), want)
    if isinstance(other, np.ndarray):
        np.testing.assert_array_equal(f(x, edf.Tensor(other)).numpy(), f(A, other))


@pytest.mark.parametrize(
    ("f", "data"),
    [
        (operator.neg, A),
        (lambda x: x @ SQUARE, SQUARE),
        (lambda x: SQUARE @ x, SQUARE),
        (lambda x: x.T, A),
        (lambda x: x.transpose((1, 0)), A),
        (lambda x: x.reshape(3, 2), A),
        (lambda x: x.reshape((-1,)), A),
        (lambda x: x.reshape(-1), A),
        (lambda x: x.sum(), A),
        (lambda x: x.sum(axis=1, keepdims=True), A),
        (lambda x: x.mean(0), A),
        (lambda x: x.max(axis=(0, 1)), A),
        (lambda x: x.astype("float64"), A),
        (lambda x: x.astype(np.int32), A),
        (lambda x: x + 1, np.array([1, 2, 3])),
        (lambda x: x * x, np.array([100, 200], np.uint8)),
    ],
)
def test_operators_and_methods_are_numpys(f: Callable[..., Any], data: Array, device: str) -> None:
    got, want = f(edf.Tensor(data)), f(data)
    assert isinstance(got, edf.Tensor)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


def test_operators_have_gradients(device: str) -> None:
    x, y = leaf([2.0, 4.0]), leaf([1.0, 0.5])
    ((3 * x - y / x) + (1 - x) * y + 2 / y - x * 0.5).sum().backward()
    np.testing.assert_allclose(grad(x), 3 + np.array([1, 0.5]) / np.array([4, 16]) - [1, 0.5] - np.array(0.5))
    np.testing.assert_allclose(
        grad(y), -1 / np.array([2, 4]) + (1 - np.array([2, 4])) - 2 / np.array([1, 0.25])
    )


@pytest.mark.parametrize("index", [2, np.int64(2), np.array(2, np.uint8)], ids=["int", "int64", "uint8"])
def test_a_number_as_index_or_label_stays_an_integer(index: Any) -> None:
    table = edf.Tensor(A.T.copy())
    assert ops.gather_rows(table, index).numpy().tolist() == A.T[2].tolist()
    assert ops.take_along_last(edf.Tensor(A[0]), index).item() == A[0][2]
    p = np.array([0.5, 0.25, 0.25], np.float32)
    assert ops.log_loss(edf.Tensor(p), index).item() == pytest.approx(np.log(4))


@pytest.mark.parametrize(
    "number", [2, 2.0, np.float64(2), np.int32(2)], ids=["int", "float", "float64", "int32"]
)
def test_a_number_beside_a_node_takes_its_dtype(number: Any, device: str) -> None:
    """In eager mode and in a recorded graph alike."""
    node = edf.Input(A)
    results = [ops.div(node, number), ops.sub(number, node)]
    edf.Forward()
    for got, want in zip(results, [A / np.float32(2), 2 - A], strict=True):
        assert got.value.dtype == np.float32
        np.testing.assert_array_equal(got.value, want)
    np.testing.assert_array_equal(ops.div(edf.Tensor(A), number).numpy(), A / np.float32(2))


# What a tensor says of itself, and what it is made of.


def test_a_tensor_and_numpy(device: str) -> None:
    x = edf.Tensor(A)
    assert (x.shape, x.ndim, x.size, len(x), x.dtype, x.device.split(":")[0]) == (
        (2, 3),
        2,
        6,
        2,
        A.dtype,
        device,
    )
    assert (float(x.sum()), int(x.max()), bool(x.max()), x.max().item()) == (2.25, 3, True, 3.0)
    assert isinstance(x.max().item(), float)
    np.testing.assert_array_equal(np.asarray(x), A)
    assert np.asarray(x, np.float64).dtype == np.float64
    assert np.array(x).flags.writeable
    assert not x.numpy().flags.writeable
    assert "float32" in repr(x)
    assert "requires_grad" not in repr(x)
    assert "requires_grad=True" in repr(leaf([1.0]))
    with pytest.raises(TypeError, match=re.escape("len() of a 0-d tensor")):
        len(x.sum())


@pytest.mark.parametrize(
    ("data", "dtype", "expected"),
    [
        ([1.0, 2.0], None, "float32"),
        (np.array([1.0, 2.0]), None, "float64"),
        ([1, 2], None, "int64"),
        ([True, False], None, "uint8"),
        (np.array([1, 2], np.uint8), None, "uint8"),
        (np.array([1, 2], np.int16), None, "int64"),
        ([1, 2], np.float64, "float64"),
        (np.array([1.5]), "int32", "int32"),
        (np.array([1.5], np.float16), None, "float16"),
        (np.asfortranarray(A), None, "float32"),
        (A[:, ::-1], None, "float32"),
    ],
)
def test_dtypes_of_new_tensors(data: Any, dtype: Any, expected: str, device: str) -> None:
    x = edf.Tensor(data, dtype)
    assert x.dtype == np.dtype(expected)
    np.testing.assert_array_equal(x.numpy(), np.asarray(data).astype(expected))


def test_a_tensor_has_values_of_its_own(device: str) -> None:
    data = A.copy()
    x = edf.Tensor(data)
    data[:] = 0
    np.testing.assert_array_equal(x.numpy(), A)


# Backward passes.


def test_distance(device: str) -> None:
    """The chain l = sqrt(x^2 + y^2)."""
    x, y = leaf(3.0), leaf(4.0)
    length = ops.sqrt(x * x + ops.square(y))
    length.backward()
    assert (length.item(), grad(x), grad(y)) == pytest.approx((5.0, 0.6, 0.8))


def test_fan_out(device: str) -> None:
    """With y = f(x) and z = g(y, x), x gets its gradient by two ways."""
    x = leaf([0.5, 2.0])
    y = ops.square(x)
    (y * x).sum().backward()
    np.testing.assert_allclose(grad(x), [0.75, 12.0])
    assert y.grad is None  # of computed values, gradients are passed on and dropped


def test_a_value_used_many_times(device: str) -> None:
    x = leaf(1.0)
    total = x
    for _ in range(10):
        total = total + total
    total.backward()
    assert grad(x) == 1024


def test_gradients_accumulate_until_they_are_dropped(device: str) -> None:
    x = leaf([1.0, -2.0])
    loss = ops.square(x).sum()
    loss.backward()
    loss.backward()
    assert grad(x) == [4, -8]
    (x * 10).sum().backward()
    assert grad(x) == [14, 2]
    x.grad = None
    assert x.grad is None
    loss.backward()
    assert grad(x) == [2, -4]
    x.grad = edf.Tensor(np.array([1.0, 1.0]))
    loss.backward()
    assert grad(x) == [3, -3]


def test_a_given_gradient(device: str) -> None:
    x = leaf(A, np.float32)
    (x * 2).backward(B)
    np.testing.assert_array_equal(x.grad.numpy(), 2 * B)
    x.grad = None
    (x * 2).backward(edf.Tensor(B))
    np.testing.assert_array_equal(x.grad.numpy(), 2 * B)


def test_only_what_requires_a_gradient_gets_one() -> None:
    x, y = leaf([1.0]), edf.Tensor(np.array([2.0]))
    assert not (y * y).requires_grad
    product = x * y
    assert product.requires_grad
    product.backward()
    assert y.grad is None
    y.requires_grad = True
    (x * y).backward()
    assert (grad(x), grad(y)) == ([4], [1])


def test_no_grad_and_detach(device: str) -> None:
    x = leaf([3.0])
    with edf.no_grad():
        y = ops.square(x)
        with edf.no_grad():
            pass
        assert not (x * 1).requires_grad
    assert not y.requires_grad
    with pytest.raises(ZeroDivisionError), edf.no_grad():
        raise ZeroDivisionError
    assert ops.square(x).requires_grad
    fixed = ops.square(x).detach()
    assert not fixed.requires_grad
    (fixed * x).backward()
    assert grad(x) == [9]


def test_gradients_of_gradients(device: str) -> None:
    x = leaf([0.5, -2.0])
    y = x * x * x * x
    derivatives: list[Any] = []
    for _ in range(4):
        x.grad = None
        y.sum().backward(create_graph=True)
        y = x.grad
        derivatives.append(y.numpy().tolist())
    x.grad = None
    at = np.array([0.5, -2.0])
    np.testing.assert_allclose(derivatives, np.stack([4 * at**3, 12 * at**2, 24 * at, 24 + 0 * at]))


def test_a_penalty_on_the_gradient(device: str) -> None:
    """A loss that holds a gradient, as a whole program would write it."""
    x = leaf([0.3, -0.4])
    ops.tanh(x).sum().backward(create_graph=True)
    slope = x.grad
    x.grad = None
    ops.square(slope).sum().backward()
    t = np.tanh([0.3, -0.4])
    np.testing.assert_allclose(grad(x), 2 * (1 - t**2) * -2 * t * (1 - t**2))
    assert not x.grad.requires_grad


@pytest.mark.parametrize("n", [1, 3, 1000])
def test_sgd_updates_in_place(n: int, device: str) -> None:
    p = leaf(np.arange(n), np.float32)
    ops.square(p).sum().backward()
    updated = ops.sgd(p, p.grad, 0.25)
    np.testing.assert_array_equal(p.numpy(), np.arange(n, dtype=np.float32) * 0.5)
    np.testing.assert_array_equal(updated.numpy(), p.numpy())
    assert p.requires_grad
    assert not updated.requires_grad


def test_a_gradient_through_an_updated_value_is_refused() -> None:
    p = leaf([1.0, 2.0])
    y = ops.square(p)
    ops.sgd(p, np.array([1.0, 1.0]), 0.5)
    line = test_a_gradient_through_an_updated_value_is_refused.__code__.co_firstlineno + 2
    with pytest.raises(edf.GraphError) as error:
        y.sum().backward()
    assert str(error.value) == (
        "[square] a value that its gradient needs was updated in place since this node ran. "
        f"Node made at test_tensor.py:{line}."
    )
    ops.square(p).sum().backward()
    assert grad(p) == [1, 3]


WRONG: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "no gradient": (
        lambda x: x.backward(),
        edf.GraphError,
        "backward: the value has shape (3,); a gradient of that shape must be given, "
        "or reduce it to one element first.",
    ),
    "a gradient's shape": (
        lambda x: x.backward(np.ones(2)),
        edf.ShapeError,
        "backward: the given gradient has shape (2,), but the value has shape (3,).",
    ),
    "nothing required": (
        lambda x: x.detach().sum().backward(),
        edf.GraphError,
        "backward: nothing that this value was computed from requires a gradient.",
    ),
    "integers": (
        lambda x: edf.Tensor([1, 2], requires_grad=True),
        edf.DTypeError,
        "Tensor: only floating-point tensors can require a gradient, and this one is int64.",
    ),
    "computed": (
        lambda x: setattr(x * 2, "requires_grad", False),
        edf.GraphError,
        "requires_grad can be set on leaves only.",
    ),
    "assigned shape": (
        lambda x: setattr(x, "grad", edf.Tensor(np.ones(2))),
        edf.ShapeError,
        "Tensor.grad of shape (2,) was assigned to a tensor of shape (3,).",
    ),
    "assigned type": (
        lambda x: setattr(x, "grad", 1),
        edf.DTypeError,
        "Tensor.grad must be a Tensor or None, not a int.",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), WRONG.values(), ids=WRONG)
def test_wrong_uses(call: Callable[..., Any], kind: type[Exception], message: str) -> None:
    x = leaf([1.0, 2.0, 3.0])
    with pytest.raises(kind) as error:
        call(x)
    assert str(error.value) == message
    x.sum().backward()
    assert grad(x) == [1, 1, 1]


# The stable loss.


@pytest.mark.parametrize("needs", ["gradient", "no gradient", "no_grad"])
def test_the_loss_of_far_scores_is_stable(needs: str, device: str) -> None:
    scores = np.array([[1000, 0, -1000], [-1000, 1000, 0]], np.float32)
    s, y = edf.Tensor(scores, requires_grad=needs != "no gradient"), np.array([1, 2])
    if needs == "no_grad":
        with edf.no_grad():
            losses = ops.log_loss(ops.softmax(s), y), ops.log_loss_scores(s, y)
    else:
        losses = ops.log_loss(ops.softmax(s), y), ops.log_loss_scores(s, y)
    assert losses[0].numpy().tolist() == losses[1].numpy().tolist() == [1000, 1000]
    if needs == "gradient":
        losses[0].sum().backward()
        assert grad(s) == [[1, -1, 0], [0, 1, -1]]


def test_concat_and_stack_take_a_list_as_numpy_does() -> None:
    a, b = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    for inputs in ([a, b], (edf.Tensor(a), b)):
        np.testing.assert_array_equal(edf.ops.concat(inputs, axis=1).numpy(), np.concatenate([a, b], axis=1))
        np.testing.assert_array_equal(edf.ops.stack(inputs).numpy(), np.stack([a, b]))
    p, q = edf.Parameter(a), edf.Input(b)
    node = edf.Concat([p, q], axis=1)
    assert node.inputs == (p, q)
    edf.Forward()
    np.testing.assert_array_equal(node.value, np.concatenate([a, b], axis=1))
    with pytest.raises(edf.ShapeError):
        edf.ops.concat([])
