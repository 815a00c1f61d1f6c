"""Run records made up for tests."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from repro.core.hashing import file_sha256
from repro.datasets.split import SplitName
from repro.readout.metrics import all_scores, chance_scores, constant_scores, count_at_least
from repro.readout.predictions import PREDICTIONS_FORMAT, Predictions, to_probabilities, write_predictions
from repro.records.keys import compute_keys
from repro.records.record import (
    EpochRecord,
    FeaturesRecord,
    Provenance,
    RunRecord,
    Selection,
    SplitRecord,
    StoredRun,
    stored_run,
)
from repro.table.row import row_backbone, row_datasets
from repro.table.rows import load_row

PREDICTIONS = b"predictions"


def split(name: SplitName) -> SplitRecord:
    """A split with as many clips as its data set's config says."""
    row = next(
        r
        for r in map(load_row, ("ak_full", "ak_unseen", "charades_1to1", "charades_3to1", "ucf_hmdb"))
        if name.dataset in r.data.datasets
    )
    return SplitRecord(
        name=str(name), clips=row_datasets(row)[name.dataset].splits[name.split].clips or 10, sha256="0" * 64
    )


def record(row: str, seed: int, score: float, group: str = "g", at: str = "2026-01-01T00:00:00+00:00") -> RunRecord:
    """A whole record of `row` as it is configured, whose best epoch scores `score` (a share of 1) on its metric."""
    config = load_row(row)
    best: dict[str, float] = {config.metric: score}
    backbone = row_backbone(config)
    identity = backbone.model_dump(mode="json", exclude=set(backbone.not_in_identity)) | {"checkpoint_sha256": "0" * 64}
    train, test = split(config.data.train), split(config.data.test)
    return RunRecord(
        run=f"{group}{seed}",
        group=group,
        row=row,
        row_version=config.version,
        kind=config.kind,
        seed=seed,
        checkpoint_assumed=False,
        metric=config.metric,
        recipe=config.readout,
        features=FeaturesRecord(
            key="k", cell=config.features.name, width=8, identity=identity, readers={"pyav": train.clips + test.clips}
        ),
        train=train,
        test=test,
        classes=("a", "b"),
        epochs=tuple(
            EpochRecord(epoch=n, train_loss=_loss(row, group, seed), scores=best)
            for n in range(1, config.readout.epochs + 1)
        ),
        best_epoch_on_test=Selection(epoch=1, scores=best),
        last_epoch=Selection(epoch=config.readout.epochs, scores=best),
        chance={"top1": 0.5},
        predictions_sha256=hashlib.sha256(PREDICTIONS).hexdigest(),
        made=Provenance(at=at, seconds=1.0, by={}, on={}),
    )


def write(runs: Path, made: RunRecord) -> StoredRun:
    """Store a record with its predictions, as a run does."""
    stored = stored_run(runs, made.row, made.seed, made.run)
    stored.folder.mkdir(parents=True, exist_ok=True)
    stored.predictions_path.write_bytes(PREDICTIONS)
    stored.write_record(made)
    return stored


def _loss(*of: object) -> float:
    """Another loss for every run, because no two seeds have the same."""
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:4], "big") / 2**32


def write_with_evidence(
    runs: Path, made: RunRecord, format_: int = PREDICTIONS_FORMAT, *, is_grid_cell: bool = False
) -> StoredRun:
    """Store a record with the keys of its contents and predictions that have its scores, each rounded to what its clips can show.

    Of a grid's cell the predictions have ranks, and the scores of every clip are in a file next to them.
    Every clip has the same scores, so that map_micro is the share of positives and top1 that of the first class.
    """
    clips, score = made.test.clips, made.best_epoch_on_test.scores[made.metric]
    targets = np.zeros((clips, 2), np.int64)
    top1 = made.metric == "top1"
    if top1:  # the first class is always predicted
        targets[:, 1], targets[: round(score * clips)] = 1, (1, 0)
    else:  # all scores are equal; both classes have the same share, up to one clip
        positives = round(2 * score * clips)
        targets[: (positives + 1) // 2, 0] = 1
        targets[: positives // 2, 1] = 1
    # Another value for every run, because no two seeds have the same predictions.
    logits = np.full((clips, 2), 0.1 + _loss("logits", made.row, made.group, made.seed, made.features.cell), np.float32)
    if top1:
        logits[:, 1] = 0
    scores, last = to_probabilities(logits, made.recipe.activation), made.recipe.epochs
    others = range(2, last)
    predictions = Predictions(
        tuple(f"clip{n}" for n in range(clips)),
        made.classes,
        targets,
        {1: scores, last: scores},
        predicted={n: np.zeros(clips, np.uint16) for n in others if top1},
        at_least={n: count_at_least(scores, targets) for n in others if not top1},
    )
    found = all_scores(scores, targets)
    # Runs of other groups have other features.
    features = made.features.model_copy(update={"identity": made.features.identity | {"group": made.group}})
    rest = {"training": 3, "store": 2, "segments": None}
    *_, features_key = compute_keys(made.model_copy(update={"features": features}), rest)
    changes: dict[str, object] = {
        "features": features.model_copy(update={"key": features_key}),
        "epochs": tuple(
            epoch.model_copy(
                update={
                    "scores": found,
                    "train_loss": _loss(made.row, made.group, made.seed, made.features.cell, epoch.epoch),
                }
            )
            for epoch in made.epochs
        ),
        "best_epoch_on_test": Selection(epoch=1, scores=found),
        "last_epoch": Selection(epoch=last, scores=found),
        "chance": chance_scores(targets),
        "constant": constant_scores(targets),
        "predictions_format": format_,
        "key_rest": rest if format_ == PREDICTIONS_FORMAT else {},
    }
    made = made.model_copy(update=changes)
    run, group, grid, _ = compute_keys(made, rest)
    stored = stored_run(runs, made.row, made.seed, run)
    if format_ == PREDICTIONS_FORMAT:
        path = stored.scores_path if is_grid_cell else stored.predictions_path
        write_predictions(path, predictions, {1: logits, last: logits}, made.recipe.activation)
        if is_grid_cell:
            every = range(1, last + 1)
            ranks = dataclasses.replace(
                predictions,
                by_epoch={},
                predicted={n: np.zeros(clips, np.uint16) for n in every if top1},
                at_least={n: count_at_least(scores, targets) for n in every if not top1},
            )
            write_predictions(stored.predictions_path, ranks, {}, made.recipe.activation)
    else:
        write_earlier_predictions(stored.predictions_path, predictions)
    sha256 = file_sha256(stored.predictions_path)
    keys = {"run": run, "group": group, "grid": grid, "predictions_sha256": sha256}
    stored.write_record(made.model_copy(update=keys))
    return stored


def write_earlier_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as versions up to 0.1.0 did: the selected epochs alone, as probabilities."""
    clips, by_epoch = predictions.clips, predictions.by_epoch
    labels = [np.flatnonzero(row).tolist() for row in predictions.targets]
    table = pa.table(
        {
            "epoch": pa.array(np.repeat(list(by_epoch), len(clips)), pa.int32()),
            "clip": pa.array([clip for _ in by_epoch for clip in clips]),
            "targets": pa.array([row for _ in by_epoch for row in labels], pa.list_(pa.int32())),
            "scores": pa.array([row for found in by_epoch.values() for row in found.tolist()], pa.list_(pa.float64())),
            "group": pa.array([None] * (len(by_epoch) * len(clips)), pa.string()),
        },
        metadata={"classes": "\n".join(predictions.classes)},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
