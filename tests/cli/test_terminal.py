"""The terminal as it is: 80 columns, pipes, options anywhere, near names, seeds, errors as JSON, places that cannot be."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from builders.commands import run_repro

from repro.__main__ import run
from repro.cli.app import build_app
from repro.cli.options import parse_seeds
from repro.core.errors import UsageError
from repro.core.workspace import Workspace
from repro.pipeline.runs.train import lock_seeds
from repro.table.row import SeedChoice, Seeds


def run_on_terminal(*words: str, columns: int = 80) -> list[str]:
    """Run a command line whose stdout is a terminal; returns the lines it shows."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    parts: list[bytes] = []

    def drain() -> None:
        # Reading fails with EIO once the other side is closed.
        try:
            while part := os.read(master, 65536):
                parts.append(part)
        except OSError:
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    with os.fdopen(slave, "w") as terminal, redirect_stdout(terminal):
        run([*words])
    reader.join()
    os.close(master)
    return b"".join(parts).decode().replace("\r\n", "\n").splitlines()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # what shutil.get_terminal_size reads first; a shell sets it too


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--all"],
        ["plan"],
        ["plan", "ak_full_videomaev2", "--device", "cpu"],
        ["data", "status"],
        ["check"],
    ],
)
def test_80_columns_suffice(words: list[str], narrow: None, tmp_path: Path) -> None:
    lines = run_on_terminal(*words, "--workspace", str(tmp_path))
    assert len(lines) > 10
    for line in lines:
        # An address or a path is never broken: it may stand alone on a longer line.
        assert len(line) <= 80 or len(line.split()) == 1 or words[0] == "check", line
        assert "\x1b" not in line


def test_off_a_terminal_a_row_is_a_line(tmp_path: Path) -> None:
    for words in (["list"], ["plan"], ["data", "status"]):
        lines = run_repro(*words, "--workspace", tmp_path).out.splitlines()
        assert all(line.isprintable() and line == line.rstrip() for line in lines)
    (line,) = (
        line for line in run_repro("list", "--workspace", tmp_path).out.splitlines() if line.startswith("ak_full ")
    )
    assert line.split()[:4] == ["ak_full", "mAP", "80.79", "reconstructed"]
    assert "animal_kingdom" in line


def test_options_may_come_before_the_command(tmp_path: Path) -> None:
    place = str(tmp_path)
    after = run_repro("list", "--json", "--workspace", place)
    for words in (["--json", "--workspace", place, "list"], [f"--workspace={place}", "list", "--json"]):
        assert run_repro(*words).out == after.out
    assert run_repro("--workspace", place, "ak_full").code == 4
    assert run_repro("--json", "data", "status", "ucf101", "--workspace", place).code == 0
    # What follows `--` is a name, and the options before the command are none.
    assert "-x.mp4" in run_repro("--workspace", place, "show", "--backbone", "mean_colour", "--", "-x.mp4").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "cpu", "ak_full"], "--device: write it after the command"),
        (["-x"], "-x: write it after the command"),
        (["--workspace"], "no command after it"),
        (["--workspace", "x"], "no command after it"),
    ],
)
def test_other_options_come_after_the_command(words: list[str], said: str) -> None:
    done = run_repro(*words)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["run"], ["fetch"], ["verify"], ["data", "status"], ["extract"], ["plan"]])
def test_nothing_is_suggested_for_nonsense(words: list[str]) -> None:
    done = run_repro(*words, "nonsense")
    assert done.code == 2
    assert "did you mean" not in done.err


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["smok"], "smoke"),
        (["fetch", "vjpea"], "vjepa"),
        (["verify", "vjpea"], "vjepa"),
        (["data", "status", "hmdb15"], "hmdb51"),
        (["extract", "ufc101/train"], "ucf101"),
        (["plan", "ucf_hmbd"], "ucf_hmdb"),
    ],
)
def test_a_near_name_is_suggested(words: list[str], near: str) -> None:
    assert f"did you mean '{near}'?" in run_repro(*words).err


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["ak_ful"], 2, "usage"),
        (["list", "--bogus"], 2, "usage"),
        (["run"], 2, "usage"),
        (["plan", "ak_full", "--seeds", "0"], 2, "usage"),
        (["data", "statsu"], 2, "usage"),
        (["ak_full"], 4, "missing"),
        (["verify", "--store"], 5, "nothing_to_check"),
    ],
)
def test_with_json_an_error_is_an_object(words: list[str], code: int, kind: str, tmp_path: Path) -> None:
    done = run_repro(*words, "--json", env={"REPRO_WORKSPACE": str(tmp_path)})
    error = json.loads(done.out)["error"]
    assert (done.code, error["exit_code"], error["kind"]) == (code, code, kind)
    assert done.err.splitlines()[-1] == f"repro: {error['message']}"


def test_with_json_each_missing_thing_is_an_object(tmp_path: Path) -> None:
    (listed,) = (
        row for row in json.loads(run_repro("list", "--json", "--workspace", tmp_path).out) if row["row"] == "ak_full"
    )
    assert len(listed["missing"]) == 2
    assert (
        json.loads(run_repro("ak_full", "--json", "--workspace", tmp_path).out)["error"]["missing"] == listed["missing"]
    )


def test_with_json_a_result_is_not_followed_by_an_error(tmp_path: Path) -> None:
    done = run_repro("--json", "check", "--workspace", tmp_path)
    assert done.code == 5
    assert len(json.loads(done.out)["verdicts"]) == 24


def test_an_internal_error_is_an_object_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> int:
        raise LookupError("lost")

    monkeypatch.setattr("repro.cli.app.dispatch", fail)
    done = run_repro("list", "--json")
    assert json.loads(done.out)["error"]["kind"] == "internal"
    assert "LookupError: lost" in done.err


def test_windows_is_refused_in_a_line() -> None:
    # As there: no fcntl. The standard library's own parts come first: from 3.13 on, shutil would import a module of Windows.
    code = "import shutil, subprocess, sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; from repro.__main__ import run; sys.exit(run(['list']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Windows is not supported" in done.stderr


@pytest.mark.parametrize(
    ("option", "text", "choice", "seeds"),
    [
        ("--seeds", "5", 5, [52, 53, 54, 55, 56]),
        ("--seeds", "1", 1, [52]),
        ("--seeds", "52,", (52,), [52]),
        ("--seeds", "52-52", (52,), [52]),
        ("--seeds", "53,52", (53, 52), [53, 52]),
        ("--seeds", "52-54,60", (52, 53, 54, 60), [52, 53, 54, 60]),
        ("--seeds", "0,", (0,), [0]),
        ("--seed", "5", (5,), [5]),
    ],
)
def test_seeds_have_one_grammar(option: str, text: str, choice: SeedChoice, seeds: list[int]) -> None:
    assert parse_seeds(option, text) == choice
    assert Seeds(published=52).choose(choice) == seeds


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--seeds", "0", "from 1 to 30"),
        ("--seeds", "52", "write --seed 52 for that seed alone"),
        *(("--seeds", text, "expected a number of seeds") for text in ("", ",", "-1", "5x", "52,,53", "56-52", "1-", "9" * 30, "0-99999")),
        ("--seeds", "52,52", "different seeds"),
        ("--seed", "52,53", "expected one seed"),
    ],
)  # fmt: skip
def test_other_seeds_are_refused(option: str, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_seeds(option, text)


def test_every_verb_reads_seeds_alike() -> None:
    app = build_app()
    for command in ("run", "plan", "grid", "readout", "smoke"):
        (argument,) = (one for one in app[command].assemble_argument_collection() if "--seeds" in one.names)
        assert argument.names == ("--seeds", "--seed")
        assert argument.parameter.converter is not None


def test_processes_may_train_different_seeds(workspace: Workspace) -> None:
    workspace.require_writable()
    with lock_seeds("ucf_hmdb", [42, 43], workspace), lock_seeds("ucf_hmdb", [44], workspace):
        busy = "'run ucf_hmdb seed 43' is already running here"
        with pytest.raises(UsageError, match=busy), lock_seeds("ucf_hmdb", [43], workspace):
            pass
        with lock_seeds("hmdb_ucf", [43], workspace):
            pass


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    "words",
    [["list"], ["plan"], ["check"], ["ak_full"], ["fetch"], ["data", "status"], ["predict", "ak_full", "x.mp4"]],
)
def test_a_workspace_that_can_never_exist_is_refused(words: list[str], file: Path) -> None:
    for settings in ({"REPRO_WORKSPACE": str(file / "a" / "b")}, {"REPRO_DATA": str(file / "data")}):
        done = run_repro(*words, env=settings)
        assert done.code == 2
        assert f"{file} is a file, not a folder" in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "ak_full", "x.mp4", "--csv"],
        ["show", "x.mp4", "--backbone", "mean_colour", "-o"],
        ["features", "export", "hmdb51", "--backbone", "mean_colour"],
    ],
)
def test_an_output_file_that_can_never_exist_is_refused_at_the_start(
    words: list[str], file: Path, tmp_path: Path
) -> None:
    done = run_repro(*words, file / "page.html", "--workspace", tmp_path / "w")
    assert done.code == 2
    assert f"{file} is not a place for a file" in done.err


def test_names_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    for words, found in (
        (["run", "ak_unseen_v"], "ak_unseen_vjepa"),
        (["verify", "vj"], "vjepa"),
        (["extract", "ucf"], "ucf101"),
    ):
        assert run(["__complete", *words]) == 0
        assert found in capsys.readouterr().out.splitlines()
    script = build_app().generate_completion(shell="bash")
    assert all(word in script for word in ("readout", "--training-precision", "--seed"))
