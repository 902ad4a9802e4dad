"""Edfcore's rows beside those of peers_steps.py: whole steps, epochs, memory, the start, NumPy-EDF, and CPU scaling."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kernels import Array, integers, normal
from ours_ops import NAME
from peers_sizes import RATE, epoch_of, minibatches, network_shape, networks
from peers_timing import Made, Peer, Setting
from problems import exact_loss, first_parameters, flops

ROOT = Path(__file__).resolve().parent.parent


class Program:
    """A multilayer perceptron as an EDF program, on whichever EDF it is given."""

    def __init__(self, edf: Any, parameters: Sequence[Array]) -> None:
        self.edf = edf
        edf.clear_compgraph()
        self.parameters = [edf.Parameter(p) for p in parameters]
        self.x, self.y = edf.Input(), edf.Input()
        at = self.x
        for layer in range(0, len(parameters), 2):
            at = edf.Affine(list(self.parameters[layer : layer + 2]), at)
            if layer + 2 < len(parameters):
                at = edf.Relu(at)
        self.loss = edf.LogLoss(edf.Softmax(at), self.y)
        self.graph = edf.CompNodes, edf.Parameters

    def current(self) -> None:
        """Make it the program that the module's functions run."""
        self.edf.CompNodes, self.edf.Parameters = self.graph
        self.edf.learning_rate = RATE

    def step(self) -> Any:
        """Forward, backward, update."""
        self.current()
        self.edf.Forward()
        self.edf.Backward(self.loss)
        self.edf.SGD()
        return self.loss

    def loop(self, x: Array, y: Array, batch: int, most: int | None = None) -> None:
        """An epoch, as a program has it that assigns every minibatch."""
        for at in range(0, most or len(x) - batch + 1, batch):
            self.x.value, self.y.value = x[at : at + batch], y[at : at + batch]
            self.step()


def relative(got: float, want: float) -> dict[str, float]:
    """An error, as the peers have it."""
    return {"error": abs(got - want) / abs(want)}


def step(sizes: Sequence[int], batch: int) -> Made:
    """The minibatch stays in place."""
    import edfcore as edf

    x, y, first = normal(batch, sizes[0]), integers(sizes[-1], batch), first_parameters(sizes)
    program = Program(edf, first)
    program.x.value, program.y.value = x, y
    program.step()
    loss = float(program.step().value.mean())
    for _ in range(4):
        program.step()
    return Made(program.step, relative(loss, exact_loss(first, x, y)))


def replayed(sizes: Sequence[int], batch: int, count: int) -> Made:
    """One call for so many minibatches that are on the device, as jax scans them. The first two are the same."""
    import edfcore as edf

    x, y, first = normal(count * batch, sizes[0]), integers(sizes[-1], count * batch), first_parameters(sizes)
    x[batch : 2 * batch], y[batch : 2 * batch] = x[:batch], y[:batch]
    program = Program(edf, first)
    X, Y = edf.Tensor(x), edf.Tensor(y)

    def call() -> Any:
        program.current()
        return edf.replay(program.loss, {program.x: X, program.y: Y}, batch_size=batch)

    losses = call()
    return Made(
        call,
        relative(float(losses[batch : 2 * batch].mean()), exact_loss(first, x[:batch], y[:batch])),
        count,
    )


def steps(setting: Setting) -> Iterator[Peer]:
    """Those of the peers: one by one, and many by one call."""
    for sizes, batch in networks(setting):
        row = partial(Peer, "training step", network_shape(sizes, batch), flops=flops(sizes, batch))
        yield row(NAME, partial(step, sizes, batch))
        yield row(f"{NAME}, replay", partial(replayed, sizes, batch, minibatches(setting, batch)))


def epoch(sizes: Sequence[int], batch: int, images: int) -> Made:
    """One call; the images are on the device, and the order is another one each time."""
    import edfcore as edf

    x, y, first = normal(images, sizes[0]), integers(sizes[-1], images), first_parameters(sizes)
    program = Program(edf, first)
    X, Y = edf.Tensor(x), edf.Tensor(y)
    orders = [np.random.default_rng(i).permutation(images)[: images // batch * batch] for i in range(2)]
    at = [0]

    def call() -> Any:
        program.current()
        at[0] ^= 1
        return edf.replay(program.loss, {program.x: X, program.y: Y}, order=orders[at[0]], batch_size=batch)

    rows = orders[1][: 2 * batch].copy()
    rows[batch:] = rows[:batch]  # the second step sees what the first one has learnt
    program.current()
    losses = edf.replay(program.loss, {program.x: X, program.y: Y}, order=rows, batch_size=batch)
    want = exact_loss(first, x[rows[:batch]], y[rows[:batch]])
    return Made(call, relative(float(losses[batch:].mean()), want))


def epochs(setting: Setting) -> Iterator[Peer]:
    """By replay, with the data resident."""
    shape, sizes, batch, images = epoch_of(setting)
    yield Peer("epoch", shape, f"{NAME}, replay", partial(epoch, sizes, batch, images),
               flops=flops(sizes, batch) * (images // batch))  # fmt: skip


def peak(sizes: Sequence[int], batch: int) -> int:
    """Bytes at the peak of a step that is planned, the parameters and the minibatch among them."""
    import edfcore as edf

    edf.clear_compgraph()
    edf.cuda.empty_cache()
    before = edf.cuda.memory_stats()["bytes"]
    program = Program(edf, first_parameters(sizes))
    program.x.value, program.y.value = normal(batch, sizes[0]), integers(sizes[-1], batch)
    for at in range(100):  # the arena shrinks to what later steps need
        if at == 90:
            edf.cuda.reset_peak_memory_stats()
        program.step()
    edf.cuda.synchronize()
    return edf.cuda.memory_stats()["peak_bytes"] - before


def seconds_of(source: str) -> float:
    """A program's time from the outside, in a fresh process; the best of three, the first being discarded."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, timeout=120)
        times.append(time.perf_counter() - begin)
    return min(times[1:])


COLD = """
import numpy as np
import edfcore as edf
edf.set_device("cuda")
x, y = edf.Input(np.ones((64, 784), np.float32)), edf.Input(np.arange(64) % 10)
h = edf.Relu(edf.Affine(edf.AffineParams(784, 256), x))
loss = edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(256, 10), h)), y)
edf.Forward()
edf.Backward(loss)
edf.SGD()
loss.value.mean()
"""

COLD_TORCH = """
import torch
F = torch.nn.functional
x, y = torch.ones(64, 784, device="cuda"), torch.arange(64, device="cuda") % 10
net = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).cuda()
optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
loss = F.cross_entropy(net(x), y)
loss.backward()
optimiser.step()
loss.item()
"""


def measured(setting: Setting) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Rows that are no calls to be timed: what they are, and the function that measures one."""
    for sizes, batch in networks(setting)[:1] + networks(setting)[-1:]:
        yield ({"name": "peak memory of a step", "shape": network_shape(sizes, batch), "who": NAME},
               partial(lambda s, b: {"peak_bytes": peak(s, b)}, sizes, batch))  # fmt: skip
    starts = {NAME: COLD}
    if not setting.quick and importlib.util.find_spec("torch"):
        starts["torch eager"] = COLD_TORCH
    for who, source in starts.items():
        yield ({"name": "cold start", "shape": "784-256-10 batch 64", "who": who},
               partial(lambda source: {"us": seconds_of(source) * 1e6}, source))  # fmt: skip
    shape, sizes, batch, images = epoch_of(setting)
    for who, run in (("edfcore", "edfcore"), ("edf-numpy", "numpy_edf")):
        yield ({"name": "Fashion-MNIST epoch, EDF loop", "shape": shape, "who": who},
               partial(edf_epoch, run, sizes, batch, images))  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = sorted({1 << n for n in range(cores.bit_length())} | {cores})
    network = ((12, 8, 5), 6) if setting.quick else ((784, 1024, 10), 512)
    for threads in counts[:2] if setting.quick else counts:
        yield ({"name": "CPU training step", "shape": network_shape(*network), "who": f"edfcore, {threads} threads",
                "threads": threads}, partial(on_the_cpu, network, threads))  # fmt: skip


def fashion(images: int) -> tuple[Array, Array, str]:
    """The training images where EDFCORE_DATA has them, and random ones of their shape elsewhere; and which they are."""
    from edfcore.demo import idx

    data = os.environ.get("EDFCORE_DATA")
    for suffix in ("", ".gz") if data else ():
        files = [Path(data or "") / "fashion-mnist" / f"train-{kind}{suffix}"
                 for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]  # fmt: skip
        if all(file.exists() for file in files):
            x, y = idx.read_pair(files[0], files[1], 10)
            return x[:images].reshape(-1, 784) / np.float32(255), y[:images], "Fashion-MNIST"
    return normal(images, 784), integers(10, images), "random"


def edf_epoch(module: str, sizes: Sequence[int], batch: int, images: int) -> dict[str, Any]:
    """The same program on both: on the device, and in NumPy on the CPU, of which a part stands for the whole."""
    sys.path.insert(0, str(ROOT / "tests"))
    edf = importlib.import_module(module)
    x, y, data = fashion(images)
    if x.shape[1] != sizes[0]:
        x, y, data = normal(images, sizes[0]), integers(sizes[-1], images), "random"
    program = Program(edf, first_parameters(sizes))
    program.loop(x, y, batch, 4 * batch)
    part = len(x) // batch if module == "edfcore" else min(len(x) // batch, 100)
    begin = time.perf_counter()
    program.loop(x, y, batch, part * batch)
    losses = np.asarray(program.loss.value)  # waits
    spent = (time.perf_counter() - begin) * (len(x) // batch) / part
    return {"us": spent * 1e6, "steps": part, "loss": float(losses.mean()), "data": data}


def on_the_cpu(network: tuple[tuple[int, ...], int], threads: int) -> dict[str, Any]:
    """A step on the CPU with so many threads: the median of some."""
    import edfcore as edf

    sizes, batch = network
    before = edf.get_num_threads()
    try:
        with edf.device("cpu"):
            edf.set_num_threads(threads)
            program = Program(edf, first_parameters(sizes))
            program.x.value, program.y.value = normal(batch, sizes[0]), integers(sizes[-1], batch)
            times = []
            for _ in range(20):
                begin = time.perf_counter()
                program.step().value.sum()
                times.append(time.perf_counter() - begin)
    finally:
        edf.set_num_threads(before)
    return {
        "us": float(np.median(times[5:])) * 1e6,
        "gflop_per_s": flops(sizes, batch) / np.median(times[5:]) / 1e9,
    }
