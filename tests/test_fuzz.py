"""Random programs in every way they can be run: eagerly, recorded, by replay, and by NumPy or PyTorch in float64.

`EDFCORE_FUZZ=10000 EDFCORE_FUZZ_SEED=7 pytest tests/test_fuzz.py` tries more programs than CI does. A failure prints
itself as a program that can be pasted and run.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core, ops
from fuzz_draft import HOSTS
from fuzz_makers import Op
from fuzz_ops import OPS
from fuzz_programs import GONE, PROGRAMS, RATE, RECORDED, Program, nodes, try_out
from references import Array

THREADS = (1, 2, 3, 8)
EXCLUDED = {
    "cast",  # changes the dtype, which all values of a program share
    "sgd",  # is no node
}
OP = {op.name: op for op in OPS}
KINKS = {"relu", "Relu", "abs", "leaky_relu", "clip", "max", "min", "maximum", "minimum"}


@dataclass
class Trace:
    """What a run has shown."""

    values: list[Array] = field(default_factory=list)  # of every node, in the first step
    grads: list[Array] = field(default_factory=list)  # of every node and parameter, in the first step
    losses: list[Array] = field(default_factory=list)
    before: list[dict[str, Array]] = field(default_factory=list)  # the parameters before each step
    chosen: list[list[Array]] = field(default_factory=list)  # by argmax, in each step
    parameters: list[Array] = field(default_factory=list)  # in the end


def recorded(program: Program, dtype: Any, look: bool) -> Trace:
    """Run the loop; with `look`, looking at everything in the first step, and otherwise as the program's moves say."""
    edf.DT, edf.learning_rate = dtype, RATE
    leaf, trace = nodes(program.data()), Trace()
    loss, held, copies = program.graph(RECORDED, leaf), list[Array](), list[Array]()
    scope = {"edf": edf, "np": np, "held": held, "leaf": leaf}
    for step in range(len(program.sizes)):
        for name, array in program.data(step).items():
            if name[0] in "xy":
                leaf[name].value = array
        trace.before += [{name: node.value.copy() for name, node in leaf.items() if name[0] == "p"}] * look
        for call in ("Forward", "Backward", "SGD"):
            getattr(edf, call)(*[loss] * (call == "Backward"))
            if look and step == 0 and call == "Backward":
                named = [getattr(n, "op_name", "") != "autocast" for n in [*edf.CompNodes, *edf.Parameters]]
                trace.values = [*compress([np.array(n.value) for n in edf.CompNodes], named)]
                trace.grads = [
                    *compress([np.array(n.grad) for n in [*edf.CompNodes, *edf.Parameters]], named)
                ]
            for code in program.after(step, call):
                if call == "SGD" or not look:
                    try:
                        exec(code, scope)
                    except edf.GraphError as error:
                        # A node in NumPy may have written what it came from.
                        if not (program.hosts and GONE in str(error)):
                            raise
                copies += [a.copy() for a in held[len(copies) :]]
        if look:
            trace.losses.append(np.array(loss.value))
            trace.chosen.append([np.array(n.value) for n in edf.CompNodes if isinstance(n, edf.Argmax)])
    trace.parameters = [np.array(p.value) for p in edf.Parameters]
    same("arrays of computed nodes, in the end and when they were handed out: number", held, copies)
    return trace


def replayed(program: Program) -> Trace:
    edf.DT, edf.learning_rate = program.dtype, RATE
    data, trace = program.data(), Trace()
    leaf = nodes(data)
    loss = program.graph(RECORDED, leaf)
    feeds = {leaf[name]: a for name, a in data.items() if name[0] in "xy"}
    for run in program.replays():
        order = np.concatenate([program.rows(step) for step in run])
        ends = np.cumsum([program.sizes[step] for step in run])
        trace.losses += np.split(edf.replay(loss, feeds, order=order, batch_size=ends[0]), ends[:-1])
        for code in program.after(run[-1], "SGD"):
            exec(code, {"np": np, "leaf": leaf})
    trace.parameters = [np.array(p.value) for p in edf.Parameters]
    return trace


def listed(program: Program, leaves: dict[str, Any], function: Callable[[Op], Any]) -> list[Any]:
    """Call these functions for the ops and nodes in NumPy of a program; return what they returned, for each node."""
    found: list[Any] = []

    def listing(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            made = f(*args, **kwargs)
            found.extend(made if isinstance(made, (tuple, list)) else [made])
            return made

        return call

    program.graph({op.name: listing(function(op)) for op in OPS}, leaves)
    return found


def choosing(op: Op, chosen: list[Array], moved: bool = False) -> Op:
    """The op; for argmax, one that chooses among elements which are equal but for rounding, or moved, as the engine."""
    if op.name != "argmax":
        return op
    left = iter(chosen)

    def argmax(x: Array, axis: int = -1, keepdims: bool = False) -> Array:
        index = next(left)
        assert index.shape == np.argmax(x, axis, keepdims=keepdims).shape
        along = index if keepdims else np.expand_dims(index, axis)
        lost = x.max(axis, keepdims=True) - np.take_along_axis(x, along, axis)
        assert moved or np.all(lost <= 1e-9), f"argmax chose {index} in {x}"
        return index

    return replace(
        op, numpy=argmax, torch=lambda t, x, *args, **how: t.tensor(argmax(x.detach().numpy(), *args, **how))
    )


def eager(program: Program) -> Trace:
    """The first step, on tensors."""
    leaves = {
        name: edf.Tensor(a if name[0] in "yk" else a.astype(program.dtype), requires_grad=name[0] == "p")
        for name, a in program.data(0).items()
    }
    found = listed(program, leaves, lambda op: RECORDED[op.name])
    found[-1].backward(np.full(found[-1].shape, 1 / program.sizes[0], found[-1].dtype))
    trained = [t for t in leaves.values() if t.requires_grad]
    grads = [np.zeros(t.shape, t.dtype) if t.grad is None else t.grad.numpy() for t in trained]
    return Trace([t.numpy() for t in found], grads)


def same(what: str, got: list[Array], want: list[Array]) -> None:
    """Assert that these are the same bits; any NaN is as good as another."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        kinds = (a.shape, a.dtype), (b.shape, b.dtype)
        assert kinds[0] == kinds[1], f"{what} {i} differ: {kinds}"
        bits = [
            (np.where(np.isnan(x), x.dtype.type(np.nan), x) if x.dtype.kind == "f" else x).tobytes()
            for x in (a, b)
        ]
        assert bits[0] == bits[1], f"{what} {i} differ:\n{a!r}\n{b!r}"


def close(what: str, got: list[Array], want: list[Array]) -> None:
    largest = max([1.0, *(float(np.abs(w).max()) for w in want if w.size)])
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if a.shape != b.shape or not np.all(np.abs(a - b) <= 1e-9 * largest):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * largest, err_msg=f"{what} {i}")


def check_modes(program: Program) -> None:
    """Eager, recorded, and replayed agree bit for bit, whoever looks, and for any number of threads."""
    threads = iter((THREADS * 2)[program.turn :])

    def run(f: Callable[..., Trace], *args: Any) -> Trace:
        edf.set_num_threads(next(threads))
        return f(program, *args)

    looked, other = (run(recorded, program.dtype, look) for look in (True, False))
    same("parameters, trained while looking and not: number", looked.parameters, other.parameters)
    if not program.hosts:
        eagerly, replay = run(eager), run(replayed)
        same("values, eager and recorded: number", eagerly.values, looked.values)
        if (
            not program.draft.reordered
        ):  # the tape and the list of nodes sum these in different orders, for now
            same("gradients, eager and recorded: number", eagerly.grads, looked.grads[len(looked.values) :])
        same("losses, replayed and recorded: step", replay.losses, looked.losses)
        same("parameters, replayed and recorded: number", replay.parameters, looked.parameters)


def check_by_differences(program: Program) -> None:
    """Values and losses are NumPy's; the first gradient is the derivative of NumPy's loss along a random direction."""
    trace = recorded(program, np.float64, True)

    def run(step: int, parameters: dict[str, Array], moved: bool = False) -> list[Array]:
        leaves = {**program.data(step), **parameters}
        return listed(program, leaves, lambda op: choosing(op, trace.chosen[step], moved).numpy)

    close("values, recorded and by NumPy: number", trace.values, run(0, trace.before[0]))
    found = [run(step, before)[-1] for step, before in enumerate(trace.before)]
    close("losses, recorded and by NumPy: step", trace.losses, found)
    random, slopes, first = np.random.default_rng(0), [], trace.before[0]
    along = {name: np.asarray(random.normal(size=a.shape)) for name, a in first.items()}
    terms = [g * u for g, u in zip(trace.grads[len(trace.values) :], along.values(), strict=True)]
    got, size = sum(float(t.sum()) for t in terms), sum(float(np.abs(t).sum()) for t in terms)
    for h in (1e-4, 1e-5, 1e-6, 1e-7):  # a step must not cross a kink, which may be near
        moved = [{name: a + s * h * along[name] for name, a in first.items()} for s in (1, -1, 2, -2)]
        ends = [run(0, parameters, True)[-1].mean() for parameters in moved]
        slopes.append((8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * h))
        if abs(slopes[-1] - got) <= 1e-6 * size + 1e-14 * (1 + abs(ends[0])) / h:
            return
    raise AssertionError(f"the derivative of the loss along a direction is {got}; by differences {slopes}")


def check_by_torch(program: Program) -> None:
    """Values, gradients of all nodes, and parameters after three steps are PyTorch's."""
    import torch

    torch.set_num_threads(1)
    trace, losses = recorded(program, np.float64, True), []
    parameters = trace.before[0]

    def call(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        made = f(torch, *(torch.tensor(a) if isinstance(a, np.ndarray) else a for a in args), **kwargs)
        for tensor in made if isinstance(made, tuple) else [made] * made.requires_grad:
            tensor.retain_grad()
        return made

    for step, size in enumerate(program.sizes):
        leaves = {
            name: torch.tensor(a, requires_grad=True) if a.dtype.kind == "f" else torch.tensor(a).long()
            for name, a in {**program.data(step), **parameters}.items()
        }
        chosen = trace.chosen[step]
        found = listed(program, leaves, lambda op, chosen=chosen: partial(call, choosing(op, chosen).torch))
        found[-1].backward(torch.full((size,), 1 / size, dtype=torch.float64))
        losses.append(found[-1].detach().numpy())
        tensors = [*found, *(leaves[name] for name in parameters)]
        grads = [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors]
        if step == 0:
            # Where values near a kink differ by rounding, gradients between may, but not those of parameters.
            skipped = len(found) if program.draft.used & KINKS else 0
            values = [t.detach().numpy() for t in found]
            close("values, recorded and by PyTorch: number", trace.values, values)
            close("gradients, recorded and by PyTorch: number", trace.grads[skipped:], grads[skipped:])
        pairs = zip(parameters.items(), grads[len(found) :], strict=True)
        leaf = {name: SimpleNamespace(value=np.array(a - RATE * g)) for (name, a), g in pairs}
        for code in program.after(step, "SGD"):
            exec(code, {"np": np, "leaf": leaf})
        parameters = {name: node.value for name, node in leaf.items()}
    close("losses, recorded and by PyTorch: step", trace.losses, losses)
    close("parameters in the end: number", trace.parameters, list(parameters.values()))


CHECKS = {"modes": check_modes, "differences": check_by_differences, "torch": check_by_torch}


def fuzz(check: Callable[[Program], None], count: int) -> set[str]:
    """Try so many programs; return the ops that were used, or raise AssertionError with the smallest that fails."""
    used: set[str] = set()

    def attempt(program: Program) -> None:
        used.update(program.draft.used)
        _core.empty_cache(edf.get_device())  # no plan remembers other programs
        try:
            with np.errstate(all="ignore"):
                check(program)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n\n{program}\n") from error

    try_out(attempt, count, PROGRAMS)
    return used


@pytest.mark.mode("eager", "recorded", "replayed", "half types")
def test_random_programs_of_halves(device: str) -> None:
    """In every mode, with the same bits. What a failure prints is to be run with `np.float16`."""
    simulated = edf.cuda.build() == "sim" and device == "cuda"
    count = int(os.environ.get("EDFCORE_FUZZ", "10" if simulated else "75"))
    fuzz(lambda program: check_modes(replace(program, dtype=np.float16)), count)


@pytest.mark.mode("eager", "recorded", "replayed", "autocast")
def test_random_programs_with_autocast(device: str) -> None:
    """In every mode, with the same bits. What a failure prints is to be run `with edf.autocast("float16")`."""
    simulated = edf.cuda.build() == "sim" and device == "cuda"
    count = int(os.environ.get("EDFCORE_FUZZ", "10" if simulated else "75"))

    def check(program: Program) -> None:
        # Looks at what others hand out would find other nodes. Arrays are float32 here and halves beside such tensors.
        if program.hosts or "np.linspace" in program.draft.text():
            return
        with edf.autocast("float16"):
            check_modes(program)

    fuzz(check, count)


@pytest.mark.mode("eager", "recorded", "replayed")
@pytest.mark.parametrize("name", CHECKS)
def test_random_programs(name: str, device: str) -> None:
    if name == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    simulated = edf.cuda.build() == "sim" and device == "cuda"
    count = int(os.environ.get("EDFCORE_FUZZ", "30" if simulated else "300"))
    used = fuzz(CHECKS[name], count)
    assert count < 300 or used == OP.keys(), f"no program has {OP.keys() - used}"


def test_every_op_is_in_the_table() -> None:
    public = {name for name, f in vars(ops).items() if getattr(f, "__module__", "") == ops.__name__}
    assert public - OP.keys() - EXCLUDED == set(), "add a line for each of these to OPS in fuzz_ops.py"
    assert OP.keys() - HOSTS.keys() - public == set(), "these lines have no op"
    assert OP.keys() & EXCLUDED == set(), "these have a line and are excluded too"


def test_programs_reach_what_plans_do() -> None:
    """Steps that are one with others, and products of several parts, whose order threads decide."""
    if edf.cuda.build() == "sim":
        pytest.skip("programs are kept small for a simulated device")
    if "EDFCORE_FUZZ_SEED" in os.environ:
        pytest.skip("the programs of another seed may reach other things")
    reached: set[str] = set()

    def look(program: Program) -> None:
        if program.hosts:
            return
        edf.clear_compgraph()
        edf.DT = program.dtype
        leaves = nodes(program.data(0))
        for name, array in program.data(0).items():
            if name[0] in "xy":
                leaves[name].value = array
        for line in edf.plan(program.graph(RECORDED, leaves)).describe().splitlines()[1:]:
            op = re.match(r" *\d+ ([/|\\ ]) (\w+)", line)
            if op is None:
                continue
            if op[2] == "matmul_sum":
                reached.add(f"matmul_sum of {'one' if line.split('->')[0].count('%') == 3 else 'several'}")
            elif op[1] == "/" and op[2] in ("matmul", "affine"):
                shapes = [
                    math.prod(map(int, re.findall(r"\d+", s))) for s in re.findall(r"%\d+ \(([^)]*)\)", line)
                ]
                reached.add(f"followed {'large' if shapes[0] * shapes[1] > 2**20 else 'small'} {op[2]}")
            reached.add(op[2])

    try_out(look, 300, PROGRAMS)
    wanted = {"matmul_sgd", "sum_to_sgd", "matmul_sum of one", "matmul_sum of several", "followed small affine",
              "log_loss_scores_both", "log_loss_soft_scores_both"}  # fmt: skip
    assert wanted <= reached, wanted - reached
    assert any(name.startswith("followed large") for name in reached)
