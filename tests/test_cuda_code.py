"""The gates on the machine code of CUDA kernels fail where they should."""

from __future__ import annotations

import json
from typing import Any

import pytest

import cuda_code

NAME = "_ZN7edfcore4cuda43_GLOBAL__N__4ed9e466_10_softmax_cu_40965b9112softmax_rowsILb1EfEEvPKT0_"
KEY = "softmax.cu softmax_rows"
BUDGET: dict[str, dict[str, Any]] = {KEY: {"registers": 64, "shared": 1024, "has": ["LDG.E.128"]}}


def usage(registers: int = 64, shared: int = 1024, stack: int = 0, local: int = 0) -> str:
    return (
        f"Resource usage:\n Common:\n  GLOBAL:0\n Function {NAME}:\n  REG:{registers} STACK:{stack} "
        f"SHARED:{shared} LOCAL:{local} CONSTANT[0]:576 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
    )


def faults(text: str, *instructions: str) -> list[str]:
    kernels: dict[str, cuda_code.Kernel] = {}
    cuda_code.read_usage(kernels, "softmax.cu", text)
    lines = [
        f"\t\tFunction : {NAME}",
        *(f"        /*{i:04x}*/    {each} ;  /* 0x1 */" for i, each in enumerate(instructions)),
    ]
    cuda_code.read_instructions(kernels, "softmax.cu", lines)
    return list(cuda_code.faults(kernels, BUDGET))


LOAD = "@P0 LDG.E.128.CONSTANT R4, [R2.64]"


def test_a_kernel_within_its_budget_passes() -> None:
    assert faults(usage(), LOAD) == []
    assert faults(usage(registers=40, shared=0), LOAD, "RED.E.ADD.STRONG.GPU [R2], R4") == []


@pytest.mark.parametrize(
    ("text", "instructions", "fault"),
    [
        (usage(registers=65), [LOAD], f"{KEY}: 65 registers, and its budget is 64"),
        (usage(shared=2048), [LOAD], f"{KEY}: 2048 shared, and its budget is 1024"),
        (usage(stack=8), [LOAD], f"{KEY}: 8 bytes of stack in {NAME}"),
        (usage(local=16), [LOAD], f"{KEY}: 16 bytes of local in {NAME}"),
        (usage(), ["LDG.E.64 R4, [R2]"], f"{KEY}: no instance has LDG.E.128"),
        (usage(), [LOAD, "STL.64 [R1], R4"], f"{KEY}: local memory, STL.64 [R1], R4, in {NAME}"),
        (
            usage(),
            [LOAD, "RED.E.ADD.F32.FTZ.RN.STRONG.GPU [R2], R4"],
            f"{KEY}: an atomic addition of floats, RED.E.ADD.F32.FTZ.RN.STRONG.GPU [R2], R4, in {NAME}",
        ),
    ],
)
def test_what_breaks_the_budget_is_named(text: str, instructions: list[str], fault: str) -> None:
    assert faults(text, *instructions) == [fault]


def test_every_kernel_has_a_budget_and_every_budget_a_kernel() -> None:
    assert list(cuda_code.faults({"other.cu rows": cuda_code.Kernel()}, BUDGET)) == [
        "other.cu rows: it has no budget",
        f"{KEY}: there is no such kernel",
    ]


@pytest.mark.parametrize(
    "kernel", ["softmax.cu softmax_rows", "elementwise.cu broadcast_map", "update.cu update_tensors"]
)
def test_the_budget_that_is_committed_wants_wide_loads_and_stores(kernel: str) -> None:
    budget = json.loads(cuda_code.BUDGET.read_text(encoding="utf-8"))
    assert {"LDG.E.128", "STG.E.128"} <= set(budget[kernel]["has"])


def test_the_budget_that_is_committed_wants_tensor_cores() -> None:
    budget = json.loads(cuda_code.BUDGET.read_text(encoding="utf-8"))
    assert {"HMMA", "LDGSTS", "LDSM"} <= set(budget["matmul_mma.cu matmul_tensor"]["has"])
