"""The runs in MLflow: a view of the run records, which can be rebuilt from them at any time.

Nothing reads the database back. So whatever is wrong with it, the remedy is the same: set it aside and log every run again.
"""

import logging
import sqlite3
import warnings
from contextlib import closing

from repro.core.console import Reporter
from repro.core.files import set_aside
from repro.core.workspace import Workspace, quiet_libraries
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs


def log_runs(workspace: Workspace, reporter: Reporter) -> None:
    """Log every complete run of the workspace that its MLflow database does not have yet.

    A database that is unusable, or that was made when the workspace was elsewhere, is set aside and rebuilt.
    """
    runs = _load_records(workspace, reporter)
    quiet_libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at import, mlflow warns of its own deprecated parts
        # Here, because importing mlflow takes seconds: a run that fails for lack of data should fail at once.
        from repro.records import mlflow_database

    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        # They report created tables and checked versions, which are no concern of the user.
        logging.getLogger(name).setLevel(logging.ERROR)
    # SQLite is asked first: MLflow retries for minutes before it gives up on a damaged file.
    if not _is_intact(workspace):
        _set_database_aside(workspace, "not a complete database", reporter)
    try:
        logged = mlflow_database.log_missing_runs(runs, workspace)
    except mlflow_database.UNUSABLE as error:
        _set_database_aside(workspace, f"cannot be used ({' '.join(str(error).split())[:120]})", reporter)
        logged = mlflow_database.log_missing_runs(runs, workspace)
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


def _is_intact(workspace: Workspace) -> bool:
    """Whether the database file is undamaged, or missing."""
    if not workspace.mlflow_db.exists():
        return True
    try:
        with closing(sqlite3.connect(workspace.mlflow_db)) as database:
            return bool(database.execute("pragma quick_check").fetchone()[0] == "ok")
    except (sqlite3.Error, OSError):
        return False


def _set_database_aside(workspace: Workspace, why: str, reporter: Reporter) -> None:
    path = workspace.mlflow_db
    aside = set_aside(path)
    reporter.warn(f"{path}: {why}: renamed to {aside.name}, rebuilding it from the run records")
