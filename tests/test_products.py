"""Products by how operands are copied: few rows and a right operand beyond nearby caches, and what follows them."""

from __future__ import annotations

import numpy as np
import pytest

import edfcore as edf
from checks import assert_passes
from edfcore import ops
from references import Array

ROWS = [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 24, 25]
SIZES = [(521, 601), (1031, 1123), (7, 200_003), (2051, 700)]  # float32: 1.3 to 5.7 MB; shallow, deep


def operands(rows: int, depth: int, columns: int, dtype: str) -> tuple[Array, Array]:
    rng = np.random.default_rng([rows, depth])
    return rng.standard_normal((rows, depth)).astype(dtype), rng.standard_normal((depth, columns)).astype(
        dtype
    )


def assert_product(found: Array, a: Array, b: Array, plus: Array | float = 0.0) -> None:
    """Within what rounding of a chain as long can make, in float64 arithmetic or wider."""
    exact = (
        a.astype(np.longdouble) @ b.astype(np.longdouble) if a.dtype == np.float64 else a.astype(float) @ b
    )
    bound = np.finfo(found.dtype).eps * np.sqrt(a.shape[1]) * 4 * (np.linalg.norm(a, axis=1)[:, None] + 1)
    assert np.all(np.abs(found - (exact + plus)) <= bound * (np.linalg.norm(b, axis=0) + 1))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("rows", ROWS)
def test_product(rows: int, size: tuple[int, int]) -> None:
    a, b = operands(rows, *size, "float32")
    found = ops.matmul(a, b).numpy()
    assert_product(found, a, b)
    left = np.ascontiguousarray(a.T)
    np.testing.assert_array_equal(ops.matmul(left, b, trans_a=True).numpy(), found)
    bias = b[0]
    np.testing.assert_allclose(ops.affine(a, b, bias).numpy(), found + bias, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 8, 24])
def test_float64(rows: int) -> None:
    a, b = operands(rows, 521, 1123, "float64")
    assert_product(ops.matmul(a, b).numpy(), a, b)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    ("depth", "columns", "dtype"),
    [(1031, 1123, "float32"), (4097, 64, "float32"), (3277, 40, "float64"), (13200, 40, "float64")],
)
def test_any_number_of_threads(depth: int, columns: int, dtype: str, rows: int) -> None:
    a, b = operands(rows, depth, columns, dtype)
    found = []
    for threads in (1, 2, 3):
        edf.set_num_threads(threads)
        found.append(ops.matmul(a, b).numpy())
        assert_product(found[-1], a, b)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    # A row's elements are the same chains whatever rows there are beside it.
    np.testing.assert_array_equal(ops.matmul(a[:1], b).numpy(), found[0][:1])


@pytest.mark.parametrize("rows", [1, 3, 7, 16])
def test_sgd_in_the_product_that_is_the_gradient(rows: int) -> None:
    x, w = operands(rows, 1031, 1123, "float32")
    x, w, rate = np.ascontiguousarray(x.T), w[:rows], 1e-4

    def run(keep: str) -> Array:
        edf.clear_compgraph()
        edf.keep(keep)
        edf.learning_rate = rate
        inputs, weights = edf.Input(), edf.Parameter(w.copy())
        loss = edf.Sum(edf.Square(edf.Relu(edf.Matmul(inputs, weights))))
        for _ in range(4):
            inputs.value = x
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
        return np.array(weights.value)

    exact = w.astype(float)
    for _ in range(4):
        exact -= rate * (x.T.astype(float) @ (2 * np.maximum(x @ exact, 0)))
    for keep in ("looked", "all"):
        np.testing.assert_allclose(run(keep), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1031, 1123), (16, 1100)], ids=["far", "near"])
@pytest.mark.parametrize("rows", [1, 4, 5, 6, 9])
def test_what_follows_a_product(rows: int, size: tuple[int, int]) -> None:
    x, w = operands(rows, *size, "float32")
    bias = np.linspace(-1, 1, size[1], dtype=np.float32)
    edf.clear_compgraph()
    inputs, package = edf.Input(), edf.AffineParams(*w.shape)
    package.w.value, package.b.value = w, bias
    out = edf.Sum(edf.Relu(edf.Affine(package, inputs)), axis=1)
    for step in range(4):
        inputs.value = x + np.float32(step)
        edf.Forward()
        exact = np.maximum((x + step).astype(float) @ w + bias, 0).sum(axis=1)
        np.testing.assert_allclose(out.value, exact, rtol=1e-4)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(403, 1029, 1301), (199, 1024, 1152), (13, 700, 2900)]
)
def test_a_transposed_left_operand(rows: int, depth: int, columns: int, trans_b: bool) -> None:
    """That meets many columns: copied once or for each part of them."""
    a, b = operands(rows, depth, columns, "float32")
    left, right = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T) if trans_b else b
    found = []
    for threads in (1, 2):
        edf.set_num_threads(threads)
        found.append(ops.matmul(left, right, True, trans_b).numpy())
    assert_product(found[0], a, b)
    np.testing.assert_array_equal(found[1], found[0])


def test_every_instruction_set(other_isa: dict[str, str]) -> None:
    """The tests above, in a process that is told which kernels to use."""
    assert_passes(__file__, other_isa)
