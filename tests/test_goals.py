"""Our rows beside the peers': they compute what they say, can be joined, and are judged by the goals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if not (Path(__file__).parent.parent / "benchmarks" / "device.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

import edfcore as edf
import goals
import ours
import ours_ops
import ours_steps
import peers_layers
import peers_rows
import peers_sizes
import peers_steps
from peers_timing import Peer, Setting

BENCHMARKS = Path(ours.__file__).parent
QUICK = Setting(quick=True)
Family = Callable[[Setting], Iterator[Peer]]


@pytest.mark.parametrize("family", ours.FAMILIES, ids=lambda family: family.__name__)
def test_our_rows_agree_with_float64(family: Family, device: str) -> None:
    with edf.no_grad():
        for peer in family(QUICK):
            made = peer.make()
            made.call()
            assert made.errors["error"] < (4e-3 if peer.who.endswith("medium") else 1e-4), peer.name
            assert peer.flops or peer.bytes
            edf.clear_compgraph()


PAIRS: list[tuple[Family, Family]] = [
    (ours_steps.steps, peers_steps.steps),
    (ours_steps.epochs, peers_steps.epochs),
    (ours_ops.products, peers_rows.products),
    (ours_ops.layers, peers_layers.layers),
    (ours_ops.optimisers, peers_rows.optimisers),
]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_rows_of_ours_and_of_peers_have_the_same_names(pair: tuple[Family, Family], quick: bool) -> None:
    mine, theirs = ({(p.name, p.shape): (p.flops, p.bytes) for p in f(Setting(quick=quick))} for f in pair)
    assert mine == theirs
    assert mine


def full_rows() -> set[tuple[str, str, str]]:
    timed = {(p.name, p.shape, p.who) for family in ours.FAMILIES for p in family(Setting())}
    return timed | {(w["name"], w["shape"], w["who"]) for w, _ in ours_steps.measured(Setting())}


@pytest.mark.parametrize("goal", goals.GOALS, ids=lambda goal: goal.title)
def test_every_goal_has_rows(goal: goals.Goal) -> None:
    rows = [{"name": name, "shape": shape, "who": who, "us": 1.0, "gb_per_s": 1.0, "peak_bytes": 1}
            for name, shape, who in full_rows()]  # fmt: skip
    judged = [row for row in goals.judge({"ours": {"rows": rows}}) if row["goal"] == goal.title]
    assert judged
    if goal.title.startswith("float32 matmul"):
        assert len(judged) == 16, "four sizes in four layouts"


def row(name: str, shape: str, who: str = "edfcore", **figures: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "who": who, **figures}


def verdicts(ours: list[Any], peers: list[Any], **document: Any) -> list[tuple[str, Any, str, str]]:
    judged = goals.judge({"ours": {"rows": ours}, "peers": {"rows": peers}, **document})
    return [(r["goal"], r["figure"], r["against"], r["verdict"]) for r in judged]


@pytest.mark.parametrize(("us", "verdict"), [(95.0, "met"), (110.0, "missed")])
def test_the_best_peer_of_full_precision_counts(us: float, verdict: str) -> None:
    shape = "(1024, 1024) (1024, 1024)"
    peers = [row("matmul nn", shape, "torch", us=100.0), row("matmul nn", shape, "torch, tf32", us=20.0),
             row("matmul nt", shape, "torch", us=10.0)]  # fmt: skip
    found = verdicts([row("matmul nn", shape, us=us)], peers)
    assert found == [("float32 matmul", float(f"{100 / us:.4g}"), "torch", verdict)]
    (found,) = verdicts([row("matmul nn", shape, "edfcore, high", us=50.0)], peers)
    assert found == ("float32 matmul by tensor cores, as exact", 2.0, "torch", "met")
    assert verdicts([row("matmul nn", shape, "edfcore, medium", us=10.0)], peers) == []


def test_small_products_have_no_goal_and_missing_peers_no_verdict() -> None:
    assert verdicts([row("matmul nn", "(64, 784) (784, 256)", us=1.0)], []) == []
    found = verdicts([row("layer triple", "(64, 1024) (1024, 1024)", us=1.0)], [])
    assert found == [("layer triple", None, "", "not measured")]


@pytest.mark.parametrize(("columns", "least"), [(1024, 0.8), (4096, 0.95), (65536, 0.95)])
def test_rows_that_move_bytes_are_compared_with_a_copy(columns: int, least: float) -> None:
    limits = {"rows": [{"name": "copy, best", "value": 4000.0}]}
    for share in (least + 0.01, least - 0.01):
        mine = [row("softmax", f"(8192, {columns})", us=1.0, gb_per_s=4000.0 * share)]
        found = [v for v in verdicts(mine, [], limits=limits) if v[2] == "copy"]
        assert [v[1:] for v in found] == [
            (float(f"{share:.4g}"), "copy", "met" if share > least else "missed")
        ]


def test_rows_know_their_limit() -> None:
    limits = {
        "rows": [{"name": "copy, best", "value": 4000.0}, {"name": "fp32 fused multiply-add", "value": 50.0}]
    }
    mine = [row("layer triple", "(1024, 1024) (1024, 1024)", us=200.0, flops=5_000_000_000),
            row("relu", "(1000,)", us=4.0, bytes=8_000_000, gb_per_s=2000.0),
            row("cold start", "1", us=1.0)]  # fmt: skip
    judged = goals.judge({"ours": {"rows": mine}, "limits": limits})
    assert [(r["limit_us"], r["of_limit"]) for r in judged] == [(100.0, 0.5), (2.0, 0.5), (None, None)]
    assert "50% of the limit" in next(goals.lines(judged))


def test_steps_epochs_memory_and_what_is_only_stated() -> None:
    step, epoch = "784-256-10 batch 64", "60000 images, 784-256-10 batch 64"
    mine = [
        row("training step", step, us=9.0),
        row("epoch", epoch, "edfcore, replay", us=13_000.0),
        row("peak memory of a step", step, peak_bytes=50),
        row("cold start", step, us=150_000.0),
        row("cold start", step, "torch eager", us=5e6),
        row("Fashion-MNIST epoch, EDF loop", epoch, us=1e5),
        row("Fashion-MNIST epoch, EDF loop", epoch, "edf-numpy", us=8e5),
        row("CPU training step", step, "edfcore, 1 threads", us=40.0, threads=1),
        row("CPU training step", step, "edfcore, 4 threads", us=12.5, threads=4),
    ]
    peers = [row("training step", step, "jax scan", us=17.0), row("training step", step, "torch", us=90.0),
             row("peak memory of a step", step, "torch eager", peak_bytes=100, us=1.0)]  # fmt: skip
    assert [v[1:] for v in verdicts(mine, peers)] == [
        (9.0, "", "met"),
        (1.889, "jax scan", "missed"),
        (13_000.0, "", "missed"),
        (0.5, "torch eager", "met"),
        (150_000.0, "", "met"),
        (8.0, "edf-numpy", "stated"),
        (1.0, "edfcore, 1 threads", "stated"),
        (3.2, "edfcore, 1 threads", "stated"),
    ]
    printed = list(goals.lines(goals.judge({"ours": {"rows": mine}, "peers": {"rows": peers}})))
    assert printed[0] == "met          training step 784-256-10 batch 64 edfcore: 9, wanted <= 10 us"
    assert printed[-1] == "3 met, 2 missed, 0 not measured"


@pytest.mark.skipif(edf.cuda.build() != "sim", reason="needs the simulated device")
def test_all_rows_can_be_tried_on_the_simulated_device(device: str, tmp_path: Path) -> None:
    if device != "cuda":
        pytest.skip("about a CUDA device")
    out = tmp_path / "ours.json"
    env = os.environ | {"PYTHONPATH": str(Path(edf.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "ours.py"), "--quick", "--seconds", "100", "--out", str(out)],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["complete"]
    assert document["failed"] == []
    assert {row["name"] for row in document["rows"]} >= {
        "training step", "epoch", "layer triple", "Adam", "peak memory of a step", "cold start", "CPU training step",
    }  # fmt: skip
    assert all(row["peak_bytes"] > 0 if "peak_bytes" in row else row["us"] > 0 for row in document["rows"])


def test_sizes_without_a_device() -> None:
    assert peers_sizes.epoch_of(Setting())[0] == "60000 images, 784-256-10 batch 64"
    assert [batch for _, batch in peers_sizes.networks(Setting())][:3] == [64, 32, 256]
