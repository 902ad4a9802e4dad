"""Files appear whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends well, and is removed when it does not.

    A link is followed, permissions of a file that is replaced are kept, and what is no ordinary file (a
    device, a pipe) is written directly. Raises OSError as the file system does.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with open(path, "wb") as stream:
            yield stream
        return
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.chmod(name, _mode(path))
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    _sync_directory(path.parent)


def write(path: Path, data: bytes) -> None:
    """Put `data` into `path`, atomically."""
    with atomic(path) as stream:
        stream.write(data)


def check_writable(path: Path) -> None:
    """Raise OSError now, rather than after the work, when a file cannot be put at `path`."""
    directory = Path(os.path.realpath(path)).parent
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not a file")
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}")
    if not os.access(directory, os.W_OK) and not os.access(path, os.W_OK):
        raise PermissionError(f"{directory} cannot be written to")


def _mode(path: Path) -> int:
    """The permissions of `path`, or those that a new file would get."""
    if path.exists():
        return path.stat().st_mode & 0o7777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _sync_directory(directory: Path) -> None:
    """Flush the rename itself, where the system lets a directory be opened."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
