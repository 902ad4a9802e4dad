"""Fetches MNIST and Fashion-MNIST once into a cache; nothing unverified ever has a file's final name."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import edfcore as edf
from edfcore.demo import files

Progress = Callable[[str, int, int], None]
"""Told the file's name, the bytes that have come, and the bytes that it has."""

_PIECE = 1 << 16
_TIMEOUT_SECONDS = 30.0
_UNREACHABLE = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ValueError,  # what urllib says of a URL that is none
)


@dataclass(frozen=True)
class Remote:
    """One file: its name, its length and the SHA-256 of its bytes as published (compressed)."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where a dataset's four files are to be had, in the order in which the mirrors are tried."""

    mirrors: tuple[str, ...]
    remotes: tuple[Remote, ...]


SOURCES = {
    "mnist": Source(
        (
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        (
            Remote(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            Remote(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            Remote(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            Remote(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "fashion-mnist": Source(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        (
            Remote(
                "train-images-idx3-ubyte.gz",
                26_192_508,
                "a26751d72d89606ffbfdd4dd5d16911f01e93a7ff4783c95da7307a073d79fa7",
            ),
            Remote(
                "train-labels-idx1-ubyte.gz",
                29_506,
                "a578f3c9ec239359c0d23abadc5d55e4a4fb20df357215637b7a2f127b006a74",
            ),
            Remote(
                "t10k-images-idx3-ubyte.gz",
                4_383_619,
                "78cb45a589ec14266eab4ac0cb2e9e10a4c076ae2d337fe86383d761bff83f32",
            ),
            Remote(
                "t10k-labels-idx1-ubyte.gz",
                5_125,
                "ae04cd950ab214637dd08f56319057c2ae10cbb660f742681f426479e3d51363",
            ),
        ),
    ),
}


def cache_directory() -> Path:
    """Where downloads are kept: EDFCORE_CACHE, or `edfcore` in the user's cache directory."""
    if own := os.environ.get("EDFCORE_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "edfcore"
    if sys.platform == "win32" and (base := os.environ.get("LOCALAPPDATA")):
        return Path(base) / "edfcore" / "cache"
    return Path.home() / (Path("Library/Caches") if sys.platform == "darwin" else Path(".cache")) / "edfcore"


def fetch(dataset: str, progress: Progress) -> Path:
    """The directory that holds the four files of `dataset`, downloading those that are not there yet.

    EDFCORE_MIRROR, a URL below which each dataset has a folder of its name, goes before the public mirrors.
    Raises `edf.DataError` when no mirror gives a file with the right SHA-256.
    """
    source, directory = SOURCES[dataset], cache_directory() / dataset
    mirrors = source.mirrors
    if own := os.environ.get("EDFCORE_MIRROR"):
        mirrors = (f"{own.rstrip('/')}/{dataset}/", *mirrors)
    directory.mkdir(parents=True, exist_ok=True)
    for remote in source.remotes:
        path = directory / remote.name
        if not (path.is_file() and path.stat().st_size == remote.size):
            _fetch_one(remote, mirrors, path, progress)
    return directory


def _fetch_one(remote: Remote, mirrors: tuple[str, ...], path: Path, progress: Progress) -> None:
    """Put `remote` at `path` from the first mirror that has it whole."""
    reasons = []
    for mirror in mirrors:
        url = mirror + remote.name
        try:
            return _download(url, remote, path, progress)
        except edf.DataError as error:
            reasons.append(str(error))
        except _UNREACHABLE as error:
            reasons.append(f"{url}: {error}")
    listed = "\n  ".join(reasons)
    raise edf.DataError(
        f"[download] {remote.name} could not be fetched:\n  {listed}\n"
        "Fetch the files by other means and name their directory with --data-dir."
    )


def _download(url: str, remote: Remote, path: Path, progress: Progress) -> None:
    """Stream `url` into `path`, which appears only when length and SHA-256 are right."""
    digest, length = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as reply, files.atomic(path) as stream:
        progress(remote.name, 0, remote.size)
        while piece := reply.read(_PIECE):
            length += len(piece)
            if length > remote.size:
                raise edf.DataError(f"{url}: longer than the {remote.size} bytes expected")
            digest.update(piece)
            stream.write(piece)
            progress(remote.name, length, remote.size)
        if length < remote.size:
            raise edf.DataError(f"{url}: broke off after {length} of {remote.size} bytes")
        if digest.hexdigest() != remote.sha256:
            raise edf.DataError(f"{url}: SHA-256 is {digest.hexdigest()}, expected {remote.sha256}")
