"""A multilayer perceptron as an EDF program: the graph is built once, then run for every minibatch."""

from collections.abc import Iterator
from typing import Any

import numpy as np

import edfcore as edf


def network(n_in: int, n_hidden: int, n_out: int, output: str = "none") -> tuple[Any, Any, Any, Any]:
    x, y = edf.Input(), edf.Input()
    Phi1, Phi2 = edf.AffineParams(n_in, n_hidden), edf.AffineParams(n_hidden, n_out)
    L1 = edf.Relu(edf.Affine(Phi1, x))
    s = edf.Affine(Phi2, L1)
    Q = edf.Softmax(edf.Sigmoid(s) if output == "sigmoid" else s)
    return x, y, Q, edf.LogLoss(Q, y)


def minibatches(x: Any, y: Any, ell: Any, X: Any, Y: Any, size: int, random: Any) -> Iterator[Any]:
    order = random.permutation(len(X))
    for i in range(0, len(X), size):
        n = order[i : i + size]
        x.value, y.value = X[n], Y[n]
        edf.Forward()
        edf.Backward(ell)
        edf.SGD()
        yield n


if __name__ == "__main__":
    from sklearn.datasets import load_digits

    random = np.random.default_rng(0)
    X, Y = load_digits(return_X_y=True)
    order = random.permutation(len(X))
    X, Y = (X[order] - X.mean()) / X.std(), Y[order]
    edf.seed(0)
    edf.learning_rate = 0.3
    x, y, Q, ell = network(64, 256, 10)
    for _epoch in range(20):
        for _n in minibatches(x, y, ell, X[:1500], Y[:1500], 64, random):
            pass
    x.value, y.value = X[1500:], Y[1500:]
    edf.Forward()
    print(f"log-loss {ell.value.mean():.3f}, error {np.mean(Q.value.argmax(axis=1) != Y[1500:]):.1%}")
