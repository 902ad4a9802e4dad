"""Corners of the elementwise ops: kinks, ties, bounds, zeros under a power, and which dtype a number takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import ops

NAN, INF = math.nan, math.inf


def leaf(data: Any) -> Any:
    return edf.Tensor(np.array(data, np.float64), requires_grad=True)


def gradients(f: Callable[..., Any], *inputs: Any) -> list[Any]:
    """Gradients of the sum of f, as lists."""
    leaves = [leaf(x) for x in inputs]
    f(*leaves).sum().backward()
    return [x.grad.numpy().tolist() for x in leaves]


def derivatives(f: Callable[[Any], Any], at: float, times: int) -> list[float]:
    x = leaf(at)
    y, found = f(x), []
    for _ in range(times):
        x.grad = None
        y.backward(create_graph=True)
        y = x.grad
        found.append(y.item())
    x.grad = None
    return found


@pytest.mark.parametrize(
    ("f", "x", "want"),
    [
        (ops.abs, [-2, -0.0, 0, 3, NAN], [-1, 0, 0, 1, NAN]),
        (ops.leaky_relu, [-2, -0.0, 0, 3, -INF], [0.01, 0.01, 0.01, 1, 0.01]),
        (lambda x: ops.clip(x, -1, 2), [-1.5, -1, 0, 2, 2.5, NAN], [0, 1, 1, 1, 0, 0]),
        (lambda x: ops.clip(x, lo=-1), [-1.5, -1, INF], [0, 1, 1]),
        (lambda x: ops.clip(x, hi=2), [-INF, 2, 2.5], [1, 1, 0]),
        (ops.gelu, [-INF, -50, 50, INF, NAN], [0, 0, 1, 1, NAN]),
        (ops.silu, [-INF, -1000, 1000, INF, NAN], [0, 0, 1, 1, NAN]),
    ],
    ids=["abs", "leaky_relu", "clip", "clip_below", "clip_above", "gelu", "silu"],
)
def test_derivatives_at_corners(
    f: Callable[..., Any], x: list[float], want: list[float], device: str
) -> None:
    np.testing.assert_array_equal(gradients(f, x), [want])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("f", [ops.gelu, ops.silu])
def test_the_limits_of_gates(f: Callable[..., Any], dtype: Any, device: str) -> None:
    """Where x P(x) would be an infinity times a zero, and where the gradient of the gradient would be."""
    top = float(np.finfo(dtype).max)
    x = edf.Tensor(np.array([-INF, -top, top, INF], dtype), requires_grad=True)
    y = f(x)
    np.testing.assert_array_equal(y.numpy(), [0, 0, top, INF])
    y.sum().backward(create_graph=True)
    slope = x.grad
    np.testing.assert_array_equal(slope.numpy(), [0, 0, 1, 1])
    x.grad = None
    slope.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0, 0, 0])


def test_equal_operands_share_the_gradient(device: str) -> None:
    a, b = [1, 2, 3, NAN, 1], [3, 2, 1, 1, NAN]
    assert gradients(ops.maximum, a, b) == [[0, 0.5, 1, 1, 1], [1, 0.5, 0, 1, 1]]
    assert gradients(ops.minimum, a, b) == [[1, 0.5, 0, 1, 1], [0, 0.5, 1, 1, 1]]


def test_a_power_at_zero(device: str) -> None:
    """To the base 0 where the exponent is 0; to the exponent 0 where the base is 0 and the exponent not below."""
    a, b = [0, 0, 0, 0, 2, 0], [0, 1, 2, 0.5, 0, -1]
    to_a, to_b = gradients(ops.pow, a, b)
    assert to_a == [0, 1, 0, INF, 0, -INF]
    assert to_b == [0, 0, 0, 0, math.log(2), -INF]
    assert gradients(lambda x: x**2, [-3, 0, 5]) == [[-6, 0, 10]]


@pytest.mark.parametrize(
    ("f", "at", "want"),
    [
        (lambda x: x**4, 0.5, [0.5, 3, 12, 24, 0]),
        (lambda x: x**4, 0.0, [0, 0, 0, 24, 0]),
        (lambda x: x**4, -1.0, [-4, 12, -24, 24, 0]),
        (lambda x: x**-1, 2.0, [-1 / 4, 1 / 4, -3 / 8, 3 / 4, -15 / 8]),
        (lambda x: 2**x, 3.0, [8 * math.log(2) ** n for n in range(1, 6)]),
        (lambda x: x**x, 1.0, [1, 2, 3, 8, 10]),
    ],
    ids=["quartic", "quartic_at_zero", "quartic_below", "inverse", "exponential", "tower"],
)
def test_higher_derivatives_of_powers(f: Any, at: float, want: list[float], device: str) -> None:
    np.testing.assert_allclose(derivatives(f, at, 5), want, rtol=1e-12, atol=1e-12)


def test_an_eighth_derivative_to_the_exponent_is_refused() -> None:
    with pytest.raises(edf.GraphError) as error:
        derivatives(lambda x: 2**x, 1.0, 8)
    assert str(error.value).startswith(
        "[pow_partial] a power can be differentiated 7 times to its exponent, and no more."
    )


def test_what_was_not_taken_gets_no_gradient(device: str) -> None:
    """Not even where the derivative of what was not taken is no number: a gradient of zero times NaN is none."""
    x = leaf([-1.0, 4.0])
    ops.where(x.numpy() > 0, ops.sqrt(x), 0.0).sum().backward()
    assert not math.isnan(x.grad.numpy()[1])
    a, b = leaf([1.0, 2.0, 3.0]), leaf(5.0)
    ops.where([1, 0, 0], a, b).backward(np.array([NAN, 10.0, 1.0]))
    np.testing.assert_array_equal(a.grad.numpy(), [NAN, 0, 0])
    assert b.grad.item() == 11


@pytest.mark.parametrize("condition", [[True, False], np.array([1, 0], np.int32), [2.0, 0.0]])
def test_numbers_beside_a_condition(condition: Any, device: str) -> None:
    """They take the dtype of the other operand, never that of the condition."""
    a = edf.Tensor(np.array([1.5, 2.5], np.float32))
    if isinstance(condition[0], float):
        with pytest.raises(edf.DTypeError) as error:
            ops.where(condition, a, 0.5)
        assert str(error.value).startswith(
            "[where] condition has dtype float32: it must be bool, uint8, int32 or int64; "
            "convert with cast (or .astype)."
        )
        return
    mask = edf.Tensor(condition)
    for got, want in [
        (ops.where(mask, a, 0.25), np.array([1.5, 0.25], np.float32)),
        (ops.where(mask, 0.25, a), np.array([0.25, 2.5], np.float32)),
        (ops.where(mask, np.array([7.0, 8.0]), a), np.array([7, 2.5], np.float32)),
        (ops.where(mask, 0.25, 0.5), np.array([0.25, 0.5], np.float32)),
        (ops.where(mask, edf.Tensor([7, 8]), 3), np.array([7, 3])),
        (ops.where(True, a, 0.25), np.array([1.5, 2.5], np.float32)),
    ]:
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.numpy(), want)


def test_shapes_that_do_not_broadcast() -> None:
    with pytest.raises(edf.ShapeError) as error:
        ops.where(np.ones(4, int), np.ones((2, 3)), np.ones(3))
    assert str(error.value).startswith(
        "[where] condition has shape (4,) and a with b has shape (2, 3): counted from the last, "
        "their axes must be equal, or one of them 1."
    )


def test_operators_and_methods(device: str) -> None:
    data = np.array([-1.5, 0.5, 2.0], np.float32)
    x = edf.Tensor(data)
    for got, want in [
        (x**2, data**2),
        (x**3.0, data**3),
        (2**x, np.float32(2) ** data),
        (abs(x) ** x, abs(data) ** data),
        (np.array([2.0, 3.0, 4.0], np.float32) ** x, np.array([2.0, 3.0, 4.0], np.float32) ** data),
        (abs(x), abs(data)),
        (x.abs(), abs(data)),
        (x.clip(-1, 1), data.clip(-1, 1)),
        (x.clip(hi=1), data.clip(None, 1)),
    ]:
        assert isinstance(got, edf.Tensor)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


def test_elementwise_steps_are_planned_together() -> None:
    edf.clear_compgraph()
    edf.DT = np.float32
    x, c = edf.Input(np.linspace(-2, 2, 5000)), edf.Input(np.arange(5000) % 2)
    w = edf.Parameter(np.linspace(-1, 1, 5000))
    h = edf.Silu(edf.Mul(w, x))
    h = edf.Where(c, edf.LeakyRelu(h), edf.Clip(edf.Gelu(h), -0.5, 0.5))
    loss = edf.Maximum(edf.Pow(edf.Abs(h), 2), edf.Minimum(h, w))
    edf.Forward()
    edf.Backward(loss)
    grad = np.array(w.grad)
    plan = edf.plan(loss)
    assert plan.groups < plan.steps / 3
    edf.learning_rate = 1.0
    before = np.array(w.value)
    edf.replay(loss, {x: x.value, c: c.value}, batch_size=5000)
    np.testing.assert_array_equal(w.value, before - grad)
