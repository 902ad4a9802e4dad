"""Activations, and their gradients, in the kernel of the product that they follow on a CUDA device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from references import Array

HOWS = ["exact", "high", "medium"]
# (rows, inputs, hidden): small; several tiles with odd edges; few columns; few rows; k in parts; the same for few.
SIZES = [(5, 7, 3), (70, 33, 66), (130, 20, 9), (9, 20, 131), (33, 700, 65), (40, 513, 10)]
LARGE = (1410, 17, 1530)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def phi(x: Array) -> Array:
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def density(x: Array) -> Array:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


# The class, its value and its derivative in float64, and whether the way back reads the product.
ACTIVATIONS: dict[str, tuple[Any, Callable[[Array], Array], Callable[[Array], Array], bool]] = {
    "relu": (edf.Relu, lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0, False),
    "sigmoid": (edf.Sigmoid, sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x)), False),
    "tanh": (edf.Tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2, False),
    "softplus": (edf.Softplus, lambda x: np.logaddexp(0, x), sigmoid, True),
    "gelu": (edf.Gelu, lambda x: x * phi(x), lambda x: phi(x) + x * density(x), True),
    "silu": (edf.Silu, lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x))), True),
}


def groups(loss: Any) -> list[list[str]]:
    """The ops of a plan's groups of several."""
    found: list[list[str]] = []
    for line in edf.plan(loss).describe().splitlines()[1:]:
        mark, op = line[4], line[6:].split(":")[0].split(" ")[0]
        if mark == "/":
            found.append([op])
        elif mark in "|\\":
            found[-1].append(op)
    return found


def parameters(size: tuple[int, int, int], dtype: Any) -> tuple[Array, ...]:
    rows, inputs, hidden = size
    random = np.random.default_rng(inputs)
    shapes = ((rows, inputs), (inputs, hidden), (hidden,), (hidden, inputs), (inputs,))
    x, w, b, v, c = (random.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, w / np.sqrt(inputs).astype(dtype), b, v / np.sqrt(hidden).astype(dtype), c


def trained(
    name: str, size: tuple[int, int, int], dtype: Any, keep: str
) -> tuple[list[Array], list[list[str]]]:
    """Two layers, the first with the activation: outputs of some steps, then parameters; and the groups."""
    x, w, b, v, c = parameters(size, dtype)
    edf.clear_compgraph()
    edf.keep(keep)
    edf.DT = dtype
    edf.learning_rate = 0.01
    try:
        data, one, two = edf.Input(x), edf.AffineParams(*w.shape), edf.AffineParams(*v.shape)
        one.w.value, one.b.value, two.w.value, two.b.value = w, b, v, c
        out = edf.Affine(two, ACTIVATIONS[name][0](edf.Affine(one, data)))
        loss = edf.Mean(edf.Square(out))
        found = []
        for _ in range(4):
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
            found.append(np.array(loss.value))
        found += [p.value.copy() for p in edf.Parameters]
        return found, groups(loss)
    finally:
        edf.keep("looked")


def reference(name: str, size: tuple[int, int, int], dtype: Any) -> list[Array]:
    x, w, b, v, c = (p.astype(np.float64) for p in parameters(size, dtype))
    _, f, df, _ = ACTIVATIONS[name]
    found = []
    for _ in range(4):
        z = x @ w + b
        h = f(z)
        out = h @ v + c
        found.append(np.mean(out * out))
        g = 2 * out / out.size
        dz = (g @ v.T) * df(z)
        v, c, w, b = v - 0.01 * h.T @ g, c - 0.01 * g.sum(0), w - 0.01 * x.T @ dz, b - 0.01 * dz.sum(0)
    return [*found, w, b, v, c]


def check(name: str, size: tuple[int, int, int], dtype: Any, how: str, device: str) -> None:
    edf.set_float32_matmul(how)
    found, steps = trained(name, size, dtype, "looked")
    apart, _ = trained(name, size, dtype, "all")
    want = reference(name, size, dtype)
    allowed = 1e-11 if dtype == np.float64 else 4e-3 if how == "medium" else 3e-5
    for one, other, exact in zip(found, apart, want, strict=True):
        np.testing.assert_allclose(one, exact, rtol=20 * allowed, atol=20 * allowed)
        if device == "cuda":  # the same arithmetic, in fewer kernels
            np.testing.assert_allclose(one, other, rtol=1e-6 if dtype == np.float32 else 1e-14, atol=1e-7)
    if device == "cuda":
        assert ["affine", name] in steps
        assert ["matmul", f"{name}_grad"] in steps


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str, size: tuple[int, int, int], device: str) -> None:
    check(name, size, np.float32, "exact", device)


@pytest.mark.parametrize("how", ["high", "medium"])
@pytest.mark.parametrize("size", [SIZES[1], SIZES[4]], ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_tensor_cores(name: str, size: tuple[int, int, int], how: str, device: str) -> None:
    check(name, size, np.float32, how, device)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_float64(name: str, device: str) -> None:
    check(name, SIZES[1], np.float64, "exact", device)


@pytest.mark.parametrize("how", ["exact", "high"])
def test_large_tiles(how: str, device: str) -> None:
    """Products alone: a step would take the simulated device too long."""
    edf.set_float32_matmul(how)
    rows, inputs, hidden = LARGE
    x, w = numbers(rows, inputs), numbers(inputs, hidden)
    found, steps = values(lambda: [edf.Silu(edf.Matmul(edf.Input(x), edf.Parameter(w)))])
    z = x.astype(float) @ w
    np.testing.assert_allclose(found[0], z * sigmoid(z), rtol=1e-4, atol=1e-4)
    if device == "cuda":
        assert ["matmul", "silu"] in steps


def values(build: Callable[[], list[Any]], keep: str = "looked") -> tuple[list[Array], list[list[str]]]:
    edf.clear_compgraph()
    edf.keep(keep)
    try:
        nodes = build()
        for _ in range(3):
            edf.Forward()
            found = [np.array(node.value) for node in nodes]
        return found, groups(None)
    finally:
        edf.keep("looked")


def numbers(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("inputs", [6, 400])
def test_a_product_that_is_looked_at_is_there_too(inputs: int, device: str) -> None:
    x, w = numbers(20, inputs), numbers(inputs, 17)

    def build() -> list[Any]:
        product = edf.Matmul(edf.Input(x), edf.Parameter(w))
        edf.keep(product)
        return [product, edf.Tanh(product)]

    found, _ = values(build)
    exact = x.astype(float) @ w
    np.testing.assert_allclose(found[0], exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1], np.tanh(exact), rtol=1e-4, atol=1e-4)


def test_a_product_ends_with_one_step_and_others_read_it(device: str) -> None:
    x, w = numbers(12, 9), numbers(9, 14)

    def build() -> list[Any]:
        product = edf.Matmul(edf.Input(x), edf.Parameter(w))
        return [edf.Add(edf.Relu(product), edf.Mul(edf.Tanh(product), product))]

    found, steps = values(build)
    z = x.astype(float) @ w
    np.testing.assert_allclose(found[0], np.maximum(z, 0) + np.tanh(z) * z, rtol=1e-5, atol=1e-5)
    if device == "cuda":
        assert steps.count(["matmul", "relu"]) + steps.count(["matmul", "tanh"]) == 1


@pytest.mark.parametrize("shared", [False, True])
def test_products_of_a_batch(shared: bool, device: str) -> None:
    x, w = numbers(5, 7, 9), numbers(9, 14) if shared else numbers(5, 9, 14)
    found, steps = values(lambda: [edf.Sigmoid(edf.Matmul(edf.Input(x), edf.Parameter(w)))])
    np.testing.assert_allclose(found[0], sigmoid(x.astype(float) @ w), rtol=1e-5, atol=1e-6)
    if device == "cuda":
        assert ["matmul", "sigmoid"] in steps


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0)])
def test_empty(shape: tuple[int, int, int], device: str) -> None:
    m, k, n = shape
    found, _ = values(
        lambda: [edf.Softplus(edf.Matmul(edf.Input(numbers(m, k)), edf.Parameter(numbers(k, n))))]
    )
    np.testing.assert_allclose(found[0], np.full((m, n), math.log(2)), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_rounded_before_an_activation(dtype: str, device: str) -> None:
    x, w = numbers(12, 9), numbers(9, 14)

    def build() -> list[Any]:
        data, weights = edf.Input(x), edf.Parameter(w)
        with edf.autocast(dtype):
            return [edf.Tanh(edf.Matmul(data, weights))]

    found, steps = values(build)
    apart, _ = values(build, "all")
    np.testing.assert_array_equal(found[0], apart[0])
    if device == "cuda":
        assert ["matmul", "tanh"] not in steps


def test_nan_and_infinity_go_through(device: str) -> None:
    x, w = numbers(12, 9), numbers(9, 14)
    x[3, 2], x[5, 1] = np.nan, np.inf
    w[1] = np.abs(w[1]) + 1
    for how in HOWS:
        edf.set_float32_matmul(how)
        (found,), _ = values(lambda: [edf.Relu(edf.Matmul(edf.Input(x), edf.Parameter(w)))])
        assert np.isnan(found[3]).all()
        assert np.isposinf(found[5]).all()
        assert np.isfinite(np.delete(found, [3, 5], 0)).all()
