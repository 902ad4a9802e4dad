"""Draws what a run did: log-loss and error rate over the epochs, and first-layer weights as images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edfcore.demo import files
from edfcore.demo.train import LOSS_FLOOR, Result

_COLUMNS, _ROWS = 10, 4


def save(path: Path, result: Result, image_shape: tuple[int, int]) -> None:
    """Write a PNG of the curves and of the 40 largest first-layer weight images; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.1])
    curves, images = parts
    loss, error = curves.subplots(1, 2)
    _curves(loss, result, "loss", "log-loss in nats")
    _curves(error, result, "error", "error rate")
    if result.settings.output == "sigmoid":
        loss.axhline(LOSS_FLOOR, color="grey", linestyle=":", label="least possible: ln(1 + 9/e)")
    loss.legend()
    error.set_ylim(bottom=0)
    images.suptitle("weights into the hidden units, the largest first")
    weight_images(images, result.parameters["w1"], image_shape)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    files.write(path, buffer.getvalue())


def weight_images(figure: Any, w: NDArray[Any], image_shape: tuple[int, int]) -> None:
    """Draw columns of `w` (pixels, units) as images into a figure, each scaled by its largest weight."""
    largest = np.argsort(-np.linalg.norm(w, axis=0), kind="stable")[: _COLUMNS * _ROWS]
    rows = max(1, -(-len(largest) // _COLUMNS))
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, unit in zip(axes, largest, strict=False):
        image = w[:, unit].reshape(image_shape)
        bound = float(np.max(np.abs(image))) or 1.0
        axis.imshow(image, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")


def _curves(axes: Any, result: Result, what: str, label: str) -> None:
    """The train and dev curves of one measure, with the chosen epoch marked."""
    epochs = [e.epoch for e in result.history]
    for part in ("train", "dev"):
        axes.plot(epochs, [getattr(e, f"{part}_{what}") for e in result.history], marker=".", label=part)
    if result.best_epoch:
        axes.axvline(result.best_epoch, color="grey", linewidth=0.8, label="best on dev")
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
