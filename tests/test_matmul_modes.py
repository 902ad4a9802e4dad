"""Float32 products on a CUDA device by the three settings: as exact as promised, in every mode the same bits."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import ops
from plan_programs import examples, mlp

HOWS = ["exact", "high", "medium"]
LAYOUTS = {"nn": (False, False), "nt": (False, True), "tn": (True, False), "tt": (True, True)}
INF, NAN = np.inf, np.nan


def product(how: str, a: Any, b: Any, trans_a: bool = False, trans_b: bool = False) -> Any:
    """Return the product of a and b, given to the engine as a program would that holds transposes."""
    edf.set_float32_matmul(how)
    given = [
        np.ascontiguousarray(np.swapaxes(x, -1, -2) if t else x) for x, t in ((a, trans_a), (b, trans_b))
    ]
    return ops.matmul(*map(edf.Tensor, given), trans_a=trans_a, trans_b=trans_b).numpy()


@functools.cache
def matrices(m: int, k: int, n: int, kind: str = "normal") -> tuple[Any, Any, Any, Any]:
    """Operands in float32, their product in float64, and that of their magnitudes."""
    random = np.random.default_rng(m * 31 + k * 7 + n)
    draw: Callable[..., Any] = random.standard_normal if kind == "normal" else random.random
    a, b = (draw(shape).astype(np.float32) for shape in ((m, k), (k, n)))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    return a, b, wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b)


def same(a: Any, b: Any) -> bool:
    numbers = ~np.isnan(a)  # whose zeros have a sign
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(
        np.signbit(a[numbers]), np.signbit(b[numbers])
    )


# ---- the setting ----


def test_the_setting_is_kept_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert edf.get_float32_matmul() == "exact"
    for how in HOWS:
        edf.set_float32_matmul(how)
        assert edf.get_float32_matmul() == how
        edf.show_config()
        assert f"\nfloat32 products on CUDA: {how}\n" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["", "highest", "Exact"])
def test_another_setting_is_refused(how: str) -> None:
    edf.set_float32_matmul("high")
    message = f'set_float32_matmul: \'{how}\' is not known: use "exact", "high" or "medium".'
    with pytest.raises(edf.DataError, match=f"^{re.escape(message)}$") as raised:
        edf.set_float32_matmul(how)
    assert isinstance(raised.value, ValueError)
    assert edf.get_float32_matmul() == "high"


# ---- accuracy ----


@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize(
    "k", [16, 17, 64, 500, pytest.param(4096, id="large"), pytest.param(16384, id="larger")]
)
def test_high_is_as_exact_as_float32(k: int, kind: str, device: str) -> None:
    a, b, want, _ = matrices(24, k, 20, kind)
    error = {how: np.abs(product(how, a, b) - want) for how in ("exact", "high")}
    mean = {how: np.sqrt(np.mean(each**2)) for how, each in error.items()}
    assert mean["high"] <= 2 * mean["exact"]
    assert error["high"].max() <= 2 * error["exact"].max() + np.spacing(np.float32(want.max()))


@pytest.mark.parametrize("k", [16, 500, pytest.param(4096, id="large")])
def test_medium_is_as_exact_as_tf32(k: int, device: str) -> None:
    a, b, want, magnitude = matrices(24, k, 20)
    error = np.abs(product("medium", a, b) - want) / magnitude
    assert error.max() < 1e-3
    if device == "cuda":
        assert error.max() > 1e-5  # it is TF32 indeed


SHAPES = [(17, 1, 17), (64, 32, 64), (67, 33, 41), (130, 20, 70), (20, 300, 24), (33, 16, 129), (24, 520, 72)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_layout_and_shape(shape: tuple[int, int, int], layout: str, device: str) -> None:
    a, b, want, magnitude = matrices(*shape)
    for how, limit in (("high", 1e-6), ("medium", 1e-3)):
        found = product(how, a, b, *LAYOUTS[layout])
        assert np.abs(found - want).max() <= limit * magnitude.max()
        assert same(found, product(how, a, b))  # the order of a sum does not depend on the layout


@pytest.mark.parametrize("how", HOWS)
def test_unaligned_operands_have_the_same_bits(how: str, device: str) -> None:
    edf.set_float32_matmul(how)
    a, b, _, _ = matrices(40, 48, 44)
    long = edf.Tensor(np.concatenate([np.zeros(1, np.float32), a.ravel(), b.ravel()]))
    left = ops.reshape(ops.slice(long, 0, 1, 1 + a.size), a.shape)
    right = ops.reshape(ops.slice(long, 0, 1 + a.size, 1 + a.size + b.size), b.shape)
    assert same(ops.matmul(left, right).numpy(), product(how, a, b))


@pytest.mark.parametrize("how", ["high", "medium"])
def test_a_large_product(how: str, device: str) -> None:
    a, b, want, magnitude = matrices(1300, 20, 1410)
    assert np.abs(product(how, a, b) - want).max() <= (1e-6 if how == "high" else 1e-3) * magnitude.max()
    rows = product(how, a[:200], b[:, :200])  # by small tiles
    assert same(rows, product(how, a, b)[:200, :200])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("shape", [(0, 5, 20), (20, 0, 24), (20, 5, 0)], ids=str)
def test_empty_products(shape: tuple[int, int, int], how: str, device: str) -> None:
    a, b, want, _ = matrices(*shape)
    assert same(product(how, a, b), want.astype(np.float32))
    edf.set_float32_matmul(how)
    bias = np.arange(shape[2], dtype=np.float32)
    found = ops.affine(*map(edf.Tensor, (a, b, bias))).numpy()
    assert same(found, (want + bias).astype(np.float32))


@pytest.mark.parametrize("how", ["high", "medium"])
def test_batches(how: str, device: str) -> None:
    random = np.random.default_rng(5)
    a, b = (random.standard_normal(s).astype(np.float32) for s in ((3, 20, 33), (3, 33, 18)))
    found = product(how, a, b)
    for i in range(3):
        assert same(found[i], product(how, a[i], b[i]))
    assert same(product(how, a, b[0]), product(how, a.reshape(60, 33), b[0]).reshape(3, 20, 18))
    shared = product(how, a[0], b)
    assert same(shared[2], product(how, a[0], b[2]))


@pytest.mark.parametrize("how", ["high", "medium"])
@pytest.mark.parametrize("k", [48, 600])
def test_a_bias_is_added_once(k: int, how: str, device: str) -> None:
    a, b, _, _ = matrices(24, k, 20)
    bias = np.linspace(-9, 9, 20, dtype=np.float32)
    edf.set_float32_matmul(how)
    found = ops.affine(*map(edf.Tensor, (a, b, bias))).numpy()
    assert same(found, product(how, a, b) + bias)


# ---- what is no ordinary number ----


@pytest.mark.parametrize("how", ["high", "medium"])
@pytest.mark.parametrize("k", [40, 600])
def test_what_is_not_finite_is_what_exact_gives(k: int, how: str, device: str) -> None:
    a, b, _, _ = (x.copy() for x in matrices(24, k, 20))
    a[0, 3], a[1, 5], a[2, 7], a[2, 30], a[3, 9], a[4, 11] = INF, -INF, INF, -INF, NAN, INF
    b[11, 4], b[3, 2], b[5, 6], b[6, 7] = 0, 0, INF, NAN
    a[9, 1], b[9, 9] = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)  # NaN, too
    a[6, 12] = a[7, 12] = np.finfo(np.float32).max  # TF32 rounds it to infinity
    b[12] = 0.5
    b[12, 5] = 7
    a[8, 0] = b[0, 8] = 1e25
    exact = product("exact", a, b)
    found = product(how, a, b)
    finite = np.isfinite(exact)
    assert (~finite).sum() > 100
    assert finite.sum() > 200
    assert same(found[~finite], exact[~finite])
    np.testing.assert_allclose(found[finite], exact[finite], rtol=2e-3, atol=0.05)
    assert np.isfinite(found[6, 4])
    assert np.isinf(exact[6, 5])


@pytest.mark.parametrize("how", ["high", "medium"])
def test_what_is_computed_again_is_added_once(how: str, device: str) -> None:
    a, b, _, _ = (x.copy() for x in matrices(24, 33, 20))
    a[2, 3] = np.finfo(np.float32).max  # all of this row is computed again
    b[3] = 0.25
    start = np.full((24, 20), 3e37, np.float32)
    found = {}
    for each in ("exact", how):
        edf.set_float32_matmul(each)
        terms = [
            edf.Tensor(x) for x in (start, a, b, a, b)
        ]  # the second product is added to the result itself
        attrs = edf._describe.Attrs(trans_a=False, trans_b=False)
        made = edf._core.apply(edf._core.find_op("matmul_sum"), tuple(terms), attrs)
        found[each] = made.numpy()[2]
    assert same(found[how], found["exact"])
    np.testing.assert_allclose(found[how], 2e38, rtol=0.01)


@pytest.mark.parametrize("size", [1e-37, 1e-36, 1e-33, 1e-30, 1e-20, 1e20, 1e30, 1e36])
def test_high_is_exact_for_small_and_large_numbers(size: float, device: str) -> None:
    a, b, _, _ = matrices(24, 64, 20)
    a = (np.sign(a) * (1 + np.abs(a)) * size).astype(np.float32)
    for left, right in ((a, b), (b.T, a.T)):
        want = left.astype(np.float64) @ right.astype(np.float64)
        error = {how: np.abs(product(how, left, right) - want).max() for how in ("exact", "high")}
        assert error["high"] <= 2 * error["exact"] + np.spacing(np.float32(np.abs(want).max())) / 2


# ---- what the setting does not change ----


def test_other_products_are_what_they_were(device: str) -> None:
    pairs = [[x.astype(np.float64) for x in matrices(40, 30, 44)[:2]], matrices(40, 30, 16)[:2]]
    pairs += [matrices(16, 30, 40)[:2], matrices(40, 15, 44)[:2]]
    if device == "cpu":
        pairs += [matrices(40, 30, 44)[:2]]
    for a, b in pairs:
        exact = product("exact", a, b)
        assert same(product("high", a, b), exact)
        assert same(product("medium", a, b), exact)


def test_an_older_chip_knows_one_way(device: str) -> None:
    if edf.cuda.build() != "sim" or device != "cuda":
        pytest.skip("the chip here is what it is")
    program = (
        "import test_matmul_modes as t, edfcore as edf; edf.set_device('cuda'); a, b, *_ = t.matrices(24, 40, 20)\n"
        "print(edf.cuda.description(), *(t.same(t.product(h, a, b), t.product('exact', a, b)) for h in t.HOWS))"
    )
    paths = [str(Path(__file__).parent), str(Path(edf.__file__).parent.parent)]
    for capability, alike in (("75", "True True True"), ("80", "True False False")):
        told = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "EDFCORE_SIM_CAPABILITY": capability}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=told, capture_output=True, text=True, check=True)
        assert f"capability {capability[0]}.{capability[1]}" in done.stdout
        assert done.stdout.endswith(f"{alike}\n")


# ---- modes ----


def trained(settings: list[str], keep: str) -> list[Any]:
    """Losses and parameters of steps, each by its own setting; plans run them, and CUDA graphs, unless all is kept."""
    edf.clear_compgraph()
    edf.keep(keep)
    edf.learning_rate = 0.05
    try:
        x, y, loss = mlp([37, 24, 18])
        seen = []
        for how in settings:
            edf.set_float32_matmul(how)
            x.value, y.value = examples(20)
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
            if keep == "all":
                seen.append(loss.value.copy())
        return [*seen, *(p.value.copy() for p in edf.Parameters)]
    finally:
        edf.keep("looked")


def graphs() -> int:
    return edf.plan_stats()["graphs"]


@pytest.mark.parametrize("how", ["high", "medium"])
def test_plans_and_graphs_give_the_bits_of_nodes_run_one_by_one(how: str, device: str) -> None:
    steps = [how] * 10
    one_by_one = trained(steps, "all")[len(steps) :]
    before = graphs()
    by_plans = trained(steps, "looked")
    assert (graphs() > before) == (device == "cuda")
    assert all(map(same, one_by_one, by_plans))
    exact = trained(["exact"] * 10, "looked")
    assert all(map(same, exact, by_plans)) == (device == "cpu")


def test_a_change_takes_effect_with_the_next_step(device: str) -> None:
    steps = [how for how in (*HOWS, *HOWS) for _ in range(6)]
    before = graphs()
    by_plans = trained(steps, "looked")
    assert (graphs() > before) == (device == "cuda")
    assert all(map(same, trained(steps, "all")[len(steps) :], by_plans))


def test_work_put_off_is_done_as_it_was_set(device: str) -> None:
    a, b, _, _ = matrices(24, 40, 20)
    want = {how: product(how, a, b) for how in HOWS}
    x, w = edf.Input(a), edf.Parameter(b)
    y = edf.Matmul(x, w)
    for i in range(9):
        edf.set_float32_matmul(HOWS[i % 3])
        x.value = a
        edf.Forward()
        edf.set_float32_matmul(HOWS[(i + 1) % 3])
        assert same(y.value, want[HOWS[i % 3]])


@pytest.mark.parametrize("how", HOWS)
def test_every_run_has_the_same_bits(how: str, device: str) -> None:
    a, b, _, _ = matrices(24, 520, 72)
    first = product(how, a, b)
    for _ in range(3):
        assert same(product(how, a, b), first)


def test_replay_obeys_the_setting(device: str) -> None:
    found = {}
    for how in HOWS:
        edf.clear_compgraph()
        edf.set_float32_matmul(how)
        x, y, loss = mlp([37, 24, 18])
        X, Y = examples(60)
        edf.replay(loss, {x: X, y: Y}, order=np.arange(60), batch_size=20)
        by_replay = [p.value.copy() for p in edf.Parameters]
        found[how] = by_replay
        edf.clear_compgraph()
        x, y, loss = mlp([37, 24, 18])
        for i in range(0, 60, 20):
            x.value, y.value = X[i : i + 20], Y[i : i + 20]
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
        assert all(map(same, by_replay, [p.value for p in edf.Parameters]))
    assert all(map(same, found["exact"], found["medium"])) == (device == "cpu")
