"""The one list of cases: what every op is asked to compute, and what NumPy says of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from case import (
    INF,
    NAN,
    Case,
    Table,
    apart,
    given,
    integers,
    masked,
    normal,
    on_a_grid,
    positive,
    probabilities,
    tied,
)
from case_shapes import (
    ARGMAXES,
    BATCHED_MATMULS,
    BROADCASTS,
    CONCATS,
    EXPANSIONS,
    PERMUTATIONS,
    REDUCTIONS,
    RESHAPES,
    SLICES,
    STACKS,
)
from edfcore import ops
from elementwise_cases import ELEMENTWISE
from references import (
    affine,
    gelu,
    log_softmax,
    loss_of_probabilities,
    loss_of_scores,
    mean,
    mlp_reference,
    part,
    product,
    rows_of,
    sigmoid,
    silu,
    soft_loss_of_scores,
    softmax,
    take,
    variance,
)

INDEX_DTYPES = ("int32", "int64", "uint8")

# The tables that the list is made of: an op per line, then what it is asked for.

FAR_SCORES = [[1000, 1001, 999], [-1000, -1001, 0], [0, 1e30, 0], [5, 5, 5]]
ROWS_OF_SPECIAL = [[1, NAN, 2], [INF, 1, 2], [-INF, -INF, -INF], [INF, -INF, 0]]
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 3e38, -3e38, 1e-38, 2e2, -2e2, 2e1, -2e1, 0.5]

UNARY: Table = {
    "neg": (ops.neg, np.negative, normal),
    "exp": (ops.exp, np.exp, normal),
    "log": (ops.log, np.log, positive),
    "sqrt": (ops.sqrt, np.sqrt, positive),
    "square": (ops.square, np.square, normal),
    "relu": (ops.relu, lambda x: np.maximum(x, 0), apart),
    "sigmoid": (ops.sigmoid, sigmoid, normal),
    "tanh": (ops.tanh, np.tanh, normal),
    "softplus": (ops.softplus, lambda x: np.logaddexp(x, 0), normal),
    "abs": (ops.abs, np.abs, apart),
    "gelu": (ops.gelu, gelu, normal),
    "silu": (ops.silu, silu, normal),
}
UNARY_SHAPES = {
    "scalar": (),
    "one": (1,),
    "empty": (3, 0, 2),
    "prime": (13,),
    "odd": (7, 11),
    "tail": (1031,),
    "large": (251, 401),
}

BINARY: Table = {
    "add": (ops.add, np.add, normal),
    "sub": (ops.sub, np.subtract, normal),
    "mul": (ops.mul, np.multiply, normal),
    "div": (ops.div, np.divide, positive),
    "pow": (ops.pow, np.power, positive),
    "maximum": (ops.maximum, np.maximum, on_a_grid),
    "minimum": (ops.minimum, np.minimum, on_a_grid),
}

REDUCERS: Table = {
    "sum": (ops.sum, np.sum, normal),
    "mean": (ops.mean, mean, normal),
    "max": (ops.max, np.max, apart),
    "min": (ops.min, np.min, apart),
}

GATHERED: dict[str, tuple[int, ...]] = {"one": (), "some": (7,), "matrix": (2, 13), "none": (0,)}
# Table and index: so many entries are sorted by row on a GPU before the gradient sums them.
SORTED: dict[str, tuple[tuple[int, int], Any]] = {
    **{f"sorted_{d}": ((100, 3), integers(100, 5000, dtype=d)) for d in INDEX_DTYPES},
    "sorted_to_one": ((11, 8), integers(8, 4096, low=7)),
    "sorted_in_two_passes": ((257, 136), integers(257, 4200, dtype="int32")),
    "sorted_to_two": ((2, 40), integers(2, 4500)),
    "large_sorted_to_two": ((2, 600), integers(2, 6000)),
    "large_sorted_in_three_passes": ((70000, 33), integers(70000, 5000)),
}
TAKEN: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "each": ((5, 7), (5,)),
    "several": ((5, 7), (5, 3)),
    "repeated": ((3, 2), (3, 11)),
    "vector": ((7,), ()),
    "deep": ((2, 3, 5), (2, 3, 2)),
    "none": ((0, 7), (0,)),
    "no_entries": ((3, 7), (3, 0)),
}

# rows, depth, columns
MATMULS = {
    "small": (3, 4, 5),
    "one": (1, 1, 1),
    "dot": (1, 67, 1),
    "outer": (7, 1, 5),
    "odd": (17, 31, 13),
    "batch": (64, 65, 33),
    "tall": (131, 9, 3),
    "wide": (2, 5, 193),
    "no_rows": (0, 3, 2),
    "no_depth": (2, 0, 3),
    "no_columns": (2, 3, 0),
    "large": (150, 141, 170),
    "large_deep": (13, 2053, 67),
    "large_one_more": (101, 1025, 99),  # than is multiplied at once
}
FLAGS = {"nn": (False, False), "nt": (False, True), "tn": (True, False), "tt": (True, True)}

SOFTMAX = {"softmax": (ops.softmax, softmax), "log_softmax": (ops.log_softmax, log_softmax)}
ROWS = {
    "vector": (5,),
    "matrix": (3, 7),
    "deep": (2, 3, 10),
    "one_class": (4, 1),
    "long": (3, 1031),
    "no_rows": (0, 5),
    "no_classes": (3, 0),
    "large": (1009, 33),
    # Short rows go by 2, 4, 8 or 16 at once, and their elements by 2 or 4.
    **{f"short_{m}_{n}": (m, n) for m, n in ((35, 1), (20, 2), (17, 3), (37, 4), (15, 5), (4, 10), (5, 10), (16, 10),
       (33, 13), (19, 127), (6, 128), (18, 129))},
}  # fmt: skip
# Around the widths at which a GPU spreads a row over more threads, or keeps it elsewhere.
WIDTHS = (16, 17, 64, 257, 1021, 1024, 4098, 4100, 8196, 16388, 33001)
WIDE_SPECIAL = {
    f"special_{n}": given(np.pad([[0, NAN], [0, INF], [-INF, -INF]], ((0, 0), (n - 2, 0)), "edge"))
    for n in (1024, 20000)
}

LOSSES: Table = {
    "log_loss": (ops.log_loss, loss_of_probabilities, probabilities),
    "log_loss_scores": (ops.log_loss_scores, loss_of_scores, normal),
}
SOFT_LOSSES: Table = {
    "log_loss_soft": (ops.log_loss_soft, lambda p, q: -(q * np.log(p)).sum(-1), positive),
    "log_loss_soft_scores": (ops.log_loss_soft_scores, soft_loss_of_scores, normal),
}
BATCHES = {"batch": (7,), "single": (), "deep": (2, 3), "one": (1,), "empty": (0,), "large": (6007,)}


def swapped(shape: tuple[int, int], swap: bool, batch: tuple[int, ...] = ()) -> tuple[int, ...]:
    return (*batch, *(shape[::-1] if swap else shape))


def loss_of_softmax(s: Any, y: Any) -> Any:
    return ops.log_loss(ops.softmax(s), y)


def distance(x: Any, y: Any) -> Any:
    return ops.sqrt(ops.add(ops.square(x), ops.square(y)))


def fan_out(x: Any) -> Any:
    y = ops.tanh(x)
    return ops.mul(ops.exp(y), y)


def attention(q: Any, k: Any, v: Any) -> Any:
    return ops.matmul(ops.softmax(ops.matmul(q, k, trans_b=True)), v)


def mlp(x: Any, w: Any, b: Any, v: Any, c: Any, y: Any) -> Any:
    return loss_of_softmax(ops.affine(ops.relu(ops.affine(x, w, b)), v, c), y)


C = Case
# fmt: off
CASES: list[Case] = [
    *(C(f"{name}/{kind}", f, (make(*shape),), ref)
      for name, (f, ref, make) in UNARY.items() for kind, shape in UNARY_SHAPES.items()),
    *(C(f"{name}/special", f, (given(SPECIAL),), ref, grad=False) for name, (f, ref, _) in UNARY.items()),
    C("scale/odd", lambda x: ops.scale(x, -1.75), (normal(7, 11),), lambda x: x * -1.75),
    C("scale/special", lambda x: ops.scale(x, 0.5), (given(SPECIAL),), lambda x: x * 0.5, grad=False),
    C("scale/large", lambda x: ops.scale(x, 0.5), (normal(251, 401),), lambda x: x * 0.5),
    # add, sub, mul, div
    *(C(f"{name}/{kind}", f, (make(*a), make(*b)), ref)
      for name, (f, ref, make) in BINARY.items() for kind, (a, b) in BROADCASTS.items()),
    *(C(f"{name}/special", f, (given([[s] for s in SPECIAL]), given(SPECIAL)), ref, grad=False)
      for name, (f, ref, _) in BINARY.items()),
    *(C(f"{name}/{d}", f, (integers(100, 5, 7, dtype=d), integers(250, 7, dtype=d)), ref, grad=False)
      for name, (f, ref, _) in BINARY.items() if name not in {"div", "pow"} for d in INDEX_DTYPES),
    C("mul/wraps", ops.mul, (given([2**31 - 1, -(2**31), 65537], "int32"), given([2, -1, 65537], "int32")),
      np.multiply, grad=False),
    C("sub/number", lambda x: ops.sub(2.5, x), (normal(5, 7),), lambda x: 2.5 - x),
    C("div/number", lambda x: ops.div(x, 4), (normal(5, 7),), lambda x: x / 4),
    *ELEMENTWISE,  # leaky_relu, clip, where, powers of numbers
    # cast
    *(C(f"cast/{d}", lambda x, d=d: ops.cast(x, d), (normal(5, 7),), lambda x: x, result=d)
      for d in ("float32", "float64")),
    C("cast/large", lambda x: ops.cast(x, "float32"), (normal(251, 401),), lambda x: x, result="float32"),
    *(C(f"cast/to_{d}", lambda x, d=d: ops.cast(x, d), (given([0.0, 2.7, 99.0, 200.99]),),
        lambda x, d=d: x.astype(d), grad=False) for d in INDEX_DTYPES),
    *(C(f"cast/from_{d}", lambda x: ops.cast(x, "float64"), (integers(99, 13, dtype=d),),
        lambda x: x.astype("float64"), grad=False, result="float64") for d in INDEX_DTYPES),
    C("cast/truncates", lambda x: ops.cast(x, "int32"), (given([-2.7, -0.5, 2.7]),),
      lambda x: np.trunc(x).astype("int32"), grad=False),
    # sum, mean, max
    *(C(f"{name}/{kind}", lambda x, f=f, a=axis, k=kept: f(x, axis=a, keepdims=k), (make(*shape),),
        lambda x, r=ref, a=axis, k=kept: r(x, axis=a, keepdims=k))
      for name, (f, ref, make) in REDUCERS.items() for kind, (axis, kept, shape) in REDUCTIONS.items()),
    *(C(f"{name}/special", lambda x, f=f: f(x, axis=1), (given(ROWS_OF_SPECIAL),),
        lambda x, r=ref: r(x, axis=1), grad=False) for name, (f, ref, _) in REDUCERS.items()),
    C("sum/no_terms", lambda x: ops.sum(x, axis=0), (normal(0, 4),), lambda x: np.zeros(4)),
    C("mean/no_terms", lambda x: ops.mean(x, axis=0), (normal(0, 4),), lambda x: np.full(4, NAN), grad=False),
    *(C(f"max/{d}", lambda x: ops.max(x, axis=-1), (integers(256, 5, 67, dtype=d),), lambda x: x.max(-1),
        grad=False) for d in INDEX_DTYPES),
    C("max/negative", ops.max, (integers(-5, 31, low=-99),), np.max, grad=False),
    C("max/ties", lambda x: ops.max(x, axis=1), (tied(5, 7),), lambda x: x.max(1), grad=False),
    *(C(f"min/{d}", lambda x: ops.min(x, axis=-1), (integers(256, 5, 67, dtype=d, low=9),), lambda x: x.min(-1),
        grad=False) for d in INDEX_DTYPES),
    # var, argmax
    *(C(f"var/{kind}", lambda x, a=axis, k=kept: ops.var(x, axis=a, keepdims=k), (normal(*shape),),
        lambda x, a=axis, k=kept: variance(x, a, k), tolerance=8 if np.prod(shape) < 2000 else 128)
      for kind, (axis, kept, shape) in REDUCTIONS.items()),
    *(C(f"var/ddof_{d}", lambda x, d=d: ops.var(x, 1, ddof=d), (normal(5, 7),), lambda x, d=d: np.var(x, 1, ddof=d))
      for d in (1, 2.5)),
    C("var/far", lambda x: ops.var(x, 0), (given(1e6 + np.arange(-500, 500, 0.25)),), np.var, grad=False),
    C("var/special", lambda x: ops.var(x, 1), (given([*ROWS_OF_SPECIAL, [5, 5, 5]]),), lambda x: np.var(x, 1),
      grad=False),
    C("var/no_terms", lambda x: ops.var(x, axis=0), (normal(0, 4),), lambda x: np.full(4, NAN), grad=False),
    C("var/too_few", lambda x: ops.var(x, 1, ddof=3), (normal(5, 2),), lambda x: np.full(5, INF), grad=False),
    *(C(f"argmax/{kind}", lambda x, a=axis: ops.argmax(x, a), (tied(*shape),), lambda x, a=axis: x.argmax(a),
        grad=False) for kind, (axis, shape) in ARGMAXES.items()),
    *(C(f"argmax/{d}", lambda x: ops.argmax(x, 0, keepdims=True), (integers(256, 67, 5, dtype=d),),
        lambda x: x.argmax(0, keepdims=True), grad=False) for d in INDEX_DTYPES),
    *(C(f"argmax/special_{n}", lambda x: ops.argmax(x, 1), (given([[*row] * n for row in ROWS_OF_SPECIAL]),),
        lambda x: x.argmax(1), grad=False) for n in (1, 67, 401)),
    C("argmax/special_columns", lambda x: ops.argmax(x, 0), (given(np.transpose(ROWS_OF_SPECIAL)),),
      lambda x: x.argmax(0), grad=False),
    # broadcast_to, reshape, transpose
    *(C(f"broadcast_to/{kind}", lambda x, s=to: ops.broadcast_to(x, s), (normal(*shape),),
        lambda x, s=to: np.broadcast_to(x, s), tolerance=0) for kind, (shape, to) in EXPANSIONS.items()),
    C("broadcast_to/uint8", lambda x: ops.broadcast_to(x, (3, 5)), (integers(256, 5, dtype="uint8"),),
      lambda x: np.broadcast_to(x, (3, 5)), grad=False),
    *(C(f"reshape/{kind}", lambda x, s=to: ops.reshape(x, s), (normal(*shape),),
        lambda x, s=to: x.reshape(s), tolerance=0) for kind, (shape, to) in RESHAPES.items()),
    C("reshape/int32", lambda x: ops.reshape(x, (5, -1)), (integers(99, 35, dtype="int32"),),
      lambda x: x.reshape(5, -1), grad=False),
    *(C(f"transpose/{kind}", lambda x, a=axes: ops.transpose(x, a), (normal(*shape),),
        lambda x, a=axes: np.transpose(x, a), tolerance=0) for kind, (shape, axes) in PERMUTATIONS.items()),
    *(C(f"transpose/{d}", ops.transpose, (integers(99, 5, 37, dtype=d),), np.transpose, grad=False)
      for d in INDEX_DTYPES),
    # slice, concat, stack
    *(C(f"slice/{kind}", lambda x, s=s: ops.slice(x, *s[:4]), (normal(*s[4]),),
        lambda x, s=s: part(x, *s[:4]), tolerance=0) for kind, s in SLICES.items()),
    *(C(f"concat/{kind}", lambda *xs, a=axis: ops.concat(*xs, axis=a), tuple(normal(*s) for s in shapes),
        lambda *xs, a=axis: np.concatenate(xs, a), tolerance=0) for kind, (axis, shapes) in CONCATS.items()),
    *(C(f"stack/{kind}", lambda *xs, a=axis: ops.stack(*xs, axis=a), (normal(*shape),) * n,
        lambda *xs, a=axis: np.stack(xs, a), tolerance=0) for kind, (axis, n, shape) in STACKS.items()),
    *(C(f"{name}/{d}", f, (integers(99, 5, 7, dtype=d),) * 2, ref, grad=False) for d in INDEX_DTYPES
      for name, f, ref in (("slice", lambda x, _: ops.slice(x, 1, 2), lambda x, _: x[:, 2:]),
        ("concat", ops.concat, lambda *xs: np.concatenate(xs)), ("stack", ops.stack, lambda *xs: np.stack(xs)))),
    C("concat/repeated", lambda x: ops.concat(x, x, axis=1), (normal(3, 5),), lambda x: np.hstack([x, x])),
    C("compose/split", lambda x: ops.mul(*ops.split(x, [4], axis=1)), (normal(3, 8),),
      lambda x: x[:, :4] * x[:, 4:]),
    # matmul, affine
    *(C(f"matmul/{kind}_{flag}", lambda a, b, ta=ta, tb=tb: ops.matmul(a, b, trans_a=ta, trans_b=tb),
        (normal(*swapped((i, k), ta)), normal(*swapped((k, j), tb))),
        lambda a, b, ta=ta, tb=tb: product(a, b, ta, tb), tolerance=4 + k / 2)
      for kind, (i, k, j) in MATMULS.items() for flag, (ta, tb) in FLAGS.items()),
    *(C(f"matmul/{kind}_{flag}", lambda a, b, ta=ta, tb=tb: ops.matmul(a, b, trans_a=ta, trans_b=tb),
        (normal(*swapped((i, k), ta, batch_a)), normal(*swapped((k, j), tb, batch_b))),
        lambda a, b, ta=ta, tb=tb: product(a, b, ta, tb), tolerance=8 + k)
      for kind, (batch_a, batch_b, i, k, j) in BATCHED_MATMULS.items() for flag, (ta, tb) in FLAGS.items()),
    C("matmul/special", ops.matmul, (given([[1, NAN, 0], [2, INF, 1], [3, 4, 5]]),
      given([[1, 2], [0, 1], [INF, 1]])), np.matmul, grad=False),
    *(C(f"affine/{kind}", ops.affine, (normal(i, k), normal(k, j), normal(j)), affine, tolerance=4 + k / 2)
      for kind, (i, k, j) in MATMULS.items()),
    # gather_rows, take_along_last
    *(C(f"gather_rows/{kind}_{d}", ops.gather_rows, (normal(11, 5), integers(11, *shape, dtype=d)), rows_of)
      for d in INDEX_DTYPES for kind, shape in GATHERED.items()),
    C("gather_rows/vector", ops.gather_rows, (normal(7), integers(7, 13)), rows_of),
    C("gather_rows/images", ops.gather_rows, (integers(256, 9, 4, 4, dtype="uint8"), integers(9, 5)), rows_of,
      grad=False),
    *(C(f"gather_rows/{kind}", ops.gather_rows, (normal(*table), index), rows_of)
      for kind, (table, index) in SORTED.items()),
    C("gather_rows/large", ops.gather_rows, (normal(53, 211), integers(53, 307)), rows_of),
    *(C(f"take_along_last/{kind}_{d}", ops.take_along_last, (normal(*x), integers(x[-1], *i, dtype=d)), take)
      for d in INDEX_DTYPES for kind, (x, i) in TAKEN.items()),
    C("take_along_last/large", ops.take_along_last, (normal(20011, 3), integers(3, 20011)), take),
    # softmax, log_softmax
    *(C(f"{name}/{kind}", f, (normal(*shape),), ref, tolerance=8)
      for name, (f, ref) in SOFTMAX.items() for kind, shape in ROWS.items()),
    *(C(f"{name}/width_{n}", f, (normal(2, n),), ref, tolerance=8)
      for name, (f, ref) in SOFTMAX.items() for n in WIDTHS),
    *(C(f"{name}/{kind}", f, (rows,), ref, tolerance=8, grad=False) for name, (f, ref) in SOFTMAX.items()
      for kind, rows in {"masked": masked(2, 17000), **WIDE_SPECIAL}.items()),
    *(C(f"{name}/far", f, (given(FAR_SCORES),), ref, grad=False) for name, (f, ref) in SOFTMAX.items()),
    *(C(f"{name}/special", f, (given([[0, -INF, 0], [1, NAN, 2], [INF, 1, 2], [-INF, -INF, -INF]]),), ref,
        grad=False) for name, (f, ref) in SOFTMAX.items()),
    # log_loss, log_loss_scores
    *(C(f"{name}/{kind}_{d}", f, (make(*batch, 10), integers(10, *batch, dtype=d)), ref, tolerance=8)
      for name, (f, ref, make) in LOSSES.items() for kind, batch in BATCHES.items() for d in INDEX_DTYPES),
    *(C(f"{name}/one_class", f, (make(3, 1), integers(1, 3)), ref)
      for name, (f, ref, make) in LOSSES.items()),
    *(C(f"log_loss_scores/width_{n}", ops.log_loss_scores, (normal(2, n), integers(n, 2)), loss_of_scores,
        tolerance=8) for n in WIDTHS),
    C("log_loss_scores/masked", ops.log_loss_scores, (masked(2, 17000), integers(17000, 2, low=6000)),
      loss_of_scores, tolerance=8),
    *(C(f"log_loss_scores/{kind}", ops.log_loss_scores, (rows, integers(1024, 3)), loss_of_scores, grad=False)
      for kind, rows in WIDE_SPECIAL.items()),
    C("log_loss/special", ops.log_loss, (given([[0, 1], [NAN, 1], [1, 0]]), given([0, 0, 0], "int64")),
      loss_of_probabilities, grad=False),
    C("log_loss_scores/special", ops.log_loss_scores, (given([[0, -INF], [NAN, 1], [1e3, -1e3], [-1e3, 1e3]]),
      given([1, 1, 0, 0], "int64")), loss_of_scores, grad=False),
    C("log_loss/of_softmax", loss_of_softmax, (normal(7, 10), integers(10, 7)), loss_of_scores, tolerance=8),
    C("log_loss/of_far_softmax", loss_of_softmax, (given(FAR_SCORES), given([0, 1, 2, 0], "uint8")),
      loss_of_scores, grad=False),
    # log_loss_soft, log_loss_soft_scores
    *(C(f"{name}/{kind}", f, (make(*shape), make(*shape)), ref, tolerance=64)
      for name, (f, ref, make) in SOFT_LOSSES.items() for kind, shape in ROWS.items()),
    C("log_loss_soft/zeros", ops.log_loss_soft, (given([[0, 1], [0.5, 0.5]]), given([[0, 1], [1, 0]])),
      lambda p, q: np.array([0, np.log(2)]), grad=False),
    C("log_loss_soft/of_softmax", lambda s, q: ops.log_loss_soft(ops.softmax(s), q),
      (normal(7, 10), probabilities(7, 10)), soft_loss_of_scores, tolerance=16),
    C("log_loss_soft/of_far_softmax", lambda s, q: ops.log_loss_soft(ops.softmax(s), q),
      (given(FAR_SCORES), probabilities(4, 3)), soft_loss_of_scores, grad=False),
    C("log_loss_soft_scores/special", ops.log_loss_soft_scores, (given([[0, -INF], [0, -INF], [NAN, 1], [INF, 1]]),
      given([[1, 0], [0.5, 0.5], [1, 0], [1, 0]])), lambda s, q: np.array([0, INF, NAN, NAN]), grad=False),
    # sgd
    *(C(f"sgd/{kind}", lambda p, g: ops.sgd(p, g, 0.25), (normal(*shape), normal(*shape)),
        lambda p, g: p - 0.25 * g, grad=False, recorded=False) for kind, shape in UNARY_SHAPES.items()),
    # several ops together
    C("compose/distance", distance, (positive(7), positive(7)), np.hypot),
    C("compose/fan_out", fan_out, (normal(7),), lambda x: np.tanh(x) * np.exp(np.tanh(x))),
    C("compose/twice", lambda x: ops.add(ops.mul(x, x), x), (normal(7),), lambda x: x * x + x),
    C("compose/attention", attention, (normal(5, 7), normal(6, 7), normal(6, 3)),
      lambda q, k, v: softmax(q @ k.T) @ v, tolerance=32),
    C("compose/heads", attention, (normal(2, 3, 5, 7), normal(2, 3, 6, 7), normal(2, 3, 6, 3)),
      lambda q, k, v: softmax(q @ k.swapaxes(-1, -2)) @ v, tolerance=32),
    C("compose/mlp", mlp, (normal(13, 7), normal(7, 11), normal(11), normal(11, 5), normal(5),
      integers(5, 13)), mlp_reference, tolerance=64),
    C("compose/mlp_large", mlp, (normal(257, 67), normal(67, 131), normal(131), normal(131, 10), normal(10),
      integers(10, 257, dtype="uint8")), mlp_reference, tolerance=1024),
]
# fmt: on

BY_NAME = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES), "two cases have one name"
