"""Neighbouring elementwise steps in one kernel on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from references import Array
from test_endings_of_steps import groups

# Elements: one; fewer than a pack; packs and more; several blocks of threads.
SIZES = [1, 3, 37, 4096 + 5]
DTYPES = ["float32", "float64", "bfloat16", "float16"]

# Two steps each, so that there is a chain. Every op that may be part of one is here, and on the way back its gradient.
PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "neg, exp": lambda x, y: edf.Exp(edf.Neg(x)),
    "square, log": lambda x, y: edf.Log(edf.Square(x)),
    "abs, sqrt": lambda x, y: edf.Sqrt(edf.Abs(x)),
    "relu, sigmoid": lambda x, y: edf.Sigmoid(edf.Relu(x)),
    "tanh, softplus": lambda x, y: edf.Softplus(edf.Tanh(x)),
    "gelu, silu": lambda x, y: edf.Silu(edf.Gelu(x)),
    "leaky_relu, clip": lambda x, y: edf.Clip(edf.LeakyRelu(x, 0.3), -0.25, 0.5),
    "add, sub": lambda x, y: edf.Sub(edf.Add(x, y), x),
    "mul, div": lambda x, y: edf.Div(edf.Mul(x, y), x),
    "maximum, minimum": lambda x, y: edf.Minimum(edf.Maximum(x, y), 0.5),
    "abs, pow": lambda x, y: edf.Pow(edf.Abs(x), 1.7),
    "scale": lambda x, y: edf.Scale(edf.Scale(x, 0.75), -3.0),
}


def operands(shape: Any, dtype: str) -> tuple[Any, Any]:
    random = np.random.default_rng(7)
    x, y = (random.uniform(0.2, 2.0, shape) * random.choice([-1, 1], shape) for _ in range(2))
    return x, y


def run(
    build: Callable[[Any, Any], Any], shapes: tuple[Any, Any], dtype: str, keep: str
) -> tuple[list[Array], list[list[str]]]:
    """The value and the gradients of x and y, of the fourth of some steps that move nothing; and the groups."""
    edf.clear_compgraph()
    edf.keep(keep)
    edf.DT, edf.learning_rate = dtype, 0.0
    x, y = edf.Parameter(operands(shapes[0], dtype)[0]), edf.Parameter(operands(shapes[1], dtype)[1])
    node = build(x, y)
    for looked_at in (x, y, node):
        edf.keep(looked_at)
    loss = edf.Sum(edf.Square(node))
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    found = [np.array(v, np.float64) for v in (node.value, x.grad, y.grad)]
    return found, groups(loss)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_chain_is_its_steps(pair: str, size: int, dtype: str, device: str) -> None:
    """The steps themselves are checked against NumPy elsewhere; a chain makes the same bits."""
    found, steps = run(PAIRS[pair], (size, size), dtype, "looked")
    apart, _ = run(PAIRS[pair], (size, size), dtype, "all")
    for one, other in zip(found, apart, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()
    if device == "cuda":
        names = pair.split(", ") if ", " in pair else [pair, pair]
        assert any(group[: len(names)] == names for group in steps), steps


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 6), (5, 6), (1, 1, 6)])
def test_what_is_repeated(shape: tuple[int, ...], device: str) -> None:
    """Numbers, rows, and matrices for all matrices of a stack are read as they are."""

    def build(x: Any, y: Any) -> Any:
        return edf.Sub(edf.Mul(edf.Add(edf.Tanh(x), y), 2.0), y)

    found, steps = run(build, ((4, 5, 6), shape), "float64", "looked")
    x, y = operands((4, 5, 6), "float64")[0], operands(shape, "float64")[1]
    np.testing.assert_allclose(found[0], (np.tanh(x) + y) * 2 - y, rtol=1e-14)
    if device == "cuda":
        assert ["tanh", "add", "mul", "sub"] in [group[:4] for group in steps], steps


def test_columns_are_not(device: str) -> None:
    def build(x: Any, y: Any) -> Any:
        return edf.Sub(edf.Add(edf.Tanh(x), y), 2.0)

    found, steps = run(build, ((5, 6), (5, 1)), "float64", "looked")
    x, y = operands((5, 6), "float64")[0], operands((5, 1), "float64")[1]
    np.testing.assert_allclose(found[0], np.tanh(x) + y - 2, rtol=1e-14)
    assert not any("add" in group and "tanh" in group for group in steps) or device == "cpu"


def test_more_values_than_a_chain_holds(device: str) -> None:
    def build(x: Any, y: Any) -> Any:
        early = [edf.Tanh(edf.Add(x, float(i))) for i in range(6)]
        node = y
        for each in early:  # all of them are alive for long
            node = edf.Mul(edf.Add(node, each), 0.5)
        return node

    found, steps = run(build, (37, 37), "float64", "looked")
    x, want = operands(37, "float64")
    for i in range(6):
        want = (want + np.tanh(x + i)) * 0.5
    np.testing.assert_allclose(found[0], want, rtol=1e-13)
    if device == "cuda":
        assert max(len(group) for group in steps) > 3
        assert max(len(group) for group in steps) < 16


def test_a_value_that_is_read_late_and_one_that_is_looked_at(device: str) -> None:
    seen: list[Any] = []

    def build(x: Any, y: Any) -> Any:
        first = edf.Exp(x)
        middle = edf.Sigmoid(edf.Neg(first))
        edf.keep(middle)
        seen.append(middle)
        return edf.Add(edf.Mul(edf.Square(middle), first), y)

    found, _ = run(build, ((9, 5), (9, 5)), "float64", "looked")
    x, y = operands((9, 5), "float64")
    middle = 1 / (1 + np.exp(np.exp(x)))
    np.testing.assert_allclose(seen[0].value, middle, rtol=1e-13)
    np.testing.assert_allclose(found[0], middle**2 * np.exp(x) + y, rtol=1e-13)


def test_nan_infinity_and_nothing(device: str) -> None:
    build = PAIRS["maximum, minimum"]
    edf.DT = "float32"
    x = edf.Input(np.array([np.nan, np.inf, -np.inf, 0.25], np.float32))
    node = build(x, edf.Parameter(np.zeros(4)))
    for _ in range(4):
        edf.Forward()
        np.testing.assert_array_equal(node.value, np.array([np.nan, 0.5, 0, 0.25], np.float32))
    x.value = np.empty(0, np.float32)
    edf.clear_compgraph()
    found, _ = run(build, (0, 0), "float32", "looked")
    assert all(each.size == 0 for each in found)
