"""A plugin of pytest that tested.py uses: it runs a part of the tests, and writes each result down at once.

A line of the record is a test and what became of it; who dies leaves `begun` as the last line. Tests that are in the
record are not run again. A process whose device is lost ends itself, so that another one runs what is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

LOST = 70


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which part, and where to."""
    parser.addoption("--record", type=Path, help="the file to append results to")
    parser.addoption("--part", default="0/1", help="which part of how many")


def pytest_configure(config: pytest.Config) -> None:
    """Record where there is a file for it."""
    if path := config.getoption("--record"):
        part, _, parts = config.getoption("--part").partition("/")
        config.pluginmanager.register(Recorder(path, int(part), int(parts)))


def write(path: Path, test: str, outcome: str, why: str = "") -> None:
    """Append a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(
            json.dumps({"test": test, "outcome": outcome, **({"why": why[:600]} if why else {})}) + "\n"
        )


def recorded(path: Path) -> dict[str, dict[str, str]]:
    """The last line of each test."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["test"]: line for line in map(json.loads, lines)}


class Recorder:
    """Leaves out what is in the record, and appends to it."""

    def __init__(self, path: Path, part: int, parts: int) -> None:
        self.path, self.part, self.parts, self.seen = path, part, parts, recorded(path)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        """Every n-th of those that the suite itself does not leave out."""
        yield
        items[:] = [item for item in items[self.part :: self.parts] if item.nodeid not in self.seen]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """If the process dies, it died here."""
        write(self.path, nodeid, "begun")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has passed if its call has, and nothing failed before and after."""
        if report.when == "call" or not report.passed:
            write(
                self.path, report.nodeid, report.outcome, report.longreprtext[-600:] if report.failed else ""
            )
        if report.failed and lost():
            os._exit(LOST)


def lost() -> bool:
    """Whether the device is of no more use to this process."""
    import edfcore as edf

    if edf.cuda.is_available():
        try:
            edf.cuda.synchronize()
        except edf.DeviceError:
            return True
        except edf.Error:  # of earlier work
            return False
    return False
