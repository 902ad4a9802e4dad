"""The command `edfcore train`, as a user meets it: in this process, and as a process that is interrupted."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edfcore as edf

pytest.importorskip("typer", reason="the command line needs the extra 'demo'")
pytest.importorskip("rich", reason="the command line needs the extra 'demo'")
pytest.importorskip("sklearn", reason="the digits need the extra 'demo'")
pytest.importorskip("matplotlib", reason="--plot needs the extra 'demo'")
pytest.importorskip("safetensors", reason="--save needs the extra 'demo'")

from rich.console import Console
from typer.testing import CliRunner

from edfcore import demo
from edfcore.demo import data, report, train, weights
from edfcore.demo.cli import app
from test_demo_data import Quiet, idx_bytes

SHARED = Path(os.environ.get("EDFCORE_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
COMMAND = [sys.executable, "-m", "edfcore", "train"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 300 small images in idx files that a network learns at once: a label's row is bright."""
    random, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    labels = random.integers(0, 10, 300)
    pixels = random.integers(0, 100, (300, 10, 6))
    pixels[np.arange(300), labels] += 155
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pixels.astype(np.uint8))))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels.astype(np.uint8)))
    return folder


def run(*arguments: Any) -> Any:
    """`edfcore train` with these arguments, in this process."""
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def flat(text: str) -> str:
    """`text` without the boxes and line ends that a terminal's width puts in."""
    return re.sub(r"[│\s]+", " ", text)


def test_digits_reach_four_percent_over_five_seeds() -> None:
    digits, errors = data.load("digits", None, lambda *_: None), []
    for seed in range(5):
        rate, epochs = train.default_rate("digits", "none"), train.default_epochs("digits")
        settings = train.Settings("digits", 256, "none", epochs, 64, rate, "linear", seed, "cpu")
        errors.append(train.fit(settings, digits).scores["test"].error)
    assert max(errors) <= 0.06, errors
    assert np.mean(errors) <= 0.04, errors


def test_a_run_writes_what_was_asked_for(images: Path, tmp_path: Path) -> None:
    out = {name: tmp_path / name for name in ("run.json", "run.png", "run.safetensors")}
    result = run(
        "--data", "mnist", "--data-dir", images, "--hidden", 20, "--epochs", 6, "--batch", 32, "--lr", 0.2,
        "--json", out["run.json"], "--plot", out["run.png"], "--save", out["run.safetensors"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "epoch 6/6: train loss" in result.output
    assert "error rate" in result.output
    assert "only the 300 t10k images" in result.output
    document = json.loads(out["run.json"].read_text())
    assert document["settings"] == {
        "data": "mnist", "hidden": 20, "output": "none", "epochs": 6, "batch": 32, "lr": 0.2,
        "decay": "linear", "seed": 0, "device": "cpu",
    }  # fmt: skip
    assert document["examples"] == {"train": 210, "dev": 30, "test": 60}
    assert [e["epoch"] for e in document["history"]] == [1, 2, 3, 4, 5, 6]
    assert document["history"][0]["learning_rate"] == 0.2
    assert document["history"][0]["train_loss"] > document["history"][-1]["train_loss"] > 0
    assert 0 <= document["test_error"] <= 0.05
    assert document["dev_error"] == min(e["dev_error"] for e in document["history"])
    assert document["history"][document["best_epoch"] - 1]["dev_loss"] == pytest.approx(document["dev_loss"])
    assert document["interrupted"] is False
    assert document["wall_seconds"] > 0
    assert document["versions"]["edfcore"] == edf.__version__
    assert out["run.png"].read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir(tmp_path)) == ["images", *sorted(out)]

    arrays, metadata = weights.load(
        out["run.safetensors"], {"w1": (60, 20), "b1": (20,), "w2": (20, 10), "b2": (10,)}
    )
    assert metadata["epoch"] == str(document["best_epoch"])
    test = data.load("mnist", images, lambda *_: None).test
    hidden = np.maximum(test.X @ arrays["w1"] + arrays["b1"], 0)
    wrong = (hidden @ arrays["w2"] + arrays["b2"]).argmax(axis=1) != test.Y
    assert wrong.mean() == pytest.approx(document["test_error"])


def test_the_slides_network_says_its_least_loss(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    result = run(
        "--data", "mnist", "--data-dir", images, "--output", "sigmoid", "--epochs", 4, "--json", path
    )
    assert result.exit_code == 0, result.output
    assert "cannot go below ln(1 + 9/e) = 1.461 nats" in result.output
    document = json.loads(path.read_text())
    assert document["loss_floor"] == pytest.approx(1.46115, abs=1e-5)
    assert document["train_loss"] > document["loss_floor"]
    assert "1.461" in flat(run("--help").output)


def test_a_seed_decides_a_run(images: Path) -> None:
    small, runs = data.load("mnist", images, lambda *_: None), []
    for seed in (0, 0, 1):
        settings = train.Settings("mnist", 10, "none", 2, 33, 0.2, "none", seed, "cpu")
        result = train.fit(settings, small)
        assert [e.learning_rate for e in result.history] == [0.2, 0.2]
        runs.append(result.parameters)
    assert all(np.array_equal(runs[0][k], runs[1][k]) for k in runs[0])
    assert not np.array_equal(runs[0]["w1"], runs[2]["w1"])


def test_the_program_that_is_shown_runs(tmp_path: Path) -> None:
    shown = run("--show-program")
    assert shown.exit_code == 0
    assert shown.output == Path(demo.__file__).with_name("program.py").read_text()
    (tmp_path / "copied.py").write_text(shown.output)
    done = subprocess.run(
        [sys.executable, "copied.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("error")[1].strip(" %\n")) < 6


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--lr", "-1"], 2, "finite number of at least 0"),
        (["--lr", "nan"], 2, "finite number of at least 0"),
        (["--batch", "0"], 2, "--batch"),
        (["--data", "cifar"], 2, "--data"),
        (["--data-dir", "."], 2, "--data-dir is for idx files"),
        (["--save", "nowhere/w.safetensors"], 1, "there is no directory"),
        (["--plot", "."], 1, "is a directory"),
        (["--data", "mnist", "--data-dir", "nowhere"], 1, "[data] nowhere is not a directory"),
    ],
)
def test_wrong_uses_are_told_before_work(arguments: list[str], status: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == status
    assert message in flat(result.output)
    assert "Traceback" not in result.output


def test_corrupt_images_end_the_run_with_their_name(images: Path) -> None:
    path = images / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:500])
    result = run("--data", "mnist", "--data-dir", images)
    assert result.exit_code == 1
    assert result.output == f"edfcore: [idx] {path}: truncated: the gzip stream ends before its end mark\n"


def test_divergence_is_told(images: Path) -> None:
    with np.errstate(all="ignore"):
        result = run("--data", "mnist", "--data-dir", images, "--lr", "1e30")
    assert result.exit_code == 1, result.output
    assert "edfcore: " in result.output
    assert "Traceback" not in result.output


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "edfcore.demo.cli")
    monkeypatch.setitem(sys.modules, "typer", None)
    assert demo.main() == 2
    assert "pip install 'edfcore[demo]'" in capsys.readouterr().err


def test_the_live_bar_shows_loss_and_error() -> None:
    screen = StringIO()
    with report.TrainingBar(Console(file=screen, force_terminal=True, width=120), epochs=3) as bar:
        bar.step(train.Step(1, 5, 30, 2.125, 0.75))
        bar.epoch(train.Epoch(1, 0.1, 2.0, 0.5, 1.75, 0.25, 0.1))
        bar.step(train.Step(3, 30, 30, 1.5, 0.375))
    text = screen.getvalue()
    assert "3/3" in text
    assert "train loss 1.5000, error 37.50% | dev loss 1.7500, error 25.00%" in text


# processes that are interrupted


def interrupt_when(process: subprocess.Popen[str], ready: Any, seconds: float = 30) -> str:
    """Send SIGINT once `ready()`; gives what the process wrote on both streams after that."""
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the process did not get there"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=seconds)
    return out + err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_interrupt_saves_and_exits_130(images: Path, tmp_path: Path) -> None:
    saved, document = tmp_path / "w.safetensors", tmp_path / "run.json"
    command = [*COMMAND, "--data", "mnist", "--data-dir", images, "--epochs", "1000000", "--hidden", "8"]
    with subprocess.Popen(
        [*map(str, command), "--save", str(saved), "--json", str(document)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("epoch 1/1000000: train loss"), first + process.stderr.read()
        text = interrupt_when(process, lambda: True)
    assert process.returncode == 130
    assert "stopped; the parameters of epoch" in text
    assert "Traceback" not in text
    arrays, metadata = weights.load(saved)
    assert arrays["w1"].shape == (60, 8)
    assert int(metadata["epoch"]) >= 1
    run_document = json.loads(document.read_text())
    assert run_document["interrupted"] is True
    assert run_document["test_error"] is None
    assert run_document["history"]
    assert sorted(os.listdir(tmp_path)) == ["images", "run.json", "w.safetensors"]


def test_interrupt_in_the_first_epoch_keeps_the_parameters(images: Path) -> None:
    small, asked = data.load("mnist", images, lambda *_: None), iter([False, False, True])
    settings = train.Settings("mnist", 10, "none", 2, 33, 0.2, "linear", 0, "cpu")
    result = train.fit(settings, small, stop=lambda: next(asked))
    assert result.interrupted
    assert result.history == []
    assert result.scores == {}
    assert result.best_epoch == 0
    assert result.parameters["w1"].shape == (60, 10)


class Stalled(Quiet):
    """Sends the head of a file and then nothing more."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 5000)
        self.wfile.flush()
        time.sleep(60)


def serve(handler: Any) -> tuple[ThreadingHTTPServer, str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_interrupted_download_exits_130_and_leaves_nothing(tmp_path: Path) -> None:
    server, address = serve(Stalled)
    cache = tmp_path / "mnist"
    environment = os.environ | {"EDFCORE_CACHE": str(tmp_path), "EDFCORE_MIRROR": address}
    with subprocess.Popen(
        [*COMMAND, "--data", "mnist"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        text = interrupt_when(process, lambda: cache.is_dir() and os.listdir(cache))
    server.shutdown()
    server.server_close()
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert os.listdir(cache) == []


# the real images, where they are at hand


@pytest.mark.skipif(
    not (SHARED / "fashion-mnist").is_dir(), reason=f"no Fashion-MNIST in {SHARED} (EDFCORE_DATA)"
)
def test_fashion_mnist_downloads_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, address = serve(partial(Quiet, directory=str(SHARED)))
    monkeypatch.setenv("EDFCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("EDFCORE_MIRROR", address)
    arguments = ("--data", "fashion-mnist", "--hidden", 32, "--epochs", 1, "--json", tmp_path / "run.json")
    result = run(*arguments)
    server.shutdown()
    server.server_close()
    assert result.exit_code == 0, result.output
    assert len(os.listdir(tmp_path / "fashion-mnist")) == 4
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["examples"] == {"train": 55_000, "dev": 5_000, "test": 10_000}
    assert document["test_error"] <= 0.18


@pytest.mark.skipif(not (SHARED / "mnist10k").is_dir(), reason=f"no MNIST digits in {SHARED} (EDFCORE_DATA)")
def test_mnist_of_which_only_the_test_files_are_there(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    arguments = (
        "--data",
        "mnist",
        "--data-dir",
        SHARED / "mnist10k",
        "--hidden",
        32,
        "--epochs",
        3,
        "--json",
        path,
    )
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "only the 10,000 t10k images" in result.output
    document = json.loads(path.read_text())
    assert document["examples"] == {"train": 7_000, "dev": 1_000, "test": 2_000}
    assert document["test_error"] <= 0.1
