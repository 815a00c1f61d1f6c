"""A training is shown in MLflow while it runs, and its run becomes the record's."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from builders.records import record, write
from builders.reporters import RecordingReporter
from mlflow import MlflowClient
from mlflow.entities import Run

from repro.core.workspace import Workspace, tracking_from_environment
from repro.records import mlflow_follow, mlflow_live, mlflow_view
from repro.records.mlflow_follow import _Followed, _send_news
from repro.records.mlflow_names import UNRECORDED_TAG
from repro.records.record import RunRecord, StoredRun, stored_run
from repro.records.training_log import StartedRun, TrainingLogWriter, load_training_log, open_training_log


@pytest.fixture
def made() -> RunRecord:
    return record("ucf_hmdb", 42, 0.5)


@pytest.fixture
def stored(made: RunRecord, workspace: Workspace, mlflow_template: Path) -> StoredRun:
    found = stored_run(workspace.runs, made.row, made.seed, made.run)
    found.folder.mkdir(parents=True)
    shutil.copy(mlflow_template, workspace.mlflow_db)
    return found


@pytest.fixture
def server(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are logged to MLFLOW_TRACKING_URI, as with a server: here a database, by its address."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace.mlflow_db}")
    monkeypatch.chdir(tmp_path)  # MLflow's own default for artifacts


def start(stack: ExitStack, stored: StoredRun, made: RunRecord, *, resumes: bool = False) -> TrainingLogWriter:
    started = StartedRun(**{name: getattr(made, name) for name in StartedRun.model_fields})
    return stack.enter_context(open_training_log(stored.log_path, started, resumes=resumes))


def train(writer: TrainingLogWriter, made: RunRecord, first: int, last: int) -> None:
    for epoch in made.epochs[first:last]:
        writer.write_epoch(epoch, {"cpu_utilization_percentage": 50.0})


def look(workspace: Workspace, stored: StoredRun) -> Run:
    """What MLflow has after a look at the log."""
    _send_news(workspace, _Followed(stored))
    return shown(workspace)


def shown(workspace: Workspace) -> Run:
    client = MlflowClient(tracking_from_environment().uri or f"sqlite:///{workspace.mlflow_db}")
    experiment = client.get_experiment_by_name("actiondiff-published")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`repro.run` != ''")
    return run


def losses(workspace: Workspace, run: Run) -> list[tuple[int, float, int]]:
    client = MlflowClient(f"sqlite:///{workspace.mlflow_db}")
    return [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, "train/loss")]


def test_a_training_is_shown_killed_resumed_and_becomes_the_records_run(
    made: RunRecord, stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    with ExitStack() as stack:
        writer = start(stack, stored, made)
        first = look(workspace, stored)
        train(writer, made, 0, 3)
        running = look(workspace, stored)
        assert (running.info.run_id, running.info.status) == (first.info.run_id, "RUNNING")
        log = load_training_log(stored.log_path)
        assert log is not None
        assert losses(workspace, running) == [(n, e.result.train_loss, e.at) for n, e in log.epochs.items()]
        assert running.info.start_time == log.start
        assert running.data.metrics["system/cpu_utilization_percentage"] == 50
    # Nobody holds the log's lock: the process was killed.
    assert mlflow_view.track_runs(workspace, reporter)
    killed = shown(workspace)
    assert (killed.info.status, killed.info.end_time) == ("KILLED", log.epochs[3].at)
    with ExitStack() as stack:
        writer = start(stack, stored, made, resumes=True)
        train(writer, made, 2, len(made.epochs) - 1)
        assert look(workspace, stored).info.status == "RUNNING"
        train(writer, made, len(made.epochs) - 1, len(made.epochs))
        write(workspace.runs, made)
    for _ in range(2):
        assert mlflow_view.track_runs(workspace, reporter)
        finished = shown(workspace)
        assert (finished.info.run_id, finished.info.status) == (first.info.run_id, "FINISHED")
        assert [(step, value) for step, value, _ in losses(workspace, finished)] == [
            (epoch.epoch, epoch.train_loss) for epoch in made.epochs
        ]
        assert finished.data.metrics["score/measured"] == 50
        assert finished.inputs is not None
        assert len(finished.inputs.dataset_inputs) == 2


@pytest.mark.usefixtures("server")
def test_a_finished_training_is_shown_as_finished_before_its_record_is_logged(
    made: RunRecord, stored: StoredRun, workspace: Workspace
) -> None:
    """Also on a server, where no missing files show that the record is not logged."""
    with ExitStack() as stack:
        train(start(stack, stored, made), made, 0, len(made.epochs))
    write(workspace.runs, made)
    finished = look(workspace, stored)
    assert (finished.info.status, finished.data.metrics.get("score/measured")) == ("FINISHED", None)
    for _ in range(2):
        assert mlflow_view.track_runs(workspace, RecordingReporter())
        recorded = shown(workspace)
        assert (recorded.info.run_id, recorded.info.status) == (finished.info.run_id, "FINISHED")
        assert recorded.data.metrics["score/measured"] == 50
        assert UNRECORDED_TAG not in recorded.data.tags


def test_what_a_killed_training_showed_and_the_resumed_one_did_not_repeat_is_replaced(
    made: RunRecord, stored: StoredRun, workspace: Workspace, reporter: RecordingReporter
) -> None:
    with ExitStack() as stack:
        writer = start(stack, stored, made)
        writer.write_epoch(made.epochs[0].model_copy(update={"train_loss": 9.0}), {})
        former = look(workspace, stored).info.run_id
        train(writer, made, 0, len(made.epochs))
    write(workspace.runs, made)
    mlflow_view.log_runs(workspace, reporter)
    assert shown(workspace).info.run_id != former
    assert 9.0 not in {value for _, value, _ in losses(workspace, shown(workspace))}


def test_a_failed_training_says_why(made: RunRecord, stored: StoredRun, workspace: Workspace) -> None:
    with ExitStack() as stack:
        writer = start(stack, stored, made)
        train(writer, made, 0, 1)
        writer.write_failure("the loss is nan")
    failed = look(workspace, stored)
    assert (failed.info.status, failed.data.tags["failed"]) == ("FAILED", "the loss is nan")


@pytest.mark.usefixtures("server")
def test_on_a_server_a_training_of_another_workspace_is_left_alone(
    made: RunRecord, stored: StoredRun, workspace: Workspace, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        start(stack, stored, made)
        theirs = look(workspace, stored)
        other = Workspace(tmp_path / "other")
        other.require_writable()
        write(other.runs, made)
        assert mlflow_view.track_runs(other, RecordingReporter())
        client = MlflowClient(f"sqlite:///{workspace.mlflow_db}")
        found = client.search_runs([theirs.info.experiment_id], "tags.`repro.run` != ''")
        assert {run.info.status for run in found} == {"RUNNING", "FINISHED"}
        assert theirs.info.run_id in {run.info.run_id for run in found}


def test_a_short_training_starts_no_process(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_live, "SHOWN_AFTER", 0.2)
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    with mlflow_live.show_trainings(workspace, []):
        pass
    time.sleep(0.4)
    assert started == []


def test_a_process_killed_while_it_makes_the_database_leaves_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_live, "SHOWN_AFTER", 0.0)
    code = (
        "import sys, time; from pathlib import Path; from repro.core.locks import own_partial\n"
        "with own_partial(Path(sys.argv[1])) as half: half.write_text('half'); time.sleep(600)"
    )
    real, root = subprocess.Popen, workspace.root
    root.mkdir()
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, **rest: real([sys.executable, "-c", code, str(workspace.mlflow_db)], **rest)
    )
    deadline = time.monotonic() + 60
    with mlflow_live.show_trainings(workspace, []):
        while not list(root.glob(".mlflow.db.*.partial/content")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(root.iterdir())
    assert not list(root.iterdir())


TRAIN = (
    "import sys, time; from pathlib import Path\n"
    "from repro.core.workspace import Workspace; from repro.records import mlflow_live\n"
    "from repro.records.training_log import StartedRun, open_training_log\n"
    "mlflow_live.SHOWN_AFTER, mlflow_live.EVERY = 0.0, 0.2\n"
    "log = Path(sys.argv[2]); started = StartedRun.model_validate_json(sys.argv[3])\n"
    "with mlflow_live.show_trainings(Workspace(Path(sys.argv[1])), [log]):\n"
    "    with open_training_log(log, started, resumes=False): time.sleep(float(sys.argv[4]))\n"
)


def start_trainer(
    workspace: Workspace, stored: StoredRun, made: RunRecord, seconds: float
) -> "subprocess.Popen[bytes]":
    started = StartedRun(**{name: getattr(made, name) for name in StartedRun.model_fields}).model_dump_json()
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(workspace.root), str(stored.log_path), started, str(seconds)]
    )


@pytest.mark.slow
def test_a_killed_process_is_shown_as_killed_at_once(made: RunRecord, stored: StoredRun, workspace: Workspace) -> None:
    trainer = start_trainer(workspace, stored, made, 600)

    def wait_for(status: str) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if shown(workspace).info.status == status:
                    return
            except (AssertionError, ValueError):
                pass
            time.sleep(0.2)
        pytest.fail(f"not {status}")

    wait_for("RUNNING")
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    wait_for("KILLED")


def test_the_last_look_is_tried_again(
    made: RunRecord, stored: StoredRun, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        start(stack, stored, made)
        look(workspace, stored)
    tries = 0

    def send(*arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError("database is locked")
        _send_news(*arguments)

    monkeypatch.setattr(mlflow_follow, "_send_news", send)
    monkeypatch.setattr(mlflow_follow, "LOOK", 0.01)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    # The process that started this one has ended.
    parents = iter([1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 2))
    before = signal.getsignal(signal.SIGTERM)
    try:
        mlflow_follow.follow_trainings(workspace, [stored.log_path], 0.0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert tries == 3
    assert shown(workspace).info.status == "KILLED"
