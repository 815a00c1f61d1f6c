"""From stored features to one run record a seed. Runs that are recorded already are reused.

A run's key is a hash of everything its numbers depend on: features, splits, recipe, protocol, precision and seed. Weights
and predictions are on disk before the record that lists their sha256: a run with a record is complete.
"""

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from pydantic import ValidationError

from repro.core.console import Reporter
from repro.core.errors import ReproError
from repro.core.files import set_aside
from repro.core.hashing import content_key, file_sha256
from repro.core.locks import remove_partials
from repro.core.progress.stages import Part
from repro.core.workspace import Workspace
from repro.datasets.split import Split
from repro.features.store import VERSION as STORE_VERSION
from repro.judge.grid_selection import selection_score
from repro.pipeline.row_data import ReadoutInputs, describe_split, split_records
from repro.readout import checkpoints
from repro.readout.checkpoints import Epoch
from repro.readout.compute import ON_CPU, Compute
from repro.readout.held_out import split_held_out
from repro.readout.load import LoadMeter
from repro.readout.metrics import (
    Segments,
    all_scores,
    chance_scores,
    class_prior_scores,
    constant_scores,
    count_at_least,
)
from repro.readout.predictions import FORMAT, Predictions, read_predictions, write_predictions
from repro.readout.recipe import Protocol, Recipe
from repro.readout.sequences import Sequences, load_sequences
from repro.readout.train import (
    Training,
    TrainingResult,
    best_epoch_on_test,
    group_trainings,
    require_matching,
    train_together,
)
from repro.records.mlflow_live import show_trainings
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
    stored_run,
)
from repro.records.training_log import StartedRun, open_training_log
from repro.table.row import row_backbone


@dataclass(frozen=True)
class RunPlan:
    """The runs of one row, cell and protocol, which differ in their seed alone."""

    inputs: ReadoutInputs
    protocol: Protocol
    compute: Compute
    splits: Mapping[str, SplitRecord]
    """What records state of "train" and "test"."""

    @cached_property
    def group(self) -> dict[str, Any]:
        """Everything a run depends on but its seed. Hashed: changing a key or a value here orphans every recorded run."""
        row, data = self.inputs.row, self.inputs.data
        return {
            # The code: raised if it would train other weights from the same inputs.
            "training": checkpoints.VERSION,
            "row": row.name,
            "row_version": row.version,
            "features": {"key": self.inputs.store.key, "cell": row.features.name},
            # Ids, targets and video hashes of the clips, in order.
            "splits": {part: split.model_dump() for part, split in self.splits.items()},
            "recipe": row.readout.model_dump(mode="json", exclude={"note"}),
            "protocol": self.protocol,
            # Device, threads and the number trained together are left out: a run made on another machine is still this run. They
            # change results by rounding; and on a GPU, PyTorch samples other dropout masks from the same seed than on a CPU.
            "precision": self.compute.precision,
            # These add scores to the record and train nothing else.
            "segments": data.segments,
            "also": [str(split.name) for split in data.also],
        } | row.own_identity

    @property
    def grid(self) -> str:
        """The group's key without the cell: equal for all cells of a grid."""
        return content_key({**self.group, "features": {"key": self.inputs.store.key}})

    def stored_run(self, seed: int, workspace: Workspace) -> StoredRun:
        """Where the run of `seed` is stored, whether it exists or not."""
        run = content_key(self.group | {"seed": seed})
        return stored_run(workspace.runs, self.inputs.row.name, seed, run)


def plan_runs(
    inputs: ReadoutInputs,
    protocol: Protocol = "published",
    compute: Compute = ON_CPU,
    splits: Mapping[str, SplitRecord] | None = None,
) -> RunPlan:
    """Plan the runs of `inputs`. `splits` are those of another cell's plan, which saves hashing the clips again."""
    return RunPlan(inputs, protocol, compute, split_records(inputs) if splits is None else splits)


def run_readouts(
    inputs: ReadoutInputs,
    seeds: Sequence[int],
    workspace: Workspace,
    reporter: Reporter,
    protocol: Protocol = "published",
    compute: Compute = ON_CPU,
) -> list[RunRecord]:
    """Train the seeds that have no record, and return the records of all.

    Raises:
        MissingError: features are missing, damaged or not finite, or the loss became NaN.
        UsageError: no such device, or a seed has an unfinished training with another recipe.
    """
    row, plan = inputs.row, plan_runs(inputs, protocol, compute)
    records: dict[int, RunRecord] = {}
    missing = []
    # Before records are read: what others finish meanwhile is not trained again.
    with lock_seeds(row.name, seeds, workspace):
        for seed in seeds:
            stored = plan.stored_run(seed, workspace)
            record = read_record(stored, reporter)
            # Of a cell of a grid that has since become the row's own.
            if record is None or not read_predictions(stored.predictions_path).by_epoch:
                missing.append(PlannedRun(plan, seed, workspace))
            else:
                records[seed] = record
                remove_partials(stored.folder)
        with show_trainings(workspace, [run.stored.log_path for run in missing]):
            for run, outcome in zip(missing, train_runs(missing, reporter), strict=True):
                if isinstance(outcome, ReproError):
                    raise outcome
                records[run.seed] = outcome
    reporter.stage(
        "readout",
        total=len(seeds),
        reused=len(seeds) - len(missing),
        made="trained",
        why=f"{row.name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        + ("" if protocol == "published" else f", {protocol} protocol"),
        where=workspace.runs / row.name,
    )
    return [records[seed] for seed in seeds]


@contextmanager
def lock_seeds(row: str, seeds: Sequence[int], workspace: Workspace) -> Iterator[None]:
    """Hold the locks of a row's seeds: two processes may train different seeds, and not one run in one folder.

    Raises:
        UsageError: another process trains one of them.
    """
    with ExitStack() as locks:
        for seed in seeds:
            locks.enter_context(workspace.lock(f"run {row} seed {seed}"))
        yield


@dataclass(frozen=True)
class PlannedRun:
    """A run without a record yet."""

    plan: RunPlan
    seed: int
    workspace: Workspace
    is_grid_cell: bool = False
    """Whether it is a cell of a grid other than the row's own: predictions are ranks, and scores of every clip apart."""
    keep_scores: bool = False
    """Whether to keep these also if another cell of the grid, with the same seed, is better."""

    @cached_property
    def stored(self) -> StoredRun:
        return self.plan.stored_run(self.seed, self.workspace)


def train_runs(runs: Sequence[PlannedRun], reporter: Reporter) -> list[RunRecord | ReproError]:
    """Train runs of one recipe and write their checkpoints, predictions and records, several runs as one program.

    Args:
        runs: Seeds of one cell, or of several cells; the features of all are loaded.
        reporter: Where progress is reported.

    Returns:
        For each run its record, or why it failed; the others are not affected.
    """
    outcomes: dict[int, RunRecord | ReproError] = {}
    trainings: dict[int, Training] = {}
    loaded: dict[int, dict[str, Sequences]] = {}
    for number, run in enumerate(runs):
        try:
            # Refused before features are loaded, which may take minutes.
            _refuse_other_training(run)
            if id(run.plan) not in loaded:  # once for all seeds
                with reporter.run_part(Part("load features", None, "")):
                    loaded[id(run.plan)] = load_splits(run.plan.inputs)
            trainings[number] = _open_training(run, loaded[id(run.plan)], reporter)
        except ReproError as error:
            outcomes[number] = error
    if trainings:
        recipe, compute = runs[0].plan.inputs.row.readout, runs[0].plan.compute
        numbers = list(trainings)
        with reporter.progress("train", recipe.epochs * len(trainings), unit="epochs") as advance:
            for group in group_trainings(list(trainings.values()), recipe, compute):
                members = [numbers[index] for index in group]
                outcomes |= dict(
                    zip(
                        members,
                        _train_group([runs[n] for n in members], [trainings[n] for n in members], advance),
                        strict=True,
                    )
                )
    return [outcomes[number] for number in range(len(runs))]


def _train_group(
    runs: Sequence[PlannedRun], trainings: Sequence[Training], advance: Callable[[str], None]
) -> list[RunRecord | ReproError]:
    """Train runs as one program, log each training next to its record, and write the records."""
    row, compute = runs[0].plan.inputs.row, runs[0].plan.compute
    with ExitStack() as logs:
        started = [_describe_start(run, training.data) for run, training in zip(runs, trainings, strict=True)]
        writers = [
            logs.enter_context(
                open_training_log(run.stored.log_path, known, resumes=(run.stored.folder / checkpoints.STATE).exists())
            )
            for run, known in zip(runs, started, strict=True)
        ]
        meter, start = LoadMeter(compute.device), time.perf_counter()

        def finish_epoch(index: int, epoch: checkpoints.Epoch) -> None:
            writers[index].write_epoch(_epoch_record(epoch), meter.read(epoch.number))
            advance("")

        results = train_together(trainings, row.readout, metric=row.metric, compute=compute, after_epoch=finish_epoch)
        seconds = (time.perf_counter() - start) / len(runs)
        outcomes: list[RunRecord | ReproError] = []
        for run, training, known, writer, result in zip(runs, trainings, started, writers, results, strict=True):
            if isinstance(result, TrainingResult):
                outcomes.append(_record_run(run, training.data, known, result, seconds))
            else:
                writer.write_failure(str(result))
                outcomes.append(result)
        return outcomes


def _epoch_record(epoch: checkpoints.Epoch) -> EpochRecord:
    return EpochRecord(epoch=epoch.number, train_loss=epoch.train_loss, scores=epoch.scores, held_out=epoch.held_out)


def load_splits(inputs: ReadoutInputs) -> dict[str, Sequences]:
    """Load the feature sequences of "train" and "test"."""
    row = inputs.row
    return {
        part: load_sequences(inputs.stores[part], split, row.features.name, row.readout.max_length)
        for part, split in inputs.data.splits.items()
    }


def read_record(stored: StoredRun, reporter: Reporter) -> RunRecord | None:
    """Read the record of a run; returns None if it is missing or damaged. Damaged files are renamed."""
    try:
        return stored.load_record()
    except DamagedRecordError as error:
        # Both are renamed: the record holds the sha256 of the predictions, so neither can be verified without the other.
        kept = [set_aside(path).name for path in (stored.record_path, stored.predictions_path) if path.exists()]
        reporter.warn(f"{error}: kept as {' and '.join(kept)}, training this seed again")
        return None


def _refuse_other_training(run: PlannedRun) -> None:
    """Refuse to train a seed of which another run, with another recipe, is unfinished.

    The recipe was probably changed by accident. Another cell or head is no changed recipe: a grid trains many of them.

    Raises:
        UsageError: there is such a run; what differs, and what to do.
    """
    row, stored = run.plan.inputs.row, run.stored

    def describe_recipe(recipe: Recipe) -> dict[str, object]:
        return {"recipe": recipe.model_dump(mode="json", exclude={"note"})}

    # Folders are named seed<seed>-<run>: all unfinished runs of this seed.
    for path in stored.folder.parent.glob(f"{stored.folder.name.split('-')[0]}-*/{checkpoints.STATE}"):
        header = checkpoints.read_header(path)
        if path.parent == stored.folder or header is None or header.get("protocol") != run.plan.protocol:
            continue
        try:
            recipe, cell = Recipe.model_validate(header["asked"]["recipe"]), header["cell"]
        except (KeyError, ValidationError):  # written by another version, which this one does not resume
            continue
        if (cell, recipe.head) == (row.features.name, row.readout.head):
            checkpoints.refuse_changed(path, describe_recipe(recipe), describe_recipe(row.readout))


def _open_training(run: PlannedRun, sequences: Mapping[str, Sequences], reporter: Reporter) -> Training:
    """Return a run's training, and make its folder ready."""
    plan, inputs, row = run.plan, run.plan.inputs, run.plan.inputs.row
    train, test, held_out = sequences["train"], sequences["test"], None
    if plan.protocol == "held-out":
        train, held_out = split_held_out(train, run.seed)
    found = checkpoints.TrainingData(train, test, held_out, inputs.data.segments)
    # Refused before anything is computed of them, as class priors.
    require_matching(found)
    run.stored.folder.mkdir(parents=True, exist_ok=True)
    # What killed writers left.
    remove_partials(run.stored.folder)
    # Stored in the checkpoints' headers: `repro predict` reads it.
    about = {
        "row": row.name, "backbone": row.backbone, "cell": row.features.name, "features": inputs.store.key,
        "protocol": plan.protocol, "class_names": list(inputs.data.splits["test"].classes),
    }  # fmt: skip
    return Training(
        found,
        run.seed,
        checkpoints.CheckpointFolder(run.stored.folder, about, reporter.warn),
    )


def _record_run(
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
    score = (selected.held_out or selected.scores)[run.plan.inputs.row.metric]
    for folder in run.stored.folder.parent.glob(f"seed{run.seed}-*"):
        try:
            other = StoredRun(folder).load_record()
        except DamagedRecordError:  # trained again when its cell is requested
            continue
        if other is not None and other.grid == run.plan.grid and selection_score(other) > score:
            return False
    return True


def _describe_start(run: PlannedRun, data: checkpoints.TrainingData) -> StartedRun:
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
        epochs=tuple(_epoch_record(epoch) for epoch in trained.epochs),
        best_epoch_on_test=Selection(epoch=best.number, scores=best.scores),
        last_epoch=Selection(epoch=last.number, scores=last.scores),
        best_epoch_on_held_out=None
        if data.held_out is None
        else Selection(epoch=trained.selected.number, scores=trained.selected.scores),
        subsets=tuple(_subset_record(split, data.test, trained, row.metric, segments) for split in inputs.data.also),
        checkpoints={name: file_sha256(stored.folder / name) for name in (checkpoints.SELECTED, checkpoints.LAST)},
        predictions_sha256=file_sha256(stored.predictions_path),
        predictions_format=FORMAT,
        key_rest={
            "training": checkpoints.VERSION,
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
