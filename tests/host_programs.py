"""Programs with nodes in NumPy, run node by node and by plans: what the tests of such plans share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import edfcore as edf
from edfcore import _core
from plan_programs import examples, mlp


class Wave(edf.CompNode):
    """sin x, and what a test has its methods do besides."""

    def __init__(self, x: Any, forward: Any = None, backward: Any = None) -> None:
        edf.CompNodes.append(self)
        self.x, self.also = x, (forward, backward)

    def forward(self) -> None:
        self.value = np.sin(self.x.value)
        if self.also[0]:
            self.also[0]()

    def backward(self) -> None:
        self.x.addgrad(self.grad * np.cos(self.x.value))
        if self.also[1]:
            self.also[1]()


class Mean:
    """The mean over axis 1, without a base class."""

    grad: Any

    def __init__(self, x: Any) -> None:
        edf.CompNodes.append(self)
        self.x = x

    def forward(self) -> None:
        self.value = self.x.value.mean(axis=1)

    def backward(self) -> None:
        self.x.grad += self.grad[:, np.newaxis] / self.x.value.shape[1]


def segments() -> int:
    return edf.plan_stats()["segments"]


Program = Callable[[Callable[[Any], None]], Any]  # takes `see`, makes a graph, and returns its loss


def train(program: Program, steps: int, after: Any = None, batch: int = 6) -> list[Any]:
    """Train it for some steps; return what was seen, and in the end the parameters."""
    seen: list[Any] = []

    def see(array: Any) -> None:
        seen.append(np.array(array))

    edf.clear_compgraph()
    edf.learning_rate = 0.1
    loss = program(see)
    for i in range(steps):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        see(loss.value)
        if after:
            after(i)
    return [*seen, *(np.array(p.value) for p in edf.Parameters)]


def compare(program: Program, steps: int = 8, after: Any = None) -> int:
    """Assert that plans show what is seen node by node; return how many segments they ran."""
    edf.keep("all")
    want = train(program, steps, after)
    edf.keep("looked")
    _core.empty_cache(edf.get_device())
    before = segments()
    for threads in (1, 3):
        edf.set_num_threads(threads)
        got = train(program, steps, after)
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert np.array_equal(a, b, equal_nan=True)
    return segments() - before


def waves(activation: Any = Wave, widths: tuple[int, ...] = (37, 11, 9, 5)) -> Any:
    x, y, loss = mlp(list(widths), activation)
    x.value, y.value = examples(6)
    return loss
