"""The CPU kernels' own functions, exp to gelu: units in the last place, limits, and the same bits at any position."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import ops
from references import Array

NAN, INF = math.nan, math.inf
EXTENDED = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant


def sigmoid(x: Array) -> Array:
    e = np.exp(-abs(x))
    return np.asarray(np.where(x < 0, e, 1) / (1 + e))


def silu(x: Array) -> Array:
    e = np.exp(-abs(x))
    return np.asarray(np.where(x < 0, x * e, x) / (1 + e))


def softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-abs(x))))


def gelu(x: Array) -> Array:
    """By the distribution's tail: a series, or where that would cancel, a continued fraction."""
    t = np.minimum(abs(x), 50)
    term, series, fraction = t, np.zeros_like(t), t + 0
    for n in range(1, 60):
        series, term = series + term, np.minimum(term, 10) * t * t / (2 * n + 1)
    for n in range(100, 0, -1):
        fraction = t + n / np.maximum(fraction, 1)
    high = np.round(t * 2**20) / 2**20  # whose square is exact
    bell = np.exp(-high * high / 2) * np.exp((high - t) * (high + t) / 2) / np.sqrt(8 * np.arctan(t * 0 + 1))
    tail = np.where(t < 2.25, 0.5 - bell * series, bell / fraction)
    return np.asarray(np.where(x < 0, np.maximum(x, -50) * tail, x - t * tail))


# the op, and what it should be
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Array], Array]]] = {
    "exp": (ops.exp, np.exp),
    "log": (ops.log, np.log),
    "tanh": (ops.tanh, np.tanh),
    "softplus": (ops.softplus, softplus),
    "sigmoid": (ops.sigmoid, sigmoid),
    "silu": (ops.silu, silu),
    "gelu": (ops.gelu, gelu),
}
LIMITS: dict[str, list[tuple[float, float]]] = {
    "exp": [(0.0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (1e-320, 1), (-1e4, 0), (1e4, INF)],
    "log": [(0.0, -INF), (-0.0, -INF), (1, 0), (INF, INF), (-INF, NAN), (-1, NAN), (-1e-30, NAN)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1), (-INF, -1), (1e4, 1), (-1e4, -1), (40, 1)],
    "softplus": [(0.0, math.log(2)), (INF, INF), (-INF, 0), (-1e4, 0), (1e4, 1e4)],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (-1e4, 0), (1e4, 1)],
    "silu": [(0.0, 0), (INF, INF), (-INF, 0), (-1e4, 0), (1e4, 1e4)],
    "gelu": [(0.0, 0), (INF, INF), (-INF, 0), (-1e4, 0), (1e4, 1e4)],
}
over = pytest.mark.parametrize("name", FUNCTIONS)
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def arguments(name: str, dtype: Any) -> Array:
    """Any bits at all, then ranges where something happens: thresholds, overflow, results below the normal ones."""
    rng = np.random.default_rng(7)
    any_bits = rng.integers(0, 256, 20011 * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    top, bottom = (89, -104) if dtype is np.float32 else (710, -746)
    spans = [(bottom, top), (-1, 1), (-25, 25), (top - 1, top), (bottom, bottom + 18), (0.5, 1.5), (0.5, 0.7)]
    spans += [(-15, 9), (-39, -14)]  # of gelu
    small = 10.0 ** rng.uniform(-12, 0, 5000)
    least = np.finfo(dtype).smallest_subnormal * np.arange(1, 300)
    x = np.concatenate(
        [any_bits, small, -small, least, -least, *(rng.uniform(a, b, 20001) for a, b in spans)], dtype=dtype
    )
    return abs(x) if name == "log" else x


def units(got: Array, want: Array) -> Array:
    """How far they are apart, in units in the last place of what is wanted in the dtype of what was got."""
    rounded = want.astype(got.dtype)
    unit = np.spacing(np.minimum(abs(rounded), np.finfo(got.dtype).max)).astype(want.dtype)
    return np.asarray(
        np.where((got == rounded) | (np.isnan(got) & np.isnan(rounded)), 0, abs(got - want) / unit)
    )


@over
@both
def test_within_units_in_the_last_place(name: str, dtype: Any) -> None:
    if dtype is np.float64 and not EXTENDED:
        pytest.skip("NumPy has no wider float here")
    f, reference = FUNCTIONS[name]
    x = arguments(name, dtype)
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.float64 if dtype is np.float32 else np.longdouble))
        off = units(f(edf.Tensor(x)).numpy(), want)
    worst = int(np.argmax(off))  # NaN counts as the greatest
    assert off[worst] <= 2, f"{name}({x[worst]!r}) is off by {off[worst]} units"


@over
@both
def test_limits(name: str, dtype: Any) -> None:
    x, want = np.array([*LIMITS[name], (NAN, NAN)], dtype).T
    for repeats in (1, 5):  # in a tail, then in vectors
        got = FUNCTIONS[name][0](edf.Tensor(np.tile(x, repeats))).numpy()
        np.testing.assert_array_equal(got, np.tile(want, repeats))
        if name == "tanh":
            np.testing.assert_array_equal(np.signbit(got[:-1]), np.signbit(np.tile(want, repeats)[:-1]))


@over
@both
def test_bits_do_not_depend_on_the_position(name: str, dtype: Any) -> None:
    f = FUNCTIONS[name][0]
    x = np.random.default_rng(3).normal(0, 4, 77).astype(dtype)
    x[:3] = [INF, -INF, 0]
    x = abs(x) if name == "log" else x
    whole = f(edf.Tensor(x)).numpy()
    for first in range(19):
        for length in (1, 2, 3, 5, 7, 15, 17, 31, 58):
            part = f(edf.Tensor(x[first : first + length].copy())).numpy()
            assert part.tobytes() == whole[first : first + length].tobytes()


def test_every_instruction_set(other_isa: dict[str, str]) -> None:
    """All of the above again, in a process that is told which kernels to use."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not every", __file__]
    child = subprocess.run(command, env=other_isa, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stdout
