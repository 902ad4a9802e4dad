"""The half types by their definition, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from references import Array

HALVES = ["bfloat16", "float16"]
EPSILON = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # half a unit in the last place, relative
SMALLEST = {"bfloat16": 2.0**-133, "float16": 2.0**-24}
LARGEST = {"bfloat16": float(2**127 * (2 - 2.0**-7)), "float16": 65504.0}


def nearest(x: Array, dtype: str) -> Array:
    """Round float64 to the nearest number of a half type, ties to even, by its definition, as float64."""
    x = np.asarray(x, np.float64)
    digits, least = (8, -133) if dtype == "bfloat16" else (11, -24)
    with np.errstate(all="ignore"):
        exponent = np.maximum(np.frexp(x)[1] - digits, least)
        rounded = np.ldexp(np.rint(np.ldexp(x, -exponent)), exponent)
        return np.where(
            np.abs(rounded) > LARGEST[dtype], np.copysign(np.inf, x), np.where(x == 0, x, rounded)
        )


def shown(array: Any) -> Array:
    return np.asarray(array).astype(np.float64) if np.asarray(array).dtype.kind in "fV" else np.asarray(array)
