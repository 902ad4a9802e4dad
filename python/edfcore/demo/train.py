"""Trains the program's network: shuffled epochs, the best chosen on dev, the test set looked at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edfcore as edf
from edfcore.demo.data import N_LABELS, Dataset, Part
from edfcore.demo.program import minibatches, network

LOSS_FLOOR = math.log(1 + (N_LABELS - 1) / math.e)
"""The least log-loss that scores in [0, 1] allow: 1 for the right label, 0 for the nine others."""

_EVALUATION_ROWS = 1000
_DEFAULT_EPOCHS = {"digits": 30, "mnist": 10, "fashion-mnist": 10}
_DEFAULT_RATES = {
    ("digits", "none"): 0.5,
    ("digits", "sigmoid"): 4.0,
    ("mnist", "none"): 0.2,
    ("mnist", "sigmoid"): 2.0,
    ("fashion-mnist", "none"): 0.2,
    ("fashion-mnist", "sigmoid"): 2.0,
}


def default_epochs(data: str) -> int:
    """The number of epochs where none is given."""
    return _DEFAULT_EPOCHS[data]


def default_rate(data: str, output: str) -> float:
    """The rate where none is given; a Sigmoid flattens gradients, so that network takes larger steps."""
    return _DEFAULT_RATES[data, output]


class DivergedError(ArithmeticError):
    """The training loss stopped being a number."""


@dataclass(frozen=True)
class Settings:
    """What decides a run; the same settings on the same machine give the same bits."""

    data: str
    hidden: int
    output: str
    epochs: int
    batch: int
    lr: float
    decay: str
    seed: int
    device: str


@dataclass(frozen=True)
class Score:
    """Mean log-loss in nats, and the fraction of examples whose likeliest label is wrong."""

    loss: float
    error: float


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set: the means over its minibatches as they came, then dev after it."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_error: float
    dev_loss: float
    dev_error: float
    seconds: float


@dataclass
class Result:
    """A run as it ended; `scores` has "train", "dev" and "test", and is empty where it was interrupted."""

    settings: Settings
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    parameters: dict[str, NDArray[Any]] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    seconds: float = 0.0
    examples_per_second: float = 0.0
    interrupted: bool = False


@dataclass(frozen=True)
class Step:
    """What an observer is told after each minibatch: means over this epoch so far."""

    epoch: int
    step: int
    steps: int
    loss: float
    error: float


def fit(
    settings: Settings,
    data: Dataset,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train on `data`, asking `stop` after each step; keep the parameters of the epoch that was best on dev.

    A run that is stopped keeps its best epoch, or the parameters as they are where no epoch was finished,
    and leaves the test set alone. Raises `DivergedError` when the loss of an epoch is not finite, and
    `edf.Error` as the engine does.
    """
    edf.clear_compgraph()
    edf.set_device(settings.device)
    edf.seed(settings.seed)
    random = np.random.default_rng(settings.seed)
    pixels = data.train.X.shape[1]
    x, y, Q, ell = graph = network(pixels, settings.hidden, N_LABELS, settings.output)
    names = ("w1", "b1", "w2", "b2")
    parameters = dict(zip(names, edf.Parameters, strict=True))
    result, best, step, examples, stepping = Result(settings), (math.inf, math.inf), 0, 0, 0.0
    per_epoch = -(-len(data.train) // settings.batch)
    steps = settings.epochs * per_epoch
    began = perf_counter()
    for epoch in range(1, settings.epochs + 1):
        loss, wrong, seen, epoch_began = 0.0, 0, 0, perf_counter()
        edf.learning_rate = rate = _rate(settings, step, steps)
        for n in minibatches(x, y, ell, data.train.X, data.train.Y, settings.batch, random):
            loss += float(np.sum(ell.value, dtype=np.float64))
            wrong += int(np.count_nonzero(np.argmax(Q.value, axis=1) != data.train.Y[n]))
            step, seen = step + 1, seen + len(n)
            edf.learning_rate = _rate(settings, step, steps)
            on_step(Step(epoch, step, steps, loss / seen, wrong / seen))
            if stop():
                result.interrupted = True
                break
        examples, stepping = examples + seen, stepping + perf_counter() - epoch_began
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss of epoch {epoch} is {loss}: a learning rate below {settings.lr:g} may help"
            )
        if result.interrupted and seen < len(data.train):
            break
        dev = evaluate(graph, data.dev)
        seconds = perf_counter() - epoch_began
        result.history.append(Epoch(epoch, rate, loss / seen, wrong / seen, dev.loss, dev.error, seconds))
        on_epoch(result.history[-1])
        if (dev.error, dev.loss) < best:
            best, result.best_epoch = (dev.error, dev.loss), epoch
            result.parameters = _copies(parameters)
        if stop():
            result.interrupted = True
            break
    result.seconds = perf_counter() - began
    result.examples_per_second = examples / stepping
    if not result.parameters:
        result.parameters = _copies(parameters)
    for name, value in result.parameters.items():
        parameters[name].value = value
    if not result.interrupted:
        result.scores = {part: evaluate(graph, getattr(data, part)) for part in ("train", "dev", "test")}
    return result


def evaluate(graph: tuple[Any, Any, Any, Any], part: Part) -> Score:
    """Log-loss and error rate of `graph`, as `network` returns it, on all of `part`."""
    x, y, Q, ell = graph
    loss, wrong = 0.0, 0
    for first in range(0, len(part), _EVALUATION_ROWS):
        rows = slice(first, first + _EVALUATION_ROWS)
        x.value, y.value = part.X[rows], part.Y[rows]
        edf.Forward()
        loss += float(np.sum(ell.value, dtype=np.float64))
        wrong += int(np.count_nonzero(np.argmax(Q.value, axis=1) != part.Y[rows]))
    return Score(loss / len(part), wrong / len(part))


def _rate(settings: Settings, step: int, steps: int) -> float:
    """The learning rate of a step: constant, or falling on a line from --lr to zero."""
    return settings.lr * (1.0 - step / steps) if settings.decay == "linear" else settings.lr


def _copies(parameters: dict[str, Any]) -> dict[str, NDArray[Any]]:
    return {name: np.array(parameter.value) for name, parameter in parameters.items()}
