"""What MLflow shows of a run record and its training's log: names, tags, params, metrics, data sets and a description.

Imports mlflow, as mlflow_database.py.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from statistics import fmean

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from repro.backbones.config import Cell
from repro.records.mlflow_names import (
    MLFLOW_PARENT_TAG,
    RUN_TAG,
    VIEW,
    VIEW_TAG,
    Described,
    find_configured_row,
    table_cell,
    table_of,
)
from repro.records.record import EpochRecord, RunRecord
from repro.records.training_log import StartedRun, TrainingLog

DIGEST = 36
"""Most characters of a data set's digest that MLflow stores."""
LOGGED_RULES = ("best_epoch_on_test", "last_epoch", "best_epoch_on_held_out")


def parent_name(record: Described) -> str:
    """Return the name of the run that a record's run is under."""
    return " ".join([record.row, *_variants(record)])


def run_name(record: Described) -> str:
    """Return the name of a record's run, which tells row, cell, seed and protocol."""
    return " ".join([record.row, record.features.cell, f"seed{record.seed}", *_variants(record)])


def _variants(record: Described) -> list[str]:
    """What a run's inputs or recipe differ in from the published table's, as far as names say it."""
    return [
        *(["held-out"] if record.protocol == "held-out" else []),
        *([record.recipe.head] if record.recipe.head != "transformer" else []),
        *([record.features.stored_as] if record.features.stored_as != "float32" else []),
        *([] if record.complete else ["trial"]),
    ]


def times_of(record: RunRecord, log: TrainingLog | None = None) -> tuple[int, int]:
    """Return when training began and ended, in milliseconds since 1970: by its log or, without one, by the record."""
    # MLflow counts milliseconds since 1970.
    end = round(1000 * datetime.datetime.fromisoformat(record.made.at).timestamp())
    if log is None:
        return round(end - 1000 * record.made.seconds), end
    # The record has seconds alone: its last epoch may be later by a fraction of one.
    return log.start, max(end, *(epoch.at for epoch in log.epochs.values()))


def matching_log(record: RunRecord, log: TrainingLog | None) -> TrainingLog | None:
    """Return the log if it is that of the record's training: nothing vouches for the file, so its losses must be the record's."""
    if log is None or log.started is None or log.started.run != record.run:
        return None
    # Losses of a training are as good as a fingerprint: no other training has the same.
    losses = {number: epoch.result.train_loss for number, epoch in log.epochs.items()}
    return log if losses == {epoch.epoch: epoch.train_loss for epoch in record.epochs} else None


def list_tags(record: Described) -> dict[str, str]:
    """Return what runs are searched by. A parent has those that all runs under it share."""
    row, identity = find_configured_row(record), record.features.identity
    found = {
        VIEW_TAG: VIEW,
        "table": table_of(record),
        "row": record.row,
        "setting": row.setting if row else record.kind,
        "backbone": row.backbone if row else str(identity.get("family", "")),
        "protocol": record.protocol,
        "complete": str(record.complete).lower(),
        "code": record.made.by.get("actiondiff-repro", ""),
        "commit": record.made.source.get("commit", ""),
        "image": record.made.source.get("image", ""),
        "checkpoint": str(identity.get("checkpoint_sha256", "")),
        "feature_key": record.features.key,
        "data_manifest": " ".join(f"{name}:{sha256}" for name, sha256 in sorted(record.manifests.items())),
        "mlflow.source.name": row.command if row else f"repro {record.row}",
        "mlflow.source.type": "LOCAL",
    }
    # Left out rather than empty: a search for a tag finds the runs that have it.
    return {name: value for name, value in found.items() if value}


def list_run_tags(record: Described, parent: str) -> dict[str, str]:
    """Return the tags of a record's run under the run with id `parent`."""
    device = record.made.on.get("device")
    return (
        list_tags(record)
        | ({"device": device} if device else {})
        | {
            RUN_TAG: record.run,
            "group": record.group,
            "cell": record.features.cell,
            "seed": str(record.seed),
            MLFLOW_PARENT_TAG: parent,
            "mlflow.note.content": _describe_run(record)
            if isinstance(record, RunRecord)
            else _describe_training(record),
        }
    )


def list_params(record: Described) -> list[Param]:
    """Return what a run was made with, and the scores of predictors that see no features, in points."""
    row, cell = find_configured_row(record), Cell.parse(record.features.cell)
    recipe = record.recipe.model_dump(mode="json", exclude={"note"})
    found: dict[str, object] = {
        "row": record.row,
        "setting": row.setting if row else record.kind,
        "backbone": row.backbone if row else str(record.features.identity.get("family", "")),
        "timestep": "none" if cell.timestep is None else cell.timestep,
        "layer": cell.layer,
        "seed": record.seed,
        "metric": record.metric,
        "protocol": record.protocol,
        "row_version": record.row_version,
        "precision": record.precision,
        "features.cell": record.features.cell,
        "features.precision": record.features.identity.get("precision", "fp32"),
        "features.stored_as": record.features.stored_as,
    }
    found |= {f"recipe.{name}": value for name, value in recipe.items()}
    for baseline in ("chance", "class_prior", "constant"):
        found |= {f"{baseline}.{name}": f"{100 * value:.4g}" for name, value in getattr(record, baseline).items()}
    found |= {f"version.{name}": value for name, value in record.made.by.items()}
    found |= {f"machine.{name}": value for name, value in record.made.on.items()}
    return [Param(name, str(value)) for name, value in found.items()]


def list_metrics(record: RunRecord, log: TrainingLog | None) -> list[Metric]:
    """Return the loss and scores of a run, scores in points, and what it took of the machine; the step is the epoch.

    Without the training's log, epochs are spread evenly between start and end of training.
    """
    start, end = times_of(record, log)
    last = record.epochs[-1].epoch
    found = []
    for epoch in record.epochs:
        if log is None:
            # Without a log, epochs are drawn as if each had taken the same time.
            found += list_epoch_metrics(epoch, start + (end - start) * epoch.epoch // last, {})
        else:
            logged = log.epochs[epoch.epoch]
            found += list_epoch_metrics(epoch, logged.at, logged.system)
    for rule in LOGGED_RULES:
        selection = getattr(record, rule)
        if selection is not None:
            found += [
                Metric(f"{rule}/{name}", 100 * value, end, selection.epoch) for name, value in selection.scores.items()
            ]
    return [*found, *_list_metrics(record, measured_points(record), end)]


def list_epoch_metrics(epoch: EpochRecord, at: int, system: Mapping[str, float]) -> list[Metric]:
    """Return the loss and scores after an epoch, scores in points.

    Args:
        epoch: The epoch, whose number is the step.
        at: When it ended, in milliseconds since 1970.
        system: What the training took of the machine, by name; MLflow shows metrics under "system/" on a page of their own.
    """
    values: dict[str, float] = {}
    for part, scores in (("test", epoch.scores), ("held_out", epoch.held_out or {})):
        values |= {f"{part}/{name}": 100 * value for name, value in scores.items()}
    values |= {f"system/{name}": value for name, value in system.items()}
    # Last: an epoch that has its loss in MLflow has the others, also if a killed process logged it.
    values["train/loss"] = epoch.train_loss
    return [Metric(name, value, at, epoch.epoch) for name, value in values.items()]


def list_parent_metrics(records: Sequence[RunRecord]) -> list[Metric]:
    """Return the mean over seeds in the cell that the table uses, or in the only one, and how much there is.

    Args:
        records: All records under one parent.
    """
    record, end = records[0], max(times_of(other)[1] for other in records)
    cells, cell = {other.features.cell for other in records}, table_cell(records)
    points = [measured_points(other) for other in records if other.features.cell == cell]
    counts = {"runs": len(records), "cells": len(cells), "seeds": len({other.seed for other in records})}
    found = [Metric(f"count/{name}", number, end, 0) for name, number in counts.items()]
    return [*found, *(_list_metrics(record, fmean(points), end) if points else [])]


def describe_parent(record: Described) -> str:
    """Return what the runs under a parent have in common, in Markdown."""
    return (
        f"{_write_row_note(record)}\n\nThe runs below differ in cell (timestep and layer) and seed alone. `score/measured` is the "
        "mean over seeds in the cell that the table uses."
    )


def list_inputs(record: Described) -> list[DatasetInput]:
    """Return the splits of a run as MLflow's data sets, whose digests begin the hash of their clips, targets and videos."""
    parts = (("train", record.train), ("test", record.test), ("held_out", record.held_out))
    return [
        DatasetInput(
            Dataset(
                split.name,
                split.sha256[:DIGEST],
                source_type="repro",
                source=json.dumps({"split": split.name, "manifests": record.manifests}),
                profile=json.dumps({"clips": split.clips, "missing": len(split.missing_clips)}),
            ),
            [InputTag("mlflow.data.context", part)],
        )
        for part, split in parts
        if split is not None
    ]


def measured_points(record: RunRecord) -> float:
    """Return the score of a run under its protocol's rule, in points."""
    selection = record.best_epoch_on_held_out or record.best_epoch_on_test
    return 100 * selection.scores[record.metric]


def _list_metrics(record: RunRecord, measured: float, at: int) -> list[Metric]:
    row = find_configured_row(record)
    found = {"measured": measured}
    if row is not None and row.published is not None:
        found |= {"published": row.published.value, "difference": round(measured - row.published.value, 9)}
    return [Metric(f"score/{name}", value, at, 0) for name, value in found.items()]


def _write_row_note(record: Described) -> str:
    row = find_configured_row(record)
    title = f"**{record.row}**" + (f": {row.title}" if row else "")
    rule = "best epoch on the test split" if record.protocol == "published" else "best epoch on held-out clips"
    lines = [title, f"Trained on {record.train.name}, tested on {record.test.name}. {record.metric}, {rule}."]
    if row is not None and row.published is not None:
        lines.append(f"Published: {row.published.value:.{row.published.digits}f} ({row.published.source}).")
    if not record.complete:
        lines.append("A trial on fewer clips: never judged.")
    return "\n\n".join(lines)


def _describe_run(record: RunRecord) -> str:
    return (
        f"{_write_row_note(record)}\n\nCell {record.features.cell}, seed {record.seed}: {measured_points(record):.2f}. Scores are in "
        "points."
    )


def _describe_training(started: StartedRun) -> str:
    return (
        f"{_write_row_note(started)}\n\nCell {started.features.cell}, seed {started.seed}. Its training runs, or was killed or failed: "
        "there is no record of it yet. Scores are in points."
    )
