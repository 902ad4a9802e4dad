"""Write python/edfcore/_core.pyi, the types of the compiled module, or check that it is up to date.

`python tools/stub.py` writes it, `python tools/stub.py --check` fails and shows the difference. The signatures come
from the installed package, so build and install first: `pip install -e '.[dev]'`.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from generated import write_or_check

STUB = Path(__file__).resolve().parent.parent / "python" / "edfcore" / "_core.pyi"

HEADER = '''"""Types of the compiled module. Written by tools/stub.py: do not edit."""

from __future__ import annotations

import typing

import numpy as np
from edfcore._describe import Attrs, Operand
from numpy.typing import DTypeLike, NDArray
'''

# What signatures in C++ cannot say, or say differently from one version of pybind11 to the next.
CORRECTIONS = [
    (r'\A"""[^"]*"""\n', ""),
    (r"^(from __future__|import|from) .*\n", ""),
    (r"^__all__.*\n", ""),
    (r"typing\.SupportsInt( \| typing\.SupportsIndex)?", "int"),
    (r"typing\.SupportsFloat( \| typing\.SupportsIndex)?", "float"),
    (r"numpy\.ndarray\b(\[.*?\]\])?", "NDArray[typing.Any]"),
    (r"numpy\.dtype\b(\[.*?\])?", "np.dtype[typing.Any]"),
    (r"collections\.abc\.", "typing."),
    (r"(def apply\(.*\) -> )typing\.Any", r"\1Tensor"),
    (r"(def __call__\(self, \*args)(, \*\*kwargs)\):", r"\1: typing.Any\2: typing.Any) -> Tensor:"),
    (r"(def all_ops\(\) -> )list\b", r"\1list[Op]"),
    (r"(def memory_stats\(.*\) -> )dict\b", r"\1dict[str, int]"),
    (r"(def plan\(.*\) -> )typing\.Any", r"\1Plan | MixedPlan"),
    (r"(def cuda_properties\(.*\) -> )dict\b", r"\1dict[str, typing.Any]"),
    (r"def to_device\(.*\) -> typing\.Any", "def to_device(tensor: Tensor, device: str) -> Tensor"),
    (r"(def stop_timing\(\) -> )list\b", r"\1list[tuple[str, str, str, int, int]]"),
    (r"(def shape\(self\) -> )tuple\b", r"\1tuple[int, ...]"),
    (r"\bfeeds: dict\b", "feeds: typing.Mapping[typing.Any, typing.Any]"),
    (r"\binputs: tuple\b", "inputs: tuple[typing.Any, ...]"),
    (r"\battrs: typing\.Any\b", "attrs: Attrs | None"),
    (r"\bdtype: typing\.Any = None", "dtype: DTypeLike | None = None"),
    (r"\bdevice: typing\.Any = None", "device: str | None = None"),
    (r"^    grad: typing\.Any$", "    grad: Tensor | None  # type: ignore[assignment]"),
    (r"\bgradient: typing\.Any = None", "gradient: Operand | None = None"),
    (r"^__version__: str = .*$", "__version__: str"),
]  # fmt: skip

# Members of types that are not pybind11's, whose signatures nothing tells.
ARRAY = """
    @property
    def {0}(self) -> NDArray[typing.Any]: ...
    @{0}.setter
    def {0}(self, array: typing.Any) -> None: ..."""
UNTOLD_MEMBERS = {
    "Node": "def __init__(self, value: typing.Any = None, *, device: str | None = None) -> None: ..."
    + ARRAY.format("grad") + ARRAY.format("value"),
    "Function": "record: Op\n"
    "    describe: typing.Callable[..., typing.Any]\n"
    "    def __init__(self, record: Op, describe: typing.Callable[..., typing.Any]) -> None: ...",
    "Recorded": "inputs: tuple[typing.Any, ...]\n"
    "    def __init__(self, *args: typing.Any, **kwargs: typing.Any) -> None: ...",
    "Tensor": "def __init__(self, data: typing.Any, dtype: DTypeLike | None = None, *, "
    "device: str | None = None, requires_grad: bool = False) -> None: ...",
}  # fmt: skip
UNTOLD = re.compile(r'@staticmethod\n    def __new__\(type, \*args, \*\*kwargs\):\n\s*"""\n[^"]*"""')


def generate() -> str:
    """Return the stub of the installed module."""
    import pybind11_stubgen

    import edfcore  # noqa: F401  # attaches the operators that are written in Python

    logging.disable(logging.ERROR)  # names that only type checkers see are imported by the header
    with tempfile.TemporaryDirectory() as folder:
        pybind11_stubgen.main(["edfcore._core", "-o", folder])
        (path,) = Path(folder).rglob("_core.pyi")
        text = path.read_text(encoding="utf-8")
    for pattern, replacement in CORRECTIONS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    head, *classes = re.split(r"^(?=class )", text, flags=re.MULTILINE)
    for name, members in UNTOLD_MEMBERS.items():
        classes = [UNTOLD.sub(members, c) if re.match(rf"class {name}\b", c) else c for c in classes]
    text = head + "".join(classes)
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(STUB), "-"]
    return subprocess.run(command, input=HEADER + text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, STUB, generate, "build, install, and run  python tools/stub.py"))
