"""The list of who takes part, and the process that each of them runs in, which answers requests."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from suite.rows import Row

BENCHMARKS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Entry:
    """Where a peer's class is, for which suites it is asked, and how it is written, in words."""

    module: str
    name: str
    suites: tuple[str, ...]
    words: str

    def load(self) -> Callable[[int], Any]:
        """The class."""
        found: Callable[[int], Any] = getattr(importlib.import_module(f"suite.{self.module}"), self.name)
        return found


BOTH = ("train", "ops")
OURS = {
    "edfcore": Entry("peer_edf", "Edfcore", BOTH, "inputs assigned, Forward, Backward, SGD; ops: eager functions"),
    "edfcore-replay": Entry("peer_edf", "Replay", ("train",), "edf.replay over 64 minibatches a call"),
}  # fmt: skip
PEERS = {
    "numpy": Entry("peer_numpy", "Numpy", BOTH, "gradients by hand, every result in place"),
    "edf-numpy": Entry("peer_edf", "NumpyEdf", ("train",), "EDF in plain NumPy"),
    "torch": Entry("peer_torch", "Torch", BOTH, "eager; fused optimisers, zero_grad(set_to_none=True), out="),
    "torch-mkldnn": Entry("peer_torch", "TorchMkldnn", ("ops",), "oneDNN with prepacked weights; products only"),
    "jax": Entry("peer_jax", "Jax", BOTH, "jax.jit, buffers donated, one wait for a batch of calls"),
    "jax-scan": Entry("peer_jax", "JaxScan", ("train",), "64 steps in one lax.scan"),
    "sklearn": Entry("peer_sklearn", "Sklearn", ("train",), "partial_fit over 64 minibatches a call"),
    "torch-compile": Entry("peer_torch", "TorchCompile", BOTH, "torch.compile of the whole step, or of the op"),
}  # fmt: skip
ENTRIES = OURS | PEERS

THREAD_VARIABLES = (
    "EDFCORE_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NPROC",
)  # fmt: skip


def environment(threads: int) -> dict[str, str]:
    """What must be set before a framework is imported, or it takes another number of threads."""
    env = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    env["JAX_PLATFORMS"] = "cpu"
    env["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    env["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    env["CUDA_VISIBLE_DEVICES"] = ""
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH")]))
    return env


class PeerError(Exception):
    """A peer is missing, does not know a row, failed or took too long; the text says which."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Worker:
    """A peer in a process of its own, which is stopped between its turns.

    Threads of some frameworks go on spinning when their work is done, for up to a fifth of a second, and would take the
    cores from whose turn it is.
    """

    def __init__(self, name: str, threads: int, data: Path | None = None) -> None:
        self.name, self.threads, self.data = name, threads, data
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection[Any, Any] | None = None
        self.about: dict[str, Any] = {}

    def start(self) -> None:
        """Begin to import the framework; `hello` waits for the end of it."""
        self.pipe, theirs = Pipe()
        command = [sys.executable, "-m", "suite.worker", str(theirs.fileno()), self.name, str(self.threads)]
        command += [str(self.data)] if self.data else []
        self.process = subprocess.Popen(
            command,
            env=environment(self.threads),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()

    def hello(self, timeout: float = 120.0) -> dict[str, Any]:
        """Versions and threads; raises PeerError where the framework is missing."""
        self.about = self.answer(timeout)
        return self.about

    def ask(self, timeout: float, *message: Any) -> Any:
        """Send a request and wait for its answer. After a process has died, or was stopped, begins a new one."""
        if self.process is None:
            self.start()
            self.hello(timeout)
        assert self.pipe is not None
        self.signal(signal.SIGCONT)
        self.pipe.send(message)
        try:
            return self.answer(timeout)
        finally:
            self.signal(signal.SIGSTOP)

    def signal(self, number: int) -> None:
        """Send it to the process, if that is there."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def answer(self, timeout: float) -> Any:
        """What comes back."""
        assert self.pipe is not None
        try:
            if not self.pipe.poll(timeout):
                self.stop()
                raise PeerError("no time", f"not done after {timeout:.0f} s")
            status, found = self.pipe.recv()
        except (EOFError, OSError):
            self.stop()
            raise PeerError("failed", "its process ended") from None
        if status != "ok":
            raise PeerError(status, found)
        return found

    def prepare(self, row: Row, timeout: float) -> dict[str, Any]:
        """Make the row's program, run it a few times, and return its answer and what a call takes."""
        found: dict[str, Any] = self.ask(timeout, "prepare", row)
        return found

    def time(self, calls: int, timeout: float) -> float:
        """Seconds of so many calls."""
        return float(self.ask(timeout, "time", calls))

    def drop(self) -> None:
        """Let go of the program, so that its memory is there for others."""
        if self.process is not None:
            self.ask(60.0, "drop")

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.pipe is not None:
            self.pipe.close()
        self.process = self.pipe = None
