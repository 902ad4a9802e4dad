"""The process of one peer: imports its framework, then makes, times and drops programs as it is asked to."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from suite.peer import Program
from suite.peers import ENTRIES
from suite.problems import Unsupported, make

WARM_SECONDS = 0.2


def estimated(program: Program) -> float:
    """Seconds of a call after warm-up; compilers and allocators have settled by then."""
    if program.once:
        return 0.0
    seconds, calls, end = program.time(1), 1, time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < end:
        seconds = program.time(calls) / calls
        calls = max(1, min(2 * calls, round(WARM_SECONDS / 4 / max(seconds, 1e-9))))
    return seconds


class Service:
    """Holds the program of the row that is measured now."""

    def __init__(self, name: str, threads: int, data: Path | None) -> None:
        self.peer, self.data = ENTRIES[name].load()(threads), data
        self.program: Program | None = None

    def prepare(self, row: Any) -> dict[str, Any]:
        self.drop()
        program = self.peer.make(row, make(row, self.data))
        answer = program.check()
        memory = None if program.once else program.memory()
        self.program = program
        seconds = estimated(program)
        return {"answer": answer, "seconds": seconds, "per_call": program.per_call, "memory": memory}

    def time(self, calls: int) -> float:
        assert self.program is not None
        if calls > 1:
            self.program.run(max(1, calls // 10))  # wakes threads and fills caches
        return self.program.time(calls)

    def drop(self) -> None:
        self.program = None
        gc.collect()


def main() -> None:
    """Answer until the other end is closed."""
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    try:
        service = Service(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]) if len(sys.argv) > 4 else None)
        pipe.send(("ok", {"versions": service.peer.versions(), "threads": service.peer.used_threads()}))
    except Exception as error:
        pipe.send(("missing", f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = ("ok", getattr(service, name)(*arguments))
        except Unsupported as error:
            answer = ("not supported", str(error))
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            text = str(error).splitlines()[0] if str(error) else ""
            answer = ("failed", f"{type(error).__name__} at {where}: {text}"[:300])
        pipe.send(answer)


if __name__ == "__main__":
    main()
