"""edfcore: a small, fast tensor autograd engine behind EDF, the Educational Framework of TTIC 31230.

`import edfcore as edf`, build a graph once from `Input`, `Parameter` and node classes such as `Affine` and `Relu`,
then loop `Forward()`, `Backward(loss)`, `SGD()`. Beside it, `Tensor` runs ops at once.
"""

from __future__ import annotations

import os as _os
from collections.abc import Iterator as _Iterator
from contextlib import contextmanager as _contextmanager
from typing import TYPE_CHECKING, Any

try:
    from edfcore import _core
except ModuleNotFoundError as _error:
    if _error.name != "edfcore._core":
        raise
    raise ModuleNotFoundError(
        "edfcore's compiled part is missing: install the package (pip install .) rather than importing it from its "
        "source folder.",
        name=_error.name,
    ) from None

_core.set_package_directory(_os.path.dirname(__file__) + _os.sep)

# EDF's state. Programs re-bind these; everything reads them when it needs them.
CompNodes: list[Any] = []
Parameters: list[Any] = []
learning_rate: float = 0.001

from edfcore import cuda, ops  # noqa: E402
from edfcore._edf import (  # noqa: E402
    NODE_CLASSES as _NODE_CLASSES,
)
from edfcore._edf import (  # noqa: E402
    SGD,
    Adam,
    AffineParams,
    Backward,
    CompNode,
    Forward,
    Input,
    Momentum,
    OpNode,
    Parameter,
    ParameterPackage,
    Xavier,
    clear_compgraph,
    keep,
    plan,
    replay,
    seed,
)
from edfcore.errors import (  # noqa: E402
    DataError,
    DeviceError,
    DTypeError,
    Error,
    GraphError,
    OutOfMemoryError,
    ShapeError,
)
from edfcore.tensor import Tensor, autocast, bfloat16, float16, no_grad, tensor  # noqa: E402

globals().update(_NODE_CLASSES)

__version__: str = _core.__version__


def set_device(name: str) -> None:
    """Make inputs, parameters and tensors from now on live on "cpu", "cuda" or "cuda:N".

    Raises DeviceError, with the reason, when the device is not there.
    """
    _core.set_device(name)


def get_device() -> str:
    """Name of the device that new inputs, parameters and tensors live on."""
    return _core.get_device()


def debug(*, nan: bool) -> None:
    """Stop at the first NaN or infinity that an op makes, from now on, or no longer.

    The DataError names the op, the value and its position, the range of the op's inputs, and the line that made the
    node. Every op's result is looked at, which takes time; on a GPU, every op is waited for.
    """
    _core.set_watch_nan(nan)


@_contextmanager
def trace(path: str | _os.PathLike[str]) -> _Iterator[None]:
    """Time every op that runs within the block and write the times to `path`, in the Chrome trace format.

    Open the file in chrome://tracing or ui.perfetto.dev. Phases are forward, backward and update ("backward"), ops on
    tensors ("eager") and what `replay` runs ("plan", its steps one by one). On a GPU, every op is waited for.
    """
    import json

    _core.start_timing()
    try:
        yield
    finally:
        events = [
            {"name": op, "cat": phase, "ph": "X", "ts": begin / 1e3, "dur": length / 1e3, "pid": 0, "tid": phase,
             "args": {"shape": shape}}
            for op, phase, shape, begin, length in _core.stop_timing()
        ]  # fmt: skip
        beside = f"{_os.fspath(path)}.part"
        with open(beside, "w", encoding="utf-8") as file:
            json.dump({"traceEvents": events, "displayTimeUnit": "ns"}, file)
        _os.replace(beside, path)


@_contextmanager
def device(name: str) -> _Iterator[None]:
    """Use another device within the block."""
    before = get_device()
    set_device(name)
    try:
        yield
    finally:
        set_device(before)


def set_num_threads(n: int) -> None:
    """Threads that CPU kernels use, the caller among them. Results do not depend on it."""
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """Return the number of threads that CPU kernels use."""
    return _core.num_threads()


def reproducible(on: bool | None = None) -> bool:
    """Whether results must be the same bits on every processor; an argument sets this, from the next run on.

    Any two processors with a fused multiply-add (AVX2, AVX-512, NEON) agree anyway. On one without it, products are
    rounded before they are added up, unless this is on: then they are computed exactly, which is many times slower.
    What calls the C library (`pow`) agrees where that library is the same, and a GPU is not concerned.
    """
    if on is not None:
        _core.set_reproducible(on)
    return _core.reproducible()


def set_float32_matmul(how: str) -> None:
    """How a CUDA device multiplies float32 matrices, from the next run on: "exact", "high" or "medium".

    "exact" (the default) is by float32 multiply-adds. The others use tensor cores, which take 11 bits of each number
    (TF32). "medium" rounds both operands to that: an error of up to about 1e-3 of the sum of |a b|. "high" cuts each in
    two and adds three products, as CUTLASS does in OpMultiplyAddFastF32. As Ootomo and Yokota (2022) found to be
    needed, the low parts are scaled, and ordinary additions sum up what the tensor cores make of every eight terms,
    for those cut sums where others round them (NVIDIA's PTX ISA leaves it open). The error is at most about twice that
    of "exact" for numbers from 1e-37 to 1e38 in magnitude; smaller ones have fewer bits anyway. What comes out infinite
    or NaN is computed again by multiply-adds, so it is what "exact" gives; only where terms of a sum overflow and
    cancel may "high" and "medium" give something finite.

    On the CPU, for float64, for products with at most 16 rows or columns or fewer than 16 terms, and on GPUs before
    compute capability 8.0 the setting changes nothing. For each setting, results are the same bits from run to run.
    """
    _core.set_float32_matmul(how)


def get_float32_matmul() -> str:
    """How a CUDA device multiplies float32 matrices: "exact", "high" or "medium"."""
    return _core.float32_matmul()


def show_config() -> None:
    """Print the version, the instruction set of the CPU kernels, and what else results or speed may depend on."""
    gpu = cuda.description() if cuda.is_available() else cuda.why_not()
    print(f"edfcore {__version__}")
    print(f"CPU kernels: {_core.isa()} (EDFCORE_ISA), reproducible: {reproducible()}")
    print(f"threads: {get_num_threads()} (EDFCORE_NUM_THREADS)")
    print(f"CUDA: {cuda.build()}; {gpu}")
    print(f"float32 products on CUDA: {get_float32_matmul()}")


def memory_stats(device: str | None = None) -> dict[str, int]:
    """Engine memory of a device (the current one by default): bytes, peak_bytes, cached_bytes, allocations."""
    return _core.memory_stats(device or get_device())


def plan_stats() -> dict[str, int]:
    """Plans of recorded graphs: hits (a graph was found again), misses (it was new), compiled (plans made).

    And segments: how often a plan ran part of a graph that has nodes in NumPy, between two of those; and graphs: how
    often a CUDA device repeated the launches of a plan as one, which it does from the second time that a plan runs with
    the same memory; in `replay`, those of up to 16 minibatches.
    """
    return _core.plan_stats()


def live_nodes() -> int:
    """Number of nodes alive in the engine."""
    return _core.live_nodes()


def __getattr__(name: str) -> Any:
    if name == "DT":  # NumPy is loaded when it is first needed
        import numpy

        globals()["DT"] = numpy.float32
        return numpy.float32
    if name in ("testing", "verify"):
        import importlib

        testing = importlib.import_module("edfcore.testing")
        return testing if name == "testing" else testing.verify
    raise AttributeError(f"module 'edfcore' has no attribute {name!r}")


if TYPE_CHECKING:
    DT: Any
    Affine: type[OpNode]
    Relu: type[OpNode]
    Sigmoid: type[OpNode]
    Tanh: type[OpNode]
    Softmax: type[OpNode]
    LogLoss: type[OpNode]

__all__ = [
    "CompNodes", "Parameters", "learning_rate", "DT",
    "Input", "Parameter", "ParameterPackage", "AffineParams", "Xavier", "CompNode", "OpNode",
    "Forward", "Backward", "SGD", "Momentum", "Adam",
    "clear_compgraph", "keep", "plan", "replay", "debug", "trace", "seed",
    *_NODE_CLASSES,
    "Tensor", "tensor", "no_grad", "autocast", "bfloat16", "float16", "ops",
    "set_device", "get_device", "device", "cuda", "set_num_threads", "get_num_threads",
    "set_float32_matmul", "get_float32_matmul",
    "reproducible", "show_config", "memory_stats", "plan_stats", "live_nodes",
    "Error", "ShapeError", "DTypeError", "DataError", "DeviceError", "OutOfMemoryError", "GraphError",
]  # fmt: skip
