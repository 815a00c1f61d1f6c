"""Run records are the truth: whole, or refused; and MLflow shows the same."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from builders.records import record, write
from builders.reporters import RecordingReporter

from repro.core.workspace import Workspace
from repro.records import mlflow_view
from repro.records.record import DamagedRecordError, StoredRun, find_runs


@pytest.fixture
def stored(workspace: Workspace) -> StoredRun:
    return write(workspace.runs, record("ak_full", 1, 0.8))


def test_a_record_is_read_as_it_was_written(stored: StoredRun, workspace: Workspace) -> None:
    assert stored.load_record() == record("ak_full", 1, 0.8)
    assert [run.folder for run in find_runs(workspace.runs)] == [stored.folder]
    assert StoredRun(workspace.runs / "none").load_record() is None


@pytest.mark.parametrize(
    "damage",
    [
        "cut off",
        "empty",
        "list",
        "binary",
        "edited",
        "unknown key",
        "no hash",
        "wrong type",
        "other format",
        "nan",
        "huge",
        "share",
        "no metric",
        "folder",
        "predictions",
        "no predictions",
    ],
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
        "nan": text.replace("0.5", "NaN", 1),
        "huge": text.replace("0.5", "1e999", 1),
        "share": text.replace("0.8", "78.66"),
        "no metric": text.replace('"map_micro": 0.8', '"top1": 0.8'),
    }
    if damage == "folder":
        stored.record_path.unlink()
        stored.record_path.mkdir()
    elif damage == "predictions":
        stored.predictions_path.write_bytes(b"others")
    elif damage == "no predictions":
        stored.predictions_path.unlink()
    else:
        stored.record_path.write_bytes(b"\xff\x00" if damage == "binary" else changed[damage].encode())
    with pytest.raises(DamagedRecordError) as caught:
        stored.load_record()
    named = stored.predictions_path if "predictions" in damage else stored.record_path
    assert str(named) in str(caught.value)
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


@pytest.mark.slow
def test_mlflow_shows_what_the_record_says_once(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    for _ in range(2):
        mlflow_view.log_runs(workspace, reporter)
    assert logged(workspace) == [("g1", 0.8)]
    assert "1 logged" in reporter.lines[0]
    assert "reused all 1" in reporter.lines[1]
    assert not list(workspace.root.glob(".*partial*"))


@pytest.mark.slow
def test_a_half_logged_run_is_logged_again(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    mlflow_view.log_runs(workspace, reporter)
    with sqlite3.connect(workspace.mlflow_db) as database:
        database.execute("update runs set status = 'RUNNING'")
        database.execute("delete from latest_metrics")
    mlflow_view.log_runs(workspace, reporter)
    assert logged(workspace) == [("g1", 0.8)]


@pytest.mark.slow
def test_a_damaged_database_is_kept_aside_and_made_again(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    mlflow_view.log_runs(workspace, reporter)
    workspace.mlflow_db.write_bytes(b"not a database" * 100)
    mlflow_view.log_runs(workspace, reporter)
    assert logged(workspace) == [("g1", 0.8)]
    assert len(reporter.warnings) == 1
    assert Path(f"{workspace.mlflow_db}.damaged1").is_file()


@pytest.mark.slow
def test_a_database_of_another_place_or_use_is_made_again(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    """A copied workspace logs into itself; one whose experiment was deleted is whole again."""
    write(workspace.runs, record("ak_full", 2, 0.7))
    mlflow_view.log_runs(workspace, reporter)
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(workspace.root, copy.root)
    before = sorted(workspace.root.rglob("*"))
    mlflow_view.log_runs(copy, reporter)
    assert logged(copy) == [("g1", 0.8), ("g2", 0.7)]
    assert sorted(workspace.root.rglob("*")) == before
    assert len(list((copy.root / "mlartifacts").rglob("record.json"))) == 4
    with sqlite3.connect(copy.mlflow_db) as database:
        database.execute("update experiments set lifecycle_stage = 'deleted'")
    write(copy.runs, record("ak_full", 3, 0.6))
    mlflow_view.log_runs(copy, reporter)
    assert logged(copy) == [("g1", 0.8), ("g2", 0.7), ("g3", 0.6)]
    assert len(reporter.warnings) == 2


@pytest.mark.slow
def test_lost_artifacts_are_logged_again(stored: StoredRun, workspace: Workspace, reporter: RecordingReporter) -> None:
    mlflow_view.log_runs(workspace, reporter)
    shutil.rmtree(workspace.root / "mlartifacts")
    mlflow_view.log_runs(workspace, reporter)
    assert len(list((workspace.root / "mlartifacts").rglob("record.json"))) == 1
    assert logged(workspace) == [("g1", 0.8)]
