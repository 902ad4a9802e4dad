"""The reference itself is checked, its gradients against central differences, before it measures others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numpy_edf
from edf_programs import N_LABELS, PROGRAMS, trajectory


@pytest.fixture
def reference() -> Any:
    numpy_edf.clear_compgraph()
    before, numpy_edf.DT = numpy_edf.DT, np.float64
    yield numpy_edf
    numpy_edf.DT = before
    numpy_edf.clear_compgraph()


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_of_every_parameter(reference: Any, name: str) -> None:
    p, random = PROGRAMS[name](reference), np.random.default_rng(3)
    p.x.value, p.y.value = random.normal(size=(4, *p.shape)), random.integers(0, N_LABELS, 4)

    def loss() -> float:
        reference.Forward()
        return float(np.mean(p.loss.value))

    loss()
    reference.Backward(p.loss)
    assert reference.Parameters
    for q in reference.Parameters:
        value, direction, h = q.value.copy(), random.normal(size=q.value.shape), 1e-6
        q.value = value + h * direction
        up = loss()
        q.value = value - h * direction
        numeric = (up - loss()) / (2 * h)
        q.value = value
        assert numeric == pytest.approx(float(np.sum(q.grad * direction)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", PROGRAMS)
def test_trajectory_repeats_and_float32_follows(name: str) -> None:
    first = trajectory(numpy_edf, PROGRAMS[name], 20)
    assert first.difference(trajectory(numpy_edf, PROGRAMS[name], 20)) == 0.0
    assert first.difference(trajectory(numpy_edf, PROGRAMS[name], 20, dtype=np.float32)) < 1e-4
    assert all(q.dtype == np.float64 for q in first.parameters)


def test_module_attributes_are_read_when_used(reference: Any) -> None:
    p = reference.Parameter(np.ones((2, 2)))
    p.grad = np.ones((2, 2))
    reference.learning_rate = 0.25
    reference.SGD()
    assert np.array_equal(p.value, np.full((2, 2), 0.75))
    reference.Parameters = []
    reference.SGD()
    assert np.array_equal(p.value, np.full((2, 2), 0.75))
