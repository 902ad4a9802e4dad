"""Checks the machine code of the CUDA kernels against cuda_code.json, the budget that is committed beside this file.

    python tools/cuda_code.py BUILD [--write]

BUILD is a folder in which edfcore was built with EDFCORE_CUDA=ON for one architecture. For every kernel, over all its
instances: no stack and no local memory, so that no register was spilled; no more registers and shared memory than its
budget; no atomic addition of floats, whose order would be chance; and at least one instance with each instruction that
the budget names, such as loads and stores of 16 bytes. With --write, the budget becomes what the build has. It needs
cuobjdump and nvdisasm (packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm, or a CUDA toolkit).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

BUDGET = Path(__file__).with_suffix(".json")
WANTED = ("LDG.E.128", "STG.E.128", "LDS.128", "LDGSTS", "LDSM", "SHFL", "HMMA", "HGMMA", "UTMALDG")
LOCAL = re.compile(r"\b(?:LDL|STL)\b")
FLOAT_ATOMICS = re.compile(r"\b(?:ATOM|ATOMG|ATOMS|RED|REDG)\.\S*ADD\S*\.F(?:16|32|64)")


@dataclass
class Kernel:
    """What all instances of a kernel have: the most of each resource, and instructions that some of them use."""

    registers: int = 0
    shared: int = 0
    has: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


def name_of(mangled: str) -> str:
    """The last name before template arguments and parameters."""
    at, name = (3 if mangled.startswith("_ZN") else 2), mangled
    while found := re.match(r"\d+", mangled[at:]):
        at += found.end()
        name = mangled[at : at + int(found.group())]
        at += int(found.group())
    return name


def read_usage(kernels: dict[str, Kernel], source: str, text: str) -> None:
    """Add what `cuobjdump -res-usage` has found in the object of a source file."""
    for mangled, usage in re.findall(r"Function (\S+):\n\s*(REG:.*)", text):
        kernel = kernels.setdefault(f"{source} {name_of(mangled)}", Kernel())
        amount = {key: int(value) for key, value in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", usage)}
        kernel.registers = max(kernel.registers, amount["REG"])
        kernel.shared = max(kernel.shared, amount["SHARED"])
        for what in ("STACK", "LOCAL"):
            if amount[what]:
                kernel.wrong.append(f"{amount[what]} bytes of {what.lower()} in {mangled}")


def read_instructions(kernels: dict[str, Kernel], source: str, lines: Iterable[str]) -> None:
    """Add what `cuobjdump -sass` lists."""
    kernel, mangled = Kernel(), ""
    for line in lines:
        if found := re.search(r"Function : (\S+)", line):
            mangled = found.group(1)
            kernel = kernels.setdefault(f"{source} {name_of(mangled)}", Kernel())
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instruction = found.group(1)
            kernel.has.update(wanted for wanted in WANTED if wanted in instruction)
            for what, pattern in (("local memory", LOCAL), ("an atomic addition of floats", FLOAT_ATOMICS)):
                if pattern.search(instruction):
                    kernel.wrong.append(f"{what}, {instruction.strip()}, in {mangled}")


def faults(kernels: dict[str, Kernel], budget: dict[str, dict[str, object]]) -> Iterator[str]:
    """What does not hold."""
    for name, kernel in sorted(kernels.items()):
        yield from (f"{name}: {wrong}" for wrong in kernel.wrong)
        allowed = budget.get(name)
        if allowed is None:
            yield f"{name}: it has no budget"
            continue
        for what, found in (("registers", kernel.registers), ("shared", kernel.shared)):
            if found > int(str(allowed[what])):
                yield f"{name}: {found} {what}, and its budget is {allowed[what]}"
        needed = allowed["has"]
        assert isinstance(needed, list)
        yield from (f"{name}: no instance has {each}" for each in needed if each not in kernel.has)
    yield from (f"{name}: there is no such kernel" for name in sorted(budget.keys() - kernels.keys()))


def tool() -> str:
    """Where cuobjdump is."""
    try:
        for file in files("nvidia-cuda-cuobjdump") or ():
            if file.name in ("cuobjdump", "cuobjdump.exe"):
                return os.fspath(file.locate())
    except PackageNotFoundError:
        pass
    found = shutil.which("cuobjdump")
    if found is None:
        sys.exit("there is no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    return found


def listing(*command: str) -> str:
    """What a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Read the build, and compare or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build", type=Path)
    parser.add_argument("--write", action="store_true", help="make what is there the budget")
    options = parser.parse_args()
    cuobjdump = tool()
    objects = sorted(options.build.rglob("edfcore_cuda.dir/**/*.cu.o"))
    if not objects:
        sys.exit(f"{options.build} holds no objects of CUDA kernels")
    kernels: dict[str, Kernel] = {}
    for path in objects:
        source = path.name.removesuffix(".o")
        read_usage(kernels, source, listing(cuobjdump, "-res-usage", os.fspath(path)))
        read_instructions(kernels, source, listing(cuobjdump, "-sass", os.fspath(path)).splitlines())
    if options.write:
        made = {
            name: {"registers": k.registers, "shared": k.shared, "has": sorted(k.has)}
            for name, k in sorted(kernels.items())
        }
        BUDGET.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    found = list(faults(kernels, json.loads(BUDGET.read_text(encoding="utf-8"))))
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(kernels)} CUDA kernels: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
