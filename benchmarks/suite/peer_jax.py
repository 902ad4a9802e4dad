"""jax as its experts write it: one compiled function for a step, its memory donated, and 64 steps in one scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peers_timing import load
from suite.peer import Call, ManySteps, Peer, Program, Trainer
from suite.peer_numpy import BETA1, BETA2, EPSILON
from suite.problems import Array, Network, OpProblem, Unsupported
from suite.rows import Row


def loss_of(net: Network, parameters: Any, x: Any, y: Any) -> Any:
    """The mean over the minibatch."""
    jax = load("jax")
    for at in range(0, len(parameters), 2):
        x = x @ parameters[at] + parameters[at + 1]
        if at + 2 < len(parameters):
            x = jax.nn.relu(x) if net.activation == "relu" else jax.numpy.tanh(x)
    if net.loss == "squares":
        return 0.5 * ((x - y) ** 2).sum(1).mean()
    return -jax.numpy.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=-1, mode="clip").mean()


def updated(net: Network, state: Any, x: Any, y: Any) -> Any:
    """A step: the parameters, and for Adam the moments and the count, after it."""
    jax = load("jax")
    parameters, moments, steps = state
    gradients = jax.grad(lambda p: loss_of(net, p, x, y))(parameters)
    if net.optimiser == "sgd":
        return [p - net.rate * g for p, g in zip(parameters, gradients, strict=True)], moments, steps
    steps, after, kept = steps + 1, [], []
    for p, g, (m0, v0) in zip(parameters, gradients, moments, strict=True):
        m, v = BETA1 * m0 + (1 - BETA1) * g, BETA2 * v0 + (1 - BETA2) * g * g
        root = jax.numpy.sqrt(v / (1 - BETA2**steps)) + EPSILON
        after.append(p - net.rate * m / (1 - BETA1**steps) / root)
        kept.append((m, v))
    return after, kept, steps


class JaxTrainer(Trainer):
    """One call for each step; nothing is waited for until the end."""

    def __init__(self, net: Network) -> None:
        self.jax: Any = load("jax")
        super().__init__(net)
        self.reset()
        self.compiled = self.jax.jit(lambda state, x, y: updated(net, state, x, y), donate_argnums=0)

    def convert(self, x: Array, y: Array) -> tuple[Any, Any]:
        return self.jax.numpy.array(x), self.jax.numpy.array(y)

    def step(self, x: Any, y: Any) -> None:
        self.state = self.compiled(self.state, x, y)

    def wait(self) -> None:
        self.jax.block_until_ready(self.state)

    def parameters(self) -> list[Array]:
        load_array = load("numpy").array
        return [load_array(p) for p in self.state[0]]

    def memory(self) -> int | None:
        """What the compiler says that a step needs: inputs, results that are no inputs' memory, and work space."""
        lowered = self.jax.jit(lambda state, x, y: updated(self.net, state, x, y), donate_argnums=0)
        x, y = JaxTrainer.convert(self, *self.net.minibatch(0))
        found = lowered.lower(self.state, x, y).compile().memory_analysis()
        if found is None:
            return None
        outputs = found.output_size_in_bytes - found.alias_size_in_bytes
        return int(found.argument_size_in_bytes + outputs + found.temp_size_in_bytes)

    def reset(self) -> None:
        jnp = self.jax.numpy
        adam = self.net.optimiser == "adam"
        moments = [(jnp.zeros(p.shape), jnp.zeros(p.shape)) for p in self.net.first] if adam else []
        self.state: Any = ([jnp.array(p) for p in self.net.first], moments, jnp.float32(0))


class ScanTrainer(ManySteps, JaxTrainer):
    """Many steps in one call: a scan over the numbers of the examples."""

    def __init__(self, net: Network) -> None:
        JaxTrainer.__init__(self, net)
        self.x, self.y = JaxTrainer.convert(self, net.x, net.y)

        def step(data: Any, state: Any, rows: Any) -> tuple[Any, None]:
            x, y = (d.at[rows].get(mode="promise_in_bounds") for d in data)
            return updated(net, state, x, y), None

        def pooled(data: Any, state: Any, i: Any) -> tuple[Any, None]:
            x, y = (self.jax.lax.dynamic_slice_in_dim(d, i * net.batch, net.batch) for d in data)
            return updated(net, state, x, y), None

        def scan(body: Callable[..., Any], state: Any, x: Any, y: Any, which: Any) -> Any:
            return self.jax.lax.scan(lambda s, w: body((x, y), s, w), state, which)[0]

        self.scan_rows = self.jax.jit(lambda *a: scan(step, *a), donate_argnums=0)
        self.scan_pool = self.jax.jit(lambda *a: scan(pooled, *a), donate_argnums=0)

    def convert(self, x: Array, y: Array) -> tuple[Any, Any]:
        return x, y  # all examples are converted at once

    def many(self, steps: int) -> None:
        which = self.jax.numpy.arange(steps) % self.net.count
        self.state = self.scan_pool(self.state, self.x, self.y, which)
        self.wait()

    def memory(self) -> int | None:
        return None  # all examples are inputs of its function, so that it is no step's

    def epoch(self, order: Array) -> None:
        rows = self.jax.numpy.array(order.reshape(-1, self.net.batch))
        self.state = self.scan_rows(self.state, self.x, self.y, rows)
        self.wait()


# Ops.


def gradient(jax: Any, f: Callable[[Any], Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The value and the gradient."""

    def both(x: Any, g: Any) -> tuple[Any, Any]:
        y, pullback = jax.vjp(f, x)
        return y, pullback(g)[0]

    return both


def function(jax: Any, row: Row) -> Callable[..., Any]:
    """What is compiled for a row."""
    a, nn, jnp = row.attrs, jax.nn, jax.numpy
    unary: dict[str, Callable[[Any], Any]] = {
        "relu": nn.relu, "tanh": jnp.tanh, "sigmoid": nn.sigmoid, "exp": jnp.exp, "log": jnp.log,
        "gelu": lambda x: nn.gelu(x, approximate=False), "softmax": nn.softmax, "log_softmax": nn.log_softmax,
    }  # fmt: skip
    if row.op in unary:
        return gradient(jax, unary[row.op]) if a["backward"] else unary[row.op]
    if row.op == "loss":

        def loss(s: Any, y: Any) -> Any:
            return -jnp.take_along_axis(nn.log_softmax(s), y[:, None], axis=-1, mode="clip")[:, 0]

        def both(s: Any, y: Any) -> tuple[Any, Any]:
            found, pullback = jax.vjp(lambda s: loss(s, y), s)
            return found, pullback(jnp.full_like(found, 1 / len(found)))[0]

        return both if a["backward"] else loss
    if row.op == "matmul":
        return lambda x, y: (x.T if a["trans_a"] else x) @ (y.T if a["trans_b"] else y)
    return {
        "affine": lambda x, w, b: x @ w + b,
        "reduce": lambda x: getattr(jnp, a["op"])(x, axis=a["axis"]),
        "gather": lambda t, i: t.at[i].get(mode="promise_in_bounds"),
        "scatter_add": lambda g, i: jnp.zeros((a["rows"], g.shape[1])).at[i].add(g, mode="promise_in_bounds"),
        "transpose": lambda x: x.T,
        "concat": lambda x, y: jnp.concatenate([x, y], axis=1),
        "slice": lambda x: x[:, x.shape[1] // 4 : x.shape[1] // 4 * 3],
    }[row.op]


class Jax(Peer):
    """jax.jit; the wait is at the end of each batch of calls."""

    packages = ("jax", "jaxlib")
    trainer = JaxTrainer

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.jax: Any = load("jax")
        self.jax.devices("cpu")

    def used_threads(self) -> None:
        return None  # its pool is as large as the number of cores that the process may use

    def op(self, row: Row, problem: OpProblem) -> Program:
        inputs = [self.jax.numpy.array(x) for x in problem.inputs]
        compiled = self.jax.jit(function(self.jax, row))
        return Call(lambda: compiled(*inputs), self.jax.block_until_ready, load("numpy").asarray)


class JaxScan(Jax):
    """lax.scan over 64 steps."""

    trainer = ScanTrainer

    def op(self, row: Row, problem: OpProblem) -> Program:
        raise Unsupported("scan is for steps of training")
