"""What is behind a row's score: by class, by group of clips, and which classes are confused; from the recorded predictions.

Imports no torch. Each view is a mean over seeds, under every rule that the row's runs allow: the published one (best epoch on
the test split), the last epoch, and best epoch on held-out clips (docs/deviations.md 2).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from repro.backbones.config import read_precision
from repro.core.errors import MissingError, NothingToCheckError, UsageError
from repro.core.workspace import Workspace, open_workspace
from repro.datasets import animal_kingdom
from repro.datasets.registry import attribute_names, read_attribute
from repro.judge.fitness import explain_mismatch, record_precision
from repro.judge.grid_selection import grid_cells
from repro.judge.scores.intervals import SplitInterval, interval_over_clips
from repro.readout import metrics
from repro.readout.predictions import Predictions, read_predictions
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs
from repro.table.own import load_any_row
from repro.table.row import Row, row_backbone, row_datasets

TOLERANCE = 1e-6
"""Largest difference between a recorded score and that of the predictions; `repro check` is stricter."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Scores of a row's runs after the epochs that one rule selects; in points."""

    rule: str
    """published (best epoch on test), last epoch, or held-out (best epoch on held-out clips)."""
    runs: tuple[RunRecord, ...]
    epochs: tuple[int, ...]
    scores: tuple[float, ...]
    """Of the complete test split, in the row's metric, as recorded."""
    values: Float[np.ndarray, "S I"]
    """One line per run, one column per item; NaN for an item that has no clip."""

    @property
    def means(self) -> Float[np.ndarray, " I"]:
        return np.asarray(self.values.mean(axis=0))

    @property
    def spreads(self) -> Float[np.ndarray, " I"] | None:
        """Sample standard deviation over runs; None for a single run."""
        return np.asarray(self.values.std(axis=0, ddof=1)) if len(self.runs) > 1 else None


@dataclass(frozen=True, slots=True)
class RowScores:
    """A row's scores by class or by group of clips."""

    row: Row
    test: str
    """Name of the test split."""
    clips: int
    by: str
    score: str
    """What `values` are: average precision, recall, or a metric within each group."""
    items: tuple[str, ...]
    """Classes or groups."""
    counts: Int[np.ndarray, " I"]
    """Test clips of each item; a clip of several classes or groups counts in each."""
    readings: tuple[Reading, ...]
    """The first is the row's own rule: all that follows is under it."""
    classes: tuple[str, ...]
    confusion: Int[np.ndarray, "K K"]
    """Clips of the row's class that are predicted as the column's; of rows with any number of labels a clip, clips of the row's
    class alone that score the column's class at least as high. Summed over runs."""
    class_counts: Int[np.ndarray, " K"]
    precisions: Float[np.ndarray, "S K"]
    """Share, in points, of the clips predicted as a class that are of it, by run; NaN if none is, or if classes are not predicted."""
    interval: SplitInterval | None
    left_out: tuple[str, ...]
    """Runs that are not shown, each with the reason."""

    @property
    def single_label(self) -> bool:
        return self.row.metric == "top1"

    @property
    def precision_means(self) -> list[float | None]:
        """Mean precision of each class over the runs that predict it for some clip; None if none does."""
        return [None if np.isnan(values).all() else float(np.nanmean(values)) for values in self.precisions.T]

    def rank_items(self, *, best_first: bool = False, least_clips: int = 1) -> list[int]:
        """Return indices of the items with so many clips, worst first; ties by number of clips, most first."""
        means = self.readings[0].means
        sign = -1 if best_first else 1
        present = [n for n in range(len(self.items)) if self.counts[n] >= least_clips]
        return sorted(present, key=lambda n: (sign * means[n], -self.counts[n], n))

    def confused_with(self, label: int) -> tuple[str, float] | None:
        """Return the class that a class is most often confused with, and for which share of its clips; None if with none."""
        counts = self.confusion[label].copy()
        counts[label] = 0
        if not counts.any():
            return None
        other = int(counts.argmax())
        return self.classes[other], counts[other] / (len(self.readings[0].runs) * self.class_counts[label])

    def as_records(self) -> list[dict[str, Any]]:
        """Return one flat dict per item, in the data set's order: a table, as `pandas.DataFrame` takes it."""
        records = []
        precisions = self.precision_means
        for n, name in enumerate(self.items):
            record: dict[str, Any] = {self.by: name, "clips": int(self.counts[n])}
            for reading in self.readings:
                record[reading.rule] = _number(reading.means[n])
                record[f"{reading.rule} spread"] = None if reading.spreads is None else _number(reading.spreads[n])
                record |= {
                    f"{reading.rule} seed {run.seed}": _number(reading.values[s, n])
                    for s, run in enumerate(reading.runs)
                }
            if self.by == "class":
                if self.single_label:
                    record["precision"] = precisions[n]
                other = self.confused_with(n)
                record["most confused with"], record["share"] = other or (None, None)
            records.append(record)
        return records


def load_scores(
    row: Row | str, by: str = "class", workspace: Path | str | None = None, *, seeds: Sequence[int] = ()
) -> RowScores:
    """Return a row's scores by class or by group of its test clips, from the predictions of its runs in a workspace.

    Args:
        row: A row, its name, or the path of a row file of own clips.
        by: "class", "source" (source video), or what the data set states of its clips: `group_names` lists it.
        workspace: Folder [default: REPRO_WORKSPACE, else ./workspace].
        seeds: Only these [default: all that were run].

    Raises:
        UsageError: no such row or group.
        NothingToCheckError: no run of the row, or none of these seeds.
        MissingError: annotation files that state the groups are missing.
    """
    found = load_any_row(row) if isinstance(row, str) else row
    return compute_row_scores(found, open_workspace(None if workspace is None else Path(workspace)), by, seeds=seeds)


def group_names(row: Row) -> tuple[str, ...]:
    """Return what a row's test clips can be grouped by."""
    dataset = row_datasets(row)[row.data.test.dataset]
    segments = ("segment",) if dataset.adapter == "animal_kingdom" else ()
    return ("class", "source", *segments, *attribute_names(dataset))


def compute_row_scores(
    row: Row, workspace: Workspace, by: str = "class", *, cell: str = "", seeds: Sequence[int] = ()
) -> RowScores:
    """As `load_scores`, also for another cell of the row's grid."""
    if by not in group_names(row):
        raise UsageError(f"--by {by}: {row.name} has {', '.join(group_names(row))}")
    if cell and cell not in (names := [one.name for one in grid_cells(row)]):
        raise UsageError(f"--cell {cell}: the grid of {row.name} has {names[0]} to {names[-1]}")
    records, left_out = _read_records(row, workspace, cell or row.features.name)
    sets = _choose_sets(row, records, left_out)
    if seeds:
        sets = {protocol: kept for protocol, runs in sets.items() if (kept := [r for r in runs if r[0].seed in seeds])}
    missing = sorted(set(seeds) - {record.seed for runs in sets.values() for record, _ in runs})
    if missing or not sets:
        what = f"of seed {missing[0]}" if missing else f"of {row.name}"
        why = f" ({left_out[0]})" if left_out else ""
        raise NothingToCheckError(
            f"no run {what} to show in {workspace.runs / row.name}{why}: run it with `{row.command}`"
        )
    return _Builder(row, workspace, by, left_out).build(sets)


Runs = list[tuple[RunRecord, StoredRun]]


def _read_records(row: Row, workspace: Workspace, cell: str) -> tuple[Runs, list[str]]:
    """Return the row's intact runs at a cell, and why others are left out."""
    found: Runs = []
    left_out: defaultdict[str, list[StoredRun]] = defaultdict(list)
    for run in find_runs(workspace.runs, row.name):
        try:
            record = run.load_record()
        except DamagedRecordError as error:
            left_out[str(error)].append(run)
            continue
        if record is None:
            continue
        why = explain_mismatch(record, row, [cell], any_precision=True) if record.complete else "a trial on fewer clips"
        if why:
            left_out[why].append(run)
        else:
            found.append((record, run))
    return found, [
        f"{runs[0].folder.name}{f' and {len(runs) - 1} more' if runs[1:] else ''}: {why}"
        for why, runs in left_out.items()
    ]


def _choose_sets(row: Row, records: Runs, left_out: list[str]) -> dict[str, Runs]:
    """Return by protocol the newest set of runs that differ in the seed alone, in the row's precision if there is one."""
    sets: defaultdict[tuple[str, str], dict[int, tuple[RunRecord, StoredRun]]] = defaultdict(dict)
    for record, run in sorted(records, key=lambda pair: pair[0].made.at):
        sets[record.protocol, record.group][record.seed] = (record, run)
    precision = read_precision(row_backbone(row))
    chosen: dict[str, Runs] = {}
    for protocol in ("published", "held-out"):
        candidates = [list(runs.values()) for (of, _), runs in sets.items() if of == protocol]
        if candidates:
            best = max(
                candidates,
                key=lambda runs: (record_precision(runs[0][0]) == precision, max(r.made.at for r, _ in runs)),
            )
            chosen[protocol] = sorted(best, key=lambda pair: pair[0].seed)
            if len(candidates) > 1:
                left_out.append(f"{len(candidates) - 1} older sets of {protocol} runs, or of another precision")
    return chosen


@dataclass(frozen=True, slots=True)
class _Builder:
    row: Row
    workspace: Workspace
    by: str
    left_out: list[str]

    def build(self, sets: Mapping[str, Runs]) -> RowScores:
        loaded = list(self._read_predictions(sets))
        first = loaded[0][2]
        items, counts, score = self._list_items(first)
        readings = []
        for rule, protocol in (("published", "published"), ("held-out", "held-out"), ("last epoch", next(iter(sets)))):
            runs = [(record, predictions) for of, record, predictions in loaded if of == protocol]
            if runs:
                readings.append(self._read(rule, runs, score))
        own = readings[0]
        predictions = {record.run: found for _, record, found in loaded}
        chosen = [predictions[run.run].by_epoch[epoch] for run, epoch in zip(own.runs, own.epochs, strict=True)]
        single = self.row.metric == "top1"
        count = metrics.count_confusions if single else metrics.count_ranking_errors
        confusions = [count(scores, first.targets) for scores in chosen]
        predicted = np.array([np.bincount(s.argmax(axis=1), minlength=len(first.classes)) for s in chosen], float)
        predicted[predicted == 0] = np.nan
        right = np.array([matrix.diagonal() for matrix in confusions])
        return RowScores(
            row=self.row,
            test=own.runs[0].test.name,
            clips=len(first.clips),
            by=self.by,
            score={"class": "recall" if single else "average precision", "segment": "map_macro"}.get(
                self.by, self.row.metric
            ),
            items=items,
            counts=counts,
            readings=tuple(readings),
            classes=first.classes,
            confusion=np.sum(confusions, axis=0),
            class_counts=first.targets.sum(axis=0),
            precisions=100 * right / predicted if single else np.full(predicted.shape, np.nan),
            interval=interval_over_clips(self.row.metric, chosen, first),
            left_out=tuple(self.left_out),
        )

    def _read_predictions(self, sets: Mapping[str, Runs]) -> Iterator[tuple[str, RunRecord, Predictions]]:
        first: Predictions | None = None
        for protocol, runs in sets.items():
            for record, run in runs:
                found = read_predictions(run.predictions_path)
                if first is None:
                    first = found
                    if found.classes != record.classes or len(found.clips) != record.test.clips:
                        raise MissingError(f"{run.predictions_path}: not of the classes and clips of its record")
                elif (found.clips, found.classes) != (first.clips, first.classes) or (
                    found.targets != first.targets
                ).any():
                    self.left_out.append(f"{run.folder.name}: of other test clips or labels")
                    continue
                yield protocol, record, found

    def _list_items(
        self, predictions: Predictions
    ) -> tuple[tuple[str, ...], Int[np.ndarray, " I"], Callable[..., Float[np.ndarray, " I"]]]:
        """Return the items, their numbers of clips, and what scores them all."""
        targets, classes, metric = predictions.targets, predictions.classes, self.row.metric
        if self.by == "class":
            return (
                classes,
                targets.sum(axis=0),
                _score_recall if metric == "top1" else metrics.average_precision_by_class,
            )
        if self.by == "segment":
            segments = self._read_segments(len(classes))
            counts = [targets[:, labels].any(axis=1).sum() for labels in map(list, segments.values())]

            def score_segments(scores: metrics.Scores, targets: metrics.Targets) -> Float[np.ndarray, " I"]:
                chosen = [(scores[:, labels], targets[:, labels]) for labels in map(list, segments.values())]
                return np.array([metrics.map_macro(*pair) if pair[1].any() else np.nan for pair in chosen])

            return tuple(segments), np.array(counts), score_segments
        groups = self._list_groups(predictions)
        score = metrics.top1 if metric == "top1" else metrics.map_micro

        def score_groups(scores: metrics.Scores, targets: metrics.Targets) -> Float[np.ndarray, " I"]:
            # Average precision is not defined for clips without a label.
            return np.array(
                [score(scores[clips], targets[clips]) if targets[clips].any() else np.nan for clips in groups.values()]
            )

        return tuple(groups), np.array([len(clips) for clips in groups.values()], np.int64), score_groups

    def _list_groups(self, predictions: Predictions) -> dict[str, list[int]]:
        """Return the indices of the clips of each group; a clip may be in several."""
        if self.by == "source":
            if predictions.groups is None:
                raise UsageError(f"--by source: the source videos of {self.row.name}'s clips are not known")
            names: list[tuple[str, ...]] = [(group or "not known",) for group in predictions.groups]
        else:
            config = row_datasets(self.row)[self.row.data.test.dataset]
            found = read_attribute(config, self.workspace, self.by, predictions.clips)
            names = [found[clip] for clip in predictions.clips]
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for clip, of_clip in enumerate(names):
            for name in of_clip:
                groups[name].append(clip)
        return dict(sorted(groups.items()))

    def _read_segments(self, classes: int) -> dict[str, tuple[int, ...]]:
        config = row_datasets(self.row)[self.row.data.test.dataset]
        folder = self.workspace.data / config.folder
        segments = animal_kingdom.read_segments(folder, config.classes) if classes == config.classes else None
        if segments is None:
            raise MissingError(
                f"--by segment: {self.row.name}: the publishers' table of head, middle and tail classes, {animal_kingdom.SEGMENTS[0]}, is "
                f"not in {folder}, or not of its {classes} classes: take it from the publishers' archive"
            )
        return segments

    def _read(
        self, rule: str, runs: Sequence[tuple[RunRecord, Predictions]], score: Callable[..., Float[np.ndarray, " I"]]
    ) -> Reading:
        epochs, overall, values = [], [], []
        for record, predictions in runs:
            selection = {
                "published": record.best_epoch_on_test, "held-out": record.best_epoch_on_held_out, "last epoch": record.last_epoch,
            }[rule]  # fmt: skip
            scores = None if selection is None else predictions.by_epoch.get(selection.epoch)
            if selection is None or scores is None:
                raise MissingError(
                    f"{record.row} seed {record.seed} ({record.run}): no predictions of its {rule} epoch"
                )
            _verify(record, scores, predictions.targets, selection.scores)
            epochs.append(selection.epoch)
            overall.append(100 * selection.scores[record.metric])
            values.append(100 * score(scores, predictions.targets))
        return Reading(rule, tuple(record for record, _ in runs), tuple(epochs), tuple(overall), np.array(values))


def _score_recall(scores: metrics.Scores, targets: metrics.Targets) -> Float[np.ndarray, " K"]:
    clips = targets.sum(axis=0)
    right = metrics.count_confusions(scores, targets).diagonal()
    return np.where(clips > 0, right / np.maximum(clips, 1), np.nan)


def _verify(record: RunRecord, scores: metrics.Scores, targets: metrics.Targets, recorded: Mapping[str, float]) -> None:
    """Raise MissingError if predictions do not have their record's score: of the two, which are the run's is not known."""
    if not np.isfinite(scores).all():
        raise MissingError(f"{record.row} seed {record.seed} ({record.run}): NaN or infinite scores in its predictions")
    found = metrics.top1(scores, targets) if record.metric == "top1" else metrics.map_micro(scores, targets)
    if not abs(found - recorded[record.metric]) <= TOLERANCE:
        raise MissingError(
            f"{record.row} seed {record.seed} ({record.run}): its predictions have {record.metric} {found:.6g}, its record "
            f"{recorded[record.metric]:.6g}: `repro check` names such runs"
        )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
