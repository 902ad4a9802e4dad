"""How a case is run in each mode and its results compared: for the tests of ops and their child processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

import edfcore as edf
from case import Case
from cases import CASES
from edfcore import _core, _edf, ops
from references import Array

STEP = 1e-5  # of central differences in float64


def assert_passes(file: str, environment: dict[str, str]) -> None:
    """Run the tests of a file again, but for those by instruction set, in a process of this environment."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        file,
        "-k",
        "not instruction_set",
    ]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stdout


@dataclass
class Result:
    value: Array
    grads: list[Array | None]  # by input; None for integers

    def bits(self) -> list[tuple[Any, ...]]:
        """Everything about it, for comparison bit for bit."""
        return [
            (a.dtype, a.shape, a.tobytes()) for a in (self.value, *(g for g in self.grads if g is not None))
        ]


class Host:
    """An object outside the engine whose value is an op's input: the engine borrows its memory."""

    def __init__(self, value: Array) -> None:
        self.value = value
        self.grad: Array | None = None

    def addgrad(self, delta: Array) -> None:
        self.grad = delta.copy() if self.grad is None else self.grad + delta


def unaligned(array: Array) -> Array:
    """Return the same values one element past an aligned address, between two that nobody may use."""
    fence = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    room = np.full(array.size + 2, fence, array.dtype)
    room[1:-1] = array.reshape(-1)
    return np.asarray(room[1:-1].reshape(array.shape))


def is_floating(array: Array) -> bool:
    return bool(array.dtype.kind == "f")


def weights(case: Case, dtype: Any) -> Array:
    """Random v of <v, J u>, in the shape of the result."""
    shape = case.expected(case.arrays(np.float64)).shape
    v = np.random.default_rng(7).normal(size=shape)
    return np.asarray(v, case.result or dtype)


def seed_like(case: Case, v: Array) -> Array:
    """Return the gradient that Backward gives a loss of this shape."""
    return np.full_like(v, 1 / max(1, v.shape[0]) if v.ndim else 1)


def eager(case: Case, arrays: list[Array], v: Array | None = None) -> Result:
    """Run on tensors; with v, also backward from the result times v."""
    inputs = [edf.Tensor(a, requires_grad=is_floating(a) and v is not None) for a in arrays]
    value = case.build(*inputs)
    if v is not None:
        ops.mul(value, v).backward(seed_like(case, v))
    grads = [t.grad.numpy().copy() if t.grad is not None else None for t in inputs]
    return Result(value.numpy().copy(), grads)


def recorded(case: Case, arrays: list[Array], v: Array | None = None, hosts: bool = False) -> Result:
    """Run as an EDF graph, on parameters and inputs of the engine or on objects outside it."""
    edf.clear_compgraph()
    edf.DT = next((a.dtype.type for a in arrays if is_floating(a)), np.float32)
    if hosts:
        nodes: list[Any] = [Host(unaligned(a)) for a in arrays]
        with patch.object(
            _core, "apply", _edf._record
        ):  # with no node of ours among the inputs, ops run at once
            value = case.build(*nodes)
    else:
        nodes = [edf.Parameter(a) if is_floating(a) else edf.Input(a) for a in arrays]
        value = case.build(*nodes)
    loss = ops.mul(value, edf.Tensor(v)) if v is not None else value
    edf.Forward()
    if v is not None:
        edf.Backward(loss)
    grads = [
        np.array(n.grad) if v is not None and is_floating(a) else None
        for n, a in zip(nodes, arrays, strict=True)
    ]
    return Result(np.array(value.value), grads)


def assert_close(got: Array, want: Array, tolerance: float, what: str = "") -> None:
    """`tolerance` in epsilons of got's dtype, absolute up to 1 and relative beyond; integers exactly."""
    assert got.shape == want.shape, f"{what} has shape {got.shape}, not {want.shape}"
    if not is_floating(got):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    with np.errstate(over="ignore"):
        rounded = want.astype(got.dtype)
    bound = tolerance * float(np.finfo(got.dtype).eps)
    np.testing.assert_allclose(got, rounded, rtol=bound, atol=bound, err_msg=what)


def check_value(case: Case, got: Array, arrays: list[Array], dtype: Any) -> None:
    want = case.expected(arrays)
    assert got.dtype == (want.dtype if not is_floating(want) else np.dtype(case.result or dtype))
    assert_close(got, want, case.tolerance, case.name)


def directions(arrays: list[Array]) -> list[Array | None]:
    """Random u of <v, J u>, by input."""
    rng = np.random.default_rng(8)
    return [np.asarray(rng.normal(size=a.shape)) if is_floating(a) else None for a in arrays]


def moved(arrays: list[Array], along: list[Array | None], step: float) -> list[Array]:
    return [a if u is None else np.asarray(a + step * u) for a, u in zip(arrays, along, strict=True)]


def projection(pairs: Iterable[tuple[Array | None, Array | None]]) -> tuple[float, float]:
    """Sum of products, and of their magnitudes."""
    terms = [np.asarray(a * b) for a, b in pairs if a is not None and b is not None]
    return float(sum(t.sum() for t in terms)), float(sum(np.abs(t).sum() for t in terms))


def check_gradient(case: Case) -> None:
    """<v, J^T u> by backpropagation in float64 against the central difference of NumPy's own result."""
    arrays = case.arrays(np.float64)
    v, along = weights(case, np.float64), directions(arrays)
    result = eager(case, arrays, v)
    for grad, a in zip(result.grads, arrays, strict=True):
        assert (grad is not None) == is_floating(a), "a floating input got no gradient"
        assert grad is None or (grad.shape == a.shape and grad.dtype == a.dtype)
    scaled = v * seed_like(case, v)
    ends = [case.expected(moved(arrays, along, s)) for s in (STEP, -STEP)]
    numeric = float((scaled * (ends[0] - ends[1])).sum()) / (2 * STEP)
    got, magnitude = projection(zip(result.grads, along, strict=True))
    noise = float(np.abs(scaled * ends[0]).sum()) * 1e-15 / STEP
    tolerance = 1e-5 if case.result == "float32" else 1e-7
    assert abs(got - numeric) <= tolerance * (magnitude + 1e-3) + noise, (
        f"{case.name}: {got} against {numeric}"
    )


def check_all(cases: list[Case]) -> dict[str, Any]:
    """Check values and gradients of cases: for processes with another instruction set."""
    failures = []
    for case in cases:
        try:
            for dtype in (np.float32, np.float64):
                arrays = case.arrays(dtype)
                check_value(case, eager(case, arrays).value, arrays, dtype)
            if case.grad:
                check_gradient(case)
        except AssertionError as error:
            failures.append(f"{case.name}: {error}")
    return {"isa": _core.isa(), "cases": len(cases), "failures": failures}


if __name__ == "__main__":
    try:  # an emulator would take minutes for the large cases
        print(json.dumps(check_all([case for case in CASES if "small" not in sys.argv or not case.large])))
    except edf.DeviceError as error:
        sys.exit(f"{error}")
