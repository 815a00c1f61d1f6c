"""Judge measured rows against published values: one verdict per row (outcome.py has the statistics)."""

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from repro.backbones.config import read_precision
from repro.core.errors import Exit
from repro.judge.expected import Expected
from repro.judge.fitness import (
    Configured,
    accepted_cells,
    count_devices,
    describe_machines,
    explain_unfit,
    read_configured,
)
from repro.judge.grid_selection import Selected
from repro.judge.outcome import Outcome, mean_and_spread
from repro.judge.rules import format_refusal
from repro.judge.run_sets import RunSet, build_run_sets, describe_judged, format_seeds
from repro.records.record import RunRecord
from repro.table.row import Row, row_backbone


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one row compares with its published value; scores in points."""

    expected: Expected
    outcome: Outcome
    reason: str
    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    """One per seed, under the published selection rule."""
    measured: float | None = None
    """Their mean."""
    spread: float | None = None
    """Sample standard deviation over seeds; None for a single run."""
    last_epoch: float | None = None
    """Mean score of the last epoch of the row's default cell: nothing was selected on the test split."""
    by_number: Outcome | None = None
    """The outcome that the number alone gives; another than `outcome` if the weights are a guess or configs were edited."""
    by_ratio: Mapping[int, Outcome] = field(default_factory=dict)
    """That outcome by the authors' spread over ours."""
    runs: tuple[RunRecord, ...] = ()
    """The judged runs of the default cell, one per seed, or if a grid is judged those of the cell that each seed selects."""
    precision: str = ""
    """What the features of the judged runs were computed in."""
    widened_by: float = 0.0
    """Points by which missing test clips widen the interval."""
    cells: int = 0
    """Number of cells of its grid that were run, if the published value is the best of a grid."""
    best_of_grid: tuple[Selected, ...] = ()
    """What the published rule selects in each seed's complete grid, if complete grids are judged."""
    half_width: float | None = None
    """Of the 95 % prediction interval; None for a single run."""
    refused: tuple[tuple[RunRecord, str], ...] = ()
    """Runs of the row that do not count, and why: beginning with the id of a rule."""
    targets: str = ""
    """What the judged runs' targets were compared with: annotations, or recorded if nothing was."""
    selection_recomputed: bool = False
    """Whether the scores of all epochs were computed again, and with them the choice of the epoch."""
    devices: Mapping[str, int] = field(default_factory=dict)
    """Number of judged runs by the device that trained them."""

    @property
    def margin(self) -> float:
        return self.expected.margin

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % prediction interval for one further run."""
        if self.measured is None or self.half_width is None:
            return None
        return self.measured - self.half_width, self.measured + self.half_width

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.measured is None else self.measured - self.expected.published


def judge_rows(
    rows: dict[str, tuple[Row, Expected]], records: Iterable[RunRecord], annotated: Collection[str] = ()
) -> tuple[list[Verdict], list[tuple[RunRecord, str]]]:
    """Judge every row by the run records that measure it.

    Args:
        rows: Row and published value, by row name.
        records: Any run records; those of extras and of the smoke job are ignored.
        annotated: Names of the test splits whose targets were compared with the annotation files.

    Returns:
        One verdict per row, in the rows' order; and the records of published rows that were left out, each with the reason,
        which begins with the id of a rule (rules.py).
    """
    by_row: defaultdict[str, list[RunRecord]] = defaultdict(list)
    left_out = []
    # Of rows with records alone: a row's grid takes several configs to tell.
    accepted: dict[str, tuple[Configured, list[str]]] = {}
    for record in records:
        if record.kind != "published":
            continue
        row, line = rows.get(record.row, (None, None))
        if row is None or line is None:
            why = "there is no such row"
        else:
            if row.name not in accepted:
                accepted[row.name] = read_configured(row), accepted_cells(row, line)
            why = explain_unfit(record, *accepted[row.name])
        if why:
            left_out.append((record, format_refusal("R15", why)))
        else:
            by_row[record.row].append(record)
    return [_judge_row(row, line, by_row[name], annotated) for name, (row, line) in rows.items()], left_out


def _judge_row(row: Row, expected: Expected, records: list[RunRecord], annotated: Collection[str]) -> Verdict:
    sets = build_run_sets(row, expected, records)
    refused = tuple(one for runs in sets for one in runs.refused)
    # Ascending, so that the set to judge is the last; the others are named in its notes.
    candidates = sorted((runs for runs in sets if runs.all_seeds), key=RunSet.rank)
    edited = _describe_edits(expected)
    if not candidates:
        reason = "no run record"
        if sets:
            reason += f" of its cell {row.features.name}, though of {len({r.features.cell for r in records})} others"
        return Verdict(expected, Outcome.NOT_RUN, reason + edited, refused=refused)
    chosen = candidates.pop()
    seeds = chosen.seeds
    notes = [chosen.describe_seeds(), chosen.describe_rest()]
    notes += [_describe_set(runs) for runs in reversed(candidates)]
    notes += dict.fromkeys(why for _, why in refused)
    if not seeds:
        reason = "; ".join(note for note in notes if note)
        return Verdict(expected, Outcome.INCONCLUSIVE, reason + edited, refused=refused)
    runs, best, values = chosen.own_runs(seeds), chosen.select_cells(seeds), chosen.values(seeds)
    judged, cells = chosen.judge(seeds), chosen.count_cells(seeds)
    every = [run for seed in seeds for run in chosen.by_seed[seed].values()]
    # Format 1 has the selected and the last epoch alone, which cannot show that the selected one was the best.
    recomputed = all(run.predictions_format > 1 for run in every)
    targets = "annotations" if runs[0].test.name in annotated else "recorded"
    facts = [judged.reason, chosen.missing_clips()[1]]
    # More seeds of one cell, or on fewer clips, decide nothing.
    if not facts[1] and (best or not expected.best_of_grid):
        facts.append(_describe_needed(expected, judged.outcome, values))
    if judged.widened_by:
        facts.append(f"interval wider by {judged.widened_by:.2f}")
    if not chosen.is_rows_precision:
        facts.append(f"features in precision {chosen.precision}, not {read_precision(row_backbone(row))} as the row's")
    if best:
        facts.append(f"best of {cells} cells, {', '.join(f'seed {one.seed} {one.cell}' for one in best)}")
    elif cells > 1:
        facts.append(f"{row.features.name} alone is judged of {cells} cells of {len(chosen.cells)} that were run")
    if not recomputed:
        notes.append("selection not recomputed (record of an earlier version)")
    notes += [_describe_numbers(runs[0], chosen.precision), *describe_machines(every)]
    notes.append(f"targets {'as in the annotation files' if targets == 'annotations' else 'as recorded'}")
    outcome = judged.outcome
    if expected.edited:
        outcome = Outcome.EDITED
        facts.insert(0, f"by its number {judged.outcome}")
    elif expected.checkpoint_assumed:
        outcome = Outcome.OTHER_WEIGHTS
        known = f"the weights are our choice, not known to be the authors' ({expected.status})"
        facts.insert(0, f"{known}; by its number {judged.outcome}")
    mean, spread = mean_and_spread(values)
    if expected.status == "reconstructed":
        notes.append(f"reconstructed: {expected.note}")
    return Verdict(
        expected=expected,
        outcome=outcome,
        reason="; ".join(note for note in (*facts, *notes) if note) + edited,
        seeds=tuple(seeds),
        values=tuple(values),
        measured=mean,
        spread=spread,
        last_epoch=statistics.fmean(100 * run.last_epoch.scores[expected.metric] for run in runs),
        by_number=judged.outcome,
        by_ratio=judged.by_ratio,
        runs=tuple(chosen.by_seed[one.seed][one.cell] for one in best) or tuple(runs),
        precision=chosen.precision,
        widened_by=judged.widened_by,
        half_width=judged.half_width,
        cells=cells,
        best_of_grid=best,
        refused=refused,
        targets=targets,
        selection_recomputed=recomputed,
        devices=count_devices(every),
    )


def _describe_needed(expected: Expected, outcome: Outcome, values: Sequence[float]) -> str:
    """Return how many more seeds would decide; empty if they do already, or with one run."""
    mean, spread = mean_and_spread(values)
    if spread is None:
        return ""
    # Imported here: it imports NumPy, which commands that import this module start without.
    from repro.judge.seeds import Limits, explain_seeds

    limits = Limits(expected.margin, expected.rounding)
    return explain_seeds(outcome, mean - expected.published, spread, len(values), limits, expected.planned_seeds)


def _describe_edits(expected: Expected) -> str:
    if not expected.edited:
        return ""
    name = expected.rules.split(" ")[0]
    return "; " + format_refusal("R14", f"not as {name} pins it: {', '.join(expected.edited)}")


def _describe_numbers(run: RunRecord, precision: str) -> str:
    """Return what every number depends on besides the row: clips, precision of the features, version of the library."""
    torch = f", torch {run.made.by['torch']}" if "torch" in run.made.by else ""
    return f"{run.test.clips} clips, features in precision {precision}{torch}"


def _describe_set(runs: RunSet) -> str:
    """Return a set that is not judged, with its verdict."""
    seeds = runs.all_seeds
    what = "" if runs.is_rows_precision else f" in precision {runs.precision}"
    cells = " with all cells" if runs.select_cells(seeds) else ""
    return f"not judged: another set, seeds {format_seeds(seeds)}{what}{cells}: {describe_judged(runs, seeds)}"


def exit_code(verdicts: Sequence[Verdict], strict: bool) -> Exit:
    """Return 1 if a row was judged different; with `strict` also if one is inconclusive, edited or not run.

    Rows of weights that are our guess never set it: they say nothing on the published value.
    """
    bad = {Outcome.HIGHER, Outcome.LOWER}
    if strict:
        bad |= {Outcome.INCONCLUSIVE, Outcome.EDITED, Outcome.NOT_RUN}
    return Exit.JUDGED_DIFFERENT if any(v.outcome in bad for v in verdicts) else Exit.OK
