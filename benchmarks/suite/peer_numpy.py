"""NumPy by hand, with every result in memory that is there already; in float64 it is what training is compared with."""
# ruff: noqa: PLW2901  # arrays are changed in place, and stay those of the loop

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from suite.peer import Call, Peer, Program, Trainer
from suite.problems import Array, Network, OpProblem, Unsupported
from suite.rows import Row

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class NumpyTrainer(Trainer):
    """A perceptron with the gradients written out."""

    def __init__(self, net: Network, dtype: Any = np.float32) -> None:
        self.dtype = np.dtype(dtype)
        super().__init__(net)
        self.reset()
        self.label = np.arange(net.batch)
        sizes = net.sizes[1:]
        self.h = [np.empty((net.batch, j), dtype) for j in sizes]
        self.d = [np.empty((net.batch, j), dtype) for j in sizes]
        self.kept = [np.empty((net.batch, j), bool if net.activation == "relu" else dtype) for j in sizes]
        self.g = [np.empty_like(p) for p in self.p]

    def reset(self) -> None:
        self.p = [p.astype(self.dtype) for p in self.net.first]
        self.moments = [(np.zeros_like(p), np.zeros_like(p), np.empty_like(p)) for p in self.p]
        self.steps = 0

    def convert(self, x: Array, y: Array) -> tuple[Array, Array]:
        return x.astype(self.dtype, copy=False), y.astype(self.dtype, copy=False) if y.ndim == 2 else y

    def parameters(self) -> list[Array]:
        return [p.copy() for p in self.p]

    def step(self, x: Array, y: Array) -> None:
        p, h, d, g, last = self.p, self.h, self.d, self.g, len(self.h) - 1
        before = x
        for i, out in enumerate(h):
            np.matmul(before, p[2 * i], out=out)
            out += p[2 * i + 1]
            if i < last:
                np.maximum(out, 0, out=out) if self.net.activation == "relu" else np.tanh(out, out=out)
            before = out
        if self.net.loss == "log":
            s = h[last]
            s -= s.max(axis=1, keepdims=True)
            np.exp(s, out=s)
            np.divide(s, s.sum(axis=1, keepdims=True), out=d[last])
            d[last][self.label, y] -= 1
        else:
            np.subtract(h[last], y, out=d[last])
        d[last] *= d[last].dtype.type(1 / len(x))
        for i in range(last, -1, -1):
            outer = np.multiply if len(x) == 1 else np.matmul  # of one example there is no sum
            outer((h[i - 1] if i else x).T, d[i], out=g[2 * i])
            d[i].sum(axis=0, out=g[2 * i + 1])
            if i:
                self.through(np.matmul(d[i], p[2 * i].T, out=d[i - 1]), h[i - 1], self.kept[i - 1])
        self.update()

    def through(self, d: Array, h: Array, kept: Array) -> None:
        """Multiply a gradient by the slope of the activation, from its value."""
        if self.net.activation == "relu":
            np.greater(h, 0, out=kept)
        else:
            np.multiply(h, h, out=kept)
            np.subtract(1, kept, out=kept)
        d *= kept

    def update(self) -> None:
        """SGD or Adam, in place."""
        if self.net.optimiser == "sgd":
            for p, g in zip(self.p, self.g, strict=True):
                g *= g.dtype.type(self.net.rate)
                p -= g
            return
        self.steps += 1
        rate = self.net.rate / (1 - BETA1**self.steps)
        root = (1 - BETA2**self.steps) ** -0.5
        for p, g, (m, v, work) in zip(self.p, self.g, self.moments, strict=True):
            m *= BETA1
            np.multiply(g, 1 - BETA1, out=work)
            m += work
            v *= BETA2
            np.multiply(g, g, out=work)
            work *= 1 - BETA2
            v += work
            np.sqrt(v, out=work)
            work *= root
            work += EPSILON
            np.divide(m, work, out=work)
            work *= rate
            p -= work


# Ops: each function takes the inputs and returns what is timed.


def product(row: Row, a: Array, b: Array) -> Callable[[], Any]:
    a, b = a.T if row.attrs["trans_a"] else a, b.T if row.attrs["trans_b"] else b
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    return lambda: np.matmul(a, b, out=out)


def affine(row: Row, x: Array, w: Array, b: Array) -> Callable[[], Any]:
    out = np.empty((x.shape[0], w.shape[1]), x.dtype)
    return lambda: np.add(np.matmul(x, w, out=out), b, out=out)


def slope(op: str, x: Array, y: Array, out: Array) -> None:
    """The derivative of an activation."""
    if op == "relu":
        np.greater(x, 0, out=out, casting="unsafe")
    elif op == "exp":
        np.copyto(out, y)
    elif op == "log":
        np.reciprocal(x, out=out)
    else:
        np.multiply(y, y, out=out)
        np.subtract(1 if op == "tanh" else y, out, out=out)


def unary(row: Row, x: Array, *g: Array) -> Callable[[], Any]:
    op, y, dx = row.op, np.empty_like(x), np.empty_like(x)
    if op == "gelu":
        raise Unsupported("NumPy has no error function")

    def forward() -> Array:
        if op == "relu":
            return np.maximum(x, 0, out=y)
        if op == "sigmoid":
            np.negative(x, out=y)
            np.exp(y, out=y)
            np.add(y, 1, out=y)
            return np.reciprocal(y, out=y)
        return getattr(np, op)(x, out=y)

    def both() -> tuple[Array, Array]:
        forward()
        slope(op, x, y, dx)
        return y, np.multiply(dx, g[0], out=dx)

    return both if g else forward


def softmax(row: Row, x: Array, *g: Array) -> Callable[[], Any]:
    y, dx, log = np.empty_like(x), np.empty_like(x), row.op == "log_softmax"

    def forward() -> Array:
        np.subtract(x, x.max(axis=-1, keepdims=True), out=y)
        np.exp(y, out=dx if log else y)
        total = (dx if log else y).sum(axis=-1, keepdims=True)
        return np.subtract(y, np.log(total), out=y) if log else np.divide(y, total, out=y)

    def both() -> tuple[Array, Array]:
        forward()
        if log:
            np.exp(y, out=dx)
            np.multiply(dx, g[0].sum(axis=-1, keepdims=True), out=dx)
            return y, np.subtract(g[0], dx, out=dx)
        inner = np.einsum("ij,ij->i", y, g[0])[:, None]
        np.subtract(g[0], inner, out=dx)
        return y, np.multiply(dx, y, out=dx)

    return both if g else forward


def loss(row: Row, s: Array, y: Array) -> Callable[[], Any]:
    work, n = np.empty_like(s), np.arange(len(y))

    def forward() -> Array:
        np.subtract(s, s.max(axis=-1, keepdims=True), out=work)
        chosen = work[n, y]
        np.exp(work, out=work)
        return np.log(work.sum(axis=-1)) - chosen

    def both() -> tuple[Array, Array]:
        found = forward()
        np.divide(work, work.sum(axis=-1, keepdims=True) * np.float32(len(y)), out=work)
        work[n, y] -= np.float32(1 / len(y))
        return found, work

    return both if row.attrs["backward"] else forward


def reduce(row: Row, x: Array) -> Callable[[], Any]:
    function, axis = getattr(np, row.attrs["op"]), row.attrs["axis"]
    return lambda: function(x, axis=axis)


def scatter_add(row: Row, g: Array, index: Array) -> Callable[[], Any]:
    out = np.zeros((row.attrs["rows"], g.shape[1]), g.dtype)

    def run() -> Array:
        out.fill(0)
        np.add.at(out, index, g)
        return out

    return run


def copied(view: Callable[[Array], Array]) -> Callable[..., Callable[[], Any]]:
    """A view of the input, written out."""

    def made(row: Row, x: Array) -> Callable[[], Any]:
        out = np.empty(view(x).shape, x.dtype)

        def run() -> Array:
            np.copyto(out, view(x))
            return out

        return run

    return made


def concat(row: Row, a: Array, b: Array) -> Callable[[], Any]:
    out = np.empty((len(a), a.shape[1] + b.shape[1]), a.dtype)
    return lambda: np.concatenate([a, b], axis=1, out=out)


def gather(row: Row, table: Array, index: Array) -> Callable[[], Any]:
    out = np.empty((len(index), table.shape[1]), table.dtype)
    return lambda: np.take(table, index, axis=0, out=out, mode="clip")


OPS: dict[str, Callable[..., Callable[[], Any]]] = {
    "matmul": product, "affine": affine, **dict.fromkeys(("relu", "tanh", "sigmoid", "exp", "log", "gelu"), unary),
    "softmax": softmax, "log_softmax": softmax, "loss": loss, "reduce": reduce, "gather": gather,
    "scatter_add": scatter_add, "transpose": copied(lambda x: x.T), "concat": concat,
    "slice": copied(lambda x: x[:, x.shape[1] // 4 : x.shape[1] // 4 * 3]),
}  # fmt: skip


class Numpy(Peer):
    """NumPy."""

    packages = ("numpy",)
    trainer = NumpyTrainer

    def op(self, row: Row, problem: OpProblem) -> Program:
        return Call(OPS[row.op](row, *problem.inputs))
