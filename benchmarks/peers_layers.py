"""One layer there and back, and the memory that a whole step takes, in the large frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import peers_sizes
from peers_steps import Compiled, JaxState, Leaves, Tensors, jax_update
from peers_timing import Made, Peer, Setting, capture, load
from problems import Problem, layer_errors, layer_operands

IN_A_GRAPH = 8


def triple(torch: Any, x: Any, w: Any, b: Any, g: Any) -> tuple[Any, ...]:
    """Activations, and the gradients of input, weights and bias, with nothing that a framework adds."""
    h = torch.relu(torch.addmm(b, x, w))
    d = torch.where(h > 0, g, 0.0)
    return h, d @ w.T, x.T @ d, d.sum(0)


def torch_layer(setting: Setting, sizes: peers_sizes.Sizes, compiled: bool) -> Made:
    """Several times over in a CUDA graph, so that the host does not count."""
    torch, arrays = load("torch"), layer_operands(sizes)
    of, function = [torch.tensor(a, device=setting.device) for a in arrays], partial(triple, torch)
    if compiled:
        function = torch.compile(function, fullgraph=True, dynamic=False)
    found = layer_errors([x.cpu().numpy() for x in function(*of)], arrays)
    return Made(capture(setting, lambda: function(*of), IN_A_GRAPH), found, IN_A_GRAPH)


def jax_layer(sizes: peers_sizes.Sizes) -> Made:
    """The gradient as jax takes it."""
    jax, operands = load("jax"), layer_operands(sizes)

    def forward(x: Any, w: Any, b: Any) -> Any:
        return jax.nn.relu(jax.numpy.dot(x, w, precision="highest") + b)

    def both(x: Any, w: Any, b: Any, g: Any) -> Any:
        h, back = jax.vjp(forward, x, w, b)
        return (h, *back(g))

    run, arrays = jax.jit(both), [jax.numpy.array(x) for x in operands]
    return Made(lambda: run(*arrays), layer_errors([np.asarray(a) for a in run(*arrays)], operands))


def layers(setting: Setting) -> Iterator[Peer]:
    """Forward with bias and relu, and the three gradients."""
    for sizes in peers_sizes.layers(setting):
        i, k, j = sizes
        row = partial(Peer, "layer triple", peers_sizes.product_shape(sizes), flops=6 * i * k * j)
        yield row("torch CUDA graph", partial(torch_layer, setting, sizes, False))
        yield row("torch.compile in a CUDA graph", partial(torch_layer, setting, sizes, True))
        yield row("jax jit", partial(jax_layer, sizes))


def torch_memory(setting: Setting, sizes: Sequence[int], batch: int, compiled: bool) -> Made:
    """What the allocator has handed out at the most, the parameters and the minibatch among it."""
    torch = load("torch")
    before = 0 if setting.cpu else torch.cuda.memory_allocated()
    problem = Tensors(setting, sizes, batch, 1)
    leaves = Compiled(problem, None) if compiled else Leaves(problem)
    problem.parameters = []  # those that learn are copies
    x, y = problem.xs[0], problem.ys[0]
    for _ in range(3):
        leaves.step(x, y)
    if setting.cpu:
        return Made(lambda: leaves.step(x, y))
    torch.cuda.reset_peak_memory_stats()
    leaves.step(x, y)
    most = torch.cuda.max_memory_allocated() - before
    return Made(lambda: leaves.step(x, y), {"peak_bytes": most})


def jax_memory(sizes: Sequence[int], batch: int) -> Made:
    """What the compiler says: inputs, results, and work space."""
    problem = Problem(sizes, batch, 1)
    state = JaxState(problem, lambda p, x, y: jax_update("highest", p, (x, y)), problem.x[0], problem.y[0])
    took = state.run.lower(state.parameters, *state.inputs).compile().memory_analysis()
    most = (took.argument_size_in_bytes + took.output_size_in_bytes + took.temp_size_in_bytes
            - took.alias_size_in_bytes)  # fmt: skip
    return Made(state, {"peak_bytes": most})


def memory(setting: Setting) -> Iterator[Peer]:
    """Of the smallest and the largest step."""
    networks = peers_sizes.networks(setting)
    for sizes, batch in (networks[0], networks[-1]):
        row = partial(Peer, "peak memory of a step", peers_sizes.network_shape(sizes, batch))
        yield row("torch eager", partial(torch_memory, setting, sizes, batch, False))
        yield row("torch.compile", partial(torch_memory, setting, sizes, batch, True))
        yield row("jax jit", partial(jax_memory, sizes, batch))
