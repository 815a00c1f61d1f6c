"""What the predictions of a row's runs give: scores by class or by group of clips, confusions, and how closely clips pin them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from repro.core.errors import MissingError, UsageError
from repro.core.hashing import content_sha256
from repro.core.workspace import Workspace
from repro.datasets import animal_kingdom
from repro.datasets.registry import read_attribute
from repro.judge.claims import resampling
from repro.judge.kept import Computation, Memory, dump_arrays, hash_code, parse_arrays
from repro.judge.rescoring import read_run_predictions, stamp_run
from repro.judge.scores import intervals
from repro.judge.scores.intervals import SplitInterval, dump_interval, interval_over_clips, parse_interval
from repro.readout import metrics
from repro.readout import predictions as predictions_module
from repro.readout.predictions import Predictions
from repro.readout.recipe import PROTOCOLS
from repro.records.record import RunRecord, Selection, StoredRun
from repro.table.row import Row, row_datasets

SHOWN_TOLERANCE = 1e-6
"""Largest difference between a recorded score and that of the predictions; `repro check` is stricter."""
RULE_FIELDS = {"published": "best_epoch_on_test", "held-out": "best_epoch_on_held_out", "last epoch": "last_epoch"}
"""Fields of a record with the epoch that each rule selects."""
Runs = list[tuple[RunRecord, StoredRun]]


@dataclass(frozen=True, slots=True)
class ScoresInput:
    """Whose predictions are read."""

    row: Row
    workspace: Workspace
    by: str
    """As in `load_scores`."""
    sets: Mapping[str, Runs]
    """Runs by protocol, the row's own first."""

    def list_rules(self) -> list[tuple[str, str]]:
        """Return each rule with the protocol of the runs that it is shown of."""
        rules = [(rule, rule) for rule in PROTOCOLS if rule in self.sets]
        return [*rules, ("last epoch", next(iter(self.sets)))]

    def hash_inputs(self) -> str:
        """Hash all that scores by class depend on."""
        runs = [
            [protocol, record.run, record.predictions_sha256, run.folder.name]
            # The epochs too: they decide which of the predictions are read.
            + [[one.epoch, one.scores] for rule in RULE_FIELDS if (one := select_epoch(record, rule))]
            for protocol, found in self.sets.items()
            for record, run in found
        ]
        return content_sha256([self.row.name, self.row.metric, self.by, runs])


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is computed from the predictions; RowScores has what each is."""

    runs: tuple[str, ...]
    """Keys of the runs whose predictions are of the same clips as the first one's: the others are left out."""
    left_out: tuple[str, ...]
    clips: int
    items: tuple[str, ...]
    counts: Int[np.ndarray, " I"]
    values: tuple[Float[np.ndarray, "_ I"], ...]
    """By rule."""
    classes: tuple[str, ...]
    confusion: Int[np.ndarray, "K K"]
    class_counts: Int[np.ndarray, " K"]
    precisions: Float[np.ndarray, "S K"]
    interval: SplitInterval | None


ARRAYS = ("counts", "confusion", "class_counts", "precisions")
"""Fields of Numbers that are arrays."""


def remember_numbers(kept: Path, warn: Callable[[str], None] = lambda line: None) -> Memory[ScoresInput, Numbers]:
    """Return the memory of the scores by class of rows, which `kept` keeps."""
    modules = (metrics, predictions_module, resampling, intervals)
    code = hash_code(*(module.__file__ for module in modules), __file__)
    computation = Computation(
        code,
        compute_numbers,
        _verify_numbers,
        _dump_numbers,
        _parse_numbers,
        lambda given: " ".join(_stamp_runs(given)),
    )
    return Memory(computation, kept, warn)


def _stamp_runs(given: ScoresInput) -> Iterator[str]:
    for runs in given.sets.values():
        for _, run in runs:
            yield stamp_run(run)


def select_epoch(record: RunRecord, rule: str) -> Selection | None:
    """Return the epoch that a rule selects, with its scores."""
    selected: Selection | None = getattr(record, RULE_FIELDS[rule])
    return selected


def compute_numbers(given: ScoresInput) -> Numbers:
    """Compute the scores of a row's runs by class or by group of clips.

    Raises:
        UsageError: the clips have no such groups.
        MissingError: predictions are missing, or not those of their record.
    """
    left_out: list[str] = []
    loaded = list(_read_predictions(given, left_out))
    first = loaded[0][2]
    items, counts, score = _list_items(given, first)
    values: list[Float[np.ndarray, "_ I"]] = []
    own: list[metrics.Scores] = []
    for rule, protocol in given.list_rules():
        runs = [(record, predictions) for of, record, predictions in loaded if of == protocol]
        chosen = [_select_scores(rule, record, predictions) for record, predictions in runs]
        # Of the first rule, the row's own: confusions and the interval are under it.
        own = own or chosen
        values.append(np.array([100 * score(scores, first.targets) for scores in chosen]))
    single = given.row.metric == "top1"
    count = metrics.count_confusions if single else metrics.count_ranking_errors
    confusions = [count(scores, first.targets) for scores in own]
    predicted = np.array([np.bincount(s.argmax(axis=1), minlength=len(first.classes)) for s in own], float)
    # A class that no clip is predicted as has no precision, which is not a precision of 0.
    predicted[predicted == 0] = np.nan
    right = np.array([matrix.diagonal() for matrix in confusions])
    return Numbers(
        runs=tuple(record.run for _, record, _ in loaded),
        left_out=tuple(left_out),
        clips=len(first.clips),
        items=items,
        counts=counts,
        values=tuple(values),
        classes=first.classes,
        confusion=np.sum(confusions, axis=0),
        class_counts=first.targets.sum(axis=0),
        precisions=100 * right / predicted if single else np.full(predicted.shape, np.nan),
        interval=interval_over_clips(given.row.metric, own, first),
    )


def _verify_numbers(given: ScoresInput, known: Numbers) -> bool:
    ours = compute_numbers(given)
    texts = ("runs", "left_out", "clips", "items", "classes")
    arrays = [(getattr(ours, name), getattr(known, name)) for name in ARRAYS]
    arrays += zip(ours.values, known.values, strict=True)
    return (
        all(getattr(ours, name) == getattr(known, name) for name in texts)
        and all(a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-6, equal_nan=True) for a, b in arrays)
        and intervals.agree_intervals(ours.interval, known.interval)
    )


def _dump_numbers(found: Numbers) -> dict[str, Any]:
    arrays = {name: getattr(found, name) for name in ARRAYS}
    arrays |= {f"values{n}": values for n, values in enumerate(found.values)}
    return {
        "runs": found.runs,
        "left_out": found.left_out,
        "clips": found.clips,
        "items": found.items,
        "classes": found.classes,
        "interval": dump_interval(found.interval),
        "rules": len(found.values),
        "arrays": dump_arrays(arrays),
    }


def _parse_numbers(raw: dict[str, Any]) -> Numbers:
    arrays = parse_arrays(raw["arrays"])
    return Numbers(
        runs=tuple(raw["runs"]),
        left_out=tuple(raw["left_out"]),
        clips=raw["clips"],
        items=tuple(raw["items"]),
        values=tuple(arrays[f"values{n}"] for n in range(raw["rules"])),
        classes=tuple(raw["classes"]),
        interval=parse_interval(raw["interval"]),
        **{name: arrays[name] for name in ARRAYS},
    )


def _read_predictions(given: ScoresInput, left_out: list[str]) -> Iterator[tuple[str, RunRecord, Predictions]]:
    first: Predictions | None = None
    for protocol, runs in given.sets.items():
        for record, run in runs:
            found = read_run_predictions(run)
            if first is None:
                first = found
                if found.classes != record.classes or len(found.clips) != record.test.clips:
                    raise MissingError(f"{run.predictions_path}: not of the classes and clips of its record")
            # A mean over runs is one of the same clips: the first run decides which.
            elif (found.clips, found.classes) != (first.clips, first.classes) or (found.targets != first.targets).any():
                left_out.append(f"{run.folder.name}: of other test clips or labels")
                continue
            yield protocol, record, found


def _list_items(
    given: ScoresInput, predictions: Predictions
) -> tuple[tuple[str, ...], Int[np.ndarray, " I"], Callable[..., Float[np.ndarray, " I"]]]:
    """Return the items, their numbers of clips, and what scores them all."""
    targets, classes, metric = predictions.targets, predictions.classes, given.row.metric
    if given.by == "class":
        return (
            classes,
            targets.sum(axis=0),
            _score_recall if metric == "top1" else metrics.average_precision_by_class,
        )
    if given.by == "segment":
        segments = _read_segments(given, len(classes))
        counts = [targets[:, labels].any(axis=1).sum() for labels in map(list, segments.values())]

        def score_segments(scores: metrics.Scores, targets: metrics.Targets) -> Float[np.ndarray, " I"]:
            chosen = [(scores[:, labels], targets[:, labels]) for labels in map(list, segments.values())]
            return np.array([metrics.map_macro(*pair) if pair[1].any() else np.nan for pair in chosen])

        return tuple(segments), np.array(counts), score_segments
    groups = _list_groups(given, predictions)
    score = metrics.top1 if metric == "top1" else metrics.map_micro

    def score_groups(scores: metrics.Scores, targets: metrics.Targets) -> Float[np.ndarray, " I"]:
        # Average precision is not defined for clips without a label.
        return np.array(
            [score(scores[clips], targets[clips]) if targets[clips].any() else np.nan for clips in groups.values()]
        )

    return tuple(groups), np.array([len(clips) for clips in groups.values()], np.int64), score_groups


def _list_groups(given: ScoresInput, predictions: Predictions) -> dict[str, list[int]]:
    """Return the indices of the clips of each group; a clip may be in several."""
    if given.by == "source":
        if predictions.groups is None:
            raise UsageError(f"--by source: the source videos of {given.row.name}'s clips are not known")
        names: list[tuple[str, ...]] = [(group or "not known",) for group in predictions.groups]
    else:
        config = row_datasets(given.row)[given.row.data.test.dataset]
        found = read_attribute(config, given.workspace, given.by, predictions.clips)
        names = [found[clip] for clip in predictions.clips]
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for clip, of_clip in enumerate(names):
        for name in of_clip:
            groups[name].append(clip)
    return dict(sorted(groups.items()))


def _read_segments(given: ScoresInput, classes: int) -> dict[str, tuple[int, ...]]:
    config = row_datasets(given.row)[given.row.data.test.dataset]
    folder = given.workspace.data / config.folder
    segments = animal_kingdom.read_segments(folder, config.classes) if classes == config.classes else None
    if segments is None:
        raise MissingError(
            f"--by segment: {given.row.name}: the publishers' table of head, middle and tail classes, {animal_kingdom.SEGMENTS[0]}, is "
            f"not in {folder}, or not of its {classes} classes: take it from the publishers' archive"
        )
    return segments


def _select_scores(rule: str, record: RunRecord, predictions: Predictions) -> metrics.Scores:
    """Return the scores of every clip at the epoch that a rule selects."""
    selection = select_epoch(record, rule)
    if selection is None:
        raise MissingError(f"{record.row} seed {record.seed} ({record.run}): it has no {rule} epoch")
    try:
        scores = predictions.scores_after(selection.epoch)
    except MissingError as error:
        raise MissingError(f"{record.row} seed {record.seed}, {record.features.cell}: {error}") from error
    _verify(record, scores, predictions.targets, selection.scores)
    return scores


def _score_recall(scores: metrics.Scores, targets: metrics.Targets) -> Float[np.ndarray, " K"]:
    clips = targets.sum(axis=0)
    # The matrix has the true class by row: its diagonal over the row sums is the recall.
    right = metrics.count_confusions(scores, targets).diagonal()
    return np.where(clips > 0, right / np.maximum(clips, 1), np.nan)


def _verify(record: RunRecord, scores: metrics.Scores, targets: metrics.Targets, recorded: Mapping[str, float]) -> None:
    """Raise MissingError if predictions do not have their record's score: of the two, which are the run's is not known."""
    if not np.isfinite(scores).all():
        raise MissingError(f"{record.row} seed {record.seed} ({record.run}): NaN or infinite scores in its predictions")
    found = metrics.top1(scores, targets) if record.metric == "top1" else metrics.map_micro(scores, targets)
    # Not `>`, so that NaN is refused too.
    if not abs(found - recorded[record.metric]) <= SHOWN_TOLERANCE:
        raise MissingError(
            f"{record.row} seed {record.seed} ({record.run}): its predictions have {record.metric} {found:.6g}, its record "
            f"{recorded[record.metric]:.6g}: `repro check` names such runs"
        )
