"""Programs to be planned and replayed: what test_plan.py and test_replay.py share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import edfcore as edf

Graph = tuple[edf.Input, edf.Input, Any]


def step_and_look(loss: Any) -> Any:
    """A step and the value of its loss: what is wrong with the data is raised here."""
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()
    return loss.value


def mlp(widths: list[int], activation: Any = edf.Relu, output: Any = None) -> Graph:
    edf.seed(3)
    x, y = edf.Input(), edf.Input()
    h: Any = x
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        h = edf.Affine(edf.AffineParams(n, m), h)
        if i < len(widths) - 2:
            h = activation(h)
    if output is not None:
        h = output(h)
    return x, y, edf.LogLoss(edf.Softmax(h), y)


def chain() -> Graph:
    """Elementwise ops by the dozen, broadcasting, a value used three times, a parameter used twice, and a number."""
    edf.seed(4)
    x, y = edf.Input(), edf.Input()
    scale, shift = edf.Parameter(np.linspace(0.5, 1.5, 37)), edf.Parameter(np.linspace(-1, 1, 37))
    a = edf.Tanh(edf.Add(edf.Mul(x, scale), shift))
    b = edf.Add(edf.Sigmoid(edf.Mul(a, a)), edf.Div(edf.Square(a), edf.Add(edf.Exp(edf.Neg(a)), 1.0)))
    c = edf.Sub(edf.Softplus(edf.Mul(b, scale)), a)
    return x, y, edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(37, 5), c)), y)


def pieces() -> Graph:
    """What was cut, joined and stacked, products of batches, and a loss whose soft labels are computed, too."""
    edf.seed(5)
    x, y = edf.Input(), edf.Input()
    a = edf.Affine(edf.AffineParams(37, 12), x)
    b = edf.Concat(edf.Slice(a, 1, 3), edf.Tanh(edf.Slice(a, 1, 0, -3, 3)), axis=1)
    c = edf.Stack(b, a, axis=1)
    products = edf.Reshape(edf.Matmul(c, c, trans_b=True), (-1, 4))
    h = edf.Concat(products, edf.Var(c, axis=2), edf.Min(c, axis=-1), axis=1)
    p = edf.Softmax(edf.Affine(edf.AffineParams(8, 5), h))
    q = edf.Softmax(edf.Affine(edf.AffineParams(8, 5), h))
    return x, y, edf.Add(edf.LogLossSoft(p, q), edf.LogLoss(p, y))


def recurrent() -> Graph:
    """The same matrices in several steps, whose gradients add up, and which the way back takes transposed."""
    edf.seed(6)
    x, y = edf.Input(), edf.Input()
    into, around = edf.AffineParams(37, 9), edf.Parameter(np.linspace(-0.4, 0.4, 81).reshape(9, 9))
    h: Any = edf.Tanh(edf.Affine(into, x))
    for _ in range(4):
        h = edf.Tanh(edf.Add(edf.Affine(into, x), edf.Matmul(h, around)))
    return x, y, edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(9, 5), h)), y)


def mean_loss() -> Graph:
    x, y, loss = mlp([37, 11, 5])
    return x, y, edf.Mean(loss)


def beside() -> Graph:
    """Nodes that no loss needs, and a parameter that no gradient reaches."""
    x, y, loss = mlp([37, 11, 5], edf.Tanh)
    edf.Square(edf.Parameter(np.ones(3)))
    edf.Exp(loss)
    return x, y, loss


GRAPHS: dict[str, Callable[[], Graph]] = {
    "mlp": lambda: mlp([37, 19, 5]),
    "slides": lambda: mlp([37, 19, 5], output=edf.Sigmoid),
    "deep": lambda: mlp([37, *[8] * 12, 5], edf.Tanh),
    "chain": chain,
    "pieces": pieces,
    "recurrent": recurrent,
    "mean": mean_loss,
    "beside": beside,
}


def examples(n: int, width: int = 37, classes: int = 5) -> tuple[Any, Any]:
    random = np.random.default_rng(5)
    return random.normal(size=(n, width)), random.integers(0, classes, n)
