"""A character LSTM written node by node: a graph that is rebuilt for every minibatch, on the engine and on NumPy.

Nodes that the NumPy EDF lacks are written here, from the slides' rules: `forward` sets the value, `backward` adds to
the gradients of the inputs.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import numpy_edf


class Add(numpy_edf.CompNode):
    def __init__(self, a: Any, b: Any) -> None:
        numpy_edf.CompNodes.append(self)
        self.a, self.b = a, b

    def forward(self) -> None:
        self.value = self.a.value + self.b.value

    def backward(self) -> None:
        self.a.addgrad(self.grad)
        self.b.addgrad(self.grad)


class Mul(numpy_edf.CompNode):
    def __init__(self, a: Any, b: Any) -> None:
        numpy_edf.CompNodes.append(self)
        self.a, self.b = a, b

    def forward(self) -> None:
        self.value = self.a.value * self.b.value

    def backward(self) -> None:
        self.a.addgrad(self.grad * self.b.value)
        self.b.addgrad(self.grad * self.a.value)


class Matmul(numpy_edf.CompNode):
    """y[b,j] = x[b,i] W[i,j], for a parameter W."""

    def __init__(self, x: Any, W: Any) -> None:
        numpy_edf.CompNodes.append(self)
        self.x, self.W = x, W

    def forward(self) -> None:
        self.value = np.matmul(self.x.value, self.W.value)

    def backward(self) -> None:
        self.x.addgrad(np.matmul(self.grad, self.W.value.transpose()))
        self.W.addgrad(np.matmul(self.x.value.transpose(), self.grad)[np.newaxis])


class Embed(numpy_edf.CompNode):
    """y[b,:] = table[index[b],:], for a parameter table."""

    def __init__(self, table: Any, index: Any) -> None:
        numpy_edf.CompNodes.append(self)
        self.table, self.index = table, index

    def forward(self) -> None:
        self.value = self.table.value[self.index.value]

    def backward(self) -> None:
        np.add.at(self.table.grad, self.index.value, self.grad)


def engine_nodes(edf: Any) -> dict[str, Any]:
    return {name: getattr(edf, name) for name in ("Add", "Mul", "Matmul", "Embed")}


NUMPY_NODES: dict[str, Any] = {"Add": Add, "Mul": Mul, "Matmul": Matmul, "Embed": Embed}
GATES = ("forget", "take", "give", "candidate")


class CharacterLSTM:
    """One layer of `width` units over `classes` characters: embedding in, softmax out, losses summed over the steps."""

    def __init__(self, edf: Any, nodes: dict[str, Any], classes: int, width: int, embedding: int) -> None:
        self.edf, self.width = edf, width
        self.Embed, self.Matmul, self.Add, self.Mul = (nodes[n] for n in ("Embed", "Matmul", "Add", "Mul"))
        random = np.random.default_rng(0)

        def matrix(n: int, m: int) -> Any:
            bound = np.sqrt(3 / n)
            return edf.Parameter(random.uniform(-bound, bound, (n, m)))

        def affine(n: int, m: int) -> Any:
            made = edf.ParameterPackage()
            made.w, made.b = matrix(n, m), edf.Parameter(np.zeros(m))
            return made

        self.table = edf.Parameter(random.normal(size=(classes, embedding)))
        self.into = {gate: affine(embedding, width) for gate in GATES}
        self.around = {gate: matrix(width, width) for gate in GATES}
        self.out = affine(width, classes)
        self.parameters = edf.Parameters

    def gate(self, name: str, x: Any, h: Any) -> Any:
        made = self.Add(self.edf.Affine(self.into[name], x), self.Matmul(h, self.around[name]))
        return (self.edf.Tanh if name == "candidate" else self.edf.Sigmoid)(made)

    def build(self, text: Any) -> Any:
        """Make the graph for characters (steps + 1, nBatch), the last of which are only predicted; return its loss."""
        edf, batch = self.edf, text.shape[1]
        edf.CompNodes, edf.Parameters = [], self.parameters
        h, c = edf.Input(), edf.Input()
        h.value = c.value = np.zeros((batch, self.width))
        loss: Any = None
        for now, following in itertools.pairwise(text):
            index, label = edf.Input(), edf.Input()
            index.value, label.value = now, following
            x = self.Embed(self.table, index)
            keep, take, give, new = (self.gate(name, x, h) for name in GATES)
            c = self.Add(self.Mul(keep, c), self.Mul(take, new))
            h = self.Mul(give, edf.Tanh(c))
            one = edf.LogLoss(edf.Softmax(edf.Affine(self.out, h)), label)
            loss = one if loss is None else self.Add(loss, one)
        return loss

    def step(self, text: Any) -> Any:
        """Take one step of gradient descent; return the mean loss of a character."""
        loss = self.build(text)
        self.edf.Forward()
        self.edf.Backward(loss)
        self.edf.SGD()
        return float(np.mean(loss.value)) / (len(text) - 1)
