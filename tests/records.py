"""Run records made up for tests."""

from repro.rows import load_row
from repro.runs import EpochRecord, FeaturesRecord, Made, RunRecord, Selection, SplitRecord


def record(row: str, seed: int, score: float, group: str = "g", last: float | None = None) -> RunRecord:
    """A whole record of `row` whose best epoch scores `score` (a share of 1) on the row's metric."""
    config = load_row(row)
    best = {config.metric: score}
    split = SplitRecord(name="d/s", clips=10, sha256="0" * 64)
    return RunRecord(
        run=f"run{seed}",
        group=group,
        row=row,
        row_version=config.version,
        kind=config.kind,
        seed=seed,
        checkpoint_assumed=False,
        metric=config.metric,
        recipe=config.readout,
        features=FeaturesRecord(key="k", cell="final", width=8, identity={}, readers={"decord": 10}),
        train=split,
        test=split,
        classes=("a", "b"),
        epochs=(EpochRecord(epoch=1, train_loss=0.5, scores=best),),
        best_epoch_on_test=Selection(epoch=1, scores=best),
        last_epoch=Selection(epoch=1, scores={config.metric: score if last is None else last}),
        chance={"top1": 0.5},
        predictions_sha256="0" * 64,
        made=Made(at="2026-01-01T00:00:00+00:00", seconds=1.0, by={}, on={}),
    )
