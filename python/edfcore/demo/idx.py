"""Reads idx files, the format of MNIST: a magic number, the sizes, the bytes; plain or compressed by gzip."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

import edfcore as edf

_GZIP = b"\x1f\x8b"
_UINT8 = 0x08
_PIECE = 1 << 20


def read_images(path: Path) -> NDArray[np.uint8]:
    """The images in `path`, uint8 of shape (n, height, width); raises `edf.DataError` or OSError."""
    return _read(path, 3, "images")


def read_labels(path: Path, n_labels: int) -> NDArray[np.int64]:
    """The labels in `path`, int64 of shape (n,), below n_labels; raises `edf.DataError` or OSError."""
    labels = _read(path, 1, "labels")
    wrong = np.flatnonzero(labels >= n_labels)
    if wrong.size:
        row = int(wrong[0])
        raise edf.DataError(f"[idx] {path}: label {row} is {labels[row]}, expected 0 to {n_labels - 1}")
    return labels.astype(np.int64)


def read_pair(images: Path, labels: Path, n_labels: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and their labels from two files; raises `edf.DataError` also when their counts differ."""
    X, Y = read_images(images), read_labels(labels, n_labels)
    if len(X) != len(Y):
        raise edf.DataError(
            f"[idx] {images} has {len(X)} images and {labels} has {len(Y)} labels: expected as many"
        )
    return X, Y


def _read(path: Path, n_axes: int, what: str) -> NDArray[np.uint8]:
    """The array in `path`, which must have `n_axes` axes of uint8."""
    with open(path, "rb") as plain:
        compressed = plain.read(2) == _GZIP
        plain.seek(0)
        if not compressed:
            return _parse(plain, path, n_axes, what)
        try:
            with gzip.GzipFile(fileobj=plain) as unpacked:
                return _parse(unpacked, path, n_axes, what)  # type: ignore[arg-type]
        except EOFError:
            raise edf.DataError(
                f"[idx] {path}: truncated: the gzip stream ends before its end mark"
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise edf.DataError(f"[idx] {path}: corrupt gzip: {error}") from None


def _parse(stream: BinaryIO, path: Path, n_axes: int, what: str) -> NDArray[np.uint8]:
    """What follows the checks of magic, sizes and length; reads no more than the sizes announce."""
    n_header = 4 + 4 * n_axes
    header = _take(stream, n_header)
    magic = (_UINT8 << 8) | n_axes
    if len(header) >= 4 and header[:4] != struct.pack(">I", magic):
        found = int.from_bytes(header[:4], "big")
        raise edf.DataError(
            f"[idx] {path}: wrong magic number 0x{found:08x}, expected 0x{magic:08x} for {what}"
        )
    if len(header) < n_header:
        raise edf.DataError(f"[idx] {path}: truncated: {len(header)} bytes, expected a header of {n_header}")
    shape = struct.unpack(f">{n_axes}I", header[4:])
    expected = math.prod(shape)
    body = _take(stream, expected + 1)
    if len(body) < expected:
        raise edf.DataError(
            f"[idx] {path}: truncated: {len(body)} bytes of {what}, expected {expected} for shape {shape}"
        )
    if len(body) > expected:
        raise edf.DataError(
            f"[idx] {path}: more bytes than the {expected} of {what} expected for shape {shape}"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _take(stream: BinaryIO, n: int) -> bytes:
    """The next `n` bytes, or as many as there are; in pieces, as a corrupt header can announce any number."""
    pieces = []
    while n > 0 and (piece := stream.read(min(n, _PIECE))):
        pieces.append(piece)
        n -= len(piece)
    return b"".join(pieces)
