"""The same runs in MLflow: a view of the run records, which can be made again from them at any time."""

import logging
import sqlite3
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from repro import atomic
from repro.runs import RunRecord, StoredRun
from repro.terminal import Reporter
from repro.workspace import Workspace, quiet_libraries

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "actiondiff"
RUN_TAG = "repro.run"


def sync(runs: Iterable[tuple[StoredRun, RunRecord]], workspace: Workspace, reporter: Reporter) -> None:
    """Bring every run into the workspace's MLflow database; runs it has already are left alone."""
    runs = list(runs)
    client = _client(workspace, reporter)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(EXPERIMENT, artifact_location=(workspace.root / "mlartifacts").as_uri())
    )
    logged = 0
    for stored, record in runs:
        found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{record.run}'")
        if any(run.info.status == "FINISHED" for run in found):
            continue
        for half_logged in found:  # left by a killed process
            client.delete_run(half_logged.info.run_id)
        _log(client, experiment_id, stored, record)
        logged += 1
    reporter.stage("mlflow", total=len(runs), reused=len(runs) - logged, made="logged", where=workspace.mlflow_db)


def _client(workspace: Workspace, reporter: Reporter) -> "MlflowClient":
    """A client of the workspace's database; one that cannot be read is set aside and made anew from the records."""
    quiet_libraries()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's import warns of its own deprecated parts
        from mlflow import MlflowClient
    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)  # tables made, versions checked: nothing a user asked about
    path = workspace.mlflow_db
    if path.is_file() and not _is_whole(path):
        aside = atomic.set_aside(path)
        _release(f"sqlite:///{path}")
        reporter.warn(
            f"{path}: not a whole MLflow database: kept as {aside.name}, making it again from the run records"
        )
    if not path.is_file():
        # Tables are made under another name, so that a killed process leaves no half-made database.
        with atomic.replacing(path) as partial:
            MlflowClient(f"sqlite:///{partial}").search_experiments()
            _release(f"sqlite:///{partial}")
    return MlflowClient(f"sqlite:///{path}")


def _is_whole(path: Path) -> bool:
    try:
        with sqlite3.connect(path) as database:
            return bool(
                database.execute("pragma quick_check").fetchone()[0] == "ok"
                and database.execute("select version_num from alembic_version").fetchone()
            )
    except sqlite3.DatabaseError:
        return False


def _release(uri: str) -> None:
    """Close the connections MLflow keeps to a database whose file is renamed."""
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
        "mlflow.runName": f"{record.row}/seed{record.seed}",
    }
    run = client.create_run(experiment_id, tags=tags)
    recipe = record.recipe.model_dump(mode="json", exclude={"note"})
    params = (
        {f"recipe.{name}": value for name, value in recipe.items()}
        | {
            "seed": record.seed,
            "row_version": record.row_version,
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
        for name, value in ({"train_loss": epoch.train_loss} | epoch.scores).items()
    ]
    for rule, chosen in (("best_epoch_on_test", record.best_epoch_on_test), ("last_epoch", record.last_epoch)):
        metrics += [Metric(f"{rule}.{name}", value, at, chosen.epoch) for name, value in chosen.scores.items()]
    metrics += [Metric(f"chance.{name}", value, at, 0) for name, value in record.chance.items()]
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
