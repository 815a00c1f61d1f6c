"""Train the runs that have no record. Those that have one are reused.

Weights and predictions are on disk before the record that lists their sha256: a run with a record is complete.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from pydantic import ValidationError

from repro.core.console import Reporter
from repro.core.errors import ReproError
from repro.core.files import set_aside
from repro.core.locks import remove_partials
from repro.core.progress.stages import Part
from repro.core.workspace import Workspace
from repro.pipeline.row_data import ReadoutInputs
from repro.pipeline.runs.plan import PlannedRun, plan_runs
from repro.pipeline.runs.record import describe_start, epoch_record, record_run
from repro.readout import checkpoints
from repro.readout.compute import ON_CPU, Compute
from repro.readout.load import LoadMeter
from repro.readout.predictions import read_predictions
from repro.readout.recipe import Protocol, Recipe
from repro.readout.sequences import Sequences, load_sequences, split_held_out
from repro.readout.train import Training, TrainingResult, group_trainings, require_matching, train_together
from repro.records.mlflow_live import show_trainings
from repro.records.record import DamagedRecordError, RunRecord, StoredRun
from repro.records.training_log import open_training_log


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
        # Shown in MLflow by a process of its own, which the training neither waits for nor fails with.
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
        started = [describe_start(run, training.data) for run, training in zip(runs, trainings, strict=True)]
        writers = [
            logs.enter_context(
                open_training_log(run.stored.log_path, known, resumes=(run.stored.folder / checkpoints.STATE).exists())
            )
            for run, known in zip(runs, started, strict=True)
        ]
        meter, start = LoadMeter(compute.device), time.perf_counter()

        def finish_epoch(index: int, epoch: checkpoints.Epoch) -> None:
            writers[index].write_epoch(epoch_record(epoch), meter.read(epoch.number))
            advance("")

        results = train_together(trainings, row.readout, metric=row.metric, compute=compute, after_epoch=finish_epoch)
        # Runs trained as one program share its time equally.
        seconds = (time.perf_counter() - start) / len(runs)
        outcomes: list[RunRecord | ReproError] = []
        for run, training, known, writer, result in zip(runs, trainings, started, writers, results, strict=True):
            if isinstance(result, TrainingResult):
                outcomes.append(record_run(run, training.data, known, result, seconds))
            else:
                writer.write_failure(str(result))
                outcomes.append(result)
        return outcomes


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
    # A changed recipe has another key and so another folder: the unfinished run would be left without a word.
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
