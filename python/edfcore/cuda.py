"""What this build and this machine know of CUDA. Nothing here creates a CUDA context before it has to."""

from __future__ import annotations

from typing import Any, NamedTuple

from edfcore import _core
from edfcore._core import Event

__all__ = [
    "Event", "Properties", "build", "description", "device_count", "empty_cache", "is_available", "memory_stats",
    "properties", "reset_peak_memory_stats", "synchronize", "why_not",
]  # fmt: skip


class Properties(NamedTuple):
    """What a device says of itself; 0 where it has no answer. Names are those of PyTorch where it has them.

    Memory is in bytes, clock rates in kHz, the width of the memory's bus in bits. `simulated` is True for the simulated
    device, which has no clocks and no caches.
    """

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    clock_rate: int
    memory_clock_rate: int
    memory_bus_width: int
    L2_cache_size: int
    shared_memory_per_block: int
    shared_memory_per_block_optin: int
    shared_memory_per_multiprocessor: int
    regs_per_multiprocessor: int
    max_threads_per_block: int
    max_threads_per_multi_processor: int
    warp_size: int
    driver_version: str
    runtime_version: str
    simulated: bool

    @property
    def compute_capability(self) -> tuple[int, int]:
        """The pair (major, minor)."""
        return self.major, self.minor


def is_available() -> bool:
    """Whether device "cuda" can be used."""
    return device_count() > 0


def why_not() -> str:
    """Why `is_available()` is False, for people; empty when it is True."""
    return _core.cuda_why_not()


def build() -> str:
    """Return "cuda" (compiled by nvcc), "sim" (the simulated device) or "none"."""
    return _core.cuda_build()


def device_count() -> int:
    """Number of CUDA devices that can be used."""
    return _core.cuda_device_count()


def properties(index: int = 0) -> Properties:
    """Name, compute capability, memory and the like of a device. Raises DeviceError where there is none."""
    found: dict[str, Any] = _core.cuda_properties(index)
    return Properties(**found, simulated=build() == "sim")


def description(index: int = 0) -> str:
    """Name and capability of a device, for people. Raises DeviceError where there is none."""
    return _core.cuda_device_description(index)


def synchronize(index: int = 0) -> None:
    """Wait for all work on a device, after what `Forward`, `Backward` and `SGD` have put off.

    Raises DeviceError if any of it failed, naming the op, and DataError for a bad label or index.
    """
    _core.synchronize(f"cuda:{index}")


def memory_stats(index: int = 0) -> dict[str, int]:
    """What the engine has of a device's memory, after what `Forward`, `Backward` and `SGD` have put off.

    - "bytes": handed out now, to tensors, nodes and plans, as they asked for it
    - "peak_bytes": the most of these, ever or since `reset_peak_memory_stats`
    - "cached_bytes": given back, and kept for what is asked for next; `empty_cache` returns it to the driver
    - "allocations": requests served so far, from the cache or not
    """
    return _core.memory_stats(f"cuda:{index}")


def reset_peak_memory_stats(index: int = 0) -> None:
    """Let "peak_bytes" of `memory_stats` begin anew, with what is handed out now."""
    _core.reset_peak_memory(f"cuda:{index}")


def empty_cache(index: int = 0) -> None:
    """Give cached memory back to the driver, and forget plans, which hold some; the next steps make them anew."""
    _core.empty_cache(f"cuda:{index}")
