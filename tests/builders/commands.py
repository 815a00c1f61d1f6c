"""The command line, run as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout."""
TESTS = ROOT / "tests"


def run_repro(*arguments: str | Path, env: dict[str, str] | None = None, **kwargs: object) -> SimpleNamespace:
    """Run the command as a user would; `code`, `out` and `err` of what it did."""
    done = subprocess.run(
        [sys.executable, "-m", "repro", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
        **kwargs,  # type: ignore[call-overload]
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)
