"""The loss of few classes in the kernel of the product that makes the scores, on a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edfcore as edf
from plan_programs import step_and_look
from references import Array
from test_endings_of_steps import groups

# (rows, inputs, classes): one row; odd edges; several tiles; a class; all columns of a tile; k in parts.
SIZES = [(1, 5, 3), (37, 20, 10), (200, 7, 5), (9, 4, 1), (130, 33, 16), (64, 256, 10), (40, 700, 7)]
TOO_WIDE = (20, 9, 17)


def data(size: tuple[int, ...], dtype: Any = np.float32) -> tuple[Array, Array, Array, Array]:
    """Rows, weights, a bias, and labels."""
    *rows, inputs, classes = size
    random = np.random.default_rng(sum(size))
    x, w, b = (random.standard_normal(shape) for shape in ((*rows, inputs), (inputs, classes), (classes,)))
    return x.astype(dtype), w.astype(dtype), b.astype(dtype), random.integers(0, classes, rows)


def reference(x: Array, w: Array, b: Array, y: Array) -> tuple[Array, Array]:
    """The loss of each row in float64, and its gradient by the scores."""
    scores = x.astype(float) @ w + b
    e = np.exp(scores - scores.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    at = y[..., None]
    loss = -np.log(np.take_along_axis(p, at, -1))[..., 0]
    one_hot = np.zeros_like(p)
    np.put_along_axis(one_hot, at, 1, -1)
    return loss, p - one_hot


class Head:
    """A classifier of one layer, its losses and the parameters after some steps."""

    def __init__(self, x: Array, w: Array, b: Array | None, y: Array) -> None:
        edf.clear_compgraph()
        edf.DT = x.dtype
        edf.learning_rate = 0.1
        self.x, self.y = edf.Input(x), edf.Input(y)
        self.w: Any
        if b is None:
            self.w = edf.Parameter(w)
            self.scores = edf.Matmul(self.x, self.w)
        else:
            params = edf.AffineParams(*w.shape)
            params.w.value, params.b.value, self.w = w, b, params.w
            self.scores = edf.Affine(params, self.x)
        self.loss = edf.LogLoss(edf.Softmax(self.scores), self.y)

    def steps(self, count: int = 3) -> None:
        for _ in range(count):
            edf.Forward()
            edf.Backward(self.loss)
            edf.SGD()

    def ops(self, loss: bool = True) -> list[list[str]]:
        return groups(self.loss if loss else None)


def trained(
    size: tuple[int, int, int], dtype: Any, keep: str = "looked"
) -> tuple[list[Array], list[list[str]]]:
    x, w, b, y = data(size, dtype)
    edf.keep(keep)
    head = Head(x, w, b, y)
    head.steps()
    found = [np.array(head.loss.value), *(p.value.copy() for p in edf.Parameters)]
    return found, head.ops()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*SIZES, TOO_WIDE], ids=lambda size: "x".join(map(str, size)))
def test_a_step(size: tuple[int, int, int], dtype: Any, device: str) -> None:
    found, steps = trained(size, dtype)
    apart, _ = trained(size, dtype, "all")
    x, w, b, y = (v.astype(float) if v.dtype == dtype else v for v in data(size, dtype))
    for _ in range(3):
        loss, slope = reference(x, w, b, y)
        slope /= len(x)
        w, b = w - 0.1 * x.T @ slope, b - 0.1 * slope.sum(0)
    allowed = 1e-4 if dtype == np.float32 else 1e-12
    for one, other, exact in zip(found, apart, (loss, w, b), strict=True):
        np.testing.assert_allclose(one, exact, rtol=allowed, atol=allowed)
        if device == "cuda":  # the same arithmetic in fewer kernels
            np.testing.assert_array_equal(one, other)
    if device == "cuda":
        assert (["affine", "log_loss_scores_both"] in steps) == (size != TOO_WIDE)


@pytest.mark.parametrize("inputs", [12, 500])
@pytest.mark.parametrize("labels", [np.uint8, np.int32, np.int64])
def test_labels_of_each_dtype_without_a_bias(labels: Any, inputs: int, device: str) -> None:
    x, w, b, y = data((30, inputs, 6))
    head = Head(x, w, None, y.astype(labels))
    edf.keep(head.loss)
    head.steps(1)
    loss, slope = reference(x, w, 0 * b, y)
    np.testing.assert_allclose(head.loss.value, loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.w.value, w - 0.1 * x.astype(float).T @ slope / 30, rtol=1e-4, atol=1e-5)
    if device == "cuda":
        assert ["matmul", "log_loss_scores_both"] in head.ops()


@pytest.mark.parametrize("inputs", [12, 500])
def test_the_loss_alone_and_scores_that_are_looked_at(inputs: int, device: str) -> None:
    x, w, b, y = data((50, inputs, 10))
    head = Head(x, w, b, y)
    edf.keep(head.scores)
    edf.keep(head.loss)
    for _ in range(3):
        edf.Forward()
    np.testing.assert_allclose(head.loss.value, reference(x, w, b, y)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(head.scores.value, x.astype(float) @ w + b, rtol=1e-4, atol=1e-4)
    if device == "cuda":
        assert ["affine", "log_loss_scores"] in head.ops(loss=False)


@pytest.mark.parametrize("shared", [True, False])
def test_products_of_a_batch(shared: bool, device: str) -> None:
    x, w, _, y = data((4, 11, 9, 5))
    weights = w if shared else np.stack([w, w + 1, 2 * w, -w])
    head = Head(x, weights, None, y)
    edf.keep(head.loss)
    head.steps(1)
    loss, _ = reference(x, weights, np.zeros(5), y)
    np.testing.assert_allclose(head.loss.value, loss, rtol=1e-4, atol=1e-5)
    if device == "cuda":
        assert ["matmul", "log_loss_scores_both"] in head.ops()


def test_a_large_batch_deeper_than_a_grid(device: str) -> None:
    batch = 65_535 + 20
    random = np.random.default_rng(0)
    x, w = (random.standard_normal((batch, *shape)).astype(np.float32) for shape in ((1, 2), (2, 3)))
    y = random.integers(0, 3, (batch, 1))
    head = Head(x, w, None, y)
    edf.keep(head.loss)
    head.steps(1)
    loss, _ = reference(x, w, np.zeros(3), y)
    np.testing.assert_allclose(head.loss.value, loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inputs", [12, 500])
@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_out_of_range(label: int, inputs: int, device: str) -> None:
    """Its row is named, nothing moves, and the next step is a good one."""
    x, w, b, y = data((50, inputs, 10))
    head = Head(x, w, b, y)
    head.steps()
    before = head.w.value.copy()
    wrong = y.copy()
    wrong[37] = label
    head.y.value = wrong
    with pytest.raises(edf.DataError, match=f"input 1 holds {label} at position 37: valid values are 0 to 9"):
        step_and_look(head.loss)
    np.testing.assert_array_equal(head.w.value, before)
    head.y.value = y
    head.steps(1)
    assert np.isfinite(head.w.value).all()
    assert (head.w.value != before).any()


@pytest.mark.parametrize("inputs", [12, 500])
def test_nan_and_infinity_go_through(inputs: int, device: str) -> None:
    x, w, b, y = data((50, inputs, 10))
    x[3, 2], x[5, 1] = np.nan, np.inf
    head = Head(x, w, b, y)
    edf.keep(head.loss)
    head.steps(1)
    assert np.isnan(head.loss.value[[3, 5]]).all()
    assert np.isfinite(np.delete(head.loss.value, [3, 5])).all()
    assert np.isnan(head.w.value).all()


def test_of_two_bad_inputs_the_first_is_named(device: str) -> None:
    """The loss goes behind its product, but not past another op that looks at its data."""
    x, w, _, y = data((6, 4, 3))
    table, rows = edf.Parameter(np.ones((5, 3))), edf.Input(np.arange(6) % 5)
    labels = edf.Input(y)
    scores = edf.Matmul(edf.Input(x), edf.Parameter(w))
    taken = edf.ops.gather_rows(table, rows)
    loss = edf.Add(edf.LogLoss(edf.Softmax(scores), labels), edf.Mean(taken, axis=1))

    for _ in range(4):
        step_and_look(loss)
    rows.value, labels.value = np.full(6, 9), np.full(6, 7)
    with pytest.raises(edf.DataError, match=r"\[gather_rows\] input 1 holds 9"):
        step_and_look(loss)
