"""Types of the compiled module. Written by tools/stub.py: do not edit."""

from __future__ import annotations

import typing

import numpy as np
from edfcore._describe import Attrs, Operand
from numpy.typing import DTypeLike, NDArray

class Event:
    """
    A moment in the work of a CUDA device, as `torch.cuda.Event` has it.
    """
    def __init__(self, index: int = 0) -> None: ...
    def elapsed_time(self, end: Event) -> float:
        """
        Milliseconds of the device's from this moment to another, for which it waits.
        """
    def record(self) -> None:
        """
        Mark what the device has been given, what was put off among it.
        """

class Node:
    """
    A node of a recorded graph.
    """

    name: str
    overridden: bool
    def __init__(self, value: typing.Any = None, *, device: str | None = None) -> None: ...
    @property
    def grad(self) -> NDArray[typing.Any]: ...
    @grad.setter
    def grad(self, array: typing.Any) -> None: ...
    @property
    def value(self) -> NDArray[typing.Any]: ...
    @value.setter
    def value(self, array: typing.Any) -> None: ...
    def addgrad(self, delta: typing.Any) -> None: ...
    def backward(self) -> None: ...
    def forward(self) -> None: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> typing.Any: ...
    @property
    def has_value(self) -> bool: ...
    @property
    def made_at(self) -> str: ...
    @property
    def op_name(self) -> str: ...
    @property
    def optimised(self) -> tuple[typing.Any, typing.Any, int]: ...
    @optimised.setter
    def optimised(self, arg0: tuple[typing.Any, typing.Any, int]) -> None: ...
    @property
    def serial(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

class Recorded(Node):
    """
    A node that is computed from others, its `inputs`.
    """

    inputs: tuple[typing.Any, ...]
    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None: ...

class Tensor(Node):
    """
    A dense array on one device that remembers what it was computed from.

    Ops on tensors run at once. `backward()` then gives every tensor with `requires_grad` its `.grad`.
    """

    __array_priority__: typing.ClassVar[int] = 1000
    __array_ufunc__ = None
    grad: Tensor | None  # type: ignore[assignment]
    requires_grad: bool
    def __init__(
        self,
        data: typing.Any,
        dtype: DTypeLike | None = None,
        *,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> None: ...
    def __abs__(self) -> Tensor: ...
    def __add__(self, other: Operand) -> Tensor: ...
    def __array__(
        self, dtype: np.dtype[typing.Any] | None = None, copy: bool | None = None
    ) -> NDArray[typing.Any]: ...
    def __bool__(self) -> bool: ...
    def __float__(self) -> float: ...
    def __int__(self) -> int: ...
    def __len__(self) -> int: ...
    def __matmul__(self, other: Operand) -> Tensor: ...
    def __mul__(self, other: Operand) -> Tensor: ...
    def __neg__(self) -> Tensor: ...
    def __pow__(self, other: Operand) -> Tensor: ...
    def __radd__(self, other: Operand) -> Tensor: ...
    def __repr__(self) -> str: ...
    def __rmatmul__(self, other: Operand) -> Tensor: ...
    def __rmul__(self, other: Operand) -> Tensor: ...
    def __rpow__(self, other: Operand) -> Tensor: ...
    def __rsub__(self, other: Operand) -> Tensor: ...
    def __rtruediv__(self, other: Operand) -> Tensor: ...
    def __sub__(self, other: Operand) -> Tensor: ...
    def __truediv__(self, other: Operand) -> Tensor: ...
    def abs(self) -> Tensor:
        """
        The elements without their signs.
        """
    def astype(self, dtype: DTypeLike) -> Tensor:
        """
        The elements converted to another dtype.
        """
    def backward(self, gradient: Operand | None = None, *, create_graph: bool = False) -> None: ...
    def clip(self, lo: float | None = None, hi: float | None = None) -> Tensor:
        """
        The elements within two numbers, where None is no bound.
        """
    def detach(self) -> typing.Any: ...
    def item(self) -> typing.Any:
        """
        The only element as a Python number.
        """
    def max(self, axis: int | typing.Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """
        Maximum over the given axes, all of them by default.
        """
    def mean(self, axis: int | typing.Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """
        Mean over the given axes, all of them by default.
        """
    def numpy(self) -> NDArray[typing.Any]:
        """
        The values as a read-only array; on the CPU without a copy. Those of bfloat16 have the dtype of the package ml_dtypes where it is installed; otherwise the array is a float32 copy of the same values.
        """
    def reshape(self, *shape: int | typing.Sequence[int]) -> Tensor:
        """
        The same elements under another shape, given as sizes or as one sequence of them.
        """
    def sum(self, axis: int | typing.Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """
        Sum over the given axes, all of them by default.
        """
    def to(self, device: str) -> Tensor:
        """
        The values on another device: a copy, or this tensor where it is there already; gradients do not go along.
        """
    def transpose(self, axes: typing.Sequence[int] | None = None) -> Tensor:
        """
        Axis i of the result is axis axes[i] of this tensor; reversed by default.
        """
    @property
    def T(self) -> Tensor:
        """
        The axes reversed.
        """
    @property
    def ndim(self) -> int:
        """
        Number of axes.
        """
    @property
    def size(self) -> int:
        """
        Number of elements.
        """

class Op:
    """
    The record of one op.
    """
    def __repr__(self) -> str: ...
    @property
    def arity(self) -> int: ...
    @property
    def has_cuda(self) -> bool: ...
    @property
    def has_vjp(self) -> bool: ...
    @property
    def internal(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def no_grad(self) -> bool: ...
    @property
    def unread(self) -> int: ...

class Plan:
    """
    What a training step runs: steps, groups and memory. Made by `edfcore.plan`.
    """
    def __str__(self) -> str: ...
    def describe(self) -> str:
        """
        A table of the steps, one line each.
        """
    @property
    def arena_bytes(self) -> int: ...
    @property
    def bytes_moved(self) -> int: ...
    @property
    def flops(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def separate_bytes(self) -> int: ...
    @property
    def steps(self) -> int: ...

class MixedPlan:
    """
    How a graph with nodes in NumPy runs. Made by `edfcore.plan`.
    """
    def __str__(self) -> str: ...
    def describe(self) -> str:
        """
        A table of segments and host_calls, with the copies that they have cost in the last step.
        """
    @property
    def bytes_to_device(self) -> int: ...
    @property
    def bytes_to_host(self) -> int: ...
    @property
    def host_calls(self) -> int: ...
    @property
    def segments(self) -> int: ...

class Function:
    """
    An op as a function: runs it on tensors, or records it when an input is a recorded node.
    """

    record: Op
    describe: typing.Callable[..., typing.Any]
    def __init__(self, record: Op, describe: typing.Callable[..., typing.Any]) -> None: ...
    def __call__(self, *args: typing.Any, **kwargs: typing.Any) -> Tensor:
        """
        Call self as a function.
        """

def all_ops() -> list[Op]: ...
def apply(op: Op, inputs: tuple[typing.Any, ...], attrs: Attrs | None = None) -> Tensor:
    """
    Runs an op on tensors, or records it when an input is a recorded node.
    """

def backward(comp_nodes: typing.Any, parameters: typing.Any, loss: typing.Any) -> None: ...
def cuda_build() -> str:
    """
    "cuda", "sim" or "none": what this build holds.
    """

def cuda_device_count() -> int: ...
def cuda_device_description(index: int = 0) -> str: ...
def cuda_properties(index: int) -> dict[str, typing.Any]: ...
def cuda_why_not() -> str: ...
def empty_cache(device: str) -> None: ...
def find_op(name: str) -> Op: ...
def float32_matmul() -> str: ...
def forward(comp_nodes: typing.Any) -> None: ...
def get_device() -> str: ...
def isa() -> str:
    """
    The instruction set that CPU kernels run in.
    """

def keep(node: Node) -> None: ...
def keep_all(on: bool) -> None:
    """
    Runs every step node by node, so that all values stay.
    """

def leave() -> None:
    """
    Finishes the step that is under way and lets go of its nodes.
    """

def live_nodes() -> int:
    """
    Nodes alive in the engine, whoever holds them.
    """

def make_parameter(node: typing.Any, value: typing.Any, device: str | None = None) -> None:
    """
    Makes `node`, an instance of a subclass whose constructor runs, a parameter.
    """

def memory_stats(device: str) -> dict[str, int]: ...
def num_threads() -> int: ...
def optimise(
    parameters: typing.Any,
    learning_rate: typing.Any,
    name: str,
    decay: float = 0.0,
    beta1: float = 0.0,
    beta2: float = 0.0,
    epsilon: float = 0.0,
) -> None: ...
def plan(comp_nodes: typing.Any, parameters: typing.Any, loss: typing.Any) -> Plan | MixedPlan: ...
def plan_stats() -> dict[str, int]: ...
def record(node: Node, op: Op, inputs: tuple[typing.Any, ...], attrs: Attrs | None = None) -> None:
    """
    Makes `node`, an instance of a subclass whose constructor runs, the node of an op.
    """

def replay(
    comp_nodes: typing.Any,
    parameters: typing.Any,
    loss: typing.Any,
    feeds: typing.Mapping[typing.Any, typing.Any],
    order: typing.Any,
    batch_size: int,
    learning_rate: typing.Any,
    rule: str = "SGD",
    decay: float = 0.0,
    beta1: float = 0.0,
    beta2: float = 0.0,
    epsilon: float = 0.0,
) -> NDArray[typing.Any]: ...
def reproducible() -> bool: ...
def reset_peak_memory(device: str) -> None: ...
def set_autocast(dtype: typing.Any) -> typing.Any:
    """
    The half type that products are computed in on this thread, or None. Returns what was set before.
    """

def set_device(name: str) -> None: ...
def set_float32_matmul(how: str) -> None: ...
def set_grad_enabled(enabled: bool) -> bool:
    """
    Returns what was set before.
    """

def set_num_threads(n: int) -> None: ...
def set_original_sgd(function: typing.Any) -> None:
    """
    Tells which function is Parameter.SGD when nobody has overridden it.
    """

def set_package_directory(directory: str) -> None:
    """
    Frames of files under this directory are not where a user made a node.
    """

def set_recorder(function: typing.Any) -> None: ...
def set_reproducible(on: bool) -> None: ...
def set_straight_runs(n: int) -> int:
    """
    How often a graph runs node by node before it is planned; returns what was set before.
    """

def set_watch_nan(on: bool) -> None: ...
def sgd(parameters: typing.Any, learning_rate: typing.Any) -> None: ...
def sgd_one(parameter: Node, learning_rate: typing.Any) -> None: ...
def start_timing() -> None: ...
def stop_timing() -> list[tuple[str, str, str, int, int]]:
    """
    What ran since start_timing: (op, phase, shape, begin, length), in nanoseconds.
    """

def synchronize(device: str) -> None: ...
def to_device(tensor: Tensor, device: str) -> Tensor: ...

__version__: str
