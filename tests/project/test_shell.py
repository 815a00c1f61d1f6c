"""Shell scripts and the Dockerfile pass their linters, and the check of what is installed knows what pip says of a wheel that works."""

import subprocess
import sys
from pathlib import Path

import pytest
from builders.commands import ROOT

BIN = Path(sys.executable).parent


def lint(*words: str | Path) -> None:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck() -> None:
    lint(BIN / "shellcheck", *sorted(ROOT.glob("scripts/**/*.sh")), ROOT / ".ci" / "run")


def test_hadolint() -> None:
    lint(BIN / "hadolint", "Dockerfile")


DECORD = "decord 0.6.0 is not supported on this platform\n"


@pytest.mark.parametrize(
    ("printed", "code", "left"),
    [
        ("No broken requirements found.\n", 0, ""),
        (DECORD, 1, ""),  # as pip 24.1 and newer say of a wheel that works
        (
            DECORD + "torch 2.13.0 requires sympy, which is not installed.\n",
            1,
            "torch 2.13.0 requires sympy, which is not installed.\n",
        ),
        ("av 17.0.0 is not supported on this platform\n", 1, "av 17.0.0 is not supported on this platform\n"),
    ],
)
def test_what_pip_finds_missing_ends_an_installation(tmp_path: Path, printed: str, code: int, left: str) -> None:
    pip = tmp_path / "pip"
    pip.write_text(f"#!/bin/sh\nprintf '%s' '{printed}'\nexit {code}\n")
    pip.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "image" / "check_packages.sh", pip], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (bool(left), left)
