"""Single operations in the large frameworks: products, softmax and its kin, elementwise chains, sums, optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import peers_sizes
from peers_timing import Made, Peer, Setting, capture, errors, load, rotating
from problems import product_errors, product_operands

IN_A_GRAPH = 20
SMALL_FLOPS = 10_000_000_000


# Products.


def torch_product(setting: Setting, sizes: peers_sizes.Sizes, layout: str, dtype: str) -> Made:
    """Small products go into a graph, several of them, so that the host does not count."""
    torch, (i, k, j) = load("torch"), sizes
    a, b = product_operands(sizes, layout)
    A, B = (torch.tensor(x, device=setting.device).to(getattr(torch, dtype)) for x in (a, b))
    if dtype != "float32":
        a, b = (x.float().cpu().numpy() for x in (A, B))  # as rounded
    call = partial(multiply, layout, A, B)
    found = product_errors(a, b, layout, call().float().cpu().numpy())
    if 2 * i * k * j > SMALL_FLOPS:
        return Made(call, found)
    return Made(capture(setting, call, IN_A_GRAPH), found, IN_A_GRAPH)


def multiply(layout: str, a: Any, b: Any) -> Any:
    """The same in all frameworks."""
    return (a.T if layout[0] == "t" else a) @ (b.T if layout[1] == "t" else b)


def cupy_product(sizes: peers_sizes.Sizes, layout: str) -> Made:
    """By the library that cupy finds."""
    cupy = load("cupy")
    a, b = product_operands(sizes, layout)
    call = partial(multiply, layout, cupy.asarray(a), cupy.asarray(b))
    return Made(call, product_errors(a, b, layout, cupy.asnumpy(call())))


def jax_product(n: int, algorithm: str) -> Made:
    """By one of the algorithms that jax names."""
    jax = load("jax")
    a, b = product_operands((n, n, n), "nn")
    A, B = jax.numpy.array(a), jax.numpy.array(b)
    precision = getattr(jax.lax.DotAlgorithmPreset, algorithm)
    run = jax.jit(lambda a, b: jax.lax.dot(a, b, precision=precision, preferred_element_type="float32"))
    return Made(lambda: run(A, B), product_errors(a, b, "nn", np.asarray(run(A, B))))


def triton_product(setting: Setting, n: int, precision: str) -> Made:
    """By the kernel of peers_triton.py."""
    torch, (a, b) = load("torch"), product_operands((n, n, n), "nn")
    A, B = (torch.tensor(x, device=setting.device) for x in (a, b))
    c = torch.full((n, n), float("nan"), device=setting.device)
    call = partial(load("peers_triton").multiply, A, B, c, precision)
    return Made(call, product_errors(a, b, "nn", call().cpu().numpy()))


def products(setting: Setting) -> Iterator[Peer]:
    """Square ones and those of small networks."""
    for sizes, layout in peers_sizes.products(setting):
        i, k, j = sizes
        row = partial(Peer, f"matmul {layout}", peers_sizes.product_shape(sizes), flops=2 * i * k * j)
        made = partial(torch_product, setting, sizes, layout)
        yield row("torch", partial(made, "float32"))
        if layout == "nn" or sizes[0] != sizes[1]:
            yield row("torch, tf32", partial(made, "float32"), tf32=True)
            yield row("torch, bfloat16", partial(made, "bfloat16"))
            yield row("cupy", partial(cupy_product, sizes, layout))


def split_products(setting: Setting) -> Iterator[Peer]:
    """Products of float32 that are put together from several of smaller types."""
    for n in (32,) if setting.quick else (4096, 8192):
        row = partial(Peer, "matmul nn", f"({n}, {n}) ({n}, {n})", flops=2 * n**3)
        for name in ("F32_F32_F32", "TF32_TF32_F32_X3", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9",
                     "BF16_BF16_F32_X3", "TF32_TF32_F32"):  # fmt: skip
            yield row(f"jax {name}", partial(jax_product, n, name))
        if n < 8192:
            for precision in ("tf32x3", "bf16x6", "bf16x3"):
                yield row(f"triton {precision}", partial(triton_product, setting, n, precision))


# Operations that move bytes. Each is run op by op, and compiled for its shape.

Function = Callable[..., Any]


def moving(
    setting: Setting, function: Function, exact: Function, shapes: Sequence[tuple[int, ...]], compiled: bool
) -> Made:
    """Time a function of random inputs; a shape that begins with a negative number is one of labels below it."""
    torch = load("torch")
    torch.manual_seed(0)

    def inputs() -> list[Any]:
        return [
            torch.randint(-s[0], s[1:], device=setting.device)
            if s[0] < 0
            else torch.randn(s, device=setting.device)
            for s in shapes
        ]

    if compiled:
        function = torch.compile(function, dynamic=False, fullgraph=True)
    call = rotating(function, inputs, setting)
    got = function(*call.sets[0])
    want = exact(*(x.double() if x.is_floating_point() else x for x in call.sets[0]))
    return Made(call, errors(got, want))


def both(
    setting: Setting,
    name: str,
    function: Function,
    *shapes: tuple[int, ...],
    moved: int,
    exact: Function | None = None,
) -> Iterator[Peer]:
    """The rows of a function."""
    for who, compiled in (("torch", False), ("torch.compile", True)):
        make = partial(moving, setting, function, exact or function, shapes, compiled)
        yield Peer(name, f"{shapes[0]}", who, make, bytes=moved)


def softmaxes(setting: Setting) -> Iterator[Peer]:
    """Forward; and backward from the result."""
    F, aten = load("torch").nn.functional, load("torch").ops.aten
    dtypes = load("torch").float32, load("torch").float64
    for shape in peers_sizes.rows(setting):
        size = 4 * shape[0] * shape[1]
        for name, forward, backward in (
            ("softmax", F.softmax, aten._softmax_backward_data),
            ("log_softmax", F.log_softmax, aten._log_softmax_backward_data),
        ):
            yield from both(setting, name, partial(forward, dim=-1), shape, moved=2 * size)
            back, exact = (partial(backward, dim=-1, input_dtype=dtype) for dtype in dtypes)
            yield from both(setting, f"{name} backward", back, shape, shape, moved=3 * size, exact=exact)


def losses(setting: Setting) -> Iterator[Peer]:
    """Cross-entropy, its value and its gradient."""
    torch = load("torch")
    entropy = torch.nn.functional.cross_entropy

    def eager(x: Any, y: Any) -> Any:
        x = x.detach().requires_grad_()
        loss = entropy(x, y)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    for n, c in peers_sizes.losses(setting):
        row = partial(Peer, "cross_entropy value and gradient", f"({n}, {c})", bytes=8 * n * c + 8 * n)
        shapes = ((n, c), (-c, n))
        yield row("torch", partial(moving, setting, eager, eager, shapes, False))
        value = torch.func.grad_and_value(entropy)
        yield row("torch.compile", partial(moving, setting, value, value, shapes, True))


def chains(setting: Setting) -> Iterator[Peer]:
    """Elementwise functions, and sums."""
    torch = load("torch")
    n = setting.size(peers_sizes.ELEMENTS, 1 << 10)

    def chain(x: Any) -> Any:
        return torch.square(torch.relu(x * 1.5 + 0.5))

    for name, function in (
        ("relu", torch.relu),
        ("gelu", torch.nn.functional.gelu),
        ("multiply, add, relu, square", chain),
    ):
        yield from both(setting, name, function, (n,), moved=8 * n)
    side = setting.size(peers_sizes.SIDE, 32)
    for name, dim in (("sum", (0, 1)), ("sum of each row", 1), ("sum of each column", 0)):
        function = partial(torch.sum, dim=dim)
        yield from both(setting, name, function, (side, side), moved=4 * side * side)


def optimiser(setting: Setting, count: int, size: int, name: str, extra: dict[str, float]) -> Made:
    """A step of an optimiser; the gradients stay what they are. The error is that of a first, larger step."""
    torch = load("torch")
    parameters = [torch.randn(size, device=setting.device, requires_grad=True) for _ in range(count)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    last, rate = parameters[-1], 0.5
    optimiser = getattr(torch.optim, name)(parameters, lr=rate, fused=True, **extra)
    before, g = last.detach().double(), last.grad.double()
    optimiser.step()
    found = errors(last.detach(), before - rate * (g / (g.abs() + 1e-8) if name == "Adam" else g))
    for group in optimiser.param_groups:
        group["lr"] = 1e-6
    return Made(optimiser.step, found)


def optimisers(setting: Setting) -> Iterator[Peer]:
    """Over one large tensor, and over many."""
    kinds: list[tuple[str, str, dict[str, float]]] = [
        ("SGD", "SGD", {}), ("momentum", "SGD", {"momentum": 0.9}), ("Adam", "Adam", {}),
    ]  # fmt: skip
    for count, size in peers_sizes.optimised(setting):
        for name, optimiser_name, extra in kinds:
            make = partial(optimiser, setting, count, size, optimiser_name, extra)
            moved = peers_sizes.OPTIMISERS[name] * count * size
            yield Peer(name, peers_sizes.optimised_shape(count, size), "torch, fused", make, bytes=moved)
