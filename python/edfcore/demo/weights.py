"""Trained parameters as safetensors files: written atomically, checked whole when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edfcore as edf
from edfcore.demo import files

_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_HEADER_LIMIT = 100_000_000  # the format's own limit


def save(path: Path, parameters: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write float32 or float64 arrays and text `metadata` to `path`; raises OSError."""
    from safetensors.numpy import save as serialise

    arrays = {name: np.asarray(value, order="C") for name, value in parameters.items()}
    files.write(path, serialise(arrays, metadata=dict(metadata)))


def load(
    path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays in `path` by name, and its metadata; `shapes` says which names and shapes must be there.

    Raises `edf.DataError` for a file that is truncated, corrupt or holds something else, and OSError.
    Needs no package besides numpy.
    """
    data = path.read_bytes()
    if len(data) < 8:
        raise edf.DataError(
            f"[weights] {path}: truncated: {len(data)} bytes, expected 8 for the header's length"
        )
    n = int.from_bytes(data[:8], "little")
    if n > _HEADER_LIMIT:
        raise edf.DataError(f"[weights] {path}: not a safetensors file: its header would be {n} bytes long")
    if len(data) < 8 + n:
        raise edf.DataError(
            f"[weights] {path}: truncated: {len(data)} bytes, expected a header of {n} after 8"
        )
    header = _header(path, data[8 : 8 + n])
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise edf.DataError(f"[weights] {path}: corrupt header: its metadata is not a table")
    body = memoryview(data)[8 + n :]
    arrays, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(path, *item)):
        arrays[name], end = _array(path, name, entry, body, end)
    if end != len(body):
        raise edf.DataError(f"[weights] {path}: {len(body)} bytes of tensors, expected {end}")
    if shapes is not None:
        _check(path, arrays, shapes)
    return arrays, {str(key): str(value) for key, value in metadata.items()}


def _header(path: Path, text: bytes) -> dict[str, Any]:
    """The JSON table at the head of the file."""
    try:
        header = json.loads(text)
    except ValueError:
        raise edf.DataError(f"[weights] {path}: corrupt header: it is not JSON") from None
    if not isinstance(header, dict):
        raise edf.DataError(f"[weights] {path}: corrupt header: it is not a table of tensors")
    return header


def _begin(path: Path, name: str, entry: Any) -> int:
    """Where a tensor's bytes begin; the first look at its entry, so also the check of its form."""
    match entry:
        case {"dtype": str(), "shape": [*sizes], "data_offsets": [int(begin), int(end)]} if (
            all(isinstance(size, int) and size >= 0 for size in sizes) and 0 <= begin <= end
        ):
            return begin
    raise edf.DataError(f"[weights] {path}: corrupt header: the entry of {name!r} is malformed")


def _array(path: Path, name: str, entry: Any, body: memoryview, previous: int) -> tuple[NDArray[Any], int]:
    """The tensor that `entry` describes, and its bytes' end; they must begin where the last ones ended."""
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise edf.DataError(f"[weights] {path}: {name!r} has dtype {entry['dtype']}, expected F32 or F64")
    begin, end = entry["data_offsets"]
    shape, n = tuple(entry["shape"]), dtype.itemsize
    for size in shape:
        n *= size
    if begin != previous or end - begin != n:
        raise edf.DataError(
            f"[weights] {path}: corrupt header: {name!r} of shape {shape} lies at {begin} to {end}, "
            f"expected {previous} to {previous + n}"
        )
    if end > len(body):
        raise edf.DataError(
            f"[weights] {path}: truncated: {len(body)} bytes of tensors, expected {name!r} to end at {end}"
        )
    return np.frombuffer(body[begin:end], dtype).reshape(shape).copy(), end


def _check(path: Path, arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Exactly the expected tensors."""
    if arrays.keys() != shapes.keys():
        raise edf.DataError(
            f"[weights] {path}: holds {', '.join(sorted(arrays))}, expected {', '.join(sorted(shapes))}"
        )
    for name, shape in shapes.items():
        if arrays[name].shape != tuple(shape):
            raise edf.DataError(
                f"[weights] {path}: {name!r} has shape {arrays[name].shape}, expected {tuple(shape)}"
            )
