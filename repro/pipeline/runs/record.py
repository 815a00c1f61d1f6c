"""What is kept of a training: the predictions on the test clips, and the record, which is written last."""

import datetime
from collections.abc import Set
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from repro.core.hashing import content_key, file_sha256
from repro.datasets.split import Split
from repro.features.store import STORE_VERSION
from repro.judge.grid_selection import selection_score
from repro.pipeline.row_data import ReadoutInputs, describe_split
from repro.pipeline.runs.plan import PlannedRun
from repro.readout import checkpoints
from repro.readout.checkpoints import Epoch
from repro.readout.compute import Compute
from repro.readout.metrics import (
    Segments,
    all_scores,
    chance_scores,
    class_prior_scores,
    constant_scores,
    count_at_least,
)
from repro.readout.predictions import PREDICTIONS_FORMAT, Predictions, write_predictions
from repro.readout.sequences import Sequences
from repro.readout.train import TrainingResult, best_epoch_on_test
from repro.records.record import (
    DamagedRecordError,
    EpochRecord,
    FeaturesRecord,
    Provenance,
    RunRecord,
    Selection,
    SplitRecord,
    StoredRun,
    SubsetRecord,
    describe_machine,
    describe_source,
    software_versions,
)
from repro.records.training_log import StartedRun
from repro.table.row import row_backbone


def record_run(
    run: PlannedRun,
    data: checkpoints.TrainingData,
    started: StartedRun,
    trained: TrainingResult,
    seconds: float,
) -> RunRecord:
    """Write the predictions and the record of a finished training."""
    # The record comes last and the training's state goes after it: a process killed in between resumes from the state and writes
    # these files again.
    _write_predictions(run, data, trained)
    record = _build_record(run, data, started, trained, seconds)
    run.stored.write_record(record)
    (run.stored.folder / checkpoints.STATE).unlink(missing_ok=True)
    return record


def describe_start(run: PlannedRun, data: checkpoints.TrainingData) -> StartedRun:
    """Return what of the run's record is known before it is trained."""
    plan, inputs = run.plan, run.plan.inputs
    row, segments = inputs.row, inputs.data.segments
    tested, learned = _integer_targets(data.test), _integer_targets(data.train)
    return StartedRun(
        run=run.stored.folder.name.split("-")[1],
        group=content_key(plan.group),
        grid=plan.grid,
        row=row.name,
        row_version=row.version,
        kind=row.kind,
        complete=inputs.data.complete,
        seed=run.seed,
        protocol=plan.protocol,
        metric=row.metric,
        recipe=row.readout,
        features=_features_record(inputs, data),
        train=plan.splits["train"],
        test=plan.splits["test"],
        held_out=None if data.held_out is None else _held_out_record(inputs, data.held_out),
        manifests=dict(inputs.data.manifests),
        chance=chance_scores(tested),
        class_prior=class_prior_scores(learned, tested, segments),
        constant=constant_scores(tested, segments),
        precision=plan.compute.precision,
        made=_made_record(plan.compute, 0.0, 1),
    )


def epoch_record(epoch: checkpoints.Epoch) -> EpochRecord:
    return EpochRecord(epoch=epoch.number, train_loss=epoch.train_loss, scores=epoch.scores, held_out=epoch.held_out)


def _integer_targets(split: Sequences) -> Int64[np.ndarray, "N K"]:
    targets: Int64[np.ndarray, "N K"] = split.targets.numpy().astype(np.int64)
    return targets


def _write_predictions(run: PlannedRun, data: checkpoints.TrainingData, trained: TrainingResult) -> None:
    """Write the test logits of every clip after the epochs that a rule selects, and of the others what the metric depends on.

    Of a grid's cells, of which there are 91, predictions have no logits; those of the best are in a file next to them. The record
    states the sha256 of the predictions alone, so that it is the same whatever the order in which cells are trained.
    """
    row, stored = run.plan.inputs.row, run.stored
    best = best_epoch_on_test(trained.epochs, row.metric)
    # Three epochs at most: the logits of all would take far more disk than every other file of a run.
    whole = {epoch.number for epoch in (best, trained.selected, trained.epochs[-1])}
    # Of an earlier training of this run: whether it is the best is decided again below.
    stored.scores_path.unlink(missing_ok=True)
    if run.is_grid_cell:
        if run.keep_scores or _is_best_so_far(run, trained.selected):
            _write_epochs(stored.scores_path, run, data, trained, whole)
        whole = set()
    _write_epochs(stored.predictions_path, run, data, trained, whole)


def _write_epochs(
    path: Path, run: PlannedRun, data: checkpoints.TrainingData, trained: TrainingResult, whole: Set[int]
) -> None:
    """Write predictions with the logits after the epochs `whole`."""
    row, targets = run.plan.inputs.row, _integer_targets(data.test)
    # Epochs count from 1.
    by_epoch = dict(enumerate(trained.predictions, start=1))
    others = {number: scores for number, scores in by_epoch.items() if number not in whole}
    predictions = Predictions(
        data.test.clips,
        run.plan.inputs.data.splits["test"].classes,
        targets,
        {number: by_epoch[number] for number in whole},
        data.test.groups,
        # Accuracy depends on the predicted class alone, and average precision on how many pairs score at
        # least as high as each positive: all that later verification needs.
        {number: scores.argmax(axis=1).astype(np.uint16) for number, scores in others.items()}
        if row.metric == "top1"
        else {},
        {number: count_at_least(scores, targets) for number, scores in others.items()}
        if row.metric == "map_micro"
        else {},
    )
    logits = {number: trained.logits[number - 1] for number in whole}
    write_predictions(path, predictions, logits, row.readout.activation)


def _is_best_so_far(run: PlannedRun, selected: Epoch) -> bool:
    """Whether no stored run of the same grid, protocol and seed has a higher score on what its protocol selects by.

    So the cell that is selected in the end is among those of which this was true, whatever the order and number of processes.
    """
    # On the clips that the run's protocol selects by, as select_cell compares cells.
    score = (selected.held_out or selected.scores)[run.plan.inputs.row.metric]
    for folder in run.stored.folder.parent.glob(f"seed{run.seed}-*"):
        try:
            other = StoredRun(folder).load_record()
        except DamagedRecordError:  # trained again when its cell is requested
            continue
        if other is not None and other.grid == run.plan.grid and selection_score(other) > score:
            return False
    return True


def _build_record(
    run: PlannedRun,
    data: checkpoints.TrainingData,
    started: StartedRun,
    trained: TrainingResult,
    seconds: float,
) -> RunRecord:
    """Build the record of a finished training, whose files are stored."""
    plan, stored, inputs = run.plan, run.stored, run.plan.inputs
    row, segments = inputs.row, inputs.data.segments
    best, last = best_epoch_on_test(trained.epochs, row.metric), trained.epochs[-1]
    checkpoint = row_backbone(row).checkpoint
    return RunRecord(
        **{name: getattr(started, name) for name in StartedRun.model_fields if name != "made"},
        checkpoint_assumed=checkpoint is not None and checkpoint.assumed,
        classes=inputs.data.splits["test"].classes,
        epochs=tuple(epoch_record(epoch) for epoch in trained.epochs),
        best_epoch_on_test=Selection(epoch=best.number, scores=best.scores),
        last_epoch=Selection(epoch=last.number, scores=last.scores),
        best_epoch_on_held_out=None
        if data.held_out is None
        else Selection(epoch=trained.selected.number, scores=trained.selected.scores),
        subsets=tuple(_subset_record(split, data.test, trained, row.metric, segments) for split in inputs.data.also),
        # From the files as they are on disk, not from the tensors in memory: the record vouches for what can be read.
        checkpoints={name: file_sha256(stored.folder / name) for name in (checkpoints.SELECTED, checkpoints.LAST)},
        predictions_sha256=file_sha256(stored.predictions_path),
        predictions_format=PREDICTIONS_FORMAT,
        key_rest={
            "training": checkpoints.READOUT_VERSION,
            "store": STORE_VERSION,
            # As JSON holds them, so that a record equals what is read from its file.
            "segments": segments and {name: list(classes) for name, classes in segments.items()},
            **row.own_identity,
        },
        made=_made_record(plan.compute, seconds, trained.together),
    )


def _features_record(inputs: ReadoutInputs, data: checkpoints.TrainingData) -> FeaturesRecord:
    return FeaturesRecord(
        key=inputs.store.key,
        cell=inputs.row.features.name,
        width=data.train.width,
        identity=inputs.store.identity,
        stored_as=inputs.store.stored_as,
        # A part of a split keeps the complete split's readers: held-out clips are counted.
        readers=dict(data.train.readers + data.test.readers),
        imported=dict(data.train.imported + data.test.imported),
    )


def _made_record(compute: Compute, seconds: float, together: int) -> Provenance:
    """Record when and on what the training ran; `seconds` is its share of the time of all that ran together."""
    # The training's device: describe_machine's default is the CPU.
    on = describe_machine() | {"device": compute.device_name, "deterministic": str(compute.deterministic).lower()}
    if compute.threads is not None:
        on["torch_threads"] = str(compute.threads)
    if together > 1:
        on["trainings_together"] = str(together)
    return Provenance(
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        by=software_versions(),
        on=on,
        source=describe_source(),
    )


def _subset_record(
    split: Split, test: Sequences, trained: TrainingResult, metric: str, segments: Segments | None
) -> SubsetRecord:
    """Score the clips of `split`, a part of the test split, by the same rules."""
    ids = {clip.id for clip in split.clips}
    # The network is not run again: a part is scored on the test split's predictions.
    chosen = np.array([clip in ids for clip in test.clips])
    targets = _integer_targets(test)[chosen]
    scores = [all_scores(predictions[chosen], targets, segments) for predictions in trained.predictions]
    # The part's own best epoch, selected as if the part were the test split.
    best = max(range(len(scores)), key=lambda epoch: scores[epoch][metric])  # ties go to the earliest
    return SubsetRecord(
        name=str(split.name),
        clips=len(targets),
        best_epoch_on_test=Selection(epoch=best + 1, scores=scores[best]),
        last_epoch=Selection(epoch=len(scores), scores=scores[-1]),
    )


def _held_out_record(inputs: ReadoutInputs, held_out: Sequences) -> SplitRecord:
    split, ids = inputs.data.splits["train"], set(held_out.clips)
    part = replace(split, clips=tuple(clip for clip in split.clips if clip.id in ids))
    return describe_split(part, inputs.video_sha256)
