"""The demonstration, `edfcore train`: one module for each purpose; `import edfcore` imports none of it."""

from __future__ import annotations

import sys

_PACKAGES = {"typer", "rich"}


def main() -> int:
    """Run the command line in `sys.argv`; the exit status where a package that it needs is missing."""
    try:
        from edfcore.demo.cli import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        print(
            f"edfcore: the command line needs {error.name}, which is not installed.\n"
            "Install it with everything else that the demonstration uses:  pip install 'edfcore[demo]'",
            file=sys.stderr,
        )
        return 2
    app(prog_name="edfcore")
    return 0
