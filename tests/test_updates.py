"""Updates of many small parameters: together on a CUDA device, and with the bits of one by one on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from sim_program import Build, plain_and_sanitized

RULES: dict[str, Callable[[], None]] = {"SGD": edf.SGD, "Momentum": edf.Momentum, "Adam": edf.Adam}
SIZES = [1, 3, 7, 64, 101, 1024, 1025]


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Build]:
    return plain_and_sanitized(tmp_path_factory, "tests/sim/updates.cu", "csrc/ops/update.cu")


CASES = ["none", "empty", "one", "odd", "unaligned", "numbers", "bad", "thousand", "thousand_unaligned"]


@pytest.mark.parametrize("which", ["plain", "sanitized"])
def test_the_kernel_for_many_does_what_a_loop_does(builds: tuple[Build, Build], which: str) -> None:
    """Each line says of three times as many tensors, in turns of one dtype, how many launches every rule took."""
    done = builds[which == "sanitized"].run()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [[case, "right"] for case in CASES]
    launches = {line[0]: [int(word) for word in line[2:]] for line in lines}
    assert launches["none"] == [0] * 3
    assert launches["empty"] == [0, 2, 3], "the steps of nothing are counted, too"
    assert launches["one"] == launches["odd"] == [2, 2, 3]
    assert max(launches["thousand"]) <= 3 * 1000 / 50


def squares(count: int) -> tuple[Any, list[Any]]:
    """A sum of squares of many parameters of odd sizes, some of them empty; and those."""
    edf.clear_compgraph()
    random = np.random.default_rng(2)
    sizes = [SIZES[i % 7] * (i % 5 != 4) for i in range(count)]
    parameters = [edf.Parameter(random.normal(size=n)) for n in sizes]
    total: Any = edf.Sum(edf.Square(parameters[0]))
    for p in parameters[1:]:
        total = edf.Add(total, edf.Sum(edf.Square(p)))
    return total, parameters


def rate(i: int) -> float:
    return 0.01 / (1 + i % 3)


def steps(count: int, name: str, keep: str) -> list[Any]:
    """What parameters are after some steps with rates that change."""
    edf.keep(keep)
    try:
        loss, parameters = squares(count)
        for i in range(7):
            edf.learning_rate = rate(i)
            edf.Forward()
            edf.Backward(loss)
            RULES[name]()
        return [p.value.copy() for p in parameters]
    finally:
        edf.keep("looked")


def reference(name: str, x: Any) -> Any:
    """The same steps by the formulas, in float64."""
    x = x.astype(np.float64)
    m = v = np.zeros_like(x)
    for i in range(7):
        g = 2 * x
        if name == "SGD":
            x = x - rate(i) * g
        elif name == "Momentum":
            m = 0.9 * m + g
            x = x - rate(i) * m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            mean, size = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.999 ** (i + 1))
            x = x - rate(i) * mean / (np.sqrt(size) + 1e-8)
    return x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RULES)
def test_many_at_once_are_what_they_are_one_by_one(name: str, dtype: Any, tmp_path: Any, device: str) -> None:
    edf.DT = dtype
    first = [p.value.copy() for p in squares(120)[1]]
    planned, by_node = steps(120, name, "looked"), steps(120, name, "all")
    with edf.trace(tmp_path / "trace.json"):  # which looks at every one
        alone = steps(120, name, "looked")
    for before, *found in zip(first, planned, by_node, alone, strict=True):
        assert all(np.array_equal(found[0], other) for other in found[1:])
        tolerance = 1e-12 if dtype == np.float64 else 3e-5
        np.testing.assert_allclose(found[0], reference(name, before), rtol=tolerance, atol=tolerance)


def test_a_plan_says_what_is_updated_at_once(device: str) -> None:
    loss, _ = squares(40)
    lines = edf.plan(loss).describe().splitlines()
    updates = [line for line in lines if " sgd: " in line]
    groups = {line.split()[0] for line in updates}
    assert len(updates) == 40
    if device == "cuda":
        assert len(groups) == 1, "gradients wait for each other"
        assert [line.split()[1] for line in updates] == ["/", *["|"] * 38, "\\"]
        assert lines[-40:] == updates


def test_a_large_gradient_does_not_wait(device: str) -> None:
    edf.clear_compgraph()
    sizes = (1 << 18, (1 << 18) - 1, 5)
    parts = [edf.Sum(edf.Square(edf.Parameter(np.ones(n)))) for n in sizes]
    loss = edf.Add(edf.Add(*parts[:2]), parts[2])
    updates = [line.split() for line in edf.plan(loss).describe().splitlines() if " sgd: " in line]
    if device == "cuda":
        assert updates[0][1] == "sgd:"
        assert "(262144,)" in updates[0]
        assert [line[1] for line in updates[1:]] == ["/", "\\"]


@pytest.mark.parametrize("keep", ["looked", "all"])
@pytest.mark.parametrize("name", RULES)
def test_a_parameter_that_stands_there_twice_is_updated_twice(name: str, keep: str, device: str) -> None:
    """Also where others are updated with it: the second time comes after the first."""
    want: Any = None
    for twice in (True, False):
        edf.keep(keep)
        loss, parameters = squares(6)
        parameters[0].value = np.array([1.5])
        edf.learning_rate = 0.01
        if twice:
            edf.Parameters.insert(3, parameters[0])
        for _ in range(5):
            edf.Forward()
            edf.Backward(loss)
            RULES[name]()
        found = [p.value.copy() for p in parameters]
        edf.keep("looked")
        if twice:
            want = found
    assert all(np.array_equal(a, b) for a, b in zip(want[1:], found[1:], strict=True))
    x = 1.5
    g = m = v = 0.0
    for i in range(10):
        g = 2 * x if i % 2 == 0 else g
        m, v = (0.9 * m + g, v) if name == "Momentum" else (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g)
        if name == "Adam":
            x -= 0.01 * m / (1 - 0.9 ** (i + 1)) / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8)
        else:
            x -= 0.01 * (g if name == "SGD" else m)
    np.testing.assert_allclose(want[0], x, rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_after_bad_labels_nothing_has_moved(name: str, device: str) -> None:
    """Neither parameters nor what is kept beside them, in plain runs of a plan and in repeated ones."""
    edf.learning_rate = 0.01
    x, y = edf.Input(np.ones((4, 5))), edf.Input(np.arange(4))
    h: Any = x
    for _ in range(6):
        h = edf.Tanh(edf.Add(edf.Mul(h, edf.Parameter(np.linspace(0.5, 1, 20).reshape(4, 5))), 0.1))
    loss = edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(5, 4), h)), y)

    def step() -> None:
        edf.Forward()
        edf.Backward(loss)
        RULES[name]()
        loss.value.sum()

    for steps_before in (1, 8):
        for _ in range(steps_before):
            step()
        before = [
            (p.value.copy(), [a.copy() for a in (p.optimised or ())[:2] if a is not None])
            for p in edf.Parameters
        ]
        y.value = [0, 1, 9, 2]
        with pytest.raises(edf.DataError, match="9"):
            step()
        for p, (value, moments) in zip(edf.Parameters, before, strict=True):
            assert np.array_equal(p.value, value)
            assert all(np.array_equal(a, b) for a, b in zip(p.optimised or (), moments, strict=False))
        y.value = np.arange(4)


def test_steps_of_adam_repeat_one_recording(device: str) -> None:
    """Also while the learning rate changes, and when somebody changes the number of steps that one has taken."""
    results = []
    for keep in ("looked", "all"):
        edf.keep(keep)
        before = edf.plan_stats()["graphs"]
        loss, parameters = squares(9)
        for i in range(20):
            edf.learning_rate = rate(i)
            if i == 12:
                m, v, _ = parameters[3].optimised
                parameters[3].optimised = (m, v, 2)
            edf.Forward()
            edf.Backward(loss)
            edf.Adam()
        results.append([p.value.copy() for p in parameters])
        repeated = edf.plan_stats()["graphs"] - before
        assert (repeated >= 12) == (device == "cuda" and keep == "looked")
    edf.keep("looked")
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("rule", ["SGD", "Momentum", "Adam"])
def test_parameters_of_several_dtypes_are_updated(rule: str, device: str) -> None:
    made = []
    for dtype in ("float32", "bfloat16", "float64", "float16"):
        edf.DT = dtype
        made.append(edf.Parameter(np.ones((4, 3))))
    edf.DT, edf.learning_rate = "float32", 0.25
    terms = [edf.Cast(p, "float32") for p in made]
    loss = edf.Sum(edf.Add(edf.Add(terms[0], terms[1]), edf.Add(terms[2], terms[3])), axis=1)
    edf.Forward()
    edf.Backward(loss)
    getattr(edf, rule)()
    for p in made:
        np.testing.assert_allclose(
            np.asarray(p.value, np.float64), 0.75 if rule == "Adam" else 0.9375, rtol=4e-3
        )
