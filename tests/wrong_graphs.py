"""Wrong uses of EDF's graph, devices and settings, for the list in `wrong_uses`."""

from __future__ import annotations

from typing import Any

import numpy as np

import edfcore as edf
from wrong_uses import At, ones, wrong

# The graph


@wrong(
    edf.GraphError,
    "[relu] input 0 has no value yet: assign its .value first. Node made at {at}.",
)
def forward_before_the_input_is_assigned(at: At) -> None:
    at(edf.Relu(edf.Input()))
    edf.Forward()


@wrong(edf.GraphError, "[relu] it has no value yet: run Forward() first. Node made at {at}.")
def value_before_forward(at: At) -> None:
    at(edf.Relu(ones(2))).value  # noqa: B018


@wrong(edf.GraphError, "[Input] it has no value yet: assign its .value first. Node made at {at}.")
def value_of_an_input_before_it_is_assigned(at: At) -> None:
    at(edf.Input()).value  # noqa: B018


@wrong(edf.GraphError, "[relu] it has no gradient yet: call Backward(loss) first. Node made at {at}.")
def gradient_before_backward(at: At) -> None:
    a = at(edf.Relu(ones(2)))
    edf.Forward()
    a.grad  # noqa: B018


@wrong(
    edf.GraphError, "[relu] addgrad was called before it has a value: run Forward() first. Node made at {at}."
)
def addgrad_before_forward(at: At) -> None:
    at(edf.Relu(ones(2))).addgrad(np.ones(2))


@wrong(edf.GraphError, "Backward: [relu] has no value yet: run Forward() first. Node made at {at}.")
def backward_before_forward(at: At) -> None:
    edf.Backward(at(edf.Relu(ones(2))))


@wrong(
    edf.GraphError,
    "[sgd] a parameter has no gradient yet: call Backward(loss) first. Node made at {at}.",
)
def sgd_before_backward(at: At) -> None:
    p = at(edf.Parameter(np.ones(2)))
    edf.Relu(p)
    edf.Forward()
    edf.SGD()


@wrong(edf.GraphError, "Backward: the loss is a float, not a node.")
def loss_that_is_a_number(at: At) -> None:
    edf.Relu(ones(2))
    edf.Forward()
    edf.Backward(0.5)


@wrong(edf.GraphError, "Backward: the loss is a numpy.ndarray, not a node.")
def loss_that_is_the_value_of_the_loss(at: At) -> None:
    loss = edf.Relu(ones(2))
    edf.Forward()
    edf.Backward(loss.value)


GONE = "Backward: the loss is not among CompNodes: the graph was cleared or re-bound after it was made."


@wrong(edf.GraphError, GONE)
def loss_of_a_graph_that_was_cleared(at: At) -> None:
    loss = edf.Relu(ones(2))
    edf.Forward()
    edf.clear_compgraph()
    edf.Backward(loss)


@wrong(edf.GraphError, GONE)
def loss_of_a_graph_that_was_replaced(at: At) -> None:
    loss = edf.Relu(ones(2))
    edf.Forward()
    edf.CompNodes = []
    edf.Relu(ones(2))
    edf.Forward()
    edf.Backward(loss)


@wrong(edf.GraphError, "Backward: the loss has no examples (its value is empty).")
def backward_over_an_empty_batch(at: At) -> None:
    x, y = ones(0, 3), edf.Input(np.zeros(0, int))
    loss = edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(3, 2), x)), y)
    edf.Forward()
    edf.Backward(loss)


@wrong(
    edf.GraphError,
    "[affine] Phi is a NoneType: it must be a parameter package with .w and .b (or .W and .B), "
    "or a pair [W, B].",
)
def affine_without_parameters(at: At) -> None:
    edf.Affine(None, ones(2, 3))


@wrong(
    edf.GraphError,
    "[affine] Phi is a Input: it must be a parameter package with .w and .b (or .W and .B), "
    "or a pair [W, B].",
)
def affine_with_its_arguments_exchanged(at: At) -> None:
    edf.Affine(ones(2, 3), edf.AffineParams(3, 2))


@wrong(
    edf.GraphError,
    "[affine] Phi is a list: it must be a parameter package with .w and .b (or .W and .B), or a pair [W, B].",
)
def affine_with_three_parameters(at: At) -> None:
    edf.Affine([1, 2, 3], ones(2, 3))


@wrong(
    edf.GraphError,
    "[relu] input 0 is a str: it must be a node, an array, a number, or an object with a .value.",
)
def node_of_a_string(at: At) -> None:
    edf.Relu("x")


@wrong(
    edf.GraphError,
    "[relu] input 0 is a NoneType: it must be a node, an array, a number, or an object with a .value.",
)
def node_of_none(at: At) -> None:
    edf.Relu(None)


@wrong(TypeError, "relu() takes 1 positional argument but 2 were given")
def node_with_too_many_inputs(at: At) -> None:
    edf.Relu(ones(2), ones(2))


@wrong(TypeError, "log_loss() missing 1 required positional argument: 'y'")
def node_with_too_few_inputs(at: At) -> None:
    edf.LogLoss(ones(2, 2))


@wrong(edf.GraphError, "CompNodes[1] is a int, which has no forward().")
def list_of_nodes_with_something_else_in_it(at: At) -> None:
    edf.Relu(ones(2))
    edf.CompNodes.append(3)
    edf.Forward()


@wrong(edf.GraphError, "Parameters[0] is a numpy.ndarray, which has no SGD().")
def list_of_parameters_with_an_array_in_it(at: At) -> None:
    edf.Parameters.append(np.ones(2))
    edf.SGD()


@wrong(edf.DTypeError, "[Parameter] the assigned value has dtype object: "
       "it must hold floating-point numbers, integers or bools.")  # fmt: skip
def parameter_of_none(at: At) -> None:
    edf.Parameter(None)


@wrong(edf.GraphError, "backward: nothing that this value was computed from requires a gradient.")
def eager_backward_of_constants(at: At) -> None:
    edf.ops.exp(edf.Tensor([1.0])).backward()


# The user's own nodes


class Own:
    """A node that is whatever the wrong use needs."""

    def __init__(self, *inputs: Any) -> None:
        edf.CompNodes.append(self)
        self.inputs = inputs

    def forward(self) -> None:
        self.value = np.ones((2, 3), np.float32)


@wrong(edf.GraphError, "CompNodes[0] is a Own, which has no backward().")
def own_node_without_backward(at: At) -> None:
    loss = edf.Sum(Own(), axis=1)
    edf.Forward()
    edf.Backward(loss)


@wrong(
    edf.ShapeError,
    "[affine] x has shape (2, 3) and W has shape (4, 2): the last axis of x must equal the first of W. "
    "Node made at {at}.",
)
def own_node_of_the_wrong_shape(at: At) -> None:
    at(edf.Affine(edf.AffineParams(4, 2), Own()))
    edf.Forward()


@wrong(
    edf.ShapeError,
    "[square] the added gradient has shape (3, 2), but the value has shape (2, 3). Node made at {at}.",
)
def own_gradient_of_the_wrong_shape(at: At) -> None:
    class Flipped(Own):
        def forward(self) -> None:
            self.value = self.inputs[0].value.T

        def backward(self) -> None:
            self.inputs[0].addgrad(self.grad)

    loss = Flipped(at(edf.Square(edf.Parameter(np.ones((2, 3))))))
    edf.Forward()
    edf.Backward(loss)


@wrong(edf.GraphError, "[neg] its input, a Silent, has no value yet. Node made at {at}.")
def own_node_that_sets_no_value(at: At) -> None:
    class Silent(Own):
        def forward(self) -> None:
            pass

    at(edf.Neg(Silent()))
    edf.Forward()


@wrong(
    edf.DTypeError,
    "[neg] the value of its input, a Texts, has dtype <U1: "
    "it must hold floating-point numbers, integers or bools. Node made at {at}.",
)
def own_node_of_texts(at: At) -> None:
    class Texts(Own):
        def forward(self) -> None:
            self.value = np.array(["a", "b"])

    at(edf.Neg(Texts()))
    edf.Forward()


@wrong(
    edf.GraphError,
    "[neg] an object that it takes as input exists no longer: keep a reference to it. Node made at {at}.",
)
def own_object_that_is_gone(at: At) -> None:
    class Data:
        value = np.ones(3)

    a = at(edf.Neg(Data()))
    a.inputs = ()
    edf.Forward()


@wrong(
    edf.GraphError,
    'a node\'s input is a Slotted, which cannot be referenced weakly: add "__weakref__" to its __slots__.',
)
def own_object_with_slots(at: At) -> None:
    class Slotted:
        __slots__ = ("value",)

    data = Slotted()
    data.value = np.ones(3)
    edf.Neg(data)


# Devices and settings


@wrong(edf.DeviceError, 'no device is called \'gpu\': use "cpu", "cuda" or "cuda:0".')
def device_with_a_wrong_name(at: At) -> None:
    edf.set_device("gpu")


@wrong(edf.DataError, "set_num_threads(0): at least 1 thread is needed.")
def no_threads(at: At) -> None:
    edf.set_num_threads(0)


@wrong(edf.DTypeError, "edfcore.learning_rate is a str: it must be a number.")
def learning_rate_in_quotes(at: At) -> None:
    p = edf.Parameter(np.ones(2))
    loss = edf.Square(p)
    edf.Forward()
    edf.Backward(loss)
    edf.learning_rate = "0.1"
    edf.SGD()
