"""What the ops are to compute, written in NumPy where NumPy itself has no word for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def sigmoid(x: Array) -> Array:
    return np.asarray(np.where(x < 0, np.exp(x) / (1 + np.exp(x)), 1 / (1 + np.exp(-x))))


def silu(x: Array) -> Array:
    return np.asarray(np.where(x == -np.inf, 0, x * sigmoid(x)))


def gelu(x: Array) -> Array:
    below = np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2)) / 2
    return np.asarray(np.where(x == -np.inf, 0, x * below))


def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return np.asarray(np.where(x > 0, x, x * slope))


def clip(x: Array, lo: float | None = None, hi: float | None = None) -> Array:
    return np.asarray(np.clip(x, -np.inf if lo is None else lo, np.inf if hi is None else hi))


def log_softmax(x: Array) -> Array:
    if x.size == 0:
        return x
    below = x - x.max(-1, keepdims=True)
    return np.asarray(below - np.log(np.exp(below).sum(-1, keepdims=True)))


def softmax(x: Array) -> Array:
    return np.exp(log_softmax(x))


def at_label(x: Array, y: Array) -> Array:
    return np.take_along_axis(x, y[..., None].astype(np.int64), -1)[..., 0]


def take(x: Array, index: Array) -> Array:
    if index.ndim < x.ndim:
        return at_label(x, index)
    return np.take_along_axis(x, index.astype(np.int64), -1)


def rows_of(table: Array, index: Array) -> Array:
    return np.asarray(table[index])


def loss_of_probabilities(p: Array, y: Array) -> Array:
    return -np.log(at_label(p, y))


def loss_of_scores(s: Array, y: Array) -> Array:
    return -at_label(log_softmax(s), y)


def variance(x: Array, axis: Any, keepdims: bool = False) -> Array:
    return np.asarray(np.var(x.astype(np.longdouble), axis=axis, keepdims=keepdims), np.float64)


def soft_loss_of_scores(s: Array, q: Array) -> Array:
    return np.asarray(-(q * log_softmax(s)).sum(-1))


def mean(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    total = np.sum(x, axis=axis, keepdims=keepdims)
    return np.asarray(total / np.float64(x.size / total.size if total.size else 1))


def part(x: Array, axis: int, start: int | None = None, stop: int | None = None, step: int = 1) -> Array:
    return np.moveaxis(np.moveaxis(x, axis, 0)[start:stop:step], 0, axis)


def product(a: Array, b: Array, trans_a: bool = False, trans_b: bool = False) -> Array:
    return np.asarray((a.swapaxes(-1, -2) if trans_a else a) @ (b.swapaxes(-1, -2) if trans_b else b))


def affine(x: Array, w: Array, b: Array) -> Array:
    return x @ w + b


def mlp_reference(x: Array, w: Array, b: Array, v: Array, c: Array, y: Array) -> Array:
    return loss_of_scores(np.maximum(x @ w + b, 0) @ v + c, y)
