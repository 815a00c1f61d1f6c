"""Trainings in MLflow while they run.

A process of its own reads the logs of the trainings (training_log.py) and sends what is new to MLflow: a server that is slow,
hangs or is down never makes a training wait, and what it misses is logged from the record. It also outlives a training that is
killed, and says so in MLflow.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from repro.core.locks import remove_partials
from repro.core.workspace import Workspace

SHOWN_AFTER = 20.0
"""Seconds. A shorter training is over before MLflow is imported, and is logged from its record at once."""
EVERY = 10.0
"""Seconds from one look at the logs to the next, and more where MLflow takes more than a quarter of that."""


@contextmanager
def show_trainings(workspace: Workspace, logs: Sequence[Path]) -> Iterator[None]:
    """Show trainings in MLflow while the block runs them, if it takes longer than SHOWN_AFTER.

    Args:
        workspace: Whose database is used, unless the environment names a server.
        logs: Of the trainings, which need not exist yet.
    """
    follower = _Follower(workspace, logs)
    timer = threading.Timer(SHOWN_AFTER, follower.start)
    # A timer that waits must not keep a process from ending.
    timer.daemon = True
    timer.start()
    try:
        yield
    except BaseException:
        timer.cancel()
        # It says in MLflow that the training ended, which this process does not wait for.
        follower.end(kill=False)
        raise
    timer.cancel()
    # What it has not sent is logged from the record, which puts right whatever it leaves but a half-made database.
    follower.end(kill=True)
    remove_partials(workspace.root, workspace.mlflow_db.name)


class _Follower:
    def __init__(self, workspace: Workspace, logs: Sequence[Path]) -> None:
        self._words = [
            sys.executable,
            "-m",
            "repro.records.mlflow_follow",
            str(EVERY),
            str(workspace.root),
            *map(str, logs),
        ]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def start(self) -> None:
        """Start the process, unless the trainings have ended."""
        with self._lock:
            if self._ended:
                return
            try:
                # In a session of its own: Ctrl-C ends the training, which it then has to say.
                self._process = subprocess.Popen(  # noqa: S603  # No shell.
                    self._words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError:  # no memory or process left: the training matters more
                return
            # Reaps it whenever it ends.
            threading.Thread(target=self._process.wait, daemon=True).start()

    def end(self, *, kill: bool) -> None:
        """End the process, at once or after what it has to say."""
        with self._lock:
            self._ended = True
        if self._process is not None and kill:
            self._process.kill()
            self._process.wait()
        elif self._process is not None:
            self._process.terminate()
