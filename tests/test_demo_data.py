"""What `edfcore train` reads and writes: idx files, downloads, safetensors, and files whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edfcore as edf

pytest.importorskip("safetensors", reason="writing weights needs the extra 'demo'")

from edfcore.demo import data, download, files, idx, weights

IMAGES = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


def idx_bytes(array: Any) -> bytes:
    """`array` (uint8) as an idx file."""
    return struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape) + bytes(array.tobytes())


def no_progress(name: str, done: int, total: int) -> None:
    assert 0 <= done <= total, name


# idx files


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx_reads_both_forms(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "images").write_bytes(pack(idx_bytes(IMAGES)))
    (tmp_path / "labels").write_bytes(pack(idx_bytes(LABELS)))
    X, Y = idx.read_pair(tmp_path / "images", tmp_path / "labels", 10)
    assert X.dtype == np.uint8
    assert Y.dtype == np.int64
    assert np.array_equal(X, IMAGES)
    assert np.array_equal(Y, LABELS)


IDX_FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "truncated: 0 bytes, expected a header of 16"),
    "short header": (idx_bytes(IMAGES)[:10], "truncated: 10 bytes, expected a header of 16"),
    "short body": (
        idx_bytes(IMAGES)[:-1],
        "truncated: 71 bytes of images, expected 72 for shape (6, 4, 3)",
    ),
    "long body": (
        idx_bytes(IMAGES) + b"x",
        "more bytes than the 72 of images expected for shape (6, 4, 3)",
    ),
    "labels for images": (
        idx_bytes(LABELS),
        "wrong magic number 0x00000801, expected 0x00000803 for images",
    ),
    "another format": (
        b"\x89PNG\r\n\x1a\n" + b"\0" * 20,
        "wrong magic number 0x89504e47, expected 0x00000803 for images",
    ),
    "huge sizes": (
        struct.pack(">4I", 0x803, 4_000_000_000, 4_000_000_000, 4_000_000_000),
        "truncated: 0 bytes of images, expected 64000000000000000000000000000 "
        "for shape (4000000000, 4000000000, 4000000000)",
    ),
    "short gzip": (
        gzip.compress(idx_bytes(IMAGES))[:-9],
        "truncated: the gzip stream ends before its end mark",
    ),
    "truncated inside gzip": (
        gzip.compress(idx_bytes(IMAGES)[:-1]),
        "truncated: 71 bytes of images, expected 72 for shape (6, 4, 3)",
    ),
}


@pytest.mark.parametrize("fault", IDX_FAULTS)
def test_idx_faults_are_named(tmp_path: Path, fault: str) -> None:
    path, (content, message) = tmp_path / "images", IDX_FAULTS[fault]
    path.write_bytes(content)
    with pytest.raises(edf.DataError) as caught:
        idx.read_images(path)
    assert str(caught.value) == f"[idx] {path}: {message}"


@pytest.mark.parametrize("position", [12, -6])
def test_idx_corrupt_gzip(tmp_path: Path, position: int) -> None:
    content = bytearray(gzip.compress(idx_bytes(IMAGES)))
    content[position] ^= 0xFF
    (tmp_path / "images").write_bytes(bytes(content))
    with pytest.raises(edf.DataError, match=r"^\[idx\] .*images: (corrupt gzip|truncated): "):
        idx.read_images(tmp_path / "images")


def test_idx_counts_and_labels_must_fit(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx_bytes(IMAGES))
    labels.write_bytes(idx_bytes(LABELS[:5]))
    with pytest.raises(edf.DataError) as caught:
        idx.read_pair(images, labels, 10)
    assert str(caught.value) == f"[idx] {images} has 6 images and {labels} has 5 labels: expected as many"
    with pytest.raises(edf.DataError) as caught:
        idx.read_labels(labels, 5)
    assert str(caught.value) == f"[idx] {labels}: label 4 is 5, expected 0 to 4"


def test_data_directory_without_files(tmp_path: Path) -> None:
    with pytest.raises(edf.DataError, match=r"has no t10k-images-idx3-ubyte\.gz, nor the same without \.gz"):
        data.load("mnist", tmp_path, no_progress)
    with pytest.raises(edf.DataError, match="is not a directory"):
        data.load("mnist", tmp_path / "nowhere", no_progress)


@pytest.mark.parametrize("with_train", [False, True])
def test_parts_are_disjoint_and_scaled(tmp_path: Path, with_train: bool) -> None:
    random = np.random.default_rng(0)
    for stem, n in (("train", 80), ("t10k", 40)) if with_train else (("t10k", 40),):
        images, labels = random.integers(0, 256, (n, 4, 4)), random.integers(0, 10, n)
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(idx_bytes(images.astype(np.uint8)))
        (tmp_path / f"{stem}-labels.idx1-ubyte.gz").write_bytes(
            gzip.compress(idx_bytes(labels.astype(np.uint8)))
        )
    d = data.load("mnist", tmp_path, no_progress)
    sizes = (len(d.train), len(d.dev), len(d.test))
    assert sizes == ((70, 10, 40) if with_train else (28, 4, 8))
    assert ("only the 40 t10k images" in d.note) is not with_train
    rows = np.concatenate([d.train.X, d.dev.X, d.test.X])
    assert len(np.unique(rows, axis=0)) == sum(sizes)
    assert d.train.X.dtype == np.float32
    assert abs(float(d.train.X.mean(dtype=np.float64))) < 1e-6
    assert abs(float(d.train.X.std(dtype=np.float64)) - 1) < 1e-6


# downloads


class Broken(BaseHTTPRequestHandler):
    """Promises more bytes than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 400)

    def log_message(self, *_: Any) -> None:
        pass


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without talking."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Start a local server with a handler; gives its address."""
    servers = []

    def start(handler: Any) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no mirrors but the test's own."""
    monkeypatch.setenv("EDFCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDFCORE_MIRROR", raising=False)
    return tmp_path / "cache" / "mnist"


def source(content: bytes, *mirrors: str) -> dict[str, download.Source]:
    """A dataset "mnist" of one file."""
    remote = download.Remote("file.gz", len(content), hashlib.sha256(content).hexdigest())
    return {"mnist": download.Source(mirrors, (remote,))}


def test_download_once_from_the_first_mirror_that_has_it(
    tmp_path: Path, cache: Path, serve: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, folder = os.urandom(200_000), tmp_path / "www"
    folder.mkdir()
    (folder / "file.gz").write_bytes(content)
    good, broken = serve(partial(Quiet, directory=str(folder))), serve(Broken)
    monkeypatch.setattr(download, "SOURCES", source(content, "http://127.0.0.1:9/", broken, good))
    seen: list[int] = []
    assert download.fetch("mnist", lambda name, done, total: seen.append(done)) == cache
    assert (cache / "file.gz").read_bytes() == content
    assert seen[-1] == len(content)
    assert os.listdir(cache) == ["file.gz"]
    (folder / "file.gz").unlink()
    download.fetch("mnist", lambda *_: pytest.fail("downloaded twice"))
    (cache / "file.gz").write_bytes(content[:-1])  # damaged in the cache: fetched again, here in vain
    with pytest.raises(edf.DataError, match="404"):
        download.fetch("mnist", no_progress)


def test_own_mirror_goes_first_and_may_be_a_folder(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "file.gz").write_bytes(b"content")
    monkeypatch.setattr(download, "SOURCES", source(b"content"))
    monkeypatch.setenv("EDFCORE_MIRROR", tmp_path.as_uri())
    assert (download.fetch("mnist", no_progress) / "file.gz").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (b"contend", "SHA-256 is "),
        (b"conten", "broke off after 6 of 7 bytes"),
        (b"contents", "longer than the 7 bytes"),
    ],
)
def test_corrupt_download_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, served: bytes, message: str
) -> None:
    (tmp_path / "file.gz").write_bytes(served)
    monkeypatch.setattr(download, "SOURCES", source(b"content", tmp_path.as_uri() + "/", "no-url/"))
    with pytest.raises(edf.DataError) as caught:
        download.fetch("mnist", no_progress)
    assert message in str(caught.value)
    assert "unknown url type" in str(caught.value)
    assert "--data-dir" in str(caught.value)
    assert os.listdir(cache) == []


def test_interrupted_download_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(200_000)
    (tmp_path / "file.gz").write_bytes(content)
    monkeypatch.setattr(download, "SOURCES", source(content, tmp_path.as_uri() + "/"))

    def interrupt(name: str, done: int, total: int) -> None:
        if done > 0:
            assert len(os.listdir(cache)) == 1  # the part file
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.fetch("mnist", interrupt)
    assert os.listdir(cache) == []


# safetensors and files


def tensor_file(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_weights_come_back(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    arrays: dict[str, Any] = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "b": np.array(2.5),
        "none": np.zeros((0, 3), np.float32),
    }
    weights.save(path, arrays, {"seed": "0"})
    back, metadata = weights.load(path, {"w": (3, 2), "b": (), "none": (0, 3)})
    assert metadata == {"seed": "0"}
    assert all(np.array_equal(back[k], v) and back[k].dtype == v.dtype for k, v in arrays.items())
    assert os.listdir(tmp_path) == ["w.safetensors"]
    with pytest.raises(edf.DataError, match=r"'w' has shape \(3, 2\), expected \(2, 3\)"):
        weights.load(path, {"w": (2, 3), "b": (), "none": (0, 3)})
    with pytest.raises(edf.DataError, match="holds b, none, w, expected b, w"):
        weights.load(path, {"w": (3, 2), "b": ()})
    whole = path.read_bytes()
    for n in range(0, len(whole), 7):  # whatever is cut off, it is noticed
        path.write_bytes(whole[:n])
        with pytest.raises(edf.DataError, match="truncated"):
            weights.load(path)


WEIGHT_FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "truncated: 0 bytes, expected 8 for the header's length"),
    "another format": (b"\x89PNG\r\n\x1a\n....", "not a safetensors file: its header would be "),
    "short header": (tensor_file({}, length=99), "truncated: 10 bytes, expected a header of 99 after 8"),
    "no JSON": (tensor_file(b"{nonsense"), "corrupt header: it is not JSON"),
    "no text": (tensor_file(b"\xff\xfe\xfd"), "corrupt header: it is not JSON"),
    "no table": (tensor_file([1]), "corrupt header: it is not a table of tensors"),
    "malformed entry": (
        tensor_file({"w": {"dtype": "F32"}}),
        "corrupt header: the entry of 'w' is malformed",
    ),
    "negative size": (
        tensor_file({"w": entry(shape=(-2,))}),
        "corrupt header: the entry of 'w' is malformed",
    ),
    "other dtype": (tensor_file({"w": entry("I64")}), "'w' has dtype I64, expected F32 or F64"),
    "wrong extent": (
        tensor_file({"w": entry(shape=(3,))}, b"\0" * 8),
        "corrupt header: 'w' of shape (3,) lies at 0 to 8, expected 0 to 12",
    ),
    "overlap": (
        tensor_file({"v": entry(), "w": entry()}, b"\0" * 8),
        "corrupt header: 'w' of shape (2,) lies at 0 to 8, expected 8 to 16",
    ),
    "short body": (
        tensor_file({"w": entry()}, b"\0" * 5),
        "truncated: 5 bytes of tensors, expected 'w' to end at 8",
    ),
    "long body": (tensor_file({"w": entry()}, b"\0" * 9), "9 bytes of tensors, expected 8"),
    "metadata": (tensor_file({"__metadata__": 1}), "corrupt header: its metadata is not a table"),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_weight_faults_are_named(tmp_path: Path, fault: str) -> None:
    path, (content, message) = tmp_path / "w", WEIGHT_FAULTS[fault]
    path.write_bytes(content)
    with pytest.raises(edf.DataError) as caught:
        weights.load(path)
    assert str(caught.value).startswith(f"[weights] {path}: {message}")


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)

    def fail() -> None:
        with files.atomic(link) as stream:
            stream.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    files.write(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link", "out"]


def test_places_that_cannot_be_written_are_found_early(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new")
    with pytest.raises(OSError, match="there is no directory"):
        files.check_writable(tmp_path / "nowhere" / "new")
    with pytest.raises(OSError, match="is a directory"):
        files.check_writable(tmp_path)
