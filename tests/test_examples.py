"""Every program in examples/ runs by itself and prints a result that is as good as it says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
WORST_ERROR = {"mlp": 5.0, "logistic_regression": 8.0, "custom_node": 6.0}
"""The largest test error, in percent, of each example."""

for _package in ("sklearn", "matplotlib"):
    if importlib.util.find_spec(_package) is None:
        pytest.skip(f"the examples need {_package}, in the extra 'demo'", allow_module_level=True)


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(WORST_ERROR)


@pytest.mark.parametrize("name", WORST_ERROR)
def test_example(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    error = re.search(r"test error ([\d.]+)%", done.stdout)
    assert error is not None, done.stdout
    assert float(error[1]) <= WORST_ERROR[name]
    if name == "logistic_regression":
        assert (tmp_path / "logistic_regression.png").read_bytes().startswith(b"\x89PNG")
