"""Run one small EDF program on the engine and on the NumPy EDF, and compare all that can be looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import edfcore as edf
import numpy_edf

# build(edf, random) makes a graph and returns its loss and feed(n), which assigns n examples to the inputs.
Build = Callable[[Any, np.random.Generator], tuple[Any, Callable[[int], None]]]


def history(module: Any, build: Build, sizes: Sequence[int]) -> list[Any]:
    """Train in float64 with minibatches of these sizes; return every value and gradient at every step."""
    before, module.DT = module.DT, np.float64
    try:
        module.clear_compgraph()
        module.learning_rate = 0.1
        loss, feed = build(module, np.random.default_rng(1))
        found = []
        for n in sizes:
            feed(n)
            module.Forward()
            module.Backward(loss)
            for node in [*module.CompNodes, *module.Parameters]:
                found += [np.array(node.value), np.array(node.grad)]
            module.SGD()
        return [*found, *(np.array(p.value) for p in module.Parameters)]
    finally:
        module.DT = before
        module.clear_compgraph()


def assert_agree(build: Build, sizes: Sequence[int] = (4, 1, 6), atol: float = 1e-12) -> None:
    """Assert that the engine does what the NumPy EDF does."""
    ours, theirs = history(edf, build, sizes), history(numpy_edf, build, sizes)
    assert len(ours) == len(theirs)
    for mine, golden in zip(ours, theirs, strict=True):
        assert mine.shape == golden.shape
        assert mine.dtype == golden.dtype
        np.testing.assert_allclose(mine, golden, rtol=0, atol=atol)


def package(module: Any, random: np.random.Generator, n_in: int, n_out: int, names: str = "wb") -> Any:
    """A parameter package drawn from `random`, its members under these two names."""
    Phi = module.ParameterPackage()
    setattr(Phi, names[0], module.Parameter(random.normal(size=(n_in, n_out))))
    setattr(Phi, names[1], module.Parameter(random.normal(size=n_out)))
    return Phi


def classifier(
    module: Any, s: Any, random: np.random.Generator, x: Any, shape: tuple[int, ...], C: int
) -> Any:
    """Put Softmax and LogLoss on the scores `s` of C labels; return loss and feed, as a Build does."""
    y = module.Input()
    loss = module.LogLoss(module.Softmax(s), y)

    def feed(n: int) -> None:
        x.value = random.normal(size=(n, *shape))
        y.value = random.integers(0, C, n)

    return loss, feed
