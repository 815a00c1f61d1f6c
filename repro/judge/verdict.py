"""Judge measured rows against published ones: two-sided, one verdict a row.

A published number is one value of unknown spread; ours are k runs of one configuration. With their mean m and sample
standard deviation s, the difference to the published value has standard error s sqrt(1 + 1/k), taking the authors'
spread to equal ours; half the last printed digit is added for rounding. Values in points.
"""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from repro.core.errors import Exit
from repro.datasets.split import SplitName
from repro.judge.expected import Expected
from repro.judge.grid_selection import Selected, grid_cells, has_grid, select_cell
from repro.records.record import RunRecord
from repro.table.row import Row, row_backbone, row_datasets

ALPHA = 0.05


class Outcome(StrEnum):
    REPRODUCED = "REPRODUCED"
    """Equivalent: two one-sided tests (Schuirmann 1987), each at 5 %, place the difference inside the margin."""
    CONSISTENT = "CONSISTENT"
    """Inside the margin and the 95 % prediction interval, without enough runs for equivalence."""
    WITHIN_MARGIN = "WITHIN MARGIN"
    """Inside the margin: a single run, or runs so alike that the published value is outside their prediction interval."""
    INCONCLUSIVE = "INCONCLUSIVE"
    HIGHER = "HIGHER"
    LOWER = "LOWER"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True, slots=True)
class Verdict:
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
    """Judge values against a published one.

    The difference d to the published value has standard error s sqrt(1 + 1/k): a prediction interval for one further value,
    since the published one is a single draw whose spread is taken to equal ours.

    Args:
        expected: published value, margin and planned number of runs.
        values: one per seed, in points.
        cells: if the published value is the best of a grid, how many of its cells were run. With fewer than all, values
            below it prove nothing: the best cell may be missing.
        of: cells of the grid.

    Returns:
        The outcome, and the reason in a few words.
    """
    if not values:
        return Outcome.NOT_RUN, "no run record"
    k, plan = len(values), expected.planned_seeds
    difference = statistics.fmean(values) - expected.published
    part = ""
    if expected.best_of_grid and cells < of:
        part = f"{cells} cell{'s' if cells > 1 else ''} of {of}; the published value is the best of a grid"
    also = f"; {part}" if part else ""
    if k == 1:
        if abs(difference) <= expected.margin + expected.rounding:
            return Outcome.WITHIN_MARGIN, f"one run of {plan} planned{also}"
        return Outcome.INCONCLUSIVE, f"one run of {plan} planned{also}"

    from scipy.special import stdtrit  # Student's t quantile; importing scipy.stats takes a second

    error = statistics.stdev(values) * math.sqrt(1 + 1 / k)
    half = float(stdtrit(k - 1, 1 - ALPHA / 2)) * error + expected.rounding
    interval = f"95 % prediction interval {difference - half:+.2f} to {difference + half:+.2f}"
    if k < plan:
        return Outcome.INCONCLUSIVE, f"{k} runs of {plan} planned; {interval}{also}"
    inside = abs(difference) <= half
    if abs(difference) + float(stdtrit(k - 1, 1 - ALPHA)) * error + expected.rounding <= expected.margin:
        return Outcome.REPRODUCED, f"equivalent within the margin; {interval}{also}"
    if abs(difference) <= expected.margin:
        if inside:
            return Outcome.CONSISTENT, f"{interval}{also}"
        return Outcome.WITHIN_MARGIN, f"runs agree more closely than they do with the published value; {interval}{also}"
    if inside:
        return Outcome.INCONCLUSIVE, f"the difference exceeds the margin, the spread allows for it; {interval}{also}"
    if difference < 0 and part:
        return Outcome.INCONCLUSIVE, f"{part}; {interval}"
    return (Outcome.HIGHER if difference > 0 else Outcome.LOWER), f"{interval}{also}"


def judge_rows(
    rows: dict[str, tuple[Row, Expected]], records: Iterable[RunRecord]
) -> tuple[list[Verdict], list[tuple[RunRecord, str]]]:
    """Return one verdict per row, in the rows' order, and the records of published rows that were left out, each with the
    reason. Records of other kinds are ignored."""
    by_row: defaultdict[str, list[RunRecord]] = defaultdict(list)
    left_out = []
    for record in records:
        if record.kind != "published":
            continue
        row, line = rows.get(record.row, (None, None))
        why = "there is no such row" if row is None or line is None else _unfit(record, row, _accepted(row, line))
        if why:
            left_out.append((record, why))
        else:
            by_row[record.row].append(record)
    return [_verdict(row, line, by_row[name]) for name, (row, line) in rows.items()], left_out


def _accepted(row: Row, expected: Expected) -> list[str]:
    """Names of the cells that count: the row's default cell, or all of its grid if the published value is the best of one."""
    whole = expected.best_of_grid and has_grid(row)
    return [cell.name for cell in grid_cells(row)] if whole else [row.features.name]


def _unfit(record: RunRecord, row: Row, cells: Sequence[str]) -> str:
    """Why `record` does not measure `row` as it is configured now, at one of `cells`; empty if it does."""
    if not record.complete:
        return "a trial on fewer clips"
    if record.protocol != "published":
        return f"the {record.protocol} protocol: the published rule alone is compared with published values"
    return explain_mismatch(record, row, cells)


def explain_mismatch(record: RunRecord, row: Row, cells: Sequence[str] = ()) -> str:
    """Why `record` does not match the row's current config, whatever its protocol; empty if it does.

    `cells` are the cells that count [default: the row's own]."""
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
    """Points by which missing clips widen the margin, and what to say of them. Each missing test clip would have been
    right or wrong, so accuracy over all n clips lies within n_missing/n; no such bound holds for average precision, or
    for clips missing from training."""
    allowance, said = 0.0, ""
    for split, role in ((record.test, "test"), (record.train, "training")):
        gone = len(split.missing_clips)
        if gone:
            said += f"; {gone} of {split.clips + gone} {role} clips missing"
            if role == "test" and record.metric == "top1":
                allowance = 100 * gone / (split.clips + gone)
                said += f", margin wider by {allowance:.2f}"
            else:
                said += ", for which nothing is allowed"
    return allowance, said


@dataclass(slots=True)
class _Runs:
    """Runs that differ only in seed and cell: a grid, or a part of one; the newest run of each."""

    own: str
    """The row's cell."""
    cells: Sequence[str]
    """Cells of the complete grid, in its order."""
    by_seed: dict[int, dict[str, RunRecord]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def whole(self) -> list[int]:
        """Seeds with a run of every cell of the grid."""
        return [s for s, runs in sorted(self.by_seed.items()) if len(self.cells) > 1 and len(runs) == len(self.cells)]

    @property
    def seeds(self) -> list[int]:
        """The seeds that are judged: those with complete grids if there are any, else those with the row's own cell."""
        return self.whole or [seed for seed, runs in sorted(self.by_seed.items()) if self.own in runs]

    def own_runs(self) -> list[RunRecord]:
        return [self.by_seed[seed][self.own] for seed in self.seeds]

    def rank(self, planned: int) -> tuple[bool, bool, str]:
        """Sort key: complete grids before single cells, as many runs as planned before fewer, newer before older."""
        return bool(self.whole), len(self.seeds) >= planned, max(run.made.at for run in self.own_runs())


def _verdict(row: Row, expected: Expected, records: list[RunRecord]) -> Verdict:
    sets: dict[str, _Runs] = {}
    for record in sorted(records, key=lambda r: r.made.at):
        one = sets.setdefault(record.grid or record.group, _Runs(row.features.name, _accepted(row, expected)))
        one.by_seed[record.seed][record.features.cell] = record
    candidates = [one for one in sets.values() if one.seeds]
    if not candidates:
        reason = "no run record"
        if sets:
            reason += f" of its cell {row.features.name}, though of {len({r.features.cell for r in records})} others"
        return Verdict(expected, Outcome.NOT_RUN, reason, checkpoint_assumed=expected.status == "unknown checkpoint")
    chosen = max(candidates, key=lambda one: one.rank(expected.planned_seeds))
    runs = chosen.own_runs()
    best = tuple(select_cell(chosen.by_seed[seed], chosen.cells) for seed in chosen.whole)
    # select() compares the same score as the published rule, since all these runs are of the published protocol.
    values = [
        100 * (best[n].test if best else run.best_epoch_on_test.scores[expected.metric]) for n, run in enumerate(runs)
    ]
    count = max(len(chosen.by_seed[seed]) for seed in chosen.seeds)
    # All runs of one set read the same clips, so any of them tells which were missing.
    allowance, said = _allowance(runs[0])
    outcome, reason = judge_values(
        dataclasses.replace(expected, margin=expected.margin + allowance), values, count, len(chosen.cells)
    )
    reason += said
    if best:
        reason += f"; best of {count} cells, {', '.join(f'seed {one.seed} {one.cell}' for one in best)}"
        if len(chosen.by_seed) > len(best):
            reason += f"; {len(chosen.by_seed) - len(best)} seeds without all cells not judged"
    elif count > 1:
        reason += f"; {row.features.name} alone is judged of {count} cells of {len(chosen.cells)} that were run"
    if len(sets) > 1:
        reason += f"; {len(sets) - 1} older or unfinished sets of runs not judged"
    return Verdict(
        expected=expected,
        outcome=outcome,
        reason=reason,
        seeds=tuple(run.seed for run in runs),
        measured=statistics.fmean(values),
        spread=statistics.stdev(values) if len(values) > 1 else None,
        last_epoch=statistics.fmean(100 * run.last_epoch.scores[expected.metric] for run in runs),
        checkpoint_assumed=expected.status == "unknown checkpoint",
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
    """A verdict as one line."""
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
    assumed = " [checkpoint assumed]" if verdict.checkpoint_assumed else ""
    return f"{expected.row:<24} {verdict.outcome:<13} {expected.metric:<9} {measured}  {verdict.reason}{assumed}"


def format_counts(verdicts: Sequence[Verdict]) -> str:
    """Return the last line: the number of rows per outcome; the numbers add up to all rows."""
    counts = [f"{sum(v.outcome is outcome for v in verdicts)} {outcome.lower()}" for outcome in Outcome]
    return f"{len(verdicts)} rows: {', '.join(counts)}"


def verdict_as_json(verdict: Verdict) -> dict[str, object]:
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
        "status": expected.status,
        "note": expected.note,
    }
