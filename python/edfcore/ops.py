"""Every op as a function: on tensors it runs at once, on EDF nodes it is recorded.

An input may be a Tensor, an EDF node, a NumPy array or a number. Shapes are given as in NumPy; "(..., C)" means any
leading axes. All ops take float32, float64, bfloat16 and float16, all inputs of one dtype; what else they take is said.
On bfloat16 and float16 an op computes in float32 and rounds its result once. Wrong shapes raise ShapeError, wrong
dtypes DTypeError, and labels or indices out of range DataError.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from edfcore import _core
from edfcore._describe import Attrs, Call, Operand, axes_of, ints, op, operands
from edfcore.errors import ShapeError

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
def pow(a: Operand, b: Operand) -> Call:
    """Elementwise a to the power b with broadcasting; NaN where a < 0 and b is no whole number.

    Where b == 0 the gradient to a is 0; where a == 0 and b >= 0 the gradient to b is 0.
    """
    return (a, b), None


@op
def maximum(a: Operand, b: Operand) -> Call:
    """Elementwise greater of a and b with broadcasting; NaN wins. Equal ones share the gradient. Also integers."""
    return (a, b), None


@op
def minimum(a: Operand, b: Operand) -> Call:
    """Elementwise smaller of a and b with broadcasting; NaN wins. Equal ones share the gradient. Also integers."""
    return (a, b), None


@op
def where(condition: Operand, a: Operand, b: Operand) -> Call:
    """Elementwise a where the condition, of integers or bools, is not 0, and b elsewhere, with broadcasting.

    a and b may also be integers. Only what was taken gets a gradient.
    """
    return (condition, a, b), None


@op
def clip(x: Operand, lo: float | None = None, hi: float | None = None) -> Call:
    """Elementwise x within two numbers, where None is no bound; hi wins over lo. NaN stays NaN.

    The derivative is 1 within the bounds and at them, and 0 outside.
    """
    return (x,), Attrs(scalar=-_INF if lo is None else lo, scalar2=_INF if hi is None else hi)


_INF = float("inf")


@op
def scale(x: Operand, factor: float) -> Call:
    """Elementwise x * factor for a number that is no node."""
    return (x,), Attrs(scalar=factor)


@op
def cast(x: Operand, dtype: DTypeLike) -> Call:
    """Elementwise x, of any dtype, converted to float32, float64, bfloat16, float16, int32, int64, uint8 or bool.

    Rounds once, to the nearest, ties to even. Only floating to floating passes a gradient.
    """
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
    """Elementwise natural logarithm ln x; NaN below zero, -inf at zero. The derivative is 1 / x."""
    return (x,), None


@op
def sqrt(x: Operand) -> Call:
    """Elementwise square root of x; NaN below zero. The derivative is infinite at 0."""
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
    """Elementwise hyperbolic tangent, (exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    return (x,), None


@op
def softplus(x: Operand) -> Call:
    """Elementwise ln(1 + exp(x)), which neither overflows nor loses small values."""
    return (x,), None


@op
def abs(x: Operand) -> Call:
    """Elementwise |x|, with derivative 0 at 0."""
    return (x,), None


@op
def gelu(x: Operand) -> Call:
    """Elementwise x (1 + erf(x / sqrt(2))) / 2: x times the normal distribution function of x; no approximation."""
    return (x,), None


@op
def silu(x: Operand) -> Call:
    """Elementwise x / (1 + exp(-x)), that is x sigmoid(x), also called swish."""
    return (x,), None


@op
def leaky_relu(x: Operand, slope: float = 0.01) -> Call:
    """Elementwise x where x > 0, and slope * x elsewhere, with derivative `slope` at 0."""
    return (x,), Attrs(scalar=slope)


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
def min(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Call:
    """Minimum over the given axes, all of them by default. Ties share the gradient equally; NaN wins."""
    return (x,), Attrs(axes_of(axis), keepdims=keepdims)


@op
def argmax(x: Operand, axis: int = -1, keepdims: bool = False) -> Call:
    """Position of the maximum along an axis, int64: the first of ties, or of NaN. Also of integers. No gradient."""
    return (x,), Attrs(ints(axis), keepdims=keepdims)


@op
def var(x: Operand, axis: int | Sequence[int] | None = None, keepdims: bool = False, ddof: float = 0) -> Call:
    """Variance over the given axes, all of them by default: sum (x - mean)^2 / (n - ddof), for n elements each."""
    return (x,), Attrs(axes_of(axis), keepdims=keepdims, scalar=ddof)


@op
def broadcast_to(x: Operand, shape: int | Sequence[int]) -> Call:
    """x repeated to a shape, by NumPy's rules. An element gets the sum of the gradients of its copies."""
    return (x,), Attrs(ints(shape))


@op
def matmul(a: Operand, b: Operand, trans_a: bool = False, trans_b: bool = False) -> Call:
    """Matrix product of a (..., I, K) and b (..., K, J), their last two axes swapped first where a flag says so.

    The result is (..., I, J). The leading axes are the same, or one of the two has none and serves the whole batch.
    """
    return (a, b), Attrs(trans_a=trans_a, trans_b=trans_b) if trans_a or trans_b else None


@op
def affine(x: Operand, W: Operand, b: Operand) -> Call:
    """x W + b for x (B, I), W (I, J) and b (J,), which is (B, J). (TTIC 31230, "y = Affine([W,B],x)".)"""
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
def slice(x: Operand, axis: int, start: int | None = None, stop: int | None = None, step: int = 1) -> Call:
    """Every step-th element of [start, stop) along an axis, with the bounds of x[start:stop:step]. Any dtype.

    Bounds below zero count from the end; those beyond an end stop there; the step is positive. Elements that were left
    out get gradient 0.
    """
    return (x,), Attrs(ints([axis, 0 if start is None else start, _END if stop is None else stop, step]))


_END = 2**63 - 1  # of any axis


def split(x: Operand, at: int | Sequence[int], axis: int = 0) -> tuple[_core.Tensor, ...]:
    """Slices of x between the positions `at` along an axis, or `at` equal ones.

    For equal ones the size of the axis must be known, as it is of a tensor and of a node that has a value.
    """
    if not hasattr(at, "__iter__"):
        parts, shape = ints(at)[0], (x if hasattr(x, "shape") else _core.Tensor(x)).shape
        if not -len(shape) <= axis < len(shape):
            raise ShapeError(f"[split] there is no axis {axis} in x of shape {shape}.")
        size = shape[axis]
        if parts < 1 or size % parts:
            raise ShapeError(f"[split] axis {axis} of x has size {size}, which is not {parts} equal parts.")
        at = [size // parts * i for i in range(1, parts)]
    bounds = [0, *ints(at), _END]
    return tuple(slice(x, axis, a, b) for a, b in pairwise(bounds))


@op
def concat(*xs: Operand | Sequence[Operand], axis: int = 0) -> Call:
    """The inputs one after the other along an axis; their shapes agree but for it. Any dtype, the same for all.

    One list or tuple of inputs may be given in their place, as for NumPy's `concatenate`.
    """
    return operands(xs), Attrs(ints(axis))


@op
def stack(*xs: Operand | Sequence[Operand], axis: int = 0) -> Call:
    """The inputs, all of one shape, one after the other along a new axis. Any dtype, the same for all.

    One list or tuple of inputs may be given in their place, as for NumPy's `stack`.
    """
    return operands(xs), Attrs(ints(axis))


@op
def gather_rows(table: Operand, index: Operand) -> Call:
    """Row table[i] for every i in index: (V, ...) and integers (...) give index.shape + table.shape[1:].

    A row that is taken several times gets the sum of the gradients; the index gets none.
    """
    return (table, index), None


@op
def take_along_last(x: Operand, index: Operand) -> Call:
    """Elements of x (..., C) at integers (...) or (..., K) along the last axis, in the shape of the index.

    An element that is taken several times gets the sum of the gradients; the index gets none.
    """
    return (x, index), None


@op
def softmax(x: Operand) -> Call:
    """exp(x) / sum(exp(x)) over the last axis of x (..., C), without overflow; same shape as x.

    (TTIC 31230, "Softmax: Converting Scores to Probabilities".)
    """
    return (x,), None


@op
def log_softmax(x: Operand) -> Call:
    """x - ln sum(exp(x)) over the last axis of x (..., C), without overflow or underflow; same shape as x."""
    return (x,), None


@op
def log_loss(p: Operand, y: Operand) -> Call:
    """-ln p[..., y] for probabilities p (..., C) and labels y (...), in nats. (TTIC 31230, "cross entropy loss".)

    The result has the shape of y, which gets no gradient. Where p was computed by `softmax`, this is the log-loss of
    the scores, which neither overflows nor underflows.
    """
    return (p, y), None


@op
def log_loss_scores(s: Operand, y: Operand) -> Call:
    """-ln softmax(s)[..., y] for scores s (..., C) and labels y (...), in nats.

    The result has the shape of y, which gets no gradient.
    """
    return (s, y), None


@op
def log_loss_soft(p: Operand, q: Operand) -> Call:
    """-sum q ln p over the last axis, for probabilities p and a distribution over the labels q, both (..., C), in nats.

    The result is (...). 0 ln 0 is 0. Where p was computed by `softmax`, this is the log-loss of the scores. Both inputs
    get a gradient; that of q is -ln p.
    """
    return (p, q), None


@op
def log_loss_soft_scores(s: Operand, q: Operand) -> Call:
    """-sum q ln softmax(s) over the last axis, for scores s and weights q, both (..., C), in nats.

    The result is (...). Both inputs get a gradient; that of q is -ln softmax(s).
    """
    return (s, q), None


@op
def sgd(parameter: Operand, gradient: Operand, learning_rate: float) -> Call:
    """Update parameter -= learning_rate * gradient in place. Has no gradient itself."""
    return (parameter, gradient), Attrs(scalar=learning_rate)
