"""Run records with the evidence for them: the scores in a record are computed again from its predictions."""

from collections.abc import Iterable

from repro.core.errors import MissingError
from repro.readout.metrics import all_scores, chance_scores, constant_scores
from repro.readout.predictions import read_predictions
from repro.records.record import DamagedRecordError, RunRecord, StoredRun

TOLERANCE = 1e-9
"""Largest difference between a recorded score and the same computed again: predictions are stored as float64."""


def read_evidence(runs: Iterable[StoredRun]) -> tuple[list[RunRecord], list[tuple[StoredRun, str]]]:
    """Read run records and verify each against its predictions.

    Args:
        runs: Folders of runs; those without a record are skipped.

    Returns:
        The records that agree with their evidence; and the runs that do not, each with the reason.
    """
    records: list[RunRecord] = []
    damaged: list[tuple[StoredRun, str]] = []
    seen: dict[tuple[str, str], StoredRun] = {}
    for run in runs:
        try:
            record = run.load_record()
        except DamagedRecordError as error:
            damaged.append((run, str(error)))
            continue
        if record is None:
            continue
        why = explain_predictions(record, run)
        if why:
            damaged.append((run, f"{run.record_path}: it does not agree with its predictions: {why}"))
            continue
        # Predictions are float64 of networks with other random weights: two seeds never have the same.
        first = seen.setdefault((record.row, record.predictions_sha256), run)
        if first is not run:
            damaged.append((run, f"{run.record_path}: its predictions are those of {first.folder.name}: a copied run"))
            continue
        records.append(record)
    return records, damaged


def explain_predictions(record: RunRecord, run: StoredRun) -> str:
    """Return where a record and its predictions contradict each other; empty if they agree.

    Not computed again, and used by no verdict: scores of segments and subsets, because which classes and clips those are is in
    the data set's files; those of the class prior, which takes the training split; and those of epochs without predictions.
    """
    try:
        predictions = read_predictions(run.predictions_path)
    except MissingError as error:
        return str(error)
    clips = len(set(predictions.clips))
    if clips != len(predictions.clips) or clips != record.test.clips:
        return f"{clips} clips in {len(predictions.clips)} lines, the record has {record.test.clips}"
    if predictions.classes != record.classes:
        return f"{len(predictions.classes)} classes, the record has {len(record.classes)}, or others"
    checked = set()
    for selection in (record.best_epoch_on_test, record.last_epoch, record.best_epoch_on_held_out):
        if selection is None or selection.epoch in checked:
            continue
        checked.add(selection.epoch)
        scores = predictions.by_epoch.get(selection.epoch)
        if scores is None or len(scores) != clips:
            return f"no scores of every clip after epoch {selection.epoch}"
        try:
            found = all_scores(scores, predictions.targets)
        except ValueError as error:
            return f"epoch {selection.epoch} has no scores ({error})"
        for name in selection.scores.keys() & found.keys():
            if not abs(selection.scores[name] - found[name]) <= TOLERANCE:
                return f"{name} after epoch {selection.epoch} is {found[name]:.6g}, the record has {selection.scores[name]:.6g}"
    for what, recorded, found in (
        ("chance", record.chance, chance_scores(predictions.targets)),
        ("constant score", record.constant, constant_scores(predictions.targets)),
    ):
        for name in recorded.keys() & found.keys():
            if not abs(recorded[name] - found[name]) <= TOLERANCE:
                return f"{what} of {name} is {found[name]:.6g}, the record has {recorded[name]:.6g}"
    return ""
