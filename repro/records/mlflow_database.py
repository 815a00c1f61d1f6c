"""Logging run records to an MLflow database. Imports mlflow, which takes seconds: mlflow_view.py imports it when needed."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from repro.core.files import replacing_file
from repro.core.workspace import Workspace
from repro.records.record import RunRecord, StoredRun

EXPERIMENT = "actiondiff"
RUN_TAG = "repro.run"
BATCH = 1000
"""Most metrics that MLflow takes in one call."""


class StaleExperimentError(Exception):
    """The database's experiment was deleted, or its artifacts belong to another folder."""


UNUSABLE = (StaleExperimentError, MlflowException, SQLAlchemyError)
"""What logging raises if the database must be rebuilt."""


def log_missing_runs(runs: Sequence[tuple[StoredRun, RunRecord]], workspace: Workspace) -> int:
    """Log the runs that the workspace's database does not have.

    Returns:
        The number of runs logged.

    Raises:
        StaleExperimentError, MlflowException, SQLAlchemyError: the database cannot be used and must be rebuilt.
    """
    client = _open_client(workspace.mlflow_db)
    experiment_id = _find_experiment(client, workspace)
    logged = 0
    for stored, record in runs:
        found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{record.run}'")
        if any(run.info.status == "FINISHED" and _has_artifacts(run.info.artifact_uri) for run in found):
            continue
        for incomplete in found:  # of a killed process, or without its files
            client.delete_run(incomplete.info.run_id)
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


def _find_experiment(client: MlflowClient, workspace: Workspace) -> str:
    """Return the id of the experiment, which is created if it is missing.

    Raises:
        StaleExperimentError: it exists but cannot be used for this workspace.
    """
    # An experiment's artifact folder is an absolute path. A workspace that was copied or moved must not write into the
    # folder it came from.
    artifacts = (workspace.root / "mlartifacts").as_uri()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))
    if experiment.lifecycle_stage != "active":
        raise StaleExperimentError(f"its experiment '{EXPERIMENT}' was deleted")
    if experiment.artifact_location != artifacts:
        raise StaleExperimentError(f"its artifacts are in {experiment.artifact_location}")
    return str(experiment.experiment_id)


def _has_artifacts(uri: str) -> bool:
    return (Path(unquote(urlparse(uri).path)) / "record.json").is_file()


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
