"""Cases of the elementwise ops that take numbers or a condition beside their inputs: a part of the list in `cases`."""

from __future__ import annotations

import numpy as np

from case import INF, NAN, Case, apart, given, integers, normal, positive, signed
from edfcore import ops
from references import leaky_relu

SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 3e38, -3e38, 0.5, -0.5]
SHAPES = {"scalar": (), "empty": (3, 0, 2), "odd": (7, 11), "tail": (1031,), "large": (251, 401)}
BOUNDS = {
    "both": (-0.5, 0.75),
    "below": (-0.25, None),
    "above": (None, 0.5),
    "crossed": (1, -1),
    "none": (None, None),
}
# condition, a, b
CHOICES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "same": ((7, 11), (7, 11), (7, 11)),
    "scalars": ((), (), ()),
    "one_side": ((5, 7), (5, 7), ()),
    "other_side": ((5, 7), (1,), (5, 7)),
    "rows": ((5, 7), (7,), (5, 1)),
    "mask": ((7, 7), (3, 2, 7, 7), ()),
    "one_condition": ((), (3, 5), (5,)),
    "outer": ((5, 1, 1), (7, 1), (3,)),
    "columns": ((2, 3, 1), (2, 1, 5), (3, 5)),
    "deep": ((2, 1, 3, 1, 2, 1, 3, 1), (1, 2, 1, 2, 1, 3, 1, 2), (3, 2)),
    "empty": ((0, 4), (4,), (1, 1)),
    "large": ((251, 401), (251, 401), (251, 401)),
    "large_mask": ((401,), (251, 401), ()),
    "large_sides": ((251, 401), (401,), (251, 1)),
}


C = Case
# fmt: off
ELEMENTWISE: list[Case] = [
    *(C(f"leaky_relu/{kind}", lambda x: ops.leaky_relu(x, 0.125), (apart(*shape),), lambda x: leaky_relu(x, 0.125))
      for kind, shape in SHAPES.items()),
    C("leaky_relu/default", ops.leaky_relu, (apart(13),), lambda x: leaky_relu(x, 0.01)),
    C("leaky_relu/rising", lambda x: ops.leaky_relu(x, -2), (apart(13),), lambda x: leaky_relu(x, -2)),
    C("leaky_relu/special", ops.leaky_relu, (given(SPECIAL),), lambda x: leaky_relu(x, 0.01), grad=False),
    *(C(f"clip/{kind}", lambda x: ops.clip(x, -0.5, 0.75), (apart(*shape),), lambda x: np.clip(x, -0.5, 0.75))
      for kind, shape in SHAPES.items()),
    *(C(f"clip/{kind}", lambda x, lo=lo, hi=hi: ops.clip(x, lo, hi), (apart(31),),
        lambda x, lo=lo, hi=hi: np.clip(x, -INF if lo is None else lo, INF if hi is None else hi))
      for kind, (lo, hi) in BOUNDS.items()),
    C("clip/special", lambda x: ops.clip(x, -0.5, 0.5), (given(SPECIAL),), lambda x: np.clip(x, -0.5, 0.5),
      grad=False),
    *(C(f"pow/to_{str(b).replace('-', 'minus_')}", lambda x, b=b: ops.pow(x, b), (signed(5, 7),),
        lambda x, b=b: x ** float(b)) for b in (3, 2, 1, 0, -1, -2)),
    C("pow/root", lambda x: ops.pow(x, 0.5), (positive(31),), np.sqrt),
    C("pow/of_number", lambda x: ops.pow(3, x), (normal(5, 7),), lambda x: 3.0**x),
    C("pow/large_square", lambda x: ops.pow(x, 2), (normal(251, 401),), np.square),
    C("maximum/number", lambda x: ops.maximum(x, 0.5), (normal(5, 7),), lambda x: np.maximum(x, 0.5)),
    C("minimum/number", lambda x: ops.minimum(1, x), (normal(5, 7),), lambda x: np.minimum(1, x)),
    *(C(f"where/{kind}_{d}", ops.where, (integers(2, *c, dtype=d), normal(*a), normal(*b)), np.where)
      for d in ("int32", "int64", "uint8") for kind, (c, a, b) in CHOICES.items()),
    *(C(f"where/of_{d}", ops.where, (integers(2, 5, 7), integers(99, 5, 7, dtype=d), integers(99, 7, dtype=d)),
        np.where, grad=False) for d in ("int32", "int64", "uint8")),
    C("where/wide", ops.where, (given([0, 256, -1, 2**32], "int64"), normal(4), normal(4)), np.where),
    C("where/bool", lambda c, a, b: ops.where(ops.cast(c, "bool"), a, b),
      (integers(3, 5, 7), normal(5, 7), normal(7)), np.where),
    C("where/number", lambda c, a: ops.where(c, a, 0.5), (integers(2, 5, 7), normal(5, 7)),
      lambda c, a: np.where(c, a, 0.5)),
    C("where/special", ops.where, (integers(2, len(SPECIAL)), given(SPECIAL), given(SPECIAL[::-1])), np.where,
      grad=False),
]
# fmt: on
