"""EDF, the Educational Framework of TTIC 31230, on the engine: nodes, parameters, and the three calls.

State lives in the attributes of the package itself (`edfcore.CompNodes`, `edfcore.learning_rate`, ...), which programs
re-bind; it is read when it is used.
"""

from __future__ import annotations

import math
import sys
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar

from edfcore import _core, ops
from edfcore._describe import Attrs, OpFunction
from edfcore.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_face: Any = sys.modules["edfcore"]


class CompNode:
    """Base of computed nodes, and of nodes that a user writes in NumPy.

    A subclass appends itself to `edfcore.CompNodes` and has `forward`, which sets `self.value`, and `backward`, which
    adds to the gradients of its inputs. It need not call this class's constructor, nor inherit from it at all.
    """

    value: NDArray[Any]
    grad: NDArray[Any]

    def addgrad(self, delta: NDArray[Any]) -> None:
        """Add to the gradient of this node's value."""
        self.grad += delta


class Input(_core.Node):
    """A node whose value is assigned: `x.value = batch`, of any shape.

    Floating-point arrays are copied and cast to `edfcore.DT`; integer arrays stay integer. Gradients stop here. With
    `device`, values live there and not on the one that `edf.set_device` has named; nodes live where their inputs do.
    """

    def __repr__(self) -> str:
        return _repr(self)


class Parameter(_core.Node):
    """A value that `SGD()` updates, cast to `edfcore.DT`. Appends itself to `edfcore.Parameters`.

    It lives on `device`, or on the one that `edf.set_device` has named. Its shape is fixed. `SGD` may be overridden by
    a subclass, on one object, or on this class.
    """

    def __init__(self, value: ArrayLike, *, device: str | None = None) -> None:
        _core.make_parameter(self, value, device)
        _face.Parameters.append(self)

    def SGD(self) -> None:
        """Take one step of stochastic gradient descent: value -= learning_rate * grad."""
        _core.sgd_one(self, _face.learning_rate)

    def __repr__(self) -> str:
        return _repr(self)


class ParameterPackage:
    """A bag of parameters, such as a weight matrix `w` and a bias vector `b`."""


class AffineParams(ParameterPackage):
    """Weights `w` (nInputs, nOutputs), uniform within the Xavier bound, and biases `b` (nOutputs,) of zero."""

    def __init__(self, nInputs: int, nOutputs: int, *, device: str | None = None) -> None:
        import numpy as np

        bound = Xavier(nInputs)
        self.w = Parameter(_generator().uniform(-bound, bound, (nInputs, nOutputs)), device=device)
        self.b = Parameter(np.zeros(nOutputs), device=device)


def Xavier(nInputs: int) -> float:
    """Bound of the uniform distribution with variance 1 / nInputs: sqrt(3 / nInputs); with no inputs, sqrt(3)."""
    return math.sqrt(3.0 / max(nInputs, 1))


def seed(n: int) -> None:
    """Make the initial weights that follow reproducible."""
    import numpy as np

    _Random.generator = np.random.default_rng(n)


class _Random:
    generator: ClassVar[np.random.Generator | None] = None


def _generator() -> np.random.Generator:
    if _Random.generator is None:
        import numpy as np

        _Random.generator = np.random.default_rng()
    return _Random.generator


class _Overridable:
    """A method that may be set on one object, which then tells the engine to call it."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, node: _core.Node | None, owner: type) -> Any:
        if node is None:
            return self.function
        own = vars(node).get(self.name)
        return MethodType(self.function, node) if own is None else own

    def __set__(self, node: _core.Node, function: Any) -> None:
        vars(node)[self.name] = function
        node.overridden = True

    def __delete__(self, node: _core.Node) -> None:
        try:
            del vars(node)[self.name]
        except KeyError:
            raise AttributeError(self.name) from None


class _Signature:
    """The signature of a node class, for people who ask for it: `inspect` is slow to import."""

    def __get__(self, node: OpNode | None, owner: type[OpNode]) -> Any:
        import inspect

        if owner.__init__ is _core.Recorded.__init__:
            return inspect.signature(owner.function.describe).replace(return_annotation=owner)
        own = inspect.signature(owner.__init__)
        return own.replace(parameters=[*own.parameters.values()][1:], return_annotation=owner)


class OpNode(_core.Recorded, CompNode):
    """A node that the engine computes. Appends itself to `edfcore.CompNodes`; its inputs are also attributes.

    `_plain` is the op where its inputs are all that the constructor takes: the engine then makes such a node without
    calling `_init`, which is the constructor otherwise.
    """

    __signature__ = _Signature()
    function: ClassVar[OpFunction[...]]
    _plain: ClassVar[_core.Op | None] = None
    forward = _Overridable(_core.Node.forward)
    backward = _Overridable(_core.Node.backward)

    def _init(self, *args: Any, **kwargs: Any) -> None:
        inputs, attrs = self.function.describe(*args, **kwargs)
        _core.record(self, self.function.record, inputs, attrs)
        _face.CompNodes.append(self)

    def __repr__(self) -> str:
        return _repr(self)


class _InputName:
    """An input under its name. Not a property, so that a subclass may use the name for something else."""

    def __init__(self, position: int) -> None:
        self.position = position

    def __get__(self, node: OpNode | None, owner: type) -> Any:
        return self if node is None else node.inputs[self.position]


def node_class(function: OpFunction[...]) -> type[OpNode]:
    """Make the EDF node class of an op: LogLoss from log_loss, with the inputs as attributes under their names."""
    name = "".join(part.capitalize() for part in function.__name__.split("_"))
    members: dict[str, Any] = {"function": function, "__doc__": function.__doc__, "__module__": "edfcore"}
    for i, argument in enumerate(function.describe.__code__.co_varnames[: max(function.record.arity, 0)]):
        members[argument] = _InputName(i)
    code = function.describe.__code__
    starred = code.co_flags & 0x0C  # *args or **kwargs, as inspect would say
    if code.co_argcount == function.record.arity and not code.co_kwonlyargcount and not starred:
        members["_plain"] = function.record
    return type(name, (OpNode,), members)


NODE_CLASSES: dict[str, type[OpNode]] = {
    made.__name__: made
    for made in (node_class(f) for f in vars(ops).values() if isinstance(f, OpFunction))
    if made.__name__ != "Sgd"  # an update is no node of a graph
}


class Affine(NODE_CLASSES["Affine"]):  # type: ignore[misc, valid-type]  # a class made above
    """x W + b for a parameter package (`.w`/`.b` or `.W`/`.B`) or a pair [W, B], and x of shape (nBatch, nInputs).

    W is (nInputs, nOutputs), b is (nOutputs,), and the result is (nBatch, nOutputs).

    (TTIC 31230, "y = Affine([W,B],x)".)
    """

    def __init__(self, Phi: Any, x: Any) -> None:
        self.Phi = Phi
        try:
            inputs = (x, Phi.w, Phi.b)
        except AttributeError:
            inputs = (x, *_weights(Phi))
        _core.record(self, _AFFINE, inputs, None)
        _face.CompNodes.append(self)


_AFFINE = ops.affine.record


def _weights(Phi: Any) -> tuple[Any, Any]:
    """Take the weights and biases out of a pair or a package that has no .w and .b."""
    if isinstance(Phi, (list, tuple)) and len(Phi) == 2:
        return Phi[0], Phi[1]
    for W, b in (("W", "B"), ("W", "b")):
        if hasattr(Phi, W) and hasattr(Phi, b):
            return getattr(Phi, W), getattr(Phi, b)
    raise GraphError(
        f"[affine] Phi is a {type(Phi).__name__}: it must be a parameter package with .w and .b (or .W and .B), "
        "or a pair [W, B]."
    )


NODE_CLASSES["Affine"] = Affine
NODE_CLASSES |= {"ConCat": NODE_CLASSES["Concat"], "Embed": NODE_CLASSES["GatherRows"]}  # as the lectures say
_CLASS_OF_OP = {made.function.record.name: made for made in NODE_CLASSES.values()}


class Autocast(OpNode):
    """The conversion that `edfcore.autocast` puts before a node, where the dtypes that come in ask for one."""


_CLASS_OF_OP["autocast"] = Autocast


def _record(record: _core.Op, inputs: tuple[Any, ...], attrs: Attrs | None) -> OpNode:
    """Make the node for a function of `edfcore.ops` that met an EDF node."""
    made = _CLASS_OF_OP.get(record.name)
    if made is None:
        raise GraphError(f"[{record.name}] cannot be recorded.")
    node: OpNode = made.__new__(made)
    _core.record(node, record, inputs, attrs)
    _face.CompNodes.append(node)
    return node


def _repr(node: _core.Node) -> str:
    shape = f" {node.shape} {node.dtype}" if node.has_value else ""
    place = f", made at {node.made_at}" if node.made_at else ""
    return f"<{type(node).__name__}{shape}{place}>"


def clear_compgraph() -> None:
    """Start a new graph: re-binds `CompNodes` and `Parameters` to empty lists."""
    _face.CompNodes = []
    _face.Parameters = []
    _core.leave()


def Forward() -> None:
    """Compute the value of every node of `CompNodes`, in the order of the list.

    Raises ShapeError, DTypeError, DataError or GraphError, naming the op and where its node was made; what a user's
    own `forward` raises comes out as it is.
    """
    _core.forward(_face.CompNodes)


def Backward(loss: Any) -> None:
    """Set all gradients to zero, then that of `loss` to 1/nBatch, and propagate in the reverse order of `CompNodes`.

    `loss` has shape (nBatch,), so that parameters get the gradient of the mean; a scalar counts as one example.
    Raises GraphError if `loss` is not in `CompNodes` or has no examples.
    """
    _core.backward(_face.CompNodes, _face.Parameters, loss)


def SGD() -> None:
    """Update every parameter: value -= learning_rate * grad, unless it has an `SGD` of its own.

    Raises GraphError before anything is changed if a parameter has no gradient yet.
    """
    _core.sgd(_face.Parameters, _face.learning_rate)


def Momentum(decay: float = 0.9) -> None:
    """Update every parameter, in place of `SGD()`: m = decay * m + grad, value -= learning_rate * m.

    The sum m (of the parameter's shape, zero in the beginning) stays with the parameter: `Parameter.optimised`.
    Raises GraphError before anything is changed if a parameter has no gradient yet or has an `SGD` of its own.
    (Polyak's heavy ball, in the form that PyTorch's SGD has.)
    """
    _core.optimise(_face.Parameters, _face.learning_rate, "Momentum", decay=decay)


def Adam(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
    """Update every parameter, in place of `SGD()`, by a mean of its gradients over a mean of their size.

    In step t, m = beta1 * m + (1 - beta1) * grad and v = beta2 * v + (1 - beta2) * grad**2, elementwise, and then
    value -= learning_rate * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + epsilon). The moments m and v and the
    number of steps stay with the parameter: `Parameter.optimised`. A learning rate of 0.001 is usual.

    Raises as `Momentum` does. (Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1.)
    """
    _core.optimise(_face.Parameters, _face.learning_rate, "Adam", beta1=beta1, beta2=beta2, epsilon=epsilon)


def keep(what: _core.Node | str) -> None:
    """Keep the value and the gradient of a node, or of all nodes, so that they can be looked at whenever one likes.

    `Forward`, `Backward` and `SGD` put their work off until a result is needed, and then run it as one plan, which does
    without the values that nobody has ever looked at. A look at such a value computes it, as long as the inputs and
    parameters are those that it came from; later it raises GraphError. `keep(node)` makes plans keep it; `keep("all")`
    runs every call at once, node by node, as interactive Python does from the start; `keep("looked")` goes back to
    plans.

    Raises GraphError for anything else.
    """
    if isinstance(what, _core.Node):
        _core.keep(what)
    elif what in ("all", "looked"):
        _core.keep_all(what == "all")
    else:
        raise GraphError(f"keep: {what!r} is neither a node nor 'all' nor 'looked'.")


def plan(loss: Any = None) -> _core.Plan | _core.MixedPlan:
    """What one training step of the current graph runs: Forward, Backward(loss) and SGD, or Forward alone for None.

    `print(edf.plan(loss))` shows the steps, which of them go over their elements together, and where values lie in
    memory. Inputs need a value, of the shape of a minibatch. Of a graph with nodes in NumPy it shows the segments
    between them, by their plans once they have any, and the copies that each node has cost in the last step, where the
    graph is on a GPU. Raises what Forward raises.
    """
    return _core.plan(_face.CompNodes, _face.Parameters, loss)


def replay(
    loss: Any, feeds: dict[Input, ArrayLike | _core.Tensor], *, order: ArrayLike | None = None, batch_size: int = 64,
    update: Callable[..., None] = SGD, **numbers: float,
) -> NDArray[Any]:  # fmt: skip
    """Run Forward, Backward(loss) and an update for every minibatch of an epoch, without coming back to Python.

    `feeds` holds all examples of each input, along the first axis: arrays, or tensors, which are read where they lie if
    the input is there too; `order` (n,), integers, says which to take and in
    which order, all of them as they stand by default; the last minibatch may be smaller. `update` is `SGD`, `Momentum`
    or `Adam`, and `numbers` are its arguments, by name. Results are those of the loop

        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            x.value, y.value = X[rows], Y[rows]
            Forward(); Backward(loss); update(**numbers)

    bit for bit. Returns the loss of each example (n,), or of each minibatch where the loss is a scalar, in the loss's
    dtype. Afterwards parameters have their new values and `Parameter.optimised`; computed nodes have no values until
    the next Forward, and inputs those from before. The plan is found again by the next call with such a graph, so that
    it is cheap to call this for a few minibatches at a time.

    Raises GraphError for nodes or updates written in Python and for another `update`, TypeError for a number that it
    does not take, ShapeError and DTypeError as Forward does, and DataError for a bad label or position: minibatches
    before it were learnt from, and it and those after it were not. Ctrl-C stops between two minibatches.
    """
    if update not in (SGD, Momentum, Adam):
        raise GraphError(f"replay: update is {update!r}: it must be edf.SGD, edf.Momentum or edf.Adam.")
    names, defaults = update.__code__.co_varnames, update.__defaults__ or ()
    if unknown := numbers.keys() - set(names):
        raise TypeError(f"replay: {update.__name__} takes no {', '.join(sorted(unknown))}.")
    numbers = dict(zip(names, defaults, strict=True)) | numbers
    return _core.replay(
        _face.CompNodes, _face.Parameters, loss, feeds, order, batch_size, _face.learning_rate, update.__name__,
        **numbers,
    )  # fmt: skip


if sys.flags.interactive or hasattr(sys, "ps1"):
    keep("all")
_core.set_original_sgd(Parameter.SGD)
_core.set_recorder(_record)
