"""Write python/edfcore/NODES.md, the page of all EDF nodes, or check that it is up to date.

`python tools/nodes.py` writes it, `python tools/nodes.py --check` fails and shows the difference. The text comes from
the docstrings of the installed package: `pip install -e '.[dev]'` first.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from pathlib import Path

import edfcore as edf
from edfcore._edf import NODE_CLASSES
from generated import write_or_check

PAGE = Path(__file__).resolve().parent.parent / "python" / "edfcore" / "NODES.md"

HEADER = """\
<!-- Written by tools/nodes.py from the docstrings: do not edit. -->

# The nodes of EDF

Every class below is an attribute of `edfcore`, called `edf` here. A call such as `edf.Add(a, b)` makes a node and
appends it to `edf.CompNodes`. The functions of `edf.ops` are the same ops: `ops.log_loss(p, y)` makes an
`edf.LogLoss` of nodes, and runs at once on tensors.

- Inputs are nodes, NumPy arrays or numbers. Values are float32, float64, bfloat16 or float16, all inputs of one dtype;
  where a node takes other dtypes, its text says so. Integers, arrays and numbers get no gradient.
- Shapes are given as in NumPy. `(...)` means any number of axes, so a node serves one example as well as a batch.
- "With broadcasting" means NumPy's rules; an input that was repeated gets the sum of the gradients of its copies.
- Gradients are those of the formula, wherever nothing else is said.
"""
LEAVES = ["Input", "Parameter", "AffineParams"]
GROUPS: dict[str, tuple[str, list[str]]] = {
    "Leaves": (
        "What a graph begins with. These are not in `edf.CompNodes`.",
        LEAVES,
    ),
    "Arithmetic": (
        "Elementwise: the value has the shape of the input, or the one that the inputs broadcast to.",
        ["Add", "Sub", "Mul", "Div", "Pow", "Neg", "Scale", "Abs", "Square", "Sqrt", "Exp", "Log",
         "Maximum", "Minimum", "Clip", "Where", "Cast"],
    ),
    "Activations": (
        "Elementwise, but for the softmax; the value has the shape of the input.",
        ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Softplus", "Gelu", "Silu", "Softmax", "LogSoftmax"],
    ),
    "Reductions": (
        "`axis` is a number or several, negative ones counted from the end. The value lacks these axes; with "
        "`keepdims`\nthey stay, with size 1.",
        ["Sum", "Mean", "Var", "Max", "Min", "Argmax"],
    ),
    "Products": ("", ["Affine", "Matmul"]),
    "Shapes": (
        "Rearranged elements, each of which gets the gradient of the place that it went to. `ops.split` cuts a node "
        "into\nseveral `Slice`.",
        ["Reshape", "Transpose", "BroadcastTo", "Slice", "Concat", "Stack"],
    ),
    "Picking": (
        "By integers of dtype int32, int64 or uint8, counted from 0; DataError where one is out of range.",
        ["GatherRows", "TakeAlongLast"],
    ),
    "Losses": (
        "One number, in nats, for each example; labels are integers, counted from 0.",
        ["LogLoss", "LogLossScores", "LogLossSoft", "LogLossSoftScores"],
    ),
}  # fmt: skip


def arguments(node: type) -> str:
    """Return the arguments as they are written, without types."""
    signature = inspect.signature(node)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def entry(name: str) -> str:
    """Return the part of the page on one class."""
    node = getattr(edf, name)
    others = [alias for alias, made in NODE_CLASSES.items() if made is node and alias != name]
    heading = " or ".join([name, *others])
    return f"### {heading}\n\n    edf.{name}{arguments(node)}\n\n{inspect.cleandoc(node.__doc__)}\n"


def generate() -> str:
    """Return the page."""
    listed = Counter(name for _, names in GROUPS.values() for name in names)
    wanted = {made: name for name, made in reversed(NODE_CLASSES.items())}
    wrong = {name for name, times in listed.items() if times > 1} | (
        set(wanted.values()) ^ (listed.keys() - LEAVES)
    )
    if wrong:
        raise SystemExit(
            f"not in exactly one group of tools/nodes.py, or no class of a node: {sorted(wrong)}"
        )
    parts = [HEADER]
    for heading, (text, names) in GROUPS.items():
        parts += [f"## {heading}\n", *[f"{text}\n"] * bool(text), *(entry(name) for name in names)]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, PAGE, generate, "run  python tools/nodes.py"))
