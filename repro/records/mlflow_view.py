"""The runs in MLflow: a view of the run records, which can be rebuilt from them at any time.

One process writes at a time; the others wait, and each logs every run that is missing when its turn comes. A damaged database
is renamed and built again from the records. A healthy one never is, because a user may have other experiments in it.
"""

import logging
import sqlite3
import time
import warnings
from contextlib import closing, suppress

from repro.core.console import Reporter
from repro.core.errors import UsageError
from repro.core.files import set_aside
from repro.core.locks import wait_for_lock
from repro.core.workspace import Workspace, quiet_libraries
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs

PATIENCE = 300.0
"""Seconds to wait for a database that another program holds locked. The processes of this project wait without a limit."""
JOURNALS = ("-journal", "-wal", "-shm")
"""Endings of the files that SQLite keeps next to a database and applies to whatever database has its name."""

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def log_runs(workspace: Workspace, reporter: Reporter) -> None:
    """Log every complete run of the workspace that its MLflow database does not have yet.

    Waits for other processes that log, and for a database that is locked. A database of another version of MLflow is left as
    it is, which is reported.

    Raises:
        UsageError: the database or its artifacts cannot be written. The run records are complete.
    """
    quiet_libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at import, mlflow warns of its own deprecated parts
        # Here, because importing mlflow takes seconds: a run that fails for lack of data should fail at once. Before the lock
        # is taken, so that processes that wait for it do so at the same time.
        from repro.records import mlflow_database

    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        # They report created tables, checked versions and errors that are raised as well.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with wait_for_lock(
        workspace.mlflow_lock, lambda: reporter.line("mlflow      waiting for another process that logs its runs")
    ):
        # Read only now: the next process to hold the lock logs what was recorded meanwhile.
        runs = _load_records(workspace, reporter)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if not _wait_until_unlocked(workspace, deadline, reporter):
                    return
                if not _is_intact(workspace):
                    _set_database_aside(workspace, reporter)
                other = mlflow_database.find_other_schema(workspace.mlflow_db)
                if other is not None:
                    reporter.warn(
                        f"{workspace.mlflow_db}: {other}: left as it is, and the runs are not logged: to have them logged, "
                        f"move it elsewhere, or make a copy and run 'mlflow db upgrade sqlite:///{workspace.mlflow_db}'"
                    )
                    return
                logged = mlflow_database.log_missing_runs(runs, workspace, reporter.line)
            except mlflow_database.FAILURES as error:
                code = _find_sqlite_code(error)
                # Locked or found damaged while it was written: the next round waits for it, or renames it.
                if code in LOCKED or (code in DAMAGED and time.monotonic() < deadline):
                    continue
                raise UsageError(
                    f"{workspace.mlflow_db}: runs cannot be logged to MLflow ({' '.join(str(error).split())[:120]}): the run "
                    "records are complete: free space or correct the path, then run the command again to log them"
                ) from error
            break
    reporter.stage("mlflow", total=len(runs), reused=len(runs) - logged, made="logged", where=workspace.mlflow_db)


def _load_records(workspace: Workspace, reporter: Reporter) -> list[tuple[StoredRun, RunRecord]]:
    runs = []
    for stored in find_runs(workspace.runs):
        try:
            record = stored.load_record()
        except DamagedRecordError as error:
            reporter.warn(f"{error}: not logged to MLflow")
            continue
        if record is not None:
            runs.append((stored, record))
    return runs


def _wait_until_unlocked(workspace: Workspace, deadline: float, reporter: Reporter) -> bool:
    """Wait until no other program holds the database locked; returns whether that happened before the deadline."""
    path = workspace.mlflow_db
    if not path.exists():
        return True
    reported = False
    while True:
        try:
            # MLflow itself would retry for a while and then fail.
            with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as database:
                # Exclusive, because a program that only reads also keeps others from committing.
                database.execute("begin exclusive")
                database.execute("rollback")
            return True
        except sqlite3.Error as error:
            if _find_sqlite_code(error) not in LOCKED:
                return True  # anything else is reported by the steps that follow
        if time.monotonic() > deadline:
            reporter.warn(
                f"{path}: locked by another program for {PATIENCE / 60:.0f} minutes: the runs are recorded and not yet logged "
                "to MLflow: close that program; the next command that trains a row logs them"
            )
            return False
        if not reported:
            reported = True
            reporter.line(f"mlflow      waiting for another program that holds the database locked  {path}")


def _is_intact(workspace: Workspace) -> bool:
    """Whether the database file is undamaged, or missing.

    Raises:
        sqlite3.Error: that cannot be found out, because it is locked or cannot be read.
    """
    if not workspace.mlflow_db.exists():
        return True
    try:
        with closing(sqlite3.connect(workspace.mlflow_db)) as database:
            return bool(database.execute("pragma quick_check").fetchone()[0] == "ok")
    except sqlite3.Error as error:
        if _find_sqlite_code(error) in DAMAGED:
            return False
        raise


def _find_sqlite_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code of the error that caused `error`, or None if SQLite did not."""
    cause: BaseException | None = error
    while cause is not None:
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None:
            return int(code) & 0xFF
        # SQLAlchemy keeps the driver's error as `orig`, MLflow keeps SQLAlchemy's as its cause.
        cause = getattr(cause, "orig", None) or cause.__cause__ or cause.__context__
    return None


def _set_database_aside(workspace: Workspace, reporter: Reporter) -> None:
    path = workspace.mlflow_db
    aside = set_aside(path)
    # With its journals, which SQLite would otherwise apply to the new database.
    for ending in JOURNALS:
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).replace(aside.with_name(aside.name + ending))
    reporter.warn(f"{path}: not a complete database: renamed to {aside.name}, rebuilding it from the run records")
