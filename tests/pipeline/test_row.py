"""What a row's data brings into its run records: missing clips, manifests, scores of parts of the test split."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders.reporters import RecordingReporter

from repro.backbones.extractor import Execution
from repro.core.workspace import Workspace
from repro.datasets.split import Clip, Split
from repro.pipeline.row import run_row
from repro.readout.metrics import all_scores
from repro.table.rows import load_row
from repro.video.synthetic import scenes
from repro.video.synthetic.figures import ACTIONS


def test_a_record_says_what_was_missing_and_how_a_part_scored(
    rendered: dict[str, Path], workspace: Workspace, told: RecordingReporter
) -> None:
    actions = {scene.id: ACTIONS.index(scene.action) for scene in scenes.smoke_scenes()}
    clips = tuple(Clip(name, path, (actions[name],)) for name, path in rendered.items())
    splits = {part: Split(f"smoke/{part}", ACTIONS, clips) for part in ("train", "test")}
    row = load_row("smoke_mean_colour")
    row = row.model_copy(update={"readout": row.readout.model_copy(update={"epochs": 3})})
    part = Split("smoke/part", ACTIONS, clips[:2])
    arguments = ("smoke_mean_colour", row, splits, [1], workspace, told, Execution())
    _, (plain,) = run_row(*arguments)
    _, (record,) = run_row(*arguments, also=[part], missing={"test": ("gone",)}, manifests={"smoke": "0" * 64})
    assert (plain.subsets, plain.manifests, plain.test.missing_clips) == ((), {}, ())
    assert record.group != plain.group
    assert record.last_epoch == plain.last_epoch
    assert record.manifests == {"smoke": "0" * 64}
    assert (record.train.missing_clips, record.test.missing_clips) == ((), ("gone",))
    (subset,) = record.subsets
    assert (subset.name, subset.clips, subset.last_epoch.epoch) == ("smoke/part", 2, 3)
    folder = next(workspace.runs.glob(f"smoke_mean_colour/*{record.run}"))
    table = pq.read_table(folder / "predictions.parquet").to_pylist()
    kept = [r for r in table if r["epoch"] == 3 and r["clip"] in {clip.id for clip in part.clips}]
    targets = np.zeros((2, len(ACTIONS)), np.int64)
    for number, line in enumerate(kept):
        targets[number, line["targets"]] = 1
    expected = all_scores(np.array([line["scores"] for line in kept]), targets)
    assert subset.last_epoch.scores == pytest.approx(expected)
    best = subset.best_epoch_on_test.scores[row.metric]
    assert best >= subset.last_epoch.scores[row.metric]
    # A manifest is no input of a number: another one trains nothing anew.
    _, (again,) = run_row(*arguments, also=[part], missing={"test": ("gone",)}, manifests={})
    assert again == record
