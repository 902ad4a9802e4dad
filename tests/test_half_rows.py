"""softmax, the log loss and their gradients on half types: rows of every shape, rounded once; nothing is converted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core, ops
from halves import EPSILON, HALVES, nearest, shown
from references import Array, at_label, log_softmax, softmax

# Of the CUDA kernels, the first and the last width of each shape; odd ones, and ones that packs of 8 fit; rows that
# registers cannot hold, and rows that the shared memory of the simulated device cannot hold.
WIDTHS = [
    1,
    7,
    8,
    15,
    16,
    17,
    24,
    32,
    33,
    64,
    65,
    72,
    128,
    129,
    136,
    256,
    264,
    511,
    512,
    513,
    520,
    1021,
    1024,
    1032,
]
WIDTHS += [2047, 2048, 2056, 4095, 4096, 4104, 8191, 8192, 8200, 16384, 16392, 16393, 30000, 70000, 70001]
SLACK = 2.0**-19  # what a float32 result may be off, in units of the size of its terms


@dataclass(frozen=True)
class Op:
    """An op; what it makes of which inputs, in float64; and the size of the terms that it adds up."""

    inputs: str  # s: scores, p: probabilities, q: weights, g: like p, r: one for each row, y: labels
    reference: Callable[..., Array]
    size: Callable[..., Array] = lambda *given: np.abs(given[-1])


def column(x: Array) -> Array:
    return x[..., None]


def total(x: Array) -> Array:
    return x.sum(-1, keepdims=True)


def label_is(s: Array, y: Array) -> Array:
    return np.arange(s.shape[-1]) == column(y)


def weighted(q: Array, x: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.where(q == 0, 0, q * x).sum(-1)


OPS = {
    "softmax": Op("s", softmax, lambda s, want: (1 + np.abs(s)) * want),
    "log_softmax": Op("s", log_softmax, lambda s, want: np.abs(s) + np.abs(want)),
    "softmax_grad": Op(
        "gp",
        lambda g, p: p * (g - total(g * p)),
        lambda g, p, want: p * (np.abs(g) + total(np.abs(g * p))),
    ),
    "log_softmax_grad": Op(
        "gl",
        lambda g, y: g - np.exp(y) * total(g),
        lambda g, y, want: np.abs(g) + np.exp(y) * total(np.abs(g)),
    ),
    "log_loss": Op("py", lambda p, y: -np.log(at_label(p, y))),
    "log_loss_scores": Op(
        "sy", lambda s, y: -at_label(log_softmax(s), y), lambda s, y, want: 4 + np.abs(want)
    ),
    "log_loss_scores_grad": Op(
        "rsy",
        lambda r, s, y: column(r) * (softmax(s) - label_is(s, y)),
        lambda r, s, y, want: column(np.abs(r)) * (softmax(s) * 8 + label_is(s, y)),
    ),
    "log_loss_soft": Op("pq", lambda p, q: -weighted(q, np.log(p))),
    "log_loss_soft_grad": Op("rpq", lambda r, p, q: -column(r) * q / p),
    "log_loss_soft_scores": Op(
        "sq", lambda s, q: -weighted(q, log_softmax(s)), lambda s, q, want: 4 + np.abs(want)
    ),
    "log_loss_soft_scores_grad": Op(
        "rsq",
        lambda r, s, q: column(r) * (softmax(s) * total(q) - q),
        lambda r, s, q, want: column(np.abs(r)) * (softmax(s) * total(q) * 8 + q),
    ),
}


def arrays_of(kinds: str, rows: tuple[int, ...], classes: int, dtype: str) -> list[Array]:
    """Numbers of the half type, as float64; a third of the weights is 0."""
    random = np.random.default_rng([classes, len(kinds)])
    shape = (*rows, classes)
    draw: dict[str, Callable[[], Array]] = {
        "s": lambda: 2 * random.normal(size=shape),
        "g": lambda: random.normal(size=shape),
        "r": lambda: random.normal(size=rows),
        "p": lambda: random.uniform(0.1, 1, size=shape) / max(classes, 1),
        "q": lambda: (
            random.uniform(0.1, 1, size=shape) / max(classes, 1) * (random.uniform(size=shape) > 0.3)
        ),
        "l": lambda: log_softmax(random.normal(size=shape)),
        "y": lambda: random.integers(0, classes, size=rows),
    }
    return [draw[kind]() if kind == "y" else nearest(draw[kind](), dtype) for kind in kinds]


def tensor(array: Array, dtype: str) -> Any:
    return edf.Tensor(array, dtype if array.dtype.kind == "f" else None)


def run(name: str, arrays: list[Array], dtype: str) -> Any:
    return _core.apply(_core.find_op(name), tuple(tensor(a, dtype) for a in arrays))


def check_rounded_once(got: Array, want: Array, size: Array, dtype: str) -> None:
    """Some number near what is wanted, rounded once."""
    assert got.shape == want.shape
    slack = SLACK * (size + np.abs(want))
    assert (nearest(want - slack, dtype) <= got).all()
    assert (got <= nearest(want + slack, dtype)).all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", OPS)
def test_rows_of_any_width_are_rounded_once(name: str, dtype: str, device: str) -> None:
    op = OPS[name]
    for classes in WIDTHS:
        arrays = arrays_of(op.inputs, (1 if classes > 600 else 3,), classes, dtype)
        want = op.reference(*arrays)
        check_rounded_once(shown(run(name, arrays, dtype)), want, op.size(*arrays, want), dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", OPS)
def test_rows_of_several_axes_and_none_at_all(name: str, dtype: str, device: str) -> None:
    op = OPS[name]
    for rows, classes in [((2, 3), 10), ((), 9), ((260,), 5), ((0,), 5), ((2, 0), 70000)]:
        arrays = arrays_of(op.inputs, rows, classes, dtype)
        want = (
            op.reference(*arrays)
            if 0 not in rows
            else np.empty(arrays[0].shape if "y" not in op.inputs else rows)
        )
        got = shown(run(name, arrays, dtype))
        if 0 in rows:
            assert got.size == 0
        else:
            check_rounded_once(got, want, op.size(*arrays, want), dtype)
    if "y" not in op.inputs:
        made = shown(run(name, arrays_of(op.inputs, (3,), 0, dtype), dtype))
        assert made.shape == ((3,) if name in ("log_loss_soft", "log_loss_soft_scores") else (3, 0))
        assert not made.any()


ROWS = {
    "nan": [0.0, np.nan],
    "inf": [0.0, np.inf],
    "infs": [np.inf, np.inf],
    "-inf": [0.0, -np.inf],
    "-infs": [-np.inf, -np.inf],
    "large": [300, -300],
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", OPS)
def test_what_is_not_finite_is_what_it_is_in_float32(name: str, dtype: str, device: str) -> None:
    for classes in (2, 40, 1000, 20000):
        arrays = arrays_of(OPS[name].inputs, (len(ROWS),), classes, dtype)
        at = next(i for i, kind in enumerate(OPS[name].inputs) if kind in "spgl")
        arrays[at][:, -2:] = list(ROWS.values())
        arrays[at] = nearest(arrays[at], dtype)
        if "y" in OPS[name].inputs:
            arrays[-1][:] = classes - 1
        got = shown(run(name, arrays, dtype))
        wide = shown(
            run(name, [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays], "float32")
        )
        want = nearest(wide, dtype)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        finite = np.isfinite(want)
        np.testing.assert_array_equal(got[~finite], want[~finite])
        np.testing.assert_allclose(got[finite], want[finite], rtol=2.1 * EPSILON[dtype], atol=2.0**-24)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("labels", ["uint8", "int32", "int64"])
@pytest.mark.parametrize("name", ["log_loss", "log_loss_scores", "log_loss_scores_grad"])
def test_labels_of_any_dtype_and_bad_ones(name: str, labels: str, dtype: str, device: str) -> None:
    op = OPS[name]
    for classes in (10, 100, 17000):
        arrays = arrays_of(op.inputs, (5,), classes, dtype)
        arrays[-1] = (arrays[-1] % 120).astype(labels)
        want = op.reference(*arrays)
        check_rounded_once(shown(run(name, arrays, dtype)), want, op.size(*arrays, want), dtype)
        bad = {"uint8": 200, "int32": -1, "int64": classes}[labels]
        if 0 <= bad < classes:
            continue
        arrays[-1][3] = bad
        with pytest.raises(
            edf.DataError, match=rf"\[{name}\] input {len(arrays) - 1} holds {bad} at position 3"
        ):
            run(name, arrays, dtype).numpy()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_class_of_weight_0_adds_nothing(dtype: str, device: str) -> None:
    for classes in (3, 30, 17000):
        q, s, p = np.zeros((1, classes)), np.zeros((1, classes)), np.ones((1, classes))
        q[0, -1], s[0, :-1], p[0, :-1] = 1, -np.inf, 0
        assert shown(run("log_loss_soft", [p, q], dtype)).tolist() == [0]
        assert shown(run("log_loss_soft_scores", [s, q], dtype)).tolist() == [0]
        assert not shown(run("log_loss_soft_grad", [np.ones(1), p, q], dtype))[0, :-1].any()


# Plans and second derivatives.

GRAPHS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "labels": lambda s, y, q: edf.LogLoss(edf.Softmax(s), y),
    "soft": lambda s, y, q: edf.LogLossSoft(edf.Softmax(s), q),
    "apart": lambda s, y, q: edf.Square(edf.Add(edf.LogLossScores(s, y), edf.LogLossSoftScores(s, q))),
    "softmax": lambda s, y, q: edf.Mul(edf.Softmax(s), edf.LogSoftmax(s)),
    "probabilities": lambda s, y, q: edf.Add(
        edf.LogLoss(edf.Sigmoid(s), y), edf.LogLossSoft(edf.Sigmoid(s), q)
    ),
}


def graph(name: str, classes: int, dtype: str) -> Any:
    edf.clear_compgraph()
    edf.DT = dtype
    s, q = arrays_of("sq", (3,), classes, dtype)
    y = edf.Input(np.arange(3) * 5 % classes)
    return GRAPHS[name](edf.Parameter(s), y, edf.Input(q))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("classes", [5, 1000, 20000])
@pytest.mark.parametrize("name", GRAPHS)
def test_plans_give_what_single_steps_give(name: str, classes: int, dtype: str, device: str) -> None:
    edf.learning_rate = 0.25
    found = []
    for keep in ("all", "looked"):
        loss = graph(name, classes, dtype)
        edf.keep(keep)
        for _ in range(4):
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
        found.append([shown(loss.value), shown(edf.Parameters[0].value)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def second(name: str, s: Array, dtype: str) -> list[Array]:
    x = edf.Tensor(s, dtype, requires_grad=True)
    if name == "log_loss_scores":
        value = ops.log_loss_scores(x, edf.Tensor(np.arange(len(s))))
    elif name == "log_loss_soft_scores":
        value = ops.log_loss_soft_scores(x, edf.Tensor(np.full(s.shape, 0.25), dtype))
    else:
        value = getattr(ops, name)(x)
    ops.square(ops.mul(value, 0.25)).sum().backward(create_graph=True)
    first, x.grad = x.grad, None
    ops.square(first).sum().backward()
    return [shown(first), shown(x.grad)]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "log_loss_scores", "log_loss_soft_scores"])
def test_second_derivatives(name: str, dtype: str, device: str) -> None:
    s = arrays_of("s", (3,), 20, dtype)[0]
    for got, want in zip(second(name, s, dtype), second(name, s, "float64"), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=32 * EPSILON[dtype] * np.abs(want).max())


# No conversions on a CUDA device.


@pytest.mark.parametrize("name", OPS)
def test_on_cuda_no_copies_are_made_for_an_op(name: str, device: str) -> None:
    if device == "cpu":
        pytest.skip("CPU kernels convert")
    arrays = arrays_of(OPS[name].inputs, (64,), 4000, "bfloat16")
    tensors = tuple(tensor(a, "bfloat16") for a in arrays)
    edf.cuda.synchronize()
    edf.cuda.reset_peak_memory_stats()
    base = edf.cuda.memory_stats()["bytes"]
    made = _core.apply(_core.find_op(name), tensors)
    edf.cuda.synchronize()
    taken = edf.cuda.memory_stats()["peak_bytes"] - base
    assert made.numpy().size * 2 <= taken <= made.numpy().size * 2 + 4096


def test_on_cuda_plans_set_nothing_aside_for_them(device: str) -> None:
    if device == "cpu":
        pytest.skip("CPU kernels convert")
    seen = set()
    for name in GRAPHS:
        for line in str(edf.plan(graph(name, 24, "bfloat16"))).splitlines():
            if found := re.search(r"((?:log_)?softmax|log_loss)(_[a-z]+)*(?= \(|:)", line):
                seen.add(found.group())
                assert "scratch" not in line
    assert seen == {*OPS, "log_loss_scores_both", "log_loss_soft_scores_both"}
