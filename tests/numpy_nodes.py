"""Nodes as a student writes them, in NumPy alone, in each of the styles that EDF programs use.

`make_nodes(edf)` gives the classes for one EDF module. Some derive from `edf.CompNode` without calling its
constructor, as in the slides; others have no base class and only append themselves to `edf.CompNodes`.
Gradients are handed on as `x.addgrad(d)`, as `x.grad += d`, as `x.grad = ...` and as `x.grad[...] += d`, so
whoever runs them must honour all four.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


def make_nodes(edf: Any) -> SimpleNamespace:
    """The node classes below, bound to the module `edf`, as attributes of one namespace."""

    class Linear(edf.CompNode):  # type: ignore[misc]
        """y[..., j] = x[..., i] w[i, j] + b[j]: base class, addgrad, parameters of a package."""

        def __init__(self, Phi: Any, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x
            self.Phi = Phi

        def forward(self) -> None:
            self.value = np.matmul(self.x.value, self.Phi.w.value) + self.Phi.b.value

        def backward(self) -> None:
            self.x.addgrad(np.matmul(self.grad, self.Phi.w.value.transpose()))
            batch, n_in, n_out = len(self.grad), self.x.value.shape[-1], self.grad.shape[-1]
            rows, grads = self.x.value.reshape(batch, -1, n_in), self.grad.reshape(batch, -1, n_out)
            self.Phi.w.addgrad(np.matmul(rows.transpose(0, 2, 1), grads))  # one matrix for each example
            self.Phi.b.addgrad(grads.sum(axis=1))

    class Conv(edf.CompNode):  # type: ignore[misc]
        """A k by k convolution without padding through im2col: x is (B, H, W, C), w (k*k*C, F), b (F,)."""

        def __init__(self, Phi: Any, x: Any, k: int) -> None:
            edf.CompNodes.append(self)
            self.Phi, self.image, self.k = Phi, x, k

        def forward(self) -> None:
            x, k = self.image.value, self.k
            batch, height, width, channels = x.shape
            self.size = (height - k + 1, width - k + 1)
            windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))
            columns = windows.transpose(0, 1, 2, 4, 5, 3).reshape(batch, -1, k * k * channels)
            self.columns = columns
            y = np.matmul(columns, self.Phi.w.value) + self.Phi.b.value
            self.value = y.reshape(batch, *self.size, -1)

        def backward(self) -> None:
            batch, _, _, channels = self.image.value.shape
            grad = self.grad.reshape(batch, -1, self.grad.shape[-1])
            self.Phi.b.addgrad(grad.sum(axis=1))
            self.Phi.w.addgrad(np.matmul(self.columns.transpose(0, 2, 1), grad))
            d = np.matmul(grad, self.Phi.w.value.transpose())
            d = d.reshape(batch, *self.size, self.k, self.k, channels)
            image = np.zeros_like(self.image.value)
            for i in range(self.k):
                for j in range(self.k):
                    image[:, i : i + self.size[0], j : j + self.size[1]] += d[:, :, :, i, j]
            self.image.addgrad(image)

    class Relu:
        """No base class; writes `x.grad += d`; only a node that does likewise may follow it."""

        grad: Any

        def __init__(self, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x

        def forward(self) -> None:
            self.value = np.maximum(self.x.value, 0)

        def backward(self) -> None:
            self.x.grad += self.grad * (self.x.value > 0)

    class Sigmoid:
        """The slides' own, word for word but for the name of its module."""

        grad: Any

        def __init__(self, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x

        def forward(self) -> None:
            self.value = 1.0 / (1.0 + np.exp(-self.x.value))

        def backward(self) -> None:
            self.x.grad += self.grad * self.value * (1.0 - self.value)

    class Reshape:
        """No base class; the value is a view of its input's; `shape` leaves out the batch axis."""

        grad: Any

        def __init__(self, x: Any, shape: tuple[int, ...]) -> None:
            edf.CompNodes.append(self)
            self.source, self.shape = x, shape

        def forward(self) -> None:
            self.value = self.source.value.reshape(-1, *self.shape)

        def backward(self) -> None:
            self.source.grad += self.grad.reshape(self.source.value.shape)

        def addgrad(self, delta: Any) -> None:
            self.grad += delta

    class Transpose:
        """No base class; the value is a strided view; writes into `x.grad[...]` in place."""

        grad: Any

        def __init__(self, x: Any, axes: tuple[int, ...]) -> None:
            edf.CompNodes.append(self)
            self.x, self.axes = x, axes

        def forward(self) -> None:
            self.value = self.x.value.transpose(self.axes)

        def backward(self) -> None:
            self.x.grad[...] += self.grad.transpose(np.argsort(self.axes))

        def addgrad(self, delta: Any) -> None:
            self.grad = self.grad + delta

    class Matmul(edf.CompNode):  # type: ignore[misc]
        """Batched matrix product over the last two axes: two inputs, which may be the same node."""

        def __init__(self, a: Any, b: Any) -> None:
            edf.CompNodes.append(self)
            self.a, self.b = a, b

        def forward(self) -> None:
            self.value = np.matmul(self.a.value, self.b.value)

        def backward(self) -> None:
            self.a.addgrad(np.matmul(self.grad, np.swapaxes(self.b.value, -1, -2)))
            self.b.addgrad(np.matmul(np.swapaxes(self.a.value, -1, -2), self.grad))

    class Scale:
        """c x for a constant c: no base class; replaces `x.grad` by a new array."""

        grad: Any

        def __init__(self, x: Any, c: float) -> None:
            edf.CompNodes.append(self)
            self.x, self.c = x, c

        def forward(self) -> None:
            self.value = self.c * self.x.value

        def backward(self) -> None:
            self.x.grad = self.x.grad + self.c * self.grad

        def addgrad(self, delta: Any) -> None:
            self.grad += delta

    class Softmax(edf.CompNode):  # type: ignore[misc]
        """exp(s) / sum exp(s) over the last axis, for any number of axes."""

        def __init__(self, s: Any) -> None:
            edf.CompNodes.append(self)
            self.s = s

        def forward(self) -> None:
            e = np.exp(self.s.value - self.s.value.max(axis=-1, keepdims=True))
            self.value = e / e.sum(axis=-1, keepdims=True)

        def backward(self) -> None:
            inner = (self.grad * self.value).sum(axis=-1, keepdims=True)
            self.s.addgrad(self.value * (self.grad - inner))

    class LayerNorm(edf.CompNode):  # type: ignore[misc]
        """(x - mean) / sqrt(variance + 1e-5) over the last axis, times w, plus b, both of shape (D,)."""

        def __init__(self, Phi: Any, x: Any) -> None:
            edf.CompNodes.append(self)
            self.Phi, self.x = Phi, x

        def forward(self) -> None:
            x = self.x.value
            centred = x - x.mean(axis=-1, keepdims=True)
            self.scale = 1.0 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
            self.unit = centred * self.scale
            self.value = self.unit * self.Phi.w.value + self.Phi.b.value

        def backward(self) -> None:
            inner = tuple(range(1, self.grad.ndim - 1))
            self.Phi.w.addgrad((self.grad * self.unit).sum(axis=inner))
            self.Phi.b.addgrad(self.grad.sum(axis=inner))
            d = self.grad * self.Phi.w.value
            along = (d * self.unit).mean(axis=-1, keepdims=True)
            self.x.addgrad(self.scale * (d - d.mean(axis=-1, keepdims=True) - self.unit * along))

    class Add:
        """a + b, of one shape; the two may be the same node."""

        grad: Any

        def __init__(self, a: Any, b: Any) -> None:
            edf.CompNodes.append(self)
            self.a, self.b = a, b

        def forward(self) -> None:
            self.value = self.a.value + self.b.value

        def backward(self) -> None:
            self.a.addgrad(self.grad)
            self.b.addgrad(self.grad)

        def addgrad(self, delta: Any) -> None:
            self.grad += delta

    class Mean:
        """The mean over axis 1: (B, T, D) becomes (B, D)."""

        grad: Any

        def __init__(self, x: Any) -> None:
            edf.CompNodes.append(self)
            self.x = x

        def forward(self) -> None:
            self.value = self.x.value.mean(axis=1)

        def backward(self) -> None:
            self.x.grad[...] += self.grad[:, np.newaxis] / self.x.value.shape[1]

        def addgrad(self, delta: Any) -> None:
            self.grad += delta

    class LogLoss(edf.CompNode):  # type: ignore[misc]
        """ell[b] = -log p[b, y[b]]."""

        def __init__(self, p: Any, y: Any) -> None:
            edf.CompNodes.append(self)
            self.p, self.y = p, y

        def forward(self) -> None:
            self.value = -np.log(self.p.value[np.arange(len(self.y.value)), self.y.value])

        def backward(self) -> None:
            rows, labels = np.arange(len(self.y.value)), self.y.value
            self.p.grad[rows, labels] -= self.grad / self.p.value[rows, labels]

    return SimpleNamespace(**{k: v for k, v in locals().items() if isinstance(v, type)})
