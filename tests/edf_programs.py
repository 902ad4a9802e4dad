"""EDF programs that run on `edfcore` and on the NumPy reference alike, and the run that compares the two.

A program is a function `build(edf)` that makes a graph with fixed weights; `trajectory(edf, build, ...)`
trains it on fixed random minibatches of varying size and returns everything that two engines must agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numpy_nodes import make_nodes

N_LABELS = 5


@dataclass
class Program:
    """A built graph: its inputs, its probabilities, its loss, and the shape of one example."""

    x: Any
    y: Any
    Q: Any
    loss: Any
    shape: tuple[int, ...]


class Maker:
    """Parameters with fixed values, the same for every module and cast to its `DT`."""

    def __init__(self, edf: Any) -> None:
        self.edf, self.random = edf, np.random.default_rng(7)

    def package(self, w: Any, b: Any) -> Any:
        Phi = self.edf.ParameterPackage()
        Phi.w, Phi.b = self.edf.Parameter(w), self.edf.Parameter(b)
        return Phi

    def affine(self, n_in: int, n_out: int) -> Any:
        width = (3.0 / n_in) ** 0.5
        w = self.random.uniform(-width, width, (n_in, n_out))
        return self.package(w, self.random.uniform(-0.1, 0.1, n_out))

    def norm(self, n: int) -> Any:
        return self.package(self.random.uniform(0.5, 1.5, n), self.random.uniform(-0.1, 0.1, n))


def slides_mlp(edf: Any) -> Program:
    """The slides' network: Relu, then Sigmoid before Softmax; every node is the module's own."""
    make, x, y = Maker(edf), edf.Input(), edf.Input()
    L1 = edf.Relu(edf.Affine(make.affine(12, 9), x))
    Q = edf.Softmax(edf.Sigmoid(edf.Affine(make.affine(9, N_LABELS), L1)))
    return Program(x, y, Q, edf.LogLoss(Q, y), (12,))


def deep_tanh(edf: Any) -> Program:
    """Three layers with a shared weight matrix, Tanh, and parameters handed over as a pair [W, B]."""
    make, x, y = Maker(edf), edf.Input(), edf.Input()
    shared = make.affine(9, 9)
    h = edf.Tanh(edf.Affine(make.affine(12, 9), x))
    h = edf.Tanh(edf.Affine(shared, h))
    h = edf.Tanh(edf.Affine([shared.w, shared.b], h))
    Q = edf.Softmax(edf.Affine(make.affine(9, N_LABELS), h))
    return Program(x, y, Q, edf.LogLoss(Q, y), (12,))


def conv_net(edf: Any) -> Program:
    """Convolution, Relu, Reshape, Linear, Softmax and LogLoss, all of them the user's."""
    make, np_, x, y = Maker(edf), make_nodes(edf), edf.Input(), edf.Input()
    conv = np_.Conv(make.affine(3 * 3 * 2, 4), x, 3)
    flat = np_.Reshape(np_.Relu(conv), (5 * 4 * 4,))
    Q = np_.Softmax(np_.Linear(make.affine(80, N_LABELS), flat))
    return Program(x, y, Q, np_.LogLoss(Q, y), (7, 6, 2))


def _heads(np_: Any, h: Any, length: int, heads: int, width: int) -> Any:
    """(B, T, heads * width) as (B, heads, T, width)."""
    return np_.Transpose(np_.Reshape(h, (length, heads, width)), (0, 2, 1, 3))


def attention(edf: Any) -> Program:
    """One block of self-attention with two heads, residual and LayerNorm, all nodes the user's."""
    make, np_, x, y = Maker(edf), make_nodes(edf), edf.Input(), edf.Input()
    length, heads, width = 6, 2, 4
    d = heads * width
    h = np_.Linear(make.affine(5, d), x)
    query, key, value = (
        _heads(np_, np_.Linear(make.affine(d, d), h), length, heads, width) for _ in range(3)
    )
    scores = np_.Scale(np_.Matmul(query, np_.Transpose(key, (0, 1, 3, 2))), width**-0.5)
    mixed = np_.Transpose(np_.Matmul(np_.Softmax(scores), value), (0, 2, 1, 3))
    out = np_.Linear(make.affine(d, d), np_.Reshape(mixed, (length, d)))
    h = np_.LayerNorm(make.norm(d), np_.Add(h, out))
    Q = np_.Softmax(np_.Linear(make.affine(d, N_LABELS), np_.Mean(h)))
    return Program(x, y, Q, np_.LogLoss(Q, y), (length, 5))


def mixture(edf: Any) -> Program:
    """The module's nodes before, between and after the user's, and a node that is added to itself."""
    make, np_, x, y = Maker(edf), make_nodes(edf), edf.Input(), edf.Input()
    conv = np_.Conv(make.affine(2 * 2 * 1, 3), x, 2)
    L1 = edf.Affine(make.affine(48, 9), np_.Reshape(conv, (48,)))
    h = np_.LayerNorm(make.norm(9), edf.Relu(L1))
    h = edf.Tanh(np_.Add(h, h))
    s = np_.Sigmoid(edf.Affine(make.affine(9, N_LABELS), np_.Add(h, edf.Sigmoid(L1))))
    Q = edf.Softmax(np_.Scale(s, 2.0))
    return Program(x, y, Q, edf.LogLoss(Q, y), (5, 5, 1))


PROGRAMS: dict[str, Callable[[Any], Program]] = {
    f.__name__: f for f in (slides_mlp, deep_tanh, conv_net, attention, mixture)
}


@dataclass
class Trajectory:
    """What happened: the loss of every step, the probabilities of the last, and all parameters in the end."""

    losses: list[Any]
    Q: Any
    parameters: list[Any]

    def difference(self, other: Trajectory) -> float:
        """The largest absolute difference in any loss, probability or parameter."""
        mine = [*self.losses, self.Q, *self.parameters]
        theirs = [*other.losses, other.Q, *other.parameters]
        assert [a.shape for a in mine] == [b.shape for b in theirs]
        return max(float(np.max(np.abs(a.astype(np.float64) - b))) for a, b in zip(mine, theirs, strict=True))


def trajectory(
    edf: Any,
    build: Callable[[Any], Program],
    steps: int,
    sizes: Sequence[int] = (8, 3, 8, 1, 5),
    rate: float = 0.05,
    dtype: Any = np.float64,
) -> Trajectory:
    """Train `build(edf)` for `steps` minibatches with `sizes` in turn; leaves `edf.DT` as it was.

    At the default rate 200 steps enlarge a difference of one rounding to about 1e-12 in the worst of the
    programs; at twice that rate the training itself, not the engine, enlarges it to 1e-10.
    """
    before, edf.DT = edf.DT, dtype
    try:
        edf.clear_compgraph()
        p, data, losses = build(edf), np.random.default_rng(11), []
        for step in range(steps):
            n = sizes[step % len(sizes)]
            p.x.value = data.normal(size=(n, *p.shape)).astype(dtype)
            p.y.value = data.integers(0, N_LABELS, n)
            edf.learning_rate = rate * (1.0 - 0.5 * step / steps)
            edf.Forward()
            edf.Backward(p.loss)
            edf.SGD()
            losses.append(np.array(p.loss.value))
        return Trajectory(losses, np.array(p.Q.value), [np.array(q.value) for q in edf.Parameters])
    finally:
        edf.DT = before
