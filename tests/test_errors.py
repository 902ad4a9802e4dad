"""Every wrong use raises its own error, says exactly what is wrong and where, and leaves the engine usable."""

from __future__ import annotations

import gzip
import linecache
import os
import struct
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edfcore as edf
import wrong_graphs  # noqa: F401  # fills the list
from edfcore.demo import idx, weights
from wrong_uses import WRONG, Wrong


def assert_usable() -> None:
    """Assert that a small step of training, on a graph of its own, comes out right."""
    edf.clear_compgraph()
    edf.DT, edf.learning_rate = np.float32, 0.5
    x, y = edf.Input(np.array([[1.0, -1.0], [0.0, 1.0]])), edf.Input([0, 1])
    W, b = edf.Parameter(np.zeros((2, 2))), edf.Parameter(np.zeros(2))
    ell = edf.LogLoss(edf.Softmax(edf.Affine([W, b], x)), y)
    edf.Forward()
    edf.Backward(ell)
    edf.SGD()
    np.testing.assert_allclose(ell.value, np.full(2, np.log(2)), rtol=1e-6)
    np.testing.assert_allclose(W.value, [[0.125, -0.125], [-0.25, 0.25]], atol=1e-7)
    np.testing.assert_allclose(b.value, [0, 0], atol=1e-7)


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_use(case: Wrong, device: str) -> None:
    marked: list[str] = []

    def at(node: Any) -> Any:
        marked.append(node.made_at)
        return node

    if device != "cpu" and case.error is edf.DataError:
        pytest.skip("what the data show comes at the next look on this device: see the test below")
    with pytest.raises(case.error) as caught:
        case.use(at)
    assert type(caught.value) is case.error
    assert str(caught.value) == case.message.format(at=marked[-1] if marked else "")
    if marked:
        file, line = marked[-1].split(":")
        assert "at(" in linecache.getline(str(Path(__file__).with_name(file)), int(line))
    assert_usable()


def test_there_are_enough_of_them() -> None:
    assert len(WRONG) >= 60
    assert len({case.message for case in WRONG}) >= 55


def test_every_error_can_be_caught_as_what_python_calls_it() -> None:
    pairs = [
        (edf.ShapeError, ValueError),
        (edf.DTypeError, TypeError),
        (edf.DataError, ValueError),
        (edf.DeviceError, RuntimeError),
        (edf.OutOfMemoryError, MemoryError),
        (edf.GraphError, RuntimeError),
    ]
    assert all(issubclass(ours, python) and issubclass(ours, edf.Error) for ours, python in pairs)


def test_a_wrong_label_is_reported_on_every_device(device: str) -> None:
    """On a GPU it is found when somebody looks; the graph goes on with the next minibatch."""
    x, y = edf.Input(np.ones((3, 5))), edf.Input()
    p = edf.Parameter(np.ones((5, 4)))
    ell = edf.LogLoss(edf.Softmax(edf.Matmul(x, p)), y)
    for labels in ([0, 4, 1], [0, -1, 1]):
        y.value = labels
        with pytest.raises(edf.DataError, match=rf"input 1 holds {labels[1]} at position 1: .* 0 to 3\."):  # noqa: PT012
            edf.Forward()
            ell.value.sum()
        y.value = [0, 1, 3]
        edf.Forward()
        edf.Backward(ell)
        edf.SGD()
        assert np.all(np.isfinite(p.value))
    assert_usable()


def test_a_failed_forward_leaves_the_values_of_the_last_one() -> None:
    x = edf.Input(np.ones((2, 3)))
    a = edf.Neg(x)
    b = edf.Affine(edf.AffineParams(3, 2), a)
    edf.Forward()
    value = b.value.copy()
    x.value = np.ones((2, 4))
    with pytest.raises(edf.ShapeError):
        edf.Forward()
    assert np.array_equal(b.value, value)
    x.value = np.ones((2, 3))
    edf.Forward()
    assert np.array_equal(b.value, value)


def test_sgd_is_all_or_nothing() -> None:
    p, q = edf.Parameter(np.ones(2)), edf.Parameter(np.ones(2))
    loss = edf.Sum(edf.Reshape(p, (2, 1)), axis=1)
    edf.Forward()
    edf.Backward(loss)
    late = edf.Parameter(np.ones(2))
    with pytest.raises(edf.GraphError, match="no gradient yet"):
        edf.SGD()
    assert all(np.array_equal(parameter.value, [1, 1]) for parameter in (p, q, late))


# What the user's own code raises comes out as it is


class Failing:
    def __init__(self, x: Any, where: str) -> None:
        edf.CompNodes.append(self)
        self.x, self.where = x, where

    def forward(self) -> None:
        self.value = self.x.value
        if self.where == "forward":
            raise KeyError("mine")

    def backward(self) -> None:
        if self.where == "backward":
            raise KeyError("mine")

    def addgrad(self, delta: Any) -> None:
        if self.where == "addgrad":
            raise KeyError("mine")


class Refusing(edf.Parameter):
    def SGD(self) -> None:
        raise KeyError("mine")


@pytest.mark.parametrize("where", ["forward", "backward", "addgrad", "SGD"])
def test_an_exception_in_the_user_s_code_has_its_own_traceback(where: str, device: str) -> None:
    p = (Refusing if where == "SGD" else edf.Parameter)(np.ones((2, 3)))
    node = Failing(edf.Neg(p), where)
    loss = edf.Sum(node, axis=1)
    with pytest.raises(KeyError, match="mine") as caught:  # noqa: PT012
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == where
    assert frames[-1].filename == __file__
    assert frames[-1].line == 'raise KeyError("mine")'
    assert frames[0].name == "test_an_exception_in_the_user_s_code_has_its_own_traceback"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    node.where = "nowhere"
    edf.Forward()
    edf.Backward(loss)
    if where != "SGD":
        edf.SGD()
    assert_usable()


def test_a_keyboard_interrupt_in_the_user_s_code_comes_out() -> None:
    class Stop(Failing):
        def forward(self) -> None:
            raise KeyboardInterrupt

    Stop(edf.Parameter(np.ones(2)), "")
    with pytest.raises(KeyboardInterrupt):
        edf.Forward()
    assert_usable()


# Devices


@pytest.mark.skipif(edf.cuda.is_available(), reason="there is a device to be had")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(edf.DeviceError) as caught:
        edf.set_device("cuda")
    assert str(caught.value) == f"CUDA is not available: {edf.cuda.why_not()}."
    assert edf.get_device() == "cpu"
    with pytest.raises(edf.DeviceError), edf.device("cuda"):
        pass
    assert edf.get_device() == "cpu"
    assert_usable()


@pytest.mark.skipif(not edf.cuda.is_available(), reason="needs a device beside the CPU")
def test_inputs_on_different_devices() -> None:
    x = edf.Input(np.ones((2, 3)))
    with edf.device("cuda"):
        Phi = edf.AffineParams(3, 2)
    a = edf.Affine(Phi, x)
    with pytest.raises(edf.DeviceError) as caught:
        edf.Forward()
    assert str(caught.value) == (
        f"[affine] input 0 is on cpu and input 1 on cuda:0: move one of them. Node made at {a.made_at}."
    )
    assert_usable()


@pytest.mark.parametrize("isa", ["avx1024", "AVX2"])
def test_an_unknown_instruction_set(isa: str) -> None:
    program = "import edfcore as edf\nx = edf.Input([1.0])\nedf.Relu(x)\nedf.Forward()\n"
    command, env = [sys.executable, "-c", program], os.environ | {"EDFCORE_ISA": isa}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"edfcore.errors.DeviceError: EDFCORE_ISA={isa} is not known: use base, exact, avx2, avx512 or neon. "
        "Node made at <string>:3."
    )


# Files


IMAGES = struct.pack(">IIII", 0x00000803, 2, 3, 3) + bytes(range(18))
LABELS = struct.pack(">II", 0x00000801, 4) + bytes([0, 1, 2, 9])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: 0 bytes, expected a header of 16"),
        (IMAGES[:10], "truncated: 10 bytes, expected a header of 16"),
        (IMAGES[:-1], "truncated: 17 bytes of images, expected 18 for shape (2, 3, 3)"),
        (LABELS + bytes(20), "wrong magic number 0x00000801, expected 0x00000803 for images"),
        (gzip.compress(IMAGES, mtime=0)[:-9], "truncated: the gzip stream ends before its end mark"),
    ],
    ids=["empty", "header", "body", "kind", "gzip"],
)
def test_idx_images_that_are_broken(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(edf.DataError) as caught:
        idx.read_images(path)
    assert str(caught.value) == f"[idx] {path}: {message}"
    assert_usable()


def test_idx_labels_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(LABELS)
    with pytest.raises(edf.DataError) as caught:
        idx.read_labels(path, 9)
    assert str(caught.value) == f"[idx] {path}: label 3 is 9, expected 0 to 8"
    assert_usable()


def weights_file(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


ENTRY = b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc", "truncated: 3 bytes, expected 8 for the header's length"),
        (weights_file(ENTRY)[:30], f"truncated: 30 bytes, expected a header of {len(ENTRY)} after 8"),
        (weights_file(ENTRY, bytes(5)), "truncated: 5 bytes of tensors, expected 'w' to end at 8"),
        (weights_file(b"{nonsense"), "corrupt header: it is not JSON"),
        (weights_file(ENTRY.replace(b"8", b"4"), bytes(4)),
         "corrupt header: 'w' of shape (2,) lies at 0 to 4, expected 0 to 8"),
        (b"\xff" * 16, f"not a safetensors file: its header would be {2**64 - 1} bytes long"),
    ],
    ids=["length", "header", "body", "json", "shape", "magic"],
)  # fmt: skip
def test_weights_that_are_broken(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(edf.DataError) as caught:
        weights.load(path)
    assert str(caught.value) == f"[weights] {path}: {message}"
    assert_usable()
