"""Saying where things live: for a block, for a tensor, an input or a parameter, and by moving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import ops

NAMES = {"cpu": "cpu", "cuda": "cuda:0"}
A = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)


@pytest.fixture
def other(device: str) -> str:
    """The device under test, while another one is current where there is one."""
    edf.set_device("cpu")
    return device


def test_blocks_nest_and_go_back(other: str) -> None:
    with edf.device(other):
        assert edf.get_device() == NAMES[other]
        with edf.device("cpu"):
            assert edf.Tensor(A).device == edf.get_device() == "cpu"
        assert edf.Tensor(A).device == edf.get_device() == NAMES[other]
        with pytest.raises(KeyError), edf.device("cpu"):
            raise KeyError
        assert edf.get_device() == NAMES[other]
    assert edf.get_device() == "cpu"


WRONG: dict[str, Callable[[str], Any]] = {
    "set_device": edf.set_device,
    "device": lambda name: edf.device(name).__enter__(),
    "tensor": lambda name: edf.Tensor(A, device=name),
    "input": lambda name: edf.Input(device=name),
    "parameter": lambda name: edf.Parameter(A, device=name),
    "params": lambda name: edf.AffineParams(2, 3, device=name),
    "to": lambda name: edf.Tensor(A).to(name),
    "memory_stats": edf.memory_stats,
}


@pytest.mark.parametrize("way", WRONG)
@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:123", "cpu:0"])
def test_unknown_names(way: str, name: str) -> None:
    with pytest.raises(edf.DeviceError) as caught:
        WRONG[way](name)
    assert caught.value.args[0] == f'no device is called \'{name}\': use "cpu", "cuda" or "cuda:0".'
    assert edf.get_device() == "cpu"
    assert edf.Parameters == []


@pytest.mark.parametrize("way", WRONG)
def test_devices_that_are_not_there(way: str) -> None:
    with pytest.raises(edf.DeviceError, match=r"there is no cuda:15|CUDA is not available"):
        WRONG[way]("cuda:15")
    assert edf.get_device() == "cpu"
    assert edf.Parameters == []


def test_a_tensor_is_made_where_it_is_said(other: str) -> None:
    x = edf.Tensor(A, device=other, requires_grad=True)
    assert x.device == NAMES[other]
    y = ops.square(x) @ np.ones((2, 1), np.float32) * 2.0
    assert y.device == NAMES[other]
    y.sum().backward()
    assert x.grad.device == NAMES[other]
    assert np.array_equal(x.grad.numpy(), 4 * A)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_a_tensor_moves(dtype: Any, other: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    x = edf.Tensor(values)
    there = x.to(other)
    assert (there.device, there.dtype) == (NAMES[other], values.dtype)
    assert np.array_equal(there.numpy(), values)
    assert (there is x) == (other == "cpu")
    assert there.to(other) is there
    assert np.array_equal((there + there).to("cpu").numpy(), 2 * values)
    assert np.array_equal(x.numpy(), values)


def test_a_moved_tensor_can_learn(other: str) -> None:
    x = edf.Tensor(A).to(other)
    x.requires_grad = True
    ops.square(x).sum().backward()
    assert np.array_equal(x.grad.to("cpu").numpy(), 2 * A)


def test_gradients_do_not_move(other: str) -> None:
    x = edf.Tensor(A, requires_grad=True)
    if other == "cpu":
        assert ops.neg(x).to(other).requires_grad
        return
    with pytest.raises(edf.GraphError) as caught:
        ops.neg(x).to(other)
    assert caught.value.args[0] == (
        'Tensor.to: gradients stay on their device, and this tensor requires one: use detach().to("cuda:0").'
    )
    assert np.array_equal(ops.neg(x).detach().to(other).numpy(), -A)
    with edf.no_grad():
        assert np.array_equal(x.to(other).numpy(), A)


def test_moving_tells_of_bad_labels(other: str) -> None:
    with pytest.raises(edf.DataError, match="holds 5"):
        ops.log_loss_scores(edf.Tensor(A, device=other), np.array([0, 5])).to("cpu")


class Doubled(edf.CompNode):
    def __init__(self, x: Any) -> None:
        edf.CompNodes.append(self)
        self.x = x

    def forward(self) -> None:
        self.value = 2 * self.x.value

    def backward(self) -> None:
        self.x.addgrad(2 * self.grad)


class Apart:
    """A node without a base class, which holds what it reads in objects of its own."""

    def __init__(self, **held: Any) -> None:
        edf.CompNodes.append(self)
        self.large, self.held = list(range(5000)), [{"inputs": held}]
        self.itself = self

    def forward(self) -> None:
        self.value = sum(x.value for x in self.held[0]["inputs"].values())

    def backward(self) -> None:
        for x in self.held[0]["inputs"].values():
            x.addgrad(self.grad)


@pytest.mark.parametrize("make", [Doubled, lambda x: Doubled(Doubled(x)), lambda x: Apart(x=x)])
def test_a_node_that_reads_nodes_in_numpy_alone_lives_where_those_do(make: Any, other: str) -> None:
    x = edf.Input(A, device=other)
    w = edf.Parameter(A, device=other)
    h = edf.Abs(x)
    own = make(h)
    y = edf.Mul(edf.Square(own), w)
    loss = edf.Sum(y, axis=1)
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        n = own.value / abs(A)
        np.testing.assert_array_equal(y.value, A**3 * n**2)
        np.testing.assert_array_equal(w.grad, A**2 * n**2 / 2)
        np.testing.assert_array_equal(h.grad, n**2 * abs(A) * A)


def test_a_node_that_reads_nothing_of_the_engine_lives_where_we_are(other: str) -> None:
    own = Apart(x=Apart())
    own.value = A
    with edf.device(other):
        y = edf.Mul(edf.Square(own), edf.Parameter(A))
    edf.CompNodes[:2] = []
    edf.Forward()
    np.testing.assert_array_equal(y.value, A**3)


def train(device: str | None, own: bool) -> list[Any]:
    """A graph whose inputs and parameters say where they live; numbers, arrays and user nodes follow them."""
    edf.clear_compgraph()
    edf.seed(3)
    edf.learning_rate = 0.1
    x, y = edf.Input(device=device), edf.Input(device=device)
    params = [edf.AffineParams(2, 5, device=device), edf.AffineParams(5, 3, device=device)]
    h = edf.Mul(edf.Relu(edf.Affine(params[0], x)), 0.5)
    if own:
        h = Doubled(h)
    s = edf.Affine(params[1], edf.Add(h, np.ones(5)) if not own else h)
    loss = edf.LogLoss(edf.Softmax(s), y)
    found = []
    for i in range(6):
        x.value, y.value = np.random.default_rng(i).normal(size=(4, 2)), np.arange(4) % 3
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        found.append(loss.value.copy())
    assert {node.device for node in (x, y, s, loss)} == {NAMES[device or "cpu"]}
    assert {p.device for p in edf.Parameters} == {NAMES[device or "cpu"]}
    return [*found, *(p.value.copy() for p in edf.Parameters)]


@pytest.mark.parametrize("own", [False, True])
def test_a_graph_lives_where_its_inputs_do(own: bool, other: str) -> None:
    named = train(other, own)
    with edf.device(other):
        current = train(None if other == "cpu" else other, own)
    assert all(np.array_equal(a, b) for a, b in zip(named, current, strict=True))
    want = train(None, own)
    assert all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(named, want, strict=True))


def test_a_bad_label_is_found_where_the_graph_lives(other: str) -> None:
    x, y = edf.Input(A, device=other), edf.Input(np.array([0, 9]), device=other)
    loss = edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(2, 3, device=other), x)), y)

    def step() -> None:
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        edf.Forward()

    with pytest.raises(edf.DataError, match="holds 9"):
        step()
