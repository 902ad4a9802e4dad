"""Shapes that ops on several axes and tensors are tried on: the tables of `cases.py` that would make it too long."""

from __future__ import annotations

from typing import Any

# axis, keepdims, shape
REDUCTIONS: dict[str, tuple[Any, bool, tuple[int, ...]]] = {
    "all": (None, False, (5, 7)),
    "all_kept": (None, True, (5, 7)),
    "scalar": (None, False, ()),
    "one": (0, False, (1,)),
    "first": (0, False, (5, 7)),
    "last": (-1, False, (5, 7)),
    "last_kept": (-1, True, (3, 67)),
    "middle": (1, False, (3, 5, 7)),
    "short_rows": (1, False, (37, 10)),
    "outer_two": ((0, -1), False, (3, 5, 7)),
    "inner_two": ((2, 1), True, (3, 5, 7)),
    "spread": ((0, 2, 4), False, (2, 3, 2, 3, 2)),
    "none": ((), False, (3, 4)),
    "long": (None, False, (4099,)),
    "tall": (0, False, (1030, 33)),
    "tall_in_parts": (0, False, (2051, 3)),
    "side_by_side": (0, False, (17, 10)),
    "side_by_side_in_parts": (0, False, (3, 29, 11)),
    "bands": (0, False, (6, 1027)),
    "middle_wide": (1, True, (2, 9, 1025)),
    "no_rows": (1, False, (0, 4)),
    "large": (None, False, (301, 401)),
    "large_first": (0, False, (20011, 5)),
    "large_wide": (0, True, (301, 401)),
    "large_last": (1, False, (301, 401)),
    "large_middle": (1, False, (17, 307, 23)),
    "large_bands": (0, False, (131, 2053)),
    "large_outer_two": ((0, 2), False, (67, 31, 103, 1)),
    "large_spread": ((0, 2), False, (61, 3, 53, 67)),
}
# from, to
EXPANSIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "row": ((4,), (3, 4)),
    "scalar": ((), (2, 3)),
    "column": ((3, 1), (2, 3, 5)),
    "ends": ((1, 5, 1), (3, 5, 7)),
    "same": ((3, 4), (3, 4)),
    "empty": ((1, 4), (0, 4)),
    "large": ((1, 401), (251, 401)),
    "large_columns": ((3, 1, 5, 1), (3, 401, 5, 7)),
}
RESHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "flat": ((3, 4), (-1,)),
    "open": ((4, 6), (2, -1, 3)),
    "scalar": ((1, 1), ()),
    "axes": ((), (1, 1)),
    "empty": ((0, 4), (2, 0)),
    "large": ((251, 401), (401, -1)),
}
PERMUTATIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "matrix": ((5, 7), None),
    "vector": ((7,), None),
    "scalar": ((), None),
    "heads": ((2, 3, 5, 7), (0, 2, 1, 3)),
    "reversed": ((2, 3, 5), None),
    "negative": ((2, 3, 5), (-1, 0, -2)),
    "same": ((3, 5), (0, 1)),
    "deep": ((2, 1, 3, 1, 2, 1, 3, 2), (7, 0, 6, 1, 5, 2, 4, 3)),
    "empty": ((0, 3), None),
    "odd": ((67, 33), None),
    "squares": ((16, 48), None),
    "planes": ((3, 17, 2, 35), (2, 3, 0, 1)),
    "large": ((251, 401), None),
    "large_planes": ((5, 67, 263), (0, 2, 1)),
}
# a, b
BROADCASTS = {
    "same": ((7, 11), (7, 11)),
    "scalars": ((), ()),
    "scalar_right": ((3, 4), ()),
    "scalar_left": ((), (3, 5)),
    "one_right": ((13,), (1,)),
    "row": ((5, 7), (7,)),
    "row_left": ((7,), (5, 7)),
    "column": ((5, 7), (5, 1)),
    "outer": ((5, 1), (1, 7)),
    "middle": ((2, 3, 5), (2, 1, 5)),
    "ends": ((1, 3, 1), (2, 3, 5)),
    "rank": ((2, 3, 5), (3, 5)),
    "deep": ((2, 1, 3, 1, 2, 1, 3, 1), (1, 2, 1, 2, 1, 3, 1, 2)),
    "empty": ((0, 4), (4,)),
    "emptied": ((1, 4), (0, 1)),
    "large": ((251, 401), (251, 401)),
    "large_row": ((251, 401), (401,)),
    "large_column": ((251, 1), (251, 401)),
}
# axis, start, stop, step, shape
SLICES: dict[str, tuple[int, int | None, int | None, int, tuple[int, ...]]] = {
    "rows": (0, 2, 5, 1, (7, 11)),
    "columns": (-1, 1, -2, 1, (7, 11)),
    "middle": (1, -3, None, 1, (3, 5, 7)),
    "steps": (0, None, None, 3, (7, 3)),
    "last_steps": (-1, 1, 10, 4, (3, 11)),
    "beyond": (0, -99, 99, 2, (7,)),
    "crossed": (0, 4, 2, 1, (7, 3)),
    "long_step": (1, 3, None, 2**62, (2, 5)),
    "nothing": (0, 0, 9, 1, (0, 3)),
    "large": (1, 3, 301, 1, (251, 401)),
    "large_steps": (1, 1, None, 2, (17, 307, 23)),
    "large_last_steps": (1, 2, -1, 3, (97, 401)),
}
# axis of concat, shapes
CONCATS: dict[str, tuple[int, tuple[tuple[int, ...], ...]]] = {
    "one": (0, ((3, 4),)),
    "vectors": (0, ((3,), (1,), (5,))),
    "rows": (0, ((2, 3), (4, 3))),
    "columns": (-1, ((3, 2), (3, 0), (3, 5))),
    "middle": (1, ((2, 3, 5), (2, 1, 5), (2, 4, 5))),
    "empty": (1, ((0, 3), (0, 2))),
    "many": (1, tuple((3, n) for n in (1, 2, 3, 5, 7, 11, 13, 17, 67, 129, 1))),
    "large": (1, ((251, 201), (251, 1), (251, 200))),
    "large_rows": (0, ((51, 401), (0, 401), (150, 401))),
}
STACKS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "scalars": (0, 3, ()),
    "one": (1, 1, (3,)),
    "first": (0, 2, (3, 5)),
    "last": (-1, 3, (3, 5)),
    "middle": (1, 8, (3, 5)),
    "empty": (1, 2, (0, 3)),
    "large": (1, 2, (251, 401)),
}

# batch of a, batch of b, rows, depth, columns
BATCHED_MATMULS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int, int]] = {
    "one_axis": ((3,), (3,), 4, 5, 6),
    "two_axes": ((2, 3), (2, 3), 5, 7, 11),
    "shared_right": ((2, 3), (), 3, 5, 4),
    "shared_left": ((), (5,), 3, 2, 4),
    "no_batch": ((0,), (0,), 2, 3, 4),
    "no_batch_shared": ((), (2, 0), 2, 3, 4),
    "batch_no_depth": ((2,), (2,), 3, 0, 4),
    "batch_of_one": ((1,), (1,), 5, 129, 7),
    "large_many": ((79,), (79,), 17, 33, 19),
    "large_batch": ((3,), (3,), 70, 67, 65),
    "large_batch_shared_right": ((7,), (), 37, 19, 43),
    "large_batch_shared_left": ((), (131,), 13, 29, 17),
    "large_batch_deep": ((2,), (2,), 5, 1031, 3),
}

# axis, shape
ARGMAXES: dict[str, tuple[int, tuple[int, ...]]] = {
    "vector": (-1, (13,)),
    "last": (-1, (5, 7)),
    "first": (0, (37, 5)),
    "middle": (1, (3, 5, 40)),
    "one": (1, (4, 1, 3)),
    "few": (1, (3, 400, 2)),
    "no_rows": (1, (0, 4)),
    "large_last": (1, (301, 401)),
    "large_long": (1, (3, 20011)),
    "large_first": (0, (301, 401)),
}
