"""The same bits on every processor: by itself with fused multiply-adds, by `edf.reproducible` on one without them."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import pytest

import bits
import edfcore as edf
from conftest import refusal
from edfcore import _core

# Runs a graph by a plan, asks for reproducible results, and no longer; prints what came out each time.
SWITCHES = """
import numpy as np, edfcore as edf
from bits import digest, numbers
x = edf.Input(numbers((50, 70), np.float32))
package = edf.ParameterPackage()
package.w, package.b = edf.Parameter(numbers((70, 40), np.float32, 2)), edf.Parameter(np.zeros(40, np.float32))
y = edf.Gelu(edf.Affine(package, x))
for on in (False, True, False):
    edf.reproducible(on)
    for _ in range(4):
        edf.Forward()
        made = digest(y.value)
    print(made)
edf.Forward()  # put off: it is the earlier setting's
edf.reproducible(True)
assert digest(y.value) == made
print(edf.plan_stats()["compiled"])
"""


@functools.cache
def here() -> dict[str, list[str]]:
    return bits.digests(small=False)


def run(env: dict[str, str], *command: str) -> str:
    child = subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_every_instruction_set_computes_the_same_bits(other_isa: dict[str, str]) -> None:
    """Values and gradients of all cases, larger products and folds, and some training: in another process."""
    there = json.loads(run(other_isa, bits.__file__, "all"))
    assert bits.compare(here(), there) == []


def test_a_switch_acts_on_what_runs_next_and_plans_stay(other_isa: dict[str, str]) -> None:
    first, exact, last, plans = run(other_isa, "-c", SWITCHES).split()
    assert (first == last, plans) == (True, "1")
    assert (first == exact) == (other_isa["EDFCORE_ISA"] != "base")


@functools.cache
def is_fixed() -> bool:
    """Say whether this is a build for one instruction set, which has no fused multiply-add."""
    return _core.isa() == "base" and "no exact" in refusal("exact")


def test_the_setting_is_returned_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert edf.reproducible() is False
    if not is_fixed():
        assert edf.reproducible(True) is True
        assert edf.reproducible() is True
        assert _core.isa() != "base"
    edf.show_config()
    shown = capsys.readouterr().out
    assert shown.startswith(f"edfcore {edf.__version__}\n")
    assert f"CPU kernels: {_core.isa()} (EDFCORE_ISA), reproducible: {edf.reproducible()}\n" in shown
    assert edf.reproducible(False) is False


def test_a_build_without_such_kernels_says_so() -> None:
    if not is_fixed():
        pytest.skip("this build has them")
    with pytest.raises(
        edf.DeviceError,
        match=r"^This build has no CPU kernels that are reproducible without fused multiply-adds\.$",
    ):
        edf.reproducible(True)
    assert edf.reproducible() is False
