"""Every op as a function: on tensors it runs at once, on EDF nodes it is recorded.

An input may be a Tensor, an EDF node, a NumPy array or a number. Shapes are given as in NumPy; "(..., C)" means any
leading axes. All ops take float32 and float64, both inputs of one dtype; what else they take is said. Wrong shapes
raise ShapeError, wrong dtypes DTypeError, and labels or indices out of range DataError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edfcore._describe import Attrs, Call, Operand, axes_of, ints, op

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


@op
def add(a: Operand, b: Operand) -> Call:
    """Elementwise a + b with broadcasting. Also integers."""
    return (a, b), None


@op
def sub(a: Operand, b: Operand) -> Call:
    """Elementwise a - b with broadcasting. Also integers."""
    return (a, b), None


@op
def mul(a: Operand, b: Operand) -> Call:
    """Elementwise a * b with broadcasting. Also integers."""
    return (a, b), None


@op
def div(a: Operand, b: Operand) -> Call:
    """Elementwise a / b with broadcasting; x / 0 follows IEEE 754."""
    return (a, b), None


@op
def scale(x: Operand, factor: float) -> Call:
    """Elementwise x * factor for a number that is no node."""
    return (x,), Attrs(scalar=factor)


@op
def cast(x: Operand, dtype: DTypeLike) -> Call:
    """x converted to float32, float64, int32, int64 or uint8. Only floating to floating passes a gradient."""
    return (x,), Attrs(dtype=dtype)


@op
def neg(x: Operand) -> Call:
    """Elementwise -x."""
    return (x,), None


@op
def exp(x: Operand) -> Call:
    """Elementwise e to the power x."""
    return (x,), None


@op
def log(x: Operand) -> Call:
    """Elementwise natural logarithm; NaN below zero, -inf at zero."""
    return (x,), None


@op
def sqrt(x: Operand) -> Call:
    """Elementwise square root; NaN below zero."""
    return (x,), None


@op
def square(x: Operand) -> Call:
    """Elementwise x * x."""
    return (x,), None


@op
def relu(x: Operand) -> Call:
    """Elementwise max(x, 0), with derivative 0 at 0. NaN stays NaN. (TTIC 31230, "SGD for MLPs".)"""
    return (x,), None


@op
def sigmoid(x: Operand) -> Call:
    """Elementwise 1 / (1 + exp(-x)). (TTIC 31230, "The Sigmoid Class".)"""
    return (x,), None


@op
def tanh(x: Operand) -> Call:
    """Elementwise hyperbolic tangent."""
    return (x,), None


@op
def softplus(x: Operand) -> Call:
    """Elementwise ln(1 + exp(x)), which neither overflows nor loses small values."""
    return (x,), None


@op
def sum(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Call:
    """Sum over the given axes, all of them by default; 0 over none."""
    return (x,), Attrs(axes_of(axis), keepdims=keepdims)


@op
def mean(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Call:
    """Mean over the given axes, all of them by default; NaN over an empty axis."""
    return (x,), Attrs(axes_of(axis), keepdims=keepdims)


@op
def max(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Call:
    """Maximum over the given axes, all of them by default. Ties share the gradient equally; NaN wins."""
    return (x,), Attrs(axes_of(axis), keepdims=keepdims)


@op
def broadcast_to(x: Operand, shape: int | Sequence[int]) -> Call:
    """x repeated to a shape, by NumPy's rules."""
    return (x,), Attrs(ints(shape))


@op
def matmul(a: Operand, b: Operand, trans_a: bool = False, trans_b: bool = False) -> Call:
    """Matrix product of a (I, K) and b (K, J), each transposed first where its flag says so."""
    return (a, b), Attrs(trans_a=trans_a, trans_b=trans_b)


@op
def affine(x: Operand, W: Operand, b: Operand) -> Call:
    """X W + b for x (B, I), W (I, J) and b (J,). (TTIC 31230, "y = Affine([W,B],x)".)"""
    return (x, W, b), None


@op
def reshape(x: Operand, shape: int | Sequence[int]) -> Call:
    """The same elements in row-major order under another shape, of which one size may be -1."""
    return (x,), Attrs(ints(shape))


@op
def transpose(x: Operand, axes: Sequence[int] | None = None) -> Call:
    """Axis i of the result is axis axes[i] of x; reversed by default."""
    return (x,), Attrs([] if axes is None else ints(axes))


@op
def gather_rows(table: Operand, index: Operand) -> Call:
    """Row table[i] for every i in index: (V, ...) and integers (...) give index.shape + table.shape[1:]."""
    return (table, index), None


@op
def take_along_last(x: Operand, index: Operand) -> Call:
    """Elements of x (..., C) at integers (...) or (..., K) along the last axis."""
    return (x, index), None


@op
def softmax(x: Operand) -> Call:
    """exp(x) / sum(exp(x)) over the last axis. (TTIC 31230, "Softmax: Converting Scores to Probabilities".)"""
    return (x,), None


@op
def log_softmax(x: Operand) -> Call:
    """Logarithm of the softmax over the last axis, without overflow or underflow."""
    return (x,), None


@op
def log_loss(p: Operand, y: Operand) -> Call:
    """-ln p[..., y] for probabilities p (..., C) and labels y (...), in nats. (TTIC 31230, "cross entropy loss".)

    Where p was computed by `softmax`, this is the log-loss of the scores, which neither overflows nor underflows.
    """
    return (p, y), None


@op
def log_loss_scores(s: Operand, y: Operand) -> Call:
    """-ln softmax(s)[..., y] for scores s (..., C) and labels y (...), in nats."""
    return (s, y), None


@op
def sgd(parameter: Operand, gradient: Operand, learning_rate: float) -> Call:
    """Update parameter -= learning_rate * gradient in place. Has no gradient itself."""
    return (parameter, gradient), Attrs(scalar=learning_rate)
