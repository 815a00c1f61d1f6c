"""Run records made up for tests."""

import hashlib
from pathlib import Path

from repro.datasets.split import SplitName
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
        features=FeaturesRecord(key="k", cell=config.features.name, width=8, identity=identity, readers={"pyav": 10}),
        train=split(config.data.train),
        test=split(config.data.test),
        classes=("a", "b"),
        epochs=(EpochRecord(epoch=1, train_loss=0.5, scores=best),),
        best_epoch_on_test=Selection(epoch=1, scores=best),
        last_epoch=Selection(epoch=1, scores=best),
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
