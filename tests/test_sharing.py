"""Memory has one owner: what may be shared, what an update in place does to others, what is borrowed or copied."""

from __future__ import annotations

import array
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
import numpy_edf
from edfcore import Tensor, ops
from edfcore.errors import DTypeError, GraphError

CUDA = pytest.mark.skipif(not edf.cuda.is_available(), reason="needs cuda")
SCORES, LABELS = [[1.0, 2.0], [0.5, -1.0]], np.array([0, 1])
STEP = [[5.0, -5.0], [3.0, 1.0]]


def leaf(data: Any) -> Tensor:
    return Tensor(np.array(data, np.float32), requires_grad=True)


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


# Updates in place between a forward and a backward pass


def test_an_update_through_detach_is_seen_by_backward(device: str) -> None:
    w = leaf([3.0])
    y = w * w
    ops.sgd(w.detach(), Tensor([1.0]), 1.0)
    assert w.numpy().tolist() == [2.0]
    with pytest.raises(GraphError, match="updated in place"):
        y.backward()
    assert w.grad is None


def test_a_loss_refuses_backward_once_its_scores_were_updated(device: str) -> None:
    s = leaf(SCORES)
    loss = ops.log_loss(ops.softmax(s), LABELS)
    ops.sgd(s, Tensor(STEP), 1.0)
    with pytest.raises(GraphError, match="updated in place"):
        loss.sum().backward()
    s.grad = None
    ops.log_loss(ops.softmax(s), LABELS).sum().backward()
    expected = ops.softmax(s).numpy() - np.eye(2, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(s.grad.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_loss_is_that_of_the_probabilities_it_is_given(requires_grad: bool, device: str) -> None:
    """Whatever happened to the scores since."""
    s = Tensor(SCORES, requires_grad=requires_grad)
    p = ops.softmax(s)
    old = p.numpy().copy()
    ops.sgd(s, Tensor(STEP), 1.0)
    np.testing.assert_array_equal(p.numpy(), old)
    loss = ops.log_loss(p, LABELS)
    np.testing.assert_allclose(loss.numpy(), -np.log(old[[0, 1], LABELS]), rtol=1e-6)


@pytest.mark.parametrize("view", [False, True], ids=["itself", "a reshape"])
def test_a_computed_value_is_not_updated_in_place(view: bool, device: str) -> None:
    x = leaf([1.0, 2.0])
    y = ops.exp(x)
    target = ops.reshape(y, (1, 2)) if view else y
    before = y.numpy().copy()
    with pytest.raises(GraphError, match="only a leaf can be updated in place"):
        ops.sgd(target, Tensor(ones(*target.shape)), 1.0)
    y.backward(ones(2))
    np.testing.assert_array_equal(y.numpy(), before)
    np.testing.assert_array_equal(x.grad.numpy(), before)


# Gradients


def test_two_leaves_do_not_share_one_gradient(device: str) -> None:
    a, b = leaf([1.0]), leaf([1.0])
    (a + b).backward()
    ops.sgd(a.grad, Tensor([1.0]), 5.0)
    assert a.grad.numpy().tolist() == [-4.0]
    assert b.grad.numpy().tolist() == [1.0]


def test_a_given_gradient_stays_as_it_was_given(device: str) -> None:
    x, seed = leaf([1.0, 2.0]), Tensor([1.0, 2.0])
    (x + 0).backward(seed)
    ops.sgd(x.grad, Tensor([1.0, 1.0]), 5.0)
    assert seed.numpy().tolist() == [1.0, 2.0]
    x.grad = seed
    ops.sgd(x.grad, Tensor([1.0, 1.0]), 5.0)
    assert x.grad.numpy().tolist() == [-4.0, -3.0]
    assert seed.numpy().tolist() == [1.0, 2.0]


def test_a_tensor_as_its_own_gradient_is_freed(device: str) -> None:
    gc.collect()  # what other tests have left
    before = edf.live_nodes()
    for _ in range(10):
        x = Tensor([1.0])
        x.grad = x
        assert x.grad.numpy().tolist() == [1.0]
    del x
    gc.collect()
    assert edf.live_nodes() == before


@pytest.mark.parametrize("shape", [(), (2,)])
def test_a_node_without_a_value_is_no_gradient(shape: tuple[int, ...], device: str) -> None:
    node = edf.Relu(edf.Input())
    x = Tensor(ones(*shape), requires_grad=True)
    with pytest.raises(GraphError, match="no value yet"):
        x.grad = node
    with pytest.raises(GraphError, match="no value yet"):
        (x * 2).backward(node)
    assert x.grad is None


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.bool_])
def test_what_is_not_floating_takes_no_gradient(dtype: Any) -> None:
    x = Tensor(np.array([1], dtype))
    with pytest.raises(DTypeError, match="only floating-point tensors"):
        x.requires_grad = True
    assert not x.requires_grad
    x.requires_grad = False


def test_a_gradient_that_a_node_keeps_is_its_own(device: str) -> None:
    """A user's node may write into the gradient it was handed, whenever it likes: no parameter moves by that."""
    a, b = edf.Parameter(ones(2)), edf.Parameter(ones(2))
    total, kept = edf.Add(a, b), []

    class User:
        def __init__(self, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x

        def forward(self) -> None:
            self.value = self.x.value * 1

        def backward(self) -> None:
            self.x.addgrad(self.grad)
            g = self.x.grad
            kept.append(g)

    loss = User(total)
    edf.learning_rate = 1.0
    edf.Forward()
    edf.Backward(loss)
    kept[-1][:] = 99
    edf.SGD()
    np.testing.assert_array_equal(a.value, [0.5, 0.5])
    np.testing.assert_array_equal(b.value, [0.5, 0.5])


# Arrays that somebody else owns


def frozen() -> Any:
    values = np.arange(1, 5, dtype=np.float32)
    values.setflags(write=False)
    return values


READ_ONLY: dict[str, Callable[[], Any]] = {
    "frombuffer": lambda: np.frombuffer(np.arange(1, 5, dtype=np.float32).tobytes(), np.float32),
    "write=False": frozen,
    "numpy()": lambda: Tensor([1.0, 2.0, 3.0, 4.0]).numpy(),
    "broadcast": lambda: np.broadcast_to(np.float32(1), (4,)),
}


@pytest.mark.parametrize("make", READ_ONLY.values(), ids=READ_ONLY)
def test_read_only_arrays_are_values_and_stay_as_they_are(make: Any, device: str) -> None:
    class Host:
        value = make()

    values, host = make(), Host()
    assert not values.flags.writeable
    before = values.copy()
    x = edf.Input()
    x.value = values
    nodes = [edf.Relu(x), edf.Relu(host), edf.Scale(edf.Parameter(values), 1.0)]
    edf.Forward()
    for node in nodes:
        np.testing.assert_array_equal(node.value, before)
    edf.learning_rate = 1.0
    edf.Backward(nodes[2])
    edf.SGD()
    t = Tensor(values)
    np.testing.assert_array_equal(t.numpy(), before)
    ops.sgd(t, Tensor(ones(4)), 1.0)
    np.testing.assert_array_equal(t.numpy(), before - 1)
    np.testing.assert_array_equal(values, before)
    np.testing.assert_array_equal(host.value, before)


class Matrix(np.ndarray[Any, Any]):
    pass


class Wrapped:
    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values

    def __setitem__(self, i: int, x: float) -> None:
        self.values[i] = x


OWNED: dict[str, Callable[[], Any]] = {
    "array": lambda: ones(3),
    "array.array": lambda: array.array("f", [1, 1, 1]),
    "memoryview": lambda: memoryview(array.array("f", [1, 1, 1])),
    "subclass": lambda: ones(3).view(Matrix),
    "__array__": lambda: Wrapped(ones(3)),
}


@pytest.mark.parametrize("make", OWNED.values(), ids=OWNED)
def test_a_tensor_copies_what_it_is_made_of(make: Any, device: str) -> None:
    theirs = make()
    ours = Tensor(theirs)
    theirs[0] = 9
    np.testing.assert_array_equal(ours.numpy(), [1, 1, 1])
    ops.sgd(ours, Tensor(ones(3)), 1.0)
    np.testing.assert_array_equal(ours.numpy(), [0, 0, 0])
    np.testing.assert_array_equal(np.asarray(theirs), [9, 1, 1])


def test_a_constant_of_a_graph_is_a_copy(device: str) -> None:
    constant = ones(3).view(Matrix)
    total = edf.Add(edf.Parameter(ones(3)), constant)
    constant[0] = 100
    edf.Forward()
    np.testing.assert_array_equal(total.value, [2, 2, 2])


@CUDA
def test_on_cuda_a_reshape_and_its_input_hand_out_arrays_of_their_own() -> None:
    with edf.device("cuda"):
        x = edf.Input(np.array([1.0, 2.0]))
        h = edf.Scale(x, 1.0)
        r = edf.Reshape(h, (2, 1))
        of_r, of_h = edf.Scale(r, 1.0), edf.Scale(h, 1.0)
        edf.Forward()
        theirs = h.value
        theirs[:] = 7
        of_h.forward()
        of_r.forward()
        np.testing.assert_array_equal(of_h.value, [7, 7])
        np.testing.assert_array_equal(of_r.value, [[1], [2]])
        np.testing.assert_array_equal(r.value, [[1], [2]])
        r.forward()
        of_r.forward()
        np.testing.assert_array_equal(of_r.value, [[7], [7]])


# Values assigned by hand


def test_a_failed_assignment_leaves_the_loss_stable(device: str) -> None:
    """Without the scores, the loss of a probability of e^-200 would be infinite."""
    x, y = edf.Input(np.array([[200.0, 0.0]])), edf.Input(np.array([1]))
    Q = edf.Softmax(x)
    loss = edf.LogLoss(Q, y)
    edf.Forward()
    with pytest.raises(DTypeError):
        Q.value = "bad"
    loss.forward()
    np.testing.assert_array_equal(Q.value, [[1, 0]])
    np.testing.assert_array_equal(loss.value, [200])


def test_probabilities_assigned_after_forward_are_those_of_backward(device: str) -> None:
    def gradients(module: Any) -> list[Any]:
        module.clear_compgraph()
        x, y = module.Input(), module.Input()
        x.value, y.value = np.array(SCORES), LABELS
        scores = module.Tanh(x)
        Q = module.Softmax(scores)
        loss = module.LogLoss(Q, y)
        module.Forward()
        Q.value = np.array([[0.9, 0.1], [0.25, 0.75]], np.float32)
        module.Backward(loss)
        return [np.array(Q.grad), np.array(scores.grad)]

    for ours, theirs in zip(gradients(edf), gradients(numpy_edf), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    numpy_edf.clear_compgraph()
