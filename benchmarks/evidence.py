"""One run of device.py: its time, its commands, and the file that it writes, as other programs here do."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import goals
import table
from table import write_whole

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = 1

LOOK = 4.0  # seconds between two looks at what a program has written
STALLED = 90.0  # seconds after which a program that has written nothing is given up
MARGIN = 15.0  # seconds in which a program may end by itself
HOPELESS = 5  # programs in a row that measured nothing before they died


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
    """A section had no time left, or its command did not end in time; `output` is what it had printed."""

    def __init__(self, words: str = "", output: str = "") -> None:
        super().__init__(words)
        self.output = output


class StalledError(Exception):
    """A command has shown no progress for too long."""


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
        self.current = ""  # the section
        self.ahead: dict[
            str, float
        ] = {}  # weights of the sections that are to be done, the current one among them

    def share(self) -> float:
        """Seconds for the current section: by its weight among those that are still to be done."""
        return self.budget.share(self.ahead.get(self.current, 1.0) / (sum(self.ahead.values()) or 1.0))

    def adopt(self, earlier: dict[str, Any]) -> None:
        """Keep what an earlier run has found of the same sources on the same device, for the same file."""

        def same(document: dict[str, Any]) -> tuple[Any, ...]:
            found = document.get("environment", {})
            options = document.get("options", {})
            return found.get("sources"), found.get("gpu", {}).get("name"), options.get("quick"), SCHEMA

        if not earlier or same(earlier) != same(self.document):
            return
        run = {key: earlier[key] for key in ("started", "seconds", "options", "sections")}
        self.document = {**earlier, **self.document, "earlier": [*earlier.get("earlier", []), run]}
        self.document["sections"] = {**earlier["sections"], **self.document["sections"]}

    def write(self) -> None:
        """Replace the file by what is known now, in one step."""
        if self.path is None:
            return
        self.document["seconds"] = round(self.budget.spent(), 1)
        try:
            self.document["goals"] = goals.judge(self.document)
        except Exception as error:  # no reason to lose the figures
            print(f"the goals cannot be judged: {type(error).__name__}: {error}", file=sys.stderr)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, self.document)

    def section(self, name: str, work: Callable[[Run], Any]) -> None:
        """Do one section, and keep its result or what went wrong with it."""
        start, self.current = self.budget.spent(), name
        print(f"{name} ...", flush=True)
        status = "stopped"
        try:
            if self.budget.left() <= 0:
                raise OutOfTimeError
            self.document[name] = work(self)
            status = "done"
        except OutOfTimeError as error:
            status = "out of time"
            self.document.setdefault(name, {"note": str(error) or "not started"})
        except Exception as error:
            status = "failed"
            self.document.setdefault(name, {})
            self.document[name] |= {"error": self.clean(f"{type(error).__name__}: {error}")}
        finally:
            self.ahead.pop(name, None)
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

    def command(
        self,
        words: Sequence[str | Path],
        seconds: float,
        *,
        package: bool = False,
        look: Callable[[], None] = lambda: None,
    ) -> Finished:
        """Run a command and everything it starts for at most so long.

        `package` lets it import what was built; `look` is called now and then, and may stop it.
        """
        if seconds < 1:
            raise OutOfTimeError
        end = time.monotonic() + seconds
        with subprocess.Popen(
            [str(word) for word in words],
            cwd=ROOT,
            env=self.variables(package),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                while True:
                    try:
                        left = max(0.0, end - time.monotonic())
                        output, _ = process.communicate(timeout=min(LOOK, left))
                        return Finished(process.returncode, output)
                    except subprocess.TimeoutExpired:
                        look()
                        if left <= LOOK:
                            break
            except BaseException:
                kill(process)
                raise
            kill(process)
            output, _ = process.communicate()
            raise OutOfTimeError(f"stopped after {seconds:.0f} s: {self.clean(output, 500)}", output)

    def variables(self, package: bool) -> dict[str, str]:
        """The environment of a command."""
        found = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        if package:
            paths = [str(self.site), os.environ.get("PYTHONPATH")]
            found["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return found

    def figures(
        self, words: Sequence[str | Path], path: Path, seconds: float, *, package: bool = False
    ) -> dict[str, Any]:
        """Run a program that fills the table `path`: what it wrote counts, even if it is cut short.

        Where it dies or hangs, the row that it was at has failed, and the program is started again for those behind.
        """
        if seconds < 1:
            raise OutOfTimeError
        begun, end, deaths = self.document.get(self.current, {}), time.monotonic() + seconds, 0
        path.unlink(missing_ok=True)
        if begun.get("rows") and begun.get("complete") is False:  # by an earlier run: go on behind them
            write_whole(path, {key: begun[key] for key in ("done", "rows", "failed")})
        words = [*words, *["--quick"] * self.options.quick, "--out", path]
        note, seen, since = "", b"", time.monotonic()

        def look() -> None:
            nonlocal seen, since
            found = path.read_bytes() if path.exists() else b""
            if found != seen:
                seen, since = found, time.monotonic()
                self.document[self.current] = table.read(path)
                self.write()
            elif time.monotonic() - since > STALLED:
                raise StalledError(f"nothing was written for {STALLED:.0f} s")

        try:
            while deaths < HOPELESS:
                left, measured = end - time.monotonic(), len(table.read(path).get("rows", []))
                since = time.monotonic()
                try:
                    limit = ["--seconds", f"{max(1.0, left - MARGIN):.0f}"]
                    done = self.command([*words, *limit], left, package=package, look=look)
                    if done.code == 0:
                        note = ""
                        break
                    note = f"ended with status {done.code}: {self.clean(done.output, 500)}"
                except OutOfTimeError as error:
                    note = str(error)
                    break
                except StalledError as error:
                    note = str(error)
                document = table.read(path)
                if not document:
                    break
                deaths = deaths + 1 if len(document.get("rows", [])) == measured else 0
                if document.get("at"):
                    table.failed(document, note)
                    write_whole(path, document)
        finally:
            self.document[self.current] = table.read(path) or begun
        found = table.read(path)
        if not found:
            self.document.pop(self.current)
            raise RuntimeError(note or "no figures were written")
        found["clocks_after"] = clocks()
        return {**found, "note": note} if note else found


def kill(process: subprocess.Popen[str]) -> None:
    """End a command and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


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


def clocks() -> dict[str, str]:
    """What the GPU's clocks are just now."""
    return ask_gpu("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")


def found_version(name: str) -> str | None:
    """The version of a package, if it is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
