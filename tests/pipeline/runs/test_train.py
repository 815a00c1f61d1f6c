"""From stored features to run records, checkpoints and predictions, and to the scores of a clip."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from builders.reporters import RecordingReporter
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from repro.core.errors import MissingError, UsageError
from repro.core.hashing import file_sha256
from repro.core.workspace import Workspace
from repro.datasets.split import Clip, Split, SplitName
from repro.features.pack_collection import pack_collection
from repro.features.store import Entry, FeatureStore, StoredAs
from repro.judge import verdict as check
from repro.judge.evidence import read_evidence
from repro.judge.expected import rows_with_expected, table_path
from repro.pipeline.api import SplitFeatures
from repro.pipeline.row_data import ReadoutInputs, RowData
from repro.pipeline.runs import train as stage
from repro.pipeline.runs.train import run_readouts
from repro.readout import checkpoints
from repro.readout import train as training
from repro.readout.compute import ON_CPU, Compute
from repro.readout.metrics import all_scores
from repro.readout.predictions import read_predictions
from repro.readout.recipe import Protocol
from repro.readout.sequences import BatchPlan, load_sequences, split_held_out
from repro.readout.trained import load_readout
from repro.records import mlflow_view
from repro.records.keys import compute_keys, explain_keys
from repro.records.record import RunRecord, find_runs, stored_run
from repro.table.row import Row
from repro.table.rows import load_row

pytestmark = pytest.mark.usefixtures("one_thread")


CELL = load_row("smoke").features.name
CLASSES = ("walk", "jump", "eat")


def features(number: int, width: int = 16) -> np.ndarray:
    """Features whose first channels show the clip's class; lengths differ."""
    draw = np.random.default_rng(number)
    values = draw.normal(size=(3 + number % 7, width)).astype(np.float32)
    values[:, number % 3] += 3
    return values


def row(**changes: Any) -> Row:
    smoke = load_row("smoke")
    recipe = {"epochs": 4, "max_length": 8, "layers": 1} | changes
    return smoke.model_copy(update={"readout": smoke.readout.model_copy(update=recipe)})


@pytest.fixture
def source(workspace: Workspace) -> ReadoutInputs:
    store = FeatureStore.open(workspace, "made_up", {"family": "made up"}, "smoke")
    splits = {}
    for part, numbers in (("train", range(36)), ("test", range(100, 118))):
        clips = tuple(Clip(f"{part}{n}", Path("nowhere"), (n % 3,)) for n in numbers)
        splits[part] = Split(SplitName("smoke", part), CLASSES, clips)
        for n in numbers:
            store.write_clip(f"{part}{n}", Entry({CELL: features(n)}, "0" * 64, "pyav"))
    videos = {clip.id: "0" * 64 for split in splits.values() for clip in split.clips}
    return ReadoutInputs(row(), RowData(splits), {"train": store, "test": store}, videos)


Run = Callable[..., list[RunRecord]]


@pytest.fixture
def run(source: ReadoutInputs, workspace: Workspace, reporter: RecordingReporter) -> Run:
    def run(
        *seeds: int, protocol: Protocol = "published", compute: Compute = ON_CPU, row: Row = source.row
    ) -> list[RunRecord]:
        data = replace(source.data, segments={"head": (0,), "tail": (1, 2)})
        return run_readouts(replace(source, row=row, data=data), seeds or (52,), workspace, reporter, protocol, compute)

    return run


def test_a_record_has_every_score_and_its_baselines(run: Run, workspace: Workspace) -> None:
    (record,) = run()
    names = {
        "map_micro", "map_macro", "map_macro_head", "map_macro_tail", "top1", "top1_occurring", "class_accuracy"
    }  # fmt: skip
    assert all(set(epoch.scores) == names for epoch in record.epochs)
    assert set(record.class_prior) == set(record.constant) == names
    assert record.chance["top1"] == pytest.approx(1 / 3)
    assert (record.protocol, record.precision, record.held_out) == ("published", "fp32", None)
    assert record.made.on["device"] == "cpu"
    assert record.made.on["deterministic"] == "false"
    stored = stored_run(workspace.runs, "smoke", 52, record.run)
    assert stored.load_record() == record
    found = read_predictions(stored.predictions_path)
    for selection in (record.best_epoch_on_test, record.last_epoch):
        scores = all_scores(found.by_epoch[selection.epoch], found.targets, {"head": (0,), "tail": (1, 2)})
        assert scores == pytest.approx(selection.scores, abs=1e-12)
    assert record.checkpoints == {
        name: file_sha256(stored.folder / name) for name in ("selected_epoch.safetensors", "last_epoch.safetensors")
    }
    assert not (stored.folder / "training.safetensors").exists()
    # What the judge computes again: keys, and the scores of the epochs that are not kept whole.
    assert compute_keys(record, record.key_rest) == (record.run, record.group, record.grid, record.features.key)
    assert explain_keys(record) == ""
    assert len(found.by_epoch) + len(found.predicted) == 4
    judged, damaged = read_evidence([stored])
    assert (judged, damaged) == ([record], [])


def test_mlflow_loads_the_readout_that_a_run_selected(
    run: Run, source: ReadoutInputs, workspace: Workspace, reporter: RecordingReporter, mlflow_template: Path
) -> None:
    """Its scores are the recorded ones, and its weights take no disk."""
    (record,) = run()
    shutil.copy(mlflow_template, workspace.mlflow_db)
    mlflow_view.log_runs(workspace, reporter)
    place = f"sqlite:///{workspace.mlflow_db}"
    (experiment,) = MlflowClient(place).search_experiments(filter_string="name LIKE 'actiondiff-%'")
    (logged,) = MlflowClient(place).search_runs([experiment.experiment_id], "tags.model != ''")
    (model,) = (workspace.root / "mlartifacts").rglob("selected_epoch.safetensors")
    stored = stored_run(workspace.runs, "smoke", 52, record.run)
    assert model.samefile(stored.folder / model.name)
    assert not list(model.parents[1].rglob("*.pkl"))
    mlflow.set_tracking_uri(place)
    try:
        loaded = mlflow.pyfunc.load_model(f"runs:/{logged.info.run_id}/readout")
    finally:
        mlflow.set_tracking_uri(None)
    clips = load_sequences(source.store, source.data.splits["test"], CELL, 8).features
    batch = np.full((len(clips), 9, 16), np.nan, np.float32)
    for row, values in zip(batch, clips, strict=True):
        row[: len(values)] = values
    found = read_predictions(stored.predictions_path)
    expected = found.by_epoch[record.best_epoch_on_test.epoch]
    np.testing.assert_allclose(loaded.predict(batch), expected, atol=1e-6)
    assert loaded.metadata.metadata["classes"] == list(CLASSES)
    for wrong in (batch[:, :0], batch[..., :3], np.full((1, 2, 16), np.nan, np.float32), batch[0]):
        with pytest.raises((MissingError, MlflowException)):
            loaded.predict(wrong)
    mlflow_view.log_runs(workspace, reporter)
    assert len(list((workspace.root / "mlartifacts").rglob("MLmodel"))) == 1
    mlflow_view.track_runs(workspace, reporter, rebuild=True)
    assert len(list((workspace.root / "mlartifacts").rglob("MLmodel"))) == 1
    assert stored.load_record() == record
    load_readout(stored.folder / model.name)


def test_a_held_out_run_is_separate_and_not_judged(run: Run, workspace: Workspace, reporter: RecordingReporter) -> None:
    (published,), (held_out,) = run(), run(protocol="held-out")
    assert held_out.run != published.run
    assert held_out.protocol == "held-out"
    assert held_out.train == published.train
    assert held_out.held_out is not None
    assert held_out.held_out.clips == pytest.approx(36 / 5, abs=2)
    chosen = held_out.best_epoch_on_held_out
    assert chosen is not None
    by_number = {epoch.epoch: epoch for epoch in held_out.epochs}
    best = max(epoch.held_out["top1"] for epoch in held_out.epochs if epoch.held_out)
    held = by_number[chosen.epoch].held_out
    assert held is not None
    assert held["top1"] == best
    assert chosen.scores == by_number[chosen.epoch].scores
    stored = stored_run(workspace.runs, "smoke", 52, held_out.run)
    assert explain_keys(held_out) == ""
    assert load_readout(stored.folder / "selected_epoch.safetensors").epoch == chosen.epoch
    assert chosen.epoch in read_predictions(stored.predictions_path).by_epoch
    assert "held-out protocol" in reporter.lines[-1]
    judged = held_out.model_copy(update={"kind": "published", "row": "ak_full"})
    _, ((_, why),) = check.judge_rows(rows_with_expected(table_path()), [judged])
    assert why.startswith("R15 the held-out protocol")


def test_features_are_read_once_for_all_seeds_and_records_are_reused(
    run: Run, monkeypatch: pytest.MonkeyPatch, reporter: RecordingReporter, workspace: Workspace
) -> None:
    read = []
    monkeypatch.setattr(stage, "load_sequences", lambda *a: read.append(str(a[1].name)) or load_sequences(*a))
    records = run(52, 53, 54)
    assert read == ["smoke/train", "smoke/test"]
    assert len({record.group for record in records}) == 1
    assert len({record.run for record in records}) == 3
    # Killed just after it had written a record.
    left = next(find_runs(workspace.runs)).folder / ".record.json.0123456789ab.partial"
    left.mkdir()
    (left / "lock").touch()
    assert run(52, 53, 54) == records
    assert not left.exists()
    assert len(read) == 2
    assert "reused all 3" in reporter.lines[-1]


@pytest.mark.parametrize("protocol", ["published", "held-out"])
def test_seeds_trained_together_are_the_same_runs(run: Run, workspace: Workspace, protocol: Protocol) -> None:
    alone = run(52, 53, 54, protocol=protocol)
    shutil.rmtree(workspace.runs)
    together = run(52, 53, 54, protocol=protocol, compute=Compute(together=3))
    for ours, theirs in zip(together, alone, strict=True):
        assert (ours.run, ours.group, ours.held_out) == (theirs.run, theirs.group, theirs.held_out)
        for a, b in zip(ours.epochs, theirs.epochs, strict=True):
            assert a.train_loss == pytest.approx(b.train_loss, rel=1e-5)
            assert a.scores == pytest.approx(b.scores, abs=1e-6)
    assert "trainings_together" not in alone[0].made.on
    if protocol == "published":  # held-out clips can leave other numbers of clips to train on
        assert {record.made.on["trainings_together"] for record in together} == {"3"}
    assert run(52, 53, 54, protocol=protocol) == together


def test_another_precision_is_a_separate_run(run: Run) -> None:
    (exact,), (near,) = run(), run(compute=Compute(precision="bf16"))
    assert near.precision == "bf16"
    assert near.group != exact.group


def test_a_killed_stage_resumes_and_a_changed_recipe_is_refused(
    run: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "STATE_EVERY", 0.0)  # saved after every epoch
    real = checkpoints.write_tensors

    def killed(path: Path, tensors: dict[str, Any], about: dict[str, Any]) -> None:
        real(path, tensors, about)
        if len(about.get("epochs", [])) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_tensors", killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    with pytest.raises(
        UsageError, match=r"training.safetensors: .*other settings: recipe.weight_decay was 0.0001 and is 0.5"
    ):
        run(row=row(weight_decay=0.5))
    done = []
    one_epoch = training.train_one_epoch
    monkeypatch.setattr(training, "train_one_epoch", lambda *a: done.append(a[5]) or one_epoch(*a))
    (record,) = run()
    assert done == [3, 4]
    folder = stored_run(workspace.runs, "smoke", 52, record.run).folder
    resumed = (folder / "last_epoch.safetensors").read_bytes()
    (folder / "record.json").unlink()
    run()
    assert done == [3, 4, 1, 2, 3, 4]
    assert (folder / "last_epoch.safetensors").read_bytes() == resumed
    run(row=row(weight_decay=0.5))  # no unfinished run prevents it


def test_a_trained_readout_scores_a_clip_as_the_run_did(run: Run, workspace: Workspace) -> None:
    (record,) = run()
    folder = stored_run(workspace.runs, "smoke", 52, record.run).folder
    readout = load_readout(folder / "last_epoch.safetensors")
    assert (readout.classes, readout.cell, readout.epoch, readout.seed) == (CLASSES, CELL, 4, 52)
    found = read_predictions(folder / "predictions.parquet")
    for number, clip in enumerate(found.clips):
        scores = readout.score(features(int(clip.removeprefix("test"))))
        np.testing.assert_allclose(scores, found.by_epoch[4][number], atol=1e-6)
    for values, message in (
        (features(1, width=8), r"shape \(4, 8\): this readout reads frames of width 16"),
        (np.zeros((0, 16), np.float32), "0 frames: empty"),
        (np.full((2, 16), np.nan, np.float32), "not finite"),
    ):
        with pytest.raises(MissingError, match=message):
            readout.score(values)


@pytest.mark.parametrize("damage", ["none", "cut off", "other"])
def test_an_invalid_checkpoint_is_named(run: Run, workspace: Workspace, damage: str) -> None:
    (record,) = run()
    path = stored_run(workspace.runs, "smoke", 52, record.run).folder / "last_epoch.safetensors"
    if damage == "none":
        path.unlink()
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        checkpoints.write_tensors(path, {}, {"row": "smoke"})
    message = {
        "none": "no trained readout there",
        "cut off": "damaged: not a complete safetensors file",
        "other": "not the checkpoint of",
    }
    with pytest.raises(MissingError, match=rf"last_epoch\.safetensors: {message[damage]}"):
        load_readout(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            {CELL: np.full((3, 16), np.nan, np.float32)},
            r"1 of 36 clips have features that are empty or not finite .*: train4",
        ),
        ({CELL: np.zeros((0, 16), np.float32)}, r"1 of 36 clips have features that are empty"),
        ({CELL: np.ones((3, 8), np.float32)}, rf"train4.safetensors: '{CELL}' is 8 wide, expected 16"),
        ({"t05_layer02": np.ones((3, 16), np.float32)}, r"1 of 36 clips have no features .t20_layer09"),
        (None, r"split smoke/train: 2 of 36 clips have no features .*: train4, train5"),
    ],
)
def test_unusable_features_are_an_error_of_one_line(
    source: ReadoutInputs, spoil: dict[str, np.ndarray] | None, message: str
) -> None:
    if spoil is None:
        source.store.clip_path("train4").unlink()
        source.store.clip_path("train5").unlink()
    else:
        source.store.clip_path("train4").unlink()
        source.store.write_clip("train4", Entry(spoil, "0" * 64, "pyav"))
    with pytest.raises(MissingError, match=message) as caught:
        load_sequences(source.store, source.data.splits["train"], CELL, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stored_as", ["float32", "float16"])
def test_packed_features_are_copied_by_the_batch_alone(source: ReadoutInputs, stored_as: StoredAs) -> None:
    """Loading, dividing and moving to the CPU leave them where they are: in a file mapped into memory."""
    store = replace(source.store, stored_as=stored_as, folder=source.store.folder.with_name(stored_as))
    split = source.data.splits["train"]
    for clip in split.clips:
        values = features(int(clip.id.removeprefix("train"))).astype(stored_as)
        store.write_clip(clip.id, Entry({CELL: values}, "0" * 64, "pyav"))
    apart = load_sequences(store, split, CELL, 8)
    pack_collection(store, print)
    packed = load_sequences(store, split, CELL, 8)
    kept, held_out = split_held_out(packed.to_device(torch.device("cpu")), 1)
    places = {clip: values.data_ptr() for clip, values in zip(packed.clips, packed.features, strict=True)}
    for part in (kept, held_out):
        assert [values.data_ptr() for values in part.features] == [places[clip] for clip in part.clips]
    # One after the other in one array, and not in memory of their own.
    steps = np.diff(sorted(places.values()))
    assert set(steps) <= {n * 16 * np.dtype(stored_as).itemsize for n in range(3, 10)}
    for plan in (BatchPlan((0, 5, 2)), BatchPlan((3, 4), 0.25, (1, 0))):
        ours, theirs = packed.make_batch(plan), apart.make_batch(plan)
        assert ours.features.dtype == torch.float32
        assert torch.equal(ours.features, theirs.features)
    if stored_as == "float32":  # what the Python API loads
        with pytest.raises(ValueError, match="read-only"):
            SplitFeatures(CLASSES, packed, "made_up", CELL, "").features[0][:] = 0


def test_features_must_match_the_request(source: ReadoutInputs) -> None:
    with pytest.raises(MissingError, match="is 16 wide, expected 1280"):
        load_sequences(source.store, source.data.splits["train"], CELL, 8, width=1280)
    with pytest.raises(UsageError, match="max_length 0: expected at least 1 frame"):
        load_sequences(source.store, source.data.splits["train"], CELL, 0)
    other = Split(SplitName("smoke", "train"), CLASSES[:2], source.data.splits["train"].clips)
    with pytest.raises(UsageError, match="clip train2 has label 2, there are 2 classes"):
        load_sequences(source.store, other, CELL, 8)
    sequences = load_sequences(source.store, source.data.splits["train"], CELL, 8)
    assert max(len(f) for f in sequences.features) == 8
    assert sequences.groups is None
