"""After `repro fetch`, no command opens a connection but to this machine itself, and none writes to the home."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders.commands import TESTS

from repro.cli.app import command_names

NO_NETWORK = TESTS / "builders" / "no_network"
ROW, NAME = "ucf_hmdb_vjepa", "vjepa"
RUN_ALL = """
import json, sys
from repro.__main__ import run
for words in json.loads(sys.argv[1]):
    print(json.dumps([words, run(words)]), file=sys.stderr)
"""
"""Runs command lines in one process, which imports torch once, and prints the exit code of each to stderr."""


def run_offline(folder: Path, place: Path, commands: list[list[str]]) -> tuple[dict[str, int], str, str]:
    """Run commands on the tiny project in `folder`; returns their exit codes, what was refused, and what was printed to stderr."""
    refused = place.with_name("refused")
    refused.touch()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MPL", "XDG_", "TORCH_"))}
    env |= {
        "PYTHONPATH": f"{NO_NETWORK}{os.pathsep}{folder}",
        "REFUSED_CONNECTIONS": str(refused),
        "REPRO_WORKSPACE": str(place),
        "OMP_NUM_THREADS": "1",
        # No user can create a folder in a file, root included.
        "HOME": "/dev/null/home",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(commands)], cwd=place.parent, env=env, text=True, capture_output=True, check=False
    )  # fmt: skip
    codes = {}
    for line in done.stderr.splitlines():
        if line.startswith('[["'):
            words, code = json.loads(line)
            codes[" ".join(words)] = code
    assert len(codes) == len(commands), done.stderr[-3000:]
    return codes, refused.read_text(), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_command_needs_a_network_or_a_home(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "workspace"
    place.mkdir()
    for name in ("data", "checkpoints"):
        (place / name).symlink_to(folder / "workspace" / name)
    video = next((folder / "workspace" / "data" / "hmdb51").rglob("*.avi"))
    commands = [
        ["list"], ["fetch", ROW], ["plan", ROW], ["doctor", ROW, "--device", "cpu"], ["data", "status"], ["data", "audit", "hmdb51"],
        ["extract", "hmdb51", "--backbone", NAME], ["run", ROW], ["readout", ROW],
        ["predict", ROW, str(video)], ["show", str(video), "--backbone", NAME], ["check"], ["scores", ROW], ["report"],
        ["features", "export", "hmdb51", "shared.safetensors", "--backbone", NAME], ["bundle", ROW, "-o", "evidence.zip"],
        ["check", "--bundle", "evidence.zip"], ["track"], ["verify", NAME],
        ["status"],
    ]  # fmt: skip
    codes, refused, said = run_offline(folder, place, commands)
    assert refused == ""
    assert {words: code for words, code in codes.items() if code not in (0, 1)} == {}, said[-3000:]
    # Of what libraries keep, all is in the workspace; where the commands ran are the files that they were given names for.
    assert (place / "cache" / "matplotlib").is_dir()
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"workspace", "refused", "shared.safetensors", "shared.md", "shared.parquet", "evidence.zip", "report.html"} | {
        f"{video.stem}-{NAME}.html"
    }  # fmt: skip
    # `ui` serves pages until it is ended, `smoke` and `grid` have tests of their own, which take minutes, and `submit` starts Snakemake.
    assert {words[0] for words in commands} | {"ui", "smoke", "grid", "submit"} == set(command_names())


def test_connections_are_really_refused(tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    outside = "import socket; socket.create_connection(('192.0.2.1', 9), 1)"
    for text, said in (
        (code, "Connection refused"),
        (outside, "a test refuses connections: socket.getaddrinfo 192.0.2.1"),
    ):
        env = os.environ | {"PYTHONPATH": str(NO_NETWORK), "REFUSED_CONNECTIONS": str(tmp_path / "refused")}
        done = subprocess.run([sys.executable, "-c", text], env=env, text=True, capture_output=True, check=False)
        assert said in done.stderr
    assert (tmp_path / "refused").read_text().count("\n") == 1
