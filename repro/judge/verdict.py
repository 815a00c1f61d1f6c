"""Judge measured rows against published values: two-sided, one verdict per row.

A published number is one value of unknown spread; a measurement is k runs of one configuration, with mean m and sample
standard deviation s. If the authors' spread equals ours, the difference between m and the published value has standard
error s sqrt(1 + 1/k). Half a unit of the last printed digit is added for rounding. All values are in points (percent).
"""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from repro.backbones.config import read_precision
from repro.core.errors import Exit
from repro.datasets.split import SplitName
from repro.judge.expected import Expected
from repro.judge.grid_selection import Selected, grid_cells, has_grid, select_cell
from repro.records.record import RunRecord
from repro.table.row import Row, row_backbone, row_datasets

ALPHA = 0.05
"""Error rate of the prediction interval (two-sided) and of each one-sided equivalence test."""


class Outcome(StrEnum):
    """The possible verdicts. HIGHER and LOWER alone say that the row was not reproduced."""

    REPRODUCED = "REPRODUCED"
    """Equivalent: two one-sided tests (Schuirmann 1987), each at 5 %, place the difference inside the margin."""
    CONSISTENT = "CONSISTENT"
    """Inside the margin and the 95 % prediction interval, without enough runs for equivalence."""
    WITHIN_MARGIN = "WITHIN MARGIN"
    """Inside the margin: a single run, or runs so alike that the published value is outside their prediction interval."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """Too few runs, too wide a spread, or cells of the grid missing: neither the same nor different."""
    HIGHER = "HIGHER"
    """Above both the margin and the prediction interval."""
    LOWER = "LOWER"
    """Below both."""
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one row compares with its published value; scores in points."""

    expected: Expected
    outcome: Outcome
    reason: str
    seeds: tuple[int, ...] = ()
    measured: float | None = None
    """Mean over seeds under the published selection rule."""
    spread: float | None = None
    """Sample standard deviation over seeds; None for a single run."""
    last_epoch: float | None = None
    """Mean score of the last epoch of the row's default cell: nothing was selected on the test split."""
    checkpoint_assumed: bool = False
    precision: str = ""
    """What the features of the judged runs were computed in."""
    allowance: float = 0.0
    """Points by which missing test clips widen the margin."""
    cells: int = 0
    """Number of cells of its grid that were run, if the published value is the best of a grid."""
    best_of_grid: tuple[Selected, ...] = ()
    """What the published rule selects in each seed's complete grid, if complete grids are judged."""

    @property
    def margin(self) -> float:
        return self.expected.margin + self.allowance


def judge_values(expected: Expected, values: Sequence[float], cells: int = 1, of: int = 91) -> tuple[Outcome, str]:
    """Judge measured values against a published one.

    Args:
        expected: Published value, margin and planned number of runs.
        values: One per seed, in points.
        cells: If the published value is the best of a grid, how many of its cells were run. With fewer than all, values
            below it prove nothing: the best cell may be missing.
        of: Number of cells of the grid.

    Returns:
        The outcome, and a short reason.
    """
    if not values:
        return Outcome.NOT_RUN, "no run record"
    # The formulas' names: k runs, and the difference of their mean to the published value.
    k, plan = len(values), expected.planned_seeds
    difference = statistics.fmean(values) - expected.published
    part = ""
    if expected.best_of_grid and cells < of:
        part = f"{cells} cell{'s' if cells > 1 else ''} of {of}; the published value is the best of a grid"
    also = f"; {part}" if part else ""
    if k == 1:
        # One run has no standard deviation and so no interval: it can be near, but never different.
        if abs(difference) <= expected.margin + expected.rounding:
            return Outcome.WITHIN_MARGIN, f"one run of {plan} planned{also}"
        return Outcome.INCONCLUSIVE, f"one run of {plan} planned{also}"

    # Student's t quantile. Imported here because scipy would slow the start of `repro plan`, which imports this module, too;
    # scipy.stats would take a second more.
    from scipy.special import stdtrit

    # A prediction interval for one further value, m +- t s sqrt(1 + 1/k), not the narrower confidence interval of the mean:
    # the published value is itself a single run, with a spread of its own.
    error = statistics.stdev(values) * math.sqrt(1 + 1 / k)
    half = float(stdtrit(k - 1, 1 - ALPHA / 2)) * error + expected.rounding
    interval = f"95 % prediction interval {difference - half:+.2f} to {difference + half:+.2f}"
    if k < plan:
        return Outcome.INCONCLUSIVE, f"{k} runs of {plan} planned; {interval}{also}"
    inside = abs(difference) <= half
    # Two one-sided t tests (Schuirmann 1987) at level ALPHA are equivalent to this: the two-sided 90 % interval, widened by
    # the rounding, is within the margin. So the quantile is at 1 - ALPHA here, and at 1 - ALPHA / 2 above.
    if abs(difference) + float(stdtrit(k - 1, 1 - ALPHA)) * error + expected.rounding <= expected.margin:
        return Outcome.REPRODUCED, f"equivalent within the margin; {interval}{also}"
    if abs(difference) <= expected.margin:
        if inside:
            return Outcome.CONSISTENT, f"{interval}{also}"
        return Outcome.WITHIN_MARGIN, f"runs agree more closely than they do with the published value; {interval}{also}"
    if inside:
        return Outcome.INCONCLUSIVE, f"the difference exceeds the margin, the spread allows for it; {interval}{also}"
    # The best of all cells is at least the best of some: from a part of the grid, only HIGHER can be concluded.
    if difference < 0 and part:
        return Outcome.INCONCLUSIVE, f"{part}; {interval}"
    return (Outcome.HIGHER if difference > 0 else Outcome.LOWER), f"{interval}{also}"


def judge_rows(
    rows: dict[str, tuple[Row, Expected]], records: Iterable[RunRecord]
) -> tuple[list[Verdict], list[tuple[RunRecord, str]]]:
    """Judge every row by the run records that measure it.

    Args:
        rows: Row and published value, by row name.
        records: Any run records; those of extras and of the smoke job are ignored.

    Returns:
        One verdict per row, in the rows' order; and the records of published rows that were left out, each with the reason.
    """
    by_row: defaultdict[str, list[RunRecord]] = defaultdict(list)
    left_out = []
    # Of rows with records alone: a row's grid takes several configs to tell.
    accepted: dict[str, list[str]] = {}
    for record in records:
        if record.kind != "published":
            continue
        row, line = rows.get(record.row, (None, None))
        if row is None or line is None:
            why = "there is no such row"
        else:
            if row.name not in accepted:
                accepted[row.name] = _accepted(row, line)
            why = _unfit(record, row, accepted[row.name])
        if why:
            left_out.append((record, why))
        else:
            by_row[record.row].append(record)
    return [_verdict(row, line, by_row[name]) for name, (row, line) in rows.items()], left_out


def _accepted(row: Row, expected: Expected) -> list[str]:
    """Return the names of the cells that count: all of the row's grid if the published value is the best of one, else its
    default cell."""
    judges_grid = expected.best_of_grid and has_grid(row)
    return [cell.name for cell in grid_cells(row)] if judges_grid else [row.features.name]


def _unfit(record: RunRecord, row: Row, cells: Sequence[str]) -> str:
    """Return why `record` cannot be judged as a measurement of `row` at one of `cells`; empty if it can."""
    if not record.complete:
        return "a trial on fewer clips"
    if record.protocol != "published":
        # Published values were selected on the test split (docs/deviations.md 2): only the same rule compares like with like.
        return f"the {record.protocol} protocol: the published rule alone is compared with published values"
    return explain_mismatch(record, row, cells, any_precision=True)


def record_precision(record: RunRecord) -> str:
    """Return what the features of `record` were computed in; fp32 for a backbone without the key."""
    return str(record.features.identity.get("precision", "fp32"))


def explain_mismatch(record: RunRecord, row: Row, cells: Sequence[str] = (), *, any_precision: bool = False) -> str:
    """Return why `record` does not match the row's current config, whatever its protocol; empty if it does.

    Args:
        record: A run record of the row.
        row: The row as it is configured now.
        cells: Names of the cells that count [default: the row's default cell].
        any_precision: Features in another precision than the row's match too: the same row, measured with other rounding.
    """
    for what, theirs, ours in (
        ("row version", record.row_version, row.version),
        ("metric", record.metric, row.metric),
        ("training split", record.train.name, str(row.data.train)),
        ("test split", record.test.name, str(row.data.test)),
    ):
        if theirs != ours:
            return f"{what} {theirs}, the row has {ours}"
    if record.features.cell not in (cells or [row.features.name]):
        if has_grid(row) and record.features.cell in {cell.name for cell in grid_cells(row)}:
            return f"another cell of a grid: the row is {row.features.name}"
        return f"features {record.features.cell}, the row has {row.features.name}"
    backbone = row_backbone(row)
    ours_now = backbone.model_dump(mode="json", exclude=set(backbone.not_in_identity))
    # The record's identity has more keys, such as the checkpoint's sha256: only what the config states is compared.
    precision = read_precision(backbone)
    if not any_precision and record_precision(record) != precision:
        return f"features in precision {record_precision(record)}, the row's are in {precision}"
    ours_now.pop("precision", None)
    changed = [key for key, value in ours_now.items() if record.features.identity.get(key) != value]
    if changed:
        return f"another backbone: its {changed[0]} is not the row's"
    if record.features.stored_as != "float32":
        return f"features stored as {record.features.stored_as}, the row reads float32"
    if record.precision != "fp32":
        return f"a readout in {record.precision}, the row's is in fp32"
    recipe, configured = (r.model_dump(exclude={"note"}) for r in (record.recipe, row.readout))
    differing = [name for name in configured if recipe[name] != configured[name]]
    if differing:
        return f"another recipe: {differing[0]} {recipe[differing[0]]}, the row has {configured[differing[0]]}"
    datasets = row_datasets(row)
    for split in (record.train, record.test):
        name = SplitName.parse(split.name)
        clips = datasets[name.dataset].splits[name.split].clips
        if clips is not None and split.clips + len(split.missing_clips) != clips:
            return f"{split.clips} clips of {split.name}, which has {clips}"
    return ""


def _allowance(record: RunRecord) -> tuple[float, str]:
    """Return by how many points missing clips widen the margin, and a note on them for the reason.

    Each missing test clip would have been right or wrong, so accuracy over all n clips differs by at most n_missing/n. No
    such bound holds for average precision, or for clips missing from training.
    """
    allowance, note = 0.0, ""
    for split, role in ((record.test, "test"), (record.train, "training")):
        missing = len(split.missing_clips)
        if missing:
            # `clips` counts the clips that were read, without the missing ones.
            note += f"; {missing} of {split.clips + missing} {role} clips missing"
            if role == "test" and record.metric == "top1":
                allowance = 100 * missing / (split.clips + missing)
                note += f", margin wider by {allowance:.2f}"
            else:
                note += ", for which nothing is allowed"
    return allowance, note


@dataclass(slots=True)
class _RunSet:
    """Runs that differ only in seed and cell: a grid or a part of it, with the newest run of each seed and cell."""

    own: str
    """Name of the row's default cell."""
    precision: str
    is_rows_precision: bool
    cells: Sequence[str]
    """Cells of the complete grid, in its order."""
    by_seed: dict[int, dict[str, RunRecord]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def complete_seeds(self) -> list[int]:
        """Seeds with a run of every cell of the grid; empty if the row is judged by one cell."""
        return [s for s, runs in sorted(self.by_seed.items()) if len(self.cells) > 1 and len(runs) == len(self.cells)]

    @property
    def seeds(self) -> list[int]:
        """The seeds that are judged: those with complete grids if there are any, else those with the default cell."""
        return self.complete_seeds or [seed for seed, runs in sorted(self.by_seed.items()) if self.own in runs]

    def own_runs(self) -> list[RunRecord]:
        return [self.by_seed[seed][self.own] for seed in self.seeds]

    def rank(self, planned: int) -> tuple[bool, bool, bool, str]:
        """Return the sort key: the row's precision before others, complete grids before single cells, as many runs as planned
        before fewer, newer before older.

        One complete grid takes precedence over single-cell runs, however many seeds: it is what was published.
        """
        newest = max(run.made.at for run in self.own_runs())
        return self.is_rows_precision, bool(self.complete_seeds), len(self.seeds) >= planned, newest


def _verdict(row: Row, expected: Expected, records: list[RunRecord]) -> Verdict:
    sets: dict[tuple[str, str], _RunSet] = {}
    accepted, rows_precision = _accepted(row, expected), read_precision(row_backbone(row))
    # Oldest first, so that the newest run of a seed and cell replaces the others. Runs of different grid keys differ in
    # more than cell and seed, so their scores have no common mean.
    for record in sorted(records, key=lambda r: r.made.at):
        precision = record_precision(record)
        runs_alike = sets.setdefault(
            # The key of the features has the precision already, and with it the group.
            (record.grid or record.group, precision),
            _RunSet(row.features.name, precision, precision == rows_precision, accepted),
        )
        runs_alike.by_seed[record.seed][record.features.cell] = record
    candidates = [runs_alike for runs_alike in sets.values() if runs_alike.seeds]
    if not candidates:
        reason = "no run record"
        if sets:
            reason += f" of its cell {row.features.name}, though of {len({r.features.cell for r in records})} others"
        return Verdict(expected, Outcome.NOT_RUN, reason, checkpoint_assumed=expected.checkpoint_assumed)
    chosen = max(candidates, key=lambda runs_alike: runs_alike.rank(expected.planned_seeds))
    runs = chosen.own_runs()
    best = tuple(select_cell(chosen.by_seed[seed], chosen.cells) for seed in chosen.complete_seeds)
    # All these runs are of the published protocol, so select_cell() maximises the test score, as the published rule does.
    values = [
        100 * (best[n].test if best else run.best_epoch_on_test.scores[expected.metric]) for n, run in enumerate(runs)
    ]
    count = max(len(chosen.by_seed[seed]) for seed in chosen.seeds)
    # All runs of one set read the same clips, so any of them says which were missing.
    allowance, missing_note = _allowance(runs[0])
    outcome, reason = judge_values(
        dataclasses.replace(expected, margin=expected.margin + allowance), values, count, len(chosen.cells)
    )
    reason += missing_note
    if not chosen.is_rows_precision:
        reason += f"; features in precision {chosen.precision}, not {rows_precision} as the row's"
    if best:
        reason += f"; best of {count} cells, {', '.join(f'seed {one.seed} {one.cell}' for one in best)}"
        if len(chosen.by_seed) > len(best):
            reason += f"; {len(chosen.by_seed) - len(best)} seeds without all cells not judged"
    elif count > 1:
        reason += f"; {row.features.name} alone is judged of {count} cells of {len(chosen.cells)} that were run"
    others = [runs_alike for runs_alike in sets.values() if runs_alike.precision != chosen.precision]
    if len(sets) > 1 + len(others):
        reason += f"; {len(sets) - 1 - len(others)} older or unfinished sets of runs not judged"
    if others:
        named = ", ".join(dict.fromkeys(runs_alike.precision for runs_alike in others))
        reason += f"; runs with features in precision {named} not judged"
    return Verdict(
        expected=expected,
        outcome=outcome,
        reason=reason,
        seeds=tuple(run.seed for run in runs),
        measured=statistics.fmean(values),
        spread=statistics.stdev(values) if len(values) > 1 else None,
        last_epoch=statistics.fmean(100 * run.last_epoch.scores[expected.metric] for run in runs),
        checkpoint_assumed=expected.checkpoint_assumed,
        precision=chosen.precision,
        allowance=allowance,
        cells=count,
        best_of_grid=best,
    )


def exit_code(verdicts: Sequence[Verdict], strict: bool) -> Exit:
    """Return 1 if a row was judged different; with `strict` also if one is inconclusive or not run."""
    bad = {Outcome.HIGHER, Outcome.LOWER}
    if strict:
        bad |= {Outcome.INCONCLUSIVE, Outcome.NOT_RUN}
    return Exit.JUDGED_DIFFERENT if any(v.outcome in bad for v in verdicts) else Exit.OK


def format_verdict(verdict: Verdict) -> str:
    """Format a verdict as one line: row, outcome, metric, measured and published value, reason."""
    expected = verdict.expected
    published = f"published {expected.published:.{expected.digits}f}"
    if verdict.measured is None:
        measured = f"{'':<8} {published:<16} margin {verdict.margin:.4g}"
    else:
        spread = f" ± {verdict.spread:.2f}" if verdict.spread is not None else ""
        measured = (
            f"{verdict.measured:.2f}{spread} {published} ({verdict.measured - expected.published:+.2f}, "
            f"margin {verdict.margin:.4g}; last epoch {verdict.last_epoch:.2f})"
        )
    # What is known of the checkpoint, if the release does not state it.
    known = "assumed" if expected.status == "unknown checkpoint" else expected.status
    assumed = f" [checkpoint {known}]" if verdict.checkpoint_assumed else ""
    return f"{expected.row:<24} {verdict.outcome:<13} {expected.metric:<9} {measured}  {verdict.reason}{assumed}"


def format_counts(verdicts: Sequence[Verdict]) -> str:
    """Format the number of rows per outcome; the numbers add up to all rows."""
    counts = [f"{sum(v.outcome is outcome for v in verdicts)} {outcome.lower()}" for outcome in Outcome]
    return f"{len(verdicts)} rows: {', '.join(counts)}"


def verdict_as_json(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as an entry of `repro check --json`; scores in points."""
    expected = verdict.expected
    return {
        "row": expected.row,
        "verdict": str(verdict.outcome),
        "reason": verdict.reason,
        "metric": expected.metric,
        "selection": expected.selection,
        "published": expected.published,
        "margin": verdict.margin,
        "margin_widened_by": verdict.allowance,
        "planned_seeds": expected.planned_seeds,
        "seeds": list(verdict.seeds),
        "measured": verdict.measured,
        "spread": verdict.spread,
        "last_epoch": verdict.last_epoch,
        "cells": verdict.cells,
        "best_of_grid": [
            dataclasses.asdict(one) | {name: 100 * getattr(one, name) for name in ("chosen_on", "test", "last_epoch")}
            for one in verdict.best_of_grid
        ],
        "checkpoint_assumed": verdict.checkpoint_assumed,
        "precision": verdict.precision or None,
        "status": expected.status,
        "note": expected.note,
    }
