"""Steps that are put off show what steps at once show: random programs with looks and writes, against node by node."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core
from fuzz_programs import DIGITS, GENES, GONE, RATE, RECORDED, Program, made_program, nodes, st, try_out
from references import Array

PLACES = ("Forward", "Backward", "SGD", "feed", "build")
WITHIN = ("forward 0", "backward 0", "forward 1", "backward 1")
Actions = list[tuple[int, str, str]]  # in which step, after which call, and the source
THREADS = (1, 2, 3, 8)
UPDATES = (edf.SGD, edf.Momentum, edf.Adam)
NOT_YET = ("no value yet", "no gradient yet", "before it has a value")


def made_action(program: Program, gene: int) -> tuple[int, str, str]:
    """Something done after one of the calls of one of the steps: (step, call, source)."""

    def choose(n: int) -> int:
        nonlocal gene
        gene, digit = divmod(gene, n)
        return digit

    step, place = choose(2 * len(program.sizes)), PLACES[choose(5)]
    if place == "build":
        return step, place, "build()"
    number = program.draft.engine[choose(len(program.draft.engine))]
    node = f"listed[{number}]"
    parameters = [leaf for leaf in program.draft.leaves if leaf.name[0] == "p"]
    leaf = f"leaf[{parameters[choose(len(parameters))].name!r}]"
    codes = [f"see({node}.value)"] * 4 + [f"see({leaf}.value)", "see(loss.value)"] * 2
    codes += ["write()"] * 4
    if place in ("Backward", "SGD"):
        codes += [f"held.append({leaf}.grad)"]
        codes += [f"see({node}.grad)", f"see({leaf}.grad)"] * 3
    codes += [f"{leaf}.value *= 0.5", f"held.append({node}.value)", f"held.append({leaf}.value)", "held.clear()",
              f"edf.keep({node})", "seen += [n.value.copy() for n in listed]"]  # fmt: skip
    if place == "feed":
        codes += [f"see_grad({node})", f"see_grad({leaf})"] * 3
    if place == "SGD":
        codes += [
            f"{leaf}.grad = 0.25 * {leaf}.value",
            f"see({leaf}.optimised[0]) if {leaf}.optimised[2] else None",
        ]
    if place == "Backward":
        codes += [
            f"{leaf}.grad *= 0.5",
            f"{leaf}.grad = 0.25 * {leaf}.value",
            f"{leaf}.grad += {leaf}.value",
        ] * 2
    if place == "Forward":
        codes += [f"{node}.value = 0.5 * {node}.value"] * (not program.draft.nodes[number].below)
    return step, place, codes[choose(len(codes))]


def made_meddling(program: Program, gene: int) -> tuple[int, str, str]:
    """Something that an object among the nodes does in its forward or backward: (step, where, source)."""

    def choose(n: int) -> int:
        nonlocal gene
        gene, digit = divmod(gene, n)
        return digit

    step, place = choose(2 * len(program.sizes)), WITHIN[choose(4)]
    number = program.draft.engine[choose(len(program.draft.engine))]
    node = f"listed[{number}]"
    parameters = [leaf for leaf in program.draft.leaves if leaf.name[0] == "p"]
    leaf = f"leaf[{parameters[choose(len(parameters))].name!r}]"
    codes = [f"see({node}.value)"] * 4 + [f"see({leaf}.value)", f"see({node}.grad)", f"see({leaf}.grad)"] * 2
    codes += ["write()"] * 2
    codes += [f"held.append({node}.value)", f"held.append({leaf}.value)", "held.clear()", f"edf.keep({node})",
              f"{leaf}.value *= 0.5", "other()", "stop()"]  # fmt: skip
    if place[0] == "b" and not program.draft.nodes[number].below:
        codes += [f"{node}.addgrad(0.5 * {node}.value)", f"{node}.grad += 0.25 * {node}.value"] * 4
        codes += [f"{node}.grad = 0.25 * {node}.value", f"{leaf}.grad += {leaf}.value"] * 2
        codes += [f"held.append({node}.grad)"]
    elif not program.draft.nodes[number].below:
        codes += [f"{node}.value = 0.5 * {node}.value"]
    return step, place, codes[choose(len(codes))]


class StopError(Exception):
    """What an object among the nodes raises."""


class LostError(Exception):
    """What the program goes on with needs what a plan did without."""


def run(
    program: Program, actions: Actions, trains: list[int], meddlers: list[int]
) -> tuple[list[Array | None], int]:
    """Run the program; return what it saw, with None for what was gone, and how often that was.

    It ends early where what is gone decides what comes after.

    At each place of `meddlers` an object is put among the nodes whose forward and backward do what `actions` say.
    """
    edf.DT, edf.learning_rate = program.dtype, RATE
    leaf: dict[str, Any] = {}
    seen: list[Array | None] = []
    held: list[Array] = []
    scope = {"edf": edf, "np": np, "leaf": leaf, "held": held, "seen": seen}
    gone = now = 0

    class Meddler:
        def __init__(self, number: int) -> None:
            self.number = number

        def forward(self) -> None:
            act(now, f"forward {self.number}")

        def backward(self) -> None:
            act(now, f"backward {self.number}")

    def other() -> None:
        """Run a step of another graph."""
        ours = edf.CompNodes, edf.Parameters
        edf.CompNodes, edf.Parameters = [], []
        try:
            loss = edf.Mean(edf.Tanh(edf.Mul(edf.Parameter(np.ones((2, 3))), 0.5)), axis=1)
            for _ in range(3):
                edf.Forward()
                edf.Backward(loss)
                edf.SGD()
            see(edf.Parameters[0].value)
        finally:
            edf.CompNodes, edf.Parameters = ours

    def stop() -> None:
        raise StopError

    def build() -> None:
        values = {name: node.value for name, node in leaf.items() if name[0] == "p"}
        leaf.update(nodes({**program.data(), **values}))
        scope["loss"] = program.graph(RECORDED, leaf)
        scope["listed"] = list(edf.CompNodes)
        for number, place in enumerate(meddlers):
            edf.CompNodes.insert(place % (len(edf.CompNodes) + 1), Meddler(number))

    def see(array: Array) -> None:
        seen.append(array.copy())

    def act(step: int, place: str) -> None:
        nonlocal gone
        for s, p, code in actions:
            if (s, p) != (step, place):
                continue
            try:
                exec(code, scope)
            except edf.GraphError as error:
                if (p in WITHIN or p == "feed") and any(text in str(error) for text in NOT_YET):
                    seen.append(np.array(-1.0))
                    continue
                if GONE not in str(error):
                    raise
                if not code.startswith("see("):  # what it should have done, it has not
                    raise LostError from error
                gone += 1
                seen.append(None)

    def write() -> None:
        for array in held[-2:]:
            if array.dtype.kind == "f":
                np.multiply(array, 0.5, out=array)

    def see_grad(node: Any) -> None:
        try:
            see(node.grad)
        except edf.GraphError as error:
            if "no gradient yet" not in str(error):
                raise
            see(np.array(-1.0))

    def calls(step: int) -> None:
        edf.Forward()
        act(step, "Forward")
        if trains[step % len(trains)] > 0:
            try:
                edf.Backward(scope["loss"])
            except edf.GraphError as error:
                if GONE not in str(error):
                    raise
                raise LostError from error  # one of its kind for the first time, and a leaf is not what it was
            act(step, "Backward")
        if trains[step % len(trains)] > 1:
            UPDATES[trains[step % len(trains)] - 2]()
            act(step, "SGD")

    scope.update(see=see, see_grad=see_grad, build=build, write=write, other=other, stop=stop)
    build()
    for step in range(2 * len(program.sizes)):
        now = step
        try:
            old = edf.CompNodes
            act(step, "build")
            for name, array in program.data(step % len(program.sizes)).items():
                if name[0] in "xy":
                    leaf[name].value = array
            if step and edf.CompNodes is old:  # otherwise there are no values yet
                act(step, "feed")
            calls(step)
        except StopError:
            seen.append(np.array(-2.0))
        except LostError:
            return seen, gone + 1
    seen += [np.array(leaf[name].value) for name in leaf if name[0] == "p"]
    return seen, gone


def check(
    program: Program, before: Actions, actions: Actions, trains: list[int], straight: int, meddlers: list[int]
) -> None:
    """Run it node by node, then as plans, which have first seen the program do something else."""
    edf.keep("all")
    edf.set_num_threads(1)
    want, none = run(program, actions, trains, meddlers)
    assert none == 0
    edf.keep("looked")
    was = _core.set_straight_runs(straight)
    _core.empty_cache(edf.get_device())  # no plan remembers other programs
    try:
        run(program, before, trains[::-1], meddlers)
        for attempt in range(20):  # what was gone is kept from then on
            edf.set_num_threads(THREADS[(program.turn + attempt) % len(THREADS)])
            got, gone = run(program, actions, trains, meddlers)
            assert len(got) == len(want) or gone, f"{len(got)} and {len(want)} things were seen"
            if len(got) == len(want):
                for i, (a, b) in enumerate(zip(got, want, strict=True)):
                    if a is None:
                        continue
                    assert (a.shape, a.dtype) == (b.shape, b.dtype), f"run {attempt}, number {i}"
                    assert np.array_equal(a, b, equal_nan=True), (
                        f"run {attempt}, number {i} differs:\n{a!r}\n{b!r}"
                    )
            if not gone and attempt > 1:
                return
        raise AssertionError("what was looked at is still not kept")
    finally:
        _core.set_straight_runs(was)


@pytest.mark.mode("planned")
@pytest.mark.parametrize("meddling", [False, True], ids=["between calls", "in the middle"])
def test_steps_by_plan_show_what_steps_node_by_node_show(meddling: bool, device: str) -> None:
    simulated = edf.cuda.build() == "sim" and device == "cuda"

    def attempt(
        genes: Any, numbers: tuple[int, int], befores: list[int], acts: list[int], trains: list[int],
        straight: int, meddlers: list[int],
    ) -> None:  # fmt: skip
        program = made_program(genes, *numbers, [])
        made = [made_meddling, made_meddling, made_action] if meddling else [made_action]
        before, actions = (
            [made[i % len(made)](program, gene) for i, gene in enumerate(some)] for some in (befores, acts)
        )
        try:
            with np.errstate(all="ignore"):
                check(program, before, actions, trains, straight, meddlers)
        except Exception as error:
            doing = "\n".join(map(repr, [*before, "and then", *actions]))
            raise AssertionError(
                f"{type(error).__name__}: {error}\n\n{program.draft.text()}\n{program.sizes} {trains} "
                f"{straight} {meddlers} {program.dtype.__name__}\n{doing}\n"
            ) from error

    count = int(os.environ.get("EDFCORE_FUZZ", "20" if simulated else "150" if meddling else "300"))
    trains = st.lists(st.sampled_from([2, 2, 2, 3, 4, 1, 0]), min_size=1, max_size=3)
    genes = st.lists(DIGITS, max_size=12)
    straight = st.sampled_from([0, 0, 1, 2])
    places = st.lists(DIGITS, min_size=2, max_size=2) if meddling else st.just([])
    before = edf.plan_stats()["segments"]
    try_out(attempt, count, GENES, st.tuples(DIGITS, DIGITS), genes, genes, trains, straight, places)
    assert edf.plan_stats()["segments"] - before > count  # programs with nodes in NumPy have plans, too


@pytest.mark.mode("planned")
@pytest.mark.parametrize("write", [False, True], ids=["read", "written"])
@pytest.mark.parametrize("when", ["Forward", "Backward"])
def test_a_late_look_at_a_gradient_of_a_step_whose_parameters_were_looked_at(
    when: str, write: bool, device: str
) -> None:
    """What Forward and Backward have read is remembered, for whoever is given a parameter's array may write it."""

    def run() -> list[Array]:
        rng, x = np.random.default_rng(5), edf.Input()
        p = edf.Parameter(rng.normal(size=(3, 4)))
        hidden = edf.Tanh(edf.Matmul(x, p))
        loss = edf.Mean(edf.Square(hidden), axis=1)
        for step in range(6):
            x.value = rng.normal(size=(5, 3))
            edf.Forward()
            value = p.value if when == "Forward" else np.zeros(0)
            value *= 0.5 if write else 1
            del value
            edf.Backward(loss)
            seen = [p.value.copy()]
            p.value[...] *= 2.0 if write else 1.0
            seen += [hidden.grad, hidden.value, p.grad] if step == 5 else []
            edf.SGD()
        return [np.array(a) for a in (*seen, p.value)]

    edf.DT = np.float64
    edf.keep("all")
    want = run()
    edf.keep("looked")
    edf.clear_compgraph()
    _core.empty_cache(edf.get_device())
    before = edf.plan_stats()["compiled"]
    got = run()
    assert edf.plan_stats()["compiled"] > before
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.mode("planned")
@pytest.mark.parametrize("whose", ["parameter", "node"])
def test_what_was_gone_is_kept_by_plans_for_other_shapes_too(whose: str, device: str) -> None:
    """Steps of one size are trained with, and the gradient is looked at after a Forward of another size."""
    _core.empty_cache(edf.get_device())
    x, p = edf.Input(), edf.Parameter(np.ones((3, 4)))
    hidden = edf.Tanh(edf.Matmul(x, p))
    loss, gone = edf.Mean(edf.Square(hidden), axis=1), []
    grads: list[Array] = []
    for step in range(12):
        for size in (5, 2):
            x.value = np.ones((size, 3))
            edf.Forward()
            if size == 5:
                edf.Backward(loss)
                edf.SGD()
        if step > 2:
            try:
                grads.append((p if whose == "parameter" else hidden).grad)
            except edf.GraphError as error:
                gone.append((step, GONE in str(error)))
    assert gone == [(3, True)]
    assert len(grads) == 8
    assert all(np.any(g) for g in grads)
