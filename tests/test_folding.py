"""What plans know before anything runs: gradients that are one number everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edfcore as edf
from references import Array
from test_joining import names, steps

LARGE = 70_000  # elements, more than a plan holds


def regression(size: int, dtype: Any = np.float64) -> tuple[Any, Any, Array]:
    """A parameter, the mean of a chain of it, and that mean's gradient in float64."""
    edf.DT = dtype
    start = np.linspace(-1, 1, size)
    w = edf.Parameter(start)
    loss = edf.Mean(edf.Tanh(w))
    return w, loss, (1 - np.tanh(start) ** 2) / size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [7, LARGE])
def test_the_gradient_of_a_mean_is_held_or_filled_in(size: int, dtype: Any, device: str) -> None:
    w, loss, slope = regression(size, dtype)
    start = w.value.copy()
    edf.learning_rate = float(size)
    for _ in range(2):
        before = w.value.copy()
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    exact = before - (1 - np.tanh(before.astype(float)) ** 2)
    np.testing.assert_allclose(w.value, exact, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-6)
    np.testing.assert_allclose(before, start - slope * size, rtol=1e-5, atol=1e-6)
    found = names(loss)
    assert ("fill_like" in found) == (size == LARGE)
    assert not {"scale", "broadcast_to", "reshape"} & set(found)


def test_what_a_plan_holds_is_called_so() -> None:
    _, loss, _ = regression(7)
    grad = next(step for step in steps(loss) if step.startswith("tanh_grad"))
    assert "(7,) constant" in grad


@pytest.mark.parametrize("keep", ["looked", "all"])
def test_a_gradient_that_is_looked_at_may_be_written(keep: str, device: str) -> None:
    """It has memory of its own, in every step anew."""
    edf.keep(keep)
    w, loss, slope = regression(7)
    hidden = edf.CompNodes[0]
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        np.testing.assert_allclose(hidden.grad, 1 / 7, rtol=1e-14)
        np.testing.assert_allclose(w.grad, slope, rtol=1e-12)
        hidden.grad[:] = 5.0


@pytest.mark.parametrize("size", [7, LARGE])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_rounded_as_steps_would(dtype: str, size: int, device: str) -> None:
    found = []
    for keep in ("looked", "all"):
        edf.clear_compgraph()
        edf.keep(keep)
        edf.DT, edf.learning_rate = dtype, float(size)
        w = edf.Parameter(np.linspace(-1, 1, size))
        loss = edf.Mean(edf.Tanh(w))
        for _ in range(3):
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
        found.append(np.array(w.value, np.float32))
    one, other = found
    np.testing.assert_array_equal(one, other)
