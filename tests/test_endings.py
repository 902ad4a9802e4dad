"""What a CUDA device does with a product before it is stored: updates in the product's own kernels, in all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edfcore as edf
from plan_programs import examples, mlp

HOWS = ["exact", "high", "medium"]
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]
# (m, n, k): small, with odd edges; few columns; few rows; several tiles; k in parts; and so with few columns or rows.
SHAPES = [(5, 3, 7), (130, 16, 20), (16, 131, 20), (70, 66, 17), (65, 33, 300), (40, 10, 700), (3, 18, 513)]
LARGE = (1410, 1530, 16)  # enough for the large tiles
EMPTY = [(0, 4, 3), (4, 0, 3), (6, 20, 0)]


def tolerance(dtype: Any, how: str = "exact") -> float:
    return 1e-12 if dtype == np.float64 else 4e-3 if how == "medium" else 2e-5


def operands(shape: tuple[int, int, int], trans_a: bool, trans_b: bool, dtype: Any) -> tuple[Any, Any, Any]:
    """Two matrices as they are given to the engine, and their product in float64."""
    m, n, k = shape
    random = np.random.default_rng(m + 3 * n + 7 * k)
    a = random.standard_normal((k, m) if trans_a else (m, k)).astype(dtype)
    b = random.standard_normal((n, k) if trans_b else (k, n)).astype(dtype)
    left, right = (x.astype(np.float64) for x in (a, b))
    return a, b, (left.T if trans_a else left) @ (right.T if trans_b else right)


def close(found: Any, want: Any, dtype: Any, how: str = "exact", depth: int = 1) -> None:
    assert found.dtype == dtype
    allowed = tolerance(dtype, how) * np.sqrt(max(depth, 1))
    np.testing.assert_allclose(found, want, rtol=allowed, atol=allowed)


# ---- updates ----


def descended(shape: tuple[int, int, int], trans_a: bool, trans_b: bool, dtype: Any) -> tuple[Any, Any, Any]:
    """A parameter that has moved along a product; where float64 puts it; and where a product and an update do."""
    a, b, product = operands(shape, trans_a, trans_b, dtype)
    p = np.random.default_rng(1).standard_normal(product.shape).astype(dtype)
    moved, apart, left, right = (edf.Tensor(x) for x in (p.copy(), p.copy(), a, b))
    edf._core.apply(
        edf._core.find_op("matmul_sgd"),
        (moved, left, right),
        edf._describe.Attrs(None, False, trans_a, trans_b, None, 0.25),
    )
    edf.ops.sgd(apart, edf.ops.matmul(left, right, trans_a=trans_a, trans_b=trans_b), 0.25)
    return moved.numpy(), p - 0.25 * product, apart.numpy()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("trans_a", "trans_b"), LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, *EMPTY])
def test_a_parameter_descends_along_a_product(
    shape: tuple[int, int, int], trans_a: bool, trans_b: bool, dtype: Any, how: str, device: str
) -> None:
    edf.set_float32_matmul(how)
    found, want, apart = descended(shape, trans_a, trans_b, dtype)
    close(found, want, dtype, how, shape[2])
    if device == "cuda":  # the CPU begins deep sums anew, or goes on
        np.testing.assert_array_equal(found, apart)


@pytest.mark.parametrize("how", HOWS)
def test_a_large_parameter_descends_along_a_product(how: str, device: str) -> None:
    edf.set_float32_matmul(how)
    found, want, apart = descended(LARGE, True, False, np.float32)
    close(found, want, np.float32, how, LARGE[2])
    np.testing.assert_array_equal(found, apart)


@pytest.mark.parametrize("how", ["high", "medium"])
def test_a_parameter_descends_once_where_elements_are_computed_again(how: str, device: str) -> None:
    a, b, _ = operands((24, 20, 33), True, False, np.float32)
    a[3, 2], b[3] = np.finfo(np.float32).max, 0.25  # this row is more than tensor cores can take
    ends = []
    for each in ("exact", how):
        edf.set_float32_matmul(each)
        p = edf.Tensor(np.full((24, 20), 3e37, np.float32))
        attrs = edf._describe.Attrs(None, False, True, False, None, 0.5)
        edf._core.apply(edf._core.find_op("matmul_sgd"), (p, edf.Tensor(a), edf.Tensor(b)), attrs)
        ends.append(p.numpy())
    np.testing.assert_allclose(ends[1][2], 3e37 - 0.5 * 0.25 * np.finfo(np.float32).max, rtol=1e-2)
    np.testing.assert_array_equal(ends[0][2], ends[1][2])


def test_a_step_updates_its_matrices_in_their_products(device: str) -> None:
    x, y, loss = mlp([37, 20, 5])
    x.value, y.value = examples(8)
    lines = [line for line in edf.plan(loss).describe().splitlines() if "sgd" in line]
    assert sum(" matmul_sgd (sgd, fused) tn: " in line for line in lines) == 2
    assert sum(" sum_to_sgd (sgd, fused): " in line for line in lines) == 2
    assert len(lines) == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [12, 900])
@pytest.mark.parametrize(("way", "columns"), [("loop", 21), ("replay", 23), ("plain", 25)])
def test_rates_that_change_are_obeyed(way: str, columns: int, rows: int, dtype: Any, device: str) -> None:
    """The gradient of the sum of (x W)^2 is 2 x' x W: with 900 rows in parts, which another kernel sums.

    Plain runs are the first of a plan by each setting of products, which make no difference to such narrow ones. Each
    way has a plan of its own, of which none has been recorded by another.
    """
    edf.DT = dtype
    random = np.random.default_rng(rows)
    data = random.standard_normal((5, rows, 9)) / np.sqrt(rows)
    x, W = edf.Input(data[0]), edf.Parameter(random.standard_normal((9, columns)))
    loss = edf.Sum(edf.Square(edf.Matmul(x, W)), axis=1)
    assert " matmul_sgd (sgd, fused) tn: " in edf.plan(loss).describe()
    want, before = W.value.astype(np.float64), edf.plan_stats()["graphs"]
    for i, how in enumerate(HOWS if way == "plain" else ["exact"] * 8):
        edf.set_float32_matmul(how)
        edf.learning_rate = 0.1 * rows / (1 + i % 4)
        if way == "loop":
            for each in data:
                x.value = each
                edf.Forward()
                edf.Backward(loss)
                edf.SGD()
        else:
            edf.replay(loss, {x: data.reshape(5 * rows, 9)}, batch_size=rows)
        for each in data:
            want -= edf.learning_rate * 2 * (each.T @ (each @ want)) / rows
    assert (edf.plan_stats()["graphs"] > before) == (device == "cuda" and way != "plain")
    tolerance = 1e-4 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(W.value, want, rtol=tolerance, atol=tolerance * np.abs(want).max())
    assert np.abs(want).max() > 1e-4


@pytest.mark.parametrize("rows", [100, 300])  # 300 in parts
@pytest.mark.parametrize("how", HOWS)
def test_bad_labels_move_no_matrix(how: str, rows: int, device: str) -> None:
    edf.set_float32_matmul(how)
    x, y, loss = mlp([37, 20, 5])
    x.value, y.value = examples(rows)

    def step() -> None:
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        edf.Parameters[0].value.sum()

    for _ in range(5):
        step()
    before = [p.value.copy() for p in edf.Parameters]
    labels = y.value.copy()
    labels[7] = 5
    y.value = labels
    with pytest.raises(edf.DataError, match="holds 5 at position 7"):
        step()
    for p, kept in zip(edf.Parameters, before, strict=True):
        np.testing.assert_array_equal(p.value, kept)


# ---- what is updated apart from the product ----


def trained(make: Any, keep: str) -> tuple[list[Any], str]:
    """Parameters after some steps, and the plan."""
    edf.clear_compgraph()
    edf.keep(keep)
    try:
        loss = make()
        for i in range(7):
            edf.learning_rate = 0.02 / (1 + i % 3)
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
        return [p.value.copy() for p in edf.Parameters], edf.plan(loss).describe()
    finally:
        edf.keep("looked")


def numbers(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def of_two_parameters() -> Any:
    return edf.Sum(edf.Square(edf.Matmul(edf.Parameter(numbers(6, 7)), edf.Parameter(numbers(7, 5)))), axis=1)


def used_twice() -> Any:
    x, W = edf.Input(numbers(8, 6)), edf.Parameter(numbers(6, 6))
    return edf.Sum(edf.Square(edf.Matmul(edf.Tanh(edf.Matmul(x, W)), W)), axis=1)


def reshaped() -> Any:
    x, W = edf.Input(numbers(8, 6)), edf.Parameter(numbers(3, 10))
    return edf.Sum(edf.Square(edf.Matmul(x, edf.Reshape(W, (6, 5)))), axis=1)


def of_a_batch_of_matrices() -> Any:
    return edf.Sum(
        edf.Square(edf.Matmul(edf.Input(numbers(4, 8, 6)), edf.Parameter(numbers(4, 6, 5)))), axis=2
    )


@pytest.mark.parametrize("make", [of_two_parameters, used_twice, reshaped, of_a_batch_of_matrices])
def test_these_are_updated_when_their_gradients_are_there(make: Any, device: str) -> None:
    want, _ = trained(make, "all")
    found, plan = trained(make, "looked")
    assert "matmul_sgd" not in plan
    for one, other in zip(found, want, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_rounded_before_a_parameter_descends(dtype: str, device: str) -> None:
    def make() -> Any:
        x, W = edf.Input(numbers(32, 24)), edf.Parameter(numbers(24, 20))
        with edf.autocast(dtype):
            return edf.Sum(edf.Square(edf.Matmul(x, W)), axis=1)

    want, _ = trained(make, "all")
    found, plan = trained(make, "looked")
    assert "matmul_sgd" not in plan
    np.testing.assert_array_equal(found[0], want[0])


def test_a_parameter_that_every_product_of_a_batch_takes_descends_in_one(device: str) -> None:
    def make() -> Any:
        return edf.Sum(
            edf.Square(edf.Matmul(edf.Input(numbers(4, 8, 6)), edf.Parameter(numbers(6, 5)))), axis=2
        )

    want, _ = trained(make, "all")
    found, plan = trained(make, "looked")
    assert plan.count(" matmul_sgd (sgd, fused) tn: ") == 1
    np.testing.assert_array_equal(found[0], want[0])
