"""Eager tensors: operators, shape and conversion on top of the engine's Tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edfcore import _core, ops
from edfcore._core import Tensor

__all__ = ["Tensor", "no_grad", "tensor"]

tensor = Tensor


@contextmanager
def no_grad() -> Iterator[None]:
    """Within the block, ops remember nothing for a backward pass (on this thread)."""
    before = _core.set_grad_enabled(False)
    try:
        yield
    finally:
        _core.set_grad_enabled(before)


def _reflected(function: Any) -> Any:
    return lambda self, other: function(other, self)


def _array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    values = self.numpy()
    if dtype is not None and values.dtype != dtype:
        return values.astype(dtype)
    return values.copy() if copy else values


def _repr(self: Tensor) -> str:
    grad = ", requires_grad=True" if self.requires_grad else ""
    device = "" if self.device == "cpu" else f", device={self.device!r}"
    return f"Tensor({self.numpy()!s}, dtype={self.dtype}{device}{grad})"


def _len(self: Tensor) -> int:
    if not self.shape:
        raise TypeError("len() of a 0-d tensor")
    return int(self.shape[0])


_OPERATORS: dict[str, Any] = {
    "__add__": ops.add,
    "__radd__": _reflected(ops.add),
    "__sub__": ops.sub,
    "__rsub__": _reflected(ops.sub),
    "__mul__": ops.mul,
    "__rmul__": _reflected(ops.mul),
    "__truediv__": ops.div,
    "__rtruediv__": _reflected(ops.div),
    "__neg__": ops.neg,
    "__matmul__": ops.matmul,
    "sum": ops.sum,
    "mean": ops.mean,
    "max": ops.max,
    "reshape": lambda self, *shape: ops.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape),
    "transpose": ops.transpose,
    "T": property(ops.transpose),
    "astype": ops.cast,
    "item": lambda self: self.numpy().item(),
    "ndim": property(lambda self: len(self.shape)),
    "size": property(lambda self: int(self.numpy().size)),
    "__array__": _array,
    "__array_priority__": 1000,
    "__array_ufunc__": None,
    "__len__": _len,
    "__repr__": _repr,
    "__float__": lambda self: float(self.numpy().item()),
    "__int__": lambda self: int(self.numpy().item()),
    "__bool__": lambda self: bool(self.numpy().item()),
}
for _name, _member in _OPERATORS.items():
    # An OpFunction is no plain function, so it needs a wrapper to become a method.
    setattr(Tensor, _name, _member if not hasattr(_member, "record") else (lambda f: lambda self, *a, **k: f(self, *a, **k))(_member))
