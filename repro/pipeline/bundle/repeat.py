"""Train the readouts of a bundle's records again, from features that are here, and compare scores.

The features must be those that the records state: their key, the sha256 of the splits and, if the bundle has one, its index decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.backbones.config import Cell
from repro.core.console import Reporter
from repro.core.errors import MissingError, ReproError
from repro.datasets.split import SplitName, name_first_clips
from repro.features.packed import DamagedFeaturesError
from repro.pipeline.bundle.features_index import FeaturesIndex, estimate_deviation, fingerprint
from repro.pipeline.bundle.spot_check import SAME_LIMIT
from repro.pipeline.grid.workers import inputs_at
from repro.pipeline.row_data import ReadoutInputs, split_records
from repro.pipeline.runs.train import load_splits
from repro.readout.checkpoints import TrainingData
from repro.readout.compute import Compute
from repro.readout.sequences import split_held_out
from repro.readout.train import best_epoch_on_test, train_readout
from repro.records.record import RunRecord

REPEAT_TOLERANCE = 0.5
"""Points by which a score may differ, or one test clip if that is more: rounding on another processor or in another version of a
library makes a training end elsewhere. expected/README.md has what was measured."""


@dataclass(frozen=True, slots=True)
class RepeatedRun:
    """A readout that was trained again; scores of the row's metric in points."""

    row: str
    seed: int
    run: str
    recorded: tuple[float, float]
    """Of the epoch that the run's protocol selects, and of the last one."""
    repeated: tuple[float, float]
    tolerance: float
    equal_losses: bool
    """Whether every epoch's training loss is the same, bit for bit."""

    @property
    def deviation(self) -> float:
        return max(abs(ours - theirs) for ours, theirs in zip(self.repeated, self.recorded, strict=True))

    @property
    def wrong(self) -> bool:
        # NaN compares as false, and so counts as wrong.
        return not self.deviation <= self.tolerance + 1e-9


def require_same_features(inputs: ReadoutInputs, record: RunRecord, index: FeaturesIndex | None) -> int:
    """Check that features here are those that a record was trained on; returns the number of clips that the index confirms.

    Raises:
        MissingError: they are other features, clips or labels, or are damaged.
    """
    cell, where = record.features.cell, f"{record.row} seed {record.seed}"
    if inputs.store.key != record.features.key:
        raise MissingError(
            f"{where}: the features here have key {inputs.store.key}, the record's have {record.features.key}: other weights or settings"
        )
    confirmed, wrong = 0, []
    for part, stated in (("train", record.train), ("test", record.test)):
        name = SplitName.parse(stated.name).dataset
        collection = None if index is None else index.collections.get(name)
        column = next(
            (c for c in (collection.features if collection else ()) if c.endswith(f"-{record.features.key}/{cell}")), ""
        )
        if collection is None or not column:
            continue
        number = collection.features.index(column)
        try:
            reader = inputs.stores[part].cell_reader(cell)
            for clip in inputs.data.splits[part].clips:
                entry, values = reader.read(clip.id), collection.fingerprints.get(clip.id)
                committed = values[number] if values else None
                if entry is None or committed is None:
                    continue
                # Not `>`: a fingerprint with NaN must not count as equal.
                if not estimate_deviation(fingerprint(entry.features[cell]), committed) <= SAME_LIMIT:
                    wrong.append(clip.id)
                confirmed += 1
        except DamagedFeaturesError as error:
            raise MissingError(f"features {inputs.stores[part].folder}: damaged: {error}") from error
    if wrong:
        raise MissingError(
            f"{where}: the features here of {len(wrong)} clips are not those that features.index commits to ({name_first_clips(wrong)})"
        )
    return confirmed


def repeat_readout(
    inputs: ReadoutInputs, record: RunRecord, device: str, tolerance: Mapping[str, float]
) -> RepeatedRun:
    """Train the readout of a record again; nothing is written.

    Args:
        inputs: Features and splits of the record's row, at its cell.
        record: The record.
        device: Of this machine.
        tolerance: In points by metric, for rows that have one of their own [default: REPEAT_TOLERANCE, or one clip].

    Raises:
        MissingError: other splits or another recipe than the record's are here, or another kind of device, or features are damaged.
        UsageError: the precision is not available on the device.
    """
    where = f"{record.row} seed {record.seed}"
    on_gpu = record.made.on.get("device", "cpu") != "cpu"
    # A seed gives other random numbers on a GPU: the weights and batches would be other ones.
    if on_gpu != device.startswith("cuda"):
        kinds = ("a GPU", "a CPU") if on_gpu else ("a CPU", "a GPU")
        raise MissingError(
            f"{where}: trained on {kinds[0]}, whose random numbers differ from those of {kinds[1]}: use --device"
        )
    # The number of threads decides in which order sums are taken, and so the rounding.
    threads = record.made.on.get("torch_threads", "")
    compute = Compute(
        device, record.precision, threads=int(threads) if threads.isdigit() and 0 < int(threads) < 65 else None
    )
    described = split_records(inputs)
    for part, stated in (("train", record.train), ("test", record.test)):
        if described[part].sha256 != stated.sha256:
            raise MissingError(f"{where}: clips, labels or videos of {stated.name} here are not those of the record")
    # A stranger's recipe may take any time and memory.
    if inputs.row.readout.model_dump(exclude={"note"}) != record.recipe.model_dump(exclude={"note"}):
        raise MissingError(f"{where}: its recipe is not the one of the row here")
    splits = load_splits(inputs)
    train, held_out = splits["train"], None
    if record.protocol == "held-out":
        train, held_out = split_held_out(train, record.seed)
    data = TrainingData(train, splits["test"], held_out, inputs.data.segments)
    found = train_readout(data, record.recipe, record.seed, metric=record.metric, compute=compute)
    # As the run's own protocol selected: without held-out clips, on the test split (docs/deviations.md 2).
    selected = best_epoch_on_test(found.epochs, record.metric) if held_out is None else found.selected
    stated_selection = record.best_epoch_on_held_out or record.best_epoch_on_test
    return RepeatedRun(
        record.row,
        record.seed,
        record.run,
        (100 * stated_selection.scores[record.metric], 100 * record.last_epoch.scores[record.metric]),
        (100 * selected.scores[record.metric], 100 * found.epochs[-1].scores[record.metric]),
        # One clip of few moves the score by more than the tolerance.
        tolerance.get(record.metric, max(REPEAT_TOLERANCE, 100 / record.test.clips)),
        [epoch.train_loss for epoch in found.epochs] == [epoch.train_loss for epoch in record.epochs],
    )


@dataclass(frozen=True, slots=True)
class Repetition:
    """What came of training a bundle's readouts again."""

    runs: tuple[RepeatedRun, ...]
    failed: Mapping[str, str]
    """By run: why it was not repeated."""
    confirmed: int
    """Features of clips that are those of the index; a row and cell at a time."""

    @property
    def wrong(self) -> tuple[RepeatedRun, ...]:
        return tuple(run for run in self.runs if run.wrong)

    @property
    def complete(self) -> bool:
        return bool(self.runs) and not self.failed and not self.wrong


def repeat_readouts(
    records: Sequence[RunRecord],
    inputs: Mapping[str, ReadoutInputs | str],
    index: FeaturesIndex | None,
    device: str,
    tolerance: Mapping[str, Mapping[str, float]],
    reporter: Reporter,
) -> Repetition:
    """Train the readout of every record again.

    Args:
        records: Of the bundle.
        inputs: By row, features and splits, or why there are none.
        index: The bundle's, if it has one.
        device: Of this machine.
        tolerance: In points, by row and metric, for rows that have their own.
        reporter: Where progress is reported.
    """
    runs, failed = [], {}
    # Runs that differ in the seed read the same features.
    checked: dict[tuple[str, str], int] = {}
    with reporter.progress("readout", len(records)) as advance:
        for record in records:
            found = inputs[record.row]
            try:
                if isinstance(found, str):
                    raise MissingError(found)
                at_cell = inputs_at(found, Cell.parse(record.features.cell))
                if (record.row, record.features.cell) not in checked:
                    confirmed = require_same_features(at_cell, record, index)
                    checked[record.row, record.features.cell] = confirmed
                runs.append(repeat_readout(at_cell, record, device, tolerance.get(record.row, {})))
            except ReproError as error:
                failed[f"{record.row} seed {record.seed} ({record.run})"] = str(error)
            advance(record.row)
    return Repetition(tuple(runs), failed, sum(checked.values()))
