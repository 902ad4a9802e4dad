"""The inputs of a row, the same for every peer, and how far an answer is from the one in float64."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kernels import difference, scattered_numpy
from suite.rows import Row

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import references

Array = Any
CHECKED = 8  # steps after which parameters are compared
PRIME = 100_003


class Unsupported(Exception):  # noqa: N818  # no error: a peer need not know every row
    """A peer has no such op, or data are not there; the text says what is missing."""


def generator(row: Row) -> np.random.Generator:
    """Random numbers that depend on the row's title alone."""
    return np.random.default_rng(zlib.crc32(row.title.encode()))


def normal(random: np.random.Generator, *shape: int) -> Array:
    """Normal values; large arrays repeat a prime number of them, to be made and checked quickly."""
    size = int(np.prod(shape))
    return np.resize(random.standard_normal(min(size, PRIME), dtype=np.float32), shape)


def over_period(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A slow elementwise function of an array that `normal` made."""
    return lambda x: np.resize(f(x.reshape(-1)[:PRIME]), x.shape)


# Ops.


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu_slope(x: Array) -> Array:
    """The derivative of gelu: the normal distribution function, and x times its density."""
    at = np.where(x == 0, 1.0, x)
    return np.where(x == 0, 0.5, references.gelu(at) / at) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


UNARY: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(x.dtype)),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "exp": (np.exp, np.exp),
    "log": (np.log, lambda x: 1 / x),
    "gelu": (over_period(references.gelu), over_period(gelu_slope)),
}


def unary(row: Row, x: Array, *g: Array) -> list[Array]:
    f, df = UNARY[row.op]
    return [f(x), *(d * df(x) for d in g)]


def softmax(row: Row, x: Array, *g: Array) -> list[Array]:
    y = references.softmax(x)
    return [y, *(y * (d - (d * y).sum(-1, keepdims=True)) for d in g)]


def log_softmax(row: Row, x: Array, *g: Array) -> list[Array]:
    y = references.log_softmax(x)
    return [y, *(d - np.exp(y) * d.sum(-1, keepdims=True) for d in g)]


def loss(row: Row, s: Array, y: Array) -> list[Array]:
    """Each row's log-loss, and the gradient of their mean."""
    log_p, n = references.log_softmax(s), np.arange(len(y))
    if not row.attrs["backward"]:
        return [-log_p[n, y]]
    d = np.exp(log_p)
    d[n, y] -= 1
    return [-log_p[n, y], d / len(y)]


def product(row: Row, a: Array, b: Array) -> list[Array]:
    return [(a.T if row.attrs["trans_a"] else a) @ (b.T if row.attrs["trans_b"] else b)]


REFERENCES: dict[str, Callable[..., list[Array]]] = {
    **dict.fromkeys(UNARY, unary),
    "softmax": softmax,
    "log_softmax": log_softmax,
    "loss": loss,
    "matmul": product,
    "affine": lambda row, x, w, b: [x @ w + b],
    "reduce": lambda row, x: [getattr(np, row.attrs["op"])(x, axis=row.attrs["axis"])],
    "gather": lambda row, table, index: [table[index]],
    "scatter_add": lambda row, g, index: [scattered_numpy(g, index, row.attrs["rows"])],
    "transpose": lambda row, x: [x.T],
    "concat": lambda row, a, b: [np.concatenate([a, b], axis=1)],
    "slice": lambda row, x: [x[:, x.shape[1] // 4 : x.shape[1] // 4 * 3]],
}


class OpProblem:
    """Inputs of one op."""

    def __init__(self, row: Row) -> None:
        self.row, random, a = row, generator(row), row.attrs
        if row.op in ("matmul", "affine"):
            i, k, j = a["shape"]
            self.inputs = [
                normal(random, *((k, i) if a.get("trans_a") else (i, k))),
                normal(random, *((j, k) if a.get("trans_b") else (k, j))),
            ] + [normal(random, j)] * (row.op == "affine")
        elif row.op in ("gather", "scatter_add"):
            index = random.integers(0, a["rows"], a["n"])
            self.inputs = [normal(random, a["rows"] if row.op == "gather" else a["n"], a["width"]), index]
        elif row.op == "loss":
            self.inputs = [normal(random, *a["shape"]), random.integers(0, a["shape"][1], a["shape"][0])]
        else:
            count = 2 if a.get("backward") or row.op == "concat" else 1
            self.inputs = [normal(random, *a["shape"]) for _ in range(count)]
            if row.op == "log":
                self.inputs[0] = np.abs(self.inputs[0]) + np.float32(0.1)

    @cached_property
    def want(self) -> list[Array]:
        """The answer in float64."""
        wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in self.inputs]
        return REFERENCES[self.row.op](self.row, *wide)

    def error(self, got: Sequence[Array]) -> float:
        """The largest difference over the largest value, of the worst result."""
        if [np.shape(g) for g in got] != [np.shape(w) for w in self.want]:
            return float("inf")
        return max(difference(g, w) for g, w in zip(got, self.want, strict=True))


# Training.


def first_parameters(sizes: Sequence[int], random: np.random.Generator) -> list[Array]:
    """Weights (in, out) and biases in turns."""
    made = []
    for i, j in pairwise(sizes):
        made += [normal(random, i, j) / np.float32(i**0.5), np.zeros(j, np.float32)]
    return made


def exponentials(x: Array) -> Array:
    """The exponential of 2x2 matrices given as rows of four, by its series after halving four times."""
    a = x.reshape(-1, 2, 2).astype(np.float64) / 16
    total, term = np.broadcast_to(np.eye(2), a.shape).copy(), np.eye(2)
    for n in range(1, 15):
        term = term @ a / n
        total += term
    for _ in range(4):
        total = total @ total
    return total.reshape(x.shape).astype(np.float32)


class Network:
    """A perceptron, its first parameters, and all its minibatches in one array, one after the other."""

    def __init__(self, row: Row, data: Path | None = None) -> None:
        self.row, random, a = row, generator(row), row.attrs
        self.sizes, self.batch, self.rate = a["sizes"], a["batch"], a["rate"]
        self.activation, self.loss, self.optimiser = a["activation"], a["loss"], a["optimiser"]
        self.first = first_parameters(self.sizes, random)
        if row.op == "fashion":
            self.accuracy, self.epochs = a["accuracy"], a["epochs"]
            (self.x, self.y), self.test = fashion(data)
            self.count = len(self.x) // self.batch
        else:
            self.count = a["pool"]
            examples = self.count * self.batch
            self.x = normal(random, examples, self.sizes[0])
            self.y = random.integers(0, self.sizes[-1], examples)
            if self.loss == "squares":
                self.x = random.standard_normal(self.x.shape, np.float32)
                self.y = exponentials(self.x)

    def minibatch(self, i: int) -> tuple[Array, Array]:
        """Rows of the i-th minibatch, going round."""
        at = i % self.count * self.batch
        return self.x[at : at + self.batch], self.y[at : at + self.batch]

    def order(self, epoch: int) -> Array:
        """A permutation of the examples that fill whole minibatches."""
        return np.random.default_rng(epoch).permutation(len(self.x))[: self.count * self.batch]

    @cached_property
    def want(self) -> list[Array]:
        """The parameters after the first steps, in float64."""
        from suite.peer_numpy import NumpyTrainer

        return NumpyTrainer(self, np.float64).check()

    def error(self, got: Sequence[Array]) -> float:
        """How far parameters are from the right ones, over how far they have moved; of the worst array, in norms."""
        if [np.shape(g) for g in got] != [np.shape(w) for w in self.want]:
            return float("inf")
        apart = [np.linalg.norm(np.asarray(g, np.float64) - w) for g, w in zip(got, self.want, strict=True)]
        moved = [np.linalg.norm(w - f) or 1.0 for w, f in zip(self.want, self.first, strict=True)]
        return float(max(a / m for a, m in zip(apart, moved, strict=True)))

    def accuracy_of(self, parameters: Sequence[Array]) -> float:
        """The share of the test set that these parameters label rightly."""
        h, y = self.test
        for at in range(0, len(parameters), 2):
            h = h @ parameters[at] + parameters[at + 1]
            if at + 2 < len(parameters):
                h = np.maximum(h, 0)
        return float((h.argmax(1) == y).mean())


def fashion(data: Path | None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Training and test set of Fashion-MNIST, from the folder that was named."""
    from edfcore import Error
    from edfcore.demo import data as datasets

    if data is None:
        raise Unsupported("no folder with Fashion-MNIST was named by --data or EDFCORE_DATA")
    inner = data / "fashion-mnist"
    try:
        found = datasets.load("fashion-mnist", inner if inner.is_dir() else data, lambda *a: None)
    except (Error, OSError) as error:
        raise Unsupported(f"Fashion-MNIST: {str(error).replace(os.fspath(data), 'DIR')}") from None
    return (found.train.X, found.train.Y), (found.test.X, found.test.Y)


Problem = OpProblem | Network


def make(row: Row, data: Path | None = None) -> Problem:
    """The problem of a row."""
    return Network(row, data) if row.op in ("mlp", "fashion") else OpProblem(row)
