"""What all frameworks compute: the same networks, layers and products, in NumPy, and what float64 makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from kernels import Array, difference, integers, log_softmax_numpy, normal
from peers_sizes import RATE, Sizes

SAMPLED = 16


def flops(sizes: Sequence[int], batch: int) -> int:
    """Of the products of a step: one forward and two backward, less the gradient of the images."""
    products = [i * j for i, j in pairwise(sizes)]
    return 2 * batch * (3 * sum(products) - products[0])


def first_parameters(sizes: Sequence[int]) -> list[Array]:
    """Weights and biases, in turns."""
    found: list[Array] = []
    for i, j in pairwise(sizes):
        found += [normal(i, j) / np.float32(np.sqrt(i)), np.zeros(j, np.float32)]
    return found


def exact_loss(parameters: Sequence[Array], x: Array, y: Array) -> float:
    """The mean log-loss after one update, in float64."""
    ps, x = [p.astype(np.float64) for p in parameters], x.astype(np.float64)
    n = np.arange(len(y))

    def forward() -> tuple[list[Array], Array]:
        inputs, at = [x], x
        for layer in range(0, len(ps), 2):
            at = at @ ps[layer] + ps[layer + 1]
            if layer + 2 < len(ps):
                at = np.maximum(at, 0)
                inputs.append(at)
        return inputs, log_softmax_numpy(at)

    inputs, log_p = forward()
    d = np.exp(log_p)
    d[n, y] -= 1
    d /= len(y)
    for layer in range(len(ps) - 2, -1, -2):
        before = inputs[layer // 2]
        below = (d @ ps[layer].T) * (before > 0)
        ps[layer] = ps[layer] - RATE * (before.T @ d)
        ps[layer + 1] = ps[layer + 1] - RATE * d.sum(0)
        d = below
    return float(-forward()[1][n, y].mean())


class Problem:
    """A network, its first parameters, and minibatches. The first two are the same."""

    def __init__(self, sizes: Sequence[int], batch: int, count: int) -> None:
        self.sizes, self.batch, self.first = tuple(sizes), batch, first_parameters(sizes)
        self.x = normal(count, batch, sizes[0])
        self.y = integers(sizes[-1], count, batch)
        if count > 1:
            self.x[1], self.y[1] = self.x[0], self.y[0]

    def errors(self, got: float) -> dict[str, float]:
        """Compare the loss of the second step with float64."""
        want = exact_loss(self.first, self.x[0], self.y[0])
        return {"error": abs(got - want) / abs(want)}


def product_operands(sizes: Sizes, layout: str) -> tuple[Array, Array]:
    """A and B, as they lie in memory."""
    i, k, j = sizes
    return normal(*((k, i) if layout[0] == "t" else (i, k))), normal(
        *((j, k) if layout[1] == "t" else (k, j))
    )


def product_errors(a: Array, b: Array, layout: str, c: Array) -> dict[str, float]:
    """Compare a sample of the rows of a product."""
    a, b = (a.T if layout[0] == "t" else a), (b.T if layout[1] == "t" else b)
    some = np.linspace(0, len(a) - 1, min(len(a), SAMPLED), dtype=np.int64)
    return {"error": difference(c[some], a[some].astype(np.float64) @ b.astype(np.float64))}


def layer_operands(sizes: Sizes) -> list[Array]:
    """The input, the weights and the bias of a layer, and the gradient that comes in."""
    batch, i, j = sizes
    x, w, b = normal(batch, i), normal(i, j) / np.float32(np.sqrt(i)), normal(j)
    return [x, w, b, np.full((batch, j), 1 / batch, np.float32)]


def layer_errors(got: Sequence[Array], operands: Sequence[Array]) -> dict[str, float]:
    """Compare activations behind a relu, and the gradients of input, weights and bias."""
    x, w, b, g = (a.astype(np.float64) for a in operands)
    z = x @ w + b
    d = np.where(z > 0, g, 0)
    want = np.maximum(z, 0), d @ w.T, x.T @ d, d.sum(0)
    return {"error": max(difference(a, b) for a, b in zip(got, want, strict=True))}
