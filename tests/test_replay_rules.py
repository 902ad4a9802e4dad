"""A replay by any rule is the loop that it stands for, and finds its plans again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core
from plan_programs import GRAPHS, examples, mlp
from test_replay import loop


def kept() -> list[Any]:
    return [part for p in edf.Parameters for part in (p.value.copy(), *p.optimised)]


def same(ours: list[Any], theirs: list[Any]) -> bool:
    return all(a is b if a is None else np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["mlp", "recurrent", "mean", "beside"])
@pytest.mark.parametrize("update", [edf.Momentum, edf.Adam], ids=["Momentum", "Adam"])
def test_any_update_is_the_loop(update: Any, name: str, dtype: Any, device: str) -> None:
    """Also of parameters that no gradient reaches, and of one that nothing reads; with and without numbers."""
    X, Y = examples(50)
    numbers: Any = {"decay": 0.5} if update is edf.Momentum else {"beta2": 0.9, "epsilon": 1e-6}
    found = []
    for run in ("loop", "replay"):
        edf.clear_compgraph()
        edf.DT, edf.learning_rate = dtype, 0.01
        graph = GRAPHS[name]()
        edf.Parameter(np.ones(2)).optimised = np.full(2, 3.0), np.full(2, 2.0), 7
        losses = []
        for more in ({}, numbers, {}):
            order = np.random.default_rng(6).permutation(50)[:19]
            if run == "loop":
                losses.append(loop(graph, X, Y, order, 8, lambda more=more: update(**more)))  # type: ignore[misc]
            else:
                feeds = {graph[0]: X, graph[1]: Y}
                losses.append(edf.replay(graph[2], feeds, order=order, batch_size=8, update=update, **more))
        found.append([*losses, *kept()])
    assert same(*found)
    assert not np.array_equal(edf.Parameters[-1].value, np.ones(2))


def test_a_parameter_listed_twice_is_updated_twice() -> None:
    X, Y = examples(24)
    found = []
    for run in ("loop", "replay"):
        edf.clear_compgraph()
        graph = mlp([37, 5])
        edf.Parameters.insert(1, edf.Parameters[0])
        if run == "loop":
            loop(graph, X, Y, np.arange(24), 8, edf.Adam)
        else:
            edf.replay(graph[2], {graph[0]: X, graph[1]: Y}, batch_size=8, update=edf.Adam)
        found.append(kept())
    assert same(*found)
    assert edf.Parameters[0].optimised[2] == 6


def test_a_bad_label_leaves_what_is_kept(device: str) -> None:
    X, Y = examples(40)
    x, y, loss = mlp([37, 5])

    def as_numbers() -> list[Any]:  # moments of no step are zeros, or not there
        return [np.any(part) and part for part in kept()]

    for known in range(2):
        before = as_numbers()
        with pytest.raises(edf.DataError, match="position 3"):
            edf.replay(loss, {x: X[:4], y: [0, 0, 0, 7]}, batch_size=4, update=edf.Adam)
        assert same(before, as_numbers())
        edf.replay(loss, {x: X[:8], y: Y[:8]}, batch_size=8, update=edf.Adam)
        assert edf.Parameters[0].optimised[2] == known + 1
    Y[21] = 7
    with pytest.raises(edf.DataError, match="examples 16 to 23"):
        edf.replay(loss, {x: X, y: Y}, batch_size=8, update=edf.Adam)
    assert edf.Parameters[0].optimised[2] == 2 + 2


# Plans that are found again


def compiled() -> int:
    return edf.plan_stats()["compiled"]


def test_a_plan_is_found_again(device: str) -> None:
    """For another order, rate and data of the same shape, and a graph that was built anew; not for another shape."""
    _core.empty_cache(device)
    X, Y = examples(40)
    before = compiled()
    for i in range(4):
        edf.clear_compgraph()
        graph = mlp([37, 6, 5])
        edf.learning_rate = 0.1 * (1 + i)
        edf.replay(graph[2], {graph[0]: X + i, graph[1]: Y}, order=np.arange(24 + i), batch_size=8)
    assert compiled() == before + 4, "8, and 1, 2 and 3 for the rest"
    feeds = {graph[0]: X, graph[1]: Y}
    for change, more in (
        (lambda: edf.replay(graph[2], feeds, batch_size=10), 1),
        (lambda: edf.replay(graph[2], feeds, batch_size=8, update=edf.Adam), 1),
        (lambda: edf.replay(graph[2], feeds, batch_size=8, update=edf.Adam, beta1=0.5), 0),
        (lambda: edf.replay(graph[2], {graph[0]: X[:32], graph[1]: Y[:32]}, batch_size=8), 1),
        (lambda: edf.replay(graph[2], dict(reversed(feeds.items())), batch_size=8), 1),
        (lambda: edf.replay(edf.Scale(graph[2], 2.0), feeds, batch_size=8), 1),
        (lambda: _core.empty_cache(device), 0),
        (lambda: edf.replay(edf.CompNodes[-1], feeds, batch_size=8), 1),
    ):
        before = compiled()
        change()
        assert compiled() == before + more


def test_replays_and_steps_take_turns(device: str) -> None:
    """Each finds its own plan again, and what the other has changed."""
    X, Y = examples(40)
    found = []
    for run in ("loop", "replay"):
        edf.clear_compgraph()
        graph = mlp([37, 6, 5])
        for i in range(6):
            order = np.arange(i, i + 16)
            if run == "loop" or i % 2:
                loop(graph, X, Y, order, 8, edf.Momentum)
            else:
                edf.replay(
                    graph[2], {graph[0]: X, graph[1]: Y}, order=order, batch_size=8, update=edf.Momentum
                )
        found.append(kept())
    assert same(*found)


def test_a_graph_that_words_do_not_describe_is_planned_each_time() -> None:
    """Here one reads a node that is not listed, which keeps the value that it has."""
    X, Y = examples(16)
    x, y = edf.Input(), edf.Input()
    scale = edf.Exp(edf.Input(np.zeros(37)))
    edf.Forward()
    edf.CompNodes.clear()
    loss = edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(37, 5), edf.Mul(x, scale))), y)
    before, losses = compiled(), []
    for _ in range(3):
        losses.append(edf.replay(loss, {x: X, y: Y}, batch_size=16).mean())
    assert compiled() == before + 3
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("how", ["cast", "strided", "as they are"])
def test_a_few_of_many_examples(how: str, device: str) -> None:
    """Those alone are copied, where all would have to be: what comes out is the same."""
    X, Y = examples(200)
    X = {"cast": X, "strided": X.astype(np.float32)[::-1], "as they are": X.astype(np.float32)}[how]
    order = np.random.default_rng(8).integers(0, 200, 33, dtype=np.int32)
    found = []
    for run in ("loop", "replay"):
        edf.clear_compgraph()
        x, y, loss = mlp([37, 6, 5])
        if run == "loop":
            losses = loop((x, y, loss), X, Y, order, 8)
        else:
            losses = edf.replay(loss, {x: X, y: Y}, order=order, batch_size=8)
        found.append([losses, *kept()])
    assert same(*found)
    for bad in (-1, 200):
        with pytest.raises(edf.DataError, match=rf"\[gather_rows\] input 1 holds {bad} at position 1"):
            edf.replay(loss, {x: X, y: Y}, order=np.array([0, bad]))
    with pytest.raises(edf.ShapeError, match="there must be as many of each"):
        edf.replay(loss, {x: X, y: Y[:150]}, order=order)


def test_an_order_of_booleans_is_refused(device: str) -> None:
    x, y, loss = mlp([37, 6, 5])
    with pytest.raises(
        edf.DTypeError, match=r"order has shape \(4,\) and dtype bool: it must be one axis of integers"
    ):
        edf.replay(loss, {x: np.ones((4, 37)), y: np.zeros(4, int)}, order=np.array([True] * 4))


def test_an_order_beyond_all_integers_is_refused(device: str) -> None:
    x, y, loss = mlp([37, 6, 5])
    with pytest.raises((edf.DataError, edf.DTypeError)):
        edf.replay(loss, {x: np.ones((4, 37)), y: np.zeros(4, int)}, order=np.array([2**63], np.uint64))
