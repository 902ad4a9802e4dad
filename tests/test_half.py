"""bfloat16 and float16: conversions, every op in every case of the list, and training."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from case import Case
from cases import CASES
from checks import is_floating, seed_like
from edfcore import ops
from halves import EPSILON, HALVES, LARGEST, SMALLEST, nearest, shown
from references import Array

PATTERNS = np.arange(65536, dtype=np.uint16)


def as_floats(bits: Array, dtype: str) -> Array:
    """Return the values of these patterns, as float64, without the engine."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        if dtype == "float16":
            return np.asarray(bits.view(np.float16).astype(np.float64))
        return np.asarray((bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64))


def half_arrays(case: Case, dtype: str) -> list[Array]:
    """Make the inputs of a case: floating ones are numbers of the half type, as float32."""
    return [nearest(a, dtype).astype(np.float32) if is_floating(a) else a for a in case.arrays(np.float32)]


def half_weights(case: Case, dtype: str) -> Array:
    shape = case.expected(case.arrays(np.float64)).shape
    return nearest(np.random.default_rng(7).normal(size=shape), dtype).astype(np.float32)


def eager(case: Case, arrays: list[Array], dtype: str, v: Array | None = None) -> list[Array]:
    """Return the value, and with v the gradients of its inputs, of the case on tensors."""
    inputs: list[Any] = [
        edf.Tensor(a, dtype if is_floating(a) else None, requires_grad=is_floating(a) and v is not None)
        for a in arrays
    ]
    value = case.build(*inputs)
    if v is not None:
        seed = edf.Tensor(seed_like(case, v), case.result or dtype)
        ops.mul(value, edf.Tensor(v, case.result or dtype)).backward(seed)
    assert str(value.dtype) == dtype or case.result or not is_floating(shown(value))
    return [shown(value), *(shown(t.grad) for t in inputs if v is not None and t.grad is not None)]


def recorded(case: Case, arrays: list[Array], dtype: str, v: Array | None, steps: int) -> list[list[Array]]:
    """Return the same of an EDF graph, after each of some steps that move nothing: node by node, and then by plans."""
    edf.clear_compgraph()
    edf.DT, edf.learning_rate = dtype, 0.0
    nodes: list[Any] = [edf.Parameter(a) if is_floating(a) else edf.Input(a) for a in arrays]
    value = case.build(*nodes)
    loss = value if v is None else ops.mul(value, edf.Tensor(v, case.result or dtype))
    results = []
    for step in range(steps):
        edf.Forward()
        if v is not None:
            edf.Backward(loss)
            edf.SGD()
        if step in (0, steps - 1):
            grads = [
                shown(n.grad) for n, a in zip(nodes, arrays, strict=True) if v is not None and is_floating(a)
            ]
            results.append([shown(value.value), *grads])
    return results


# Conversions.


@pytest.mark.parametrize("dtype", HALVES)
def test_every_pattern_to_float_and_back(dtype: str, device: str) -> None:
    values = as_floats(PATTERNS, dtype)
    numbers = ~np.isnan(values)
    for wide in ("float32", "float64"):
        with np.errstate(invalid="ignore"):
            given = values.astype(wide)
        halves = edf.Tensor(given).astype(dtype)
        assert str(halves.dtype) == dtype
        back = halves.astype(wide).numpy()
        assert back.dtype == wide
        assert back[numbers].tobytes() == given[numbers].tobytes()
        assert np.isnan(back[~numbers]).all()
    shows = shown(edf.Tensor(values, dtype).numpy())
    assert shows[numbers].tobytes() == values[numbers].tobytes()
    assert np.isnan(shows[~numbers]).all()


def between(dtype: str) -> Array:
    """Halfway between any two neighbours, and right beside that."""
    values = as_floats(PATTERNS[: 0x7F80 if dtype == "bfloat16" else 0x7C00], dtype)
    ends = np.append(values[1:], values[-1] + (values[-1] - values[-2]))
    middle = (values + ends) / 2
    return np.concatenate(
        [middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf), values, ends[-1:] * 1.5]
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_ties_go_to_even_and_nothing_is_rounded_twice(dtype: str, device: str) -> None:
    positive = between(dtype)
    x = np.concatenate([positive, -positive, [np.inf, -np.inf]])
    want = nearest(x, dtype)
    for given in (edf.Tensor(x).astype(dtype), edf.Tensor(x, dtype)):
        assert shown(given).tobytes() == want.tobytes()
    with np.errstate(over="ignore"):
        single = x.astype(np.float32)
    single = np.concatenate([single, np.nextafter(single, np.float32(np.inf))])
    got = shown(edf.Tensor(single).astype(dtype))
    assert got.tobytes() == nearest(single.astype(np.float64), dtype).tobytes()
    if dtype == "float16":  # what the test itself rests on
        with np.errstate(over="ignore"):
            assert want.tobytes() == x.astype(np.float16).astype(np.float64).tobytes()


def test_as_ml_dtypes_rounds() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    with np.errstate(over="ignore"):
        x = between("bfloat16").astype(np.float32)
    assert (
        nearest(x.astype(np.float64), "bfloat16").tobytes() == x.astype(bfloat16).astype(np.float64).tobytes()
    )
    halves = edf.Tensor(np.arange(6).reshape(2, 3).astype(bfloat16))
    assert halves.dtype == edf.bfloat16
    assert halves.numpy().dtype == bfloat16
    np.testing.assert_array_equal(halves.numpy().astype(float), np.arange(6).reshape(2, 3))
    assert edf.Tensor([1.0], bfloat16).dtype == edf.bfloat16


@pytest.mark.parametrize("dtype", HALVES)
def test_integers_and_halves(dtype: str, device: str) -> None:
    near = 2**62 + 2**54  # halfway between two bfloat16 numbers; one more is not
    cases = {
        "int64": [0, -3, 2049, 2051, near, near + 1, -near - 1, 2**53 + 1, 2**63 - 1, -(2**63)],
        "int32": [7, -257, 2**31 - 1, 16777217, 2**24 + 2**16 + 1],
        "uint8": [0, 1, 255],
    }
    for integer, values in cases.items():
        for value in values:  # one by one, exactly: a float64 has no room for all of them
            sign, size = (-1 if value < 0 else 1), builtin_abs(value)
            digits = 8 if dtype == "bfloat16" else 11
            unit = 2 ** max(size.bit_length() - digits, 0)
            whole, rest = divmod(size, unit)
            whole += rest * 2 > unit or (rest * 2 == unit and whole % 2 == 1)
            want = float(whole * unit) if whole * unit <= LARGEST[dtype] else np.inf
            got = edf.Tensor(np.array([value] * 9, integer)).astype(dtype)
            assert shown(got).tolist() == [sign * want] * 9, (integer, value)
        back = edf.Tensor([0.0, 1.0, 2.5, 100.5], dtype).astype(integer)
        assert back.numpy().tolist() == [0, 1, 2, 100]
    assert edf.Tensor([0.0, -0.0, 2.0, np.nan], dtype).astype("bool").numpy().tolist() == [
        False,
        False,
        True,
        True,
    ]
    other = HALVES[HALVES[0] == dtype]
    x = nearest(np.linspace(-3, 3, 99), dtype)
    assert shown(edf.Tensor(x, dtype).astype(other)).tobytes() == nearest(x, other).tobytes()


def builtin_abs(value: int) -> int:
    return -value if value < 0 else value


def test_numpy_float16_both_ways(device: str) -> None:
    x = np.arange(12, dtype=np.float16).reshape(3, 4)
    for given in (x, x[:, ::2], x.T, x.astype(">f2"), np.frombuffer(b"\0" + x.tobytes(), np.float16, 12, 1)):
        tensor = edf.Tensor(given)
        assert tensor.dtype == edf.float16
        assert tensor.numpy().dtype == np.float16
        np.testing.assert_array_equal(tensor.numpy(), given)
    assert repr(edf.Tensor(x[0, :2], device="cpu")) == "Tensor([0. 1.], dtype=float16)"


def test_bfloat16_as_numpy_shows_it(device: str) -> None:
    tensor = edf.Tensor([1.0, 2.00390625, -3.0], edf.bfloat16)
    assert tensor.dtype == "bfloat16"
    array = tensor.numpy()
    assert str(array.dtype) in ("bfloat16", "float32")
    np.testing.assert_array_equal(array.astype(np.float32), [1, 2, -3])
    assert repr(edf.Tensor([1.5], edf.bfloat16, device="cpu")).endswith(", dtype=bfloat16)")
    assert edf.Tensor(np.asarray(tensor, np.float32), edf.bfloat16).sum().item() == 0


WITHOUT = """
import sys; sys.modules["ml_dtypes"] = None
import numpy as np, edfcore as edf
edf.set_device(sys.argv[1])
x = edf.Tensor([1.0, 2.00390625, -3.0], edf.bfloat16, requires_grad=True)
assert x.dtype == "bfloat16" and x.numpy().dtype == np.float32 and x.numpy().tolist() == [1, 2, -3]
assert repr(x).startswith("Tensor([ 1.  2. -3.], dtype=bfloat16, ")
(x * x).sum().backward()
assert x.grad.numpy().tolist() == [2, 4, -6]
edf.DT = edf.bfloat16
p, v = edf.Parameter([0.5, 1.00390625]), edf.Input([2.0, 3.0])
y = edf.Mul(p, v)
for _ in range(4):
    edf.Forward(); edf.Backward(y)
    assert y.value.dtype == np.float32 and y.value.tolist() == [1, 3] and p.grad.tolist() == [1, 1.5]
    p.value = p.value; p.grad += 1; p.addgrad([[1.0, 1.0]])
    assert p.grad.tolist() == [3, 3.5], p.grad
held, seen, grad = p.value, y.value, p.grad
for i in range(5):
    held[...] = [1.00390625, 2.0 + i]  # between two bfloat16, of which the even one is taken
    edf.Forward()
    assert y.value.tolist() == [2, 6 + 3 * i] and seen.tolist() == [1, 3]
    assert p.value is not held and np.shares_memory(p.value, held) and held.tolist() == [1, 2 + i]
    edf.Backward(y)
    grad = p.grad
    grad[...] = [0.5, -1.0]
    edf.learning_rate = 2.0
    edf.SGD()
    assert held.tolist() == p.value.tolist() == [0, 4 + i]
p.value[1] = 7.0
edf.Forward()
assert y.value.tolist() == [0, 21] and p.value.tolist() == [0, 7]
h = edf.Softmax(edf.Input([[1.0, 2.0]]))
z = edf.LogLoss(h, edf.Input([0]))
edf.Forward(); edf.Backward(z)
h.grad[...] = [[4.0, 1.5]]
assert h.grad.tolist() == [[4, 1.5]]
"""


def test_without_ml_dtypes(device: str) -> None:
    paths = os.pathsep.join(str(path) for path in sys.path if path)
    command = [sys.executable, "-c", WITHOUT, device]
    child = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr


# Ops.

CHECKED = [case for case in CASES if not case.large and "sorted" not in case.name]
SEVERAL = ("compose/", "log_loss/of_", "log_loss_soft/of_", "cast/float")


def sampled(cases: list[Case], device: str) -> list[Case]:
    """Every case, and on the simulated device, which is slow, one or two of each op."""
    if device == "cpu" or edf.cuda.build() != "sim":
        return cases
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.op, []).append(case)
    return [case for of_op in found.values() for case in (of_op[len(of_op) // 3], of_op[-1])]


@pytest.mark.mode("half types")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("op", sorted({case.op for case in CHECKED}))
def test_every_op_rounds_once(op: str, dtype: str, device: str) -> None:
    """Against NumPy in float64 on the same inputs; where several ops follow each other, each of them rounds."""
    for case in sampled([case for case in CHECKED if case.op == op], device):
        arrays = half_arrays(case, dtype)
        want, got = case.expected(arrays), eager(case, arrays, dtype)[0]
        assert got.shape == want.shape, case.name
        if not is_floating(want):
            np.testing.assert_array_equal(got, want, err_msg=case.name)
            continue
        rounded = want if case.result else nearest(want, dtype)
        bound = (
            2 * EPSILON[dtype] * (case.result is None)
        )  # the float32 result may stand at the other side of a tie
        least = SMALLEST[dtype]
        if case.name.startswith(SEVERAL):
            bound, least = 8 * EPSILON[dtype], 8 * EPSILON[dtype]
        with np.errstate(invalid="ignore"):
            close = np.abs(got - rounded) <= (bound + case.tolerance * 2.0**-23) * np.abs(rounded) + (
                least + case.tolerance * 2.0**-23
            )
            both = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
            edge = (
                ~np.isfinite(rounded) & (np.abs(got) >= LARGEST[dtype]) & (np.sign(got) == np.sign(rounded))
            )
        assert (close | both | edge).all(), (case.name, got, rounded)


@pytest.mark.mode("half types")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("op", sorted({case.op for case in CHECKED if case.grad}))
def test_gradients_of_every_op(op: str, dtype: str, device: str) -> None:
    """Against those that the engine has in float64, of the same inputs."""
    for case in sampled([case for case in CHECKED if case.op == op and case.grad], device):
        arrays, v = half_arrays(case, dtype), half_weights(case, dtype)
        got, want = eager(case, arrays, dtype, v), eager(case, arrays, "float64", v)
        assert len(got) == len(want)
        for grad, exact in zip(got[1:], want[1:], strict=True):
            assert grad.shape == exact.shape
            if exact.size:
                terms = (
                    float(np.abs(v).max(initial=0))
                    * float(seed_like(case, v).max(initial=0))
                    * (v.size / exact.size) ** 0.5
                )
                scale = float(np.abs(exact).max()) + terms
                assert np.abs(grad - exact).max() <= 24 * EPSILON[dtype] * scale, case.name


@pytest.mark.mode("half types")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("op", sorted({case.op for case in CHECKED if case.recorded}))
def test_node_by_node_and_plans_agree_with_tensors_in_every_bit(op: str, dtype: str, device: str) -> None:
    for case in sampled([case for case in CHECKED if case.op == op and case.recorded], device):
        arrays = half_arrays(case, dtype)
        v = half_weights(case, dtype) if case.grad else None
        if v is not None and v.size == 0:
            v = None
        want = [a.tobytes() for a in eager(case, arrays, dtype, v)]
        for got in recorded(case, arrays, dtype, v, steps=4):
            assert [a.tobytes() for a in got] == want, case.name
