"""Every op in every case of the list: against NumPy, against numerical differentiation, in every mode."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import checks
import edfcore as edf
from case import Case
from cases import BY_NAME, CASES, UNARY
from checks import (
    STEP,
    Host,
    assert_close,
    check_gradient,
    check_value,
    directions,
    eager,
    is_floating,
    moved,
    projection,
    recorded,
    seed_like,
    unaligned,
    weights,
)
from edfcore import _core, ops
from edfcore._describe import Attrs
from references import Array


def over(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


SMOOTH = [case for case in CASES if case.grad]
LARGE = [case for case in CASES if case.large]
RECORDED = [case for case in CASES if case.recorded]


@pytest.mark.mode("eager")
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@over(CASES)
def test_value(case: Case, dtype: Any, device: str) -> None:
    arrays = case.arrays(dtype)
    check_value(case, eager(case, arrays).value, arrays, dtype)


@over(SMOOTH)
def test_gradient(case: Case, device: str) -> None:
    check_gradient(case)


@over(SMOOTH)
def test_float32_gradient(case: Case, device: str) -> None:
    """The inputs are the same in both, so only roundings differ."""
    v = weights(case, np.float32)
    single = eager(case, case.arrays(np.float32), v)
    double = eager(case, case.arrays(np.float64), v.astype(case.result or np.float64))
    for got, want in zip(single.grads, double.grads, strict=True):
        assert (got is None) == (want is None)
        if got is not None and want is not None:
            assert got.dtype == np.float32
            assert_close(got, want, 16 * max(case.tolerance, 1) + v.size**0.5, case.name)


def gradients_of_gradients(case: Case, arrays: list[Any], v: Any, along: list[Any], v_along: Any) -> float:
    """Differentiate the derivative of <v, f> along `along` once more, along it and, for v, `v_along`."""
    inputs: list[Any] = [edf.Tensor(a, requires_grad=is_floating(a)) for a in arrays]
    seed: Any = edf.Tensor(v, requires_grad=True)
    case.build(*inputs).backward(seed, create_graph=True)
    total = edf.Tensor(np.zeros((), np.float64))
    for x, u in zip(inputs, along, strict=True):
        if u is not None:
            total = total + ops.sum(ops.mul(x.grad, u))
            x.grad = None
    total.backward()
    pairs = [(x.grad.numpy() if x.grad is not None else None, u) for x, u in zip(inputs, along, strict=True)]
    result = projection([*pairs, (seed.grad.numpy(), v_along)])[0]
    for x in inputs:
        x.grad = None
    return result


@pytest.mark.mode("gradients of gradients")
@over([case for case in SMOOTH if case.result is None])
def test_second_derivative(case: Case, device: str) -> None:
    arrays = case.arrays(np.float64)
    v, along = weights(case, np.float64), directions(arrays)
    v_along = np.random.default_rng(9).normal(size=v.shape)
    got = gradients_of_gradients(case, arrays, v, along, v_along)

    def slope(step: float) -> tuple[float, float]:
        seed = (v + step * v_along) / np.where(seed_like(case, v) == 0, 1, seed_like(case, v))
        return projection(zip(eager(case, moved(arrays, along, step), seed).grads, along, strict=True))

    ends = slope(STEP), slope(-STEP)
    numeric = (ends[0][0] - ends[1][0]) / (2 * STEP)
    noise = ends[0][1] * 1e-15 / STEP
    assert abs(got - numeric) <= 2e-6 * (ends[0][1] + abs(numeric) + 1e-3) + noise, f"{got} against {numeric}"


@pytest.mark.mode("eager", "recorded")
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@over(RECORDED)
def test_eager_and_recorded_agree_in_every_bit(case: Case, dtype: Any, device: str) -> None:
    arrays = case.arrays(dtype)
    v = weights(case, dtype) if case.grad else None
    if v is not None and v.size == 0:
        with pytest.raises(
            edf.GraphError, match=re.escape("Backward: the loss has no examples (its value is empty).")
        ):
            recorded(case, arrays, v)
        v = None
    assert recorded(case, arrays, v).bits() == eager(case, arrays, v).bits()


ROWWISE: dict[str, Any] = {
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "log_loss_scores": lambda x: ops.log_loss_scores(x, np.arange(len(x.numpy())) % x.shape[1]),
    "log_loss_soft_scores": lambda x: ops.log_loss_soft_scores(x, ops.square(x)),
    "log_loss_soft": lambda x: ops.log_loss_soft(ops.exp(x), ops.square(x)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 10, 31, 128, 129])
@pytest.mark.parametrize("op", ROWWISE)
def test_a_row_does_not_depend_on_its_neighbours(op: str, width: int, dtype: Any) -> None:
    """However many there are, and wherever it stands among them; its gradient does not either."""
    rows = np.random.default_rng(width).normal(size=(37, width)).astype(dtype)
    rows[width:] = rows[: len(rows) - width]  # labels repeat after as many rows

    def answers(x: Array) -> tuple[bytes, ...]:
        scores: Any = edf.Tensor(x, requires_grad=True)
        result = ROWWISE[op](scores)
        result.backward(np.full(result.shape, 0.75, dtype))
        pairs = zip(result.numpy(), scores.grad.numpy(), strict=True)
        return tuple(a.tobytes() for pair in pairs for a in pair)

    whole = answers(rows)
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33):
        assert answers(rows[:count]) == whole[: 2 * count]
    for start in (width, 2 * width):
        if start < len(rows):
            assert answers(rows[start:]) == whole[2 * start :]


@pytest.mark.mode("1, 2, 3 and 8 threads")
@over(LARGE)
def test_threads_change_no_bit(case: Case) -> None:
    for dtype in (np.float32, np.float64):
        arrays = case.arrays(dtype)
        v = weights(case, dtype) if case.grad else None
        results = []
        for n in (1, 2, 3, 8):
            edf.set_num_threads(n)
            results.append(eager(case, arrays, v).bits())
        assert results[1:] == results[:1] * 3


@pytest.mark.mode("borrowed memory")
@over(RECORDED)
def test_unaligned_borrowed_memory(case: Case, device: str) -> None:
    arrays = case.arrays(np.float32)
    v = weights(case, np.float32) if case.grad else None
    if v is not None and v.size == 0:
        v = None
    assert recorded(case, arrays, v, hosts=True).bits() == recorded(case, arrays, v).bits()


def test_a_fitting_array_is_borrowed() -> None:
    """What the test before this one rests on: the engine reads the object's own memory."""
    host = Host(unaligned(np.arange(5, dtype=np.float32)))
    assert host.value.ctypes.data % 16
    before = edf.memory_stats()["allocations"]
    y = edf.Neg(host)
    edf.Forward()
    assert edf.memory_stats()["allocations"] == before + 1  # the result, and no copy of the input
    assert y.value.tolist() == [0, -1, -2, -3, -4]


def poison(sizes: set[int]) -> None:
    """Leave blocks full of NaN where the engine takes its next ones: of these sizes, and all small ones."""
    held = []
    for size in sorted(sizes | {32768} | set(range(64, 4096, 64))):
        held += [edf.Tensor(np.full(max(1, size // 4), np.nan, np.float32)) for _ in range(3)]


@pytest.mark.mode("poisoned memory")
@over([case for case in CASES if not case.large])
def test_every_element_is_written(case: Case, device: str) -> None:
    arrays = case.arrays(np.float32)
    v = weights(case, np.float32) if case.grad else None
    clean = eager(case, arrays, v)
    poison({a.nbytes for a in (*arrays, clean.value, *(g for g in clean.grads if g is not None))})
    assert eager(case, arrays, v).bits() == clean.bits()


@pytest.mark.parametrize("name", UNARY)
def test_float32_functions_are_exact_within_ulps(name: str, device: str) -> None:
    """Over the whole range of exponents, relative to the correctly rounded result."""
    f, reference, _ = UNARY[name]
    steps = np.float32(1.37) ** np.arange(-250, 251, dtype=np.float32) if name in {"log", "sqrt"} else None
    x = steps if steps is not None else np.linspace(-90, 88, 3001, dtype=np.float32)
    x = x[(x == 0) | (np.abs(x) > 1e-37)]
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.float64))
    got = f(x).numpy().astype(np.float64)
    normal = np.abs(want) > 1.2e-38
    ulps = np.abs(got - want)[normal] / np.spacing(np.abs(want[normal]).astype(np.float32))
    assert ulps.max() <= 4  # on a GPU exp and its kin are CUDA's


@pytest.mark.parametrize("label", ["int32", "int64", "uint8"])
@pytest.mark.parametrize(
    ("op", "bound"),
    [
        (ops.gather_rows, 5),
        (ops.take_along_last, 4),
        (ops.log_loss, 4),
        (ops.log_loss_scores, 4),
    ],
)
@pytest.mark.parametrize("too", ["high", "low"])
def test_an_index_out_of_range(op: Any, bound: int, too: str, label: str, device: str) -> None:
    bad = bound if too == "high" else 255 if label == "uint8" else -1

    def call(x: edf.Tensor, index: edf.Tensor) -> Any:
        return op(x, index)

    x = edf.Tensor(np.full((5, 4), 0.25, np.float32))
    index = np.array([0, 1, bad, 3, 0], label)
    with pytest.raises(edf.DataError) as error:
        call(x, edf.Tensor(index)).numpy()
    place = (
        f" Node made at {Path(__file__).name}:{call.__code__.co_firstlineno + 1}." if device == "cpu" else ""
    )
    assert str(error.value) == (
        f"[{op.__name__}] input 1 holds {bad} at position 2: valid values are 0 to {bound - 1}.{place}"
    )
    index[2] = 2
    assert np.isfinite(call(x, edf.Tensor(index)).numpy()).all()
    assert ops.sum(x).item() == 5


@pytest.mark.parametrize(("label", "rows"), [("int32", 100), ("int64", 70000), ("uint8", 100)])
def test_indices_out_of_range_among_many(label: str, rows: int, device: str) -> None:
    """What they stand for is added nowhere, though a GPU sorts so many entries first and reports any one."""
    rng = np.random.default_rng(0)
    g, index = (
        rng.integers(-9, 9, size=(5000, 3)).astype(np.float32),
        rng.integers(0, 100, 5000).astype(label),
    )
    low, high = np.iinfo(label).min or 255, np.iinfo(label).max
    bad = {0: rows, 1: high, 2500: high - 1, 4998: low, 4999: -1 if low < 0 else 128}
    index[list(bad)] = list(bad.values())
    kept = np.isin(np.arange(5000), list(bad), invert=True)
    want = np.zeros((rows, 3))
    np.add.at(want, index[kept], g[kept])

    def scatter(g: Array, index: Array) -> edf.Tensor:
        inputs = edf.Tensor(g), edf.Tensor(index)
        return _core.apply(_core.find_op("scatter_add_rows"), inputs, Attrs(ints=[rows]))

    result = None
    with pytest.raises(edf.DataError) as error:  # noqa: PT012  # the CPU raises at the op, a GPU at the look
        result = scatter(g, index)
        result.numpy()
    found = re.search(rf"holds (\S+) at position (\d+): valid values are 0 to {rows - 1}\.", str(error.value))
    assert found is not None
    assert bad[int(found[2])] == int(found[1])
    assert (result is None) == (device == "cpu")
    if result is not None:
        np.testing.assert_array_equal(result.numpy(), want)
    np.testing.assert_array_equal(scatter(g[kept], index[kept]).numpy(), want)


@pytest.mark.mode("EDFCORE_ISA")
def test_every_instruction_set(other_isa: dict[str, str]) -> None:
    """All cases again, values and gradients, in a process that is told which kernels to use."""
    command = [sys.executable, checks.__file__]
    child = subprocess.run(command, env=other_isa, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr
    report = json.loads(child.stdout)
    assert report["isa"] == other_isa["EDFCORE_ISA"]
    assert report["cases"] == len(CASES)
    assert report["failures"] == []


def test_bits_with_every_instruction_set(other_isa: dict[str, str]) -> None:
    """So with the tests that are about places, neighbours, threads and memory."""
    names = "neighbours or threads_change_no_bit or unaligned or element_is_written or within_ulps"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", names, __file__]
    command += ["--device", "cpu"]
    child = subprocess.run(command, env=other_isa, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stdout


def test_every_op_has_a_case() -> None:
    public = {op.name for op in _core.all_ops() if not op.internal}
    assert public <= {case.op for case in BY_NAME.values()}
