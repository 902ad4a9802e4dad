"""What all tests share: devices, a clean engine for each test, and the summary of what was covered."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from edfcore import _core

DEVICES = ["cpu", "cuda"] if edf.cuda.is_available() else ["cpu"]
SIMULATED = edf.cuda.build() == "sim"


@dataclass
class Covered:
    """What the tests that passed have covered, by the parameters they were given and the marker `mode`."""

    cases: set[str] = field(default_factory=set)
    ops: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    modes: set[str] = field(default_factory=set)

    def add(self, item: pytest.Item) -> None:
        params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        if "device" in params:
            self.devices.add(params["device"])
        if "case" in params and hasattr(params["case"], "op"):
            self.cases.add(params["case"].name)
            self.ops.add(params["case"].op)
        self.modes.update(mode for marker in item.iter_markers("mode") for mode in marker.args)


covered = Covered()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", help="tests that take a device run on this one alone")
    parser.addoption("--device-only", action="store_true", help="leave out the tests that take no device")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs the suite in the background ignores SIGINT; programs that tests interrupt would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "mode(*names): ways of running ops that this test covers, for the summary"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        only = metafunc.config.getoption("--device")
        metafunc.parametrize("device", [only] if only else DEVICES, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Large cases are for threads and real devices: the simulated one would take minutes."""
    left_out: list[pytest.Item] = []
    kept: list[pytest.Item] = []
    for item in items:
        params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        large = getattr(params.get("case"), "large", False)
        slow = SIMULATED and large and params.get("device") == "cuda"
        said_elsewhere = config.getoption("--device-only") and "device" not in params
        (left_out if slow or said_elsewhere else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call" and report.passed:
        covered.add(item)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    public = {op.name for op in _core.all_ops() if not op.internal}
    devices, modes = sorted(covered.devices) or ["none"], sorted(covered.modes) or ["none"]
    terminalreporter.write_line(
        f"covered: {len(covered.ops & public)} of {len(public)} ops in {len(covered.cases)} cases on "
        f"{len(covered.devices)} devices ({', '.join(devices)}) in {len(covered.modes)} modes "
        f"({', '.join(modes)}); CPU kernels: {_core.isa()}"
    )
    if "cuda" not in DEVICES:
        terminalreporter.write_line(f"not run on cuda: {edf.cuda.why_not()}")


@pytest.fixture(autouse=True)
def clean_engine() -> Iterator[None]:
    """Every test begins with an empty graph and the settings that a program finds after import."""
    threads = edf.get_num_threads()
    reset()
    yield
    reset()
    if edf.get_num_threads() != threads:
        edf.set_num_threads(threads)


def reset() -> None:
    edf.clear_compgraph()
    edf.learning_rate = 0.001
    edf.DT = np.float32
    edf.set_device("cpu")
    edf.reproducible(False)
    edf.set_float32_matmul("exact")
    edf.keep("looked")
    _core.set_grad_enabled(True)


@pytest.fixture
def device(request: pytest.FixtureRequest, clean_engine: None) -> Iterator[str]:
    """Make the device that the test runs on the current one."""
    name: str = request.param
    with edf.device(name):
        yield name


@functools.cache
def refusal(isa: str) -> str:
    """Say why its kernels cannot run here, in the words of a process that was told to use them."""
    program = "import edfcore; edfcore.Tensor([1.0]) * 1"
    child = subprocess.run(
        [sys.executable, "-c", program], env=told(isa), capture_output=True, text=True, check=False
    )
    return child.stderr.strip().rpartition("\n")[2]


def told(isa: str) -> dict[str, str]:
    paths = [str(Path(__file__).parent), str(Path(edf.__file__).parent.parent)]
    return {**os.environ, "EDFCORE_ISA": isa, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(params=["base", "avx2", "avx512", "neon"])
def other_isa(request: pytest.FixtureRequest) -> dict[str, str]:
    """Give the environment of a process that uses another instruction set than this one does."""
    isa: str = request.param
    if isa == _core.isa():
        pytest.skip(f"all tests run with {isa}")
    if why := refusal(isa):
        assert "this machine or build has no" in why, why
        pytest.skip(why)
    return told(isa)
