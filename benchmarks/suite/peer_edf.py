"""EDF programs on the engine, in the loop and by replay, and on the NumPy EDF; and the engine's eager functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from suite.peer import Call, ManySteps, Peer, Program, Trainer
from suite.problems import Array, Network, OpProblem, Unsupported
from suite.rows import POOL, Row

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))


class EdfTrainer(Trainer):
    """The program of the lectures: a graph that is built once, and a loop over its three calls."""

    def __init__(self, net: Network, module: Any) -> None:
        super().__init__(net)
        self.edf = edf = module
        if module.__name__ == "numpy_edf" and net.optimiser != "sgd":
            raise Unsupported("the NumPy EDF knows SGD alone")
        edf.clear_compgraph()
        edf.learning_rate = net.rate
        self.x, self.y = edf.Input(), edf.Input()
        activation = {"relu": edf.Relu, "tanh": edf.Tanh}[net.activation]
        self.leaves = [edf.Parameter(p) for p in net.first]
        h: Any = self.x
        for at in range(0, len(self.leaves), 2):
            h = edf.Affine(self.leaves[at : at + 2], h)
            if at + 2 < len(self.leaves):
                h = activation(h)
        if net.loss == "log":
            self.loss = edf.LogLoss(edf.Softmax(h), self.y)
        else:
            self.loss = edf.Scale(edf.Sum(edf.Square(edf.Sub(h, self.y)), axis=1), 0.5)
        self.update = edf.SGD if net.optimiser == "sgd" else edf.Adam

    def step(self, x: Array, y: Array) -> None:
        self.x.value, self.y.value = x, y
        self.edf.Forward()
        self.edf.Backward(self.loss)
        self.update()

    def wait(self) -> None:
        _ = self.loss.value

    def parameters(self) -> list[Array]:
        return [np.array(p.value) for p in self.leaves]

    def reset(self) -> None:
        for p, first in zip(self.leaves, self.net.first, strict=True):
            p.value = first

    def memory(self) -> int | None:
        if self.edf.__name__ != "edfcore":
            return None
        self.run(3)  # the first look at the loss, whose step keeps every value
        self.run(100)
        self.edf._core.reset_peak_memory("cpu")
        self.run(3)
        return int(self.edf.memory_stats()["peak_bytes"])


class ReplayTrainer(ManySteps, EdfTrainer):
    """The same graph, by `edf.replay` over all minibatches at once."""

    def __init__(self, net: Network, module: Any) -> None:
        if net.optimiser != "sgd":
            raise Unsupported("replay knows SGD alone")
        EdfTrainer.__init__(self, net, module)
        self.feeds = {self.x: net.x, self.y: net.y}
        self.orders: dict[int, Array] = {}

    def many(self, steps: int) -> None:
        if steps not in self.orders:
            self.orders[steps] = np.arange(steps * self.net.batch) % (self.net.count * self.net.batch)
        self.epoch(self.orders[steps])

    def epoch(self, order: Array) -> None:
        self.edf.replay(self.loss, self.feeds, order=order, batch_size=self.net.batch)

    def memory(self) -> int | None:
        self.edf._core.reset_peak_memory("cpu")
        self.many(POOL)
        return int(self.edf.memory_stats()["peak_bytes"])


# Ops: each function takes the module of ops and the inputs as tensors.


def differentiated(function: Callable[[Any], Any]) -> Callable[..., Callable[[], Any]]:
    """The function alone or, given a gradient of its value, also its gradient."""

    def made(row: Row, edf: Any, x: Any, *g: Any) -> Callable[[], Any]:
        if not g:
            return lambda: function(x)
        leaf = edf.Tensor(x.numpy(), requires_grad=True)

        def both() -> tuple[Any, Any]:
            leaf.grad = None
            y = function(leaf)
            y.backward(g[0])
            return y, leaf.grad

        return both

    return made


def loss(row: Row, edf: Any, s: Any, y: Any) -> Callable[[], Any]:
    if not row.attrs["backward"]:
        return lambda: edf.ops.log_loss_scores(s, y)
    leaf, g = edf.Tensor(s.numpy(), requires_grad=True), edf.Tensor(np.full(y.shape, 1 / y.size, np.float32))

    def both() -> tuple[Any, Any]:
        leaf.grad = None
        found = edf.ops.log_loss_scores(leaf, y)
        found.backward(g)
        return found, leaf.grad

    return both


def scatter_add(row: Row, edf: Any, g: Any, index: Any) -> Callable[[], Any]:
    """The op that the gradient of gather_rows emits, which has no public function."""
    from edfcore._describe import Attrs

    op, attrs = edf._core.find_op("scatter_add_rows"), Attrs([row.attrs["rows"]])
    return lambda: edf._core.apply(op, (g, index), attrs)


def eager(row: Row, edf: Any, inputs: list[Any]) -> Callable[[], Any]:
    """One call of a function of `edf.ops`, or of it and `backward`, on tensors."""
    ops, a = edf.ops, row.attrs
    if row.op in ("relu", "tanh", "sigmoid", "exp", "log", "gelu", "softmax", "log_softmax"):
        return differentiated(getattr(ops, row.op))(row, edf, *inputs)
    if row.op in ("loss", "scatter_add"):
        return (loss if row.op == "loss" else scatter_add)(row, edf, *inputs)
    x = inputs[0]
    if row.op == "slice":
        first, last = x.shape[1] // 4, x.shape[1] // 4 * 3
        return lambda: ops.slice(x, 1, first, last)
    if row.op == "reduce":
        function, axis = getattr(ops, a["op"]), a["axis"]
        return lambda: function(x, axis=axis)
    if row.op == "matmul":
        x, y = inputs
        if not a["trans_a"] and not a["trans_b"]:
            return lambda: ops.matmul(x, y)
        return lambda: ops.matmul(x, y, a["trans_a"], a["trans_b"])
    if row.op == "concat":
        return lambda: ops.concat(*inputs, axis=1)
    function = {"affine": ops.affine, "gather": ops.gather_rows, "transpose": ops.transpose}[row.op]
    return lambda: function(*inputs)


class Edfcore(Peer):
    """The engine: EDF's loop for training, eager functions for ops."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import edfcore

        self.edf: Any = edfcore
        edfcore.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"edfcore": f"{self.edf.__version__} ({self.edf._core.isa()})"}

    def used_threads(self) -> int:
        return int(self.edf.get_num_threads())

    def trainer(self, net: Network) -> Trainer:
        return EdfTrainer(net, self.edf)

    def op(self, row: Row, problem: OpProblem) -> Program:
        run = eager(row, self.edf, [self.edf.Tensor(x) for x in problem.inputs])
        return Call(run, array=lambda t: t.numpy())


class Replay(Edfcore):
    """The engine by `edf.replay`."""

    def trainer(self, net: Network) -> Trainer:
        return ReplayTrainer(net, self.edf)

    def op(self, row: Row, problem: OpProblem) -> Program:
        raise Unsupported("replay runs steps of training")


class NumpyEdf(Peer):
    """EDF in plain NumPy, as the course writes it."""

    packages = ("numpy",)

    def trainer(self, net: Network) -> Trainer:
        import numpy_edf

        return EdfTrainer(net, numpy_edf)
