"""What stands after Forward, Backward and SGD have put their work off: errors, interrupts, memory, and what is kept."""

from __future__ import annotations

import gc
import itertools
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import edfcore as edf
import lstm_program
import numpy_edf
from edfcore import _core
from plan_programs import examples, mlp

SIZES = [37, 11, 5]


def trained(steps: int, feed: Callable[[int], None] | None = None, batch: int = 6) -> Any:
    """Make a classifier and train it for some steps; return its input, labels and loss."""
    x, y, loss = mlp(SIZES)
    x.value, y.value = examples(batch)
    for i in range(steps):
        if feed:
            feed(i)
        step(loss)
    return x, y, loss


def step(loss: Any) -> None:
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()


def weights() -> list[Any]:
    return [p.value.copy() for p in edf.Parameters]


@pytest.fixture
def fresh(device: str) -> Iterator[None]:
    _core.empty_cache(device)
    yield
    edf.keep("looked")


def compiled() -> int:
    return edf.plan_stats()["compiled"]


# What is planned, and what is found again


def test_the_third_step_is_planned_and_later_ones_find_the_plan(fresh: None) -> None:
    before = edf.plan_stats()
    trained(30)
    _core.leave()
    after = edf.plan_stats()
    assert after["compiled"] - before["compiled"] == 1
    assert (after["misses"] - before["misses"], after["hits"] - before["hits"]) == (1, 29)


def test_a_graph_that_is_rebuilt_finds_its_plan(fresh: None) -> None:
    before = edf.plan_stats()
    for _ in range(10):
        edf.clear_compgraph()
        trained(1)
    after = edf.plan_stats()
    assert after["misses"] - before["misses"] == 1
    assert after["compiled"] - before["compiled"] == 1


def test_the_loss_is_there_whatever_finished_the_step(fresh: None) -> None:
    x, y, loss = trained(5)
    W, b, V, c = (np.array(p.value, np.float64) for p in edf.Parameters)
    step(loss)
    edf.memory_stats()  # which has it done
    scores = np.maximum(x.value @ W + b, 0) @ V + c
    want = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(scores)), y.value]
    np.testing.assert_allclose(loss.value, want, rtol=1e-5)


@pytest.mark.parametrize("change", ["width", "batch", "dtype", "number", "activation"])
def test_graphs_that_differ_have_plans_of_their_own(fresh: None, change: str) -> None:
    def run(other: bool) -> None:
        edf.clear_compgraph()
        edf.DT = np.float64 if other and change == "dtype" else np.float32
        x = edf.Input(np.ones((3 if other and change == "batch" else 2, 4)))
        w = edf.Parameter(np.ones((4, 6 if other and change == "width" else 5)))
        h = edf.Scale(edf.Matmul(x, w), 0.5 if other and change == "number" else 0.25)
        h = edf.Tanh(h) if other and change == "activation" else edf.Sigmoid(h)
        loss = edf.Mean(h, axis=1)
        for _ in range(5):
            step(loss)
        shown = np.array(loss.value)
        edf.keep("all")
        edf.Forward()
        again = np.array(loss.value)
        edf.keep("looked")
        assert shown.shape == again.shape
        assert not np.array_equal(shown, again), "the step in between had its effect"

    before = edf.plan_stats()["misses"]
    run(False)
    run(True)
    assert edf.plan_stats()["misses"] - before == 2


def test_a_number_of_minus_zero_is_another_number(fresh: None) -> None:
    def run(number: float) -> Any:
        edf.clear_compgraph()
        scaled = edf.Scale(edf.Input(np.ones((2, 3))), number)
        for _ in range(4):
            edf.Forward()
        return np.signbit(scaled.value)

    assert not run(0.0).any()
    assert run(-0.0).all()


def test_a_loss_that_is_looked_at_every_time_is_planned_too(fresh: None) -> None:
    x, y, loss = mlp(SIZES)
    x.value, y.value = examples(6)
    shown = []
    for _ in range(8):
        step(loss)
        shown.append(float(loss.value.mean()))
    assert compiled() > 0
    assert all(a > b for a, b in itertools.pairwise(shown)), "it goes down, step by step"


# Keeping


def test_a_late_look_raises_and_is_kept_from_then_on(fresh: None) -> None:
    x, _, loss = trained(5)
    hidden = edf.CompNodes[1]
    x.value = np.zeros((6, 37))  # the last step is done, without the hidden layer
    with pytest.raises(edf.GraphError, match=r"\[relu\] its value is gone: nobody had looked at it before"):
        _ = hidden.value
    step(loss)
    x.value = np.ones((6, 37))
    assert hidden.value.shape == (6, 11)


@pytest.mark.parametrize("how", ["node", "all"])
def test_what_is_kept_is_there_late(fresh: None, how: str) -> None:
    x, y, loss = mlp(SIZES)
    x.value, y.value = examples(6)
    hidden = edf.CompNodes[1]
    edf.keep(hidden if how == "node" else "all")
    for _ in range(5):
        step(loss)
    x.value = np.zeros((6, 37))
    assert hidden.value.shape == hidden.grad.shape == (6, 11)


def test_a_gradient_that_an_earlier_plan_kept_is_not_shown_as_a_later_one(fresh: None) -> None:
    x, _, loss = trained(2)
    for _ in range(2):  # looked at in the middle: these plans keep all gradients of parameters
        step(loss)
        assert np.isfinite(loss.value).all()
    x.value = np.zeros((6, 37))
    step(loss)
    x.value = np.ones((6, 37))  # the step is run, and nobody has looked
    with pytest.raises(edf.GraphError, match=r"\[Parameter\] its gradient is gone"):
        _ = edf.Parameters[0].grad


def test_keep_of_something_else() -> None:
    with pytest.raises(edf.GraphError, match=r"keep: 'some' is neither a node nor 'all' nor 'looked'\."):
        edf.keep("some")


def test_shapes_are_known_while_a_step_is_put_off(fresh: None) -> None:
    trained(4)
    edf.Forward()
    node = edf.CompNodes[1]
    assert (node.has_value, node.shape, node.dtype) == (True, (6, 11), np.float32)
    assert "(6, 11)" in repr(node)


# Memory


def test_a_loop_allocates_nothing_after_its_third_step(fresh: None, device: str) -> None:
    x, y, loss = mlp(SIZES)
    X, Y = examples(6)
    seen = []
    for i in range(12):
        x.value, y.value = X, Y
        step(loss)
        assert loss.value.shape == (6,)
        seen.append(edf.memory_stats()["allocations"] if i >= 3 else 0)
    per_step = set(np.diff(seen[4:]))
    # On a GPU arrays are on their way there, and what is looked at is on its way back.
    assert per_step == {0} if device == "cpu" else len(per_step) == 1, per_step


def test_twenty_layers_take_less_than_half_of_their_values(fresh: None, device: str) -> None:
    x, y, loss = mlp([100, *[100] * 20, 5])
    x.value, y.value = np.ones((256, 100)), np.zeros(256, int)
    plan = edf.plan(loss)
    step(loss)
    step(loss)
    straight = edf.memory_stats()["bytes"]
    step(loss)
    _core.leave()
    planned = edf.memory_stats()["bytes"]
    values = sum(int(np.prod(n.shape)) for n in edf.CompNodes) * 4
    gradients = values
    assert plan.arena_bytes < (values + gradients) / 2
    assert planned < straight - values / 2, (straight, planned, values)


def test_a_cleared_graph_is_let_go_of(fresh: None, device: str) -> None:
    gc.collect()  # what other tests have left
    alive = edf.live_nodes()
    trained(5)
    edf.Forward()
    edf.clear_compgraph()
    gc.collect()
    assert edf.live_nodes() == alive


# Errors and interrupts


def test_a_bad_label_is_found_when_the_step_is_run_and_changes_nothing(fresh: None) -> None:
    _, y, loss = trained(4)
    before = weights()
    y.value = [0, 1, 2, 9, 0, 1]
    step(loss)
    with pytest.raises(edf.DataError) as caught:
        _ = loss.value
    found = "[log_loss] input 1 holds 9 at position 3: valid values are 0 to 4."
    assert str(caught.value).startswith(found)
    if edf.get_device() == "cpu":  # a GPU finds it out when nobody knows any more which node it was
        where = r" Node made at .*\(Found when the step was run, after the call that asked for it\.\)$"
        assert re.search(where, str(caught.value))
    for now, then in zip(weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    y.value = examples(6)[1]
    step(loss)
    assert np.isfinite(loss.value).all()
    assert not np.array_equal(edf.Parameters[0].value, before[0])


@pytest.mark.parametrize("call", ["steps", "replay"])
def test_a_data_error_names_the_line_of_the_graph_that_runs(fresh: None, call: str) -> None:
    """Not that of the graph which its plan was made of."""
    X, Y = examples(6)

    def run(build: Callable[[Any, Any], Any], labels: Any) -> Any:
        edf.clear_compgraph()
        x, y = edf.Input(X), edf.Input(labels)
        loss = build(edf.Softmax(edf.Affine(edf.AffineParams(37, 5), x)), y)
        if call == "steps":
            step(loss)
            assert np.isfinite(loss.value).all()
        else:
            edf.replay(loss, {x: X, y: labels}, batch_size=6)
        return loss

    def first(p: Any, y: Any) -> Any:
        return edf.LogLoss(p, y)

    def second(p: Any, y: Any) -> Any:
        return edf.LogLoss(p, y)

    for _ in range(4):
        first_loss = run(first, Y)
    made = compiled()
    with pytest.raises(edf.DataError) as caught:
        run(second, [0, 1, 2, 9, 0, 1])
    if edf.get_device() == "cpu":  # a GPU finds it out when nobody knows any more which node it was
        assert f"Node made at {edf.CompNodes[-1].made_at}." in str(caught.value)
    assert edf.CompNodes[-1].made_at != first_loss.made_at
    assert compiled() == made


def test_a_shape_that_does_not_fit_is_found_at_forward(fresh: None) -> None:
    x, _, loss = trained(4)
    x.value = np.zeros((6, 36))
    with pytest.raises(edf.ShapeError, match=r"^\[affine\] x has shape \(6, 36\) and W has shape \(37, 11\)"):
        edf.Forward()
    x.value = np.zeros((6, 37))
    step(loss)
    assert np.isfinite(loss.value).all()


def test_backward_over_no_examples(fresh: None) -> None:
    x, y, loss = mlp(SIZES)
    x.value, y.value = np.zeros((0, 37)), np.zeros(0, int)
    for _ in range(4):
        edf.Forward()
        with pytest.raises(edf.GraphError, match="the loss has no examples"):
            edf.Backward(loss)


INTERRUPTED = """
import signal, sys, threading, time
import numpy as np, edfcore as edf
edf.set_num_threads(1)
x, y = edf.Input(np.ones((100, 200))), edf.Input(np.zeros(100, int))
def net(layers):
    edf.clear_compgraph()
    h = x
    for i in range(layers):
        h = edf.Tanh(edf.Affine([edf.Parameter(np.eye(200) * 0.9), edf.Parameter(np.zeros(200))], h))
    return edf.LogLoss(edf.Softmax(h), y)
def train(loss, steps):
    begin = time.perf_counter()
    for i in range(steps):
        edf.Forward(); edf.Backward(loss); edf.SGD()
    edf.Parameters[0].value
    return time.perf_counter() - begin
layers = int(max(2, min(500, 2 * 0.1 / train(net(2), 1))))  # a step of some 100 ms, however fast this build is
loss = net(layers)
train(loss, 3)
edf.keep(loss)
before = [p.value.copy() for p in edf.Parameters]
begin = time.perf_counter(); edf.Forward(); edf.Backward(loss); edf.SGD(); loss.value
edf.Parameters[0].value
length = time.perf_counter() - begin
before = [p.value.copy() for p in edf.Parameters]
def moved():
    return [not np.array_equal(p.value, q) for p, q in zip(edf.Parameters, before)]
edf.Forward(); edf.Backward(loss); edf.SGD()
timer = threading.Timer(length * float(sys.argv[1]), lambda: signal.raise_signal(signal.SIGINT))
timer.start()
try:
    edf.Parameters[0].value
    timer.join(); time.sleep(0.01)
    print("late")
except KeyboardInterrupt:
    changed = moved()
    print("none" if not any(changed) else "all" if all(changed) else "some")
"""


@pytest.mark.parametrize("when", ["0.1", "0.4"])
def test_ctrl_c_in_the_middle_of_a_step_is_all_or_nothing(when: str) -> None:
    made = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, when], capture_output=True, text=True, check=False
    )
    shown = made.stdout.split()
    assert shown in (["none"], ["late"], ["all"]) or "KeyboardInterrupt" in made.stderr, made.stderr
    assert shown != ["some"]


def test_threads_take_turns(fresh: None) -> None:
    """Looks of another thread, while steps are put off and done, see values of some step and break nothing."""
    _, _, loss = trained(3)
    stop, problems = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            try:
                assert loss.value.shape == (6,)
                assert edf.Parameters[0].grad.shape == (37, 11)
            except edf.GraphError:
                pass  # gone, or not yet there
            except Exception as error:
                problems.append(error)

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(300):
        step(loss)
    stop.set()
    watcher.join()
    assert problems == []


# A graph of thousands of nodes, rebuilt for every minibatch


def test_a_character_lstm_learns_what_the_numpy_edf_learns(fresh: None) -> None:
    text = np.random.default_rng(2).integers(0, 11, (8, 14, 3))
    losses: dict[str, list[float]] = {}
    parameters: dict[str, list[Any]] = {}
    for module, nodes in ((edf, lstm_program.engine_nodes(edf)), (numpy_edf, lstm_program.NUMPY_NODES)):
        m: Any = module
        dt, m.DT, m.learning_rate, m.Parameters = m.DT, np.float64, 0.1, []
        net = lstm_program.CharacterLSTM(m, nodes, 11, 9, 7)
        losses[m.__name__] = [net.step(some) for some in text]
        parameters[m.__name__] = [np.array(p.value) for p in net.parameters]
        m.clear_compgraph()
        m.DT = dt
    np.testing.assert_allclose(losses["edfcore"], losses["numpy_edf"], rtol=0, atol=1e-11)
    for ours, theirs in zip(parameters["edfcore"], parameters["numpy_edf"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11)
