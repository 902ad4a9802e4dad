"""Whole steps and epochs of training a multilayer perceptron, as they are written in torch and in jax for speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from peers_sizes import EPOCH, RATE, epoch_of, minibatches, network_shape, networks
from peers_timing import Call, Made, Peer, Setting, capture, load
from problems import Problem, flops

CHUNK = 24


class Tensors(Problem):
    """The problem as torch has it, on the device."""

    def __init__(self, setting: Setting, sizes: Sequence[int], batch: int, count: int) -> None:
        super().__init__(sizes, batch, count)
        self.torch = torch = load("torch")
        self.parameters = [torch.tensor(p, device=setting.device) for p in self.first]
        self.xs = torch.tensor(self.x, device=setting.device)
        self.ys = torch.tensor(self.y, device=setting.device).long()

    def loss(self, parameters: Sequence[Any], x: Any, y: Any) -> Any:
        """The mean cross-entropy, in torch."""
        torch = self.torch
        for at in range(0, len(parameters), 2):
            x = torch.addmm(parameters[at + 1], x, parameters[at])
            if at + 2 < len(parameters):
                x = torch.relu(x)
        return torch.nn.functional.cross_entropy(x, y)


# Torch.


class Leaves:
    """A copy of the parameters that learns, and the optimiser that is fastest."""

    def __init__(self, problem: Tensors) -> None:
        self.problem, self.torch = problem, problem.torch
        self.parameters = [p.clone().requires_grad_() for p in problem.parameters]
        self.optimiser = self.torch.optim.SGD(self.parameters, lr=RATE, fused=True)

    def step(self, x: Any, y: Any) -> Any:
        """Op by op."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.problem.loss(self.parameters, x, y)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def reset(self) -> None:
        """Back to the first parameters, in place, for graphs that hold their addresses."""
        with self.torch.no_grad():
            for p, first in zip(self.parameters, self.problem.parameters, strict=True):
                p.copy_(first)


class Compiled(Leaves):
    """The whole step is one function without a break in its graph."""

    def __init__(self, problem: Tensors, mode: str | None) -> None:
        super().__init__(problem)
        self.parameters = [p.clone() for p in problem.parameters]
        for p in self.parameters:
            self.torch._dynamo.mark_static_address(p)  # else replaying a graph would copy them
        self.gradients = self.torch.func.grad_and_value(problem.loss)
        self.compiled = self.torch.compile(self.update, mode=mode, fullgraph=True, dynamic=False)

    def update(self, parameters: list[Any], x: Any, y: Any) -> Any:
        """What is compiled."""
        found, loss = self.gradients(parameters, x, y)
        for p, g in zip(parameters, found, strict=True):
            p.sub_(g, alpha=RATE)
        return loss

    def step(self, x: Any, y: Any) -> Any:
        """The compiled function."""
        return self.compiled(self.parameters, x, y)


def torch_step(setting: Setting, sizes: Sequence[int], batch: int, kind: str) -> Made:
    """One of the ways to run the step in torch."""
    problem = Tensors(setting, sizes, batch, 1)
    x, y = problem.xs[0], problem.ys[0]
    if kind in ("eager", "graph"):
        leaves = Leaves(problem)
    else:
        leaves = Compiled(problem, None if kind == "compiled graph" else kind)
        problem.torch._dynamo.mark_static_address(x)
        problem.torch._dynamo.mark_static_address(y)

    def step() -> Any:
        return leaves.step(x, y)

    call: Call = capture(setting, step) if kind in ("graph", "compiled graph") else step
    for _ in range(3):
        call()
    leaves.reset()
    call()
    return Made(call, problem.errors(float(call())))


def torch_epoch(setting: Setting, sizes: Sequence[int], batch: int, compiled: bool, chunk: int) -> Made:
    """Replays of a graph that finds its own minibatch: a counter on the device says which rows are next."""
    images = setting.size(EPOCH, 200)
    problem = Tensors(setting, sizes, images, 1)
    torch, device, count = problem.torch, setting.device, images // batch
    order = torch.randperm(images, device=device)[: count * batch].view(count, batch)
    at = torch.zeros(1, dtype=torch.int64, device=device)
    x, y = problem.xs[0], problem.ys[0]

    def taken(step: Any) -> Any:
        rows = order.index_select(0, at).view(-1)
        loss = step(x.index_select(0, rows), y.index_select(0, rows))
        at.add_(1).remainder_(count)
        return loss

    step: Call = partial(taken, Leaves(problem).step)
    if compiled:
        leaves = Compiled(problem, None)
        whole = partial(taken, partial(leaves.update, leaves.parameters))
        step = torch.compile(whole, fullgraph=True, dynamic=False)
    one, many = capture(setting, step), capture(setting, step, chunk)

    def epoch() -> Any:
        for _ in range(count // chunk):
            many()
        for _ in range(count % chunk):
            one()

    return Made(epoch)


# Jax.


def jax_loss(precision: str | None, parameters: Sequence[Any], x: Any, y: Any) -> Any:
    """The mean cross-entropy, in jax."""
    jax = load("jax")
    for at in range(0, len(parameters), 2):
        x = jax.numpy.dot(x, parameters[at], precision=precision) + parameters[at + 1]
        if at + 2 < len(parameters):
            x = jax.nn.relu(x)
    chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=-1, mode="clip")
    return -chosen.mean()


def jax_update(precision: str | None, parameters: Any, xy: tuple[Any, Any]) -> tuple[Any, Any]:
    """A step, in the form that scan takes."""
    jax = load("jax")
    loss, gradients = jax.value_and_grad(partial(jax_loss, precision))(parameters, *xy)
    return jax.tree.map(lambda p, g: p - RATE * g, parameters, gradients), loss


class JaxState:
    """Parameters that every call replaces; their memory is donated to the next ones."""

    def __init__(self, problem: Problem, run: Any, *inputs: Any) -> None:
        jax = load("jax")
        self.run = jax.jit(run, donate_argnums=0)
        self.inputs = [jax.numpy.array(x) for x in inputs]
        self.parameters = [jax.numpy.array(p) for p in problem.first]
        self.losses: Any = None

    def __call__(self) -> Any:
        """Start the next step, or steps, without waiting."""
        self.parameters, self.losses = self.run(self.parameters, *self.inputs)
        return self.losses


def jax_step(setting: Setting, sizes: Sequence[int], batch: int, precision: str | None, unroll: int) -> Made:
    """One call for each step, or (with `unroll`) one call for a scan over minibatches."""
    jax = load("jax")
    count = minibatches(setting, batch) if unroll else 1
    problem = Problem(sizes, batch, count)
    xs, ys = problem.x, problem.y
    update = partial(jax_update, precision)
    if unroll:
        state = JaxState(
            problem, lambda p, x, y: jax.lax.scan(update, p, (x, y), unroll=min(unroll, count)), xs, ys
        )
        return Made(state, problem.errors(float(state()[1])), count)
    state = JaxState(problem, lambda p, x, y: update(p, (x, y)), xs[0], ys[0])
    state()
    return Made(state, problem.errors(float(state())))


def jax_epoch(setting: Setting, sizes: Sequence[int], batch: int, unroll: int) -> Made:
    """A scan over the epoch, taking rows by index."""
    jax = load("jax")
    images = setting.size(EPOCH, 200)
    problem, count = Problem(sizes, images, 1), images // batch
    rows = (
        np.random.default_rng(0).permutation(images)[: count * batch].reshape(count, batch).astype(np.int32)
    )

    def epoch(parameters: Any, x: Any, y: Any, rows: Any) -> Any:
        def body(p: Any, r: Any) -> Any:
            return jax_update(
                "highest", p, (x.at[r].get(mode="promise_in_bounds"), y.at[r].get(mode="promise_in_bounds"))
            )

        return jax.lax.scan(body, parameters, rows, unroll=unroll)

    return Made(JaxState(problem, epoch, problem.x[0], problem.y[0], rows))


# Lists of rows.


def steps(setting: Setting) -> Iterator[Peer]:
    """Steps on a minibatch that is in place."""
    for sizes, batch in networks(setting):
        row = partial(Peer, "training step", network_shape(sizes, batch), flops=flops(sizes, batch))
        made = partial(torch_step, setting, sizes, batch)
        yield row("torch eager", partial(made, "eager"))
        yield row("torch CUDA graph", partial(made, "graph"))
        yield row("torch.compile reduce-overhead", partial(made, "reduce-overhead"))
        yield row("torch.compile in a CUDA graph", partial(made, "compiled graph"))
        scan = partial(jax_step, setting, sizes, batch)
        yield row("jax jit", partial(scan, "highest", 0))
        yield row("jax scan", partial(scan, "highest", 1))
        yield row("jax scan unrolled 16", partial(scan, "highest", 16))
        yield row("jax scan, default precision", partial(scan, None, 1))
        if batch > 1000:
            yield row("torch CUDA graph, tf32", partial(made, "graph"), tf32=True)
            yield row("torch.compile in a CUDA graph, tf32", partial(made, "compiled graph"), tf32=True)


def epochs(setting: Setting) -> Iterator[Peer]:
    """Epochs over images that are on the device, in an order that is there too."""
    shape, sizes, batch, images = epoch_of(setting)
    row = partial(Peer, "epoch", shape, flops=flops(sizes, batch) * (images // batch))
    yield row("jax scan", partial(jax_epoch, setting, sizes, batch, 1))
    yield row("jax scan unrolled 8", partial(jax_epoch, setting, sizes, batch, 8))
    made = partial(torch_epoch, setting, sizes, batch)
    yield row("torch CUDA graph of a minibatch", partial(made, False, 1))
    yield row(f"torch CUDA graph of {CHUNK} minibatches", partial(made, False, CHUNK))
    yield row(f"torch.compile in a CUDA graph of {CHUNK} minibatches", partial(made, True, CHUNK))


def slow_to_compile(setting: Setting) -> Iterator[Peer]:
    """Steps for which torch tries many kernels out."""
    for sizes, batch in (networks(setting)[0], networks(setting)[-1]):
        row = partial(Peer, "training step", network_shape(sizes, batch), flops=flops(sizes, batch))
        yield row("torch.compile max-autotune", partial(torch_step, setting, sizes, batch, "max-autotune"))
