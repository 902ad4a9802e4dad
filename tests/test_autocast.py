"""Training in half types: parameters that are halves, and autocast, by every face and in every mode."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import ops
from references import Array

HALVES = ["bfloat16", "float16"]
UPDATES: dict[str, Callable[[], None]] = {"SGD": edf.SGD, "Momentum": edf.Momentum, "Adam": edf.Adam}


def data(n: int = 96) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, n)
    return (rng.normal(size=(4, 12))[y] + 0.3 * rng.normal(size=(n, 12))).astype(np.float32), y


def mlp() -> tuple[Any, Any, Any]:
    """Make an MLP with a residual sum and a bias that is added by hand; return its inputs and its loss."""
    edf.clear_compgraph()
    edf.seed(3)
    x, y = edf.Input(), edf.Input()
    h = edf.Relu(edf.Affine(edf.AffineParams(12, 33), x))
    h = edf.Add(h, edf.Tanh(edf.Affine(edf.AffineParams(33, 33), h)))
    out = edf.AffineParams(33, 4)
    scores = edf.Add(edf.Matmul(h, out.w), out.b)
    return x, y, edf.LogLoss(edf.Softmax(scores), y)


def trained(steps: int, update: str, look: bool) -> tuple[list[float], list[Array]]:
    """Return the losses, and the parameters in the end; looking at every value, or letting plans do without."""
    X, Y = data()
    x, y, loss = mlp()
    losses = []
    edf.keep("all" if look else "looked")
    try:
        for step in range(steps):
            rows = slice(step % 3 * 32, step % 3 * 32 + 32)
            x.value, y.value = X[rows], Y[rows]
            edf.Forward()
            edf.Backward(loss)
            if look:
                assert {str(p.grad.dtype) for p in edf.Parameters} <= {
                    str(p.value.dtype) for p in edf.Parameters
                }
            UPDATES[update]()
            losses.append(float(np.asarray(loss.value).astype(np.float64).mean()))
    finally:
        edf.keep("looked")
    return losses, [np.array(p.value) for p in edf.Parameters]


def same(a: list[Array], b: list[Array]) -> bool:
    return [x.tobytes() for x in a] == [x.tobytes() for x in b]


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dtype", HALVES)
def test_parameters_that_are_halves(dtype: str, update: str, device: str) -> None:
    """They learn, with the same bits node by node, by plans and by replay; what an update keeps is float32."""
    edf.learning_rate = 0.01 if update == "Adam" else 0.05
    edf.DT = dtype
    looked, by_plans = trained(12, update, True), trained(12, update, False)
    assert looked[0] == by_plans[0]
    assert same(looked[1], by_plans[1])
    assert looked[0][-1] < 0.6 * looked[0][0]
    for p in edf.Parameters:
        assert str(p.dtype) == dtype
        if update != "SGD":
            assert p.optimised[0].dtype == np.float32
    X, Y = data()
    x, y, loss = mlp()
    for _ in range(4):
        edf.replay(loss, {x: X, y: Y}, batch_size=32, update=UPDATES[update])
    assert same([np.array(p.value) for p in edf.Parameters], by_plans[1])


@pytest.mark.parametrize("update", ["SGD", "Adam"])
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_trains_as_float32_does(dtype: str, update: str, device: str) -> None:
    """Node by node, by plans and by replay, bit for bit; parameters and gradients stay float32."""
    edf.learning_rate = 0.01 if update == "Adam" else 0.2
    exact = trained(18, update, False)
    with edf.autocast(dtype):
        looked, by_plans = trained(18, update, True), trained(18, update, False)
    assert looked[0] == by_plans[0]
    assert same(looked[1], by_plans[1])
    assert exact[0] != looked[0]
    np.testing.assert_allclose(looked[0], exact[0], rtol=0.05, atol=0.02)
    assert all(p.value.dtype == np.float32 for p in edf.Parameters)
    X, Y = data()
    with edf.autocast(dtype):
        x, y, loss = mlp()
    for _ in range(6):
        edf.replay(loss, {x: X, y: Y}, batch_size=32, update=UPDATES[update])
    assert same([np.array(p.value) for p in edf.Parameters], by_plans[1])


def test_tensors_and_nodes_give_the_same_bits(device: str) -> None:
    rng = np.random.default_rng(1)
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((5, 7), (7, 3), (3,)))

    def function(x: Any, w: Any, b: Any) -> Any:
        h = ops.mul(ops.affine(x, w, b), 0.5)
        rows = ops.log_softmax(ops.matmul(h, ops.transpose(h)))
        return ops.add(ops.sum(ops.mul(ops.add(h, b), h), 1), ops.sum(rows, 1))

    with edf.autocast():
        tensors = [edf.Tensor(a, requires_grad=True) for a in (x, w, b)]
        result = function(*tensors)
        nodes = [edf.Parameter(a) for a in (x, w, b)]
        recorded = function(*nodes)
    assert result.dtype == np.float32
    result.backward(np.full(5, 1 / 5, np.float32))
    for _ in range(4):
        edf.Forward()
        edf.Backward(recorded)
        assert recorded.value.tobytes() == result.numpy().tobytes()
        for node, tensor in zip(nodes, tensors, strict=True):
            assert tensor.grad.dtype == np.float32
            assert node.grad.tobytes() == tensor.grad.numpy().tobytes()


F32, HALF = edf.Tensor([[0.5, 2.0], [1.0, 3.0]]), edf.Tensor([[0.5, 2.0], [1.0, 3.0]], "bfloat16")
DTYPES: list[tuple[str, Callable[[], Any], str]] = [
    ("matmul", lambda: F32 @ F32, "bfloat16"),
    ("matmul of float64", lambda: F32.astype("float64") @ F32.astype("float64"), "float64"),
    ("affine", lambda: ops.affine(F32, HALF, F32.sum(0)), "bfloat16"),
    ("softmax", lambda: ops.softmax(HALF), "float32"),
    ("exp", lambda: ops.exp(HALF), "float32"),
    ("power", lambda: HALF**2, "float32"),
    ("sum", HALF.sum, "float32"),
    ("mean", HALF.mean, "float32"),
    ("var", lambda: ops.var(HALF), "float32"),
    ("loss", lambda: ops.log_loss(ops.softmax(HALF), [0, 1]), "float32"),
    ("half and float32", lambda: HALF + F32, "float32"),
    ("halves", lambda: HALF * HALF, "bfloat16"),
    ("half and a number", lambda: HALF * 2, "bfloat16"),
    ("where", lambda: ops.where([[1, 0], [0, 1]], HALF, F32), "float32"),
    ("concat", lambda: ops.concat(F32, HALF), "float32"),
    ("two half types", lambda: HALF + HALF.astype("float16"), "float32"),
    ("relu", lambda: ops.relu(HALF), "bfloat16"),
    ("relu of float32", lambda: ops.relu(F32), "float32"),
    ("integers", lambda: edf.Tensor([1, 2]) + edf.Tensor([3, 4]), "int64"),
]


@pytest.mark.parametrize(("what", "function", "dtype"), DTYPES, ids=[what for what, _, _ in DTYPES])
def test_which_dtype_comes_out(what: str, function: Callable[[], Any], dtype: str) -> None:
    with edf.autocast():
        assert function().dtype == dtype


def test_blocks_are_nested_and_end() -> None:
    def dtypes() -> list[str]:
        found = [str((F32 @ F32).dtype)]
        thread = threading.Thread(target=lambda: found.append(str((F32 @ F32).dtype)))
        thread.start()
        thread.join()
        return found

    @edf.autocast("float16")
    def decorated(again: bool) -> list[str]:
        return decorated(False) if again else dtypes()

    assert dtypes() == ["float32", "float32"]
    with edf.autocast() as block:
        assert dtypes() == ["bfloat16", "float32"]  # another thread is not concerned
        with edf.autocast(enabled=False):
            assert dtypes()[0] == "float32"
        assert decorated(True)[0] == "float16"
        with pytest.raises(RuntimeError, match="stop"), block:
            raise RuntimeError("stop")
        assert dtypes()[0] == "bfloat16"
    assert dtypes() == ["float32", "float32"]


def test_plans_make_no_copies_where_nothing_is_converted(device: str) -> None:
    X, Y = data()
    edf.DT = edf.float16
    with edf.autocast("float16"):
        x, y, loss = mlp()
    x.value, y.value = X, Y
    whole = str(edf.plan(loss))
    kept = [line for line in whole.splitlines() if " autocast: " in line]
    assert len([n for n in edf.CompNodes if n.op_name == "autocast"]) > len(kept)
    assert len(kept) == 1, whole  # of the scores, to float32


def test_nodes_in_numpy_between_converted_ones(device: str) -> None:
    """They see halves as NumPy shows them, and their gradients arrive."""

    class Double(edf.CompNode):
        def __init__(self, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x

        def forward(self) -> None:
            self.value = 2 * np.asarray(self.x.value).astype(np.float32)

        def backward(self) -> None:
            self.x.addgrad(2 * self.grad)

    with edf.autocast():
        w = edf.Parameter(np.eye(3))
        doubled = Double(edf.Matmul(np.ones((2, 3), np.float32), w))
        loss = edf.Sum(edf.Matmul(doubled, w), axis=1)
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        assert loss.value.tolist() == [6.0, 6.0]
        assert w.grad.dtype == np.float32
        assert w.grad.tolist() == [[4.0] * 3] * 3


def test_what_is_said_of_dtypes_that_do_not_go_together() -> None:
    with pytest.raises(edf.DTypeError) as error:
        HALF + F32
    assert str(error.value).startswith(
        "[add] a has dtype bfloat16 and b has dtype float32: they must be the same; convert with cast (or .astype)."
    )
    with pytest.raises(edf.DTypeError) as error, edf.autocast("float32"):
        pass
    assert str(error.value) == "autocast: dtype is float32: it must be bfloat16 or float16."
    assert (F32 @ F32).dtype == "float32"


@pytest.mark.parametrize("dtype", HALVES)
def test_a_label_out_of_range_among_halves(dtype: str, device: str) -> None:
    scores = edf.Tensor(np.zeros((3, 4)), dtype)
    with pytest.raises(
        edf.DataError, match=r"^\[log_loss_scores\] input 1 holds 4 at position 1: valid values are 0 to 3"
    ):
        ops.log_loss_scores(scores, np.array([0, 4, 1])).numpy()


def test_infinities_of_float16_are_found() -> None:
    big = edf.Tensor([6e4, 1.0], "float16")
    edf.debug(nan=True)
    try:
        with pytest.raises(
            edf.DataError, match=r"^\[add\] made inf at position 0 of \(2,\): input 0 \(2,\) from 1 to 60"
        ):
            big + big
    finally:
        edf.debug(nan=False)


@pytest.mark.parametrize("dtype", HALVES)
def test_threads_change_no_bit_of_halves(dtype: str) -> None:
    """In blocks and behind a product, where what is computed in float32 is each thread's own."""
    edf.DT, edf.learning_rate = dtype, 0.5
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(301, 67)), rng.normal(size=(67, 131))
    results = []
    for threads in (1, 2, 3, 8):
        edf.set_num_threads(threads)
        edf.clear_compgraph()
        x, w = edf.Parameter(X), edf.Parameter(W)
        h = edf.Tanh(edf.Mul(edf.Relu(edf.Matmul(x, w)), 0.5))
        loss = edf.Mean(edf.Mul(edf.Sigmoid(h), edf.Add(edf.Square(h), 1.0)), axis=1)
        for _ in range(4):
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
        results.append([np.array(n.value).tobytes() for n in (x, w)])
    assert results[1:] == results[:1] * 3


def test_arrays_go_where_the_other_inputs_are(device: str) -> None:
    with edf.device(device):
        w = edf.Parameter(np.eye(3))
    with edf.device("cpu"), edf.autocast():
        y = edf.Matmul(np.ones((2, 3)), w)
        edf.Forward()
    np.testing.assert_array_equal(np.asarray(y.value, np.float32), np.ones((2, 3)))


def test_a_node_that_is_refused_leaves_none_behind() -> None:
    with edf.autocast():
        x = edf.Input()
        with pytest.raises(edf.Error, match=r"\[matmul\] input 0"):
            edf.Matmul("no array", x)
    assert edf.CompNodes == []


def test_an_array_beside_a_half_result_counts_as_float32() -> None:
    x, w, c = np.ones((2, 3), np.float32), np.ones((3, 2), np.float32), np.array([1.001, 1.003], np.float32)
    with edf.autocast():
        eager = ops.add(ops.matmul(edf.Tensor(x), edf.Tensor(w)), c)
        recorded = ops.add(ops.matmul(edf.Parameter(x), edf.Parameter(w)), c)
    edf.Forward()
    np.testing.assert_array_equal(eager.numpy(), np.float32(3) + np.tile(c, (2, 1)))
    np.testing.assert_array_equal(recorded.value, eager.numpy())


def test_one_autocast_serves_two_threads() -> None:
    block = edf.autocast()
    entered, left = threading.Event(), threading.Event()
    seen: dict[str, str] = {}

    def product() -> str:
        return str((edf.Tensor([[1.0]]) @ edf.Tensor([[1.0]])).dtype)

    def first() -> None:
        with block:
            entered.wait(10)
        seen["outside"] = product()
        left.set()

    def second() -> None:
        with edf.autocast("float16"):
            with block:
                entered.set()
                left.wait(10)
            seen["in float16"] = product()

    threads = [threading.Thread(target=f) for f in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"outside": "float32", "in float16": "float16"}


def test_moments_of_half_parameters_can_be_taken_along() -> None:
    edf.DT = "bfloat16"
    p = edf.Parameter(np.ones(3))
    loss = edf.Sum(edf.Reshape(edf.Square(p), (1, 3)), axis=1)
    edf.Forward()
    edf.Backward(loss)
    edf.Momentum()
    p.optimised = p.optimised
    assert p.optimised[0].dtype == np.float32
