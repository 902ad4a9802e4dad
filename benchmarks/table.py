"""The rows that a program has measured so far, in a file: who starts it again goes on behind those."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Measure = Callable[[], Iterable[Row]]

EMPTY: Row = {"at": "", "done": [], "rows": [], "failed": []}
LOST = 3  # the exit status where the device is of no more use to this process


def finite(value: Any) -> Any:
    """The same without infinities and what is not a number, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file in one step: who reads it meanwhile finds the one before."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(finite(document), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(beside, path)


def read(path: Path) -> dict[str, Any]:
    """What was written, or an empty document where that is not there."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def failing(error: Exception) -> Measure:
    """What is measured of rows that cannot even be listed."""

    def fail() -> Iterable[Row]:
        raise error

    return fail


class Table:
    """`at` is what is being measured, `done` what need not be begun again: it is in `rows`, or in `failed`."""

    def __init__(self, path: Path, **head: Any) -> None:
        self.path = path
        self.document: Row = {**copy.deepcopy(EMPTY), **read(path), **head, "complete": False}
        self.write()

    def write(self) -> None:
        """Replace the file as a whole."""
        write_whole(self.path, self.document)

    def fill(self, work: Iterable[tuple[str, Measure]], end: float, clear: Callable[[], Any]) -> int:
        """Measure until the time `end`, and `clear` after each. Returns the exit status."""
        for label, measure in work:
            if label in self.document["done"]:
                continue
            if time.monotonic() > end:
                return self.close(0)
            self.document["at"] = label
            self.write()
            try:
                for row in measure():
                    self.document["rows"].append(row)
                    figure = f"{row['us']:12.2f} us" if row.get("us") else ""
                    print(f"{label:90} {figure} {row.get('error', '')}", file=sys.stderr, flush=True)
                self.document["done"].append(label)
            except Exception as error:
                failed(self.document, f"{type(error).__name__}: {error}")
            try:
                clear()
            except Exception as error:
                print(f"the device is lost: {error}", file=sys.stderr, flush=True)
                return self.close(LOST)
            self.write()
        self.document["complete"] = True
        return self.close(0)

    def close(self, status: int) -> int:
        """Nothing is being measured."""
        self.document["at"] = ""
        self.write()
        return status


def failed(document: Row, reason: str) -> None:
    """Give up what was being measured."""
    label, document["at"] = document["at"], ""
    document["failed"].append({"row": label, "reason": reason[:600]})
    document["done"].append(label)
    print(f"{label:90} failed: {reason.partition(chr(10))[0]}", file=sys.stderr, flush=True)
