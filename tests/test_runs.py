"""Run records are the truth: whole, or refused; and MLflow shows the same."""

import json
import sqlite3
from pathlib import Path

import pytest
from conftest import Told
from records import record

from repro import tracking
from repro.runs import DamagedRecordError, RunRecord, StoredRun, all_runs, stored_run
from repro.workspace import Workspace


@pytest.fixture
def stored(workspace: Workspace) -> StoredRun:
    run = stored_run(workspace.runs, "ak_full", 1, "run1")
    run.write(record("ak_full", 1, 0.8))
    run.predictions_path.write_bytes(b"predictions")
    return run


def test_a_record_is_read_as_it_was_written(stored: StoredRun, workspace: Workspace) -> None:
    assert stored.read() == record("ak_full", 1, 0.8)
    assert [run.folder for run in all_runs(workspace.runs)] == [stored.folder]
    assert StoredRun(workspace.runs / "none").read() is None


@pytest.mark.parametrize(
    "damage", ["cut off", "empty", "list", "binary", "edited", "unknown key", "no hash", "wrong type", "other format"]
)
def test_a_damaged_record_is_refused_in_one_line(stored: StoredRun, damage: str) -> None:
    text = stored.record_path.read_text()
    raw = json.loads(text)
    changed = {
        "cut off": text[: len(text) // 2],
        "empty": "",
        "list": "[1, 2]",
        "edited": text.replace("0.8", "0.9"),
        "unknown key": json.dumps(raw | {"verdict": "good"}),
        "no hash": json.dumps({k: v for k, v in raw.items() if k != "sha256"}),
        "wrong type": json.dumps(raw | {"seed": "one"}),
        "other format": json.dumps(raw | {"format": 2}),
    }
    stored.record_path.write_bytes(b"\xff\x00" if damage == "binary" else changed[damage].encode())
    with pytest.raises(DamagedRecordError) as caught:
        stored.read()
    assert str(stored.record_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def logged(workspace: Workspace) -> list[tuple[str, float]]:
    with sqlite3.connect(workspace.mlflow_db) as database:
        return sorted(
            database.execute(
                "select t.value, l.value from latest_metrics l join tags t on t.run_uuid = l.run_uuid "
                "join runs r on r.run_uuid = l.run_uuid "
                "where t.key = 'repro.run' and l.key = 'best_epoch_on_test.map_micro' "
                "and r.lifecycle_stage = 'active' and r.status = 'FINISHED'"
            )
        )


def runs(stored: StoredRun) -> list[tuple[StoredRun, RunRecord]]:
    found = stored.read()
    assert found is not None
    return [(stored, found)]


def test_mlflow_shows_what_the_record_says_once(stored: StoredRun, workspace: Workspace, told: Told) -> None:
    for _ in range(2):
        tracking.sync(runs(stored), workspace, told)
    assert logged(workspace) == [("run1", 0.8)]
    assert "1 logged" in told.lines[0]
    assert "reused all 1" in told.lines[1]
    assert not list(workspace.root.glob(".*partial*"))


def test_a_half_logged_run_is_logged_again(stored: StoredRun, workspace: Workspace, told: Told) -> None:
    tracking.sync(runs(stored), workspace, told)
    with sqlite3.connect(workspace.mlflow_db) as database:
        database.execute("update runs set status = 'RUNNING'")
        database.execute("delete from latest_metrics")
    tracking.sync(runs(stored), workspace, told)
    assert logged(workspace) == [("run1", 0.8)]


def test_a_damaged_database_is_kept_aside_and_made_again(stored: StoredRun, workspace: Workspace, told: Told) -> None:
    tracking.sync(runs(stored), workspace, told)
    workspace.mlflow_db.write_bytes(b"not a database" * 100)
    tracking.sync(runs(stored), workspace, told)
    assert logged(workspace) == [("run1", 0.8)]
    assert len(told.warnings) == 1
    assert Path(f"{workspace.mlflow_db}.damaged1").is_file()
