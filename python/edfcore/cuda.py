"""What this build and this machine know of CUDA. Nothing here creates a CUDA context before it has to."""

from __future__ import annotations

from edfcore import _core


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


def description(index: int = 0) -> str:
    """Name and capability of a device. Raises DeviceError where there is none."""
    return _core.cuda_device_description(index)


def synchronize(index: int = 0) -> None:
    """Wait for all work on a device. Raises DeviceError if any of it failed."""
    _core.synchronize(f"cuda:{index}")


def memory_stats(index: int = 0) -> dict[str, int]:
    """Bytes now and at peak, bytes cached, and allocations so far."""
    return _core.memory_stats(f"cuda:{index}")


def empty_cache(index: int = 0) -> None:
    """Give cached memory back to the driver."""
    _core.empty_cache(f"cuda:{index}")
