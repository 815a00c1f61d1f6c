"""Logging run records to an MLflow database. Imports mlflow, which takes seconds: mlflow_view.py imports it when needed."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision
from sqlalchemy.exc import SQLAlchemyError

from repro.core.files import replacing_file
from repro.core.workspace import Workspace
from repro.records.record import RunRecord, StoredRun

EXPERIMENT = "actiondiff"
RUN_TAG = "repro.run"
BATCH = 1000
"""Most metrics that MLflow takes in one call."""

FAILURES = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
"""What logging raises if the database or the artifacts cannot be used."""


def find_other_schema(path: Path) -> str | None:
    """Return why the database at `path` cannot be used by this version of MLflow; None if it can, or does not exist.

    MLflow is not asked: it would upgrade some older databases without a word, and fail on others.

    Raises:
        sqlite3.Error: it is damaged or locked.
    """
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        if not tables:
            return None
        if "alembic_version" not in tables:
            return "it is a database of another program"
        found = [version for (version,) in database.execute("select version_num from alembic_version")]
    latest = _get_latest_schema_revision()  # type: ignore[no-untyped-call]
    if found == [latest]:
        return None
    return f"it is of another version of MLflow (schema {' '.join(found) or 'unfinished'}, this version has {latest})"


def log_missing_runs(
    runs: Sequence[tuple[StoredRun, RunRecord]], workspace: Workspace, report: Callable[[str], None]
) -> int:
    """Log the runs that the workspace's database does not have. The caller holds the workspace's MLflow lock.

    Args:
        runs: The runs with their records.
        workspace: Where the database is.
        report: Called with a line for what was changed in the database besides.

    Returns:
        The number of runs logged.

    Raises:
        MlflowException, SQLAlchemyError, sqlite3.Error, OSError: the database or the artifacts cannot be used.
    """
    client = _open_client(workspace.mlflow_db)
    experiment_id = _find_experiment(client, workspace, report)
    logged = 0
    for stored, record in runs:
        found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{record.run}'")
        complete = [run for run in found if run.info.status == "FINISHED" and _has_artifacts(run.info.artifact_uri)]
        for other in found:  # of a killed process, without its files, or restored together with its experiment
            if other not in complete[:1]:
                client.delete_run(other.info.run_id)
        if not complete:
            _log_run(client, experiment_id, stored, record)
            logged += 1
    return logged


def _open_client(path: Path) -> MlflowClient:
    """Return a client of the database at `path`, which is created if it is missing."""
    if not path.is_file():
        # The tables are created under another name, so that a killed process leaves no database with half of them.
        # The file may be renamed because MLflow keeps no connection open (see quiet_libraries).
        with replacing_file(path) as partial:
            MlflowClient(f"sqlite:///{partial}").search_experiments()
    return MlflowClient(f"sqlite:///{path}")


def _find_experiment(client: MlflowClient, workspace: Workspace, report: Callable[[str], None]) -> str:
    """Return the id of the experiment, which is created if it is missing, and whose artifacts are in this workspace."""
    here = workspace.mlflow_artifacts
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return str(client.create_experiment(EXPERIMENT, artifact_location=here.as_uri()))
    experiment_id = str(experiment.experiment_id)
    if experiment.lifecycle_stage != "active":
        client.restore_experiment(experiment_id)
        report(f"mlflow      experiment '{EXPERIMENT}' had been deleted: restored  {workspace.mlflow_db}")
    if not _is_same_folder(_path_of(experiment.artifact_location), here):
        _move_artifacts(workspace.mlflow_db, experiment_id, experiment.artifact_location, here.as_uri())
        report(f"mlflow      artifacts are in {here} now, were in {_path_of(experiment.artifact_location)}")
    return experiment_id


def _is_same_folder(path: Path, other: Path) -> bool:
    """Whether two paths, which need not exist, name one folder: directly or by links."""
    return path == other or path.resolve() == other.resolve()


def _move_artifacts(path: Path, experiment_id: str, before: str, now: str) -> None:
    """Change the artifact folder of the experiment and of its runs: the workspace was moved, copied or mounted elsewhere.

    MLflow stores absolute paths and has no call to change them. Nothing may be written to the folder that a copied workspace
    came from, and in a container the old path does not exist.
    """
    with closing(sqlite3.connect(path, timeout=20)) as database, database:
        database.execute("update experiments set artifact_location = ? where experiment_id = ?", (now, experiment_id))
        database.execute(
            "update runs set artifact_uri = ? || substr(artifact_uri, ?) "
            "where experiment_id = ? and substr(artifact_uri, 1, ?) = ?",
            (now, len(before) + 1, experiment_id, len(before) + 1, f"{before}/"),
        )


def _path_of(uri: str) -> Path:
    return Path(unquote(urlparse(uri).path))


def _has_artifacts(uri: str) -> bool:
    return (_path_of(uri) / "record.json").is_file()


def _log_run(client: MlflowClient, experiment_id: str, stored: StoredRun, record: RunRecord) -> None:
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
    client.log_batch(
        run.info.run_id,
        params=[Param(name, str(value)) for name, value in _list_params(record).items()],
        tags=[RunTag("repro.device", record.made.on.get("device", ""))],
    )
    metrics = _list_metrics(record, run.info.start_time)
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + BATCH])
    client.log_artifact(run.info.run_id, str(stored.record_path))
    client.log_artifact(run.info.run_id, str(stored.predictions_path))
    # Last: only a run that got all of this counts as logged.
    client.set_terminated(run.info.run_id)


def _list_params(record: RunRecord) -> dict[str, object]:
    recipe = record.recipe.model_dump(mode="json", exclude={"note"})
    return (
        {f"recipe.{name}": value for name, value in recipe.items()}
        | {
            "seed": record.seed,
            "row_version": record.row_version,
            "precision": record.precision,
            "features.key": record.features.key,
            "features.cell": record.features.cell,
            "features.precision": record.features.identity.get("precision", "fp32"),
            "train": f"{record.train.name} ({record.train.clips} clips)",
            "test": f"{record.test.name} ({record.test.clips} clips)",
            "test.sha256": record.test.sha256,
        }
        | {f"version.{name}": value for name, value in record.made.by.items()}
        | record.made.on
    )


def _list_metrics(record: RunRecord, at: int) -> list[Metric]:
    """Return every score of a run as MLflow metrics, at the time `at` (ms); the step is the epoch."""
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
        selection = getattr(record, rule)
        if selection is not None:
            metrics += [
                Metric(f"{rule}.{name}", value, at, selection.epoch) for name, value in selection.scores.items()
            ]
    for baseline in ("chance", "class_prior", "constant"):
        metrics += [Metric(f"{baseline}.{name}", value, at, 0) for name, value in getattr(record, baseline).items()]
    return metrics
