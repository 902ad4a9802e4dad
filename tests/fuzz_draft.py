"""A random graph while it is written: its leaves, its lines, and what is known of the values that they make.

Values are kept tame: bounds go with them, and what may have grown is put through tanh.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import edfcore as edf
from numpy_nodes import make_nodes
from references import Array

B = -1  # the batch axis in a shape
DIMS = (5, 2, 3, 1, 7, 4, 13, 33)
WIDE = (150, 100, 128, 200, 257, 33, 300, 16)  # products of several chunks, also with counters
LIMIT = 80_000  # elements of a value, for the largest minibatch
INF = math.inf
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
    below: int = 0  # of integers: they are not for ops that take floats

    @property
    def top(self) -> float:
        return max(abs(self.low), abs(self.high))


class Draft:
    """A graph while it is written: the body, and the values that the next op may take."""

    def __init__(self, batch: int) -> None:
        self.body: list[str] = []
        self.leaves: list[Leaf] = []
        self.values: list[Value] = []
        self.integers: list[Value] = []
        self.nodes: list[Value] = []  # one for each node
        self.engine: list[int] = []  # numbers of those that the engine computes
        self.used: set[str] = set()
        self.read: Counter[str] = Counter()  # how often ops take a value, by its name
        self.scores: dict[str, str] = {}  # what a softmax was made of
        self.fused: set[str] = set()  # softmaxes that a loss takes
        self.batch = batch
        self.gene = 0
        self.dims = DIMS

    def choose(self, n: int) -> int:
        """Return a number below n, the next digit of the gene."""
        self.gene, digit = divmod(self.gene, n)
        return digit

    def dim(self) -> int:
        return self.dims[self.choose(8)]

    def pick(self, fits: Callable[[Value], bool]) -> Value | None:
        """Pick the latest for 0; then from the first on, so that less stays the same when shrinking leaves out ops."""
        found, digit = [v for v in self.values if fits(v)], self.choose(64)
        return found[digit % len(found) - 1] if found else None

    def any(self) -> Value:
        return self.values[self.choose(64) % len(self.values) - 1]

    def size(self, shape: Shape) -> int:
        return math.prod(self.batch if n == B else n for n in shape)

    def leaf(self, kind: str, shape: Shape, below: int = 0) -> Value:
        """Add a leaf, of integers where they have a bound."""
        dtype = ("int64", "int32", "uint8")[self.choose(3)] if below else "int64"
        made = Leaf(f"{kind}{len(self.leaves)}", shape, len(self.leaves), below, dtype)
        self.leaves.append(made)
        role = "parameter" if kind == "p" else "input"
        value = Value(made.name, shape, role=role, trained=kind == "p", below=below)
        (self.integers if below else self.values).append(value)
        return value

    def indices(self, shape: Shape, below: int) -> Value:
        """Integers below this: what there is of this shape, or a new leaf."""
        found = [v for v in self.integers if v.shape == shape and v.below <= below]
        kind = "y" if B in shape else "k"
        return found[-1] if found and self.choose(2) else self.leaf(kind, shape, below)

    def line(
        self,
        name: str,
        inputs: list[Value | str],
        shapes: list[Shape],
        span: Span,
        extra: str = "",
        below: int = 0,
    ) -> list[Value]:
        """Write one line, which makes a node of each of these shapes; whether later ops may take them is left open."""
        known = [v for v in inputs if isinstance(v, Value)]
        self.used.add(name)
        self.read.update(v.name for v in known)
        role = "node" if name not in HOSTS or hasattr(HOSTS[name], "addgrad") else "bare"
        trained, first = any(v.trained for v in known) and not below, len(self.nodes)
        made = [Value(f"v{first + i}", s, *span, role, trained, below) for i, s in enumerate(shapes)]
        self.nodes += made
        if name == "softmax":
            self.scores[made[0].name] = known[0].name
        elif name in ("log_loss", "log_loss_soft") and known[0].name in self.scores:
            self.fused.add(known[0].name)
        self.engine += range(first, len(self.nodes)) if name not in HOSTS else ()
        texts = [v.name if isinstance(v, Value) else v for v in inputs] + [extra] * bool(extra)
        call = f"{'ops.' * (name not in HOSTS)}{name}({', '.join(texts)})"
        self.body.append(f"{', '.join(v.name for v in made)} = {call}")
        return made

    def call(self, name: str, inputs: list[Value | str], shape: Shape, span: Span, extra: str = "") -> Value:
        """Write one line that makes one node, and more where its bounds are too wide."""
        (value,) = self.line(name, inputs, [shape], span, extra)
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

    @property
    def reordered(self) -> bool:
        """Whether scores, of which a loss is computed by way of a softmax, get three gradients or more."""
        return any(self.read[self.scores[p]] + self.read[p] > 3 for p in self.fused)

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
