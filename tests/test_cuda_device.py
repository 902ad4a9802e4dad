"""A CUDA device as programs see it: what it says of itself, running out of its memory, and losing it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import edfcore as edf
from edfcore import ops
from plan_programs import examples, mlp

SIMULATED = edf.cuda.build() == "sim"


@pytest.fixture
def gpu(device: str) -> str:
    if device != "cuda":
        pytest.skip("about a CUDA device")
    return device


def test_properties(gpu: str) -> None:
    found = edf.cuda.properties()
    assert found == edf.cuda.properties(0)
    assert found.compute_capability == (found.major, found.minor) >= (7, 5)
    assert found.simulated == SIMULATED
    assert found.warp_size == 32
    assert found.total_memory > 2**30
    assert found.multi_processor_count >= 1
    assert 1024 <= found.max_threads_per_block <= found.max_threads_per_multi_processor
    assert 48 << 10 <= found.shared_memory_per_block <= found.shared_memory_per_block_optin
    assert found.shared_memory_per_block_optin <= found.shared_memory_per_multiprocessor
    assert (found.clock_rate > 0) == (found.L2_cache_size > 0) == (not SIMULATED)
    assert float(found.driver_version) >= float(found.runtime_version) >= 12 or not SIMULATED
    text = edf.cuda.description()
    assert text.startswith(f"{found.name}, compute capability {found.major}.{found.minor}, ")
    assert found.name == "simulated device" or not SIMULATED


@pytest.mark.parametrize("beyond", [-1, 99])
def test_a_device_that_is_not_there(beyond: int, gpu: str) -> None:
    for ask in (edf.cuda.properties, edf.cuda.description):
        with pytest.raises(edf.DeviceError, match=rf"there is no cuda:{beyond}: the .* cuda:0"):
            ask(beyond)


def test_memory_is_counted(gpu: str) -> None:
    edf.cuda.empty_cache()
    assert edf.cuda.memory_stats()["cached_bytes"] == 0
    before = edf.cuda.memory_stats()
    assert before.keys() == {"bytes", "peak_bytes", "cached_bytes", "allocations"}
    x = edf.Tensor(np.ones(1000, np.float32))
    held = edf.cuda.memory_stats()
    assert held["bytes"] - before["bytes"] == 4000
    assert held["allocations"] - before["allocations"] == 1
    del x
    after = edf.cuda.memory_stats()
    assert after["bytes"] == before["bytes"]
    assert 4000 <= after["cached_bytes"] <= 5000
    assert after["peak_bytes"] >= held["bytes"]
    edf.cuda.reset_peak_memory_stats()
    assert edf.cuda.memory_stats()["peak_bytes"] == before["bytes"]
    edf.cuda.empty_cache()
    assert edf.cuda.memory_stats()["cached_bytes"] == 0


def test_out_of_memory(gpu: str) -> None:
    x = edf.Tensor(np.arange(3, dtype=np.float32))
    edf.cuda.empty_cache()
    in_use = edf.cuda.memory_stats()["bytes"]
    with pytest.raises(edf.OutOfMemoryError) as caught:
        ops.broadcast_to(ops.reshape(x, (3, 1)), (3, 1 << 42))
    at = caught.value.args[0]
    assert f"out of memory on cuda:0: {3 << 44} bytes were asked for, {in_use + 12} are in use, " in at
    assert " were cached and have been given back; the device has " in at
    assert (x + 1).numpy().tolist() == [1, 2, 3]


@pytest.mark.skipif(not SIMULATED, reason="the device's memory cannot be made smaller")
def test_a_step_that_finds_no_memory_changes_nothing(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, loss = mlp([37, 11, 5])

    def step(batch: int) -> None:
        x.value, y.value = examples(batch)
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        loss.value.sum()

    for _ in range(4):
        step(6)
    before = [p.value.copy() for p in edf.Parameters]
    edf.cuda.empty_cache()
    monkeypatch.setenv("EDFCORE_SIM_MEMORY", str(edf.cuda.memory_stats()["bytes"] + (64 << 10)))
    with pytest.raises(edf.OutOfMemoryError, match=r"out of memory on cuda:0: \d+ bytes were asked for"):
        step(4000)
    assert all(np.array_equal(p.value, b) for p, b in zip(edf.Parameters, before, strict=True))
    monkeypatch.delenv("EDFCORE_SIM_MEMORY")
    step(4000)
    assert not np.array_equal(edf.Parameters[0].value, before[0])


def test_waiting_tells_of_bad_data(gpu: str) -> None:
    loss = ops.log_loss_scores(np.zeros((2, 3), np.float32), np.array([0, 7]))
    with pytest.raises(edf.DataError, match=r"\[log_loss_scores\] input 1 holds 7 at position 1"):
        edf.cuda.synchronize()
    edf.cuda.synchronize()
    del loss


def test_waiting_runs_what_was_put_off(gpu: str) -> None:
    x, y, loss = mlp([37, 11, 5])
    for _ in range(5):
        x.value, y.value = examples(6)
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
    edf.cuda.synchronize()
    y.value = np.full(6, 9)
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()
    with pytest.raises(edf.DataError, match="9"):
        edf.cuda.synchronize()


def test_events_time_the_device(gpu: str) -> None:
    begin, middle, end = (edf.cuda.Event() for _ in range(3))
    with pytest.raises(edf.GraphError, match="both must have been recorded"):
        begin.elapsed_time(end)
    x = edf.Tensor(np.ones((300, 300), np.float32))
    clock = time.perf_counter()
    begin.record()
    x = x @ x
    middle.record()
    for _ in range(5):
        x = x @ x
    end.record()
    first, all_of_it = begin.elapsed_time(middle), begin.elapsed_time(end)
    spent = 1e3 * (time.perf_counter() - clock)
    assert 0 < first < all_of_it <= spent
    assert first + middle.elapsed_time(end) == pytest.approx(all_of_it, rel=1e-3)
    assert all_of_it > 2 * first or not SIMULATED


def test_events_see_what_was_put_off(gpu: str) -> None:
    x, y, loss = mlp([37, 11, 5])
    x.value, y.value = examples(6)
    begin, end = edf.cuda.Event(), edf.cuda.Event()
    for _ in range(5):
        begin.record()
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        end.record()
        before = edf.plan_stats()["graphs"]
        edf.cuda.synchronize()
        assert edf.plan_stats()["graphs"] == before, "the step had run when the event was recorded"
    assert before > 0
    assert begin.elapsed_time(end) > 0


@pytest.mark.parametrize("index", [-1, 99, 1000])
def test_events_of_devices_that_are_not_there(index: int) -> None:
    with pytest.raises(edf.DeviceError):
        edf.cuda.Event(index)


# A device that fails takes its process with it, so these are programs of their own.

LOSES = """
import os

import numpy as np

import edfcore as edf
from edfcore import ops

edf.set_device("cuda")


def tell(action):
    try:
        action()
        print("nothing")
    except edf.Error as error:
        print(type(error).__name__, error)

"""

EAGER = """
x = edf.Tensor(np.ones((4, 5), np.float32))
y = ops.softmax(x)
edf.cuda.synchronize()
os.environ["EDFCORE_SIM_FAULT"] = "rows_cuda.h"
y = ops.softmax(x)
{more}
os.environ["EDFCORE_SIM_FAULT"] = ""
tell(edf.cuda.synchronize)
tell(edf.cuda.synchronize)
tell(y.numpy)
tell(lambda: ops.exp(x))
tell(lambda: edf.Tensor([1.0]))
print(edf.cuda.properties().name)
edf.set_device("cpu")
print((edf.Tensor([1.0]) + 1).numpy())
"""

STEPS = """
def network():
    edf.clear_compgraph()
    edf.seed(1)
    x, y = edf.Input(np.ones((4, 5))), edf.Input(np.array([0, 1, 2, 1]))
    h = edf.Relu(edf.Affine(edf.AffineParams(5, 6), x))
    return edf.LogLoss(edf.Softmax(edf.Affine(edf.AffineParams(6, 3), h)), y)


def step():
    edf.Forward()
    edf.Backward(loss)
    edf.SGD()
    return loss.value


loss = network()
for _ in range(6):
    step()
print(edf.plan_stats()["graphs"] > 0)
os.environ["EDFCORE_SIM_FAULT"] = "matmul.cu"
tell(step)
os.environ["EDFCORE_SIM_FAULT"] = ""
tell(step)
tell(lambda: edf.Parameters[0].value)
edf.set_device("cpu")
loss = network()
for _ in range(6):
    step()
print(step().shape)
"""


def lines_of(program: str) -> list[str]:
    paths = [str(Path(__file__).parent), str(Path(edf.__file__).parent.parent)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", LOSES + program], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not SIMULATED, reason="a real device does not fail when it is told to")
@pytest.mark.parametrize("more", ["", "z = ops.exp(y)"])
def test_a_failed_launch_is_told_once_with_its_op_and_then_the_device_is_lost(more: str, gpu: str) -> None:
    first, *later, name, other = lines_of(EAGER.format(more=more))
    begin, among = ("[softmax] ", "") if not more else ("", "(softmax, exp)")
    assert first.startswith(
        f"DeviceError {begin}cuda:0 failed, as seen in earlier work: cudaErrorIllegalAddress: "
    )
    assert among in first
    assert ("CUDA_LAUNCH_BLOCKING=1" in first) == bool(more)
    assert first.endswith(" The device is lost to this process.")
    assert len(later) == 4
    for said in later:
        assert "DeviceError cuda:0 is lost to this process since an earlier error (cudaErrorIllegal" in said
        assert "Start the program again to use it." in said
    assert (name, other) == ("simulated device", "[2.]")


@pytest.mark.skipif(not SIMULATED, reason="a real device does not fail when it is told to")
def test_a_failed_step_names_its_ops_and_the_cpu_goes_on(gpu: str) -> None:
    repeated, first, second, third, shape = lines_of(STEPS)
    assert repeated == "True", "the step must be one that runs as a graph"
    assert first.startswith("DeviceError cuda:0 failed, as seen in ")
    assert all(name in first for name in ("affine", "log_loss", "sgd", "The device is lost"))
    assert "is lost to this process since" in second
    assert "is lost to this process since" in third
    assert shape == "(4,)"
