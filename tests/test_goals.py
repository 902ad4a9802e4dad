"""Our rows beside the peers': they compute what they say, can be joined, are timed, and are judged by the goals."""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if not (Path(__file__).parent.parent / "benchmarks" / "device.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

import edfcore as edf
import goals
import kernels
import ours
import ours_ops
import ours_steps
import peers as programs
import peers_layers
import peers_rows
import peers_sizes
import peers_steps
import peers_timing
import time_kernels
from edfcore import ops
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


def test_the_page_of_benchmarks_has_every_goal() -> None:
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    for goal in goals.GOALS:
        wanted = goal.words().replace(">=", "at least").replace("<=", "at most")
        assert f"| {goal.title} | {wanted} |" in page, goal.title


def test_rows_of_jax_need_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    rows = dict(programs.work(QUICK, "", 1.0))
    assert {"training step 12-8-5 batch 6 jax scan", "layer triple (6, 12) (12, 10) jax jit"} <= set(rows)
    with pytest.raises(ImportError):
        rows["softmaxes"]()


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


def test_rows_that_goals_need_come_first() -> None:
    peers = [peer for family in ours.FAMILIES for peer in family(Setting())]
    late = {f"{peer.name} {peer.shape} {peer.who}": peers_sizes.lateness(peer) for peer in peers}
    large = "(8192, 8192) (8192, 8192)"
    assert [late[f"matmul {layout} {large} {who}"] for layout, who in
            (("nn", "edfcore"), ("tt", "edfcore, high"), ("nn", "edfcore, medium"))] == [0, 1, 2]  # fmt: skip
    assert late["matmul tn (784, 8192) (8192, 1024) edfcore"] == 0
    steps = {f"{p.shape} {p.who}": peers_sizes.lateness(p) for p in peers_steps.steps(Setting())}
    assert steps["784-256-10 batch 64 torch.compile in a CUDA graph"] == 0
    assert steps["784-256-10 batch 256 torch.compile in a CUDA graph"] == 2
    assert steps["784-256-10 batch 256 jax scan"] == 0
    labels = [label for label, _ in ours.work(Setting(), lambda: None)]
    assert len(labels) == len(set(labels))
    assert labels.index("cold start 784-256-10 batch 64 edfcore") < labels.index(f"matmul tt {large} edfcore")


def test_sums_of_columns_are_compared_as_a_whole(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_sizes, "SIDE", 64)
    monkeypatch.setattr(peers_sizes, "ELEMENTS", 4096)
    monkeypatch.setattr(ours_ops, "ROTATED", 1)
    for peer in ours_ops.chains(Setting()):
        assert peer.make().errors["error"] < 1e-4, peer.name


def test_calls_of_some_milliseconds_are_timed_fifty_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def clock(call: Any, launches: int) -> tuple[float, float]:
        now[0] += 0.03 * launches
        return 0.03 * launches, 0.0

    monkeypatch.setattr(peers_timing.time, "monotonic", lambda: now[0])
    found = peers_timing.measure(peers_timing.Made(lambda: None), clock, peers_timing.SECONDS)
    assert (found["batches"], found["us"]) == (50, 30_000.0)


@pytest.mark.parametrize("data", ["", "there"])
def test_an_epoch_says_which_data_it_took(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDFCORE_DATA", str(tmp_path) if data else "")
    if data:
        (folder := tmp_path / "fashion-mnist").mkdir()
        (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 2, 28, 28) + bytes(2 * 784))
        (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 2) + bytes([3, 7]))
    x, y, which = ours_steps.fashion(2)
    assert (x.shape, len(y), which) == ((2, 784), 2, "Fashion-MNIST" if data else "random")


def test_nothing_is_stated_against_itself_or_judged_without_a_figure() -> None:
    epoch = "60000 images, 784-256-10 batch 64"
    found = verdicts([row("Fashion-MNIST epoch, EDF loop", epoch, us=1e5)], [])
    assert found == [("Fashion-MNIST epoch against NumPy EDF", None, "", "not measured")]
    limits = {"rows": [{"name": name, "value": None} for name in ("copy, best", "fp32 fused multiply-add")]}
    shape, peers = "(8192, 4096)", [row("softmax", "(8192, 4096)", "torch", us=None)]
    assert verdicts([row("softmax", shape, us=None)], peers) == []
    found = verdicts([row("softmax", shape, us=1.0, gb_per_s=1.0, bytes=8)], peers, limits=limits)
    assert {v[3] for v in found} == {"not measured"}


def test_the_fastest_way_to_a_step_counts() -> None:
    step = "784-256-10 batch 64"
    mine = [row("training step", step, us=40.0), row("training step", step, "edfcore, replay", us=9.0)]
    found = verdicts(mine, [row("training step", step, "jax scan", us=18.0)])
    assert [v[1:] for v in found] == [(9.0, "", "met"), (2.0, "jax scan", "met")]


def test_timing() -> None:
    clock, calls = itertools.count(0.0, 0.001).__next__, []
    found = time_kernels.measure(lambda: calls.append(1), lambda: None, 1.0, clock)
    assert found["launches"] == 4  # a millisecond each
    assert found["us"] == pytest.approx(500.0)
    assert found["issue_us"] == pytest.approx(250.0)
    assert not found["host_bound"]
    assert found["batches"] == time_kernels.BATCHES


def test_slow_calls_are_repeated_less() -> None:
    found = time_kernels.measure(lambda: None, lambda: None, 1.0, itertools.count(0.0, 2.0).__next__)
    assert (found["launches"], found["batches"]) == (1, 1)


@pytest.mark.parametrize("family", kernels.FAMILIES, ids=lambda family: family.__name__)
def test_kernels_agree_with_numpy(family: Callable[..., Iterator[kernels.Kernel]]) -> None:
    for kernel in family(ops, None, True):
        rows = list(time_kernels.time_kernel(kernel, None, 0.0))
        assert [row["who"] for row in rows] == ["edfcore", "numpy"]
        assert rows[0]["error"] < 1e-5, kernel.name
        assert rows[0]["bytes"] > 0
        json.dumps(rows, allow_nan=False)


def test_difference() -> None:
    assert kernels.difference(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert kernels.difference(np.zeros(0), np.zeros(0)) == 0.0
