"""Random graphs as source, for test_fuzz.py, made from lists of small numbers that hypothesis draws and shrinks.

Each gene, two numbers, becomes one op of the table OPS at the end. The digits of the second pick among what fits at
each place, so every list of genes is a graph, and a shorter list a smaller one. Values are kept tame: bounds go with
them, and what may have grown is put through tanh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import edfcore as edf
import references as ref
from numpy_nodes import make_nodes
from references import Array

B = -1  # the batch axis in a shape
DIMS = (5, 2, 3, 1, 7, 4, 13, 33)
LIMIT = 20_000  # elements of a value, for the largest minibatch
INF = math.inf
PLAIN = ("parameter", "bare")  # roles of values to which `addgrad(d)` does not simply add d
HOSTS: dict[str, Any] = vars(make_nodes(edf))  # the nodes in NumPy
Shape = tuple[int, ...]
Span = tuple[float, float]


def draw(seed: int, *shape: int, below: int = 0, dtype: str = "int64") -> Any:
    random = np.random.default_rng(seed)
    return random.integers(0, below, shape).astype(dtype) if below else random.uniform(-2, 2, shape)


@dataclass(frozen=True)
class Leaf:
    """A parameter (p), an input that is fed floats (x) or integers (y), or one that stays as it is (c, k)."""

    name: str
    shape: Shape
    seed: int
    below: int = 0
    dtype: str = "int64"

    def text(self, examples: int) -> str:
        numbers = [str(n) for n in (self.seed, *(examples if n == B else n for n in self.shape))]
        integers = [f"below={self.below}", f"dtype={self.dtype!r}"] if self.below else []
        return f"draw({', '.join(numbers + integers)})"

    def array(self, examples: int) -> Array:
        return np.asarray(eval(self.text(examples), {"draw": draw}))


@dataclass(frozen=True)
class Value:
    """What a later op may take: its name in the program, and what is known of it."""

    name: str
    shape: Shape
    low: float = -2.0
    high: float = 2.0
    role: str = "node"  # or parameter, input, text, or bare: a node in NumPy without addgrad
    trained: bool = False  # a parameter has a say in it

    @property
    def top(self) -> float:
        return max(abs(self.low), abs(self.high))


class Draft:
    """A graph while it is written: the body, and the values that the next op may take."""

    def __init__(self, batch: int) -> None:
        self.body: list[str] = []
        self.leaves: list[Leaf] = []
        self.values: list[Value] = []
        self.used: set[str] = set()
        self.read: set[str] = set()  # names of values that an op takes
        self.batch = batch
        self.gene = 0

    def choose(self, n: int) -> int:
        """Return a number below n, the next digit of the gene."""
        self.gene, digit = divmod(self.gene, n)
        return digit

    def pick(self, fits: Callable[[Value], bool]) -> Value | None:
        """Pick the latest for 0; then from the first on, so that less stays the same when shrinking leaves out ops."""
        found, digit = [v for v in self.values if fits(v)], self.choose(64)
        return found[digit % len(found) - 1] if found else None

    def any(self) -> Value:
        return self.values[self.choose(64) % len(self.values) - 1]

    def size(self, shape: Shape) -> int:
        return math.prod(self.batch if n == B else n for n in shape)

    def leaf(self, kind: str, shape: Shape, below: int = 0) -> Value:
        """Add a leaf, of integers where they have a bound; those are not for other ops."""
        dtype = ("int64", "int32", "uint8")[self.choose(3)] if below else "int64"
        made = Leaf(f"{kind}{len(self.leaves)}", shape, len(self.leaves), below, dtype)
        self.leaves.append(made)
        value = Value(made.name, shape, role="parameter" if kind == "p" else "input", trained=kind == "p")
        if not below:
            self.values.append(value)
        return value

    def call(self, name: str, inputs: list[Value | str], shape: Shape, span: Span, extra: str = "") -> Value:
        """Write one line, and more where its bounds are too wide."""
        known = [v for v in inputs if isinstance(v, Value)]
        self.used.add(name)
        self.read |= {v.name for v in known}
        role = "node" if name not in HOSTS or hasattr(HOSTS[name], "addgrad") else "bare"
        value = Value(f"v{len(self.body)}", shape, *span, role, any(v.trained for v in known))
        texts = [v.name if isinstance(v, Value) else v for v in inputs] + [extra] * bool(extra)
        self.body.append(f"{value.name} = {'ops.' * (name not in HOSTS)}{name}({', '.join(texts)})")
        if value.top > 8:
            factor = 2.0 ** -math.ceil(math.log2(value.top / 8))
            return self.call("scale", [value], shape, (span[0] * factor, span[1] * factor), repr(factor))
        if value.top > 4:
            return self.call("tanh", [value], shape, (math.tanh(span[0]), math.tanh(span[1])))
        self.values.append(value)
        return value

    def within(self, v: Value, low: float = -INF, high: float = INF) -> Value:
        """Return v or what was made of it, with no value below `low` (0.5 or less) or above `high` (1.5 or more)."""
        if low <= v.low and v.high <= high:
            return v
        if low <= -1:
            return self.call("tanh", [v], v.shape, (-1, 1))
        return self.call("add", [self.call("sigmoid", [v], v.shape, (0, 1)), "0.5"], v.shape, (0.5, 1.5))

    def text(self) -> str:
        return "\n    ".join([f"def graph({', '.join(leaf.name for leaf in self.leaves)}):", *self.body])

    def to_batch(self, v: Value) -> Value:
        """Reduce v to shape (nBatch,)."""
        if v.shape == (B,):
            return v if v.role == "node" else self.call("neg", [v], v.shape, (-v.high, -v.low))
        if B not in v.shape:
            x, total = self.values[0], self.call("mean", [v], (), (v.low, v.high))
            v = self.call("mul", [x, total], x.shape, (-2 * total.top, 2 * total.top))
        axes = tuple(i for i in range(len(v.shape)) if i != v.shape.index(B))
        return self.call("mean", [v], (B,), (v.low, v.high), f"axis={axes}")


Maker = Callable[[Draft, "Op"], object]  # adds a line to the draft, or nothing where the op does not fit


@dataclass(frozen=True)
class Op:
    """An op or a node in NumPy: how a line is made, and the same in NumPy and in PyTorch (`t`)."""

    name: str
    make: Maker
    numpy: Callable[..., Any]
    torch: Callable[..., Any]
    refuses: tuple[str, ...] = ()  # roles of values that it must not be given


def span_of(f: Callable[..., Any], *spans: Span) -> Span:
    grids = np.meshgrid(*(np.append(np.linspace(*s, 9), min(max(0, s[0]), s[1])) for s in spans))
    return float(f(*grids).min()), float(f(*grids).max())


def unary(low: float = -INF, high: float = INF, extra: str = "") -> Maker:
    def make(d: Draft, op: Op) -> None:
        if x := d.pick(lambda v: v.role not in op.refuses):
            x = d.within(x, low, high)
            f = op.numpy if not extra else lambda x: op.numpy(x, float(extra))
            d.call(op.name, [x], x.shape, span_of(f, (x.low, x.high)), extra)

    return make


def broadcast(a: Shape, b: Shape) -> Shape | None:
    pairs = list(zip(*((1,) * (max(len(a), len(b)) - len(s)) + s for s in (a, b)), strict=True))
    fits = all(m == n or 1 in (m, n) for m, n in pairs)
    return tuple(m if n == 1 else n for m, n in pairs) if fits else None


def binary(low: float = -INF) -> Maker:
    """Two values that broadcast, or a value and a number, an array, a new parameter, or an input that is not fed."""

    def make(d: Draft, op: Op) -> None:
        a, way = d.any(), d.choose(7)
        b: Value | None = None
        width = a.shape[-1] if a.shape and a.shape[-1] != B else 1
        least = 0.5 if low > 0 else -1.0
        if way == 3:
            b = Value(f"{least * 1.5}", (), least * 1.5, least * 1.5, "text")
        elif way == 4:
            b = Value(f"np.linspace({least}, 1.5, {width})", (width,), least, 1.5, "text")
        elif way >= 5:
            sizes = tuple(1 if n == B or d.choose(4) == 3 else n for n in a.shape[d.choose(2) :])
            b = d.leaf("pc"[way - 5], sizes or (width,))
        else:
            b = d.pick(lambda v: broadcast(a.shape, v.shape) is not None)
        shape = broadcast(a.shape, b.shape) if b else None
        if b and shape is not None and d.size(shape) <= LIMIT:
            a, b = (b, a) if d.choose(2) else (a, b)
            b = d.within(b, low)
            span = span_of(op.numpy, (a.low, a.high), (b.low, b.high))
            d.call(op.name, [v.name if v.role == "text" else v for v in (a, b)], shape, span)

    return make


def reduction(d: Draft, op: Op) -> None:
    x = d.any()
    rank, kept, way = len(x.shape), d.choose(2), d.choose(8)
    axes = () if way == 7 else tuple(range(rank)) if way == 0 or rank == 0 else (way % rank,)
    text = f"axis={axes[0] - rank * (way > 3)}" if len(axes) == 1 else "" if way == 0 else f"axis={axes}"
    if way == 6 and rank == 3:
        axes, text = (0, 2), "axis=(-1, 0)"
    n = d.size(tuple(x.shape[i] for i in axes)) if op.name == "sum" else 1
    shape = tuple(1 if i in axes else m for i, m in enumerate(x.shape) if kept or i not in axes)
    extra = ", ".join([text] * bool(text) + ["keepdims=True"] * kept)
    d.call(op.name, [x], shape, (min(x.low, n * x.low), max(x.high, n * x.high)), extra)


def regroup(sizes: Shape, way: int) -> Shape:
    n = math.prod(sizes)
    factor = next((f for f in (2, 3, 5, 7) if n % f == 0), 1)
    return (sizes, (n,), (n, 1), (n // factor, factor))[way] if sizes else ((), (1,), (), (1, 1))[way]


def reshaped(d: Draft, op: Op) -> None:
    if x := d.pick(lambda v: v.shape.count(B) < 2):
        at = x.shape.index(B) if B in x.shape else len(x.shape)
        before, after = regroup(x.shape[:at], d.choose(4)), regroup(x.shape[at + 1 :], d.choose(4))
        shape = before + x.shape[at : at + 1] + after
        d.call(op.name, [x], shape, (x.low, x.high), str(shape)) if len(shape) <= 4 else None


def permuted(d: Draft, op: Op) -> None:
    if x := d.pick(lambda v: len(v.shape) > 1):
        axes = list(range(len(x.shape)))[::-1]
        for i in range(len(axes) if op.name in HOSTS or d.choose(2) else 0):
            axes.insert(i, axes.pop(i + d.choose(len(axes) - i)))
        text = "" if axes == sorted(axes)[::-1] and op.name not in HOSTS else str(tuple(axes))
        d.call(op.name, [x], tuple(x.shape[i] for i in axes), (x.low, x.high), text)


def expanded(d: Draft, op: Op) -> None:
    if x := d.pick(lambda v: B not in v.shape and len(v.shape) < 3):
        shape = (*[DIMS[d.choose(8)]] * d.choose(2), *(DIMS[d.choose(8)] if n == 1 else n for n in x.shape))
        d.call(op.name, [x], shape, (x.low, x.high), str(shape)) if d.size(shape) <= LIMIT else None


def product(d: Draft, op: Op) -> None:
    if a := d.pick(lambda v: len(v.shape) == 2):
        ta, tb, new = d.choose(2), d.choose(2), d.choose(3) == 0
        i, k = a.shape[::-1] if ta else a.shape
        b = None if new and k != B else d.pick(lambda v: len(v.shape) == 2 and v.shape[tb] == k)
        if b is None and k != B:
            b = d.leaf("p", (DIMS[d.choose(8)], k) if tb else (k, DIMS[d.choose(8)]))
        if b and d.size(shape := (i, b.shape[1 - tb])) <= LIMIT:
            top = d.size((k,)) * a.top * b.top
            extra = ", ".join(["trans_a=True"] * ta + ["trans_b=True"] * tb)
            d.call(op.name, [a, b], shape, (-top, top), extra)


def affine(d: Draft, op: Op) -> None:
    """X W + b, of the engine or of a node in NumPy, with parameters that are new, or old where they fit."""
    if x := d.pick(lambda v: len(v.shape) == 2 and v.shape[1] != B and v.role not in op.refuses):
        k, host = x.shape[1], op.name in HOSTS
        found = [
            v for v in d.values if len(v.shape) == 2 and v.shape[0] == k and v.shape[1] != B and not host
        ]
        w = found[-1] if d.choose(3) == 1 and found else d.leaf("p", (k, DIMS[d.choose(8)]))
        found = [v for v in d.values if v.shape == w.shape[1:] and not host]
        b = found[-1] if d.choose(2) and found else d.leaf("p", w.shape[1:])
        top = k * x.top * w.top + b.top
        package = f"SimpleNamespace(w={w.name}, b={b.name})"
        d.call(op.name, [package, x] if host else [x, w, b], (x.shape[0], w.shape[1]), (-top, top))


def rowwise(span: Callable[[int, float], Span]) -> Maker:
    def make(d: Draft, op: Op) -> None:
        if x := d.pick(lambda v: v.shape != () and v.role not in op.refuses):
            d.call(op.name, [x], x.shape, span(d.size(x.shape[-1:]), x.top))

    return make


def indices(d: Draft, shape: Shape, below: int) -> Value:
    same = [leaf for leaf in d.leaves if (leaf.shape, leaf.below) == (shape, below)]
    kind = "y" if B in shape else "k"
    return Value(same[-1].name, shape) if same and d.choose(2) else d.leaf(kind, shape, below)


def labelled(low: float = -INF) -> Maker:
    """A loss, or taking elements: rows, and an integer for each; or several, for take_along_last."""

    def make(d: Draft, op: Op) -> None:
        if x := d.pick(lambda v: v.shape != () and v.shape[-1] != B and B not in v.shape[1:]):
            taken = op.name == "take_along_last"
            x = d.within(x, low)
            shape = (*x.shape[:-1], *[DIMS[d.choose(8)]] * (d.choose(2) if taken else 0))
            span = (x.low, x.high) if taken else (-2.0, 2 * x.top + math.log(x.shape[-1]))
            d.call(op.name, [x, indices(d, shape, x.shape[-1])], shape, span)

    return make


def rows(d: Draft, op: Op) -> None:
    if x := d.pick(lambda v: v.shape != () and v.shape[0] != B):
        index: Shape = ((B,), (B, 2), (3,), (B, 1), ())[d.choose(5)]
        if d.size(shape := index + x.shape[1:]) <= LIMIT and len(shape) <= 4:
            d.call(op.name, [x, indices(d, index, x.shape[0])], shape, (x.low, x.high))


def same(d: Draft, op: Op) -> None:
    a = d.pick(lambda v: v.role not in op.refuses)
    if a and (b := d.pick(lambda v: v.role not in op.refuses and v.shape == a.shape)):
        d.call(op.name, [a, b], a.shape, (a.low + b.low, a.high + b.high))


def over(t: Any, x: Any, f: Callable[..., Any], axis: Any = None, keepdims: bool = False) -> Any:
    axes = tuple(range(x.ndim)) if axis is None else axis
    return x + 0 if axes == () else f(x, axes, keepdims)  # PyTorch takes no axes for all


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
    Op("scale", unary(extra="-1.5"), np.multiply, lambda t, x, c: x * c),
    Op("add", binary(), np.add, lambda t, a, b: a + b),
    Op("sub", binary(), np.subtract, lambda t, a, b: a - b),
    Op("mul", binary(), np.multiply, lambda t, a, b: a * b),
    Op("div", binary(low=0.25), np.divide, lambda t, a, b: a / b),
    Op("sum", reduction, np.sum, lambda t, x, **how: over(t, x, t.sum, **how)),
    Op("mean", reduction, ref.mean, lambda t, x, **how: over(t, x, t.mean, **how)),
    Op("max", reduction, np.max, lambda t, x, **how: over(t, x, t.amax, **how)),
    Op("broadcast_to", expanded, np.broadcast_to, lambda t, x, shape: x.expand(shape)),
    Op("matmul", product, ref.product,
       lambda t, a, b, trans_a=False, trans_b=False: (a.T if trans_a else a) @ (b.T if trans_b else b)),
    Op("affine", affine, ref.affine, lambda t, x, w, b: x @ w + b),
    Op("reshape", reshaped, np.reshape, lambda t, x, shape: x.reshape(shape)),
    Op("transpose", permuted, np.transpose, lambda t, x, axes=None: x.permute(axes or tuple(range(x.ndim))[::-1])),
    Op("gather_rows", rows, ref.rows_of, lambda t, x, index: x[index]),
    Op("take_along_last", labelled(), ref.take, chosen),
    Op("softmax", rowwise(lambda n, top: (math.exp(-2 * top) / n, 1)), ref.softmax, lambda t, x: t.softmax(x, -1)),
    Op("log_softmax", rowwise(lambda n, top: (-2 * top - math.log(n), 0)), ref.log_softmax,
       lambda t, x: t.log_softmax(x, -1)),
    Op("log_loss", labelled(low=0.05), ref.loss_of_probabilities, lambda t, p, y: -t.log(chosen(t, p, y))),
    Op("log_loss_scores", labelled(), ref.loss_of_scores, lambda t, s, y: -chosen(t, t.log_softmax(s, -1), y)),
    # Nodes in NumPy, of tests/numpy_nodes.py.
    Op("Relu", unary(), lambda x: np.maximum(x, 0), lambda t, x: t.relu(x)),
    Op("Sigmoid", unary(), ref.sigmoid, lambda t, x: t.sigmoid(x)),
    Op("Scale", unary(extra="0.75"), np.multiply, lambda t, x, c: x * c),
    Op("Add", same, np.add, lambda t, a, b: a + b, PLAIN),
    Op("Softmax", rowwise(lambda n, top: (0, 1)), ref.softmax, lambda t, x: t.softmax(x, -1), PLAIN),
    Op("Transpose", permuted, np.transpose, lambda t, x, axes: x.permute(axes)),
    Op("Linear", affine, lambda phi, x: x @ phi.w + phi.b, lambda t, phi, x: x @ phi.w + phi.b, PLAIN),
]
# fmt: on
ENGINE = [op for op in OPS if op.name not in HOSTS]


def write(genes: list[tuple[int, int]], batch: int, setting: int) -> Draft:
    """Write the graph that these numbers stand for, for minibatches of up to `batch`."""
    d = Draft(batch)
    d.gene = setting
    ops = OPS if d.choose(2) else ENGINE
    width, by_labels, all_values, deep = DIMS[d.choose(8)], d.choose(3) == 2, d.choose(2), d.choose(3) == 2
    d.leaf("x", (B, 3, width) if deep else (B, width))
    p = d.leaf("p", (width,))
    for number, gene in genes:
        op = ops[number % len(ops)]
        d.gene = gene
        op.make(d, op)
    last = d.values[-1]
    if by_labels and len(last.shape) == 2 and last.shape[0] == B and last.shape[1] != B:
        probabilities = d.call("softmax", [last], last.shape, (0.001, 1))
        loss = d.call("log_loss", [probabilities, indices(d, (B,), last.shape[1])], (B,), (0, 1))
    else:
        loss = d.to_batch(last)
    if all_values:  # whatever nothing reads yet has a say in the loss
        for v in [v for v in d.values if v.name[0] == "v" and v.name not in d.read | {loss.name}]:
            loss = d.call("add", [loss, d.to_batch(v)], (B,), (-1, 1))
    if not loss.trained:
        loss = d.call("mul", [loss, d.call("mean", [p], (), (-2, 2))], (B,), (-1, 1))
    d.body.append(f"return {loss.name}")
    return d
