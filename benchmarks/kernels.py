"""The kernels that are timed: for each its inputs, how edfcore, torch and NumPy compute it, and how much work it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

RANDOM = np.random.default_rng(0)

Array = Any


@dataclass
class Kernel:
    """One thing to time. The functions take the inputs in the order in which they are given."""

    name: str
    shape: str
    inputs: list[Array]
    edf: Callable[..., Any]
    torch: Callable[..., Any] | None
    numpy: Callable[..., Any]
    bytes: int = 0
    flops: int = 0
    error: float | None = None  # for what compares itself


def normal(*shape: int) -> Array:
    """Random values; large arrays repeat a prime number of them, to be made quickly."""
    size = int(np.prod(shape))
    values = RANDOM.standard_normal(min(size, 1_000_003), dtype=np.float32)
    return np.resize(values, size).reshape(shape)


def integers(below: int, *shape: int) -> Array:
    """Random labels or indices."""
    return RANDOM.integers(0, below, shape, dtype=np.int32)


def softmax_numpy(x: Array) -> Array:
    """Straight from the definition."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax_numpy(x: Array) -> Array:
    """The stable form."""
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def scattered_numpy(g: Array, index: Array, rows: int) -> Array:
    """Rows of g added up where index says."""
    out = np.zeros((rows, g.shape[1]), g.dtype)
    np.add.at(out, index, g)
    return out


def elementwise(ops: Any, torch: Any, quick: bool) -> Iterator[Kernel]:
    """One input or two, with and without broadcasting."""
    unary: dict[str, Callable[[Array], Array]] = {
        "neg": np.negative, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "square": np.square, "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }  # fmt: skip
    for n in (1 << 10,) if quick else (1 << 16, 1 << 25):
        for name, reference in unary.items():
            x = np.abs(normal(n)) + 0.1 if name in ("log", "sqrt") else normal(n)
            yield Kernel(
                name, f"({n},)", [x], getattr(ops, name), getattr(torch, name, None), reference, bytes=8 * n
            )
    rows, columns = (16, 32) if quick else (4096, 8192)
    a, size = normal(rows, columns), rows * columns
    for name, shape in (
        ("same", (rows, columns)),
        ("row", (columns,)),
        ("column", (rows, 1)),
        ("scalar", ()),
    ):
        b = np.abs(normal(*shape)) + 0.5
        moved = 4 * (2 * size + b.size)
        for op, exact in (("add", np.add), ("mul", np.multiply), ("div", np.divide)):
            if op == "add" or name == "same":
                yield Kernel(f"{op} {name}", f"{a.shape} {b.shape}", [a, b], getattr(ops, op), getattr(torch, op, None),
                             exact, bytes=moved)  # fmt: skip
    yield Kernel(
        "transpose",
        f"{a.shape}",
        [a],
        ops.transpose,
        lambda x: x.T.contiguous(),
        lambda x: x.T.copy(),
        bytes=8 * size,
    )


def reduce_torch(x: Any, name: str, axis: int | None) -> Any:
    """Sum, mean or amax."""
    return getattr(x, name)(dim=(0, 1) if axis is None else axis)


def product(a: Any, b: Any, trans_a: bool, trans_b: bool) -> Any:
    """In torch and in NumPy alike."""
    return (a.T if trans_a else a) @ (b.T if trans_b else b)


def reductions(ops: Any, torch: Any, quick: bool) -> Iterator[Kernel]:
    """Over everything, over rows, over columns."""
    del torch
    shape = (17, 33) if quick else (8192, 4096)
    x = normal(*shape)
    for name in ("sum", "mean", "max"):
        for axis in (None, 0, 1):
            yield Kernel(
                f"{name} axis {axis}",
                f"{shape}",
                [x],
                partial(getattr(ops, name), axis=axis),
                partial(reduce_torch, name="amax" if name == "max" else name, axis=axis),
                partial(getattr(np, name), axis=axis),
                bytes=4 * x.size,
            )


def matmuls(ops: Any, torch: Any, quick: bool) -> Iterator[Kernel]:
    """All four layouts, square and as in a small network; then with a bias."""
    sizes = [(8, 12, 10)] if quick else [(64, 784, 256), (512, 784, 1024), (1024,) * 3, (4096,) * 3]
    for i, k, j in sizes:
        for layout in ("nn", "nt", "tn", "tt"):
            flags = {"trans_a": layout[0] == "t", "trans_b": layout[1] == "t"}
            a = normal(*((k, i) if flags["trans_a"] else (i, k)))
            b = normal(*((j, k) if flags["trans_b"] else (k, j)))
            yield Kernel(
                f"matmul {layout}", f"({i}, {k}) ({k}, {j})", [a, b],
                partial(ops.matmul, **flags), partial(product, **flags), partial(product, **flags),
                bytes=4 * (i * k + k * j + i * j), flops=2 * i * k * j,
            )  # fmt: skip
        x, w, b = normal(i, k), normal(k, j), normal(j)
        yield Kernel(
            "affine", f"({i}, {k}) ({k}, {j})", [x, w, b], ops.affine,
            (lambda x, w, b: torch.addmm(b, x, w)) if torch else None, lambda x, w, b: x @ w + b,
            bytes=4 * (i * k + k * j + i * j + j), flops=2 * i * k * j,
        )  # fmt: skip


def rows(ops: Any, torch: Any, quick: bool) -> Iterator[Kernel]:
    """Softmax and its kin, and rows taken by index."""
    from edfcore import _core
    from edfcore._describe import Attrs

    F = torch.nn.functional if torch else None
    for n, c in [(6, 10)] if quick else [(64, 10), (4096, 1000), (32768, 1024)]:
        x, y, size = normal(n, c), integers(c, n), n * c
        shape = f"({n}, {c})"
        soft = (lambda x: F.softmax(x, -1)) if F else None
        log_soft = (lambda x: F.log_softmax(x, -1)) if F else None
        loss = (lambda x, y: F.cross_entropy(x, y.long(), reduction="none")) if F else None
        take = (lambda x, y: x.gather(-1, y.long()[:, None])[:, 0]) if F else None
        yield Kernel("softmax", shape, [x], ops.softmax, soft, softmax_numpy, bytes=8 * size)
        yield Kernel("log_softmax", shape, [x], ops.log_softmax, log_soft, log_softmax_numpy, bytes=8 * size)
        yield Kernel("log_loss_scores", shape, [x, y], ops.log_loss_scores, loss,
                     lambda x, y, n=n: -log_softmax_numpy(x)[np.arange(n), y], bytes=4 * size + 8 * n)  # fmt: skip
        yield Kernel("take_along_last", shape, [x, y], ops.take_along_last, take,
                     lambda x, y, n=n: x[np.arange(n), y], bytes=12 * n)  # fmt: skip
    v, d, n = (20, 8, 30) if quick else (50_000, 512, 65_536)
    table, g, index = normal(v, d), normal(n, d), integers(v, n)
    yield Kernel("gather_rows", f"({v}, {d}) ({n},)", [table, index], ops.gather_rows,
                 lambda t, i: t[i.long()], lambda t, i: t[i], bytes=4 * (2 * n * d + n))  # fmt: skip
    scatter, wanted = _core.find_op("scatter_add_rows"), Attrs([v])
    peer = (lambda g, i: torch.zeros((v, d), device=g.device).index_add_(0, i.long(), g)) if torch else None
    yield Kernel("scatter_add_rows", f"({n}, {d}) ({n},)", [g, index],
                 lambda g, i: _core.apply(scatter, (g, i), wanted), peer, lambda g, i: scattered_numpy(g, i, v),
                 bytes=4 * (n * d + n + v * d))  # fmt: skip


def updates(ops: Any, torch: Any, quick: bool) -> Iterator[Kernel]:
    """The update in place. A zero gradient leaves the parameter what it was, however often it is repeated."""
    del torch
    n = 1 << 10 if quick else 1 << 25
    yield Kernel("sgd", f"({n},)", [normal(n), np.zeros(n, np.float32)], lambda p, g: ops.sgd(p, g, 0.1),
                 lambda p, g: p.sub_(g, alpha=0.1), lambda p, g: p - 0.1 * g, bytes=12 * n)  # fmt: skip


def difference(got: Array, want: Array) -> float:
    """The largest difference, relative to the largest value."""
    largest = float(np.max(np.abs(want), initial=0.0)) or 1.0
    return float(np.max(np.abs(np.asarray(got, np.float64) - want), initial=0.0)) / largest


class NumpyStep:
    """A step of the multilayer perceptron by hand: forward, backward, update."""

    def __init__(self, parameters: Sequence[Array], x: Array, y: Array, rate: float, dtype: Any) -> None:
        self.parameters = [p.astype(dtype) for p in parameters]
        self.x, self.y, self.rate = x.astype(dtype), y, dtype(rate)

    def __call__(self) -> Array:
        """Return the losses before the update."""
        W1, b1, W2, b2 = self.parameters
        h = np.maximum(self.x @ W1 + b1, 0)
        log_p = log_softmax_numpy(h @ W2 + b2)
        n = np.arange(len(self.y))
        d = np.exp(log_p)
        d[n, self.y] -= 1
        d /= d.dtype.type(len(n))
        dh = (d @ W2.T) * (h > 0)
        for p, g in zip(self.parameters, (self.x.T @ dh, dh.sum(0), h.T @ d, d.sum(0)), strict=True):
            np.subtract(p, self.rate * g, out=p)
        return -log_p[n, self.y]


def edf_step(parameters: Sequence[Array], x: Array, y: Array, rate: float) -> Callable[[], Any]:
    """The same as an EDF program."""
    import edfcore as edf

    edf.clear_compgraph()
    edf.learning_rate = rate
    W1, b1, W2, b2 = map(edf.Parameter, parameters)
    inputs = edf.Input(x), edf.Input(y)
    hidden = edf.Relu(edf.Affine([W1, b1], inputs[0]))
    loss = edf.LogLoss(edf.Softmax(edf.Affine([W2, b2], hidden)), inputs[1])
    graph = edf.CompNodes, edf.Parameters

    def step() -> Any:
        edf.CompNodes, edf.Parameters = graph
        edf.learning_rate = rate
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        return loss

    return step


def torch_step(torch: Any, parameters: Sequence[Array], x: Array, y: Array, rate: float) -> Callable[[], Any]:
    """The same in torch, run op by op."""
    F = torch.nn.functional
    W1, b1, W2, b2 = ps = [torch.tensor(p, device="cuda", requires_grad=True) for p in parameters]
    x, y = torch.tensor(x, device="cuda"), torch.tensor(y, device="cuda").long()
    optimiser = torch.optim.SGD(ps, lr=rate)

    def step() -> Any:
        optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(torch.addmm(b2, torch.relu(torch.addmm(b1, x, W1)), W2), y)
        loss.backward()
        optimiser.step()
        return loss

    return step


def steps(ops: Any, torch: Any, quick: bool) -> Iterator[Kernel]:
    """A whole step of training with the minibatch in place. The error is that of the losses of the fifth step."""
    del ops
    for i, h, j, batch in [(20, 16, 10, 8)] if quick else [(784, 256, 10, 64), (784, 1024, 10, 512)]:
        rate, x, y = 0.01, normal(batch, i), integers(j, batch)
        first = [
            normal(i, h) / np.sqrt(i),
            np.zeros(h, np.float32),
            normal(h, j) / np.sqrt(h),
            np.zeros(j, np.float32),
        ]
        parameters = [p.astype(np.float32) for p in first]
        run, exact = edf_step(parameters, x, y, rate), NumpyStep(parameters, x, y, rate, np.float64)
        for _ in range(5):
            got, want = run(), exact()
        yield Kernel(
            "EDF step", f"{i}-{h}-{j} batch {batch}", [], run,
            torch_step(torch, parameters, x, y, rate) if torch else None,
            NumpyStep(parameters, x, y, rate, np.float32),
            bytes=4 * 4 * sum(p.size for p in parameters), flops=2 * batch * (2 * i * h + 3 * h * j),
            error=difference(got.value, want),
        )  # fmt: skip


FAMILIES = (steps, matmuls, elementwise, rows, reductions, updates)
