"""The same runs in MLflow: a view of the run records, which can be made again from them at any time."""

import logging
import sqlite3
import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from repro.core.console import Reporter
from repro.core.files import replacing_file, set_aside
from repro.core.workspace import Workspace, quiet_libraries
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "actiondiff"
RUN_TAG = "repro.run"


def log_runs(workspace: Workspace, reporter: Reporter) -> None:
    """Bring every whole run of the workspace into its MLflow database; runs it has already are left alone.

    A database that cannot be used, or that was made when the workspace lay elsewhere, is set aside and made again.
    """
    runs = []
    for stored in find_runs(workspace.runs):
        try:
            record = stored.load_record()
        except DamagedRecordError as error:
            reporter.warn(f"{error}: not logged to MLflow")
            continue
        if record is not None:
            runs.append((stored, record))
    _prepare(workspace, reporter)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        logged = _log_all(runs, workspace)
    except (MlflowException, SQLAlchemyError) as error:
        _set_database_aside(workspace, f"cannot be used ({' '.join(str(error).split())[:120]})", reporter)
        logged = _log_all(runs, workspace)
    reporter.stage("mlflow", total=len(runs), reused=len(runs) - logged, made="logged", where=workspace.mlflow_db)


def _log_all(runs: list[tuple[StoredRun, RunRecord]], workspace: Workspace) -> int:
    """Log what is not there yet; returns how many runs that were."""
    client = _client(workspace)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(EXPERIMENT, artifact_location=_artifacts(workspace))
    )
    logged = 0
    for stored, record in runs:
        found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{record.run}'")
        if any(run.info.status == "FINISHED" and _has_artifacts(run.info.artifact_uri) for run in found):
            continue
        for half_logged in found:  # left by a killed process, or without its files
            client.delete_run(half_logged.info.run_id)
        _log(client, experiment_id, stored, record)
        logged += 1
    return logged


def _has_artifacts(uri: str) -> bool:
    return (Path(unquote(urlparse(uri).path)) / "record.json").is_file()


def _set_database_aside(workspace: Workspace, why: str, reporter: Reporter) -> None:
    path = workspace.mlflow_db
    _release(f"sqlite:///{path}")
    aside = set_aside(path)
    reporter.warn(f"{path}: {why}: kept as {aside.name}, making it again from the run records")


def _prepare(workspace: Workspace, reporter: Reporter) -> None:
    """Import MLflow, quietly, and set aside a file that is no database of its."""
    quiet_libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's import warns of its own deprecated parts
        import mlflow  # noqa: F401
    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)  # tables made, versions checked: nothing a user asked about
    why = _unusable(workspace)
    if why:
        _set_database_aside(workspace, why, reporter)


def _client(workspace: Workspace) -> "MlflowClient":
    """A client of the workspace's database, which is made where there is none."""
    from mlflow import MlflowClient

    path = workspace.mlflow_db
    if not path.is_file():
        # Tables are made under another name, so that a killed process leaves no half-made database.
        with replacing_file(path) as partial:
            MlflowClient(f"sqlite:///{partial}").search_experiments()
            _release(f"sqlite:///{partial}")
    return MlflowClient(f"sqlite:///{path}")


def _unusable(workspace: Workspace) -> str:
    """Why the workspace's database cannot be used, "" where it can or is not there; asked of SQLite itself, since MLflow
    holds on to a database it has once opened."""
    if not workspace.mlflow_db.exists():
        return ""
    try:
        with closing(sqlite3.connect(workspace.mlflow_db)) as database:
            whole = database.execute("pragma quick_check").fetchone()[0] == "ok"
            if not whole or not database.execute("select version_num from alembic_version").fetchone():
                return "not a whole MLflow database"
            experiment = database.execute(
                "select lifecycle_stage, artifact_location from experiments where name = ?", (EXPERIMENT,)
            ).fetchone()
    except (sqlite3.Error, OSError):
        return "not a whole MLflow database"
    if experiment is None:
        return ""
    if experiment[0] != "active":
        return f"its experiment '{EXPERIMENT}' was deleted"
    return "" if experiment[1] == _artifacts(workspace) else f"made for {experiment[1]}"


def _artifacts(workspace: Workspace) -> str:
    return (workspace.root / "mlartifacts").as_uri()


def _release(uri: str) -> None:
    """Close the connections MLflow keeps to a database whose file is renamed."""
    if "mlflow" not in sys.modules:
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engines = getattr(SqlAlchemyStore, "_engine_map", {})
    engine = engines.pop(uri, None)
    if engine is not None:
        engine.dispose()


def _log(client: "MlflowClient", experiment_id: str, stored: StoredRun, record: RunRecord) -> None:
    from mlflow.entities import Metric, Param, RunTag

    tags = {
        RUN_TAG: record.run,
        "repro.group": record.group,
        "repro.row": record.row,
        "repro.kind": record.kind,
        "repro.protocol": record.protocol,
        "repro.complete": str(record.complete).lower(),
        "mlflow.runName": f"{record.row}/seed{record.seed}",
    }
    run = client.create_run(experiment_id, tags=tags)
    recipe = record.recipe.model_dump(mode="json", exclude={"note"})
    params = (
        {f"recipe.{name}": value for name, value in recipe.items()}
        | {
            "seed": record.seed,
            "row_version": record.row_version,
            "precision": record.precision,
            "features.key": record.features.key,
            "features.cell": record.features.cell,
            "train": f"{record.train.name} ({record.train.clips} clips)",
            "test": f"{record.test.name} ({record.test.clips} clips)",
            "test.sha256": record.test.sha256,
        }
        | {f"version.{name}": value for name, value in record.made.by.items()}
        | record.made.on
    )
    at = run.info.start_time
    metrics = [
        Metric(name, value, at, epoch.epoch)
        for epoch in record.epochs
        for name, value in (
            {"train_loss": epoch.train_loss}
            | epoch.scores
            | {f"held_out.{name}": value for name, value in (epoch.held_out or {}).items()}
        ).items()
    ]
    for rule in ("best_epoch_on_test", "last_epoch", "best_epoch_on_held_out"):
        chosen = getattr(record, rule)
        if chosen is not None:
            metrics += [Metric(f"{rule}.{name}", value, at, chosen.epoch) for name, value in chosen.scores.items()]
    for guesser in ("chance", "class_prior", "constant"):
        metrics += [Metric(f"{guesser}.{name}", value, at, 0) for name, value in getattr(record, guesser).items()]
    client.log_batch(
        run.info.run_id,
        params=[Param(name, str(value)) for name, value in params.items()],
        tags=[RunTag("repro.device", record.made.on.get("device", ""))],
    )
    for start in range(0, len(metrics), 1000):  # MLflow's limit of one batch
        client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
    client.log_artifact(run.info.run_id, str(stored.record_path))
    client.log_artifact(run.info.run_id, str(stored.predictions_path))
    client.set_terminated(run.info.run_id)
