"""Names under which runs are in MLflow, and whether the workspace's database has all of them. Does not import MLflow, which takes
seconds: a command that has nothing to log need not."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

from repro.core.errors import UsageError
from repro.core.workspace import Tracking, Workspace
from repro.records.mlflow_artifacts import is_address_of, is_own_folder, local_path, require_own_files
from repro.records.record import RunRecord, StoredRun
from repro.records.training_log import StartedRun
from repro.table.row import Row
from repro.table.rows import load_row

EXPERIMENT = "actiondiff"
"""What the names of experiments begin with."""
OWN_TAG = "repro.view"
"""Tag of experiments that this project made."""
VIEW = "3"
"""Version of what is logged of a record. Runs of another one are logged again."""
RUN_TAG, PARENT_TAG, VIEW_TAG, VERDICT_TAG = "repro.run", "repro.parent", "repro.view", "verdict"
FIGURES_TAG = "repro.figures"
LIVE_TAG = "repro.live"
"""Tells the run of a training from others of the same record: the token of the training's log."""
UNRECORDED_TAG = "repro.unrecorded"
"""Tag of the run of a finished training until its record is logged."""
MODEL_TAG = "model"
"""Tag of runs whose model is logged, which tells its address."""
MLFLOW_PARENT_TAG = "mlflow.parentRunId"

Described: TypeAlias = RunRecord | StartedRun
"""A run, or one whose training has no record yet."""


def table_of(record: Described) -> str:
    """Return the table that a record belongs to: published, extras, smoke or own."""
    return "extras" if record.kind == "extra" else record.kind


def parent_key(record: Described) -> str:
    """Return what the runs under one parent share: all but cell and seed."""
    # Records from before grids have no such key.
    return record.grid or record.group


def table_cell(records: Sequence[RunRecord]) -> str:
    """Return the cell that the table uses, or the only one that the records under one parent have; empty if there is neither."""
    row, cells = find_configured_row(records[0]), {record.features.cell for record in records}
    return row.features.name if row else min(cells) if len(cells) == 1 else ""


def find_configured_row(record: Described) -> Row | None:
    """Return the row as it is configured; None for own rows, whose configs are elsewhere, and rows that no longer exist."""
    if record.kind == "own":
        return None
    try:
        return load_row(record.row)
    except UsageError:
        return None


def name_experiment(tracking: Tracking, table: str) -> str:
    """Return the experiment of a table's runs: one for each table, unless the environment names one for all."""
    return tracking.experiment or f"{EXPERIMENT}-{table}"


def has_all_runs(workspace: Workspace, tracking: Tracking, runs: Sequence[tuple[StoredRun, RunRecord]]) -> bool:
    """Whether the workspace's database has all runs, so that logging them would change nothing; in doubt it has not.

    Args:
        workspace: Whose database it is, which may be missing, damaged or locked.
        tracking: The experiment that the environment names, if any.
        runs: All runs that have a record.

    Raises:
        UsageError: the database or the folder of artifacts is a link.
    """
    require_own_files(workspace)
    families: dict[tuple[str, str], list[tuple[StoredRun, RunRecord]]] = {}
    for stored, record in runs:
        key = (name_experiment(tracking, table_of(record)), parent_key(record))
        families.setdefault(key, []).append((stored, record))
    try:
        with closing(
            sqlite3.connect(f"{workspace.mlflow_db.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        ) as database:
            return _has_families(database, workspace, tracking, families)
    except (sqlite3.Error, OSError):
        return False


@dataclass(frozen=True, slots=True)
class _LoggedRun:
    experiment: str
    id: str
    status: str
    artifacts: str
    tags: dict[str, str]

    @property
    def key(self) -> str:
        """What a record's run or a parent is found by; empty for runs of others."""
        tag = next((tag for tag in (RUN_TAG, PARENT_TAG) if tag in self.tags), None)
        return f"{tag} {self.tags[tag]}" if tag else ""


def _has_families(
    database: sqlite3.Connection,
    workspace: Workspace,
    tracking: Tracking,
    families: Mapping[tuple[str, str], Sequence[tuple[StoredRun, RunRecord]]],
) -> bool:
    if database.execute("pragma quick_check").fetchone() != ("ok",):
        return False
    names = {name for name, _ in families}
    by_key: dict[tuple[str, str], list[_LoggedRun]] = {}
    for run in _read_runs(database):
        if run.key and run.experiment in {EXPERIMENT, *names}:
            # Of another format, or of a training that may have ended.
            if run.tags.get(VIEW_TAG) != VIEW or run.status == "RUNNING":
                return False
            # Figures are written to a parent's folder.
            if PARENT_TAG in run.tags and not (
                tracking.experiment or is_own_folder(run.artifacts, workspace.mlflow_artifacts)
            ):
                return False
            by_key.setdefault((run.experiment, run.key), []).append(run)
    return names <= _find_experiments(database, workspace, tracking) and all(
        _has_family(by_key, key, members) for key, members in families.items()
    )


def _has_family(
    by_key: Mapping[tuple[str, str], Sequence[_LoggedRun]],
    family: tuple[str, str],
    members: Sequence[tuple[StoredRun, RunRecord]],
) -> bool:
    """Whether a parent is logged, once, and once each run under it with its artifacts."""
    name, key = family
    parents, cell = by_key.get((name, f"{PARENT_TAG} {key}"), ()), table_cell([record for _, record in members])
    if [parent.status for parent in parents] != ["FINISHED"]:
        return False
    for stored, record in members:
        found = by_key.get((name, f"{RUN_TAG} {record.run}"), ())
        if len(found) != 1:
            return False
        (run,) = found
        has_model = MODEL_TAG in run.tags or record.features.cell != cell or not stored.selected_path.is_file()
        if (
            run.status != "FINISHED"
            or UNRECORDED_TAG in run.tags
            or run.tags.get(MLFLOW_PARENT_TAG) != parents[0].id
            or not (local_path(run.artifacts) / "record.json").is_file()
            or not has_model
        ):
            return False
    return True


def _read_runs(database: sqlite3.Connection) -> list[_LoggedRun]:
    found: dict[str, _LoggedRun] = {}
    for name, run, status, artifacts, tag, value in database.execute(
        "select e.name, r.run_uuid, r.status, r.artifact_uri, t.key, t.value "
        "from tags t join runs r using (run_uuid) join experiments e using (experiment_id) where r.lifecycle_stage = 'active'"
    ):
        found.setdefault(run, _LoggedRun(name, run, status, str(artifacts), {})).tags[tag] = value
    return list(found.values())


def _find_experiments(database: sqlite3.Connection, workspace: Workspace, tracking: Tracking) -> set[str]:
    """Return the experiments that are not deleted and whose artifacts are in the workspace, or where the user put them."""
    own = {
        number for (number,) in database.execute("select experiment_id from experiment_tags where key = ?", (OWN_TAG,))
    }
    return {
        name
        for number, name, location in database.execute(
            "select experiment_id, name, artifact_location from experiments where lifecycle_stage = 'active'"
        )
        if (tracking.experiment and number not in own) or is_address_of(str(location), workspace.mlflow_artifacts)
    }
