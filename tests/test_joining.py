"""A loss and its gradient in one step of a plan: when they are, when they cannot be, and that it changes no bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from plan_programs import examples, mlp
from references import Array

STEPS = 5
SPECIAL = (np.nan, np.inf, -np.inf, 1e4, -1e4, 0.0)


def steps(loss: Any) -> list[str]:
    """The steps of a plan, each as its op and what it reads and makes."""
    return [
        line[6:].split(" Node made")[0] for line in str(edf.plan(loss)).splitlines()[1:] if " -> " in line
    ]


def names(loss: Any) -> list[str]:
    return [re.split(r"[ :]", step)[0] for step in steps(loss)]


def classifier(x: Any, y: Any, width: int = 37, classes: int = 5) -> Any:
    return edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(width, classes), x)), y)


def inputs(batch: int = 6) -> tuple[Any, Any]:
    x, y = edf.Input(), edf.Input()
    x.value, y.value = examples(batch)
    return x, y


def trained(build: Callable[[], Any], keep: str, look: bool) -> list[Array]:
    """The losses, where they are looked at, and the parameters in the end."""
    edf.clear_compgraph()
    edf.seed(1)
    edf.keep(keep)
    edf.learning_rate = 0.1
    seen = []
    loss = build()
    for _ in range(STEPS):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        if look:
            seen.append(loss.value.copy())
    seen += [p.value.copy() for p in edf.Parameters]
    edf.keep("looked")
    return seen


def test_a_loss_and_its_gradient_are_one_step() -> None:
    x, y, loss = mlp([37, 6, 5])
    x.value, y.value = examples(6)
    one = [step for step in steps(loss) if step.startswith("log_loss")]
    assert len(one) == 1, one
    pattern = (
        r"log_loss_scores_both \(log_loss, fused\): %\d+ \(6, 5\) @\d+, %\d+ \(6,\) leaf, %\d+ \(6,\) constant"
        r" -> %\d+ \(6, 5\) @\d+, %\d+ \(6,\) kept"
    )
    assert re.fullmatch(pattern, one[0]), one[0]


def test_of_a_sigmoid_too() -> None:
    x, y, loss = mlp([37, 6, 5], output=edf.Sigmoid)
    x.value, y.value = examples(6)
    found = names(loss)
    at = found.index("log_loss_scores_both")
    assert "sigmoid" in found[:at]
    assert "sigmoid_grad" in found[at:]


def test_what_reads_the_loss_comes_behind_the_one_step() -> None:
    x, y = inputs()
    found = names(edf.Mean(classifier(x, y)))
    assert found.index("mean") > found.index("log_loss_scores_both")
    assert "log_loss_scores_grad" not in found


def test_a_gradient_that_hangs_on_the_loss_is_a_step_of_its_own() -> None:
    x, y = inputs()
    found = names(edf.Square(classifier(x, y)))
    assert "log_loss_scores_both" not in found
    assert found.index("log_loss_scores") < found.index("square_grad") < found.index("log_loss_scores_grad")


def test_a_loss_that_another_one_is_computed_from_is_a_step_of_its_own() -> None:
    x, y = inputs()
    first = edf.Reshape(classifier(x, y), (-1, 1))
    found = names(classifier(first, y, width=1))
    assert found.count("log_loss_scores_both") == found.count("log_loss_scores_grad") == 1
    assert found.index("log_loss_scores") < found.index("log_loss_scores_both")


def test_several_losses_are_a_step_each() -> None:
    x, y = inputs()
    total: Any = classifier(x, y)
    for _ in range(3):
        total = edf.Add(total, classifier(x, y))
    found = names(total)
    assert found.count("log_loss_scores_both") == 4
    assert not {"log_loss_scores", "log_loss_scores_grad"} & set(found)


LOSSES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "labels": lambda s, y, q: edf.LogLoss(edf.Softmax(s), y),
    "scores": lambda s, y, q: edf.LogLossScores(s, y),
    "soft": lambda s, y, q: edf.LogLossSoft(edf.Softmax(s), q),
    "sum": lambda s, y, q: edf.Add(edf.LogLossScores(s, y), edf.Mul(edf.LogLossSoftScores(s, q), 0.5)),
    "mean": lambda s, y, q: edf.Mean(edf.LogLossSoftScores(edf.Sigmoid(s), q)),
}


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 3, 10, 16, 40, 128, 130, 1100])
@pytest.mark.parametrize("name", LOSSES)
def test_one_step_gives_what_two_give(name: str, classes: int, dtype: Any, look: bool, device: str) -> None:
    """Also of scores that are not finite, and for any number of rows beside a vector's."""
    edf.DT = dtype
    simulated = edf.cuda.build() == "sim" and device == "cuda"
    for batch in (1, 7) if simulated else (1, 3, 8, 21, 130):
        random = np.random.default_rng(batch)
        X, q = random.normal(size=(batch, 4)), random.dirichlet(np.ones(classes), size=batch)
        q[:, classes // 2] *= batch % 2  # a weight of 0, and weights that do not add up to 1

        def build(X: Array = X, q: Array = q) -> Any:
            bias = np.linspace(-3, 3, classes)
            bias[: len(SPECIAL)] += np.array(SPECIAL)[:classes] * (len(X) == 21)
            W = edf.Parameter(np.random.default_rng(2).normal(size=(4, classes)))
            return LOSSES[name](
                edf.Affine([W, edf.Parameter(bias)], edf.Input(X)),
                edf.Input(np.arange(len(X)) * 7 % classes),
                edf.Input(q),
            )

        with np.errstate(all="ignore"):
            want, got = (trained(build, keep, look) for keep in ("all", "looked"))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_in_the_labels_of_any_loss_leaves_all_parameters_alone(bad: int, device: str) -> None:
    """The gradient of the first loss is known only after all that the second one trains."""
    x, labels = edf.Input(), [edf.Input(), edf.Input()]
    first = edf.Mul(classifier(x, labels[0]), edf.Parameter(2.0))
    hidden = edf.Tanh(edf.Affine(edf.AffineParams(37, 8), x))
    total = edf.Add(first, classifier(hidden, labels[1], width=8))
    X, Y = examples(6)

    def step() -> None:
        edf.Forward()
        edf.Backward(total)
        edf.SGD()

    x.value = X
    for node in labels:
        node.value = Y
    found = steps(total)
    both = [i for i, line in enumerate(found) if line.startswith("log_loss_scores_both")]
    product = next(i for i, line in enumerate(found) if line.startswith("matmul nt"))
    assert both[0] < product < both[1], "otherwise this shows nothing"
    assert all("in place" not in line for line in found[: both[1]])
    for _ in range(4):
        step()
    before = [p.value.copy() for p in edf.Parameters]
    wrong = Y.copy()
    wrong[4] = 5
    labels[bad].value = wrong
    step()
    with pytest.raises(
        edf.DataError, match=r"\[log_loss\] input 1 holds 5 at position 4: valid values are 0"
    ):
        print(total.value)
    for p, was in zip(edf.Parameters, before, strict=True):
        np.testing.assert_array_equal(p.value, was)


def test_the_gradient_of_probabilities_stays_that_of_the_last_backward(device: str) -> None:
    """As in the NumPy EDF, a Forward with other inputs changes no gradient; -1/p of the new p would be wrong."""
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(2, 4, 3))
    edf.keep("all")
    try:
        s, y = edf.Input(scores[0]), edf.Input(np.array([0, 2, 1, 1]))
        probabilities = edf.Softmax(s)
        loss = edf.LogLoss(probabilities, y)
        edf.Forward()
        edf.Backward(loss)
        p = probabilities.value.astype(np.float64)
        s.value = scores[1]
        edf.Forward()
        want = np.zeros((4, 3))
        want[np.arange(4), y.value] = -0.25 / p[np.arange(4), y.value]
        np.testing.assert_allclose(probabilities.grad, want, rtol=1e-5)
    finally:
        edf.keep("looked")
