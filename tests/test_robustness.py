"""Programs that go wrong, or are odd, leave a usable engine: sizes, interrupts, odd objects, forks, threads."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import Tensor, ops
from edfcore.errors import DataError, DTypeError, GraphError, ShapeError
from test_lifetime import run_python


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


class Own:
    """A parameter of the user's that has but a value, a gradient and addgrad."""

    def __init__(self, value: Any) -> None:
        edf.Parameters.append(self)
        self.value = value
        self.interrupted = False

    def addgrad(self, delta: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.grad = self.grad + delta.sum(0)

    def SGD(self) -> None:
        self.value = self.value - edf.learning_rate * self.grad


# Sizes and numbers


@pytest.mark.parametrize("shape", [(2**61,), (2**32, 2**32), (2**62, 2), (2**21, 2**21, 2**21)])
def test_shapes_beyond_memory_are_refused(shape: tuple[int, ...], device: str) -> None:
    x = Tensor(ones(1))
    with pytest.raises(ShapeError, match="too many elements"):
        ops.broadcast_to(x, shape)
    with pytest.raises(ShapeError, match="too many elements"):
        ops.reshape(x, shape)
    node = edf.BroadcastTo(edf.Input(ones(1)), shape)
    with pytest.raises(ShapeError, match="too many elements"):
        node.forward()
    np.testing.assert_array_equal((x + x).numpy(), [2])


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
def test_whole_numbers_beside_int64_are_exact(number: int, device: str) -> None:
    assert (Tensor(np.array([0], np.int64)) + number).numpy().tolist() == [number]


@pytest.mark.parametrize(
    ("dtype", "number"),
    [(np.uint8, 300), (np.uint8, -1), (np.int32, 1e20), (np.int32, 2**31), (np.int64, float("inf"))],
)
def test_a_number_that_an_integer_dtype_cannot_hold_is_refused(dtype: Any, number: Any, device: str) -> None:
    with pytest.raises(DTypeError, match="the number"):
        Tensor(np.array([1], dtype)) + number


# Passes that end early


@pytest.mark.parametrize("interrupted", [0, 1])
def test_an_interrupted_backward_leaves_nothing_to_the_next(interrupted: int, device: str) -> None:
    W, b = Own(ones(1, 1)), Own(ones(1))
    parameters = [W, b]
    loss = edf.Sum(edf.Affine(parameters, edf.Input(ones(1, 1))))
    edf.Forward()
    parameters[interrupted].interrupted = True
    with pytest.raises(KeyboardInterrupt):
        edf.Backward(loss)
    parameters[interrupted].interrupted = False
    edf.learning_rate = 0.5
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()
    np.testing.assert_array_equal(W.value, [[0.5]])
    np.testing.assert_array_equal(b.value, [0.5])


def test_a_bad_label_moves_no_parameter_and_good_steps_follow(device: str) -> None:
    """On a GPU the label is seen when SGD waits for the step; on the CPU at once."""
    W, b = edf.Parameter(np.zeros((2, 2))), edf.Parameter(np.zeros(2))
    x, y = edf.Input(ones(1, 2)), edf.Input(np.array([7]))
    loss = edf.LogLoss(edf.Softmax(edf.Affine([W, b], x)), y)
    edf.learning_rate = 1.0
    if device == "cpu":
        with pytest.raises(DataError):
            edf.Forward()
    else:
        edf.Forward()
        edf.Backward(loss)
        with pytest.raises(DataError):
            edf.SGD()
    assert not W.value.any()
    assert not b.value.any()
    y.value = np.array([0])
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()
    np.testing.assert_allclose(loss.value, [np.log(2)], rtol=1e-6)
    np.testing.assert_array_equal(W.value, [[0.5, -0.5]] * 2)
    np.testing.assert_array_equal(b.value, [0.5, -0.5])


# Objects that are not quite nodes


def test_an_overridden_addgrad_of_an_engine_node_is_called(device: str) -> None:
    given = []

    class Clip(edf.Relu):
        def addgrad(self, delta: Any) -> None:
            given.append(np.array(delta))
            super().addgrad(np.clip(delta, -1, 1))

    w = edf.Parameter(2 * ones(2, 3))
    a = Clip(w)
    loss = edf.Sum(edf.Scale(a, 10.0), axis=1)
    for value in (2.0, 5.0):
        w.value = value * ones(2, 3)
        edf.Forward()
        np.testing.assert_array_equal(loss.value, [30 * value] * 2)
        edf.Backward(loss)
        np.testing.assert_array_equal(given.pop(), 5 * ones(2, 3))
        np.testing.assert_array_equal(a.grad, ones(2, 3))
        np.testing.assert_array_equal(w.grad, ones(2, 3))


def test_a_property_that_reads_a_node_sees_its_present_value(device: str) -> None:
    x = edf.Input()
    before = edf.Relu(x)

    class Double:
        @property
        def value(self) -> Any:
            return before.value * 2

    double = Double()
    after = edf.Scale(double, 1.0)
    for value in (1.0, 5.0):
        x.value = np.array([value])
        edf.Forward()
        np.testing.assert_array_equal(after.value, [2 * value])


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, KeyboardInterrupt])
def test_what_a_property_raises_comes_out(error: type[BaseException]) -> None:
    class Mine(error):  # type: ignore[misc, valid-type]
        pass

    class Bad:
        broken = False

        @property
        def value(self) -> Any:
            if self.broken:
                raise Mine("mine")
            return ones(2)

        def forward(self) -> None:
            pass

        backward = forward

    bad = Bad()
    edf.CompNodes.append(bad)
    node = edf.Relu(bad)
    edf.Forward()
    bad.broken = True
    for run in (edf.Forward, lambda: edf.Backward(bad)):
        with pytest.raises(Mine, match="mine"):
            run()
    bad.broken = False
    edf.Forward()
    np.testing.assert_array_equal(node.value, [1, 1])


def test_a_gradient_of_none_is_pythons_own_error(device: str) -> None:
    class Box:
        def __init__(self) -> None:
            self.value, self.grad = ones(2), None

    box = Box()
    loss = edf.Scale(box, 2.0)
    edf.Forward()
    with pytest.raises(TypeError, match="NoneType"):
        edf.Backward(loss)
    assert hasattr(box, "grad")


def test_nodes_may_be_made_in_a_file_whose_name_is_not_text() -> None:
    source = "import edfcore as edf\nx = edf.Input()\nr = edf.Relu(x)\n"
    made: dict[str, Any] = {}
    exec(compile(source, "caf\udce9.py", "exec"), made)
    with pytest.raises(GraphError, match=r"Node made at caf.*\.py:3\."):
        edf.Forward()
    made["x"].value = ones(1)
    edf.Forward()
    np.testing.assert_array_equal(made["r"].value, [1])


# Cycles


def test_labels_computed_from_the_probabilities_leak_nothing(device: str) -> None:
    def build_and_drop() -> None:
        p = edf.Softmax(edf.Parameter(ones(2, 3)))
        loss = edf.LogLoss(p, edf.Cast(edf.Max(p, 1), np.int64))
        edf.Forward()
        edf.Backward(loss)
        edf.clear_compgraph()

    build_and_drop()
    gc.collect()
    before = edf.live_nodes()
    for _ in range(50):
        build_and_drop()
    gc.collect()
    assert edf.live_nodes() == before


def test_a_loss_over_a_tensor_does_not_grow(device: str) -> None:
    p = ops.softmax(Tensor([[1.0, 2.0]], requires_grad=True))
    loss = edf.LogLoss(p, edf.Input(np.array([0])))
    alive = []
    for _ in range(20):
        edf.Forward()
        edf.Backward(loss)
        alive.append(edf.live_nodes())
    assert alive[1:] == alive[1:2] * 19


# Threads and forks


def test_a_huge_number_of_threads_is_capped() -> None:
    program = """
import numpy as np, edfcore as edf
edf.set_num_threads(100000)
x = edf.Tensor(np.ones((600, 600), np.float32))
print(edf.get_num_threads() < 100000, (x @ x).numpy()[0, 0], (x + x).sum().item())
"""
    assert run_python(program) == "True 600.0 720000.0"


FORKS = """
import os, signal, threading, time, warnings
import numpy as np, edfcore as edf

warnings.simplefilter("ignore")  # about forks beside threads


def work(size, ops):
    w = edf.Tensor(np.ones(size, np.float32), requires_grad=True)
    while True:
        z = w
        for _ in range(ops):
            z = z * w
        z.sum().backward()  # holds no lock of Python's
        w.grad = None


for size, ops in [(4, 3000)] * 3 + [(40000, 20)]:
    threading.Thread(target=work, args=(size, ops), daemon=True).start()
good = 0
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        try:
            x = edf.Tensor(np.ones(200000, np.float32), requires_grad=True)
            (x * x).sum().backward()
            os._exit(int(x.grad.numpy()[0] != 2))
        finally:
            os._exit(2)
    deadline, ended = time.monotonic() + 20, 0
    while not ended and time.monotonic() < deadline:
        time.sleep(0.001)
        ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        break
    good += status == 0
print(good, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forks_beside_running_threads_finish() -> None:
    assert run_python(FORKS) == "50"
