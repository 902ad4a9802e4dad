"""What is timed, and how large: the peers' rows and ours have the same names and shapes, so that they can be joined."""

from __future__ import annotations

import re

from peers_timing import Peer, Setting

Sizes = tuple[int, int, int]

RATE = 0.01
EPOCH = 60_000
ELEMENTS = 1 << 28
SIDE = 16384


def networks(setting: Setting) -> list[tuple[tuple[int, ...], int]]:
    """Networks and sizes of the minibatch, most important first."""
    if setting.quick:
        return [((12, 8, 5), 6), ((12, 8, 9, 5), 20)]
    small = (784, 256, 10)
    return [(small, 64), (small, 32), (small, 256), ((784, 1024, 1024, 10), 8192)]


def minibatches(setting: Setting, batch: int) -> int:
    """How many of them one call takes, where it takes many."""
    return setting.size(64, 4) if batch <= 1024 else 8


def network_shape(sizes: tuple[int, ...], batch: int) -> str:
    """A network and its minibatch."""
    return f"{'-'.join(map(str, sizes))} batch {batch}"


def epoch_of(setting: Setting) -> tuple[str, tuple[int, ...], int, int]:
    """The shape in words, the network, its minibatch, and how many images."""
    (sizes, batch), images = networks(setting)[0], setting.size(EPOCH, 200)
    return f"{images} images, {network_shape(sizes, batch)}", sizes, batch, images


def products(setting: Setting) -> list[tuple[Sizes, str]]:
    """Square ones in all layouts, and those of small networks."""
    if setting.quick:
        return [((8, 12, 10), "nt"), ((64,) * 3, "tn")]
    square = [((n,) * 3, layout) for n in (4096, 8192, 1024, 2048) for layout in ("nn", "nt", "tn", "tt")]
    small: list[tuple[Sizes, str]] = [
        ((64, 784, 256), "nn"), ((256, 784, 1024), "nn"), ((8192, 784, 1024), "nn"), ((784, 8192, 1024), "tn"),
    ]  # fmt: skip
    return [square[0], *small, *square[1:]]


def product_shape(sizes: Sizes) -> str:
    """Of A and B, before they are transposed."""
    i, k, j = sizes
    return f"({i}, {k}) ({k}, {j})"


def layers(setting: Setting) -> list[Sizes]:
    """Minibatches, inputs and outputs of one layer."""
    return [(6, 12, 10)] if setting.quick else [(batch, 1024, 1024) for batch in (64, 256, 1024, 8192)]


def rows(setting: Setting) -> list[tuple[int, int]]:
    """For softmax and its kin."""
    if setting.quick:
        return [(6, 20)]
    return [(32768, 1024), (32768, 256), (16384, 4096), (8192, 16384), (8192, 32768), (4096, 65536)]


def losses(setting: Setting) -> list[tuple[int, int]]:
    """For the cross-entropy and its gradient."""
    return [(6, 20)] if setting.quick else [(65536, 10), (16384, 4096), (8192, 8192), (8192, 32768)]


# The optimisers' names, the bytes that a step moves for each parameter, and over how many tensors of which size.
OPTIMISERS = {"SGD": 12, "momentum": 20, "Adam": 28}


def optimised(setting: Setting) -> list[tuple[int, int]]:
    """One large tensor, and many small ones."""
    return [(1, setting.size(10**8, 100)), (setting.size(1000, 10), setting.size(10_000, 100))]


def optimised_shape(count: int, size: int) -> str:
    """So many tensors of that size."""
    return f"{count} of ({size},)"


LATEST = 2


def lateness(peer: Peer) -> int:
    """0 for rows that goals need, 1 for those that others stand for, 2 for what is slow to make or less precise."""
    first = ("training step", network_shape(*networks(Setting())[0]))
    if (peer.name, peer.shape) == first and "max-autotune" not in peer.who:
        return 0
    if re.search(r"compile|unrolled|tf32|bfloat16|default precision|medium|jax [BT]F|triton", peer.who):
        return 2
    layout = peer.name.partition("matmul ")[2]
    return int(layout not in ("", "nn") and len(set(re.findall(r"\d+", peer.shape))) == 1)
