"""The ops of random graphs: how a line is made of each, and what it computes in NumPy and in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import references as ref
from fuzz_draft import HOSTS
from fuzz_makers import (
    Op,
    affine,
    binary,
    expanded,
    joined,
    labelled,
    largest,
    parted,
    permuted,
    power,
    product,
    reduction,
    reshaped,
    rows,
    rowwise,
    same,
    selected,
    sliced,
    soft,
    unary,
)

PLAIN = ("parameter", "bare")  # roles of values to which `addgrad(d)` does not simply add d


def over(x: Any, f: Callable[..., Any], none: float = 1, axis: Any = None, keepdims: bool = False) -> Any:
    axes = tuple(range(x.ndim)) if axis is None else axis
    return x * none if axes == () else f(x, axes, keepdims)  # PyTorch takes no axes for all


def variance(t: Any, x: Any, ddof: float = 0, **how: Any) -> Any:
    return over(x, lambda x, axes, kept: t.var(x, axes, correction=ddof, keepdim=kept), 0, **how)


def part(t: Any, x: Any, axis: int, start: int | None = None, stop: int | None = None, step: int = 1) -> Any:
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop, step),)]


def pair(t: Any, f: Callable[..., Any], a: Any, b: Any) -> Any:
    return f(t.as_tensor(a), t.as_tensor(b))


def chosen(t: Any, x: Any, y: Any) -> Any:
    return t.gather(x, -1, y if y.ndim == x.ndim else y[..., None]).reshape(y.shape)


# fmt: off
OPS = [
    Op("tanh", unary(), np.tanh, lambda t, x: t.tanh(x)),
    Op("neg", unary(), np.negative, lambda t, x: -x),
    Op("exp", unary(high=2), np.exp, lambda t, x: t.exp(x)),
    Op("log", unary(low=0.2), np.log, lambda t, x: t.log(x)),
    Op("sqrt", unary(low=0.1), np.sqrt, lambda t, x: t.sqrt(x)),
    Op("square", unary(), np.square, lambda t, x: x * x),
    Op("relu", unary(), lambda x: np.maximum(x, 0), lambda t, x: t.relu(x)),
    Op("sigmoid", unary(), ref.sigmoid, lambda t, x: t.sigmoid(x)),
    Op("softplus", unary(), lambda x: np.logaddexp(x, 0), lambda t, x: t.logaddexp(x, x * 0)),
    Op("abs", unary(), np.abs, lambda t, x: t.abs(x)),
    Op("gelu", unary(), ref.gelu, lambda t, x: t.nn.functional.gelu(x)),
    Op("silu", unary(), ref.silu, lambda t, x: t.nn.functional.silu(x)),
    Op("leaky_relu", unary(extras=("", "0.125", "-0.5")), ref.leaky_relu,
       lambda t, x, slope=0.01: t.nn.functional.leaky_relu(x, slope)),
    Op("clip", unary(extras=("-0.5, 0.75", "None, 1.0", "0.25", "0.5, -0.5")), ref.clip,
       lambda t, x, lo, hi=None: t.clamp(x, lo, hi)),
    Op("scale", unary(extras=("-1.5",)), np.multiply, lambda t, x, c: x * c),
    Op("add", binary(), np.add, lambda t, a, b: a + b),
    Op("sub", binary(), np.subtract, lambda t, a, b: a - b),
    Op("mul", binary(), np.multiply, lambda t, a, b: a * b),
    Op("div", binary(low=0.25), np.divide, lambda t, a, b: a / b),
    Op("pow", power, np.power, lambda t, a, b: a**b),
    Op("maximum", binary(), np.maximum, lambda t, a, b: pair(t, t.maximum, a, b)),
    Op("minimum", binary(), np.minimum, lambda t, a, b: pair(t, t.minimum, a, b)),
    Op("where", selected, np.where, lambda t, c, a, b: t.where(c != 0, a, b)),
    Op("sum", reduction, np.sum, lambda t, x, **how: over(x, t.sum, **how)),
    Op("mean", reduction, ref.mean, lambda t, x, **how: over(x, t.mean, **how)),
    Op("max", reduction, np.max, lambda t, x, **how: over(x, t.amax, **how)),
    Op("min", reduction, np.min, lambda t, x, **how: over(x, t.amin, **how)),
    Op("var", reduction, np.var, variance),
    Op("argmax", largest, np.argmax, lambda t, x, **how: t.argmax(x, **how)),  # but see test_fuzz.choosing
    Op("broadcast_to", expanded, np.broadcast_to, lambda t, x, shape: x.expand(shape)),
    Op("matmul", product, ref.product,
       lambda t, a, b, trans_a=False, trans_b=False: (a.T if trans_a else a) @ (b.T if trans_b else b)),
    Op("affine", affine, ref.affine, lambda t, x, w, b: x @ w + b),
    Op("reshape", reshaped, np.reshape, lambda t, x, shape: x.reshape(shape)),
    Op("transpose", permuted, np.transpose, lambda t, x, axes=None: x.permute(axes or tuple(range(x.ndim))[::-1])),
    Op("slice", sliced, ref.part, part),
    Op("split", parted, np.split, lambda t, x, at, axis: t.tensor_split(x, at, axis)),
    Op("concat", joined, lambda *xs, axis=0: np.concatenate(xs, axis), lambda t, *xs, axis=0: t.cat(xs, axis)),
    Op("stack", joined, lambda *xs, axis=0: np.stack(xs, axis), lambda t, *xs, axis=0: t.stack(xs, axis)),
    Op("gather_rows", rows, ref.rows_of, lambda t, x, index: x[index]),
    Op("take_along_last", labelled(), ref.take, chosen),
    Op("softmax", rowwise(lambda n, top: (math.exp(-2 * top) / n, 1)), ref.softmax, lambda t, x: t.softmax(x, -1)),
    Op("log_softmax", rowwise(lambda n, top: (-2 * top - math.log(n), 0)), ref.log_softmax,
       lambda t, x: t.log_softmax(x, -1)),
    Op("log_loss", labelled(low=0.05), ref.loss_of_probabilities, lambda t, p, y: -t.log(chosen(t, p, y))),
    Op("log_loss_scores", labelled(), ref.loss_of_scores, lambda t, s, y: -chosen(t, t.log_softmax(s, -1), y)),
    Op("log_loss_soft", soft, lambda p, q: -(q * np.log(p)).sum(-1), lambda t, p, q: -(q * t.log(p)).sum(-1)),
    Op("log_loss_soft_scores", soft, ref.soft_loss_of_scores, lambda t, s, q: -(q * t.log_softmax(s, -1)).sum(-1)),
    # Nodes in NumPy, of tests/numpy_nodes.py.
    Op("Relu", unary(), lambda x: np.maximum(x, 0), lambda t, x: t.relu(x)),
    Op("Sigmoid", unary(), ref.sigmoid, lambda t, x: t.sigmoid(x)),
    Op("Scale", unary(extras=("0.75",)), np.multiply, lambda t, x, c: x * c),
    Op("Add", same, np.add, lambda t, a, b: a + b, PLAIN),
    Op("Softmax", rowwise(lambda n, top: (0, 1)), ref.softmax, lambda t, x: t.softmax(x, -1), PLAIN),
    Op("Transpose", permuted, np.transpose, lambda t, x, axes: x.permute(axes)),
    Op("Linear", affine, lambda phi, x: x @ phi.w + phi.b, lambda t, phi, x: x @ phi.w + phi.b, PLAIN),
]
# fmt: on
ENGINE = [op for op in OPS if op.name not in HOSTS]
