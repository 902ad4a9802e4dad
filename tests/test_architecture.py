"""The architecture, read from the sources: which room may know which, how long a file may be, what an op must have."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import edfcore as edf
from cases import CASES
from edfcore import _core, ops
from edfcore._describe import OpFunction
from edfcore._edf import NODE_CLASSES

ROOT = Path(__file__).parent.parent
CSRC, PACKAGE = ROOT / "csrc", ROOT / "python/edfcore"
pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="the sources are not beside the tests")

ROOMS = ["core", "device", "ops", "graph", "bindings"]  # each may include itself and what stands before it
SOURCES = sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".cpp", ".cu"})
ALL_OPS = {op.name: op for op in _core.all_ops()}
PUBLIC = sorted(name for name, op in ALL_OPS.items() if not op.internal)


def room(path: Path) -> str:
    return path.relative_to(CSRC).parts[0]


def includes(path: Path, brackets: str = "<>") -> list[str]:
    opening, closing = (re.escape(b) for b in brackets)
    return re.findall(rf"^\s*#\s*include\s*{opening}([^{closing}]+){closing}", path.read_text(), re.MULTILINE)


def of_room(name: str) -> list[Path]:
    return [p for p in SOURCES if room(p) == name]


def code(path: Path) -> str:
    """Return the text without comments and strings."""
    return re.sub(r"//[^\n]*|\"(\\.|[^\"\\\n])*\"", "", path.read_text())


# Arrows between rooms.


def test_every_source_is_in_a_room() -> None:
    assert {room(p) for p in SOURCES} == set(ROOMS)


def test_no_room_includes_a_later_one() -> None:
    wrong = []
    for path in SOURCES:
        for name in includes(path, '""'):
            target = name.split("/")[0]
            assert target in ROOMS, f"{path.name} includes {name}: write the path from csrc"
            if ROOMS.index(target) > ROOMS.index(room(path)):
                wrong.append(f"{path.relative_to(ROOT)} includes {name}")
    assert wrong == []


def test_only_the_bindings_see_python() -> None:
    seen = {p for p in SOURCES if re.search(r"\bPy[A-Z]\w+|\bpybind11\b|\bpy::", code(p))}
    assert [p.name for p in seen if room(p) != "bindings"] == []


def test_only_device_code_sees_cuda() -> None:
    for path in SOURCES:
        if any(name.startswith("cuda") for name in includes(path)):
            assert path.suffix == ".cu" or path.name in {"launch.h", "cuda_memory.h"}, path.name


def test_the_core_needs_nothing_but_the_standard_library_and_threads() -> None:
    for path in of_room("core"):
        foreign = [n for n in includes(path) if "/" in n or n.endswith(".h")]
        assert foreign in ([], ["pthread.h"]), path.name


def test_the_graph_names_no_op_but_where_gradients_begin_and_end() -> None:
    """Sums of gradients, a gradient's first value, and the update; a copy; all else comes from the records."""
    updates = {"sgd", "momentum", "adam"}
    allowed = {"grad.cpp": {"add", "fill_like"}, "rule.cpp": updates, "trace.cpp": {"reshape"},
                   "replay.cpp": {"gather_rows"}, "fold.cpp": {"fill_like"}}  # fmt: skip
    for path in of_room("graph"):
        named = set(re.findall(r"\bops::(\w+)", code(path))) - {"all", "find", "index_of"}
        assert named <= allowed.get(path.name, set()), path.name


def test_kernels_compiled_per_instruction_set_use_no_inline_function_of_others() -> None:
    """The linker would keep one copy of it for all of them: see ops/kernel_cpu.h."""
    allowed = {"stdint.h", "stddef.h", "math.h", "string.h", "immintrin.h", "arm_neon.h", "utility"}
    types = r"std::(u?int\d+_t|size_t|(make_)?(index|integer)_sequence)\b"
    files = [p for p in of_room("ops") if p.name.endswith((".cpu.cpp", "_cpu.h"))]
    assert len(files) > 10
    for path in [
        *files,
        CSRC / "ops/elementwise.h",
        CSRC / "ops/polynomial.h",
        CSRC / "ops/exponential.h",
        CSRC / "ops/multiply_add.h",
    ]:
        assert set(includes(path)) <= allowed, path.name
        own = {n for n in includes(path, '""') if not n.startswith("ops/")}
        assert own <= {"core/kernel.h", "core/parallel.h", "core/dtype.h", "core/half.h"}, path.name
        assert "std::" not in re.sub(types, "", code(path)), path.name


# Imports of the Python package.


def loaded_imports(tree: ast.Module) -> Iterator[str]:
    """Names of what a module imports when it is loaded: not in functions, and not for type checkers."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        statement = pending.pop()
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, "write the whole name of the module"
            yield str(statement.module)
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            pending += statement.orelse
        elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for block in ("body", "orelse", "finalbody"):
                pending += getattr(statement, block, [])
            for handler in getattr(statement, "handlers", []):
                pending += handler.body


def module_file(name: str) -> Path | None:
    path = ROOT / "python" / name.replace(".", "/")
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


def test_import_edfcore_loads_only_itself_and_the_standard_library() -> None:
    pending, loaded = ["edfcore"], set[str]()
    while pending:
        name = pending.pop()
        if name in loaded or (path := module_file(name)) is None:
            continue
        loaded.add(name)
        for imported in loaded_imports(ast.parse(path.read_text())):
            top = imported.split(".")[0]
            assert top == "edfcore" or top in sys.stdlib_module_names, (
                f"{name} imports {imported} when it is loaded"
            )
            pending.append(imported)
    assert {"edfcore.ops", "edfcore.tensor", "edfcore._edf"} <= loaded
    assert not any(name.startswith("edfcore.demo") for name in loaded)


# Files.

FOLDERS = ["python", "tests", "benchmarks", "examples", "tools", "cmake"]
SUFFIXES = {".py", ".cpp", ".cu", ".h", ".cmake"}
WRITTEN = SOURCES + [p for f in FOLDERS for p in sorted((ROOT / f).rglob("*")) if p.suffix in SUFFIXES]


def cap(path: Path) -> int:
    return 500 if path.parent == CSRC / "ops" and path.name.startswith("matmul") else 400


def test_no_file_is_longer_than_its_cap() -> None:
    lines = {path: path.read_text().count("\n") for path in WRITTEN}
    assert {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > cap(path)} == {}


def head(path: Path) -> str:
    """Return the comment or docstring that a file begins with."""
    text = path.read_text()
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    mark = "#" if path.suffix == ".cmake" else "//"
    lines = []
    for line in text.splitlines():
        if not line.startswith(mark):
            break
        lines.append(line.removeprefix(mark).strip())
    return " ".join(lines)


def is_sentence(text: str) -> bool:
    return len(text.split()) > 2 and re.search(r"[.:](\s|$)", text) is not None


def test_every_file_begins_with_a_sentence_on_why_it_exists() -> None:
    silent = [p for p in WRITTEN if p.read_text() and not is_sentence(head(p))]
    assert [str(p.relative_to(ROOT)) for p in silent] == []


# What an op must have.


def unary_ops() -> list[str]:
    text = (CSRC / "ops/elementwise.h").read_text()
    listed = text[text.index("#define EDF_UNARY_OPS") : text.index("// clang-format on")]
    return [
        name + suffix
        for name in re.findall(r"X\((\w+), \w+, \w+\)", listed)
        for suffix in ("", "_grad", "_grad2")
    ]


def listed_ops() -> list[str]:
    text = (CSRC / "ops/ops.h").read_text()
    listed = text[text.index("#define EDF_OPS(X)") : text.index("// clang-format on")]
    return re.findall(r"\bX\((\w+)\)", listed) + unary_ops()


def kernels(suffix: str) -> set[str]:
    """Names of the ops that have a kernel in the files of that suffix."""
    defined: set[str] = set()
    for path in of_room("ops"):
        if path.name.endswith(suffix):
            text = path.read_text()
            defined.update(re.findall(r"\bvoid (\w+)_kernel\(const Launch&", text))
            if "void name##_kernel(const Launch&" in text:
                defined.update(unary_ops())
    return defined


def test_the_list_of_ops_is_the_engines() -> None:
    assert sorted(listed_ops()) == sorted(ALL_OPS)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_op_is_whole(name: str) -> None:
    function = getattr(ops, name, None)
    assert isinstance(function, OpFunction), f"{name} has no function in edfcore.ops"
    assert function.__doc__, f"edfcore.ops.{name} has no docstring"
    assert any(case.op == name for case in CASES), f"{name} has no case in tests/cases.py"
    op = ALL_OPS[name]
    if not op.no_grad:
        assert any(case.op == name and case.grad for case in CASES), f"no case of {name} has a gradient"
        assert issubclass(getattr(edf, "".join(w.capitalize() for w in name.split("_"))), edf.OpNode)


@pytest.mark.parametrize("name", sorted(ALL_OPS))
def test_an_op_has_its_kernels_and_its_gradient(name: str) -> None:
    op = ALL_OPS[name]
    assert op.has_vjp != op.no_grad, f"{name} needs a vjp or the flag op_no_grad, and not both"
    assert name in kernels(".cpu.cpp"), f"{name}_kernel is in no *.cpu.cpp"
    assert name in kernels(".cu"), f"{name}_kernel is in no *.cu"
    assert op.has_cuda == (edf.cuda.build() != "none")


def test_the_page_of_nodes_is_current_and_names_every_class() -> None:
    command = [sys.executable, str(ROOT / "tools/nodes.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    page = (PACKAGE / "NODES.md").read_text(encoding="utf-8")
    named = {name for line in page.splitlines() if line.startswith("### ") for name in line.split()}
    assert {"Input", "Parameter", *NODE_CLASSES} - named == set()


def test_every_family_of_ops_has_its_three_files() -> None:
    names = {p.name for p in of_room("ops")}
    stems = {n.removesuffix(".cpu.cpp") for n in names if n.endswith(".cpu.cpp")}
    assert {f"{stem}{suffix}" for stem in stems for suffix in (".cpp", ".cu")} <= names
    for stem in (n.removesuffix(".cu") for n in names if n.endswith(".cu")):  # softmax, matmul_mma
        assert stem in stems or stem.rpartition("_")[0] in stems, f"{stem}.cu is of no family"


def test_instruction_sets_share_no_weak_symbol() -> None:
    """A function that two of them define weakly is linked once, perhaps as one that this machine cannot run."""
    build = os.environ.get("EDFCORE_BUILD_DIR")
    if not build:
        pytest.skip("EDFCORE_BUILD_DIR does not say where a build is")
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("there is no nm")
    folders = sorted(Path(build).rglob("edfcore_kernels_*.dir"))
    assert folders, f"there are no kernels in {build}"
    owners: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        objects = [str(p) for p in folder.rglob("*.o")]
        listing = subprocess.run([nm, "-P", *objects], capture_output=True, text=True, check=True).stdout
        for symbol in re.findall(r"^(\S+) [WVu] \S", listing, re.MULTILINE):  # defined: an address follows
            owners[symbol].add(folder.name)
    assert {symbol: sorted(who) for symbol, who in owners.items() if len(who) > 1} == {}
