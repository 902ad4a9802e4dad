"""How a function of `edfcore.ops` becomes an op: its body says what goes in, this decorator says what then happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, SupportsIndex, TypeAlias

from edfcore import _core

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    Operand: TypeAlias = _core.Node | ArrayLike
else:
    Operand = Any


class Attrs(NamedTuple):
    """What an op is asked for beside its inputs: axes, a permutation or a shape, flags, a dtype, numbers."""

    ints: Sequence[int] | None = None
    keepdims: bool = False
    trans_a: bool = False
    trans_b: bool = False
    dtype: DTypeLike | None = None
    scalar: float = 0.0
    scalar2: float = 0.0


# What an op function returns: the inputs, and what the op is asked for beside them.
Call: TypeAlias = tuple[tuple[Any, ...], Attrs | None]

P = ParamSpec("P")


class OpFunction(_core.Function, Generic[P]):
    """A function on tensors that runs its op at once, or on EDF nodes that records it.

    `record` is the engine's record of the op; `describe` gives inputs and attributes without running anything.
    """

    def __init__(self, describe: Callable[P, Call]) -> None:
        super().__init__(_core.find_op(describe.__name__), describe)
        self.__name__ = describe.__name__
        self.__qualname__ = describe.__qualname__
        self.__module__ = describe.__module__
        self.__doc__ = describe.__doc__
        self.__wrapped__ = describe  # for inspect.signature

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> _core.Tensor: ...

    def __repr__(self) -> str:
        return f"<op {self.__name__}>"


def op(describe: Callable[P, Call]) -> OpFunction[P]:
    """Make the op of the same name out of a function that describes a call of it."""
    return OpFunction(describe)


def ints(value: SupportsIndex | Sequence[SupportsIndex]) -> list[int]:
    """Return axes or a shape as the engine takes them: one number or several, Python's or NumPy's."""
    try:
        several = iter(value)  # type: ignore[arg-type]  # a NumPy array has both __iter__ and __index__
    except TypeError:
        return [index(value)]  # type: ignore[arg-type]
    return [index(i) for i in several]


def operands(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the inputs of an op of any number: those given, or those in the one list or tuple that was given."""
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else given


def axes_of(axis: SupportsIndex | Sequence[SupportsIndex] | None) -> list[int] | None:
    """Return axes as the engine takes them; None means all."""
    return None if axis is None else ints(axis)
