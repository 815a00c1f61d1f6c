"""The command line, as a user runs it: `run_repro` in this process, `run_process` in one of its own."""

import os
import subprocess
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from repro.__main__ import run

ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout."""
TESTS = ROOT / "tests"


def run_repro(*arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> SimpleNamespace:
    """Run a command line; `code`, `out` and `err` of what it did.

    In this process, which has imported torch and the rest already: a process of its own would take seconds for that. A test
    that is about imports, signals, limits or variables that libraries read once runs `run_process`.
    """
    out, err = StringIO(), StringIO()
    with ExitStack() as settings:
        settings.enter_context(mock.patch.dict(os.environ, env or {}))
        settings.enter_context(redirect_stdout(out))
        settings.enter_context(redirect_stderr(err))
        if cwd is not None:
            settings.enter_context(chdir(cwd))
        code = run([*map(str, arguments)])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def run_process(*arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> SimpleNamespace:
    """Run a command line as a process; `code`, `out` and `err` of what it did."""
    done = subprocess.run(
        [sys.executable, "-m", "repro", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        check=False,
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)
