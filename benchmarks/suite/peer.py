"""What the peers have in common: a program that is ready to be timed, and a peer that makes one of a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from typing import Any

from peers_timing import load
from suite.problems import CHECKED, Array, Network, OpProblem, Problem, Unsupported
from suite.rows import POOL, Row


class Program:
    """One row as one peer runs it. `check` is called first, and once."""

    per_call = 1  # steps that a call does
    once = False  # whether a call is so long that it is timed alone, and not tried before

    def check(self) -> list[Array]:
        """The answer that is compared with float64."""
        raise NotImplementedError

    def run(self, calls: int) -> None:
        """Do it so many times, and wait for the last."""
        raise NotImplementedError

    def time(self, calls: int) -> float:
        """Seconds for so many calls."""
        begin = time.perf_counter()
        self.run(calls)
        return time.perf_counter() - begin

    def memory(self) -> int | None:
        """Bytes of memory of one step at its peak, where the framework keeps account of them."""
        return None


class Call(Program):
    """A function without arguments, whose results are arrays."""

    def __init__(
        self,
        function: Callable[[], Any],
        wait: Callable[[Any], Any] = lambda last: None,
        array: Callable[[Any], Array] = lambda x: x,
    ) -> None:
        self.function, self.wait, self.array = function, wait, array

    def check(self) -> list[Array]:
        found = self.function()
        return [self.array(x) for x in (found if isinstance(found, (tuple, list)) else [found])]

    def run(self, calls: int) -> None:
        function, last = self.function, None
        for _ in range(calls):
            last = function()
        self.wait(last)


class Trainer(Program):
    """Learns the minibatches of a network one after the other, in a loop in Python."""

    def __init__(self, net: Network) -> None:
        self.net, self.at = net, 0
        if net.row.op != "fashion":
            self.batches = [self.convert(*net.minibatch(i)) for i in range(net.count)]
            self.next = cycle(self.batches)

    def convert(self, x: Array, y: Array) -> tuple[Any, Any]:
        """A minibatch as the framework likes to have it."""
        return x, y

    def step(self, x: Any, y: Any) -> Any:
        """Forward, backward, update."""
        raise NotImplementedError

    def wait(self) -> None:
        """Until all steps are done."""

    def parameters(self) -> list[Array]:
        """As in the problem: weights (in, out) and biases."""
        raise NotImplementedError

    def reset(self) -> None:
        """Back to the first parameters."""
        raise Unsupported("trainings to an accuracy are left to other peers")

    def check(self) -> list[Array]:
        for i in range(CHECKED):
            self.step(*self.convert(*self.net.minibatch(i)))
        return self.parameters()

    def run(self, calls: int) -> None:
        step = self.step
        for x, y in islice(self.next, calls):
            step(x, y)
        self.wait()

    def epoch(self, order: Array) -> None:
        """Learn all examples once in this order, and wait."""
        net = self.net
        for at in range(0, len(order), net.batch):
            rows = order[at : at + net.batch]
            self.step(net.x[rows], net.y[rows])
        self.wait()


class ManySteps(Trainer):
    """Learns many minibatches in one call."""

    per_call = POOL

    def many(self, steps: int) -> None:
        """Learn the first minibatches, going round, and wait."""
        raise NotImplementedError

    def check(self) -> list[Array]:
        self.many(CHECKED)
        return self.parameters()

    def run(self, calls: int) -> None:
        for _ in range(calls):
            self.many(POOL)


class ToAccuracy(Program):
    """Trains from the beginning for as many epochs as float64 needs to label the test set well enough.

    The epoch in which float32 first gets there is chance, as two peers whose steps differ by roundings show. Each must
    have come within a hundredth of it. Scoring is not timed.
    """

    once = True

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.net = trainer, trainer.net
        trainer.reset()

    def check(self) -> list[Array]:
        found = self.trainer.check()
        self.trainer.epoch(self.net.order(0))  # what is compiled, is compiled now
        return found

    def time(self, calls: int) -> float:
        seconds = 0.0
        self.trainer.reset()
        for epoch in range(self.net.epochs):
            order = self.net.order(epoch)
            begin = time.perf_counter()
            self.trainer.epoch(order)
            seconds += time.perf_counter() - begin
        if (found := self.net.accuracy_of(self.trainer.parameters())) < self.net.accuracy - 0.01:
            raise ArithmeticError(f"{found:.1%} instead of {self.net.accuracy:.0%}")
        return seconds


class Peer:
    """A framework, imported when the object is made, with the threads that the environment gives it."""

    packages: Sequence[str] = ()
    trainer: Callable[[Network], Trainer] | None = None

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def used_threads(self) -> int | None:
        """How many threads the framework says that it uses; None where nobody can say."""
        try:
            pools = load("threadpoolctl").threadpool_info()
        except ImportError:
            return None
        return max((int(pool["num_threads"]) for pool in pools), default=None)

    def versions(self) -> dict[str, str]:
        """Of the packages that are measured."""
        found = {}
        for name in self.packages:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "not installed as a package"
        return found

    def make(self, row: Row, problem: Problem) -> Program:
        """The row's program; raises Unsupported."""
        if isinstance(problem, OpProblem):
            return self.op(row, problem)
        if self.trainer is None:
            raise Unsupported("no training")
        made = self.trainer(problem)
        return ToAccuracy(made) if row.op == "fashion" else made

    def op(self, row: Row, problem: OpProblem) -> Program:
        """A program that calls one op."""
        raise Unsupported("no single ops")
