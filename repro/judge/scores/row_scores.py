"""What is behind a row's score: by class, by group of clips, and which classes are confused; from the recorded predictions.

Imports no torch. Each view is a mean over seeds, under every rule that the row's runs allow: the published one (best epoch on
the test split), the last epoch, and best epoch on held-out clips (docs/deviations.md 2).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from repro.backbones.config import read_precision
from repro.core.errors import NothingToCheckError, UsageError
from repro.core.workspace import Workspace, open_workspace
from repro.datasets.registry import attribute_names
from repro.judge.fitness import explain_mismatch, read_configured, record_precision
from repro.judge.grid_selection import grid_cells
from repro.judge.kept import Memory
from repro.judge.scores.intervals import SplitInterval
from repro.judge.scores.numbers import Numbers, Runs, ScoresInput, compute_numbers, select_epoch
from repro.readout.recipe import PROTOCOLS
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs, stored_run
from repro.table.row import Row, row_backbone, row_datasets
from repro.table.rows import load_any_row


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
    row: Row,
    workspace: Workspace,
    by: str = "class",
    *,
    cell: str = "",
    seeds: Sequence[int] = (),
    records: Sequence[RunRecord] | None = None,
    memory: Memory[ScoresInput, Numbers] | None = None,
) -> RowScores:
    """As `load_scores`, also for another cell of the row's grid.

    Args:
        row: The row.
        workspace: Where its runs are.
        by: As `load_scores`.
        cell: Name of the cell [default: the row's own].
        seeds: As `load_scores`.
        records: The row's runs, if they were read already.
        memory: Of scores by class (`remember_numbers`): no predictions are read for those that are kept.
    """
    if by not in group_names(row):
        raise UsageError(f"--by {by}: {row.name} has {', '.join(group_names(row))}")
    if cell and cell not in (names := [one.name for one in grid_cells(row)]):
        raise UsageError(f"--cell {cell}: the grid of {row.name} has {names[0]} to {names[-1]}")
    fit, left_out = _select_records(row, workspace, cell or row.features.name, records)
    sets = _choose_sets(row, fit, left_out)
    if seeds:
        sets = {protocol: kept for protocol, runs in sets.items() if (kept := [r for r in runs if r[0].seed in seeds])}
    missing = sorted(set(seeds) - {record.seed for runs in sets.values() for record, _ in runs})
    if missing or not sets:
        what = f"of seed {missing[0]}" if missing else f"of {row.name}"
        why = f" ({left_out[0]})" if left_out else ""
        raise NothingToCheckError(
            f"no run {what} to show in {workspace.runs / row.name}{why}: run it with `{row.command}`"
        )
    item = ScoresInput(row, workspace, by, sets)
    if memory is None or by != "class":  # other groups depend on more than the predictions
        numbers = compute_numbers(item)
    else:
        (numbers,) = memory.recall({item.hash_inputs(): item}).values()
    return _build_scores(item, numbers, left_out)


def _select_records(
    row: Row, workspace: Workspace, cell: str, records: Sequence[RunRecord] | None
) -> tuple[Runs, list[str]]:
    """Return the row's intact runs at a cell, and why others are left out."""
    found: Runs = []
    left_out: defaultdict[str, list[StoredRun]] = defaultdict(list)
    configured = read_configured(row)
    if records is None:
        loaded = _load_row_records(row, workspace, left_out)
    else:
        loaded = [(one, stored_run(workspace.runs, one.row, one.seed, one.run)) for one in records]
    for record, run in loaded:
        why = "" if record.complete else "a trial on fewer clips"
        why = why or explain_mismatch(record, configured, [cell], any_precision=True)
        if why:
            left_out[why].append(run)
        else:
            found.append((record, run))
    return found, [
        f"{runs[0].folder.name}{f' and {len(runs) - 1} more' if runs[1:] else ''}: {why}"
        for why, runs in left_out.items()
    ]


def _load_row_records(row: Row, workspace: Workspace, damaged: Mapping[str, list[StoredRun]]) -> Runs:
    """Read a row's records; runs that are damaged are added to `damaged`."""
    found: Runs = []
    for run in find_runs(workspace.runs, row.name):
        try:
            record = run.load_record()
        except DamagedRecordError as error:
            damaged[str(error)].append(run)
            continue
        if record is not None:
            found.append((record, run))
    return found


def _choose_sets(row: Row, records: Runs, left_out: list[str]) -> dict[str, Runs]:
    """Return by protocol the newest set of runs that differ in the seed alone, in the row's precision if there is one."""
    sets: defaultdict[tuple[str, str], dict[int, tuple[RunRecord, StoredRun]]] = defaultdict(dict)
    for record, run in sorted(records, key=lambda pair: pair[0].made.at):
        # In the order of their times: of several runs of a seed, the newest stays.
        sets[record.protocol, record.group][record.seed] = (record, run)
    precision = read_precision(row_backbone(row))
    chosen: dict[str, Runs] = {}
    for protocol in PROTOCOLS:
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


def _build_scores(given: ScoresInput, numbers: Numbers, left_out: Sequence[str]) -> RowScores:
    readings = []
    for (rule, protocol), values in zip(given.list_rules(), numbers.values, strict=True):
        records = tuple(record for record, _ in given.sets[protocol] if record.run in numbers.runs)
        chosen = [one for record in records if (one := select_epoch(record, rule))]
        scores = tuple(100 * one.scores[given.row.metric] for one in chosen)
        # Of these runs alone: `numbers` leaves out runs on other clips, and their scores with them.
        readings.append(Reading(rule, records, tuple(one.epoch for one in chosen), scores, values))
    single = given.row.metric == "top1"
    score = {"class": "recall" if single else "average precision", "segment": "map_macro"}
    return RowScores(
        row=given.row,
        test=readings[0].runs[0].test.name,
        clips=numbers.clips,
        by=given.by,
        score=score.get(given.by, given.row.metric),
        items=numbers.items,
        counts=numbers.counts,
        readings=tuple(readings),
        classes=numbers.classes,
        confusion=numbers.confusion,
        class_counts=numbers.class_counts,
        precisions=numbers.precisions,
        interval=numbers.interval,
        left_out=(*left_out, *numbers.left_out),
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
