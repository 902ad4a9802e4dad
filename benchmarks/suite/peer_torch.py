"""torch as its experts write it: fused optimisers, results in place, whole steps compiled, prepacked weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

from peers_steps import RATE, Compiled, Leaves
from peers_timing import load
from suite.peer import Call, Peer, Program, Trainer
from suite.peer_numpy import BETA1, BETA2, EPSILON
from suite.problems import Array, Network, OpProblem, Unsupported
from suite.rows import Row


class TorchNet:
    """A network as Leaves and Compiled of peers_steps.py take it; weights lie (out, in), as torch has them."""

    def __init__(self, net: Network) -> None:
        self.torch, self.net = load("torch"), net
        self.parameters = [self.torch.tensor(p.T.copy()) for p in net.first]

    def loss(self, parameters: Sequence[Any], x: Any, y: Any) -> Any:
        """The mean over the minibatch."""
        F = self.torch.nn.functional
        for at in range(0, len(parameters), 2):
            x = F.linear(x, parameters[at], parameters[at + 1])
            if at + 2 < len(parameters):
                x = self.torch.relu(x) if self.net.activation == "relu" else self.torch.tanh(x)
        if self.net.loss == "log":
            return F.cross_entropy(x, y)
        return F.mse_loss(x, y, reduction="sum") * (0.5 / len(x))


class TorchTrainer(Trainer):
    """Op by op, with the optimiser in one fused kernel and gradients set to None."""

    def __init__(self, net: Network) -> None:
        self.torch: Any = load("torch")
        super().__init__(net)
        self.leaves = self.make(TorchNet(net))

    def make(self, net: TorchNet) -> Any:
        leaves = Leaves(net)  # type: ignore[arg-type]  # what it needs of a problem, a TorchNet has
        kind = self.torch.optim.SGD if self.net.optimiser == "sgd" else self.torch.optim.Adam
        leaves.optimiser = kind(leaves.parameters, lr=self.net.rate, fused=True)
        return leaves

    def convert(self, x: Array, y: Array) -> tuple[Any, Any]:
        return self.torch.from_numpy(x), self.torch.from_numpy(y)

    def step(self, x: Any, y: Any) -> Any:
        return self.leaves.step(x, y)

    def parameters(self) -> list[Array]:
        return [p.detach().numpy().T.copy() for p in self.leaves.parameters]

    def reset(self) -> None:
        self.leaves.reset()

    def epoch(self, order: Array) -> None:
        net, torch = self.net, self.torch
        x, y, rows = torch.from_numpy(net.x), torch.from_numpy(net.y), torch.from_numpy(order)
        for some in rows.split(net.batch):
            self.step(x.index_select(0, some), y.index_select(0, some))

    def memory(self) -> int | None:
        """The parameters, the optimiser's state, one minibatch, and the most that a step allocates on top of them."""
        profiler, x, y = self.torch.profiler, *self.convert(*self.net.minibatch(0))
        self.step(x, y)
        for (
            p
        ) in self.leaves.parameters:  # the profiler may miss, or not, that a step lets go of those before it
            p.grad = None
        with profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            self.step(x, y)
        events = (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        kept = sum(p.nbytes for p in self.leaves.parameters) * (1 if self.net.optimiser == "sgd" else 3)
        return int(peak + kept + x.nbytes + y.nbytes) if peak else None


class CompiledAdam(Compiled):
    """The same with Adam written out, so that it is compiled with the rest."""

    def __init__(self, net: TorchNet, rate: float) -> None:
        super().__init__(net, None)  # type: ignore[arg-type]
        self.rate, self.steps = rate, self.torch.zeros(())
        self.moments = [(self.torch.zeros_like(p), self.torch.zeros_like(p)) for p in self.parameters]

    def update(self, parameters: list[Any], x: Any, y: Any) -> Any:
        found, loss = self.gradients(parameters, x, y)
        self.steps.add_(1)
        rate, root = self.rate / (1 - BETA1**self.steps), (1 - BETA2**self.steps) ** -0.5
        for p, g, (m, v) in zip(parameters, found, self.moments, strict=True):
            m.mul_(BETA1).add_(g, alpha=1 - BETA1)
            v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            p.sub_(rate * m / (v.sqrt() * root + EPSILON))
        return loss


class CompiledTrainer(TorchTrainer):
    """The whole step, update included, is one compiled function."""

    def make(self, net: TorchNet) -> Any:
        if self.net.optimiser == "adam":
            return CompiledAdam(net, self.net.rate)
        if self.net.rate != RATE:
            raise Unsupported(f"the compiled step has a learning rate of {RATE}")
        return Compiled(net, None)  # type: ignore[arg-type]

    def memory(self) -> int | None:
        return None


# Ops.


def functions(torch: Any) -> dict[str, Callable[[Any], Any]]:
    """What torch calls the functions of one argument."""
    F = torch.nn.functional
    return {
        "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "exp": torch.exp, "log": torch.log,
        "gelu": F.gelu, "softmax": lambda x: torch.softmax(x, -1), "log_softmax": lambda x: torch.log_softmax(x, -1),
    }  # fmt: skip


def with_gradient(torch: Any, row: Row, inputs: list[Any]) -> tuple[Callable[..., Any], list[Any]]:
    """The value and the gradient by autograd, and the inputs that it takes."""
    x, other = inputs[0].requires_grad_(), inputs[1]
    if row.op == "loss":
        cross_entropy = torch.nn.functional.cross_entropy
        share = torch.full(other.shape, 1 / len(other))

        def function(x: Any, y: Any) -> tuple[Any, Any]:
            found = cross_entropy(x, y, reduction="none")
            return found, torch.autograd.grad(found, x, share)[0]

        return function, [x, other]
    f = functions(torch)[row.op]

    def function(x: Any, g: Any) -> tuple[Any, Any]:
        y = f(x)
        return y, torch.autograd.grad(y, x, g)[0]

    return function, [x, other]


def forward(torch: Any, row: Row, inputs: list[Any]) -> Callable[[], Any]:
    """One op, into memory that is there already where torch can."""
    a, x = row.attrs, inputs[0]
    if row.op in ("tanh", "sigmoid", "exp", "log"):
        function, out = getattr(torch, row.op), torch.empty_like(x)
        return lambda: function(x, out=out)
    if row.op in ("softmax", "log_softmax"):
        function, out = getattr(torch, row.op), torch.empty_like(x)
        return lambda: function(x, -1, out=out)
    if row.op == "relu":
        out = torch.empty_like(x)
        return lambda: torch.clamp_min(x, 0, out=out)
    if row.op == "matmul":
        f1, f2 = (x.t() if a["trans_a"] else x), (inputs[1].t() if a["trans_b"] else inputs[1])
        out = torch.empty(f1.shape[0], f2.shape[1])
        return lambda: torch.mm(f1, f2, out=out)
    if row.op == "affine":
        out = torch.empty(x.shape[0], inputs[1].shape[1])
        return lambda: torch.addmm(inputs[2], x, inputs[1], out=out)
    if row.op == "loss":
        cross_entropy = torch.nn.functional.cross_entropy
        return lambda: cross_entropy(x, inputs[1], reduction="none")
    if row.op == "reduce":
        dim = (0, 1) if a["axis"] is None else a["axis"]
        name = "amax" if a["op"] == "max" else a["op"]
        return lambda: getattr(torch, name)(x, dim=dim)
    if row.op == "gather":
        out = torch.empty(len(inputs[1]), x.shape[1])
        return lambda: torch.index_select(x, 0, inputs[1], out=out)
    if row.op == "scatter_add":
        out = torch.empty(a["rows"], x.shape[1])
        return lambda: out.zero_().index_add_(0, inputs[1], x)
    if row.op == "concat":
        out = torch.empty(len(x), 2 * x.shape[1])
        return lambda: torch.cat(inputs, dim=1, out=out)
    if row.op in ("transpose", "slice"):
        view = x.t() if row.op == "transpose" else x[:, x.shape[1] // 4 : x.shape[1] // 4 * 3]
        out = torch.empty(view.shape)
        return lambda: out.copy_(view)
    return lambda: functions(torch)[row.op](x)


class Torch(Peer):
    """Eager torch."""

    packages = ("torch",)
    trainer = TorchTrainer

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.torch: Any = load("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_num_interop_threads(1)

    def used_threads(self) -> int:
        return int(self.torch.get_num_threads())

    def tensors(self, problem: OpProblem) -> list[Any]:
        return [self.torch.from_numpy(x) for x in problem.inputs]

    def call(self, function: Callable[[], Any]) -> Program:
        return Call(function, array=lambda t: t.detach().numpy())

    def op(self, row: Row, problem: OpProblem) -> Program:
        inputs = self.tensors(problem)
        if row.attrs.get("backward"):
            function, inputs = with_gradient(self.torch, row, inputs)
            return self.call(lambda: function(*inputs))
        run = forward(self.torch, row, inputs)

        def without_graph() -> Any:
            with self.torch.inference_mode():
                return run()

        return self.call(without_graph)


class TorchCompile(Torch):
    """torch.compile of whole steps, and of what is more than one pass over memory."""

    trainer = CompiledTrainer

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if shutil.which("g++") is None:
            raise ImportError("torch.compile needs g++, which is not there")

    def op(self, row: Row, problem: OpProblem) -> Program:
        torch, inputs = self.torch, self.tensors(problem)
        torch.compiler.reset()
        if row.op not in functions(torch) and row.op != "loss":
            raise Unsupported("a single kernel of a library: nothing to compile")
        if row.attrs["backward"]:
            return self.call(self.compiled_gradient(row, inputs))
        one = functions(torch).get(row.op)
        cross_entropy = torch.nn.functional.cross_entropy

        def function(*inputs: Any) -> Any:
            return one(*inputs) if one else cross_entropy(*inputs, reduction="none")

        compiled = torch.compile(function, fullgraph=True, dynamic=False)

        def run() -> Any:
            with torch.no_grad():
                return compiled(*inputs)

        return self.call(run)

    def compiled_gradient(self, row: Row, inputs: list[Any]) -> Callable[[], Any]:
        """Forward and backward in one compiled function."""
        torch = self.torch
        x, other = inputs
        if row.op == "loss":
            cross_entropy = torch.nn.functional.cross_entropy

            def function(x: Any, y: Any) -> Any:
                def mean(x: Any) -> Any:
                    found = cross_entropy(x, y, reduction="none")
                    return found.mean(), found

                gradient, found = torch.func.grad(mean, has_aux=True)(x)
                return found, gradient
        else:
            f = functions(torch)[row.op]

            def function(x: Any, g: Any) -> Any:
                y, pullback = torch.func.vjp(f, x)
                return y, pullback(g)[0]

        compiled = torch.compile(function, fullgraph=True, dynamic=False)
        return lambda: compiled(x, other)


class TorchMkldnn(Torch):
    """oneDNN with weights that are packed before the clock runs, as torch's compiler freezes them for inference."""

    trainer = None

    def op(self, row: Row, problem: OpProblem) -> Program:
        torch = self.torch
        if row.op not in ("matmul", "affine"):
            raise Unsupported("prepacked weights are for products")
        x, w, *bias = self.tensors(problem)
        x = x.t() if row.attrs.get("trans_a") else x
        w = w if row.attrs.get("trans_b") else w.t().contiguous()
        packed = torch.ops.mkldnn._reorder_linear_weight(w, x.shape[0])
        linear, b = torch.ops.mkldnn._linear_pointwise, bias[0] if bias else None

        def run() -> Any:
            with torch.inference_mode():
                return linear(x, packed, b, "none", [], "")

        return self.call(run)
