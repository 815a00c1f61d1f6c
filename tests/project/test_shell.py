"""Shell scripts and the Dockerfile pass their linters."""

import subprocess
import sys
from pathlib import Path

from builders.commands import ROOT

BIN = Path(sys.executable).parent


def lint(*words: str | Path) -> None:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck() -> None:
    lint(BIN / "shellcheck", *sorted(ROOT.glob("scripts/**/*.sh")), ROOT / ".ci" / "run")


def test_hadolint() -> None:
    lint(BIN / "hadolint", "Dockerfile")
