"""How the peers of peers.py are timed: what a peer is, the clocks, and what all kinds of peers need."""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

METHOD = (
    "A batch is `launches` calls in a row, without waiting in between; `us` is the median over `batches` batches, "
    "after warm-up, of the batch's time by CUDA events (jax: by the host's clock, with one wait at the end), divided "
    "by its launches and by `per_call`, the number of steps or products that one call does. `us_least` is the least. "
    "`issue_us` is what the host took to make the calls. `prepare_s` covers compilation and the first calls. Rows that "
    "give `gb_per_s` go round buffers of more than 256 MB in all, and count what must be read and written, once each; "
    "the other rows stay on theirs. Float32 products are in full precision unless the name says otherwise. `error` is "
    "the largest difference from float64 over the largest value, `error_norm` the relative difference by norms; for "
    "products over 16 of the rows, from the inputs as rounded; for steps it is that of the loss after one update."
)
BATCHES = 50
SECONDS_PER_BATCH = 0.006
SECONDS = 2.0  # in which calls of up to 40 ms come to so many batches
ROTATED = 256_000_000

Call = Callable[[], Any]


def load(name: str) -> Any:
    """Import a framework; it need not be installed where these files are checked."""
    return importlib.import_module(name)


@dataclass
class Setting:
    """Where and at which scale: `cpu` and `quick` are for trying the programs out."""

    cpu: bool = False
    quick: bool = False

    @property
    def device(self) -> str:
        """By the name that torch has for it."""
        return "cpu" if self.cpu else "cuda"

    def size(self, full: int, tiny: int) -> int:
        """Either the size that is to be timed, or one for a trial."""
        return tiny if self.quick else full


@dataclass
class Made:
    """A peer that is ready to be called, and what comparing it with float64 gave."""

    call: Call
    errors: dict[str, float] = field(default_factory=dict)
    per_call: int = 1


@dataclass
class Peer:
    """One row: `make` allocates, compiles, compares, and is not timed. `flops` and `bytes` are those of one step."""

    name: str
    shape: str
    who: str
    make: Callable[[], Made]
    flops: int = 0
    bytes: int = 0
    tf32: bool = False


class EventClock:
    """Times a batch on the device by two events, which are recorded on the framework's stream."""

    def __init__(self, event: Callable[[], Any], wait: Callable[[Any], Any] = lambda event: None) -> None:
        self.marks, self.wait = (event(), event()), wait

    def __call__(self, call: Call, launches: int) -> tuple[float, float]:
        """Return the seconds of the batch, and those that the host needed."""
        begin = time.perf_counter()
        self.marks[0].record()
        for _ in range(launches):
            call()
        self.marks[1].record()
        issued = time.perf_counter() - begin
        self.wait(self.marks[1])
        return float(self.marks[0].elapsed_time(self.marks[1])) * 1e-3, issued


class CupyEvent:
    """An event as torch has it."""

    def __init__(self) -> None:
        self.event = load("cupy").cuda.Event()

    def record(self) -> None:
        """On cupy's stream."""
        self.event.record()

    def synchronize(self) -> None:
        """Wait for it."""
        self.event.synchronize()

    def elapsed_time(self, later: CupyEvent) -> float:
        """Milliseconds between two of them."""
        return float(load("cupy").cuda.get_elapsed_time(self.event, later.event))


class HostClock:
    """Times a batch by the host's clock; `wait` is given the last result."""

    def __init__(self, wait: Callable[[Any], Any]) -> None:
        self.wait = wait

    def __call__(self, call: Call, launches: int) -> tuple[float, float]:
        """Return the seconds of the batch, and those that the host needed."""
        last = None
        begin = time.perf_counter()
        for _ in range(launches):
            last = call()
        issued = time.perf_counter() - begin
        self.wait(last)
        return time.perf_counter() - begin, issued


Clock = Callable[[Call, int], tuple[float, float]]


def clock_for(peer: Peer, setting: Setting) -> Clock:
    """Choose the clock of the framework."""
    if peer.who.startswith("jax"):
        return HostClock(load("jax").block_until_ready)
    if setting.cpu:
        return HostClock(lambda last: None)
    if peer.who == "cupy":
        return EventClock(CupyEvent, CupyEvent.synchronize)
    event = load("torch").cuda.Event  # of the stream that torch and triton use
    return EventClock(partial(event, enable_timing=True), event.synchronize)


def measure(made: Made, clock: Clock, seconds: float) -> dict[str, Any]:
    """Time batches until there are enough of them, or `seconds` have passed."""
    start = time.monotonic()
    clock(made.call, 3)
    once = max(clock(made.call, 1)[0], 1e-7)
    launches = max(1, min(1000, round(SECONDS_PER_BATCH / once)))
    if launches > 1:  # a single call cannot tell what many in a row cost
        once = max(clock(made.call, launches)[0] / launches, 1e-7)
        launches = max(1, min(5000, round(SECONDS_PER_BATCH / once)))
    whole: list[float] = []
    issue: list[float] = []
    while len(whole) < BATCHES and (len(whole) < 3 or time.monotonic() - start < seconds):
        batch, issued = clock(made.call, launches)
        whole.append(batch / launches / made.per_call * 1e6)
        issue.append(issued / launches / made.per_call * 1e6)
    return {
        "us": round(statistics.median(whole), 3),
        "us_least": round(min(whole), 3),
        "issue_us": round(statistics.median(issue), 3),
        "launches": launches,
        "batches": len(whole),
        "per_call": made.per_call,
    }


def row_of(peer: Peer, made: Made, figures: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One line of the table: what was timed, its figures, its errors, and its rates."""
    row: dict[str, Any] = {
        "name": peer.name, "shape": peer.shape, "who": peer.who, **figures, **more,
        **{key: float(f"{value:.6g}") for key, value in made.errors.items()},
    }  # fmt: skip
    if peer.flops:
        row["flops"], row["gflop_per_s"] = peer.flops, round(peer.flops / figures["us"] * 1e-3, 1)
    if peer.bytes:
        row["bytes"], row["gb_per_s"] = peer.bytes, round(peer.bytes / figures["us"] * 1e-3, 1)
    return row


class Rotating:
    """Calls a function on one set of inputs after the other, and keeps as many results, so that none is cached."""

    def __init__(self, function: Callable[..., Any], sets: Sequence[Sequence[Any]]) -> None:
        self.function, self.sets, self.at = function, sets, 0
        self.kept: list[Any] = [None] * len(sets)

    def __call__(self) -> Any:
        """Go on to the next set."""
        self.at = (self.at + 1) % len(self.sets)
        self.kept[self.at] = self.function(*self.sets[self.at])
        return self.kept[self.at]


def rotating(function: Callable[..., Any], inputs: Callable[[], Sequence[Any]], setting: Setting) -> Rotating:
    """Make as many sets of inputs as it takes to be larger than any cache."""
    first = inputs()
    held = sum(x.numel() * x.element_size() for x in first)
    count = 2 if setting.quick else max(1, math.ceil(ROTATED / held))
    return Rotating(function, [first, *(inputs() for _ in range(count - 1))])


def capture(setting: Setting, step: Call, times: int = 1) -> Call:
    """Capture a step, several times over, in a CUDA graph. What a call returns stays the same tensor."""
    if setting.cpu:
        return lambda: [step() for _ in range(times)][-1]
    torch = load("torch")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph, last = torch.cuda.CUDAGraph(), None
    with torch.cuda.graph(graph):
        for _ in range(times):
            last = step()

    def replay() -> Any:
        graph.replay()
        return last

    return replay


def errors(got: Any, want: Any) -> dict[str, float]:
    """Compare tensors of torch, or tuples of them, of which the second are of float64."""
    if isinstance(want, (tuple, list)):
        found = [errors(a, b) for a, b in zip(got, want, strict=True)]
        return {key: max(f[key] for f in found) for key in found[0]}
    apart = got.to(want.dtype) - want
    largest, norm = float(want.abs().max()) or 1.0, float(want.norm()) or 1.0
    return {"error": float(apart.abs().max()) / largest, "error_norm": float(apart.norm()) / norm}
