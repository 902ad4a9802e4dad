"""Single operations in the large frameworks: products, softmax and its kin, elementwise chains, sums, optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import peers_sizes
from peers_timing import Made, Peer, Setting, capture, errors, load, rotating

SAMPLED = 16
IN_A_GRAPH = 20
SMALL_FLOPS = 10_000_000_000


# Products.


class Operands:
    """A and B as torch has them, and the function of the product."""

    def __init__(self, setting: Setting, sizes: tuple[int, int, int], layout: str, dtype: str) -> None:
        torch = load("torch")
        torch.manual_seed(0)
        i, k, j = sizes
        self.torch, self.layout, kind = torch, layout, getattr(torch, dtype)
        self.a = torch.randn(*((k, i) if layout[0] == "t" else (i, k)), device=setting.device).to(kind)
        self.b = torch.randn(*((j, k) if layout[1] == "t" else (k, j)), device=setting.device).to(kind)

    def product(self, a: Any, b: Any) -> Any:
        """The same in all frameworks."""
        return (a.T if self.layout[0] == "t" else a) @ (b.T if self.layout[1] == "t" else b)

    def errors(self, c: Any) -> dict[str, float]:
        """Compare a sample of the rows of a product, given as a tensor of torch."""
        rows = self.torch.randint(c.shape[0], (SAMPLED,), device=c.device)
        a = self.a.T[rows] if self.layout[0] == "t" else self.a[rows]
        b = self.b.T if self.layout[1] == "t" else self.b
        return errors(c[rows], a.double() @ b.double())


def torch_product(setting: Setting, sizes: tuple[int, int, int], layout: str, dtype: str) -> Made:
    """Small products go into a graph, several of them, so that the host does not count."""
    of = Operands(setting, sizes, layout, dtype)

    def call() -> Any:
        return of.product(of.a, of.b)

    found, (i, k, j) = of.errors(call()), sizes
    if 2 * i * k * j > SMALL_FLOPS:
        return Made(call, found)
    return Made(capture(setting, call, IN_A_GRAPH), found, IN_A_GRAPH)


def cupy_product(setting: Setting, sizes: tuple[int, int, int], layout: str) -> Made:
    """On arrays that share the memory of torch's."""
    cupy = load("cupy")
    of = Operands(setting, sizes, layout, "float32")
    a, b = cupy.from_dlpack(of.a), cupy.from_dlpack(of.b)
    found = of.errors(of.torch.from_dlpack(of.product(a, b)))
    return Made(lambda: of.product(a, b), found)


def jax_product(setting: Setting, n: int, algorithm: str) -> Made:
    """By one of the algorithms that jax names."""
    jax = load("jax")
    of = Operands(setting, (n, n, n), "nn", "float32")
    a, b = jax.numpy.array(of.a.cpu().numpy()), jax.numpy.array(of.b.cpu().numpy())
    precision = getattr(jax.lax.DotAlgorithmPreset, algorithm)
    run = jax.jit(lambda a, b: jax.lax.dot(a, b, precision=precision, preferred_element_type="float32"))
    c = load("numpy").asarray(run(a, b))
    return Made(lambda: run(a, b), of.errors(of.torch.tensor(c).to(setting.device)))


def triton_product(setting: Setting, n: int, precision: str) -> Made:
    """By the kernel of peers_triton.py."""
    of = Operands(setting, (n, n, n), "nn", "float32")
    c = of.torch.full((n, n), float("nan"), device=setting.device)
    call = partial(load("peers_triton").multiply, of.a, of.b, c, precision)
    return Made(call, of.errors(call()))


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
            yield row("cupy", partial(cupy_product, setting, sizes, layout))


def split_products(setting: Setting) -> Iterator[Peer]:
    """Products of float32 that are put together from several of smaller types."""
    for n in (32,) if setting.quick else (4096, 8192):
        row = partial(Peer, "matmul nn", f"({n}, {n}) ({n}, {n})", flops=2 * n**3)
        for name in ("F32_F32_F32", "TF32_TF32_F32_X3", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9",
                     "BF16_BF16_F32_X3", "TF32_TF32_F32"):  # fmt: skip
            yield row(f"jax {name}", partial(jax_product, setting, n, name))
        if n < 8192:
            for precision in ("tf32x3", "bf16x6", "bf16x3"):
                yield row(f"triton {precision}", partial(triton_product, setting, n, precision))


# Operations that move bytes. Each is run op by op, and compiled for its shape.

Function = Callable[..., Any]


def moving(setting: Setting, function: Function, shapes: tuple[tuple[int, ...], ...], compiled: bool) -> Made:
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
    return Made(rotating(function, inputs, setting))


def both(
    setting: Setting, name: str, function: Function, *shapes: tuple[int, ...], moved: int
) -> Iterator[Peer]:
    """The rows of a function."""
    for who, compiled in (("torch", False), ("torch.compile", True)):
        make = partial(moving, setting, function, shapes, compiled)
        yield Peer(name, f"{shapes[0]}", who, make, bytes=moved)


def softmaxes(setting: Setting) -> Iterator[Peer]:
    """Forward; and backward from the result."""
    F, aten = load("torch").nn.functional, load("torch").ops.aten
    dtype = load("torch").float32
    for shape in peers_sizes.rows(setting):
        size = 4 * shape[0] * shape[1]
        for name, forward, backward in (
            ("softmax", F.softmax, aten._softmax_backward_data),
            ("log_softmax", F.log_softmax, aten._log_softmax_backward_data),
        ):
            yield from both(setting, name, partial(forward, dim=-1), shape, moved=2 * size)
            back = partial(backward, dim=-1, input_dtype=dtype)
            yield from both(setting, f"{name} backward", back, shape, shape, moved=3 * size)


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
        yield row("torch", partial(moving, setting, eager, shapes, False))
        yield row("torch.compile", partial(moving, setting, torch.func.grad_and_value(entropy), shapes, True))


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
    """A step of an optimiser; the gradients stay what they are."""
    torch = load("torch")
    parameters = [torch.randn(size, device=setting.device, requires_grad=True) for _ in range(count)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    return Made(getattr(torch.optim, name)(parameters, lr=1e-6, fused=True, **extra).step)


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
