"""Status files say what runs where, survive their writer, and never end it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders.commands import ROOT, schemas

from repro.core.progress import status_files
from repro.core.progress.stages import Part, Work
from repro.core.progress.status_files import KEPT_STATUSES, LOST_AFTER, StatusFile
from repro.core.progress.statuses import read_statuses


def begin(what: str) -> Work:
    """Work whose first stage runs."""
    work = Work(what)
    work.start("extract", "")
    return work


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_status_is_one_file_that_the_schema_describes(tmp_path: Path) -> None:
    work = Work("extract a b/\x1b[31m é")
    work.expect([("extract", "hmdb51, svd_xt"), ("readout", "hmdb_ucf")])
    stage = work.start("extract", "hmdb51, svd_xt")
    stage.part = Part("compute", 10, "clips")
    stage.part.advance()
    file = StatusFile(tmp_path / "status", work, "cpu")
    file.write_if_due()
    written = file.path.read_bytes()
    work.warnings = 3
    file.write_if_due()  # not due yet
    assert file.path.read_bytes() == written
    assert file.path.name.isascii()
    assert "\x1b" not in written.decode()
    (found,) = read_statuses(tmp_path / "status")
    schemas().check_output("status", [found.model_dump(mode="json")])
    assert (found.state, found.stages[0].done, found.stages[1].state) == ("running", 1, "to come")
    file.end("failed", "1 of 10 clips failed")
    (found,) = read_statuses(tmp_path / "status")
    assert (found.state, found.message, found.warnings) == ("failed", "1 of 10 clips failed", 3)
    assert files(tmp_path / "status") == [file.path]  # neither lock nor partial


def test_a_killed_process_is_lost(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from repro.core.progress.stages import Work\n"
        "from repro.core.progress.status_files import StatusFile\n"
        "work = Work('run x'); work.start('extract', '')\n"
        "StatusFile(Path(sys.argv[1]), work).write_if_due(); print('written', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    assert [one.state for one in read_statuses(tmp_path)] == ["running"]
    process.kill()
    process.communicate()
    assert [one.state for one in read_statuses(tmp_path)] == ["lost"]


def test_a_process_of_another_machine_is_lost_when_it_writes_no_more(tmp_path: Path) -> None:
    file = StatusFile(tmp_path, begin("run x"))
    file.write_if_due()
    status_files.lock_path(file.path).unlink()  # a file system without locks, or whose locks are not seen from here
    file.path.write_text(json.dumps({**json.loads(file.path.read_text()), "host": "elsewhere"}))
    assert [one.state for one in read_statuses(tmp_path)] == ["running"]
    old = time.time() - LOST_AFTER - 1
    os.utime(file.path, (old, old))
    assert [one.state for one in read_statuses(tmp_path)] == ["lost"]


def test_ended_statuses_are_removed_and_running_ones_kept(tmp_path: Path) -> None:
    running = StatusFile(tmp_path, begin("run x"))
    running.write_if_due()
    os.utime(running.path, (1, 1))
    for number in range(KEPT_STATUSES + 5):
        (tmp_path / f"old{number}.json").write_text('{"format": 1, "state": "done"}')
    (tmp_path / "damaged.json").write_text("{")
    os.utime(tmp_path / "damaged.json", (2, 2))
    StatusFile(tmp_path, begin("run y")).write_if_due()
    left = {path.name for path in tmp_path.glob("*.json")}
    assert running.path.name in left
    assert "damaged.json" not in left
    assert len(left) == KEPT_STATUSES + 2  # with the one that has just started


def test_what_a_killed_process_had_not_finished_writing_is_removed(tmp_path: Path) -> None:
    running = StatusFile(tmp_path, begin("run x"))
    running.write_if_due()
    held = running.path.with_suffix(".partial")
    first, old = tmp_path / "first.partial", time.time() - LOST_AFTER - 1
    lock = status_files.lock_path(first.with_suffix(".json"))
    for path in (held, first, lock):
        path.touch()
        os.utime(path, (old, old))
    (tmp_path / "now.partial").touch()  # whose lock is not seen from here
    StatusFile(tmp_path, begin("run y")).write_if_due()
    assert sorted(path.name for path in tmp_path.glob("*.partial")) == sorted([held.name, "now.partial"])
    assert not lock.exists()


@pytest.mark.parametrize("what", ["folder", "write"])
def test_a_disk_that_refuses_is_noted_and_nothing_else(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "status"
    if what == "folder":
        place.write_text("a file")
    file = StatusFile(place, begin("run x"))

    def refuse(self: Path, text: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    file.write_if_due()
    file.end("done", "")
    assert file.problem.startswith(f"{place}: ")
    assert what == "folder" or files(place) == []


def test_work_that_never_started_leaves_nothing(tmp_path: Path) -> None:
    """A mistake in a command is said, and no workspace is made for it."""
    work = Work("run x")
    work.expect([("extract", "")])
    file = StatusFile(tmp_path / "w" / "status", work)
    file.write_if_due()
    file.end("failed", "no such row")
    assert files(tmp_path) == []
