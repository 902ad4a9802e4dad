"""Golden trajectories: the engine trains step for step as the NumPy EDF does, whoever wrote the nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edfcore as edf
import numpy_edf
from edf_programs import N_LABELS, PROGRAMS, Program, Trajectory, trajectory


def reference(name: str, steps: int, dtype: Any, _made: dict[Any, Trajectory] = {}) -> Trajectory:  # noqa: B006
    """What the NumPy EDF does, computed once for both devices."""
    key = name, steps, dtype
    if key not in _made:
        _made[key] = trajectory(numpy_edf, PROGRAMS[name], steps, dtype=dtype)
    return _made[key]


@pytest.mark.mode("recorded")
@pytest.mark.parametrize("name", PROGRAMS)
def test_float64_for_200_steps(name: str, device: str) -> None:
    ours = trajectory(edf, PROGRAMS[name], 200)
    assert all(q.dtype == np.float64 for q in ours.parameters)
    assert ours.losses[-1].dtype == np.float64
    assert ours.difference(reference(name, 200, np.float64)) < 1e-11


@pytest.mark.mode("recorded")
@pytest.mark.parametrize("name", PROGRAMS)
def test_float32_for_20_steps(name: str, device: str) -> None:
    ours = trajectory(edf, PROGRAMS[name], 20, dtype=np.float32)
    assert all(q.dtype == np.float32 for q in ours.parameters)
    assert ours.difference(reference(name, 20, np.float32)) < 1e-5


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_gradient_of_the_first_step(name: str, device: str) -> None:
    def gradients(module: Any) -> list[Any]:
        before, module.DT = module.DT, np.float64
        try:
            module.clear_compgraph()
            p, data = PROGRAMS[name](module), np.random.default_rng(5)
            p.x.value, p.y.value = data.normal(size=(6, *p.shape)), data.integers(0, N_LABELS, 6)
            module.Forward()
            module.Backward(p.loss)
            return [np.array(node.grad) for node in [*module.CompNodes, *module.Parameters]]
        finally:
            module.DT = before

    ours, theirs = gradients(edf), gradients(numpy_edf)
    for mine, reference_grad in zip(ours, theirs, strict=True):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, reference_grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["slides_mlp", "mixture"])
def test_runs_are_the_same_bit_for_bit_with_any_number_of_threads(name: str) -> None:
    runs = []
    for threads in (1, 1, 2, 3):
        edf.set_num_threads(threads)
        runs.append(trajectory(edf, PROGRAMS[name], 20, dtype=np.float32))
    assert [run.difference(runs[0]) for run in runs] == [0.0] * 4


def test_rebuilding_the_graph_for_every_minibatch_changes_nothing(device: str) -> None:
    """A graph made anew for every minibatch, around parameters that stay, trains like one that is kept."""

    def train(module: Any, *, rebuild: bool) -> list[Any]:
        before, module.DT = module.DT, np.float64
        try:
            module.clear_compgraph()
            random, losses = np.random.default_rng(2), []
            module.learning_rate = 0.2
            Phi1, Phi2 = module.ParameterPackage(), module.ParameterPackage()
            Phi1.w, Phi1.b = module.Parameter(random.normal(size=(7, 6))), module.Parameter(np.zeros(6))
            Phi2.w, Phi2.b = module.Parameter(random.normal(size=(6, 4))), module.Parameter(np.zeros(4))
            p = None
            for n in (5, 2, 5, 1, 3) * 4:
                if rebuild or p is None:
                    module.CompNodes = []
                    x, y = module.Input(), module.Input()
                    Q = module.Softmax(module.Affine(Phi2, module.Tanh(module.Affine(Phi1, x))))
                    p = Program(x, y, Q, module.LogLoss(Q, y), (7,))
                p.x.value, p.y.value = random.normal(size=(n, 7)), random.integers(0, 4, n)
                module.Forward()
                module.Backward(p.loss)
                module.SGD()
                losses.append(np.array(p.loss.value))
            return [*losses, *(np.array(q.value) for q in module.Parameters)]
        finally:
            module.DT = before

    kept, rebuilt = train(edf, rebuild=False), train(edf, rebuild=True)
    golden = train(numpy_edf, rebuild=True)
    for a, b, c in zip(kept, rebuilt, golden, strict=True):
        assert np.array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-12)
