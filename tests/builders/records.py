"""Run records made up for tests."""

import hashlib
from pathlib import Path

import numpy as np

from repro.core.hashing import file_sha256
from repro.datasets.split import SplitName
from repro.readout.metrics import all_scores, chance_scores, constant_scores
from repro.readout.predictions import Predictions, write_predictions
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
        epochs=tuple(EpochRecord(epoch=n, train_loss=0.5, scores=best) for n in range(1, config.readout.epochs + 1)),
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


def write_with_evidence(runs: Path, made: RunRecord) -> StoredRun:
    """Store a record with predictions that have its scores, each rounded to what its number of clips can show.

    All scores of a file are equal, so that map_micro is the share of positives and top1 that of the first class.
    """
    clips, score = made.test.clips, made.best_epoch_on_test.scores[made.metric]
    targets = np.zeros((clips, 2), np.int64)
    # Both classes have the same share, up to one clip.
    positives = round(2 * score * clips)
    targets[: (positives + 1) // 2, 0] = 1
    targets[: positives // 2, 1] = 1
    # Another value for every run, because no two seeds have the same predictions.
    scores = np.full((clips, 2), 1 / (2 + int.from_bytes(hashlib.sha256(made.run.encode()).digest()[:2], "big")))
    last = made.recipe.epochs
    stored = stored_run(runs, made.row, made.seed, made.run)
    names = tuple(f"clip{n}" for n in range(clips))
    write_predictions(stored.predictions_path, Predictions(names, made.classes, targets, {1: scores, last: scores}))
    found = all_scores(scores, targets)
    changes = {
        "epochs": tuple(epoch.model_copy(update={"scores": found}) for epoch in made.epochs),
        "best_epoch_on_test": Selection(epoch=1, scores=found),
        "last_epoch": Selection(epoch=last, scores=found),
        "chance": chance_scores(targets),
        "constant": constant_scores(targets),
        "predictions_sha256": file_sha256(stored.predictions_path),
    }
    stored.write_record(made.model_copy(update=changes))
    return stored
