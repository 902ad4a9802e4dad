"""Eager tensors: operators, shape and conversion on top of the engine's Tensor."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ContextDecorator, contextmanager
from typing import TYPE_CHECKING, Any

from edfcore import _core, ops
from edfcore._core import Tensor
from edfcore._describe import Operand

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Tensor", "autocast", "bfloat16", "float16", "no_grad", "tensor"]

tensor = Tensor


@contextmanager
def no_grad() -> Iterator[None]:
    """Within the block, ops remember nothing for a backward pass (on this thread)."""
    before = _core.set_grad_enabled(False)
    try:
        yield
    finally:
        _core.set_grad_enabled(before)


bfloat16 = "bfloat16"
float16 = "float16"


class autocast(ContextDecorator):  # noqa: N801  # as PyTorch has it
    """Within the block, or the function that it decorates, compute products in a half type (on this thread).

    Of nodes made and ops called within, `matmul` and `affine` take their float32 inputs as `dtype`, and give that.
    `exp`, `log`, `pow`, `softplus`, `sum`, `mean`, `var`, `softmax`, `log_softmax` and the losses take half inputs as
    float32. An op of two operands, `where`, `concat` and `stack` take them as float32 where another one is. All else
    takes what comes; float64 and integers stay what they are. Parameters stay float32, and so do their gradients, since
    the gradient of a conversion is converted back. Blocks may be nested; with `enabled=False` nothing is converted.

    In a graph, conversions are nodes of their own in `CompNodes`, before the nodes that read them. `Backward` reads
    what they made in `Forward`: a value that is assigned between the two is not converted again.

    bfloat16 has the range of float32, so nothing more is needed. Gradients in float16 are 0 below 6e-8: multiply the
    loss by a number such as 1024, and divide the learning rate by it.

    (Micikevicius et al., "Mixed precision training", 2018; the lists of ops are much as in PyTorch.)
    """

    def __init__(self, dtype: DTypeLike = bfloat16, enabled: bool = True) -> None:
        self.dtype = dtype
        self.enabled = enabled
        self._threads = threading.local()  # what was set before, for each thread that is within

    def _recreate_cm(self) -> autocast:  # for every call of a function, in whichever thread
        return autocast(self.dtype, self.enabled)

    def __enter__(self) -> autocast:
        before = _core.set_autocast(self.dtype if self.enabled else None)
        self._threads.before = [*getattr(self._threads, "before", []), before]
        return self

    def __exit__(self, *error: object) -> None:
        _core.set_autocast(self._threads.before.pop())


class _Members(Tensor):
    """What Tensor has beside what the engine gives it; moved over below, so nobody makes one of these."""

    __array_priority__ = 1000
    __array_ufunc__ = None  # NumPy leaves `array + tensor` to __radd__

    def __add__(self, other: Operand) -> Tensor:
        return ops.add(self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return ops.add(other, self)

    def __sub__(self, other: Operand) -> Tensor:
        return ops.sub(self, other)

    def __rsub__(self, other: Operand) -> Tensor:
        return ops.sub(other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return ops.mul(self, other)

    def __rmul__(self, other: Operand) -> Tensor:
        return ops.mul(other, self)

    def __truediv__(self, other: Operand) -> Tensor:
        return ops.div(self, other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return ops.div(other, self)

    def __matmul__(self, other: Operand) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Operand) -> Tensor:
        return ops.matmul(other, self)

    def __pow__(self, other: Operand) -> Tensor:
        return ops.pow(self, other)

    def __rpow__(self, other: Operand) -> Tensor:
        return ops.pow(other, self)

    def __neg__(self) -> Tensor:
        return ops.neg(self)

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def abs(self) -> Tensor:
        """The elements without their signs."""
        return ops.abs(self)

    def clip(self, lo: float | None = None, hi: float | None = None) -> Tensor:
        """The elements within two numbers, where None is no bound."""
        return ops.clip(self, lo, hi)

    def sum(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """Sum over the given axes, all of them by default."""
        return ops.sum(self, axis, keepdims)

    def mean(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """Mean over the given axes, all of them by default."""
        return ops.mean(self, axis, keepdims)

    def max(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """Maximum over the given axes, all of them by default."""
        return ops.max(self, axis, keepdims)

    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        """The same elements under another shape, given as sizes or as one sequence of them."""
        sizes: Any = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return ops.reshape(self, sizes)

    def transpose(self, axes: Sequence[int] | None = None) -> Tensor:
        """Axis i of the result is axis axes[i] of this tensor; reversed by default."""
        return ops.transpose(self, axes)

    @property
    def T(self) -> Tensor:
        """The axes reversed."""
        return ops.transpose(self)

    def astype(self, dtype: DTypeLike) -> Tensor:
        """The elements converted to another dtype."""
        return ops.cast(self, dtype)

    def to(self, device: str) -> Tensor:
        """The values on another device: a copy, or this tensor where it is there already; gradients do not go along."""
        return _core.to_device(self, device)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def item(self) -> Any:
        """The only element as a Python number."""
        return self.numpy().item()

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> NDArray[Any]:
        values = self.numpy()
        if dtype is not None and values.dtype != dtype:
            return values.astype(dtype)
        return values.copy() if copy else values

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return int(self.shape[0])

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        device = "" if self.device == "cpu" else f", device={self.device!r}"
        return f"Tensor({self.numpy()!s}, dtype={self.dtype}{device}{grad})"


for _name, _member in vars(_Members).items():
    if callable(_member) or isinstance(_member, property) or _name.startswith("__array_"):
        setattr(Tensor, _name, _member)
