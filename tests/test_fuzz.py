"""Random programs in every way they can be run: eagerly, recorded, by replay, and by NumPy or PyTorch in float64.

`EDFCORE_FUZZ=10000 EDFCORE_FUZZ_SEED=7 pytest tests/test_fuzz.py` tries more programs than CI does. A failure prints
itself as a program that can be pasted and run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from inspect import getsource
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import edfcore as edf
from edfcore import ops
from edfcore._describe import OpFunction
from fuzz_programs import HOSTS, OPS, Draft, Op, draw, write
from references import Array

SIZES = ((3, 3, 2), (2, 5, 4), (4, 1, 4), (5, 5, 5), (1, 3, 2), (8, 3, 3), (13, 13, 1), (130, 130, 37))
THREADS = (1, 2, 3, 8)
RATE = 0.01
EXCLUDED = {
    "cast",  # changes the dtype, which all values of a program share
    "sgd",  # is no node
    # Being added: each wants a line in fuzz_programs.OPS.
    "abs", "gelu", "silu", "leaky_relu", "pow", "maximum", "minimum", "where", "clip",
    "slice", "concat", "stack", "split", "min", "argmax", "var", "log_loss_soft", "log_loss_soft_scores",
}  # fmt: skip
OP = {op.name: op for op in OPS}
RECORDED = {name: getattr(ops, name, None) or HOSTS[name] for name in OP}
compiled = lru_cache(lambda text: compile(text, "<graph>", "exec"))

SCRIPT = """\
from __future__ import annotations
from types import SimpleNamespace
import numpy as np
import edfcore as edf
from edfcore import ops

{sources}
{graph}

edf.DT, edf.learning_rate, held = np.{dtype}, {rate}, []
DATA = {{{data}}}
ROWS = [draw(90 + i, n, below={examples}) for i, n in enumerate({sizes})]

leaf = nodes(DATA)
loss = graph(**leaf)
for step, rows in enumerate(ROWS):
    for name in DATA:
        if name[0] in "xy": leaf[name].value = DATA[name][rows]
    edf.Forward(){Forward}
    edf.Backward(loss){Backward}
    if step == 0: print("recorded:", loss.value, *(p.grad for p in edf.Parameters), sep="\\n")
    edf.SGD(){SGD}
trained = [p.value.copy() for p in edf.Parameters]
print("trained:", *trained, sep="\\n")
"""
OTHERWISE = """
leaf = nodes(DATA)
loss = graph(**leaf)
feeds = {{leaf[name]: a for name, a in DATA.items() if name[0] in "xy"}}
{replays}
print("by replay, minus the above:", *(p.value - q for p, q in zip(edf.Parameters, trained)), sep="\\n")

leaf = {{k: a[ROWS[0]] if k[0] in "xy" else a for k, a in DATA.items()}}
leaf = {{k: edf.Tensor(a if k[0] in "yk" else a.astype(edf.DT), requires_grad=k[0] == "p") for k, a in leaf.items()}}
loss = graph(**leaf)
loss.backward(np.full(loss.shape, 1 / loss.shape[0], edf.DT))
print("eagerly:", loss, *(t.grad for t in leaf.values() if t.requires_grad), sep="\\n")
"""


@dataclass(frozen=True)
class Program:
    """A graph, and how it is trained."""

    draft: Draft
    sizes: tuple[int, ...]  # of the minibatches
    moves: list[tuple[int, str, str]]  # what else is done: in which step, after which call, and its source
    dtype: Any
    turn: int  # which run gets how many threads

    @property
    def hosts(self) -> set[str]:
        return self.draft.used & HOSTS.keys()

    def rows(self, step: int) -> Array:
        return np.asarray(draw(90 + step, self.sizes[step], below=max(self.sizes) + 1))

    def data(self, step: int | None = None) -> dict[str, Array]:
        """What the leaves hold in the beginning and at this step; of fed inputs all examples without one."""
        rows = slice(None) if step is None else self.rows(step)
        made = {leaf.name: leaf.array(max(self.sizes) + 1) for leaf in self.draft.leaves}
        return {name: a[rows] if name[0] in "xy" else a for name, a in made.items()}

    def after(self, step: int, call: str) -> list[str]:
        return [code for s, c, code in self.moves if (s, c) == (step, call)]

    def replays(self) -> Iterator[list[int]]:
        """Steps that one replay can do: of one size, but for a smaller last one, with no write between."""
        run = [0]
        for step in range(1, len(self.sizes)):
            size, before, first = self.sizes[step], self.sizes[step - 1], self.sizes[run[0]]
            if size > first or before < first or self.after(step - 1, "SGD"):
                yield run
                run = []
            run.append(step)
        yield run

    def graph(self, functions: dict[str, Any], leaves: dict[str, Any]) -> Any:
        """Make the graph with these for the ops and the nodes in NumPy; return what its function does."""
        scope: dict[str, Any] = {"np": np, "SimpleNamespace": SimpleNamespace, **functions}
        scope["ops"] = SimpleNamespace(**functions)
        exec(compiled(self.draft.text()), scope)
        return scope["graph"](**leaves)

    def __str__(self) -> str:
        """The program, and unless it has nodes in NumPy, its training by replay and its first step eagerly."""
        text, replays = SCRIPT if self.hosts else SCRIPT + OTHERWISE, []
        for run in self.replays():
            order = f"np.concatenate(ROWS[{run[0]}:{run[-1] + 1}])"
            replays.append(f"edf.replay(loss, feeds, order={order}, batch_size={self.sizes[run[0]]})")
            replays += self.after(run[-1], "SGD")
        return text.format(
            sources="\n".join(dedent(getsource(f)) for f in [draw, nodes, *(HOSTS[h] for h in sorted(self.hosts))]),
            graph=self.draft.text(), dtype=self.dtype.__name__, rate=RATE, examples=max(self.sizes) + 1,
            data=", ".join(f"{leaf.name!r}: {leaf.text(max(self.sizes) + 1)}" for leaf in self.draft.leaves),
            sizes=self.sizes, replays="\n".join(replays),
            **{call: "".join(f"\n    if step == {s}: {code}" for s, c, code in self.moves if c == call)
               for call in ("Forward", "Backward", "SGD")},
        )  # fmt: skip


def made_move(d: Draft, gene: int) -> tuple[int, str, str]:
    """A look at a node, or between two steps a write to a parameter."""
    d.gene = gene
    parameters = [leaf for leaf in d.leaves if leaf.name[0] == "p"]
    engine = [i for i, line in enumerate(d.body) if " = ops." in line]  # what others hand out is theirs
    step, call, leaf = d.choose(3), d.choose(3), parameters[d.choose(len(parameters))]
    value = f"leaf[{leaf.name!r}].value"
    if call == 2:
        new = f"np.linspace(-1, 1, {math.prod(leaf.shape)}).reshape({leaf.shape})"
        ways = (f"{value}[...] *= 0.5", f"{value} = -0.5 * {value}", f"{value}[...] = {new}", f"{value} = {new}",
                f"{value}[:1] += 0.25", f"w = {value}; w *= 0.5; w += 0.125")  # fmt: skip
        return step, "SGD", ways[d.choose(len(ways))]
    looked = f"edf.CompNodes[{engine[d.choose(len(engine))]}].{('value', 'grad')[d.choose(2) * call]}"
    codes = f"held.append({looked})", f"kept = {value}"
    return step, ("Forward", "Backward")[call], codes[d.choose(4) // 3]


def made_program(genes: tuple[Any, ...], setting: int, training: int, moves: list[int]) -> Program:
    training, which = divmod(training, len(SIZES))
    draft = write([gene for several in genes for gene in several], max(SIZES[which]), setting)
    made = [made_move(draft, gene) for gene in moves]
    return Program(draft, SIZES[which], made, (np.float32, np.float64)[training % 2], training // 2 % 4)


DIGITS = st.integers(0, 2**24 - 1)
GENE = st.tuples(st.integers(0, len(OPS) - 1), DIGITS)
GENES = st.tuples(st.lists(GENE, min_size=1, max_size=15), *[st.lists(GENE, max_size=15)] * 3)  # shrinks well
PROGRAMS = st.builds(made_program, GENES, DIGITS, DIGITS, st.lists(DIGITS, max_size=5))


@dataclass
class Trace:
    """What a run has shown."""

    values: list[Array] = field(default_factory=list)  # of every node, in the first step
    grads: list[Array] = field(default_factory=list)  # of every node and parameter, in the first step
    losses: list[Array] = field(default_factory=list)
    before: list[dict[str, Array]] = field(default_factory=list)  # the parameters before each step
    parameters: list[Array] = field(default_factory=list)  # in the end


def nodes(data: dict[str, Array]) -> dict[str, Any]:
    edf.clear_compgraph()
    made: dict[str, Any] = {}
    for name, a in data.items():
        made[name] = edf.Parameter(a) if name[0] == "p" else edf.Input(None if name[0] in "xy" else a)
    return made


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
                trace.values = [np.array(n.value) for n in edf.CompNodes]
                trace.grads = [np.array(n.grad) for n in [*edf.CompNodes, *edf.Parameters]]
            for code in program.after(step, call):
                if call == "SGD" or not look:
                    exec(code, scope)
                copies += [a.copy() for a in held[len(copies) :]]
        trace.losses += [np.array(loss.value)] * look
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
    """Call these functions for the ops and nodes in NumPy of a program; return what each returned."""
    found: list[Any] = []

    def listing(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: found.append(f(*args, **kwargs)) or found[-1]

    program.graph({op.name: listing(function(op)) for op in OPS}, leaves)
    return found


def eager(program: Program) -> Trace:
    """The first step, on tensors."""
    leaves = {
        name: edf.Tensor(a if name[0] in "yk" else a.astype(program.dtype), requires_grad=name[0] == "p")
        for name, a in program.data(0).items()
    }
    found = listed(program, leaves, lambda op: RECORDED[op.name])
    found[-1].backward(np.full(found[-1].shape, 1 / program.sizes[0], program.dtype))
    trained = [t for t in leaves.values() if t.requires_grad]
    grads = [np.zeros(t.shape, t.dtype) if t.grad is None else t.grad.numpy() for t in trained]
    return Trace([t.numpy() for t in found], grads)


def same(what: str, got: list[Array], want: list[Array]) -> None:
    """Assert that these are the same bits; any NaN is as good as another."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        kinds = (a.shape, a.dtype), (b.shape, b.dtype)
        assert kinds[0] == kinds[1], f"{what} {i} differ: {kinds}"
        bits = [np.where(np.isnan(x), np.array(np.nan, x.dtype), x).tobytes() for x in (a, b)]
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
        same("gradients, eager and recorded: number", eagerly.grads, looked.grads[len(looked.values) :])
        same("losses, replayed and recorded: step", replay.losses, looked.losses)
        same("parameters, replayed and recorded: number", replay.parameters, looked.parameters)


def check_by_differences(program: Program) -> None:
    """Values and losses are NumPy's; the first gradient is the derivative of NumPy's loss along a random direction."""
    trace = recorded(program, np.float64, True)

    def run(step: int, parameters: dict[str, Array]) -> list[Array]:
        return listed(program, {**program.data(step), **parameters}, lambda op: op.numpy)

    close("values, recorded and by NumPy: number", trace.values, run(0, trace.before[0]))
    found = [run(step, before)[-1] for step, before in enumerate(trace.before)]
    close("losses, recorded and by NumPy: step", trace.losses, found)
    random, slopes, first = np.random.default_rng(0), [], trace.before[0]
    along = {name: np.asarray(random.normal(size=a.shape)) for name, a in first.items()}
    terms = [g * u for g, u in zip(trace.grads[len(trace.values) :], along.values(), strict=True)]
    got, size = sum(float(t.sum()) for t in terms), sum(float(np.abs(t).sum()) for t in terms)
    for h in (1e-4, 1e-5, 1e-6, 1e-7):  # a step must not cross a kink of relu or max, which may be near
        moved = [{name: a + s * h * along[name] for name, a in first.items()} for s in (1, -1, 2, -2)]
        ends = [run(0, parameters)[-1].mean() for parameters in moved]
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
        made.retain_grad()
        return made

    for step, size in enumerate(program.sizes):
        leaves = {
            name: torch.tensor(a, requires_grad=True) if a.dtype.kind == "f" else torch.tensor(a).long()
            for name, a in {**program.data(step), **parameters}.items()
        }
        found = listed(program, leaves, lambda op: partial(call, op.torch))
        found[-1].backward(torch.full((size,), 1 / size, dtype=torch.float64))
        losses.append(found[-1].detach().numpy())
        tensors = [*found, *(leaves[name] for name in parameters)]
        grads = [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors]
        if step == 0:
            # Where values near a kink differ by rounding, gradients between may, but not those of parameters.
            skipped = len(found) if program.draft.used & {"relu", "max", "Relu"} else 0
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
        try:
            with np.errstate(all="ignore"):
                check(program)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n\n{program}\n") from error

    seed = os.environ.get("EDFCORE_FUZZ_SEED")
    settings = hypothesis.settings(
        max_examples=count, deadline=None, database=None, derandomize=seed is None, print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck), report_multiple_bugs=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )  # fmt: skip
    test = settings(hypothesis.given(PROGRAMS)(attempt))
    (hypothesis.seed(int(seed))(test) if seed else test)()
    return used


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
    public = {name for name, f in vars(ops).items() if isinstance(f, OpFunction)}
    assert public - OP.keys() - EXCLUDED == set(), "add a line for each of these to OPS in fuzz_programs.py"
    assert OP.keys() - HOSTS.keys() - public == set(), "these lines have no op"
    assert OP.keys() & EXCLUDED == set(), "these have a line and are excluded too"
