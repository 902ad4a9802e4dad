"""Shows a run: the live bar, the summary table, and the same as JSON."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import edfcore as edf
from edfcore.demo.data import Dataset
from edfcore.demo.train import LOSS_FLOOR, Epoch, Result, Step

FLOOR_NOTE = (
    "With Sigmoid before Softmax the scores lie in [0, 1], so the log-loss cannot go below "
    f"ln(1 + 9/e) = {LOSS_FLOOR:.3f} nats, however good the network is."
)
_REFRESH_SECONDS = 0.05


class DownloadBar:
    """A progress bar for the files that are downloaded; nothing is drawn until the first byte."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, Any] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        if not self._tasks:
            self._bar.start()
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total)
        self._bar.update(self._tasks[name], completed=done)

    def close(self) -> None:
        if self._tasks:
            self._bar.stop()


class TrainingBar:
    """A live bar with loss and error rate; where there is no terminal, one line for each epoch."""

    def __init__(self, console: Console, epochs: int) -> None:
        self._console, self._epochs, self._next = console, epochs, 0.0
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, epoch=f"1/{epochs}", figures="")
        self._dev = ""

    def __enter__(self) -> TrainingBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, step: Step) -> None:
        """Show where the run is, but no more often than an eye can follow."""
        now = time.monotonic()
        if now < self._next and step.step != step.steps:
            return
        self._next = now + _REFRESH_SECONDS
        figures = f"train loss {step.loss:.4f}, error {step.error:.2%}{self._dev}"
        place = f"{step.epoch}/{self._epochs}"
        self._bar.update(self._task, total=step.steps, completed=step.step, epoch=place, figures=figures)

    def epoch(self, epoch: Epoch) -> None:
        """Take over the figures of the dev set."""
        self._dev = f" | dev loss {epoch.dev_loss:.4f}, error {epoch.dev_error:.2%}"
        if not self._console.is_terminal:
            self._console.print(
                f"epoch {epoch.epoch}/{self._epochs}: train loss {epoch.train_loss:.4f}, error "
                f"{epoch.train_error:.2%}{self._dev}",
                highlight=False,
                soft_wrap=True,
            )


def summary(console: Console, result: Result, data: Dataset) -> None:
    """Print a finished run: log-loss and error rate of the three sets, and the time it took."""
    table = Table(title=f"{data.name}, epoch {result.best_epoch} (best on dev)")
    for heading in ("", "examples", "log-loss", "error rate"):
        table.add_column(heading, justify="right" if heading else "left")
    for part, score in result.scores.items():
        table.add_row(part, f"{len(getattr(data, part)):,}", f"{score.loss:.4f}", f"{score.error:.2%}")
    console.print(table)
    console.print(
        f"{result.seconds:.2f} s, {result.examples_per_second:,.0f} examples per second; {data.note}.",
        highlight=False,
        soft_wrap=True,
    )
    if result.settings.output == "sigmoid":
        console.print(FLOOR_NOTE, highlight=False, soft_wrap=True)


def as_json(result: Result, data: Dataset) -> bytes:
    """The run as JSON text; errors are fractions, times seconds, losses nats, the unknown is null."""
    scores: dict[str, float | None] = {
        f"{part}_{what}": None for part in ("train", "dev", "test") for what in ("loss", "error")
    }
    scores.update({f"{p}_{w}": v for p, score in result.scores.items() for w, v in asdict(score).items()})
    document = {
        "settings": asdict(result.settings),
        "examples": {part: len(getattr(data, part)) for part in ("train", "dev", "test")},
        "data_note": data.note,
        "history": [asdict(epoch) for epoch in result.history],
        "best_epoch": result.best_epoch or None,
        **scores,
        "loss_floor": LOSS_FLOOR if result.settings.output == "sigmoid" else 0.0,
        "interrupted": result.interrupted,
        "wall_seconds": result.seconds,
        "examples_per_second": result.examples_per_second,
        "versions": {
            "edfcore": edf.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
    }
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
