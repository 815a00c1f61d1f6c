"""MLflow shows what the run records say, in the workspace's database and on a server, and never stops a run."""

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from builders.commands import run_repro
from builders.records import record, write, write_with_evidence
from builders.reporters import RecordingReporter
from mlflow import MlflowClient
from mlflow.entities import Run
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.exc import OperationalError

from repro.core.errors import UsageError
from repro.core.stopping import StoppedError
from repro.core.workspace import Workspace
from repro.records import mlflow_view
from repro.records.record import RunRecord, StoredRun
from repro.records.training_log import StartedRun, open_training_log
from repro.table.rows import extra_names, load_row


@pytest.fixture
def database(workspace: Workspace, mlflow_template: Path) -> Path:
    workspace.root.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(mlflow_template, workspace.mlflow_db))


@pytest.fixture
def stored(workspace: Workspace, database: Path) -> StoredRun:
    return write(workspace.runs, record("ak_full", 1, 0.8))


def logged(workspace: Workspace) -> list[tuple[str, float]]:
    with closing(sqlite3.connect(workspace.mlflow_db)) as database:
        return sorted(
            database.execute(
                "select t.value, l.value from latest_metrics l join tags t on t.run_uuid = l.run_uuid "
                "join runs r on r.run_uuid = l.run_uuid "
                "where t.key = 'repro.run' and l.key = 'best_epoch_on_test/map_micro' "
                "and r.lifecycle_stage = 'active' and r.status = 'FINISHED'"
            )
        )


@pytest.mark.slow
def test_mlflow_shows_what_the_record_says_once(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_view.log_runs(workspace, reporter)
    assert logged(workspace) == [("g1", 80.0)]
    assert "1 logged" in reporter.lines[0]
    # Whatever logging would change is left to MLflow, which takes seconds to import; nothing else is.
    asked: list[str] = []
    monkeypatch.setattr(mlflow_view, "track_runs", lambda *_: asked.append("MLflow"))
    mlflow_view.log_runs(workspace, reporter)
    assert asked == []
    assert "reused all 1" in reporter.lines[1]
    untouched = workspace.mlflow_db.read_bytes()
    for change in (
        "update runs set status = 'RUNNING' where name like '%seed1'",
        "update runs set status = 'KILLED' where name = 'ak_full'",
        "update runs set lifecycle_stage = 'deleted' where name like '%seed1'",
        "update runs set artifact_uri = artifact_uri || 'x'",
        "update runs set artifact_uri = 'file:///elsewhere' where name = 'ak_full'",
        "update experiments set lifecycle_stage = 'deleted' where name = 'actiondiff-published'",
        "update experiments set artifact_location = 'file:///elsewhere' where name = 'actiondiff-published'",
        "update tags set value = 'g2' where key = 'repro.run'",
        "update tags set value = '2' where key = 'repro.view'",
        "update tags set value = 'x' where key = 'mlflow.parentRunId'",
        "insert into tags select 'repro.unrecorded', 'yes', run_uuid from runs where name like '%seed1'",
        "insert into tags select 'repro.run', 'g1', run_uuid from runs where name = 'ak_full'",
        "drop table tags",
    ):
        asked.clear()
        with closing(sqlite3.connect(workspace.mlflow_db)) as database, database:
            assert database.execute(change).rowcount
        mlflow_view.log_runs(workspace, reporter)
        assert asked == ["MLflow"], change
        workspace.mlflow_db.write_bytes(untouched)
    stored.selected_path.touch()  # a readout that is no model yet
    mlflow_view.log_runs(workspace, reporter)
    stored.selected_path.unlink()
    write(workspace.runs, record("ak_full", 2, 0.7))
    mlflow_view.log_runs(workspace, reporter)
    assert len(asked) == 3
    assert not list(workspace.root.glob(".*partial*"))


@pytest.mark.slow
def test_a_half_logged_run_is_logged_again(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    mlflow_view.log_runs(workspace, reporter)
    with closing(sqlite3.connect(workspace.mlflow_db)) as database, database:
        database.execute("update runs set status = 'RUNNING'")
        database.execute("delete from latest_metrics")
    mlflow_view.log_runs(workspace, reporter)
    assert logged(workspace) == [("g1", 80.0)]


@pytest.mark.slow
def test_a_damaged_database_is_kept_aside_and_made_again(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    mlflow_view.log_runs(workspace, reporter)
    workspace.mlflow_db.write_bytes(b"not a database" * 100)
    mlflow_view.log_runs(workspace, reporter)
    assert logged(workspace) == [("g1", 80.0)]
    assert len(reporter.warnings) == 1
    assert Path(f"{workspace.mlflow_db}.damaged1").is_file()


def test_a_database_that_cannot_be_opened_is_tried_once_more(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SQLite reports a journal that the disk refuses for a moment."""
    log, refusals = mlflow_view._log_and_end, [1, 2, 3]

    def log_or_fail(*arguments: Any) -> int:
        if refusals:
            refusals.pop()
            cause = sqlite3.OperationalError("unable to open database file")
            cause.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise OperationalError("UPDATE runs SET end_time=?", {"end_time": 1}, cause)
        return log(*arguments)

    monkeypatch.setattr(mlflow_view, "_log_and_end", log_or_fail)
    with pytest.raises(UsageError, match=r"unable to open database file\): the run"):
        mlflow_view.track_runs(workspace, reporter)
    assert refusals == [1]
    mlflow_view.track_runs(workspace, reporter)
    assert logged(workspace) == [("g1", 80.0)]


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
    assert logged(workspace) == [("g1", 80.0), ("g2", 70.0)]
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(workspace.root, copy.root)
    before = sorted(workspace.root.rglob("*"))
    write(copy.runs, record("ak_full", 3, 0.6))
    mlflow_view.log_runs(copy, reporter)
    assert logged(copy) == [("g1", 80.0), ("g2", 70.0), ("g3", 60.0)]
    assert sorted(workspace.root.rglob("*")) == before
    assert len(list((copy.root / "mlartifacts").rglob("record.json"))) == 3
    moved = Workspace(tmp_path / "moved")
    copy.root.rename(moved.root)
    mlflow_view.log_runs(moved, reporter)
    assert logged(moved) == [("g1", 80.0), ("g2", 70.0), ("g3", 60.0)]
    assert "reused all 3" in reporter.lines[-1]
    with closing(sqlite3.connect(moved.mlflow_db)) as database, database:
        uris = [
            uri for (uri,) in database.execute("select artifact_uri from runs where artifact_uri like '%artifacts'")
        ]
        assert sum(uri.startswith(f"{moved.mlflow_artifacts.as_uri()}/") for uri in uris) == 4
        database.execute("update experiments set lifecycle_stage = 'deleted' where name = 'actiondiff-published'")
    mlflow_view.log_runs(moved, reporter)
    assert logged(moved) == [("g1", 80.0), ("g2", 70.0), ("g3", 60.0)]
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
    assert mlflow_view.track_runs(workspace, reporter, rebuild=True)
    assert logged(workspace) == [("g1", 80.0), ("g2", 70.0)]
    assert (workspace.root / "mlflow.db.damaged1").read_bytes() == before


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
    assert logged(workspace) == [("g1", 80.0), ("g2", 70.0)]
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
    assert logged(workspace) == [("g1", 80.0), ("g2", 70.0)]
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
    assert logged(workspace) == [("g1", 80.0), ("g2", 80.0)]
    workspace.require_writable()
    assert not list(workspace.root.glob(".*.partial*"))
    assert not list(workspace.root.glob("*.damaged*"))


@pytest.mark.slow
def test_a_signal_while_a_connection_closes_leaves_no_traceback(
    stored: StoredRun,
    workspace: Workspace,
    reporter: RecordingReporter,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """SQLAlchemy logs what interrupts it there, and raises it too."""
    closed = []

    def interrupted(_: SQLiteDialect, connection: sqlite3.Connection) -> None:
        connection.close()
        closed.append(1)
        raise StoppedError(signal.SIGTERM)

    mlflow_view.import_mlflow()
    monkeypatch.setattr(SQLiteDialect, "do_close", interrupted)
    with pytest.raises(StoppedError):
        mlflow_view.track_runs(workspace, reporter)
    assert closed
    assert capfd.readouterr().err == ""


def test_lost_artifacts_are_logged_again(stored: StoredRun, workspace: Workspace, reporter: RecordingReporter) -> None:
    mlflow_view.log_runs(workspace, reporter)
    shutil.rmtree(workspace.root / "mlartifacts")
    mlflow_view.log_runs(workspace, reporter)
    assert len(list((workspace.root / "mlartifacts").rglob("record.json"))) == 1
    assert logged(workspace) == [("g1", 80.0)]


def in_cell(made: RunRecord, cell: str) -> RunRecord:
    features = made.features.model_copy(update={"cell": cell})
    return made.model_copy(update={"features": features, "grid": "grid", "run": f"{cell}{made.seed}", "group": cell})


def runs_of(place: str, experiment: str) -> dict[str, Run]:
    client = MlflowClient(place)
    found = client.get_experiment_by_name(experiment)
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])} if found else {}


def test_a_parent_for_each_row_children_for_each_cell_and_seed(
    workspace: Workspace, database: Path, reporter: RecordingReporter
) -> None:
    for seed in (42, 43):
        for cell, score in (("t20_layer09", 0.75), ("t00_layer01", 0.5)):
            made = record("ucf_hmdb", seed, score, at="2026-01-01T00:01:00+00:00")
            made = made.model_copy(update={"made": made.made.model_copy(update={"seconds": 60.0})})
            write(workspace.runs, in_cell(made, cell))
    extra = record(extra_names()[0], 52, 0.5)
    started = StartedRun(**{name: getattr(extra, name) for name in StartedRun.model_fields})
    with open_training_log(write(workspace.runs, extra).log_path, started, resumes=False) as log:
        for epoch in extra.epochs:
            log.write_epoch(epoch, {})
    assert mlflow_view.track_runs(workspace, reporter, verdicts={"t20_layer0942": "CONSISTENT"})
    place = f"sqlite:///{workspace.mlflow_db}"
    extras = runs_of(place, "actiondiff-extras")
    assert {name.split()[0] for name in extras} == {extra_names()[0]}
    # A log has milliseconds and a record seconds: no parent ends before it starts.
    assert all(one.info.end_time >= one.info.start_time for one in extras.values())
    found = runs_of(place, "actiondiff-published")
    children = {f"ucf_hmdb {cell} seed{seed}" for cell in ("t20_layer09", "t00_layer01") for seed in (42, 43)}
    assert set(found) == {"ucf_hmdb"} | children
    parent, run = found["ucf_hmdb"], found["ucf_hmdb t20_layer09 seed42"]
    assert {found[name].data.tags["mlflow.parentRunId"] for name in children} == {parent.info.run_id}
    row = load_row("ucf_hmdb")
    assert row.published is not None
    assert run.data.metrics["test/top1"] == parent.data.metrics["score/measured"] == 75
    assert run.data.metrics["score/difference"] == pytest.approx(75 - row.published.value)
    assert parent.data.metrics["count/runs"] == 4
    assert (parent.data.tags["verdict"], run.data.tags["verdict"]) == ("CONSISTENT", "CONSISTENT")
    expected = {
        "row": "ucf_hmdb",
        "setting": "ucf_hmdb",
        "timestep": "20",
        "layer": "9",
        "seed": "42",
        "chance.top1": "50",
    }
    assert run.data.params.items() >= expected.items()
    assert run.data.tags["checkpoint"] == "0" * 64
    assert run.info.end_time - run.info.start_time == 60_000
    epochs = MlflowClient(place).get_metric_history(run.info.run_id, "test/top1")
    assert [epoch.step for epoch in epochs] == list(range(1, row.readout.epochs + 1))
    assert epochs[-1].timestamp == run.info.end_time
    assert run.info.start_time < epochs[0].timestamp < epochs[1].timestamp
    data = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
    assert (data["test"].name, data["test"].digest) == (str(row.data.test), "0" * 36)
    assert json.loads(data["train"].profile)["clips"] > 0


def log_as_before(client: MlflowClient, experiment: str, **tags: str) -> str:
    return str(
        client.create_run(experiment, tags={name.replace("_", "."): value for name, value in tags.items()}).info.run_id
    )


def test_runs_of_the_earlier_format_are_replaced_and_others_stay(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    client = MlflowClient(f"sqlite:///{workspace.mlflow_db}")
    experiment = client.create_experiment("actiondiff", artifact_location=workspace.mlflow_artifacts.as_uri())
    former, own = log_as_before(client, experiment, repro_run="g1"), log_as_before(client, experiment, mine="yes")
    mlflow_view.log_runs(workspace, reporter)
    assert logged(workspace) == [("g1", 80.0)]
    assert any("1 runs of an earlier format" in line for line in reporter.lines)
    assert client.get_run(former).info.lifecycle_stage == "deleted"
    assert client.get_run(own).info.lifecycle_stage == "active"
    mlflow_view.track_runs(workspace, reporter, rebuild=True)
    assert [run.info.run_id for run in client.search_runs([experiment], run_view_type=3)] == [own]


def test_a_rebuilt_view_has_what_the_records_have_and_nothing_else_is_lost(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    other = write(workspace.runs, record("ak_full", 2, 0.7))
    mlflow_view.log_runs(workspace, reporter)
    keep_own_experiment(workspace)
    shutil.rmtree(other.folder)
    assert mlflow_view.track_runs(workspace, reporter, rebuild=True)
    assert logged(workspace) == [("g1", 80.0)]
    assert count_own_runs(workspace) == 1
    assert len(list(workspace.mlflow_artifacts.rglob("record.json"))) == 1
    assert set(runs_of(f"sqlite:///{workspace.mlflow_db}", "actiondiff-published")) == {
        "ak_full",
        "ak_full t20_layer09 seed1",
    }


@contextmanager
def server(status: int, seconds: float = 0, by_byte: float = 0) -> Iterator[str]:
    ended = threading.Event()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(seconds)
            body = f"<html>out of disk {self.headers['Authorization']}</html>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # a client that gave up: its server would print that into another test's output
                for byte in body:
                    ended.wait(by_byte)
                    self.wfile.write(bytes([byte]))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://me:planted@127.0.0.1:{found.server_port}"
        ended.set()
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: server(500), "500"),
        (lambda: server(507), "507"),
        (lambda: server(200), "not in a valid JSON"),
        (lambda: server(200, 1.5), "Read timed out"),
    ],
)
def test_a_server_that_does_not_take_runs_costs_one_warning(
    make: Callable[[], "contextmanager[str]"], says: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(workspace.runs, record("ak_full", 1, 0.8))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "planted-token")
    reporter = RecordingReporter()
    with make() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        mlflow_view.log_runs(workspace, reporter)
    (warning,) = reporter.warnings
    assert says in warning
    assert "`repro track`" in warning
    assert "planted" not in warning
    assert not workspace.mlflow_db.exists()


def test_an_answer_without_end_is_not_waited_for(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte every now and then is within every timeout of a request."""
    write(workspace.runs, record("ak_full", 1, 0.8))
    monkeypatch.setattr(mlflow_view, "SERVER_PATIENCE", 0.5)
    monkeypatch.setattr(mlflow_view, "LAST_REQUEST", 0.5)
    reporter = RecordingReporter()
    with server(200, by_byte=5) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        mlflow_view.log_runs(workspace, reporter)
    assert "does not finish its answer" in reporter.warnings[0]


def test_a_slow_server_gets_the_rest_from_track_once(
    workspace: Workspace, mlflow_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = RecordingReporter()
    for seed in (1, 2):
        write(workspace.runs, record("ak_full", seed, 0.8))
    place = f"sqlite:///{shutil.copy(mlflow_template, tmp_path / 'elsewhere.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.chdir(tmp_path)  # MLflow's own default for artifacts
    monkeypatch.setattr(mlflow_view, "SERVER_PATIENCE", -1.0)
    mlflow_view.log_runs(workspace, reporter)
    assert "takes too long" in reporter.warnings[0]
    for _ in range(2):
        assert mlflow_view.track_runs(workspace, reporter)
    assert set(runs_of(place, "mine")) == {"ak_full", "ak_full t20_layer09 seed1", "ak_full t20_layer09 seed2"}
    assert "reused all 2" in reporter.lines[-1]
    assert not workspace.mlflow_db.exists()


def test_track_and_ui_say_what_is_missing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, code in (("track", 5), ("ui", 4)):
        done = run_repro(command, "--workspace", workspace.root)
        assert (done.code, done.err.count("\n")) == (code, 1), done.err
        assert "repro smoke" in done.err or "repro track" in done.err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:planted@host/runs")
    done = run_repro("ui", "--workspace", workspace.root)
    assert (done.code, done.err.count("\n"), "planted" in done.err) == (2, 1, False)


def test_track_adds_what_check_says_and_the_reports_figures(workspace: Workspace, database: Path) -> None:
    write_with_evidence(workspace.runs, record("ucf_hmdb", 42, 0.776))
    done = run_repro("track", "--workspace", workspace.root)
    assert done.code == 0, done.err
    (name, run), _ = sorted(runs_of(f"sqlite:///{workspace.mlflow_db}", "actiondiff-published").items(), reverse=True)
    assert name.endswith("seed42")
    assert run.data.tags["verdict"].isupper()
    (curves,) = workspace.mlflow_artifacts.rglob("figures/ucf_hmdb-epochs.png")
    before = curves.stat().st_mtime_ns
    assert curves.with_suffix(".csv").is_file()
    assert run_repro("track", "--workspace", workspace.root).code == 0
    assert curves.stat().st_mtime_ns == before


@pytest.mark.slow
def test_ui_prints_a_link_that_opens_on_the_runs_and_ends_with_ctrl_c(
    stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    mlflow_view.log_runs(workspace, reporter)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        taken.listen()
        done = run_repro("ui", "--port", port, "--workspace", workspace.root)
        assert (done.code, done.err.count("\n")) == (2, 1)
    words = [sys.executable, "-m", "repro", "ui", "--port", port, "--workspace", str(workspace.root)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    link = process.stdout.readline().strip()
    (run, _) = runs_of(f"sqlite:///{workspace.mlflow_db}", "actiondiff-published").values()
    assert link == f"http://127.0.0.1:{port}/#/experiments/{run.info.experiment_id}/runs"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(link) as page:
        assert b"MLflow" in page.read()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0
