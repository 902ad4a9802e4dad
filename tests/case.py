"""What a case is, and makers of the inputs that cases are tried on."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from references import Array

Maker = Callable[[np.random.Generator], Array]
Table = dict[str, tuple[Any, Callable[..., Any], Callable[..., Maker]]]  # op: function, reference, inputs
NAN, INF = math.nan, math.inf


@dataclass(frozen=True)
class Case:
    """An op, or a few of them, on made-up inputs.

    `build` takes tensors, EDF nodes or arrays; `reference` takes the same inputs as NumPy arrays, in float64.
    `tolerance` is in units of the dtype's epsilon, absolute up to 1 and relative beyond.
    """

    name: str  # "op/variant"
    build: Callable[..., Any]
    inputs: tuple[Maker, ...]
    reference: Callable[..., Any]
    tolerance: float = 4
    grad: bool = True  # False: there is no derivative to compare (integers, infinities, an update)
    recorded: bool = True  # False: an update, which is no node of a graph
    result: str | None = None  # dtype of the result, where it is neither that of the inputs nor an integer

    @property
    def op(self) -> str:
        return self.name.split("/")[0]

    @property
    def large(self) -> bool:
        return "large" in self.name.split("/")[1]

    def arrays(self, dtype: Any) -> list[Array]:
        """Make the inputs: the same ones at each call; floating ones are rounded to float32 first."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        made = [make(rng) for make in self.inputs]
        return [a.astype(np.float32).astype(dtype) if a.dtype.kind == "f" else a for a in made]

    def expected(self, arrays: list[Array]) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(
                self.reference(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays))
            )


# Makers of inputs.


def normal(*shape: int) -> Maker:
    return lambda rng: rng.normal(size=shape)


def positive(*shape: int) -> Maker:
    return lambda rng: rng.uniform(0.5, 2.0, size=shape)


def signed(*shape: int) -> Maker:
    return lambda rng: np.asarray(rng.uniform(0.5, 2.0, size=shape) * rng.choice([-1, 1], size=shape))


def on_a_grid(*shape: int) -> Maker:
    """No value near one of another such input: for functions with a kink where two inputs are equal."""
    return lambda rng: np.asarray(np.round(8 * rng.normal(size=shape)) / 8 + rng.uniform(0, 1 / 8))


def apart(*shape: int) -> Maker:
    """No two values alike and none near zero: for functions with kinks."""
    n = math.prod(shape)
    return lambda rng: ((rng.permutation(n) - n // 2 + 0.25) / 16).reshape(shape)


def tied(*shape: int) -> Maker:
    return lambda rng: rng.integers(0, 3, size=shape).astype(np.float64)


def probabilities(*shape: int) -> Maker:
    def make(rng: np.random.Generator) -> Array:
        p = rng.uniform(0.1, 1.0, size=shape)
        return np.asarray(p / p.sum(-1, keepdims=True))

    return make


def masked(rows: int, columns: int) -> Maker:
    """The first third of each row is -inf."""

    def make(rng: np.random.Generator) -> Array:
        x = rng.normal(size=(rows, columns))
        x[:, : columns // 3] = -INF
        return np.asarray(x)

    return make


def integers(bound: int, *shape: int, dtype: str = "int64", low: int = 0) -> Maker:
    return lambda rng: np.asarray(rng.integers(low, bound, size=shape)).astype(dtype)


def given(values: Any, dtype: str = "float64") -> Maker:
    return lambda rng: np.array(values, dtype)
