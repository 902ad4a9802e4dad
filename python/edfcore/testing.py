"""Checks for a backward method that somebody wrote: numerical differentiation against backpropagation.

Derivatives are taken along one random direction, by the five-point rule
(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, whose error is of order h^4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import edfcore as edf
from edfcore.errors import Error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


class GradientError(Error, AssertionError):
    """A backward method that disagrees with numerical differentiation."""


@dataclass(frozen=True)
class Check:
    """One comparison: directional derivatives of the loss along a random direction, by two ways."""

    name: str
    shape: tuple[int, ...]
    backpropagation: float
    numerical: float
    tolerance: float

    @property
    def error(self) -> float:
        """Difference relative to the larger of the two, or to 1 where both are small."""
        scale = max(abs(self.backpropagation), abs(self.numerical), 1e-6)
        return abs(self.backpropagation - self.numerical) / scale

    @property
    def ok(self) -> bool:
        """Whether the two agree. NaN never does."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """What `verify` found, one row for each node and parameter; prints as a table."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all rows agree."""
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        rows = [("node", "shape", "backpropagation", "numerical", "rel. error", "")]
        for c in self.checks:
            mark = "ok" if c.ok else "WRONG"
            figures = f"{c.backpropagation:.6g}", f"{c.numerical:.6g}", f"{c.error:.1e}"
            rows.append((c.name, str(c.shape), *figures, mark))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        if not self.ok:
            latest = [c.name for c in self.checks if not c.ok][-1]
            lines.append(
                f"The gradient of {latest} is wrong: look at the backward methods of the nodes that use it."
            )
        return "\n".join(lines)


def verify(loss: Any, *, tolerance: float | None = None, seed: int = 0, file: Any = None) -> Report:
    """Compare backpropagation with numerical differentiation at every node of the current graph.

    Runs Forward and Backward, then changes the value of each node and parameter a little along a random direction, runs
    the nodes after it, and compares the change of the mean loss with what the gradient predicts. A wrong backward
    method makes the gradients of its inputs, and of everything before them, wrong; its own is right. Prints the table
    to `file` (standard output by default), restores all values, and returns the report.

    `loss` has shape (nBatch,) or (). `tolerance` is the relative error allowed: 1e-6 in float64, 1e-2 in float32 by
    default. Raises what Forward and Backward raise. Costs four partial Forwards per node.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    nodes, parameters = list(edf.CompNodes), list(edf.Parameters)
    edf.Forward()
    edf.Backward(loss)
    values = {id(n): np.array(n.value) for n in nodes + parameters}
    grads = {id(n): np.array(n.grad) for n in nodes + parameters}
    last = _index(nodes, loss)

    def run_from(start: int) -> float:
        for node in nodes[start : last + 1]:
            node.forward()
        return float(np.mean(np.asarray(loss.value, dtype=np.float64)))

    checks = []
    try:
        for i, node in [(-1, p) for p in parameters] + list(enumerate(nodes[: last + 1])):
            value, grad = values[id(node)], grads[id(node)]
            if value.dtype.kind != "f":
                continue
            double = value.dtype == np.float64
            direction = random.choice([-1.0, 1.0], size=value.shape)
            if np.all(value > 0):
                direction *= value  # probabilities and the like stay positive
            name = f"{type(node).__name__} {i}" if i >= 0 else f"Parameter {_index(parameters, node)}"
            allowed = tolerance if tolerance is not None else (1e-6 if double else 1e-2)
            predicted = float(np.sum(grad.astype(np.float64) * direction))

            def loss_at(
                t: float, node: Any = node, start: int = i + 1, at: Any = value, v: Any = direction
            ) -> float:
                _set_value(node, (at + t * v).astype(at.dtype))
                return run_from(start)

            checks.append(
                Check(name, value.shape, predicted, _derivative(loss_at, 1e-4 if double else 2e-3), allowed)
            )
            for changed in [node, *nodes[i + 1 : last + 1]]:
                _set_value(changed, values[id(changed)])
    finally:
        for node in nodes + parameters:
            _set_value(node, values[id(node)])
    report = Report(tuple(checks))
    print(report, file=file or sys.stdout)
    return report


def _derivative(f: Callable[[float], float], h: float) -> float:
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def _index(items: list[Any], item: Any) -> int:
    return next(i for i, other in enumerate(items) if other is item)


def _set_value(node: Any, value: NDArray[Any]) -> None:
    node.value = value.copy()


def check_vjp(
    make_node: Callable[..., Any], *arrays: ArrayLike, tolerance: float = 1e-6, seed: int = 0
) -> list[Check]:
    """Check the backward method of a user's own node by one random projection per input.

    `make_node(x1, x2, ...)` is the node's class, or any function that makes one node from input nodes; `arrays` are the
    values of its inputs. Works in float64: sum(u * node.value) for a random u is differentiated numerically along a
    random direction v of each input, and compared with <v, x.grad>. Integer arrays are inputs without a gradient.

    Raises GradientError, which names the input, when one disagrees by more than `tolerance`, ShapeError or whatever the
    node raises when it fails. The current graph is left as it was.
    """
    import numpy as np

    before = edf.CompNodes, edf.Parameters, edf.__dict__.get("DT")
    edf.clear_compgraph()
    edf.DT = np.float64
    try:
        return _check_vjp(make_node, [np.asarray(a) for a in arrays], tolerance, np.random.default_rng(seed))
    finally:
        edf.CompNodes, edf.Parameters = before[:2]
        if before[2] is None:
            del edf.DT
        else:
            edf.DT = before[2]


class _Source(edf.CompNode):
    """An input that collects its gradient."""

    def __init__(self, value: NDArray[Any]) -> None:
        edf.CompNodes.append(self)
        self.value = value

    def forward(self) -> None:
        pass

    def backward(self) -> None:
        pass


def _check_vjp(
    make_node: Callable[..., Any], arrays: list[NDArray[Any]], tolerance: float, random: np.random.Generator
) -> list[Check]:
    import numpy as np

    floating = [a.dtype.kind == "f" for a in arrays]
    sources = [
        _Source(a.astype(np.float64)) if f else edf.Input(a) for a, f in zip(arrays, floating, strict=True)
    ]
    node = make_node(*sources)
    edf.Forward()
    u = random.standard_normal(np.shape(node.value))

    edf.Backward(node)
    for source in (s for s, f in zip(sources, floating, strict=True) if f):
        source.grad = np.zeros_like(source.value)
    node.grad = u
    made = edf.CompNodes[_index(edf.CompNodes, node) :: -1]
    for later in made:
        later.backward()

    checks = []
    for i, source in enumerate(sources):
        if not floating[i]:
            continue
        value, grad = source.value, np.asarray(source.grad)
        if grad.shape != value.shape:
            raise GradientError(
                f"input {i} has shape {value.shape}, but its gradient has shape {grad.shape}."
            )
        v = random.standard_normal(value.shape)

        def output_at(t: float, source: Any = source, at: Any = value, v: Any = v) -> float:
            source.value = at + t * v
            edf.Forward()
            return float(np.sum(u * np.asarray(node.value)))

        numerical = _derivative(output_at, 1e-4)
        source.value = value
        check = Check(f"input {i}", value.shape, float(np.sum(v * grad)), numerical, tolerance)
        checks.append(check)
        if not check.ok:
            raise GradientError(
                f"the gradient of input {i} is wrong: along a random direction backward gives "
                f"{check.backpropagation:.9g}, numerical differentiation {check.numerical:.9g} "
                f"(relative error {check.error:.1e}, allowed {tolerance:.0e})."
            )
    return checks


__all__ = ["Check", "GradientError", "Report", "check_vjp", "verify"]
