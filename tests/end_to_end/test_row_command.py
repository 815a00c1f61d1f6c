"""`repro ROW` as a process: trials, scripts, interruptions and two runs at once. tests/faults kills it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from builders.commands import ROOT, run_repro
from builders.tiny_project import load_records

from repro.core.workspace import Workspace


def repro(folder: Path, *words: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """The copy's command, as a user would run it in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "repro", *words], cwd=folder, env=environment(folder), text=True, capture_output=True,
        check=False, **kwargs,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


# In this process, which reads the configs of `project`.
@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_a_trial_on_few_clips_is_recorded_as_one_and_not_judged(folder: Path, tmp_path: Path) -> None:
    place = _place(folder, tmp_path / "trial")
    done = run_repro("ucf_hmdb_vjepa", "--limit", "6", "--workspace", place, "--json")
    assert done.code == 0, done.err
    assert "a trial on 6 of train, 6 of test: recorded as one, and never judged" in done.err
    (record,) = json.loads(done.out)
    assert record["complete"] is False
    assert (record["train"]["clips"], record["test"]["clips"]) == (6, 6)
    # As many clips as there are make it the row's own run, and a trial's readout scores no video.
    predicted = run_repro("predict", "ucf_hmdb_vjepa", "x.mp4", "--workspace", place)
    assert predicted.code == 4
    assert "but of 1 trial on fewer clips" in predicted.err
    checked = run_repro("check", "--workspace", place)
    assert "ucf_hmdb_vjepa" in checked.out + checked.err
    assert "LOWER" not in checked.out
    for words in (["--limit", "0"], ["--from", "readout", "--limit", "3"], ["--seeds", "0"]):
        done = run_repro("ucf_hmdb_vjepa", *words, "--workspace", place)
        assert done.code == 2
        assert done.err.count("\n") == 1
    # What there is of features is not all that the row reads.
    done = run_repro("ucf_hmdb_vjepa", "--from", "readout", "--workspace", place)
    assert done.code == 4
    assert "have no features final" in done.err
    # Another version's workspace is left alone.
    (place / "workspace.json").write_text(json.dumps({"format": 99, "made_by": "actiondiff-repro 9"}))
    done = run_repro("ucf_hmdb_vjepa", "--workspace", place)
    assert done.code == 2
    assert "was made by actiondiff-repro 9 and has layout 99, this version reads layout 1" in done.err


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_a_rows_script_does_what_the_row_does(folder: Path, tmp_path: Path) -> None:
    """As a real shell script, on a workspace of its own. tests/project/test_shell.py holds all scripts to one text."""
    name = "hmdb_ucf_vjepa"
    place = _place(folder, tmp_path / "by hand")
    command = tmp_path / "bin" / "repro"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m repro "$@"\n')
    command.chmod(0o755)
    env = environment(folder) | {"REPRO_WORKSPACE": str(place), "PATH": f"{command.parent}:{os.environ['PATH']}"}
    script = ROOT / "scripts" / "rows" / f"{name}.sh"
    done = subprocess.run(["bash", str(script)], env=env, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode in (0, 1), (
        done.stdout + done.stderr
    )  # 1: judged, and random weights are not the published ones
    (by_hand,) = load_records(Workspace(place)).values()
    whole = run_repro(name, "--workspace", place, "--json")
    assert whole.code == 0, whole.err
    assert "extracted" not in whole.err
    assert "trained" not in whole.err
    assert json.loads(whole.out)[0]["run"] == by_hand.run


def _place(folder: Path, place: Path) -> Path:
    place.mkdir()
    for part in ("data", "checkpoints"):
        (place / part).symlink_to(folder / "workspace" / part)
    return place


@pytest.mark.slow
def test_rows_at_once_end_well_and_are_all_in_mlflow(folder: Path, tmp_path: Path) -> None:
    """They share features and the database, which does not exist yet. The first is started twice. tests/faults has eight at once."""
    place = _place(folder, tmp_path / "shared")
    names = ["ak_full_vjepa", "ak_unseen_vjepa"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "repro", name, "--workers", "1", "--workspace", str(place)],
            cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in names
    ]  # fmt: skip
    lock = place / f".run {names[0]}.lock"
    while started[0].poll() is None and not (lock.is_file() and lock.read_text()):
        time.sleep(0.02)
    second = repro(folder, names[0], "--workspace", str(place))
    if second.returncode:  # else the first was quicker
        assert second.returncode == 2
        assert f'"pid": {started[0].pid}' in second.stderr
        assert "wait for it to end, or use another --workspace" in second.stderr
    for process in started:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "warning" not in errors
    runs = sorted(record.run for record in load_records(Workspace(place)).values())
    assert len(runs) == len(names)
    with closing(sqlite3.connect(place / "mlflow.db")) as database:
        query = (
            "select t.value from tags t join runs r using (run_uuid) where t.key = 'repro.run' "
            "and r.status = 'FINISHED' and r.lifecycle_stage = 'active'"
        )
        assert sorted(run for (run,) in database.execute(query)) == runs
    assert not list(place.rglob("*.damaged*"))
    assert not list(place.rglob(".*.partial*"))


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_interrupted_a_row_says_what_is_kept(folder: Path, tmp_path: Path) -> None:
    for part in ("data", "checkpoints"):
        (tmp_path / part).symlink_to(folder / "workspace" / part)
    words = [sys.executable, "-m", "repro", "ucf_hmdb_vjepa", "--workers", "1", "--workspace", str(tmp_path)]
    process = subprocess.Popen(
        words, cwd=folder, env=environment(folder), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(tmp_path.glob("features/*/*/clips/*.safetensors")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "interrupted: finished work is kept; run the same command again to resume" in said
    assert "Traceback" not in said
    assert run_repro("ucf_hmdb_vjepa", "--workspace", tmp_path).code == 0
