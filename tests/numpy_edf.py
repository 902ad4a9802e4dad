"""EDF in plain NumPy, from the equations of the slides: the reference that the engine is compared with.

It has the face of `edfcore` and its module attributes mean the same, so one function `program(edf)` runs on
either. Nothing is clipped or stabilised, except that `Softmax` subtracts the maximum of each row, which
changes no result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CompNodes: list[Any] = []
Parameters: list[Any] = []
learning_rate: float = 0.001
DT: Any = np.float32
_random = np.random.default_rng(0)


class Error(Exception):
    """What the errors of EDF have in common; the plain reference raises none but this one's subclass."""


class DataError(Error, ValueError):
    """A file or an array holds what it must not."""


class _Valued:
    """A value that is copied in: floats in the dtype that held when the object was made, integers as such."""

    _value: Any
    grad: Any

    def __init__(self) -> None:
        self._dtype = np.dtype(DT)

    @property
    def value(self) -> Any:
        return self._value

    @value.setter
    def value(self, array: Any) -> None:
        array = np.asarray(array)
        self._value = np.array(array, dtype=self._dtype if array.dtype.kind == "f" else array.dtype)


class Input(_Valued):
    """What the program sets before `Forward`; it takes no gradient."""

    def addgrad(self, delta: Any) -> None:
        pass


class Parameter(_Valued):
    """A trained array; `addgrad` sums over the minibatch, which is the first axis of `delta`."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        Parameters.append(self)
        self.value = np.asarray(value, dtype=self._dtype)

    def addgrad(self, delta: Any) -> None:
        self.grad += np.sum(delta, axis=0)

    def SGD(self) -> None:
        self._value -= learning_rate * self.grad


class CompNode:
    """A computed value; a subclass appends itself to `CompNodes` and has `forward` and `backward`."""

    value: Any
    grad: Any

    def addgrad(self, delta: Any) -> None:
        self.grad += delta


class ParameterPackage:
    """Parameters that belong together, such as a matrix and its bias."""


def Xavier(nInputs: int) -> float:
    """The half-width of a uniform distribution with variance 1/nInputs."""
    return float(np.sqrt(3.0 / nInputs))


class AffineParams(ParameterPackage):
    """w uniform in +-Xavier(nInputs), of shape (nInputs, nOutputs), and b zero, of shape (nOutputs,)."""

    def __init__(self, nInputs: int, nOutputs: int) -> None:
        X = Xavier(nInputs)
        self.w = Parameter(_random.uniform(-X, X, (nInputs, nOutputs)))
        self.b = Parameter(np.zeros(nOutputs))


def _matrix_and_bias(Phi: Any) -> tuple[Any, Any]:
    """The two parameters of a package spelled `.w/.b` or `.W/.B`, or of a pair `[W, B]`."""
    if isinstance(Phi, (list, tuple)):
        return Phi[0], Phi[1]
    return (Phi.w, Phi.b) if hasattr(Phi, "w") else (Phi.W, Phi.B)


class Affine(CompNode):
    """y[b,j] = x[b,i] W[i,j] + B[j]."""

    def __init__(self, Phi: Any, x: Any) -> None:
        CompNodes.append(self)
        self.x = x
        self.W, self.B = _matrix_and_bias(Phi)

    def forward(self) -> None:
        self.value = np.matmul(self.x.value, self.W.value) + self.B.value

    def backward(self) -> None:
        self.x.addgrad(np.matmul(self.grad, self.W.value.transpose()))
        self.B.addgrad(self.grad)
        # W.grad[i,j] += x[b,i] y.grad[b,j]: one product in place of one outer product for each example.
        self.W.addgrad(np.matmul(self.x.value.transpose(), self.grad)[np.newaxis])


class Relu(CompNode):
    """max(x, 0); its derivative at 0 is taken as 0."""

    def __init__(self, x: Any) -> None:
        CompNodes.append(self)
        self.x = x

    def forward(self) -> None:
        self.value = np.maximum(self.x.value, 0)

    def backward(self) -> None:
        self.x.addgrad(self.grad * (self.x.value > 0))


class Sigmoid(CompNode):
    """1 / (1 + exp(-x))."""

    def __init__(self, x: Any) -> None:
        CompNodes.append(self)
        self.x = x

    def forward(self) -> None:
        with np.errstate(over="ignore"):
            self.value = 1.0 / (1.0 + np.exp(-self.x.value))

    def backward(self) -> None:
        self.x.addgrad(self.grad * self.value * (1.0 - self.value))


class Tanh(CompNode):
    """tanh(x)."""

    def __init__(self, x: Any) -> None:
        CompNodes.append(self)
        self.x = x

    def forward(self) -> None:
        self.value = np.tanh(self.x.value)

    def backward(self) -> None:
        self.x.addgrad(self.grad * (1.0 - self.value * self.value))


class Softmax(CompNode):
    """Q[b,k] = exp(s[b,k]) / Z[b], Z[b] the sum over k."""

    def __init__(self, s: Any) -> None:
        CompNodes.append(self)
        self.s = s

    def forward(self) -> None:
        e = np.exp(self.s.value - np.max(self.s.value, axis=-1, keepdims=True))
        self.value = e / np.sum(e, axis=-1, keepdims=True)

    def backward(self) -> None:
        inner = np.sum(self.grad * self.value, axis=-1, keepdims=True)
        self.s.addgrad(self.value * (self.grad - inner))


class LogLoss(CompNode):
    """ell[b] = -log p[b, y[b]], of shape (nBatch,)."""

    def __init__(self, p: Any, y: Any) -> None:
        CompNodes.append(self)
        self.p = p
        self.y = y

    def forward(self) -> None:
        self.value = -np.log(self.p.value[np.arange(len(self.y.value)), self.y.value])

    def backward(self) -> None:
        rows, labels = np.arange(len(self.y.value)), self.y.value
        delta = np.zeros_like(self.p.value)
        delta[rows, labels] = -self.grad / self.p.value[rows, labels]
        self.p.addgrad(delta)


def Forward() -> None:
    """Compute every value in the order of the list."""
    for c in CompNodes:
        c.forward()


def Backward(loss: Any) -> None:
    """Zero all gradients, set loss.grad = 1/nBatch, and accumulate in reverse order."""
    for c in CompNodes + Parameters:
        c.grad = np.zeros_like(c.value)
    loss.grad = np.full_like(loss.value, 1.0 / len(loss.value))
    for c in CompNodes[::-1]:
        c.backward()


def SGD() -> None:
    """One step against the gradient, for every parameter."""
    for p in Parameters:
        p.SGD()


def clear_compgraph() -> None:
    """Start a new graph: both lists are new and empty."""
    global CompNodes, Parameters
    CompNodes, Parameters = [], []


def seed(n: int) -> None:
    """Make what is drawn from here on depend on `n` alone."""
    global _random  # noqa: PLW0603
    _random = np.random.default_rng(n)


def set_device(name: str) -> None:
    """NumPy knows one device; any name is taken, so that programs need not ask."""
