"""The gradient of a bias, or its descent, beside the product that makes that of the matrix, on a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edfcore as edf
from plan_programs import step_and_look
from references import Array
from test_endings_of_steps import groups

# (rows, inputs, outputs): small; odd edges; few inputs; several tiles; k in parts, of all kinds of tiles.
SIZES = [(5, 7, 3), (64, 70, 66), (33, 9, 140), (70, 130, 131), (300, 20, 10), (520, 10, 40), (700, 66, 65)]


def layer(size: tuple[int, int, int], dtype: Any) -> tuple[Array, Array, Array, Array]:
    """Rows, weights, a bias, and factors of the outputs whose sum is the loss."""
    rows, inputs, outputs = size
    random = np.random.default_rng(sum(size))
    shapes = ((rows, inputs), (inputs, outputs), (outputs,), (rows, outputs))
    x, w, b, f = (random.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, w, b, f


def trained(
    size: tuple[int, int, int], dtype: Any, update: Any, keep: str
) -> tuple[list[Array], list[list[str]]]:
    x, w, b, f = layer(size, dtype)
    edf.clear_compgraph()
    edf.keep(keep)
    edf.DT, edf.learning_rate = dtype, 0.01
    params = edf.AffineParams(*w.shape)
    params.w.value, params.b.value = w, b
    loss = edf.Sum(edf.Mul(edf.Affine(params, edf.Input(x)), edf.Input(f)))
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        update()
    return [params.w.value.copy(), params.b.value.copy()], groups(loss)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_a_bias_descends_beside_its_matrix(size: tuple[int, int, int], dtype: Any, device: str) -> None:
    found, steps = trained(size, dtype, edf.SGD, "looked")
    apart, _ = trained(size, dtype, edf.SGD, "all")
    x, w, b, f = (v.astype(float) for v in layer(size, dtype))
    allowed = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found[0], w - 4 * 0.01 * x.T @ f, rtol=allowed, atol=20 * allowed)
    np.testing.assert_allclose(found[1], b - 4 * 0.01 * f.sum(0), rtol=allowed, atol=allowed)
    if device == "cuda":
        assert ["matmul_sgd", "sum_to_sgd"] in steps, steps
        for one, other in zip(found, apart, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("how", ["high", "medium"])
def test_kernels_on_tensor_cores_have_it_made_apart(how: str, device: str) -> None:
    edf.set_float32_matmul(how)
    found, _ = trained((64, 70, 66), np.float32, edf.SGD, "looked")
    _, _, b, f = (v.astype(float) for v in layer((64, 70, 66), np.float32))
    np.testing.assert_allclose(found[1], b - 4 * 0.01 * f.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("update", [edf.Momentum, edf.Adam])
def test_gradients_that_are_stored(update: Any, device: str) -> None:
    found, _ = trained((64, 70, 66), np.float64, update, "looked")
    apart, _ = trained((64, 70, 66), np.float64, update, "all")
    for one, other in zip(found, apart, strict=True):
        np.testing.assert_allclose(one, other, rtol=0 if device == "cuda" else 1e-13, atol=0)


@pytest.mark.parametrize(
    "size",
    [(6, 0, 5), (0, 4, 5), (20, 8, 1), (2500, 6, 5)],
    ids=["no inputs", "no rows", "a column", "many rows"],
)
def test_what_goes_another_way(size: tuple[int, int, int], device: str) -> None:
    """Nothing to multiply, a column that is summed up as a row is, and sums in two stages."""
    found, _ = trained(size, np.float64, edf.SGD, "looked")
    x, w, b, f = layer(size, np.float64)
    np.testing.assert_allclose(found[0], w - 4 * 0.01 * x.T @ f, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found[1], b - 4 * 0.01 * f.sum(0), rtol=1e-11, atol=1e-11)


def test_bad_data_move_no_bias(device: str) -> None:
    x, w, b, _ = layer((40, 30, 10), np.float32)
    labels = np.arange(40) % 10
    edf.DT, edf.learning_rate = np.float32, 0.1
    params, y = edf.AffineParams(*w.shape), edf.Input(labels)
    params.w.value, params.b.value = w, b
    loss = edf.LogLoss(edf.Softmax(edf.Affine(params, edf.Input(x))), y)

    for _ in range(4):
        step_and_look(loss)
    before = params.b.value.copy()
    y.value = np.where(labels == 3, 10, labels)
    with pytest.raises(edf.DataError):
        step_and_look(loss)
    np.testing.assert_array_equal(params.b.value, before)
    y.value = labels
    step_and_look(loss)
    assert (params.b.value != before).all()


def test_a_bias_that_is_shared_descends_once_for_each_use(device: str) -> None:
    """Its gradients add up first, so that neither product can make the descent."""
    found = []
    for keep in ("looked", "all"):
        x, w, b, f = layer((9, 6, 6), np.float64)
        edf.clear_compgraph()
        edf.keep(keep)
        edf.DT, edf.learning_rate = np.float64, 0.05
        params = edf.AffineParams(*w.shape)
        params.w.value, params.b.value = w, b
        out = edf.Affine(params, edf.Tanh(edf.Affine(params, edf.Input(x))))
        loss = edf.Sum(edf.Mul(out, edf.Input(f)))
        for _ in range(4):
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
        found.append([params.w.value.copy(), params.b.value.copy()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
