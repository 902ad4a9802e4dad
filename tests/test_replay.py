"""An epoch run by one call is the loop that it stands for, bit for bit, and stops as cleanly."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core
from plan_programs import GRAPHS, Graph, chain, examples, mlp


def loop(graph: Graph, X: Any, Y: Any, order: Any, batch: int, update: Callable[[], None] = edf.SGD) -> Any:
    x, y, loss = graph
    losses = []
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        x.value, y.value = X[rows], Y[rows]
        edf.Forward()
        edf.Backward(loss)
        losses.append(np.atleast_1d(loss.value.copy()))
        update()
    return np.concatenate(losses)


def parameters() -> list[Any]:
    return [p.value.copy() for p in edf.Parameters]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GRAPHS)
def test_replay_is_the_loop(name: str, dtype: Any, device: str) -> None:
    X, Y = examples(50)
    order = np.random.default_rng(6).permutation(50)[:43]
    found = []
    for run in ("loop", "replay"):
        edf.clear_compgraph()
        edf.DT, edf.learning_rate = dtype, 0.1
        graph = GRAPHS[name]()
        first = parameters()
        if run == "loop":
            losses = loop(graph, X, Y, order, 8)
        else:
            losses = edf.replay(graph[2], {graph[0]: X, graph[1]: Y}, order=order, batch_size=8)
        assert losses.dtype == dtype
        assert np.any(parameters()[0] != first[0])
        found.append((losses, parameters()))
    (loop_losses, loop_parameters), (replay_losses, replay_parameters) = found
    assert np.array_equal(loop_losses, replay_losses)
    for a, b in zip(loop_parameters, replay_parameters, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [64, 67, 300])
def test_the_loss_of_many_classes(classes: int, dtype: Any, device: str) -> None:
    """Where the gradient could take the memory of the scores, the loss is still that of the scores."""
    random = np.random.default_rng(0)
    S, y, q = (
        random.normal(size=(50, classes)),
        random.integers(0, classes, 50),
        random.uniform(size=(50, classes)),
    )
    for labels, loss_of in ((y, edf.LogLoss), (q, edf.LogLossSoft)):
        edf.clear_compgraph()
        edf.DT = dtype
        s, t, w = edf.Input(S), edf.Input(labels), edf.Parameter(np.zeros(classes))
        loss = loss_of(edf.Softmax(edf.Add(s, w)), t)
        edf.Forward()
        want = loss.value.copy()
        assert np.array_equal(edf.replay(loss, {s: S, t: labels}, batch_size=50), want)


def test_blocks_and_threads_change_nothing() -> None:
    """Groups of more than one block, whole and not, for 1, 2, 3 and 8 threads."""
    X, Y = examples(600)
    found = []
    for threads in (0, 1, 2, 3, 8):
        edf.clear_compgraph()
        edf.learning_rate = 0.1
        graph = chain()
        if threads == 0:
            losses = loop(graph, X, Y, np.arange(600), 223)  # 8,251 elements: two blocks and a bit
        else:
            edf.set_num_threads(threads)
            losses = edf.replay(graph[2], {graph[0]: X, graph[1]: Y}, batch_size=223)
        found.append((losses, *parameters()))
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_replay_again_with_another_order_batch_size_and_rate() -> None:
    X, Y = examples(40)
    found = []
    for run in (loop, None):
        edf.clear_compgraph()
        graph = mlp([37, 6, 5])
        losses = []
        for epoch, batch in enumerate((7, 40, 1, 64)):
            edf.learning_rate = 0.3 / (1 + epoch)
            order = np.random.default_rng(epoch).permutation(40)
            if run is not None:
                losses.append(run(graph, X, Y, order, batch))
            else:
                losses.append(edf.replay(graph[2], {graph[0]: X, graph[1]: Y}, order=order, batch_size=batch))
        found.append(np.concatenate(losses))
    assert np.array_equal(*found)


def test_what_stands_after_a_replay() -> None:
    X, Y = examples(20)
    x, y, loss = mlp([37, 5])
    x.value, y.value = X[:3], Y[:3]
    edf.Forward()
    edf.replay(loss, {x: X, y: Y}, batch_size=8)
    assert np.array_equal(x.value, X[:3].astype(np.float32)), "inputs are what they were"
    with pytest.raises(edf.GraphError, match="no value yet: run Forward"):
        _ = loss.value
    with pytest.raises(edf.GraphError, match="no gradient yet"):
        edf.SGD()
    edf.Forward()
    assert loss.value.shape == (3,)


def test_arrays_handed_out_before_stay_what_they_are(device: str) -> None:
    X, Y = examples(20)
    x, y, loss = mlp([37, 5])
    x.value, y.value = X[:3], Y[:3]
    edf.Forward()
    before, copy = loss.value, loss.value.copy()
    weights = edf.Parameters[0].value
    old = weights.copy()
    edf.replay(loss, {x: X, y: Y}, batch_size=8)
    assert np.array_equal(before, copy)
    assert np.array_equal(weights, edf.Parameters[0].value), "a parameter's array shows its updates"
    assert not np.array_equal(weights, old)


def test_what_was_written_into_parameters_counts(device: str) -> None:
    """Through arrays that are still held, also of a parameter that the loss does not need."""
    X, Y = examples(20)
    found = []
    for run in (loop, None):
        edf.clear_compgraph()
        edf.learning_rate = 0.1
        graph = mlp([37, 5])
        x, y, loss = graph
        unused = edf.Parameter(np.ones(2))
        held = [p.value for p in edf.Parameters]
        for array in held:
            array[...] = array * 0.5
        if run is not None:
            loop(graph, X, Y, np.arange(20), 8)
        else:
            edf.replay(loss, {x: X, y: Y}, batch_size=8)
        assert np.array_equal(unused.value, [0.5, 0.5])
        assert all(np.array_equal(a, p.value) for a, p in zip(held, edf.Parameters, strict=True))
        found.append(parameters())
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


# Errors


@pytest.mark.parametrize("bad", [7, -1])
def test_a_bad_label_stops_at_its_minibatch(bad: int, device: str) -> None:
    X, Y = examples(40)
    Y[21] = bad
    x, y, loss = mlp([37, 5])
    with pytest.raises(edf.DataError) as caught:
        edf.replay(loss, {x: X, y: Y}, batch_size=8)
    assert re.search(
        r"\[log_loss\] input 1 holds -?\d at position 5: valid values are 0 to 4\.", str(caught.value)
    )
    assert "Node made at plan_programs.py" in str(caught.value)
    assert "at examples 16 to 23 of the order" in str(caught.value)
    after = parameters()
    edf.clear_compgraph()
    edf.replay((graph := mlp([37, 5]))[2], {graph[0]: X[:16], graph[1]: Y[:16]}, batch_size=8)
    assert all(np.array_equal(a, b) for a, b in zip(after, parameters(), strict=True))
    assert edf.replay(graph[2], {graph[0]: X[:16], graph[1]: Y[:16]}, batch_size=8).shape == (16,)


def test_a_bad_position() -> None:
    X, Y = examples(9)
    x, y, loss = mlp([37, 5])
    with pytest.raises(edf.DataError, match=r"\[gather_rows\] input 1 holds 9 at position 1"):
        edf.replay(loss, {x: X, y: Y}, order=[0, 9])


class Mine(edf.CompNode):
    def __init__(self, x: Any) -> None:
        edf.CompNodes.append(self)
        self.x = x

    def forward(self) -> None:
        self.value = self.x.value

    def backward(self) -> None:
        self.x.addgrad(self.grad)


class Frozen(edf.Parameter):
    def SGD(self) -> None:
        pass


def wrong_calls() -> dict[str, tuple[Callable[[Any, Any, Any], Any], str]]:
    X, Y = examples(8)

    def with_node(x: Any, y: Any, loss: Any) -> Any:
        Mine(x)
        return edf.replay(loss, {x: X, y: Y})

    def with_update(x: Any, y: Any, loss: Any) -> Any:
        Frozen(np.ones(3))
        return edf.replay(loss, {x: X, y: Y})

    def cleared(x: Any, y: Any, loss: Any) -> Any:
        edf.clear_compgraph()
        return edf.replay(loss, {x: X, y: Y})

    def out_of_order(x: Any, y: Any, loss: Any) -> Any:
        edf.CompNodes.reverse()
        return edf.replay(loss, {x: X, y: Y})

    def one_fed(x: Any, y: Any, loss: Any) -> Any:
        return edf.replay(loss, {x: X})

    return {
        "node": (with_node, "replay: CompNodes[3] is a Mine, which the engine cannot run by itself"),
        "update": (with_update, "replay: Parameters[2] is a Frozen with an SGD of its own"),
        "cleared": (cleared, "replay: the loss is not among CompNodes"),
        "order of nodes": (out_of_order, "a plan needs every node after its inputs"),
        "not fed": (one_fed, "one has no value yet: assign its .value first"),
        "no loss": (lambda x, y, loss: edf.replay(None, {x: X, y: Y}), "replay: the loss is None"),
        "loss": (lambda x, y, loss: edf.replay(3.0, {x: X, y: Y}), "replay: the loss is a float, not a node"),
        "no feeds": (lambda x, y, loss: edf.replay(loss, {}), "replay: feeds is empty"),
        "key": (lambda x, y, loss: edf.replay(loss, {loss: X}), "is no Input"),
        "lengths": (lambda x, y, loss: edf.replay(loss, {x: X, y: Y[:5]}), "there must be as many of each"),
        "scalar": (lambda x, y, loss: edf.replay(loss, {x: 3.0}), "must be that of the examples"),
        "batch": (lambda x, y, loss: edf.replay(loss, {x: X, y: Y}, batch_size=0), "batch_size is 0"),
        "order": (lambda x, y, loss: edf.replay(loss, {x: X, y: Y}, order=[0.5]), "one axis of integers"),
        "no examples": (lambda x, y, loss: edf.replay(loss, {x: X, y: Y}, order=[]), "one axis of integers"),
        "none": (lambda x, y, loss: edf.replay(loss, {x: X[:0], y: Y[:0]}), "there are no examples"),
        "shape": (lambda x, y, loss: edf.replay(loss, {x: X[:, :5], y: Y}), "[affine] x has shape (8, 5)"),
        "another update": (lambda x, y, loss: edf.replay(loss, {x: X, y: Y}, update=print), "must be edf.SGD"),
        "not each": (lambda x, y, loss: edf.replay(edf.Sum(edf.Mul(loss, np.ones((3, 1))), axis=1), {x: X, y: Y}),
                     "the loss has shape (3,) for 8 examples"),
    }  # fmt: skip


@pytest.mark.parametrize("name", wrong_calls())
def test_wrong_calls_say_what_is_wrong_and_change_nothing(name: str) -> None:
    call, message = wrong_calls()[name]
    x, y, loss = mlp([37, 5])
    before = parameters()
    with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        call(x, y, loss)
    assert message in str(caught.value)
    assert type(caught.value).__module__ == "edfcore.errors"
    assert all(np.array_equal(a, p) for a, p in zip(before, parameters(), strict=False))


def test_a_number_that_the_update_does_not_take() -> None:
    X, Y = examples(8)
    x, y, loss = mlp([37, 5])
    with pytest.raises(TypeError, match=r"^replay: Momentum takes no beta1\.$"):
        edf.replay(loss, {x: X, y: Y}, update=edf.Momentum, beta1=0.5)


@pytest.mark.skipif(sys.platform == "win32", reason="no setitimer on Windows")
def test_a_signal_stops_between_minibatches() -> None:
    X, Y = examples(100)
    x, y, loss = mlp([37, 50, 5])
    before = parameters()

    class StoppedError(Exception):
        pass

    def stop(number: int, frame: Any) -> None:
        raise StoppedError

    old = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(StoppedError):
            edf.replay(loss, {x: X, y: Y}, order=np.zeros(3_000_000, np.int64), batch_size=4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert not np.array_equal(before[0], parameters()[0])
    assert np.all(np.isfinite(parameters()[0]))
    assert edf.replay(loss, {x: X, y: Y}).shape == (100,)


def test_replay_leaves_no_nodes_and_no_memory() -> None:
    _core.empty_cache(edf.get_device())  # the memory of plans that other tests ran would shrink meanwhile
    X, Y = examples(64)
    x, y, loss = mlp([37, 6, 5])
    edf.replay(loss, {x: X, y: Y}, batch_size=20)
    nodes, memory = edf.live_nodes(), edf.memory_stats()["bytes"]
    for _ in range(5):
        edf.replay(loss, {x: X, y: Y}, batch_size=20)
    assert edf.live_nodes() == nodes
    assert edf.memory_stats()["bytes"] == memory
