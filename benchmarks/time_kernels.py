"""Times the kernels of kernels.py and compares each result with float64. Run by device.py, in a process of its own.

The result file is written anew around every kernel; where it is there already, its kernels are not timed again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kernels import FAMILIES, Kernel, difference
from table import Measure, Table

METHOD = (
    "Wall clock of the host. A batch is `launches` calls in a row and then one synchronisation; `us` is the median "
    "over `batches` batches of the batch's time divided by its launches, after warm-up. `issue_us` is what the calls "
    "alone took. Where it is nearly all of `us` (`host_bound`), the device waited for the host, and the figure is the "
    "cost of making the call from Python, not of the kernel. Inputs stay on the device, and small ones in its cache. "
    "`error` is the largest difference from NumPy in float64 over the largest value there. `bytes` counts what must be "
    "read and written, once each."
)
BATCHES = 50
SECONDS_PER_BATCH = 0.004


def measure(
    run: Callable[[], Any],
    synchronize: Callable[[], Any],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Time batches of calls until there are enough of them, or `seconds` have passed."""
    start = clock()
    run()
    synchronize()
    once = clock() - start
    if once < seconds:  # the first call may have been slow for reasons of its own
        for _ in range(3):
            run()
        synchronize()
        begin = clock()
        run()
        synchronize()
        once = clock() - begin
    launches = max(1, min(1000, int(SECONDS_PER_BATCH / max(once, 1e-7))))
    least = 3 if once < seconds else 1
    whole: list[float] = []
    issue: list[float] = []
    while len(whole) < BATCHES and (len(whole) < least or clock() - start < seconds):
        begin = clock()
        for _ in range(launches):
            run()
        issued = clock()
        synchronize()
        end = clock()
        whole.append((end - begin) / launches * 1e6)
        issue.append((issued - begin) / launches * 1e6)
    us, issue_us = statistics.median(whole), statistics.median(issue)
    return {
        "us": round(us, 3),
        "us_least": round(min(whole), 3),
        "us_most": round(max(whole), 3),
        "issue_us": round(issue_us, 3),
        "host_bound": issue_us > 0.8 * us,
        "launches": launches,
        "batches": len(whole),
    }


def row(
    kernel: Kernel, who: str, device: str, figures: dict[str, Any], error: float | None
) -> dict[str, Any]:
    """One line of the table."""
    seconds = figures["us"] * 1e-6
    return {
        "kernel": kernel.name, "shape": kernel.shape, "dtype": "float32", "who": who, "device": device, **figures,
        "bytes": kernel.bytes, "flops": kernel.flops,
        "gb_per_s": round(kernel.bytes / seconds / 1e9, 2), "gflop_per_s": round(kernel.flops / seconds / 1e9, 2),
        "error": error,
    }  # fmt: skip


def time_kernel(kernel: Kernel, torch: Any, seconds: float) -> Iterator[dict[str, Any]]:
    """The rows of edfcore, of torch where it is, and of NumPy."""
    import edfcore as edf

    arrays, want = kernel.inputs, None
    wait = edf.cuda.synchronize if edf.cuda.is_available() else lambda: None
    if kernel.error is None:
        want = kernel.numpy(*[a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays])
    tensors = [edf.Tensor(a) for a in arrays]
    error = kernel.error if want is None else difference(kernel.edf(*tensors).numpy(), want)
    yield row(kernel, "edfcore", "cuda", measure(lambda: kernel.edf(*tensors), wait, seconds), error)
    run = kernel.torch
    if torch is not None and run is not None:
        peers = [torch.as_tensor(a).cuda() for a in arrays]
        error = None if want is None else difference(run(*peers).detach().cpu().numpy(), want)
        yield row(
            kernel,
            "torch",
            "cuda",
            measure(lambda: run(*peers), torch.cuda.synchronize, seconds),
            error,
        )
        del peers
    error = None if want is None else difference(kernel.numpy(*arrays), want)
    yield row(
        kernel, "numpy", "cpu", measure(lambda: kernel.numpy(*arrays), lambda: None, seconds / 8), error
    )


def copies(torch: Any, quick: bool, seconds: float) -> Iterator[dict[str, Any]]:
    """What the memory gives: the yardstick for every row that moves bytes."""
    if torch is None:
        return
    n = 1 << (12 if quick else 28)
    a, b = torch.empty(n, device="cuda"), torch.empty(n, device="cuda")
    yardstick = Kernel("copy", f"({n},)", [], lambda: None, None, lambda: None, bytes=8 * n)
    yield row(yardstick, "torch", "cuda", measure(lambda: b.copy_(a), torch.cuda.synchronize, seconds), None)


def find_torch() -> Any:
    """Torch, if it is installed and sees a GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def work(ops: Any, torch: Any, quick: bool) -> Iterator[tuple[str, Measure]]:
    """What each kernel is called, and the function that yields its rows."""
    seconds = 0.02 if quick else 0.8
    yield "copy", partial(copies, torch, quick, seconds)
    for family in FAMILIES:
        for kernel in family(ops, torch, quick):
            yield f"{kernel.name} {kernel.shape}", partial(time_kernel, kernel, torch, seconds)


def main() -> int:
    """Time all kernels within the seconds given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=240.0, help="time for all kernels (240)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    options = parser.parse_args()
    import edfcore as edf
    from edfcore import ops

    end, torch = time.monotonic() + options.seconds, None if edf.cuda.build() == "sim" else find_torch()
    edf.set_device("cuda")
    table = Table(
        options.out, method=METHOD, device=edf.cuda.description(), isa=edf._core.isa(),
        torch=torch.__version__ if torch else None,
    )  # fmt: skip
    with edf.no_grad():
        return table.fill(work(ops, torch, options.quick), end, edf.cuda.synchronize)


if __name__ == "__main__":
    sys.exit(main())
