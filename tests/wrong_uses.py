"""Wrong uses of EDF, each with the exception and the exact message that a student gets for it.

In a message, {at} stands for the place of the node that the function passed to `at`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import edfcore as edf

At = Callable[[Any], Any]


@dataclass(frozen=True)
class Wrong:
    """One wrong use, what it raises, and what that says."""

    use: Callable[[At], Any]
    error: type[Exception]
    message: str

    def __str__(self) -> str:
        return self.use.__name__


WRONG: list[Wrong] = []


def wrong(error: type[Exception], message: str) -> Callable[[Callable[[At], Any]], Callable[[At], Any]]:
    def add(use: Callable[[At], Any]) -> Callable[[At], Any]:
        WRONG.append(Wrong(use, error, message))
        return use

    return add


def ones(*shape: int, dtype: Any = np.float32) -> Any:
    return edf.Input(np.ones(shape, dtype))


def loss_with(labels: Any, at: At, shape: tuple[int, ...] = (3, 5)) -> None:
    y = edf.Input(labels)
    at(edf.LogLoss(edf.Softmax(ones(*shape)), y))
    edf.Forward()


# Shapes


@wrong(
    edf.ShapeError,
    "[affine] x has shape (8, 3) and W has shape (4, 2): the last axis of x must equal the first of W. "
    "Node made at {at}.",
)
def affine_of_the_wrong_width(at: At) -> None:
    at(edf.Affine(edf.AffineParams(4, 2), ones(8, 3)))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[affine] W has shape (3, 2) and b has shape (5,): b must have shape (2,). Node made at {at}.",
)
def affine_with_a_wrong_bias(at: At) -> None:
    at(edf.Affine([np.ones((3, 2)), np.ones(5)], ones(8, 3)))
    edf.Forward()


@wrong(edf.ShapeError, "[affine] x has shape (3,): it must have 2 axes, (batch, inputs). Node made at {at}.")
def affine_of_one_example_without_a_batch(at: At) -> None:
    at(edf.Affine(edf.AffineParams(3, 2), ones(3)))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[matmul] a has shape (2, 3) and b has shape (3, 4) (to be transposed): "
    "the last axis of a must equal the last of b. Node made at {at}.",
)
def matmul_transposed_by_mistake(at: At) -> None:
    at(edf.Matmul(ones(2, 3), ones(3, 4), trans_b=True))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[matmul] a has shape (2, 3, 4) and b has shape (3, 4, 5): the axes before the last two must be the same, "
    "or one of them must have no others. Node made at {at}.",
)
def matmul_of_two_batches(at: At) -> None:
    at(edf.Matmul(ones(2, 3, 4), ones(3, 4, 5)))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[concat] input 0 has shape (2, 3) and input 1 has shape (3, 3): they must be the same but for axis 1. "
    "Node made at {at}.",
)
def concat_along_the_other_axis(at: At) -> None:
    at(edf.Concat(ones(2, 3), ones(3, 3), axis=1))
    edf.Forward()


@wrong(edf.ShapeError, "[slice] the step is -1: it must be at least 1. Node made at {at}.")
def slice_backwards(at: At) -> None:
    at(edf.Slice(ones(2, 3), 1, None, None, -1))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[add] a has shape (2, 3) and b has shape (3, 2): counted from the last, their axes must be equal, "
    "or one of them 1. Node made at {at}.",
)
def add_that_does_not_broadcast(at: At) -> None:
    at(edf.Add(ones(2, 3), ones(3, 2)))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[log_loss] p has shape (3, 5) and y has shape (2,): y must have the axes of p without its last, "
    "one label for each row. Node made at {at}.",
)
def too_few_labels(at: At) -> None:
    loss_with([0, 1], at)


@wrong(
    edf.ShapeError,
    "[log_loss] p has shape (3, 5) and y has shape (3, 5): y must have the axes of p without its last, "
    "one label for each row. Node made at {at}.",
)
def labels_as_one_hot_rows(at: At) -> None:
    loss_with(np.eye(3, 5, dtype=int), at)


@wrong(edf.ShapeError, "[softmax] x has shape (): it must have a last axis, the classes. Node made at {at}.")
def softmax_of_a_number(at: At) -> None:
    at(edf.Softmax(edf.Input(1.0)))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[reshape] x has shape (6,) and so 6 elements, which do not fill shape (4, -1). Node made at {at}.",
)
def reshape_that_does_not_fit(at: At) -> None:
    at(edf.Reshape(ones(6), (4, -1)))
    edf.Forward()


@wrong(edf.ShapeError, "[reshape] shape (-1, -1) has more than one -1. Node made at {at}.")
def reshape_with_two_open_axes(at: At) -> None:
    at(edf.Reshape(ones(6), (-1, -1)))
    edf.Forward()


@wrong(edf.ShapeError, "a tensor has at most 8 axes, but 9 were named.")
def reshape_to_nine_axes(at: At) -> None:
    at(edf.Reshape(ones(1), (1,) * 9))


@wrong(
    edf.ShapeError,
    "[transpose] x has shape (2, 3): a permutation of its axes names 2, not 1. Node made at {at}.",
)
def transpose_with_an_axis_missing(at: At) -> None:
    at(edf.Transpose(ones(2, 3), (0,)))
    edf.Forward()


@wrong(edf.ShapeError, "[transpose] axis 0 of x is given twice. Node made at {at}.")
def transpose_with_an_axis_twice(at: At) -> None:
    at(edf.Transpose(ones(2, 3), (0, -2)))
    edf.Forward()


@wrong(edf.ShapeError, "[sum] there is no axis 2 in x of shape (2, 3), which has 2 axes. Node made at {at}.")
def sum_over_an_axis_that_is_not_there(at: At) -> None:
    at(edf.Sum(ones(2, 3), axis=2))
    edf.Forward()


@wrong(edf.ShapeError, "[mean] axis 1 of x is given twice. Node made at {at}.")
def mean_over_an_axis_twice(at: At) -> None:
    at(edf.Mean(ones(2, 3), axis=(1, -1)))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[max] x has shape (0, 3): there is no maximum over axis 0, which is empty. Node made at {at}.",
)
def max_over_nothing(at: At) -> None:
    at(edf.Max(ones(0, 3), axis=0))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[take_along_last] x has shape (2, 3) and index has shape (3,): index must have the axes of x "
    "without its last, or with another last. Node made at {at}.",
)
def take_with_too_many_rows(at: At) -> None:
    at(edf.TakeAlongLast(ones(2, 3), edf.Input([0, 1, 2])))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[Parameter] a value of shape (3, 2) was assigned to a parameter of shape (2, 3). Node made at {at}.",
)
def parameter_assigned_another_shape(at: At) -> None:
    at(edf.Parameter(np.ones((2, 3)))).value = np.ones((3, 2))


@wrong(
    edf.ShapeError,
    "[Parameter] the assigned gradient has shape (3, 2), but the value has shape (2, 3). Node made at {at}.",
)
def gradient_of_another_shape(at: At) -> None:
    at(edf.Parameter(np.ones((2, 3)))).grad = np.ones((3, 2))


@wrong(
    edf.ShapeError,
    "[relu] the added gradient has shape (4, 2), but the value has shape (2, 3). Node made at {at}.",
)
def addgrad_of_another_shape(at: At) -> None:
    a = at(edf.Relu(ones(2, 3)))
    edf.Forward()
    a.addgrad(np.ones((4, 2)))


@wrong(
    edf.ShapeError,
    "[Parameter] the added gradient, summed over its first axis, has shape (2,), but the value has "
    "shape (3,). Node made at {at}.",
)
def addgrad_of_another_shape_for_a_parameter(at: At) -> None:
    at(edf.Parameter(np.ones(3))).addgrad(np.ones((4, 2)))


@wrong(edf.ShapeError, "[Input] the assigned value has 9 axes: a tensor has at most 8.")
def input_with_nine_axes(at: At) -> None:
    at(edf.Input()).value = np.ones((1,) * 9)


# Dtypes


@wrong(
    edf.DTypeError,
    "[affine] x has dtype float64 and W has dtype float32: they must be the same; "
    "convert with cast (or .astype). Node made at {at}.",
)
def dt_changed_between_parameters_and_input(at: At) -> None:
    Phi = edf.AffineParams(3, 2)
    edf.DT = np.float64
    at(edf.Affine(Phi, ones(4, 3)))
    edf.Forward()


@wrong(
    edf.DTypeError,
    "[affine] x has dtype uint8 and W has dtype float32: they must be the same; "
    "convert with cast (or .astype). Node made at {at}.",
)
def images_that_are_still_bytes(at: At) -> None:
    at(edf.Affine(edf.AffineParams(3, 2), ones(4, 3, dtype=np.uint8)))
    edf.Forward()


@wrong(
    edf.DTypeError,
    "[softmax] x has dtype int64: this op takes float32, float64, bfloat16 or float16; "
    "convert with cast (or .astype). Node made at {at}.",
)
def softmax_of_integers(at: At) -> None:
    at(edf.Softmax(edf.Input([1, 2])))
    edf.Forward()


@wrong(
    edf.DTypeError,
    "[log_loss] y has dtype float32: it must be int32, int64 or uint8; convert with cast (or .astype). "
    "Node made at {at}.",
)
def labels_that_are_floats(at: At) -> None:
    loss_with([0.0, 1.0, 2.0], at)


@wrong(
    edf.DTypeError,
    "[log_loss] y has dtype float32: it must be int32, int64 or uint8; convert with cast (or .astype). "
    "Node made at {at}.",
)
def labels_with_a_nan(at: At) -> None:
    loss_with([0, 1, np.nan], at)


@wrong(
    edf.DTypeError,
    "[Input] the assigned value has dtype object: it must hold floating-point numbers, integers or bools.",
)
def input_of_objects(at: At) -> None:
    at(edf.Input()).value = np.array([None, 1])


@wrong(
    edf.DTypeError,
    "[Input] the assigned value has dtype <U3: it must hold floating-point numbers, integers or bools.",
)
def input_of_text(at: At) -> None:
    at(edf.Input()).value = "cat"


@wrong(
    edf.DTypeError,
    "[Input] the assigned value has dtype complex128: "
    "it must hold floating-point numbers, integers or bools.",
)
def input_of_complex_numbers(at: At) -> None:
    at(edf.Input()).value = np.ones(2) * 1j


@wrong(edf.DTypeError, "[Input] the assigned value is a list, which is no array of numbers.")
def input_of_ragged_rows(at: At) -> None:
    at(edf.Input()).value = [[1, 2], [3]]


@wrong(edf.DTypeError, "edfcore.DT must be a floating dtype, not int32.")
def dt_of_integers(at: At) -> None:
    edf.DT = np.int32
    edf.Input()


@wrong(
    edf.DTypeError,
    "edfcore has no dtype complex64: it has float32, float64, bfloat16, float16, int32, int64, uint8.",
)
def dt_of_complex_numbers(at: At) -> None:
    edf.DT = np.complex64
    edf.Parameter(np.ones(2))


# Labels and indices


@wrong(
    edf.DataError,
    "[log_loss] input 1 holds 5 at position 1: valid values are 0 to 4. Node made at {at}.",
)
def label_too_large(at: At) -> None:
    loss_with([0, 5, 1], at)


@wrong(
    edf.DataError,
    "[log_loss] input 1 holds -1 at position 2: valid values are 0 to 4. Node made at {at}.",
)
def label_below_zero(at: At) -> None:
    loss_with([0, 4, -1], at)


@wrong(
    edf.DataError,
    "[log_loss] input 1 holds 9 at position 0: valid values are 0 to 4. Node made at {at}.",
)
def label_too_large_for_given_probabilities(at: At) -> None:
    at(edf.LogLoss(edf.Input(np.full((2, 5), 0.2)), edf.Input([9, 0])))
    edf.Forward()


@wrong(
    edf.DataError,
    "[gather_rows] input 1 holds 2 at position 3: valid values are 0 to 1. Node made at {at}.",
)
def row_that_is_not_there(at: At) -> None:
    at(edf.GatherRows(ones(2, 3), edf.Input([[0, 1], [1, 2]])))
    edf.Forward()
