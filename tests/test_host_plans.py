"""Graphs with nodes in NumPy run by plans between those nodes, and show what they show node by node, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core
from plan_programs import examples, mlp


@pytest.fixture(autouse=True)
def looked(device: str) -> Iterator[None]:
    _core.empty_cache(device)
    yield
    edf.keep("looked")


class Wave(edf.CompNode):
    """sin x, and what a test has its methods do besides."""

    def __init__(self, x: Any, forward: Any = None, backward: Any = None) -> None:
        edf.CompNodes.append(self)
        self.x, self.also = x, (forward, backward)

    def forward(self) -> None:
        self.value = np.sin(self.x.value)
        if self.also[0]:
            self.also[0]()

    def backward(self) -> None:
        self.x.addgrad(self.grad * np.cos(self.x.value))
        if self.also[1]:
            self.also[1]()


class Mean:
    """The mean over axis 1, without a base class."""

    grad: Any

    def __init__(self, x: Any) -> None:
        edf.CompNodes.append(self)
        self.x = x

    def forward(self) -> None:
        self.value = self.x.value.mean(axis=1)

    def backward(self) -> None:
        self.x.grad += self.grad[:, np.newaxis] / self.x.value.shape[1]


def segments() -> int:
    return edf.plan_stats()["segments"]


Program = Callable[[Callable[[Any], None]], Any]  # takes `see`, makes a graph, and returns its loss


def train(program: Program, steps: int, after: Any = None, batch: int = 6) -> list[Any]:
    """Train it for some steps; return what was seen, and in the end the parameters."""
    seen: list[Any] = []

    def see(array: Any) -> None:
        seen.append(np.array(array))

    edf.clear_compgraph()
    edf.learning_rate = 0.1
    loss = program(see)
    for i in range(steps):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        see(loss.value)
        if after:
            after(i)
    return [*seen, *(np.array(p.value) for p in edf.Parameters)]


def compare(program: Program, steps: int = 8, after: Any = None) -> int:
    """Assert that plans show what is seen node by node; return how many segments they ran."""
    edf.keep("all")
    want = train(program, steps, after)
    edf.keep("looked")
    _core.empty_cache(edf.get_device())
    before = segments()
    for threads in (1, 3):
        edf.set_num_threads(threads)
        got = train(program, steps, after)
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert np.array_equal(a, b, equal_nan=True)
    return segments() - before


def waves(activation: Any = Wave, widths: tuple[int, ...] = (37, 11, 9, 5)) -> Any:
    x, y, loss = mlp(list(widths), activation)
    x.value, y.value = examples(6)
    return loss


def test_a_classifier_is_planned_from_the_third_step_on(device: str) -> None:
    steps, parts = 8, 3  # the first Affine; the second; the third with its loss
    planned = compare(lambda see: waves(), steps)
    assert planned == 2 * parts * (steps - 2) + 2 * parts * steps  # the second time its plans are found


def test_plans_are_found_again_by_rebuilt_graphs(device: str) -> None:
    values: list[Any] = []

    def run() -> None:
        edf.clear_compgraph()
        loss = waves()
        for p, value in zip(edf.Parameters, values, strict=bool(values)):
            p.value = value
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        values[:] = [p.value.copy() for p in edf.Parameters]

    shown = []
    for how in ("all", "looked"):
        edf.keep(how)
        values.clear()
        edf.learning_rate = 0.1
        before = edf.plan_stats()
        for _ in range(9):
            run()
        shown.append(list(values))
        after = edf.plan_stats()
    for a, b in zip(*shown, strict=True):
        assert np.array_equal(a, b)
    assert after["segments"] - before["segments"] == 7 * 6
    assert after["compiled"] - before["compiled"] <= 12


@pytest.mark.parametrize("place", ["beginning", "end", "two in a row", "reads an input", "everywhere"])
def test_hosts_in_every_place(place: str, device: str) -> None:
    def program(see: Any) -> Any:
        x = edf.Input(examples(6)[0])
        w = edf.AffineParams(37, 9)
        h: Any = Wave(x) if place in {"beginning", "everywhere"} else x
        h = edf.Tanh(edf.Add(edf.Affine(w, h), edf.Square(edf.Affine(w, h))))
        if place in {"two in a row", "everywhere"}:
            h = Wave(Wave(h))
        if place in {"reads an input", "everywhere"}:
            h = edf.Affine(edf.AffineParams(46, 9), edf.Concat(h, Wave(x), axis=1))
        h = edf.Mul(edf.Sigmoid(h), edf.Softplus(edf.Sub(h, edf.Square(h))))
        return Mean(h) if place in {"end", "everywhere"} else edf.Mean(h, axis=1)

    def fresh(see: Any) -> Any:
        edf.seed(3)
        return program(see)

    assert compare(fresh) > 20


def test_a_graph_whose_nodes_are_all_in_numpy(device: str) -> None:
    def program(see: Any) -> Any:
        return Mean(Wave(edf.Parameter(np.ones((2, 3)))))

    assert compare(program) == 0


def test_late_looks_of_a_host(device: str) -> None:
    """From some step on it reads a value, a gradient and a parameter that it has not read before."""

    def program(see: Any) -> Any:
        count = [0]

        def forward() -> None:
            count[0] += 1
            if count[0] > 4:
                see(h[0].value)
                see(edf.Parameters[0].value)

        def backward() -> None:
            if count[0] > 5:
                see(h[1].grad)
                see(h[0].value)
                see(edf.Parameters[-1].grad)

        edf.seed(3)
        x = edf.Input(examples(6)[0])
        h = [edf.Affine(edf.AffineParams(37, 9), x)]
        h += [edf.Sigmoid(h[0]), edf.Exp(edf.Neg(edf.Square(h[0])))]
        a = Wave(edf.Mul(h[1], h[2]), forward, backward)
        return edf.Mean(edf.Affine(edf.AffineParams(9, 4), a), axis=1)

    assert compare(program) > 20


def test_a_gradient_that_is_looked_at_late_is_gone_once(device: str) -> None:
    loss = waves()
    hidden = edf.CompNodes[-3]  # the last Affine
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    with pytest.raises(edf.GraphError, match=r"\[affine\] its gradient is gone"):
        _ = hidden.grad
    edf.Forward()
    edf.Backward(loss)
    assert hidden.grad.shape == hidden.shape


def test_values_are_computed_when_they_are_looked_at_late(device: str) -> None:
    def program(see: Any) -> Any:
        edf.seed(3)
        h: Any = edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0]))
        nodes[:] = [h, edf.Square(h)]
        h = Wave(edf.Mul(edf.Sigmoid(nodes[1]), edf.Exp(edf.Neg(nodes[1]))))
        return edf.Mean(h, axis=1)

    nodes: list[Any] = []
    shown = []
    for how in ("all", "looked"):
        edf.keep(how)
        edf.clear_compgraph()
        program(None)
        for _ in range(5):
            edf.Forward()
        assert [n.shape for n in edf.CompNodes[:2]] == [(6, 9)] * 2
        shown.append([n.value.copy() for n in edf.CompNodes])
    for a, b in zip(*shown, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("way", ["adds", "adds later", "sets", "sets a parameter's", "in place"])
def test_a_host_changes_gradients_of_others(way: str, device: str) -> None:
    def program(see: Any) -> Any:
        count = [0]

        def backward() -> None:
            count[0] += 1
            if way == "adds" or (way == "adds later" and count[0] > 4):
                h[0].addgrad(0.5 * h[0].value)
            elif way == "sets":
                h[1].grad = 0.25 * h[1].value
            elif way == "sets a parameter's":
                edf.Parameters[0].grad = 0.01 * edf.Parameters[0].value
            elif way == "in place":
                h[1].grad[:] *= 0.5

        edf.seed(3)
        x = edf.Input(examples(6)[0])
        h = [edf.Affine(edf.AffineParams(37, 9), x)]
        h += [edf.Mul(edf.Sigmoid(h[0]), edf.Square(h[0]))]
        a = Wave(h[1], None, backward)
        return edf.Mean(edf.Add(edf.Affine(edf.AffineParams(9, 9), a), h[0]), axis=1)

    assert compare(program) > 20


def test_a_host_writes_what_it_was_handed(device: str) -> None:
    """Into a value after its consumers ran, and before others do; later it looks at what came of it."""

    def program(see: Any) -> Any:
        count = [0]

        def forward() -> None:
            count[0] += 1
            h[0].value[...] *= 0.5
            if count[0] > 5:
                see(h[1].value)

        edf.seed(3)
        h = [edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0]))]
        h += [edf.Neg(h[0])]
        a = Wave(edf.Exp(h[1]), forward)
        return edf.Mean(edf.Add(a, h[0]), axis=1)

    assert compare(program) > 20


def test_a_host_returns_another_shape_and_dtype(device: str) -> None:
    class Narrow(Wave):
        count = 0

        def forward(self) -> None:
            Narrow.count += 1
            self.cut = 9 if Narrow.count % 5 else 4
            self.value = np.sin(self.x.value[:, : self.cut]).astype(np.float32 if Narrow.count % 3 else np.float64)

        def backward(self) -> None:
            wide = np.zeros_like(self.x.value)
            wide[:, : self.cut] = self.grad
            self.x.addgrad(wide)

    def program(see: Any) -> Any:
        Narrow.count = 0
        edf.seed(3)
        h = Narrow(edf.Tanh(edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0]))))
        return edf.Mean(edf.Sigmoid(edf.Square(edf.Exp(edf.Neg(h)))), axis=1)

    assert compare(program, steps=20) > 40


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_what_a_host_raises_comes_out_and_changes_nothing(where: str, device: str) -> None:
    class Trouble(Exception):
        pass

    def run() -> list[Any]:
        edf.clear_compgraph()
        count = [0]

        def trouble() -> None:
            count[0] += 1
            if count[0] == 5:
                raise Trouble

        loss = waves(lambda x: Wave(x, *([trouble, None] if where == "forward" else [None, trouble])))
        for _ in range(8):
            before = [p.value.copy() for p in edf.Parameters]
            try:
                edf.Forward()
                edf.Backward(loss)
                edf.SGD()
            except Trouble:
                for now, then in zip(edf.Parameters, before, strict=True):
                    assert np.array_equal(now.value, then)
        return [loss.value.copy(), *(p.value.copy() for p in edf.Parameters)]

    edf.learning_rate = 0.1
    edf.keep("all")
    want = run()
    edf.keep("looked")
    before = segments()
    for a, b in zip(run(), want, strict=True):
        assert np.array_equal(a, b)
    assert segments() > before


def test_a_data_error_in_a_segment(device: str) -> None:
    loss = waves()
    labels = loss.y
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    before = [p.value.copy() for p in edf.Parameters]
    good, labels.value = labels.value.copy(), [0, 1, 2, 9, 0, 1]
    with pytest.raises(edf.DataError, match=r"^\[log_loss\] input 1 holds 9 at position 3"):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    for now, then in zip(edf.Parameters, before, strict=True):
        assert np.array_equal(now.value, then)
    labels.value = good
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()
    assert np.isfinite(loss.value).all()


@pytest.mark.parametrize("other", ["plain", "mixed", "replay", "tensors"])
def test_a_host_runs_something_else_meanwhile(other: str, device: str) -> None:
    def program(see: Any) -> Any:
        def meanwhile() -> None:
            if other == "tensors":
                return see((edf.Tensor(np.ones((2, 3))) * 2.5).sum().numpy())
            ours = edf.CompNodes, edf.Parameters
            edf.CompNodes, edf.Parameters = [], []
            x = edf.Input(np.ones((5, 3)))
            h: Any = edf.Tanh(edf.Mul(edf.Parameter(np.ones((1, 3))), x))
            loss = edf.Mean(Wave(h) if other == "mixed" else h, axis=1)
            if other == "replay":
                edf.replay(loss, {x: np.ones((5, 3))})
            else:
                for _ in range(4):
                    edf.Forward()
                    edf.Backward(loss)
                    edf.SGD()
            see(edf.Parameters[0].value)
            edf.CompNodes, edf.Parameters = ours

        return waves(lambda x: Wave(x, meanwhile, meanwhile))

    planned = compare(program)
    assert planned > 20 or other != "tensors"


def test_the_list_changes_in_the_middle(device: str) -> None:
    def program(see: Any) -> Any:
        count = [0]

        def forward() -> None:
            count[0] += 1
            if count[0] == 5:
                edf.CompNodes.insert(edf.CompNodes.index(loss), spare)
            if count[0] == 7:
                edf.CompNodes.remove(spare)

        h = edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0]))
        w = Wave(edf.Tanh(h), forward)
        loss = edf.Mean(edf.Exp(edf.Neg(w)), axis=1)
        spare = edf.Tanh(h)
        edf.CompNodes.remove(spare)
        return loss

    def fresh(see: Any) -> Any:
        edf.seed(3)
        return program(see)

    assert compare(fresh) > 0


def test_parameters_change_between_the_calls(device: str) -> None:
    """By hand, by a parameter's own SGD, and by one that is the user's from the ground up."""

    class Halved(edf.Parameter):
        def SGD(self) -> None:
            self.value = self.value - 0.5 * edf.learning_rate * self.grad

    class Own:
        def __init__(self, value: Any) -> None:
            edf.Parameters.append(self)  # type: ignore[arg-type]
            self.value: Any = value
            self.grad: Any = 0

        def addgrad(self, delta: Any) -> None:
            self.grad = self.grad + np.sum(delta, axis=0)

        def SGD(self) -> None:
            self.value = self.value - edf.learning_rate * self.grad

    def program(see: Any) -> Any:
        edf.seed(3)
        w = Halved(np.linspace(-1, 1, 37 * 9).reshape(37, 9))
        h = edf.Affine([w, edf.Parameter(np.zeros(9))], edf.Input(examples(6)[0]))
        h = edf.Tanh(edf.Matmul(Wave(edf.Tanh(h)), Own(np.eye(9, dtype=np.float32))))
        return edf.Mean(edf.Square(h), axis=1)

    def after(i: int) -> None:
        if i % 3 == 0:
            edf.Parameters[1].value *= 0.5
        if i % 3 == 1:
            edf.Parameters[0].value = 0.5 * edf.Parameters[0].value

    assert compare(program, after=after) > 20


def test_a_loss_that_fuses_across_a_host(device: str) -> None:
    """Labels that are an object's begin a segment after the softmax that the loss is computed with."""

    class Labels:
        value = examples(6)[1]

    labels = Labels()

    def program(see: Any) -> Any:
        edf.seed(3)
        h = Wave(edf.Affine(edf.AffineParams(37, 9), edf.Input(examples(6)[0])))
        return edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(9, 5), h)), labels)

    assert compare(program) == 0  # node by node


def test_memory_does_not_grow(device: str) -> None:
    loss, seen = waves(), []
    for _ in range(12):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        stats = edf.memory_stats()
        seen.append((stats["allocations"], stats["bytes"], stats["peak_bytes"]))
    per_step = {b[0] - a[0] for a, b in zip(seen[5:], seen[6:], strict=False)}
    assert len(per_step) == 1
    assert len({s[1:] for s in seen[5:]}) == 1


def test_evaluation_between_training_steps(device: str) -> None:
    """Other batch sizes, Forward alone, and gradients of several Backwards for one Forward."""

    def program(see: Any) -> Any:
        loss = waves()
        state[:] = [see, loss]
        return loss

    state: list[Any] = []

    def after(i: int) -> None:
        see, loss = state
        x, y = edf.CompNodes[0].x, loss.y
        for n in (9, 4):
            x.value, y.value = examples(n)
            edf.Forward()
            see(loss.value)
        x.value, y.value = examples(6)
        edf.Forward()
        for _ in range(2):
            edf.Backward(loss)
            see(edf.Parameters[0].grad)

    assert compare(program, after=after) > 50
