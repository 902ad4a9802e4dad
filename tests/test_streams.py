"""Outputs larger than caches, which the CPU writes past them: every element, the ends, and each instruction set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from checks import assert_passes
from edfcore import ops
from references import Array

N = (1 << 22) + 37  # float32 numbers of 16 MiB, and some that fill no line
ROWS, WIDE = 1031, 4099


@pytest.fixture(scope="module")
def long() -> Array:
    return np.random.default_rng(5).standard_normal(N + 1, dtype=np.float32)


@pytest.fixture(scope="module")
def plane(long: Array) -> Array:
    return np.resize(long, (ROWS, WIDE))


def positive(x: Array) -> Array:
    return np.maximum(x, np.float32(0))


# Exact in float32, so that a line that is missing or in the wrong place cannot hide in a tolerance.
ONE: list[tuple[str, Callable[[Any], Any], Callable[[Array], Array]]] = [
    ("relu", ops.relu, positive),
    ("neg", ops.neg, np.negative),
    ("square", ops.square, np.square),
    ("scale", lambda x: ops.scale(x, 0.25), lambda x: x * np.float32(0.25)),
    ("clip", lambda x: ops.clip(x, -0.5, 0.75), lambda x: np.clip(x, np.float32(-0.5), np.float32(0.75))),
    ("itself", lambda x: ops.add(x, x), lambda x: x + x),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("_", "ours", "reference"), ONE, ids=[name for name, *_ in ONE])
def test_one_operand(
    _: str,
    ours: Callable[[Any], Any],
    reference: Callable[[Array], Array],
    threads: int,
    long: Array,
) -> None:
    edf.set_num_threads(threads)
    for x in (long[:N], long[1:]):  # an operand that begins between two lines, too
        np.testing.assert_array_equal(ours(edf.Tensor(x)).numpy(), reference(x))


def test_two_operands(plane: Array) -> None:
    x = edf.Tensor(plane)
    row, column = plane[0], plane[:, :1]
    np.testing.assert_array_equal(ops.add(x, row).numpy(), plane + row)
    np.testing.assert_array_equal(ops.mul(column, x).numpy(), column * plane)
    np.testing.assert_array_equal(ops.where(plane > 0, x, row).numpy(), np.where(plane > 0, plane, row))
    np.testing.assert_array_equal(
        ops.broadcast_to(row, (ROWS, WIDE)).numpy(), np.broadcast_to(row, (ROWS, WIDE))
    )


def test_gradient(long: Array) -> None:
    x = edf.Tensor(long[1:], requires_grad=True)
    ops.relu(x).backward(long[:N])
    np.testing.assert_array_equal(x.grad.numpy(), long[:N] * (long[1:] > 0))


def test_every_instruction_set(other_isa: dict[str, str]) -> None:
    """The tests above, in a process that is told which kernels to use."""
    assert_passes(__file__, other_isa)


@pytest.mark.parametrize("cut", [7, 130, 2048])
def test_moved(plane: Array, cut: int) -> None:
    x, y = edf.Tensor(plane), edf.Tensor(np.ascontiguousarray(plane[:, :cut]))
    np.testing.assert_array_equal(
        ops.concat(x, y, x, axis=1).numpy(), np.hstack([plane, plane[:, :cut], plane])
    )
    both = ops.concat(x, x, axis=1)
    np.testing.assert_array_equal(
        ops.slice(both, 1, cut, 2 * WIDE - cut).numpy(), np.hstack([plane, plane])[:, cut : 2 * WIDE - cut]
    )
    index = np.random.default_rng(cut).integers(0, ROWS, 4 * ROWS)
    np.testing.assert_array_equal(ops.gather_rows(x, index).numpy(), plane[index])


def test_a_bad_index_among_many(plane: Array) -> None:
    index = np.zeros(2 * ROWS, np.int64)
    index[ROWS] = ROWS
    with pytest.raises(edf.DataError, match=str(ROWS)):
        ops.gather_rows(edf.Tensor(plane), index).numpy()
