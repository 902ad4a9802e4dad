"""A plain tiled product in triton, of float32 in one of its precisions: what that compiler makes of split products."""

from typing import Any

import triton
import triton.language as tl

CONFIGS = [
    triton.Config({"BM": bm, "BN": bn, "BK": bk}, num_warps=warps, num_stages=stages)
    for bm, bn, bk, warps, stages in [
        (128, 128, 32, 8, 3),
        (128, 256, 32, 8, 3),
        (128, 128, 64, 8, 2),
        (64, 128, 32, 4, 4),
    ]
]


@triton.autotune(configs=CONFIGS, key=["n", "PRECISION"])
@triton.jit
def product(
    a,
    b,
    c,
    n,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    GROUP: tl.constexpr,
):
    """C = A B for square matrices whose side every tile divides. Tiles in groups of rows share columns in the cache."""
    at = tl.program_id(0)
    across = n // BN
    first = at // (GROUP * across) * GROUP
    high = tl.minimum(n // BM - first, GROUP)
    row = first + at % (GROUP * across) % high
    column = at % (GROUP * across) // high
    i = row * BM + tl.arange(0, BM)
    j = column * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    from_a = a + i[:, None] * n + k[None, :]
    from_b = b + k[:, None] * n + j[None, :]
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for _ in range(0, n, BK):
        sums = tl.dot(tl.load(from_a), tl.load(from_b), sums, input_precision=PRECISION)
        from_a += BK
        from_b += BK * n
    tl.store(c + i[:, None] * n + j[None, :], sums)


def multiply(a: Any, b: Any, c: Any, precision: str) -> Any:
    """Write the product of square matrices into c."""
    n = a.shape[0]
    product[lambda meta: (n // meta["BM"] * (n // meta["BN"]),)](a, b, c, n, PRECISION=precision, GROUP=8)
    return c
