"""Images as train, dev and test sets: dev is for choosing, test is looked at once, at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edfcore as edf
from edfcore.demo import download, idx

N_LABELS = 10
_SPLIT_SEED = 31230  # one split for every --seed, so that seeds differ in the training alone
_STATISTICS_ROWS = 4096

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """One of the three sets: X float32 of shape (n, pixels), Y int64 of shape (n,)."""

    X: NDArray[np.float32]
    Y: Labels

    def __len__(self) -> int:
        return len(self.Y)


@dataclass(frozen=True)
class Dataset:
    """Train, dev and test; a pixel p stands there as (p - mean) / deviation, both of the training set."""

    name: str
    train: Part
    dev: Part
    test: Part
    image_shape: tuple[int, int]
    mean: float
    deviation: float
    note: str


def load(name: str, directory: Path | None, progress: download.Progress) -> Dataset:
    """The dataset "digits", "mnist" or "fashion-mnist", the latter two from `directory` or the cache.

    Raises `edf.DataError` for files that are missing or damaged, and ModuleNotFoundError where the digits
    are wanted and scikit-learn is missing.
    """
    if name == "digits":
        return _digits()
    return _idx_dataset(name, download.fetch(name, progress) if directory is None else directory)


def _digits() -> Dataset:
    """The 1,797 digits of 8x8 pixels, 0 to 16, that come with scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    X, Y = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(X))
    note = "scikit-learn's handwritten digits, split at random"
    return _dataset("digits", X, Y, order[540:], order[360:540], order[:360], note)


def _idx_dataset(name: str, directory: Path) -> Dataset:
    """An idx dataset; where only the t10k files are at hand, these are split in three."""
    if not directory.is_dir():
        raise edf.DataError(f"[data] {directory} is not a directory")
    n_train = 0
    X, Y = _pair(directory, "t10k")
    if _find(directory, "train", "images") is not None:
        train_X, train_Y = _pair(directory, "train")
        if train_X.shape[1:] != X.shape[1:]:
            raise edf.DataError(
                f"[data] {directory}: training images are {train_X.shape[1:]}, test images {X.shape[1:]}"
            )
        n_train, n_test = len(train_X), len(X)
        X, Y = np.concatenate([train_X, X]), np.concatenate([train_Y, Y])
        note, test = "dev taken from the training files at random", np.arange(n_train, n_train + n_test)
        order = np.random.default_rng(_SPLIT_SEED).permutation(n_train)
    else:
        order, n_test = np.random.default_rng(_SPLIT_SEED).permutation(len(X)), len(X) // 5
        test, order = order[:n_test], order[n_test:]
        note = f"there are only the {len(X):,} t10k images: split into train, dev and test at random"
    n_dev = min(5000, len(order) // 8)
    if n_dev == 0:
        raise edf.DataError(
            f"[data] {directory}: {len(order)} images are too few for a training and a dev set"
        )
    return _dataset(name, X, Y, order[n_dev:], order[:n_dev], test, note)


def _pair(directory: Path, stem: str) -> tuple[Pixels, Labels]:
    """Images and labels of "train" or "t10k"."""
    paths = {what: _find(directory, stem, what) for what in ("images", "labels")}
    for what, path in paths.items():
        if path is None:
            raise edf.DataError(
                f"[data] {directory} has no {_file_name(stem, what)}.gz, nor the same without .gz; "
                "without --data-dir the files are downloaded"
            )
    images, labels = paths["images"], paths["labels"]
    assert images is not None
    assert labels is not None
    return idx.read_pair(images, labels, N_LABELS)


def _find(directory: Path, stem: str, what: str) -> Path | None:
    """The file of that kind, compressed or plain; some archives write a dot before "idx"."""
    name = _file_name(stem, what)
    for candidate in (name + ".gz", name, name.replace("-idx", ".idx") + ".gz", name.replace("-idx", ".idx")):
        if (directory / candidate).is_file():
            return directory / candidate
    return None


def _file_name(stem: str, what: str) -> str:
    return f"{stem}-{what}-idx{3 if what == 'images' else 1}-ubyte"


def _dataset(name: str, X: Pixels, Y: Labels, train: Labels, dev: Labels, test: Labels, note: str) -> Dataset:
    """Rows `train`, `dev` and `test` of X and Y, scaled by the statistics of the training rows."""
    height, width = X.shape[1:]
    X = X.reshape(len(X), -1)
    mean, deviation = _statistics(X[train])

    def part(rows: Labels) -> Part:
        return Part((X[rows].astype(np.float32) - np.float32(mean)) / np.float32(deviation), Y[rows])

    return Dataset(name, part(train), part(dev), part(test), (height, width), mean, deviation, note)


def _statistics(X: Pixels) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, from integer sums and so the same on every machine."""
    total = square = 0
    for first in range(0, len(X), _STATISTICS_ROWS):
        rows = X[first : first + _STATISTICS_ROWS].astype(np.uint32)
        total += int(rows.sum(dtype=np.uint64))
        square += int((rows * rows).sum(dtype=np.uint64))
    mean = total / X.size
    return mean, max((square / X.size - mean * mean) ** 0.5, 1e-6)
