"""Logging run records to MLflow. Imports mlflow, which takes seconds: mlflow_view.py imports it when needed.

An experiment a table; in it a parent run for all runs that differ in cell and seed alone, and under it a run for each record.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision
from sqlalchemy.exc import SQLAlchemyError

from repro.core.files import replacing_file
from repro.core.workspace import Tracking, Workspace
from repro.records.mlflow_artifacts import (
    delete_artifacts,
    is_address_of,
    is_own_folder,
    local_path,
    move_artifacts,
    require_own_files,
)
from repro.records.mlflow_model import delete_model, log_model
from repro.records.mlflow_names import (
    EXPERIMENT,
    FIGURES_TAG,
    LIVE_TAG,
    MLFLOW_PARENT_TAG,
    MODEL_TAG,
    OWN_TAG,
    PARENT_TAG,
    RUN_TAG,
    UNRECORDED_TAG,
    VERDICT_TAG,
    VIEW,
    VIEW_TAG,
    name_experiment,
    parent_key,
    table_cell,
    table_of,
)
from repro.records.mlflow_run import (
    describe_parent,
    list_inputs,
    list_metrics,
    list_params,
    list_parent_metrics,
    list_run_tags,
    list_tags,
    matching_log,
    parent_name,
    run_name,
    times_of,
)
from repro.records.record import RunRecord, StoredRun
from repro.records.training_log import TrainingLog, load_training_log

TABLES = ("published", "own", "extras", "smoke")
NOTE = "Made from the run records by `repro track`, which can rebuild it at any time. Scores are in points."
BY_EPOCH = ("train/", "test/", "held_out/", "system/")
"""What metrics of an epoch begin with."""
BATCH = 1000
"""Most metrics that MLflow takes in one call."""
PAGE_SIZE = 1000
"""Runs that are asked for at once."""

FAILURES = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
"""What logging raises if the database or the artifacts cannot be used."""


@cache
def read_latest_schema() -> str:
    """Return the schema of this version of MLflow. It imports dozens of migrations to find it."""
    return str(_get_latest_schema_revision())  # type: ignore[no-untyped-call]


def find_other_schema(path: Path) -> str | None:
    """Return why the database at `path` cannot be used by this version of MLflow; None if it can, or does not exist.

    MLflow is not asked: it would upgrade some older databases without a word, and fail on others.

    Raises:
        sqlite3.Error: it is damaged or locked.
    """
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as database:
        # Read with sqlite3: opened by MLflow, an empty database gets its tables, and one of another version is an exception.
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        if not tables:
            return None
        if "alembic_version" not in tables:
            return "it is a database of another program"
        found = [version for (version,) in database.execute("select version_num from alembic_version")]
    latest = read_latest_schema()
    if found == [latest]:
        return None
    return f"it is of another version of MLflow (schema {' '.join(found) or 'unfinished'}, this version has {latest})"


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Figures of the runs under a parent."""

    key: str
    """Changes if the figures do."""
    write_files: Callable[[Path], None]
    """Writes them to a folder."""


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Where runs are logged, and how.

    Args:
        workspace: Whose records are logged. The caller holds its MLflow lock.
        report: Called with a line for what was changed besides.
        tracking: The server and the experiment that the environment names [default: the workspace's database].
        rebuild: Delete the runs that were logged before, and log all.
        deadline: `time.monotonic()` after which no further run is logged.
        verdicts: What `repro check` says, by the key of each run that it judged.
        figures: Of the runs under a parent, by the key that they share.
    """

    workspace: Workspace
    report: Callable[[str], None]
    tracking: Tracking = field(default_factory=Tracking)
    rebuild: bool = False
    deadline: float = math.inf
    verdicts: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, RunFigures] = field(default_factory=dict)

    def check_time(self) -> None:
        """Raise TimeoutError after the deadline."""
        if time.monotonic() > self.deadline:
            raise TimeoutError("it takes too long")


def log_missing_runs(runs: Sequence[tuple[StoredRun, RunRecord]], request: LogRequest) -> int:
    """Log the runs that the experiments do not have.

    Returns:
        The number of runs logged.

    Raises:
        MlflowException, SQLAlchemyError, sqlite3.Error, OSError: the database, server or artifacts cannot be used.
    """
    tracking = request.tracking
    # A server creates its own database; the workspace's is created complete.
    client = MlflowClient(tracking.uri) if tracking.uri else open_client(request.workspace)
    experiments: dict[str, list[tuple[StoredRun, RunRecord]]] = {}
    for stored, record in runs:
        experiments.setdefault(name_experiment(tracking, table_of(record)), []).append((stored, record))
    if request.rebuild:
        # Also those whose records are gone.
        for name in dict.fromkeys((EXPERIMENT, *(name_experiment(tracking, table) for table in TABLES))):
            if client.get_experiment_by_name(name) is not None:
                experiments.setdefault(name, [])
    elif not tracking.uri:
        _delete_former_runs(client, request)
    opened = [(_Experiment(client, name, request), members) for name, members in experiments.items()]
    logged = sum(experiment.log_runs(members) for experiment, members in opened)
    # Last: it takes the most time, and nothing else waits for it. A server gets them from a command that has the time.
    if request.deadline == math.inf:
        models = sum(experiment.log_models() for experiment, _ in opened)
        if models:
            request.report(
                f"mlflow      {models} readout{'s logged as models' if models > 1 else ' logged as a model'}"
            )
        for experiment, _ in opened:
            experiment.log_figures()
    return logged


def find_experiment_id(tracking: Tracking, database: Path) -> str | None:
    """Return the id of the first experiment that has runs of this project, the published table's first; None if none has."""
    client = MlflowClient(tracking.uri or f"sqlite:///{database}")
    for table in TABLES:
        found = client.get_experiment_by_name(name_experiment(tracking, table))
        if found is not None and found.lifecycle_stage == "active":
            return str(found.experiment_id)
    return None


def _delete_former_runs(client: MlflowClient, request: LogRequest) -> None:
    """Delete the runs that versions up to 0.1.0 logged to one experiment for all tables. MLflow can restore them."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None or experiment.lifecycle_stage != "active":
        return
    # Runs of this project have the first tag, and those of the present format the second too.
    former = [
        run
        for run in _search_runs(client, experiment.experiment_id, ViewType.ACTIVE_ONLY)
        if RUN_TAG in run.data.tags and VIEW_TAG not in run.data.tags
    ]
    for run in former:
        client.delete_run(run.info.run_id)
    if former:
        request.report(
            f"mlflow      {len(former)} runs of an earlier format in experiment '{EXPERIMENT}' deleted, logging them again"
        )


def _search_runs(client: MlflowClient, experiment_id: str, view: int) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment_id], run_view_type=view, max_results=PAGE_SIZE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@dataclass(slots=True)
class _Experiment:
    """One experiment, and the runs of this project in it."""

    client: MlflowClient
    name: str
    request: LogRequest
    id: str = ""
    runs: dict[str, list[Run]] = field(default_factory=dict)
    """By the key of the record's run."""
    parents: dict[str, list[Run]] = field(default_factory=dict)
    """By the key that the runs under one parent share."""
    without_model: list[tuple[str, StoredRun, RunRecord]] = field(default_factory=list)
    """Ids and records of the logged runs whose readout is to be logged."""
    without_figures: list[tuple[str, RunFigures]] = field(default_factory=list)
    """Ids of the parents whose figures are to be logged."""

    def log_runs(self, records: Sequence[tuple[StoredRun, RunRecord]]) -> int:
        self.id = find_experiment(self.client, self.name, self.request)
        self._read_runs()
        families: dict[str, list[tuple[StoredRun, RunRecord]]] = {}
        for stored, record in records:
            families.setdefault(parent_key(record), []).append((stored, record))
        return sum(self._log_family(key, members) for key, members in families.items())

    def log_models(self) -> int:
        """Log the readouts that log_runs found missing; returns how many there are."""
        local = not self.request.tracking.uri
        return sum(
            log_model(self.client, self.id, run, stored, record, local=local)
            for run, stored, record in self.without_model
        )

    def log_figures(self) -> None:
        """Log to parents the figures that they do not have."""
        for run, figures in self.without_figures:
            with TemporaryDirectory() as place:
                figures.write_files(Path(place))
                self.client.log_artifacts(run, place, "figures")
            # After the files: a killed process leaves a parent without the tag, whose figures are logged again.
            self.client.set_tag(run, FIGURES_TAG, figures.key)

    def _read_runs(self) -> None:
        rebuild = self.request.rebuild
        for run in _search_runs(self.client, self.id, ViewType.ALL if rebuild else ViewType.ACTIVE_ONLY):
            tags = run.data.tags
            if RUN_TAG not in tags and PARENT_TAG not in tags:
                continue  # of somebody else
            if rebuild:
                self._delete_for_good(run)
            elif tags.get(VIEW_TAG) != VIEW:
                self._delete_run(run)
            else:
                known, tag = (self.runs, RUN_TAG) if RUN_TAG in tags else (self.parents, PARENT_TAG)
                known.setdefault(tags[tag], []).append(run)

    def _delete_run(self, run: Run) -> None:
        """Delete a run and its model; MLflow can restore both, without the files of a model in the workspace."""
        if MODEL_TAG in run.data.tags:
            delete_model(self.client, run.data.tags[MODEL_TAG], self._own_folder)
        if run.info.lifecycle_stage == "active":
            self.client.delete_run(run.info.run_id)

    @property
    def _own_folder(self) -> Path | None:
        """The folder of artifacts that may be deleted; None on a server."""
        return None if self.request.tracking.uri else self.request.workspace.mlflow_artifacts

    def _delete_for_good(self, run: Run) -> None:
        self._delete_run(run)
        if self._own_folder is None:
            return  # a server has no call for more than that; whoever runs it has `mlflow gc`
        # As `mlflow gc` does.
        # delete_run only marks a run as deleted: its rows and files would stay in the workspace.
        store = self.client._tracking_client.store
        store._hard_delete_run(run.info.run_id)
        delete_artifacts(run.info.artifact_uri, self._own_folder)

    def _log_family(self, key: str, members: Sequence[tuple[StoredRun, RunRecord]]) -> int:
        """Log the runs that differ in cell and seed alone, under one parent."""
        self.request.check_time()
        records = [record for _, record in members]
        cell = table_cell(records)
        parent, others = self._find_parent(key, members)
        logged = 0
        for stored, record in members:
            found = self.runs.get(record.run, [])
            complete = [run for run in found if _is_recorded(run) and self._has_artifacts(run)]
            live = None if complete or not found else self._find_live_run(found, stored, record)
            for other in found:  # of a killed process, without its files, or restored together with its experiment
                if other not in complete[:1] and other is not live and not self._is_elsewhere(other, stored):
                    self._delete_run(other)
            if complete:
                if complete[0].data.tags.get(MLFLOW_PARENT_TAG) != parent.info.run_id:
                    self.client.set_tag(complete[0].info.run_id, MLFLOW_PARENT_TAG, parent.info.run_id)
                self._set_verdict(complete[0], record)
                run_id = complete[0].info.run_id
            else:
                self.request.check_time()
                run_id = self._log_run(stored, record, parent.info.run_id, live)
                # Reused ones are not counted: the line printed is of what this command added.
                logged += 1
            # Of the cell that the table uses: the readouts of all cells of a grid would be many GB on a server.
            if record.features.cell == cell and not (complete and MODEL_TAG in complete[0].data.tags):
                self.without_model.append((run_id, stored, record))
        for other in others:
            self.client.delete_run(other.info.run_id)
        if logged or parent.info.status != "FINISHED":
            self.client.log_batch(parent.info.run_id, metrics=list_parent_metrics(records))
            # By the logs, as the start: records have seconds alone, and an end before the start is a negative duration.
            ends = [times_of(record, _load_log(stored, record))[1] for stored, record in members]
            self.client.set_terminated(parent.info.run_id, end_time=max(ends))
        self._set_verdict(parent, *records)
        figures = self.request.figures.get(key)
        if figures is not None and parent.data.tags.get(FIGURES_TAG) != figures.key:
            self.without_figures.append((parent.info.run_id, figures))
        return logged

    def _find_parent(self, key: str, members: Sequence[tuple[StoredRun, RunRecord]]) -> tuple[Run, list[Run]]:
        """Return the parent, which is created if it is missing, and others of the same key, which nothing needs."""
        found = self.parents.get(key, [])
        kept = next(filter(self._may_write, found), None)
        others = [run for run in found if run is not kept]
        if kept is not None:
            return kept, others
        record, start = members[0][1], min(times_of(record, _load_log(stored, record))[0] for stored, record in members)
        tags = list_tags(record) | {PARENT_TAG: key, "mlflow.note.content": describe_parent(record)}
        return self.client.create_run(self.id, start_time=start, tags=tags, run_name=parent_name(record)), others

    def _find_live_run(self, found: Sequence[Run], stored: StoredRun, record: RunRecord) -> Run | None:
        """Return the run that showed the training of a record, if what it showed is what the record has."""
        log = load_training_log(stored.log_path)
        losses = {epoch.epoch: {epoch.train_loss} for epoch in record.epochs}
        for run in found:
            if log is not None and log.token and run.data.tags.get(LIVE_TAG) == log.token and self._may_write(run):
                # An epoch that was trained again after a kill may differ, on a GPU.
                shown = read_losses(self.client, run.info.run_id)
                return run if all(losses.get(number) == values for number, values in shown.items()) else None
        return None

    def _is_elsewhere(self, run: Run, stored: StoredRun) -> bool:
        """Whether an unfinished run on a server is a training's in another workspace."""
        if not self.request.tracking.uri or _is_recorded(run) or LIVE_TAG not in run.data.tags:
            return False
        log = load_training_log(stored.log_path)
        return log is None or run.data.tags[LIVE_TAG] != log.token

    def _log_run(self, stored: StoredRun, record: RunRecord, parent: str, live: Run | None) -> str:
        """Log a run under the one with id `parent`, or what the live run does not have yet; returns its id."""
        client, log = self.client, _load_log(stored, record)
        start, end = times_of(record, log)
        verdict = self.request.verdicts.get(record.run)
        tags = list_run_tags(record, parent) | ({VERDICT_TAG: verdict} if verdict else {})
        metrics = list_metrics(record, log)
        if live is None:
            # With the training's time, so that MLflow orders runs by when they ran and not by when they were logged.
            run = client.create_run(self.id, start_time=start, tags=tags, run_name=run_name(record)).info.run_id
        else:
            run, shown = live.info.run_id, read_losses(client, live.info.run_id)
            # A live run's tags are of the start of its training: some facts, as its verdict, come later.
            client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])
            metrics = [m for m in metrics if not m.key.startswith(BY_EPOCH) or m.step not in shown]
        client.log_batch(run, params=list_params(record))
        for first in range(0, len(metrics), BATCH):
            client.log_batch(run, metrics=metrics[first : first + BATCH])
        if live is None or live.inputs is None or not live.inputs.dataset_inputs:
            client.log_inputs(run, list_inputs(record))
        client.log_artifact(run, str(stored.record_path))
        client.log_artifact(run, str(stored.predictions_path))
        # Last: only a run that got all of this counts as logged.
        client.set_terminated(run, end_time=end)
        if live is not None and UNRECORDED_TAG in live.data.tags:
            client.delete_tag(run, UNRECORDED_TAG)
        return str(run)

    def _set_verdict(self, run: Run, *records: RunRecord) -> None:
        verdict = next((self.request.verdicts[r.run] for r in records if r.run in self.request.verdicts), None)
        if verdict is not None and run.data.tags.get(VERDICT_TAG) != verdict:
            self.client.set_tag(run.info.run_id, VERDICT_TAG, verdict)

    def _may_write(self, run: Run) -> bool:
        """Whether files may be added to a run: on a server, in an experiment that the user named, or in the workspace."""
        tracking, uri = self.request.tracking, run.info.artifact_uri
        return bool(tracking.uri or tracking.experiment) or is_own_folder(uri, self.request.workspace.mlflow_artifacts)

    def _has_artifacts(self, run: Run) -> bool:
        """Whether a run has its files; a server's are not looked for."""
        uri = run.info.artifact_uri
        return bool(self.request.tracking.uri) or (local_path(uri) / "record.json").is_file()


def _is_recorded(run: Run) -> bool:
    """Whether all of a record is logged."""
    return run.info.status == "FINISHED" and UNRECORDED_TAG not in run.data.tags


def find_tagged_run(client: MlflowClient, experiment_id: str, tag: str, value: str) -> Run | None:
    """Return the first run with a tag of this value."""
    found = client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)
    return found[0] if found else None


def read_losses(client: MlflowClient, run_id: str) -> dict[int, set[float]]:
    """Return the training losses that a run has, by epoch. An epoch that has one has all its metrics: they are logged together."""
    found: dict[int, set[float]] = {}
    for metric in client.get_metric_history(run_id, "train/loss"):
        found.setdefault(metric.step, set()).add(metric.value)
    return found


def _load_log(stored: StoredRun, record: RunRecord) -> TrainingLog | None:
    return matching_log(record, load_training_log(stored.log_path))


def open_client(workspace: Workspace) -> MlflowClient:
    """Return a client of the workspace's database, which is created if it is missing.

    Raises:
        UsageError: it is a link.
    """
    require_own_files(workspace)
    path = workspace.mlflow_db
    if not path.is_file():
        # The tables are created under another name, so that a killed process leaves no database with half of them.
        # The file may be renamed because MLflow keeps no connection open (see quiet_libraries).
        with replacing_file(path) as partial:
            create_tables(partial)
    return MlflowClient(f"sqlite:///{path}")


def create_tables(path: Path) -> None:
    """Create a database with MLflow's tables and no runs, which takes MLflow some seconds."""
    MlflowClient(f"sqlite:///{path}").search_experiments()


def find_experiment(client: MlflowClient, name: str, request: LogRequest) -> str:
    """Return the id of an experiment, which is created if it is missing; in the workspace's database its artifacts are in the workspace."""
    here, database = request.workspace.mlflow_artifacts, request.workspace.mlflow_db
    local = not request.tracking.uri
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        tags = {OWN_TAG: VIEW, "mlflow.note.content": NOTE, "mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=here.as_uri() if local else None, tags=tags))
    experiment_id = str(experiment.experiment_id)
    if experiment.lifecycle_stage != "active":
        client.restore_experiment(experiment_id)
        request.report(
            f"mlflow      experiment '{name}' had been deleted: restored  {database if local else ''}".rstrip()
        )
    # Not of an experiment that the user made and named.
    is_own = OWN_TAG in experiment.tags or not request.tracking.experiment
    if local and is_own and not is_address_of(experiment.artifact_location, here):
        move_artifacts(database, experiment_id, experiment.artifact_location, here.as_uri())
        request.report(f"mlflow      artifacts are in {here} now, were in {local_path(experiment.artifact_location)}")
    return experiment_id
