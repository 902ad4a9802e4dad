"""One run of device.py: its time, its commands, and the file that it writes, as other programs here do."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = 1


def write_whole(path: Path, document: dict[str, Any], allow_nan: bool = True) -> None:
    """Write a JSON file in one step: who reads it meanwhile finds the one before."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(document, indent=1, allow_nan=allow_nan) + "\n", encoding="utf-8")
    os.replace(beside, path)


class Budget:
    """The time that is left. Sections ask for a share of it and keep within what they get."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.start, self.seconds = clock, clock(), minutes * 60

    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.start

    def left(self) -> float:
        """Seconds that remain, with a few kept back for writing the file."""
        return max(0.0, self.seconds - 3.0 - self.spent())

    def share(self, fraction: float) -> float:
        """Seconds of what remains."""
        return self.left() * fraction


class OutOfTimeError(Exception):
    """A section had no time left, or its command did not end in time."""


@dataclass
class Finished:
    """A command that has ended."""

    code: int
    output: str


class Run:
    """One run of the script: its options, its time, and the document that it writes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.budget = Budget(options.minutes)
        self.scratch = Path(options.scratch).resolve()
        self.site = self.scratch / "site"
        self.document: dict[str, Any] = {
            "schema": SCHEMA,
            "complete": False,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": 0.0,
            "options": {key: getattr(options, key) for key in ("minutes", "sim", "quick", "only")},
            "sections": {},
        }
        self.path: Path | None = None

    def write(self) -> None:
        """Replace the file by what is known now, in one step."""
        if self.path is None:
            return
        self.document["seconds"] = round(self.budget.spent(), 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, self.document, allow_nan=False)

    def section(self, name: str, work: Callable[[Run], Any]) -> None:
        """Do one section, and keep its result or what went wrong with it."""
        start = self.budget.spent()
        print(f"{name} ...", flush=True)
        status = "done"
        try:
            if self.budget.left() <= 0:
                raise OutOfTimeError
            self.document[name] = work(self)
        except OutOfTimeError as error:
            status = "out of time"
            self.document.setdefault(name, {"note": str(error) or "not started"})
        except Exception as error:
            status = "failed"
            self.document[name] = {"error": self.clean(f"{type(error).__name__}: {error}")}
        finally:
            seconds = round(self.budget.spent() - start, 1)
            self.document["sections"][name] = {"status": status, "seconds": seconds}
            self.write()
        print(f"{name}: {status}, {seconds} s", flush=True)

    def clean(self, text: str, most: int = 3000) -> str:
        """The end of a log, without the folders of this machine in it."""
        for folder, word in (
            (self.scratch, "SCRATCH"),
            (ROOT, "."),
            (Path(sys.prefix), "PYTHON"),
            (Path.home(), "~"),
        ):
            text = text.replace(str(folder), word)
        return text[-most:]

    def command(self, words: Sequence[str | Path], seconds: float, *, package: bool = False) -> Finished:
        """Run a command and everything it starts for at most so long. `package` lets it import what was built."""
        if seconds < 1:
            raise OutOfTimeError
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        if package:
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(self.site), os.environ.get("PYTHONPATH")]))
        with subprocess.Popen(
            [str(word) for word in words],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=seconds)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise OutOfTimeError(
                        f"stopped after {seconds:.0f} s: {self.clean(output, 500)}"
                    ) from None
                raise
        return Finished(process.returncode, output)

    def figures(
        self, words: Sequence[str | Path], path: Path, seconds: float, *, package: bool = False
    ) -> dict[str, Any]:
        """Run a command that adds to the JSON file `path` as it goes. What it wrote counts, even if cut short."""
        path.unlink(missing_ok=True)
        note = ""
        try:
            done = self.command(words, seconds, package=package)
            note = self.clean(done.output) if done.code else ""
        except OutOfTimeError as error:
            note = str(error)
        if not path.exists():
            raise RuntimeError(note or "no figures were written")
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {**result, "note": note} if note else result


def ask(*words: str) -> str:
    """What a command prints, or nothing where there is no such command."""
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def ask_gpu(*fields: str) -> dict[str, str]:
    """Fields of the first GPU by nvidia-smi's names."""
    answer = ask("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader").splitlines()
    values = [value.strip() for value in answer[0].split(",")] if answer else []
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}
