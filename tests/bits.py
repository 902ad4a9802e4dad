"""What every instruction set must compute alike, bit for bit, as digests: for child processes and emulated machines."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import checks
import edfcore as edf
from cases import CASES
from edfcore import _core, ops
from references import Array

MATMULS = [
    (1, 5000, 3),
    (2, 1025, 300),
    (5, 2053, 37),
    (33, 64, 1),
    (97, 1030, 131),
    (13, 1, 29),
    (150, 40, 200),
]
SHAPES = [(200_003,), (3, 50_021), (50_021, 3), (700, 129), (41, 1000), (17, 5, 1201)]
FOLDS: list[Callable[..., edf.Tensor]] = [ops.sum, ops.mean, ops.var, ops.max, ops.argmax]
BY_ROW: list[Callable[..., edf.Tensor]] = [ops.softmax, ops.log_softmax]


def digest(*arrays: Array) -> str:
    """Of all bits, but those that tell one NaN from another: processors make different ones."""
    made = hashlib.sha256()
    for array in arrays:
        same = (
            np.where(np.isnan(array), np.nan, array).astype(array.dtype) if array.dtype.kind == "f" else array
        )
        made.update(same.tobytes())
    return made.hexdigest()[:16]


def numbers(shape: tuple[int, ...], dtype: Any, seed: int = 1) -> Array:
    """Random ones between -2 and 2, made without a function that a machine might compute in its own way."""
    whole = np.random.default_rng(seed).integers(-(2**40), 2**40, shape)
    return np.asarray(whole / 2.0**39, dtype)


def of_cases(small: bool) -> Iterator[tuple[str, list[Array], list[Array]]]:
    for case in CASES:
        if small and case.large:
            continue
        for dtype in (np.float32, np.float64):
            arrays = case.arrays(dtype)
            v = checks.weights(case, dtype) if case.grad else None
            result = checks.eager(case, arrays, v)
            grads = [g for g in result.grads if g is not None]
            yield (
                f"{case.name} {dtype.__name__}",
                [*arrays, *([] if v is None else [v])],
                [result.value, *grads],
            )


def of_products(dtype: Any) -> Iterator[tuple[str, list[Array], list[Array]]]:
    for m, k, n in MATMULS:
        a, b = numbers((m, k), dtype), numbers((k, n), dtype, 2)
        made = [ops.matmul(a, b), ops.matmul(a.T.copy(), b.T.copy(), trans_a=True, trans_b=True)]
        yield f"matmul {m} {k} {n}", [], [t.numpy() for t in made]
    bits = np.random.default_rng(3).integers(0, 256, 3000 * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    a, b = (
        bits[:1500].reshape(500, 3),
        bits[1500:].reshape(3, 500),
    )  # of any size: sums that are not normal, and infinite
    near = np.stack([a[:, 0], a[:, 1], -a[:, 0]], 1)  # and some that nearly cancel
    with np.errstate(all="ignore"):
        yield "matmul of any bits", [], [ops.matmul(a, b).numpy(), ops.matmul(near, near.T.copy()).numpy()]


def of_folds(dtype: Any) -> Iterator[tuple[str, list[Array], list[Array]]]:
    for shape in SHAPES:
        x = edf.Tensor(numbers(shape, dtype))
        folded = [f(x, axis=axis) for f in FOLDS for axis in range(len(shape))]
        yield f"folds of {shape}", [], [t.numpy() for t in (*folded, *(f(x) for f in BY_ROW))]


def of_functions(dtype: Any) -> Iterator[tuple[str, list[Array], list[Array]]]:
    bits = np.random.default_rng(4).integers(0, 256, 30_000 * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    x = np.concatenate([bits, 4 * numbers((30_000,), dtype)])
    for f in (ops.exp, ops.log, ops.tanh, ops.softplus, ops.sigmoid, ops.silu, ops.gelu, ops.sqrt):
        t = edf.Tensor(x, requires_grad=True)
        y = f(t)
        y.backward(np.ones_like(x))
        assert t.grad is not None
        yield f.__name__, [], [y.numpy(), t.grad.numpy()]


def of_training(dtype: Any) -> Iterator[tuple[str, list[Array], list[Array]]]:
    """A network's parameters and losses after some steps, by plans and by replay, with every update."""
    X, Y = numbers((96, 40), dtype), np.arange(96) * 7 % 10
    for update in (edf.SGD, edf.Momentum, edf.Adam):
        edf.clear_compgraph()
        edf.DT, edf.learning_rate = dtype, 0.05
        sizes = (40, 33, 17, 10)
        x, y = edf.Input(X), edf.Input(Y)
        h: Any = x
        for i, phi in enumerate((edf.Gelu, edf.Tanh, None)):
            layer = edf.ParameterPackage()
            layer.w = edf.Parameter(numbers(sizes[i : i + 2], dtype, 5 + i) / 8)
            layer.b = edf.Parameter(np.zeros(sizes[i + 1], dtype))
            h = phi(edf.Affine(layer, h)) if phi else edf.Affine(layer, h)
        loss = edf.LogLoss(edf.Softmax(h), y)
        losses = []
        for _ in range(12):
            edf.Forward()
            edf.Backward(loss)
            update()
            losses.append(loss.value.copy())
        losses.append(edf.replay(loss, {x: X, y: Y}, order=np.arange(96), batch_size=25, update=update))
        yield f"training with {update.__name__}", [], [*losses, *(np.array(p.value) for p in edf.Parameters)]


def digests(small: bool) -> dict[str, list[str]]:
    """By name: of what went in, where NumPy has made it, and of what came out."""
    if _core.isa() == "base":  # the one that has no fused multiply-add
        edf.reproducible(True)
    try:
        found = {name: [digest(*given), digest(*made)] for name, given, made in of_cases(small)}
        for dtype in (np.float32, np.float64):
            for part in (of_products, of_folds, of_functions, of_training):
                for name, given, made in part(dtype):
                    found[f"{name} {dtype.__name__}"] = [digest(*given), digest(*made)]
    finally:
        edf.reproducible(False)
    return found


def compare(one: dict[str, list[str]], other: dict[str, list[str]]) -> list[str]:
    """Names of what came out otherwise, though the same went in."""
    assert one.keys() == other.keys()
    compared = [name for name in one if one[name][0] == other[name][0]]
    assert len(compared) > 0.9 * len(one), f"{len(compared)} of {len(one)} have the same arguments"
    return [name for name in compared if one[name] != other[name]]


if __name__ == "__main__":
    if sys.argv[1] == "compare":
        differing = compare(*(json.loads(Path(path).read_text()) for path in sys.argv[2:]))
        sys.exit("\n".join(["other bits:", *differing]) if differing else 0)
    print(json.dumps(digests(sys.argv[1] == "small")))
