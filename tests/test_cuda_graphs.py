"""A CUDA device repeats the launches of a plan as one, and computes what it computes without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core
from plan_programs import GRAPHS as EPOCHS
from plan_programs import Graph, beside, chain, examples, mlp, pieces, recurrent
from test_replay import loop

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


UPDATES = {"SGD": edf.SGD, "Momentum": edf.Momentum, "Adam": edf.Adam}


def state() -> list[Any]:
    return [part for p in edf.Parameters for part in (p.value.copy(), *p.optimised)]


@pytest.mark.parametrize(
    "length", [77, 301, 345], ids=["11 steps", "43 steps", "50 steps, one of 2 examples"]
)
@pytest.mark.parametrize("graph", ["mlp", "mean", "recurrent"])
@pytest.mark.parametrize("name", UPDATES)
def test_minibatches_that_are_repeated_together_are_the_loop(
    name: str, graph: str, length: int, device: str
) -> None:
    """Through epochs of other orders and learning rates."""
    X, Y = examples(60)
    found = []
    for way in (loop, edf.replay):
        edf.clear_compgraph()
        x, y, loss = {**GRAPHS, "mean": EPOCHS["mean"]}[graph]()
        results = []
        for epoch in range(3):
            edf.learning_rate = 0.05 / (1 + epoch)
            order = np.random.default_rng(epoch).integers(0, 60, length)
            if way is loop:
                results.append(loop((x, y, loss), X, Y, order, 7, UPDATES[name]))
            else:
                results.append(
                    edf.replay(loss, {x: X, y: Y}, order=order, batch_size=7, update=UPDATES[name])
                )
        found.append([*results, *state()])
    for ours, theirs in zip(*found, strict=True):
        assert ours is theirs if ours is None else np.array_equal(ours, theirs)


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_an_epoch_is_a_few_launches(update: Any, device: str) -> None:
    """Of 16 minibatches at a time, and of 8, 4, 2 and 1 for the rest; as soon as they come again."""
    _core.empty_cache(device)  # plans of other tests needed more memory, which would be given back meanwhile
    X, Y = examples(60)
    x, y, loss = mlp([37, 11, 5])

    def launches(examples: int) -> int:
        before = graphs()
        edf.replay(loss, {x: X, y: Y}, order=np.arange(examples) % 60, batch_size=4, update=update)
        return graphs() - before

    expected = [(44 * 4, 1), (44 * 4, 4), (64 * 4, 4), (15 * 4, 2), (15 * 4 + 1, 4), (15 * 4 + 1, 5)]
    for examples_taken, count in expected:
        assert launches(examples_taken) == (count if device == "cuda" else 0), examples_taken


@pytest.mark.parametrize("bad", [0, 20, 42])
@pytest.mark.parametrize("name", UPDATES)
def test_a_bad_label_among_minibatches_that_are_repeated(name: str, bad: int, device: str) -> None:
    """The message names node and minibatch, those before it were learnt from, and the next epoch goes on from there."""
    X, Y = examples(171)
    wrong = Y.copy()
    wrong[4 * bad + 2] = 8
    message = (
        r"\[log_loss\] input 1 holds 8 at position 2: valid values are 0 to 4\. Node made at plan_programs\.py:\d+\. "
        rf"In replay, at examples {4 * bad} to {min(4 * bad + 3, 170)} of the order: no minibatch from here on was "
        r"learnt from\."
    )
    found = []
    for way in ("loop", "replay"):
        edf.clear_compgraph()
        x, y, loss = mlp([37, 11, 5])
        results = []
        if way == "loop":
            for end in (171, 4 * bad, 171):
                if end > 0:
                    loop((x, y, loss), X, Y, np.arange(end), 4, UPDATES[name])
                results.append(state())
        for labels in (Y, wrong, Y) if way == "replay" else ():
            with pytest.raises(edf.DataError, match=f"^{message}$") if labels is wrong else nullcontext():
                edf.replay(loss, {x: X, y: labels}, batch_size=4, update=UPDATES[name])
            results.append(state())
        found.append([part for each in results for part in each])
    for ours, theirs in zip(*found, strict=True):
        assert ours is theirs if ours is None else np.array_equal(ours, theirs)


def test_an_error_from_before_is_not_of_the_epoch(device: str) -> None:
    X, Y = examples(20)
    x, y, loss = mlp([37, 5])
    x.value, y.value = X[:4], np.full(4, 7)

    def wrong() -> None:
        edf.Forward()
        edf.replay(loss, {x: X, y: Y}, batch_size=4)

    with pytest.raises(edf.DataError) as caught:
        wrong()
    assert "In replay" not in str(caught.value)
    assert edf.replay(loss, {x: X, y: Y}, batch_size=4).shape == (20,)


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
