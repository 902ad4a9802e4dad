"""Files that are generated and committed: writing one, or telling that it is out of date."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(about: str | None, path: Path, generate: Callable[[], str], how: str) -> int:
    """Be the command line of a generator: write `path`, or with --check fail when it is out of date.

    `how` says what to do then. Returns the exit status.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when the file is out of date"
    )
    check = parser.parse_args().check
    made = generate()
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    if made == found:
        return 0
    if not check:
        path.write_text(made, encoding="utf-8")
        print(f"wrote {path.name}")
        return 0
    print(f"{path.name} is out of date: {how}", file=sys.stderr)
    sys.stderr.writelines(
        difflib.unified_diff(found.splitlines(True), made.splitlines(True), "committed", "generated")
    )
    return 1
