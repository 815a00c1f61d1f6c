"""The process that shows trainings in MLflow while they run: python -m repro.records.mlflow_follow SECONDS WORKSPACE LOG...

It reads the logs again and again, and what fails it tries again: whatever it does not send is logged from the record.
"""

import os
import signal
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from repro.core import LazyModule
from repro.core.locks import wait_for_lock
from repro.core.workspace import Workspace, tracking_from_environment
from repro.records.mlflow_view import import_mlflow
from repro.records.record import StoredRun
from repro.records.training_log import is_training, load_training_log

# These import mlflow: import_mlflow comes first and silences what it warns of.
if TYPE_CHECKING:
    from repro.records import mlflow_database, mlflow_live_run
else:
    mlflow_database = LazyModule("repro.records.mlflow_database")
    mlflow_live_run = LazyModule("repro.records.mlflow_live_run")

LOCK_PATIENCE = 30.0
"""Seconds to wait for another process that logs to the workspace's database."""
LAST_PATIENCE = 15.0
"""Seconds in which the last look is tried again: another process may be writing to the database."""
LOOK = 0.5
"""Seconds from one look at whether the training's process still runs to the next."""


@dataclass(slots=True)
class _Followed:
    """A training, and what of it is sent."""

    stored: StoredRun
    run_id: str = ""
    sent: set[int] = field(default_factory=set)
    over: bool = False


def follow_trainings(workspace: Workspace, logs: list[Path], seconds: float) -> None:
    """Show trainings in MLflow until the process that started this one ends, or sends SIGTERM.

    Args:
        workspace: Whose database is used, unless the environment names a server.
        logs: Of the trainings, which need not exist yet.
        seconds: From one look at the logs to the next.
    """
    trainer, ended = os.getppid(), []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    with suppress(OSError):
        os.nice(10)  # the training comes first
    import_mlflow()
    followed = [_Followed(StoredRun(path.parent)) for path in logs]
    give_up = float("inf")
    while True:
        last, failed = bool(ended) or os.getppid() != trainer, False
        started = time.monotonic()
        for training in followed:
            if not training.over:
                # Whatever fails, in MLflow or at a server.
                try:
                    _send_news(workspace, training)
                except Exception:
                    training.run_id, failed = "", True
        if last:
            give_up = min(give_up, started + LAST_PATIENCE)
            if not failed or time.monotonic() > give_up:
                return
            time.sleep(LOOK)
            continue
        until = time.monotonic() + max(seconds, 4 * (time.monotonic() - started))
        while time.monotonic() < until and not ended and os.getppid() == trainer:
            time.sleep(LOOK)


def _send_news(workspace: Workspace, training: _Followed) -> None:
    """Log what is new of a training, and end its run in MLflow if the training has ended."""
    stored = training.stored
    # Asked before the log is read, which then has all that the training wrote.
    trains = is_training(stored.log_path)
    log = load_training_log(stored.log_path)
    if log is None or log.started is None:
        return
    recorded = stored.record_path.exists()
    tracking = tracking_from_environment()
    # As every process that writes to the workspace's database. A server is not waited for by others.
    lock = (
        nullcontext()
        if tracking.uri
        else wait_for_lock(workspace.mlflow_lock, lambda: None, time.monotonic() + LOCK_PATIENCE)
    )
    with lock:
        live = mlflow_live_run.LiveRun(mlflow_database.LogRequest(workspace, lambda _: None, tracking), log)
        if not training.run_id:
            training.run_id, training.sent = live.open_run()
        live.send_epochs(training.run_id, training.sent)
        if recorded:
            live.finish_run(training.run_id)
            training.over = True  # the rest is logged from the record
        elif not trains:
            live.end_run(training.run_id)
            training.over = True


if __name__ == "__main__":
    follow_trainings(Workspace(Path(sys.argv[2])), [Path(path) for path in sys.argv[3:]], float(sys.argv[1]))
