"""The runs in MLflow: a view of the run records, which can be rebuilt from them at any time.

One process writes at a time; the others wait, and each logs every run that is missing when its turn comes. A damaged database
is renamed and built again from the records. A healthy one never is, because a user may have other experiments in it.
"""

import logging
import math
import re
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from types import ModuleType
from typing import TYPE_CHECKING

from repro.core import LazyModule
from repro.core.console import Reporter
from repro.core.errors import UsageError, hide_logins, state_reason
from repro.core.files import set_aside
from repro.core.locks import own_partial, wait_for_lock
from repro.core.workspace import Tracking, Workspace, quiet_libraries, tracking_from_environment
from repro.records.mlflow_artifacts import JOURNALS, require_own_files
from repro.records.mlflow_names import has_all_runs
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs
from repro.records.training_log import find_ended_logs

# These import mlflow, which takes seconds; import_mlflow comes first and silences what it warns of.
if TYPE_CHECKING:
    from repro.records import mlflow_database, mlflow_live_run
else:
    mlflow_database = LazyModule("repro.records.mlflow_database")
    mlflow_live_run = LazyModule("repro.records.mlflow_live_run")

PATIENCE = 300.0
"""Seconds to wait for a database that another program holds locked. The processes of this project wait without a limit."""
SERVER_PATIENCE = 30.0
"""Seconds after which a command that made runs starts no further request to a server to log them."""
LAST_REQUEST = 30.0
"""Seconds more, after which it leaves a request that has not ended: an answer of a byte a second is within MLflow's own limit."""

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def log_runs(workspace: Workspace, reporter: Reporter) -> None:
    """Log every complete run of the workspace that MLflow does not have yet, after a command that made runs.

    A server of MLFLOW_TRACKING_URI that does not take them costs a warning and at most SERVER_PATIENCE and LAST_REQUEST after
    MLflow is imported: `repro track` logs them later.

    Raises:
        UsageError: the workspace's database or its artifacts cannot be written. The run records are complete.
    """
    if not tracking_from_environment().uri:
        if not _report_all_logged(workspace, reporter):
            track_runs(workspace, reporter)
        return
    import_mlflow()
    failures: list[UsageError] = []

    def track() -> None:
        try:
            track_runs(workspace, reporter, patience=SERVER_PATIENCE)
        except UsageError as error:
            failures.append(error)

    # A daemon, which ends with the command.
    thread = threading.Thread(target=track, daemon=True)
    thread.start()
    thread.join(SERVER_PATIENCE + LAST_REQUEST)
    if thread.is_alive():
        failures.insert(0, _explain_unlogged(tracking_from_environment(), "it does not finish its answer"))
    for error in failures[:1]:
        reporter.warn(str(error))


def track_runs(
    workspace: Workspace,
    reporter: Reporter,
    *,
    rebuild: bool = False,
    patience: float = math.inf,
    verdicts: Mapping[str, str] | None = None,
    figures: Mapping[str, "mlflow_database.RunFigures"] | None = None,
) -> bool:
    """Log every complete run of the workspace that MLflow does not have yet; returns whether it has all now.

    In the workspace's database, waits for other processes that log, and for a database that is locked. A database of another
    version of MLflow is left as it is, which is reported.

    Args:
        workspace: Whose runs.
        reporter: Where progress and warnings are reported.
        rebuild: Delete what was logged of this project before. A database of another version of MLflow is renamed.
        patience: Seconds to try a server for.
        verdicts: What `repro check` says, by the key of each run that it judged.
        figures: Of the runs under a parent, by the key that they share.

    Raises:
        UsageError: the database, the server or the artifacts cannot be written. The run records are complete.
    """
    tracking, mlflow_database = tracking_from_environment(), import_mlflow()
    deadline = time.monotonic() + patience
    request = mlflow_database.LogRequest(
        workspace, reporter.line, tracking, rebuild, deadline, verdicts or {}, figures or {}
    )
    try:
        # Only a server's deadline: a database is waited for as long as another process logs to it.
        with wait_for_lock(
            workspace.mlflow_lock,
            lambda: reporter.line("mlflow      waiting for another process that logs its runs"),
            deadline if tracking.uri else math.inf,
        ):
            # Read only now: the next process to hold the lock logs what was recorded meanwhile.
            runs = _load_records(workspace, reporter.warn)
            logged = _log_and_end(runs, request) if tracking.uri else _log_to_database(runs, request, reporter)
    except UsageError:
        raise
    except Exception as error:
        if not tracking.uri:
            raise
        # Whatever a server answers, and whatever mlflow makes of it: the runs are recorded.
        raise _explain_unlogged(tracking, _describe_failure(error, tracking)) from error
    if logged is None:
        return False
    _report_logged(workspace, tracking, len(runs), logged, reporter)
    return True


def _report_all_logged(workspace: Workspace, reporter: Reporter) -> bool:
    """Report that the workspace's database has all runs, if it has; importing MLflow to find that out takes seconds."""
    tracking, problems = tracking_from_environment(), list[str]()
    runs = _load_records(workspace, problems.append)
    if problems or not has_all_runs(workspace, tracking, runs):
        return False
    _report_logged(workspace, tracking, len(runs), 0, reporter)
    return True


def _report_logged(workspace: Workspace, tracking: Tracking, total: int, logged: int, reporter: Reporter) -> None:
    reporter.stage(
        "mlflow",
        total=total,
        reused=total - logged,
        made="logged",
        why=tracking.shown,
        where=None if tracking.uri else workspace.mlflow_db,
    )


def find_shown_experiment(workspace: Workspace) -> str:
    """Return the id of the experiment whose runs are shown first.

    Raises:
        UsageError: the database or the server cannot be used, or has no runs of this project.
    """
    tracking = tracking_from_environment()
    if not tracking.uri:
        require_own_files(workspace)
    mlflow_database, place = import_mlflow(), tracking.shown or str(workspace.mlflow_db)
    try:
        other = None if tracking.uri else mlflow_database.find_other_schema(workspace.mlflow_db)
        found = None if other else mlflow_database.find_experiment_id(tracking, workspace.mlflow_db)
    except Exception as error:
        raise UsageError(
            f"{place}: cannot be read ({_describe_failure(error, tracking)}): check it, or run `repro track`"
        ) from error
    if found is None:
        raise UsageError(
            f"{place}: {other or 'no runs of this project are logged'}: `repro track{' --rebuild' if other else ''}` logs them"
        )
    return str(found)


def import_mlflow() -> ModuleType:
    """Import the module that logs, and mlflow with it, quietly."""
    quiet_libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at import, mlflow warns of its own deprecated parts
        # Here, because importing mlflow takes seconds: a run that fails for lack of data should fail at once. Before the lock
        # is taken, so that processes that wait for it do so at the same time.
        from repro.records import mlflow_database

    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "sqlalchemy.pool", "urllib3"):
        # They report created tables, checked versions, retries, and errors and interrupts that are raised as well.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow_database


def _explain_unlogged(tracking: Tracking, reason: str) -> UsageError:
    return UsageError(
        f"MLFLOW_TRACKING_URI {tracking.shown}: not all runs are logged to MLflow ({reason}): "
        "the run records are complete: check address and server, then `repro track` logs what is missing"
    )


def _describe_failure(error: Exception, tracking: Tracking) -> str:
    text = state_reason(error, most=None)
    # urllib3 states what happened last, after all that it tried.
    cause = re.search(r"Caused by \w+\([\"'](.*)[\"']\)", text)
    text = cause[1] if cause else text
    # Servers and proxies may answer with what they were sent; and credentials may be anywhere in an address.
    for secret in tracking.secrets:
        text = text.replace(secret, "...")
    return hide_logins(text)[:160]


def _log_to_database(
    runs: list[tuple[StoredRun, RunRecord]], request: "mlflow_database.LogRequest", reporter: Reporter
) -> int | None:
    """Log to the workspace's database; returns how many runs were logged, or None if it could not be used, which was reported."""
    workspace, deadline = request.workspace, time.monotonic() + PATIENCE
    tried_again = False
    require_own_files(workspace)
    while True:
        try:
            if not _wait_until_unlocked(workspace, deadline, reporter):
                return None
            if not _is_intact(workspace):
                _set_database_aside(workspace, reporter, "not a complete database")
            other = mlflow_database.find_other_schema(workspace.mlflow_db)
            if other is not None and request.rebuild:
                _set_database_aside(workspace, reporter, other)
            elif other is not None:
                reporter.warn(
                    f"{workspace.mlflow_db}: {other}: left as it is, and the runs are not logged: to have them logged, run "
                    f"`repro track --rebuild`, which renames it, or make a copy and run 'mlflow db upgrade sqlite:///{workspace.mlflow_db}'"
                )
                return None
            return _log_and_end(runs, request)
        except mlflow_database.FAILURES as error:
            code = _find_sqlite_code(error)
            # Locked or found damaged while it was written: the next round waits for it, or renames it.
            if code in LOCKED or (code in DAMAGED and time.monotonic() < deadline):
                continue
            refusal = _ask_disk(workspace)
            # A journal that was refused once, as on a disk that was full for a moment. SQLite does not say why.
            if code == sqlite3.SQLITE_CANTOPEN and not refusal and not tried_again:
                tried_again = True
                continue
            # SQLAlchemy states first what it was doing, and last the query, both at length.
            reason = re.sub(
                r"\(raised as a result of .*?\) (?=\()| *\[SQL: .*| *\(Background on .*",
                "",
                state_reason(error, most=None),
            )
            raise UsageError(
                f"{workspace.mlflow_db}: runs cannot be logged to MLflow ({reason[:120]}{refusal}): the run "
                "records are complete: free space or correct the path, then `repro track` logs them"
            ) from error


def _ask_disk(workspace: Workspace) -> str:
    """Return why no file can be written in the workspace; empty if one can. SQLite says no more than that it cannot open a file."""
    try:
        with own_partial(workspace.root / "writable"):
            return ""
    except OSError as error:
        return f"; {state_reason(error.strerror or error)}"


def _log_and_end(runs: list[tuple[StoredRun, RunRecord]], request: "mlflow_database.LogRequest") -> int:
    """Log the records, and mark the runs of trainings that ended without one; returns how many records were logged."""
    logged = mlflow_database.log_missing_runs(runs, request)
    for log in find_ended_logs(request.workspace.runs):
        mlflow_live_run.LiveRun(request, log).end_if_running()
    return logged


def _load_records(workspace: Workspace, warn: Callable[[str], None]) -> list[tuple[StoredRun, RunRecord]]:
    runs = []
    for stored in find_runs(workspace.runs):
        try:
            record = stored.load_record()
        except DamagedRecordError as error:
            warn(f"{error}: not logged to MLflow")
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
                "to MLflow: close that program; `repro track` logs them"
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

    def check() -> bool:
        try:
            with closing(sqlite3.connect(workspace.mlflow_db)) as database:
                return bool(database.execute("pragma quick_check").fetchone()[0] == "ok")
        except sqlite3.Error as error:
            if _find_sqlite_code(error) in DAMAGED:
                return False
            raise

    # Twice, because SQLite takes a page for damaged that the disk failed to give once.
    return check() or check()


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


def _set_database_aside(workspace: Workspace, reporter: Reporter, why: str) -> None:
    path = workspace.mlflow_db
    aside = set_aside(path)
    # With its journals, which SQLite would otherwise apply to the new database.
    for ending in JOURNALS:
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).replace(aside.with_name(aside.name + ending))
    reporter.warn(f"{path}: {why}: renamed to {aside.name}, rebuilding it from the run records")
