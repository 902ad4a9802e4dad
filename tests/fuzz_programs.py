"""Random graphs and their training as source, made from lists of small numbers that hypothesis draws and shrinks.

Each gene, two numbers, becomes one op of the table OPS. The digits of the second pick among what fits at each place, so
every list of genes is a graph, and a shorter list a smaller one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from inspect import getsource
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import ops
from fuzz_draft import HOSTS, WIDE, B, Draft, draw
from fuzz_makers import recurrent
from fuzz_ops import ENGINE, OPS
from references import Array

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
st = hypothesis.strategies

SIZES = ((3, 3, 2), (2, 5, 4), (4, 1, 4), (5, 5, 5), (1, 3, 2), (8, 3, 3), (13, 13, 1), (130, 130, 37))
RATE = 0.01
GONE = "is gone: nobody had looked at it before"  # what the engine says of a look that comes too late
RECORDED = {op.name: getattr(ops, op.name, None) or HOSTS[op.name] for op in OPS}
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


def write(genes: list[tuple[int, int]], batch: int, setting: int) -> Draft:
    """Write the graph that these numbers stand for, for minibatches of up to `batch`."""
    d = Draft(batch)
    d.gene = setting
    ops = OPS if d.choose(2) else ENGINE
    if d.choose(3) == 2 and edf.cuda.build() != "sim":  # a simulated device would take minutes
        d.dims = WIDE
    width, by_labels, all_values, deep = d.dim(), d.choose(3) == 2, d.choose(2), d.choose(3) == 2
    d.leaf("x", (B, 3, width) if deep else (B, width))
    p = d.leaf("p", (width,))
    for number, gene in genes:
        op = ops[number % len(ops)]
        d.gene = gene
        op.make(d, op) if d.choose(6) < 5 else recurrent(d)
    last = d.values[-1]
    if by_labels and len(last.shape) == 2 and last.shape[0] == B and last.shape[1] != B:
        probabilities = d.call("softmax", [last], last.shape, (0.001, 1))
        if d.choose(2):
            loss = d.call("log_loss_soft", [probabilities, probabilities], (B,), (0, 1))
        else:
            loss = d.call("log_loss", [probabilities, d.indices((B,), last.shape[1])], (B,), (0, 1))
    else:
        loss = d.to_batch(last)
    if all_values:  # whatever nothing reads yet has a say in the loss
        for v in [v for v in d.values if v.name[0] == "v" and v.name not in {*d.read, loss.name}]:
            loss = d.call("add", [loss, d.to_batch(v)], (B,), (-1, 1))
    if not loss.trained:
        loss = d.call("mul", [loss, d.call("mean", [p], (), (-2, 2))], (B,), (-1, 1))
    if d.nodes[-1].name != loss.name:  # the loss is the last node
        loss = d.call("scale", [loss], (B,), (loss.low, loss.high), "1.0")
    d.body.append(f"return {loss.name}")
    return d


def nodes(data: dict[str, Array]) -> dict[str, Any]:
    edf.clear_compgraph()
    made: dict[str, Any] = {}
    for name, a in data.items():
        made[name] = edf.Parameter(a) if name[0] == "p" else edf.Input(None if name[0] in "xy" else a)
    return made


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
    step, call, leaf = d.choose(3), d.choose(3), parameters[d.choose(len(parameters))]
    value = f"leaf[{leaf.name!r}].value"
    if call == 2:
        new = f"np.linspace(-1, 1, {math.prod(leaf.shape)}).reshape({leaf.shape})"
        ways = (f"{value}[...] *= 0.5", f"{value} = -0.5 * {value}", f"{value}[...] = {new}", f"{value} = {new}",
                f"{value}[:1] += 0.25", f"w = {value}; w *= 0.5; w += 0.125")  # fmt: skip
        return step, "SGD", ways[d.choose(len(ways))]
    number = d.engine[d.choose(len(d.engine))]  # what others hand out is theirs
    looked = f"edf.CompNodes[{number}].{('value', 'grad')[d.choose(2) * call]}"
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


def try_out(attempt: Callable[..., None], count: int, *strategies: Any) -> None:
    """Call `attempt` with so many draws, the same in each run unless EDFCORE_FUZZ_SEED is set; shrink a failure."""
    seed = os.environ.get("EDFCORE_FUZZ_SEED")
    settings = hypothesis.settings(
        max_examples=count, deadline=None, database=None, derandomize=seed is None, print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck), report_multiple_bugs=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )  # fmt: skip
    test = settings(hypothesis.given(*strategies)(attempt))
    (hypothesis.seed(int(seed))(test) if seed else test)()
