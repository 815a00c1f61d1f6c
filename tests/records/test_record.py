"""Run records are the truth: whole, or refused; and MLflow shows the same."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from builders.records import record, write
from builders.reporters import RecordingReporter
from mlflow import MlflowClient

from repro.core.workspace import Workspace
from repro.records import mlflow_view
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs


@pytest.fixture
def stored(workspace: Workspace) -> StoredRun:
    return write(workspace.runs, record("ak_full", 1, 0.8))


def test_a_record_is_read_as_it_was_written(stored: StoredRun, workspace: Workspace) -> None:
    assert stored.load_record() == record("ak_full", 1, 0.8)
    assert [run.folder for run in find_runs(workspace.runs)] == [stored.folder]
    assert StoredRun(workspace.runs / "none").load_record() is None


def test_the_former_name_of_the_held_out_protocol_is_still_read() -> None:
    made = record("ak_full", 1, 0.8)
    chosen = {"held_out": made.train, "best_epoch_on_held_out": made.last_epoch}
    former = made.model_copy(update={"protocol": "honest", **chosen}).model_dump(warnings=False)
    assert RunRecord.model_validate(former).protocol == "held-out"


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


def keep_own_experiment(workspace: Workspace) -> None:
    """Log a run of the user's own to the workspace's database."""
    client = MlflowClient(f"sqlite:///{workspace.mlflow_db}")
    client.create_run(client.create_experiment("mine", artifact_location=(workspace.root / "mine").as_uri()))


def count_own_runs(workspace: Workspace) -> int:
    with closing(sqlite3.connect(workspace.mlflow_db)) as database:
        query = "select count(*) from runs r join experiments e using (experiment_id) where e.name = 'mine'"
        return int(database.execute(query).fetchone()[0])


@pytest.mark.slow
def test_a_moved_a_linked_and_a_copied_workspace_keep_their_database(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    """Copies log into themselves; whatever else is in the database stays."""
    mlflow_view.log_runs(workspace, reporter)
    keep_own_experiment(workspace)
    (tmp_path / "link").symlink_to(workspace.root)
    write(workspace.runs, record("ak_full", 2, 0.7))
    mlflow_view.log_runs(Workspace(tmp_path / "link"), reporter)
    assert logged(workspace) == [("g1", 0.8), ("g2", 0.7)]
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(workspace.root, copy.root)
    before = sorted(workspace.root.rglob("*"))
    write(copy.runs, record("ak_full", 3, 0.6))
    mlflow_view.log_runs(copy, reporter)
    assert logged(copy) == [("g1", 0.8), ("g2", 0.7), ("g3", 0.6)]
    assert sorted(workspace.root.rglob("*")) == before
    assert len(list((copy.root / "mlartifacts").rglob("record.json"))) == 3
    moved = Workspace(tmp_path / "moved")
    copy.root.rename(moved.root)
    mlflow_view.log_runs(moved, reporter)
    assert logged(moved) == [("g1", 0.8), ("g2", 0.7), ("g3", 0.6)]
    assert "reused all 3" in reporter.lines[-1]
    with closing(sqlite3.connect(moved.mlflow_db)) as database, database:
        uris = [
            uri for (uri,) in database.execute("select artifact_uri from runs where artifact_uri like '%artifacts'")
        ]
        assert sum(uri.startswith(f"{moved.mlflow_artifacts.as_uri()}/") for uri in uris) == 3
        database.execute("update experiments set lifecycle_stage = 'deleted' where name = 'actiondiff'")
    mlflow_view.log_runs(moved, reporter)
    assert logged(moved) == [("g1", 0.8), ("g2", 0.7), ("g3", 0.6)]
    assert count_own_runs(moved) == 1
    assert reporter.warnings == []
    assert not list(tmp_path.rglob("*.damaged*"))


@pytest.mark.slow
@pytest.mark.parametrize("version", ["451aebb31d03", "from_the_future"])
def test_a_database_of_another_mlflow_version_is_left_and_reported(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter, version: str
) -> None:
    mlflow_view.log_runs(workspace, reporter)
    keep_own_experiment(workspace)
    with closing(sqlite3.connect(workspace.mlflow_db)) as database, database:
        database.execute("update alembic_version set version_num = ?", (version,))
    before = workspace.mlflow_db.read_bytes()
    write(workspace.runs, record("ak_full", 2, 0.7))
    mlflow_view.log_runs(workspace, reporter)
    assert workspace.mlflow_db.read_bytes() == before
    (warning,) = reporter.warnings
    assert version in warning
    assert "mlflow db upgrade" in warning
    assert not list(workspace.root.glob("*.damaged*"))


@pytest.mark.slow
def test_a_locked_database_is_waited_for(stored: StoredRun, workspace: Workspace, reporter: RecordingReporter) -> None:
    mlflow_view.log_runs(workspace, reporter)
    write(workspace.runs, record("ak_full", 2, 0.7))
    with closing(sqlite3.connect(workspace.mlflow_db, check_same_thread=False)) as other:
        other.execute("begin exclusive")
        release = threading.Timer(3, other.rollback)
        release.start()
        mlflow_view.log_runs(workspace, reporter)
        release.join()
    assert logged(workspace) == [("g1", 0.8), ("g2", 0.7)]
    assert reporter.warnings == []
    assert any("waiting for another program" in line for line in reporter.lines)


@pytest.mark.slow
def test_a_database_that_stays_locked_is_reported_and_kept(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_view.log_runs(workspace, reporter)
    monkeypatch.setattr(mlflow_view, "PATIENCE", 0.5)
    write(workspace.runs, record("ak_full", 2, 0.7))
    with closing(sqlite3.connect(workspace.mlflow_db)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from runs").fetchone()  # a reader alone keeps writers from committing
        mlflow_view.log_runs(workspace, reporter)
    (warning,) = reporter.warnings
    assert "locked by another program" in warning
    mlflow_view.log_runs(workspace, reporter)
    assert logged(workspace) == [("g1", 0.8), ("g2", 0.7)]
    assert not list(workspace.root.glob("*.damaged*"))


LOG = (
    "import sys; from pathlib import Path; from repro.core.workspace import Workspace; from repro.core.console import Reporter\n"
    "from repro.records.mlflow_view import log_runs\n"
    "w = Workspace(Path(sys.argv[1])); w.require_writable(); log_runs(w, Reporter())"
)


@pytest.mark.slow
def test_processes_log_one_at_a_time_and_killed_ones_leave_nothing(workspace: Workspace) -> None:
    """Three processes log to a database that does not exist yet, one of them is killed: all runs are logged in the end."""
    for seed in (1, 2):
        write(workspace.runs, record("ak_full", seed, 0.8))
    words = [sys.executable, "-c", LOG, str(workspace.root)]
    killed = subprocess.Popen(words, stdout=subprocess.PIPE)
    others = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    while killed.poll() is None and not list(workspace.root.glob(".mlflow.db.*.partial")):
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    for process in others:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "warning" not in errors
    assert logged(workspace) == [("g1", 0.8), ("g2", 0.8)]
    workspace.require_writable()
    assert not list(workspace.root.glob(".*.partial*"))
    assert not list(workspace.root.glob("*.damaged*"))


@pytest.mark.slow
def test_lost_artifacts_are_logged_again(stored: StoredRun, workspace: Workspace, reporter: RecordingReporter) -> None:
    mlflow_view.log_runs(workspace, reporter)
    shutil.rmtree(workspace.root / "mlartifacts")
    mlflow_view.log_runs(workspace, reporter)
    assert len(list((workspace.root / "mlartifacts").rglob("record.json"))) == 1
    assert logged(workspace) == [("g1", 0.8)]
