"""The exceptions that edfcore raises, each also the built-in one that fits, so that either can be caught."""

from __future__ import annotations


class Error(Exception):
    """Base of every error that the engine raises itself."""


class ShapeError(Error, ValueError):
    """Shapes that do not fit together."""


class DTypeError(Error, TypeError):
    """A dtype that an op does not take, or dtypes that differ."""


class DataError(Error, ValueError):
    """A value that is refused: a label out of range, a corrupt file."""


class DeviceError(Error, RuntimeError):
    """A device that is not there, or that failed."""


class OutOfMemoryError(Error, MemoryError):
    """An allocation that could not be served; the engine stays usable."""


class GraphError(Error, RuntimeError):
    """Misuse of the graph: no value yet, no gradient yet, a loss that is not a node."""
