"""A CUDA device repeats the launches of a plan as one, and computes what it computes without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from plan_programs import Graph, beside, chain, examples, mlp, pieces, recurrent

GRAPHS: dict[str, Callable[[], Graph]] = {
    "mlp": lambda: mlp([37, 11, 5]),
    "chain": chain,
    "pieces": pieces,
    "recurrent": recurrent,
    "beside": beside,
}


def trained(make: Callable[[], Graph], update: Any, keep: str) -> tuple[list[Any], list[Any]]:
    """Losses and parameters of steps between which the batch and the learning rate change, and losses are looked at."""
    edf.clear_compgraph()
    edf.keep(keep)
    try:
        x, y, loss = make()
        losses = []
        for i in range(24):
            edf.learning_rate = 0.1 if i < 16 else 0.02
            x.value, y.value = examples(4 if i in (9, 10) else 6)
            edf.Forward()
            edf.Backward(loss)
            update()
            if i % 4 == 3:
                losses.append(loss.value.copy())
        return losses, [p.value.copy() for p in edf.Parameters]
    finally:
        edf.keep("looked")


def graphs() -> int:
    return edf.plan_stats()["graphs"]


@pytest.mark.parametrize("update", [edf.SGD, edf.Momentum, edf.Adam])
@pytest.mark.parametrize("name", GRAPHS)
def test_repeating_a_plan_changes_nothing(name: str, update: Any, device: str) -> None:
    want = trained(GRAPHS[name], update, "all")
    before = graphs()
    found = trained(GRAPHS[name], update, "looked")
    assert (graphs() > before) == (device == "cuda")
    for one, other in zip(want, found, strict=True):
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def test_a_rate_that_always_changes_is_obeyed(device: str) -> None:
    W = edf.Parameter(np.ones((3, 2)))
    loss = edf.Sum(edf.Matmul(edf.Input(np.ones((4, 3))), W), axis=1)
    want, before = 1.0, graphs()
    for i in range(12):
        edf.learning_rate = 0.1 / (i + 1)
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        want -= edf.learning_rate
    np.testing.assert_allclose(W.value, want, rtol=1e-6)
    assert (graphs() > before + 5) == (device == "cuda")


@pytest.mark.parametrize("size", [6, 7])
def test_an_epoch_repeats_its_steps(size: int, device: str) -> None:
    X, Y = examples(60)
    found = []
    for way in ("replay", "loop"):
        edf.clear_compgraph()
        edf.learning_rate = 0.1
        x, y, loss = mlp([37, 11, 5])
        before, losses = graphs(), []
        if way == "replay":
            losses += [*edf.replay(loss, {x: X, y: Y}, batch_size=size)]
            assert (graphs() > before + 5) == (device == "cuda")
        for at in range(0, 60 if way == "loop" else 0, size):
            x.value, y.value = X[at : at + size], Y[at : at + size]
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
            losses += [*loss.value]
        found.append([np.array(losses), *(p.value.copy() for p in edf.Parameters)])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_bad_labels_are_found_in_a_step_that_is_repeated(device: str) -> None:
    x, y, loss = mlp([37, 11, 5])
    x.value, y.value = examples(6)

    def step() -> None:
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        loss.value.sum()

    for _ in range(8):
        step()
    before = [p.value.copy() for p in edf.Parameters]
    labels = y.value.copy()
    labels[2] = 9
    y.value = labels
    with pytest.raises(edf.DataError, match="9"):
        step()
    assert all(np.array_equal(p.value, b) for p, b in zip(edf.Parameters, before, strict=True))
