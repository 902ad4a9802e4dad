"""Edfcore's rows beside those of peers_rows.py: products, layers, softmax and its kin, chains, sums, optimisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import peers_sizes
from kernels import Array, difference, integers, log_softmax_numpy, normal, softmax_numpy
from peers_timing import ROTATED, Made, Peer, Rotating, Setting
from problems import SAMPLED, layer_errors, layer_operands, product_errors, product_operands

NAME = "edfcore"


def tensors(setting: Setting, arrays: list[Array], function: Callable[..., Any]) -> Rotating:
    """Call it on as many copies of the arrays as it takes to be larger than any cache."""
    import edfcore as edf

    held = sum(a.nbytes for a in arrays)
    count = 2 if setting.quick else max(1, math.ceil(ROTATED / held))
    return Rotating(function, [[edf.Tensor(a) for a in arrays] for _ in range(count)])


def made(
    setting: Setting,
    function: Callable[..., Any],
    want: Callable[..., Array],
    arrays: Callable[[], list[Array]],
    by_rows: bool = True,
) -> Made:
    """Time an op on rotated buffers; the error from float64 is that of the first and last rows, or of all results."""
    given = arrays()
    call = tensors(setting, given, function)
    got = function(*call.sets[0]).numpy()
    if by_rows and len(got) > 2 * SAMPLED:
        some = np.r_[0:SAMPLED, len(got) - SAMPLED : len(got)]
        got = got[some]
        given = [a[some] if a.shape[:1] == given[0].shape[:1] else a for a in given]
    exact = want(*[a.astype(np.float64) if a.dtype.kind == "f" else a for a in given])
    return Made(call, {"error": difference(got, exact)})


def product(setting: Setting, sizes: peers_sizes.Sizes, layout: str, how: str = "exact") -> Made:
    """The engine's matmul, run at once. The setting of float32 products stays: ours.py takes it back."""
    import edfcore as edf
    from edfcore import ops

    flags = {name: True for name, mark in zip(("trans_a", "trans_b"), layout, strict=True) if mark == "t"}
    a, b = product_operands(sizes, layout)
    A, B = edf.Tensor(a), edf.Tensor(b)
    edf.set_float32_matmul(how)
    run = partial(ops.matmul, A, B, **flags)
    return Made(run, product_errors(a, b, layout, run().numpy()))


def products(setting: Setting) -> Iterator[Peer]:
    """Those of the peers."""
    for sizes, layout in peers_sizes.products(setting):
        i, k, j = sizes
        row = partial(Peer, f"matmul {layout}", peers_sizes.product_shape(sizes), flops=2 * i * k * j)
        make = partial(product, setting, sizes, layout)
        yield row(NAME, make)
        for how in ("high", "medium"):  # by tensor cores: as exact as float32, and as TF32
            yield row(f"{NAME}, {how}", partial(make, how))


def layer(sizes: peers_sizes.Sizes) -> Made:
    """A graph of one layer, of which the activations and all three gradients are kept."""
    import edfcore as edf

    x, w, b, g = layer_operands(sizes)
    edf.clear_compgraph()
    X, W, B = map(edf.Parameter, (x, w, b))
    h = edf.Relu(edf.Affine([W, B], X))
    for node in (X, W, B, h):
        edf.keep(node)
    graph = edf.CompNodes, edf.Parameters

    def call() -> Any:
        edf.CompNodes, edf.Parameters = graph
        edf.Forward()
        edf.Backward(h)
        return h

    for _ in range(4):
        call()
    return Made(call, layer_errors([h.value, X.grad, W.grad, B.grad], [x, w, b, g]))


def layers(setting: Setting) -> Iterator[Peer]:
    """Forward with bias and relu, the gradient of the input, and those of the weights and the bias."""
    for sizes in peers_sizes.layers(setting):
        i, k, j = sizes
        yield Peer("layer triple", peers_sizes.product_shape(sizes), NAME, partial(layer, sizes),
                   flops=6 * i * k * j)  # fmt: skip


def internal(name: str) -> Callable[..., Any]:
    """An op that only gradients use."""
    from edfcore import _core

    return partial(_apply, _core.find_op(name))


def _apply(op: Any, *inputs: Any) -> Any:
    from edfcore import _core

    return _core.apply(op, inputs)


def softmax_backward(g: Array, p: Array) -> Array:
    """From the result."""
    return p * (g - (g * p).sum(-1, keepdims=True))


def log_softmax_backward(g: Array, log_p: Array) -> Array:
    """From the result."""
    return g - np.exp(log_p) * g.sum(-1, keepdims=True)


def softmaxes(setting: Setting) -> Iterator[Peer]:
    """Forward; and backward from the result, for which other numbers do as well."""
    from edfcore import ops

    for shape in peers_sizes.rows(setting):
        size = 4 * shape[0] * shape[1]
        for name, forward, want, back in (
            ("softmax", ops.softmax, softmax_numpy, softmax_backward),
            ("log_softmax", ops.log_softmax, log_softmax_numpy, log_softmax_backward),
        ):
            one = partial(lambda shape: [normal(*shape)], shape)
            two = partial(lambda shape: [normal(*shape), normal(*shape)], shape)
            yield Peer(name, f"{shape}", NAME, partial(made, setting, forward, want, one), bytes=2 * size)
            backward = internal(f"{name}_grad")
            yield Peer(f"{name} backward", f"{shape}", NAME, partial(made, setting, backward, back, two),
                       bytes=3 * size)  # fmt: skip


def loss_gradient(s: Array, y: Array, g: Array) -> Array:
    """Of the scores."""
    d = softmax_numpy(s)
    d[np.arange(len(y)), y] -= 1
    return d * g[:, None]


def losses(setting: Setting) -> Iterator[Peer]:
    """Cross-entropy, its value and its gradient, in one step."""
    both = internal("log_loss_scores_both")
    for n, c in peers_sizes.losses(setting):
        arrays = partial(lambda n, c: [normal(n, c), integers(c, n), np.full(n, 1 / n, np.float32)], n, c)
        make = partial(made, setting, both, loss_gradient, arrays)
        yield Peer("cross_entropy value and gradient", f"({n}, {c})", NAME, make, bytes=8 * n * c + 8 * n)


def chain(n: int) -> Made:
    """A graph of four elementwise nodes, of which the last is kept; its input stays where it is."""
    import edfcore as edf

    edf.clear_compgraph()
    x = edf.Input(normal(n))
    y = edf.Square(edf.Relu(edf.Add(edf.Mul(x, 1.5), 0.5)))
    edf.keep(y)
    graph = edf.CompNodes

    def call() -> Any:
        edf.CompNodes = graph
        edf.Forward()
        return y

    for _ in range(4):
        call()
    want = np.square(np.maximum(x.value[:1000].astype(np.float64) * 1.5 + 0.5, 0))
    return Made(call, {"error": difference(y.value[:1000], want)})


def chains(setting: Setting) -> Iterator[Peer]:
    """Elementwise functions, and sums."""
    from edfcore import ops

    n, side = setting.size(peers_sizes.ELEMENTS, 1 << 10), setting.size(peers_sizes.SIDE, 32)
    flat = partial(lambda n: [normal(n)], n)
    for name, function, want in (
        ("relu", ops.relu, partial(np.maximum, 0)),
        ("gelu", ops.gelu, gelu_numpy),
    ):
        yield Peer(name, f"({n},)", NAME, partial(made, setting, function, want, flat), bytes=8 * n)
    yield Peer("multiply, add, relu, square", f"({n},)", NAME, partial(chain, n), bytes=8 * n)
    square = partial(lambda side: [normal(side, side)], side)
    for name, axis in (("sum", None), ("sum of each row", 1), ("sum of each column", 0)):
        total, want = partial(ops.sum, axis=axis), partial(np.sum, axis=axis)
        make = partial(made, setting, total, want, square, by_rows=axis == 1)
        yield Peer(name, f"({side}, {side})", NAME, make, bytes=4 * side * side)


def gelu_numpy(x: Array) -> Array:
    """With the error function of the C library, one by one."""
    return x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


def optimiser(name: str, count: int, size: int) -> Made:
    """Updates with gradients that stay what they are; the error is that of the first one."""
    import edfcore as edf

    edf.clear_compgraph()
    values, gradients = normal(size), normal(size)
    parameters = [edf.Parameter(values) for _ in range(count)]
    for p in parameters:
        p.grad = gradients
    update = {"SGD": edf.SGD, "momentum": edf.Momentum, "Adam": edf.Adam}[name]

    def call(rate: float = 1e-6) -> Any:
        edf.Parameters, edf.learning_rate = parameters, rate
        return update()

    rate = 0.5
    call(rate)
    g = gradients[:1000].astype(np.float64)
    step = g / (np.abs(g) + 1e-8) if name == "Adam" else g
    moved = parameters[-1].value[:1000]
    return Made(call, {"error": difference(moved, values[:1000].astype(np.float64) - rate * step)})


def optimisers(setting: Setting) -> Iterator[Peer]:
    """Over one large tensor, and over many."""
    for count, size in peers_sizes.optimised(setting):
        for name, moved in peers_sizes.OPTIMISERS.items():
            yield Peer(name, peers_sizes.optimised_shape(count, size), NAME, partial(optimiser, name, count, size),
                       bytes=moved * count * size)  # fmt: skip
