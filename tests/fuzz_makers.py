"""Makers of the lines of a random graph: each picks among the values that there are what an op may be given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fuzz_draft import DIMS, HOSTS, INF, LIMIT, B, Draft, Shape, Span, Value

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


def unary(low: float = -INF, high: float = INF, extras: tuple[str, ...] = ("",)) -> Maker:
    def make(d: Draft, op: Op) -> None:
        if x := d.pick(lambda v: v.role not in op.refuses):
            x = d.within(x, low, high)
            extra = extras[d.choose(len(extras))]
            more = eval(f"({extra},)") if extra else ()
            d.call(op.name, [x], x.shape, span_of(lambda x: op.numpy(x, *more), (x.low, x.high)), extra)

    return make


def broadcast(a: Shape, b: Shape) -> Shape | None:
    pairs = list(zip(*((1,) * (max(len(a), len(b)) - len(s)) + s for s in (a, b)), strict=True))
    fits = all(m == n or 1 in (m, n) for m, n in pairs)
    return tuple(m if n == 1 else n for m, n in pairs) if fits else None


def binary(low: float = -INF, limited: int = 1) -> Maker:
    """Two values that broadcast, or a value and a number, an array, a new parameter, or an input that is not fed.

    One of the two, the second by default, is no lower than `low`.
    """

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
            a, b = (d.within(v, low if i == limited else -INF) for i, v in enumerate((a, b)))
            span = span_of(op.numpy, (a.low, a.high), (b.low, b.high))
            d.call(op.name, [v.name if v.role == "text" else v for v in (a, b)], shape, span)

    return make


def power(d: Draft, op: Op) -> None:
    """A value below zero only to whole numbers; they have ways of their own."""
    whole = (3.0, 2.0, 1.0, 0.0)[d.choose(4)]
    if d.choose(3) < 2:
        binary(low=0.25, limited=0)(d, op)
    elif x := d.pick(lambda v: True):
        d.call(op.name, [x], x.shape, span_of(lambda x: x**whole, (x.low, x.high)), repr(whole))


def selected(d: Draft, op: Op) -> None:
    """One of two values, or of a value and a number, by integers that there are, new ones, or an array of bools."""
    a, way, number = d.any(), d.choose(4), Value("0.75", (), 0.75, 0.75, "text")
    b = number if way == 3 else d.pick(lambda v: broadcast(a.shape, v.shape) is not None)
    if b is None or (shape := broadcast(a.shape, b.shape)) is None:
        return
    width = shape[-1] if shape and shape[-1] != B else 1
    condition: Value | str = f"np.arange({width}) % 3 == 1"
    known = [v for v in d.integers if broadcast(shape, v.shape) is not None]
    if known and way < 2:
        c = known[d.choose(len(known))]
        condition, shape = c, broadcast(shape, c.shape) or ()
    elif way != 2:
        batched = B in shape[:1] and B not in shape[1:]
        sizes = tuple(
            1 if (n == B and (i or not batched)) or d.choose(4) == 3 else n for i, n in enumerate(shape)
        )
        condition = d.leaf("y" if B in sizes else "k", sizes, 2 + d.choose(2))
    if d.size(shape) <= LIMIT:
        a, b = (b, a) if d.choose(2) else (a, b)
        texts = [v.name if v.role == "text" else v for v in (a, b)]
        d.call(op.name, [condition, *texts], shape, (min(a.low, b.low), max(a.high, b.high)))


def reduction(d: Draft, op: Op) -> None:
    x = d.any()
    rank, kept, way = len(x.shape), d.choose(2), d.choose(8)
    axes = () if way == 7 else tuple(range(rank)) if way == 0 or rank == 0 else (way % rank,)
    text = f"axis={axes[0] - rank * (way > 3)}" if len(axes) == 1 else "" if way == 0 else f"axis={axes}"
    if way == 6 and rank == 3:
        axes, text = (0, 2), "axis=(-1, 0)"
    n = d.size(tuple(x.shape[i] for i in axes)) if op.name == "sum" else 1
    shape = tuple(1 if i in axes else m for i, m in enumerate(x.shape) if kept or i not in axes)
    texts = [text] * bool(text) + ["keepdims=True"] * kept
    span = (min(x.low, n * x.low), max(x.high, n * x.high))
    if op.name == "var":
        least = math.prod(x.shape[i] for i in axes if x.shape[i] != B)
        ddof = (0, 1, 0.5)[d.choose(3)] if least > 1 else 0
        texts += [f"ddof={ddof}"] * (ddof != 0)
        span = (0, (x.high - x.low) ** 2 / 4 * least / (least - ddof))
    d.call(op.name, [x], shape, span, ", ".join(texts))


def largest(d: Draft, op: Op) -> None:
    """Integers, for what takes labels, indices or a condition."""
    if x := d.pick(lambda v: v.shape != ()):
        rank, kept = len(x.shape), d.choose(3) == 2
        at = -1 - d.choose(rank)
        shape = tuple(1 if i == rank + at else n for i, n in enumerate(x.shape) if kept or i != rank + at)
        texts = [f"axis={at + rank * d.choose(2)}"] * (at != -1 or d.choose(2)) + ["keepdims=True"] * kept
        below = d.size((x.shape[at],))
        d.integers += d.line(op.name, [x], [shape], (0, below - 1), ", ".join(texts), below)


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


def sliced(d: Draft, op: Op) -> None:
    """Bounds in all their ways of writing; of the batch all of it, or one example, for sizes must be known here."""
    if x := d.pick(lambda v: v.shape != ()):
        axis = d.choose(len(x.shape))
        n, step = x.shape[axis], 1 + d.choose(3)
        if n == B:
            size, text = ((B, "None, None"), (B, "0"), (1, "0, 1"), (1, "-1, None"))[d.choose(4)]
        else:
            start = d.choose(n)
            stop = start + 1 + d.choose(n - start)
            size = len(range(start, stop, step))
            first = (start, start - n, start or None)[d.choose(3)]
            last = (None, n, n + 9)[d.choose(3)] if stop == n else (stop, stop - n)[d.choose(2)]
            text = f"{first}, {last}" + f", {step}" * (step > 1)
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        d.call(op.name, [x], shape, (x.low, x.high), f"{axis - len(x.shape) * d.choose(2)}, {text}")


def parted(d: Draft, op: Op) -> None:
    """Two or three parts, which are slices; equal parts where a size is known before the values are."""
    if x := d.pick(lambda v: any(n not in (B, 1) for n in v.shape)):
        axes = [i for i, n in enumerate(x.shape) if n not in (B, 1)]
        axis = axes[d.choose(len(axes))]
        n, first = x.shape[axis], 1 + d.choose(x.shape[axis] - 1)
        second = first + 1 + d.choose(n - first)
        at = [first, second] if second < n else [first]
        parts = next((f for f in (2, 3) if n % f == 0), n)
        equal = x.name[0] in "pc" and parts <= 7 and d.choose(2)
        ends = [n // parts * (i + 1) for i in range(parts)] if equal else [*at, n]
        sizes = np.diff([0, *ends]).tolist()
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
        text = f"{parts if equal else at}, axis={axis - len(x.shape) * d.choose(2)}"
        d.values += d.line(op.name, [x], shapes, (x.low, x.high), text)


def joined(d: Draft, op: Op) -> None:
    """One to three values, or new parameters, along an axis that is there or, for stack, a new one."""
    new = op.name == "stack"
    if a := d.pick(lambda v: len(v.shape) < 4 if new else any(n != B for n in v.shape)):
        axes = [i for i in range(len(a.shape) + new) if new or a.shape[i] != B]
        axis = axes[d.choose(len(axes))]

        def fits(v: Value) -> bool:
            around = [s if new else (*s[:axis], *s[axis + 1 :]) for s in (a.shape, v.shape)]
            return len(v.shape) == len(a.shape) and around[0] == around[1] and (new or v.shape[axis] != B)

        found = [a]
        for _ in range(d.choose(3)):
            b = d.leaf("p", a.shape) if B not in a.shape and d.choose(3) == 2 else None
            found.append(b or d.pick(fits) or a)
        size = len(found) if new else sum(v.shape[axis] for v in found)
        shape = (*a.shape[:axis], size, *a.shape[axis + (not new) :])
        if d.size(shape) <= LIMIT:
            span = min(v.low for v in found), max(v.high for v in found)
            text = f"axis={axis - len(shape) * d.choose(2)}" if axis or d.choose(2) else ""
            d.call(op.name, [*found], shape, span, text)


def product(d: Draft, op: Op) -> None:
    if a := d.pick(lambda v: len(v.shape) == 2):
        ta, tb, new = d.choose(2), d.choose(2), d.choose(3) == 0
        i, k = a.shape[::-1] if ta else a.shape
        b = None if new and k != B else d.pick(lambda v: len(v.shape) == 2 and v.shape[tb] == k)
        if b is None and k != B:
            b = d.leaf("p", (d.dim(), k) if tb else (k, d.dim()))
        if b and d.size(shape := (i, b.shape[1 - tb])) <= LIMIT:
            top = d.size((k,)) * a.top * b.top
            extra = ", ".join(["trans_a=True"] * ta + ["trans_b=True"] * tb)
            d.call(op.name, [a, b], shape, (-top, top), extra)


def recurrent(d: Draft) -> None:
    """Several steps with one matrix, whose gradient is a sum of products; or a product of parameters."""
    if x := d.pick(lambda v: len(v.shape) == 2 and v.shape[1] != B):
        n, way = x.shape[1], d.choose(4)
        found = [v for v in d.values if v.shape == (n, n) and v.role == "parameter"]
        w = found[-1] if found and d.choose(2) else d.leaf("p", (n, n))
        h = x
        for _ in range(2 + d.choose(5)):
            top = n * h.top * w.top
            a = d.call("matmul", [h, w], x.shape, (-top, top), "trans_b=True" * (way == 1))
            h = d.call(
                "tanh", [d.call("add", [a, x], x.shape, (a.low + x.low, a.high + x.high))], x.shape, (-1, 1)
            )
        if way >= 2:
            other = found[0] if found else w
            a = d.call("matmul", [w, other], (n, n), (-4.0 * n, 4.0 * n), "trans_a=True" * (way == 3))
            d.call("mul", [d.call("tanh", [a], (n, n), (-1, 1)), other], (n, n), (-2, 2))


def affine(d: Draft, op: Op) -> None:
    """X W + b, of the engine or of a node in NumPy, with parameters that are new, or old where they fit."""
    if x := d.pick(lambda v: len(v.shape) == 2 and v.shape[1] != B and v.role not in op.refuses):
        k, host = x.shape[1], op.name in HOSTS
        found = [
            v for v in d.values if len(v.shape) == 2 and v.shape[0] == k and v.shape[1] != B and not host
        ]
        w = found[-1] if d.choose(3) == 1 and found else d.leaf("p", (k, d.dim()))
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


def labelled(low: float = -INF) -> Maker:
    """A loss, or taking elements: rows, and an integer for each; or several, for take_along_last."""

    def make(d: Draft, op: Op) -> None:
        if x := d.pick(lambda v: v.shape != () and v.shape[-1] != B and B not in v.shape[1:]):
            taken = op.name == "take_along_last"
            x = d.within(x, low)
            shape = (*x.shape[:-1], *[DIMS[d.choose(8)]] * (d.choose(2) if taken else 0))
            span = (x.low, x.high) if taken else (-2.0, 2 * x.top + math.log(x.shape[-1]))
            d.call(op.name, [x, d.indices(shape, x.shape[-1])], shape, span)

    return make


def soft(d: Draft, op: Op) -> None:
    """A loss, of probabilities or scores and as many weights: a value, a new input, or a softmax."""
    if x := d.pick(lambda v: v.shape != ()):
        n, way = d.size(x.shape[-1:]), d.choose(3)
        p, top = x, 2 * x.top + math.log(n)
        if op.name == "log_loss_soft":
            p = d.call("softmax", [x], x.shape, (math.exp(-top), 1)) if d.choose(2) else d.within(x, 0.05)
            top = max(-math.log(p.low), math.log(p.high))
        q = (
            d.leaf("c", x.shape)
            if way == 1 and B not in x.shape
            else d.pick(lambda v: v.shape == x.shape) or x
        )
        q = d.call("softmax", [q], q.shape, (0, 1)) if way == 2 else q
        d.call(op.name, [p, q], x.shape[:-1], (-n * top * q.top, n * top * q.top))


def rows(d: Draft, op: Op) -> None:
    if x := d.pick(lambda v: v.shape != () and v.shape[0] != B):
        index: Shape = ((B,), (B, 2), (3,), (B, 1), ())[d.choose(5)]
        if d.size(shape := index + x.shape[1:]) <= LIMIT and len(shape) <= 4:
            d.call(op.name, [x, d.indices(index, x.shape[0])], shape, (x.low, x.high))


def same(d: Draft, op: Op) -> None:
    a = d.pick(lambda v: v.role not in op.refuses)
    if a and (b := d.pick(lambda v: v.role not in op.refuses and v.shape == a.shape)):
        d.call(op.name, [a, b], a.shape, (a.low + b.low, a.high + b.high))
