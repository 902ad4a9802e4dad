"""The table of what is timed on the CPU, in order of importance: one Row for each line of the results."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log, prod
from typing import Any

from peers_steps import flops as step_flops

POOL = 64  # minibatches that a training row goes round, and steps of one call of scan or replay
CACHE, MEMORY = 1 << 16, 1 << 24  # elements within and beyond the caches
RATE, ADAM_RATE = 0.01, 0.001
EPOCHS = 8  # until NumPy in float64 first labels 88 % of the test set of Fashion-MNIST
ACTIVATIONS = ("relu", "tanh", "sigmoid", "exp", "log", "gelu")


@dataclass(frozen=True)
class Row:
    """One thing to time. `op` is what peers know it by, `flops` and `bytes` are what it cannot do without."""

    suite: str
    op: str
    name: str
    shape: str
    attrs: dict[str, Any]
    flops: float = 0.0
    bytes: float = 0.0
    tolerance: float = 2e-5
    rounds: int = 40
    least: int = 5  # rounds, also where time is short
    size: float = 0.0  # what a plot has as its x

    @property
    def title(self) -> str:
        """Name and shape, which no other row has."""
        return f"{self.name} {self.shape}"


def times(shape: tuple[int, ...]) -> str:
    """A shape as text."""
    return "x".join(map(str, shape))


# Training.


def network(
    sizes: tuple[int, ...],
    batch: int,
    *,
    activation: str = "relu",
    loss: str = "log",
    optimiser: str = "sgd",
    pool: int = POOL,
) -> Row:
    """One step of a multilayer perceptron: forward, backward, update, with the minibatch assigned."""
    attrs = {
        "sizes": sizes, "batch": batch, "activation": activation, "loss": loss, "optimiser": optimiser,
        "rate": ADAM_RATE if optimiser == "adam" else RATE, "pool": pool,
    }  # fmt: skip
    parameters = sum((i + 1) * j for i, j in pairwise(sizes))
    kept = 3 if optimiser == "adam" else 1
    return Row(
        "train", "mlp", f"{'-'.join(map(str, sizes))} {activation} {loss}-loss {optimiser}", f"batch {batch}", attrs,
        flops=step_flops(sizes, batch), bytes=4 * (2 * kept * parameters + batch * sizes[0]), tolerance=1e-3,
        size=batch,
    )  # fmt: skip


def train() -> Iterator[Row]:
    """Whole steps; then a training to an accuracy."""
    yield network((4, 64, 2), 1)
    for batch in (1, 32, 128):
        yield network((784, 128, 10), batch)
    yield network((784, 512, 10), 128)
    yield network((784, 1024, 10), 512)
    # SimpleChains' published case learns the exponential of 2x2 matrices from 10,000 of them in one batch.
    yield network((4, 32, 16, 4), 10_000, activation="tanh", loss="squares", optimiser="adam", pool=1)
    sizes, batch = (784, 256, 10), 64
    attrs = {"sizes": sizes, "batch": batch, "activation": "relu", "loss": "log", "optimiser": "sgd", "rate": 0.1,
             "accuracy": 0.88, "epochs": EPOCHS}  # fmt: skip
    yield Row("train", "fashion", "Fashion-MNIST to 88 % of the test set, 784-256-10", f"batch {batch}", attrs,
              tolerance=1e-3, rounds=3, least=1, size=batch)  # fmt: skip


# Ops.


def matmul(shape: tuple[int, int, int], layout: str) -> Row:
    """A product of float32 matrices; a letter t says that the factor is stored transposed."""
    i, k, j = shape
    attrs = {"trans_a": layout[0] == "t", "trans_b": layout[1] == "t", "shape": shape}
    return Row("ops", "matmul", f"matmul {layout}", times(shape), attrs, flops=2 * prod(shape),
               bytes=4 * (i * k + k * j + i * j), size=prod(shape) ** (1 / 3))  # fmt: skip


def affine(shape: tuple[int, int, int]) -> Row:
    """A product with a bias."""
    i, k, j = shape
    return Row("ops", "affine", "matmul with bias", times(shape), {"shape": shape}, flops=2 * prod(shape),
               bytes=4 * (i * k + k * j + i * j + j), size=prod(shape) ** (1 / 3))  # fmt: skip


def elementwise(op: str, n: int, backward: bool) -> Row:
    """An activation, or the activation and then its gradient."""
    name = f"{op} forward and backward" if backward else op
    return Row("ops", op, name, str(n), {"shape": (n,), "backward": backward},
               bytes=4 * n * (4 if backward else 2), size=n)  # fmt: skip


def rowwise(op: str, width: int, backward: bool) -> Row:
    """Softmax and its kin over rows of this width, about a million elements in all."""
    n = max(1, (1 << 20) // width)
    name = f"{op} forward and backward" if backward else op
    moved = {"softmax": 2, "log_softmax": 2, "loss": 1}[op] + (2 if op != "loss" else 1) * backward
    return Row("ops", op, name, times((n, width)), {"shape": (n, width), "backward": backward},
               bytes=4 * n * width * moved, size=width)  # fmt: skip


def reduction(op: str, axis: int | None, shape: tuple[int, int], name: str | None = None) -> Row:
    """Sums and maxima."""
    left = 1 if axis is None else shape[1 - axis]
    return Row("ops", "reduce", name or f"{op} axis {axis}", times(shape), {"shape": shape, "op": op, "axis": axis},
               bytes=4 * (prod(shape) + left), size=prod(shape))  # fmt: skip


def movements() -> Iterator[Row]:
    """Ops that only move values."""
    table, width, n = 20_000, 128, 16_384
    shape = times((table, width)) + f" by {n}"
    attrs = {"rows": table, "width": width, "n": n}
    yield Row("ops", "gather", "gather rows", shape, attrs, bytes=4 * (2 * n * width + n), size=n)
    yield Row("ops", "scatter_add", "scatter-add rows", shape, attrs,
              bytes=4 * ((n + table) * width + n), size=n)  # fmt: skip
    side = 2048
    square = {"shape": (side, side)}
    yield Row("ops", "transpose", "transpose", times((side, side)), square, bytes=8 * side * side, size=side)
    yield Row("ops", "concat", "concat along the last axis", f"2 of {times((side, side // 2))}",
              {"shape": (side, side // 2)}, bytes=8 * side * side, size=side)  # fmt: skip
    yield Row("ops", "slice", "slice of the last axis, the middle half", times((side, side)), square,
              bytes=4 * side * side, size=side)  # fmt: skip


def random_shapes(count: int) -> Iterator[tuple[int, int, int]]:
    """Shapes from 1 to 3000 a side, uniform in the logarithm; the same ones for every run."""
    drawn = random.Random(0)
    for _ in range(count):
        i, k, j = (round(exp(drawn.uniform(0, log(3000)))) for _ in range(3))
        yield i, k, j


def ops(shapes: int = 4) -> Iterator[Row]:
    """Single ops; `shapes` is the number of random products."""
    sizes = [(512, 784, 1024), (2048,) * 3, (128, 784, 128), (32, 784, 128)]
    for shape in sizes:
        yield matmul(shape, "nn")
    for n in (CACHE, MEMORY):
        for op in ACTIVATIONS:
            yield elementwise(op, n, False)
    for op in ("loss", "softmax", "log_softmax"):
        for width in (10, 100, 1000, 10_000):
            for backward in (False, True):
                yield rowwise(op, width, backward)
    for shape in sizes:
        for layout in ("nt", "tn", "tt"):
            yield matmul(shape, layout)
        yield affine(shape)
    for n in (CACHE, MEMORY):
        for op in ACTIVATIONS:
            yield elementwise(op, n, True)
    for op in ("sum", "mean", "max"):
        for axis in (None, 0, 1):
            yield reduction(op, axis, (2048, 2048))
    for shape2 in ((128, 128), (512, 1024)):
        yield reduction("sum", 0, shape2, "bias gradient")
    yield from movements()
    for shape in random_shapes(shapes):
        yield matmul(shape, "nn")
