"""Eager graphs are freed whole, long ones too, and a long loop ends with the memory that it began with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core, ops
from plan_programs import examples, mlp

A = np.array([[1.5, -2.0, 0.25], [3.0, 0.5, -1.0]], np.float32)


def leaf(data: Any) -> Any:
    return edf.Tensor(np.array(data, np.float64), requires_grad=True)


def test_a_long_chain_runs_backward_and_is_freed() -> None:
    nodes, size = edf.live_nodes(), edf.memory_stats()["bytes"]
    x = leaf(np.ones(2))
    y = x
    for _ in range(200_000):
        y = ops.neg(y)
    assert edf.live_nodes() >= nodes + 200_000
    y.sum().backward()
    assert x.grad.numpy().tolist() == [1, 1]
    del x, y
    assert (edf.live_nodes(), edf.memory_stats()["bytes"]) == (nodes, size)


@pytest.mark.parametrize("way", ["dropped", "after backward", "after gradients of gradients"])
def test_a_graph_is_freed(way: str, device: str) -> None:
    def use() -> None:
        x = leaf(A)
        loss = (ops.softmax(ops.tanh(x)) * x).sum()
        if way == "after backward":
            loss.backward()
        if way == "after gradients of gradients":
            loss.backward(create_graph=True)
            slope = x.grad
            x.grad = None
            slope.sum().backward()

    use()
    nodes, size = edf.live_nodes(), edf.memory_stats()["bytes"]
    for _ in range(10):
        use()
    assert (edf.live_nodes(), edf.memory_stats()["bytes"]) == (nodes, size)


def train(steps: int, w: Any, x: edf.Tensor) -> None:
    for _ in range(steps):
        ops.square(w * x).sum().backward()
        ops.sgd(w, w.grad, 0.01)
        w.grad = None


def test_a_long_eager_loop_runs_in_constant_memory() -> None:
    """100,000 steps, or ten times as many where they take less than 20 s."""
    w, x = leaf(np.ones(8)), edf.Tensor(np.arange(8.0))
    began = time.perf_counter()
    train(1000, w, x)
    pace = (time.perf_counter() - began) / 1000
    nodes, size = edf.live_nodes(), edf.memory_stats()["bytes"]
    train(1_000_000 if pace < 20e-6 else 100_000, w, x)
    assert (edf.live_nodes(), edf.memory_stats()["bytes"]) == (nodes, size)


@pytest.mark.parametrize("f", [ops.softmax, ops.tanh, lambda x: ops.reshape(x, (6,))])
def test_without_gradients_nothing_is_remembered(f: Callable[..., Any], device: str) -> None:
    """However often a value is computed from the one before: also what a stable loss would look back at."""
    x = f(edf.Tensor(A.reshape(-1)))
    nodes, size = edf.live_nodes(), edf.memory_stats()["bytes"]
    for _ in range(1000):
        x = f(x)
    assert edf.live_nodes() <= nodes + 4
    assert edf.memory_stats()["bytes"] <= size + 4 * A.nbytes


@pytest.mark.parametrize("update", [edf.SGD, edf.Momentum])
def test_a_step_whose_loss_is_looked_at_needs_no_room_for_gradients(update: Any) -> None:
    def peak(look: bool) -> int:
        edf.clear_compgraph()
        x, y, loss = mlp([37, 600, 5])
        x.value, y.value = examples(6)
        for i in range(150):
            if i == 100:
                edf.memory_stats()
                _core.reset_peak_memory("cpu")
            edf.Forward()
            edf.Backward(loss)
            update()
            if look:
                loss.value.sum()
        return int(edf.memory_stats("cpu")["peak_bytes"]) - base

    base = edf.memory_stats("cpu")["bytes"]
    without, with_looks = peak(False), peak(True)
    assert with_looks < without + 37 * 600 * 4
