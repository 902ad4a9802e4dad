"""scikit-learn's perceptrons, learning 64 minibatches in one call of partial_fit."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from peers_timing import load
from suite.peer import ManySteps, Peer
from suite.problems import Array, Network, Unsupported


class SklearnTrainer(ManySteps):
    """MLPClassifier or MLPRegressor without what a plain step has not: penalty, momentum, shuffling."""

    def __init__(self, net: Network) -> None:
        super().__init__(net)
        if net.row.op == "fashion":
            raise Unsupported("it cannot be given the order of the examples")
        if net.loss == "log" and net.sizes[-1] == 2:
            raise Unsupported("scikit-learn has one output for two labels, so it is another network")
        networks = load("sklearn.neural_network")
        kind = networks.MLPClassifier if net.loss == "log" else networks.MLPRegressor
        self.model: Any = kind(
            hidden_layer_sizes=net.sizes[1:-1], activation=net.activation, solver=net.optimiser, alpha=0.0,
            batch_size=net.batch, learning_rate_init=net.rate, momentum=0.0, nesterovs_momentum=False,
            shuffle=False, random_state=0,
        )  # fmt: skip
        self.more = {"classes": np.arange(net.sizes[-1])} if net.loss == "log" else {}
        warnings.simplefilter("ignore")  # of minibatches that are smaller than the batch size
        self.model.partial_fit(*self.examples(1), **self.more)
        self.reset()

    def examples(self, steps: int) -> tuple[Array, Array]:
        """Those of the first minibatches."""
        n = min(steps, self.net.count) * self.net.batch
        return self.net.x[:n], self.net.y[:n]

    def reset(self) -> None:
        net, model = self.net, self.model
        for at, (w, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
            w[...], b[...] = net.first[2 * at], net.first[2 * at + 1]
        optimisers = load("sklearn.neural_network._stochastic_optimizers")
        p = model.coefs_ + model.intercepts_
        if net.optimiser == "sgd":
            model._optimizer = optimisers.SGDOptimizer(p, net.rate, "constant", 0.0, False)
        else:
            model._optimizer = optimisers.AdamOptimizer(p, net.rate)

    def parameters(self) -> list[Array]:
        pairs = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        return [p.copy() for pair in pairs for p in pair]

    def many(self, steps: int) -> None:
        x, y = self.examples(steps)
        for _ in range(max(1, steps // self.net.count)):
            self.model.partial_fit(x, y)


class Sklearn(Peer):
    """scikit-learn."""

    packages = ("scikit-learn",)
    trainer = SklearnTrainer

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        load("sklearn.neural_network")
