"""The command line, as a user runs it: `run_repro` in this process, `run_process` in one of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

from repro.__main__ import run
from repro.cli.app import command_names

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
    require_described([*map(str, arguments)], out.getvalue())
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def load_script(name: str) -> ModuleType:
    """Import scripts/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def schemas() -> ModuleType:
    """The models of what --json prints."""
    return load_script("json_schemas")


def require_described(words: Sequence[str], printed: str) -> None:
    """Fail if a command line with --json did not print one JSON value that docs/schemas describes."""
    if "--json" not in words or "--help" in words:
        return
    named = [word for word in words if not word.startswith("-")]
    command = next((word for word in named if word in command_names()), "run")
    if command in ("data", "features"):
        command = f"{command} {named[named.index(command) + 1]}"
    value = json.loads(printed)
    schemas().check_output("plan" if command == "run" and "--dry-run" in words else command, value)


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
