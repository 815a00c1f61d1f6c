"""The claims of the published table: does one row score above another? `repro check --claims`; expected/README.md has the rules.

Rows are compared at equal search: both at their default cell, at the best epoch on the test split. If the planned seeds of that were
not run, both by the selection on held-out clips. A best of a grid is shown and not judged: it is above one cell by chance.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from repro.core.config import Config, load_config
from repro.core.errors import UsageError
from repro.core.workspace import Workspace
from repro.judge.claims.comparison import LEVEL, Source, adjust_holm, claim_p_value, compare_pairs, compare_seeds
from repro.judge.claims.samples import RunSamples, name_samples, remember_samples
from repro.judge.expected import Expected
from repro.judge.fitness import accepted_cells, explain_mismatch, read_configured
from repro.judge.grid_selection import selection_of
from repro.judge.kept import Memory
from repro.judge.rescoring import read_run_predictions, stamp_run
from repro.judge.run_sets import RunSet, build_run_sets
from repro.judge.seeds import seeds_for_gap
from repro.judge.verdict import Verdict, judge_rows
from repro.readout.recipe import PROTOCOLS, Protocol
from repro.records.record import RunRecord, StoredRun, stored_run
from repro.table.row import Row, row_datasets

FEWEST_VIDEOS = 20
"""Source videos that a test on clips needs: of fewer, a standard error says little."""
Rows = dict[str, tuple[Row, Expected]]


class ClaimOutcome(StrEnum):
    """The possible verdicts on a claim."""

    HOLDS = "HOLDS"
    """The first row scores above the second, on other seeds and other clips too."""
    REVERSED = "REVERSED"
    """The second row scores above the first."""
    TOO_CLOSE = "TOO CLOSE TO CALL"
    OUR_WEIGHTS = "WITH OUR WEIGHTS"
    """The release does not state a row's checkpoint: a difference, and no verdict on the claim."""
    NOT_RUN = "NOT RUN"
    """Not as many runs as planned, or runs on other clips."""


class ClaimFamily(Config):
    """Claims that are judged together."""

    statement: str
    source: str
    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)]
    """Names of two rows: the first is claimed to score above the second."""


class ClaimsFile(Config):
    """claims.yaml of a rule set."""

    families: dict[str, ClaimFamily]


@dataclass(frozen=True, slots=True)
class Measured:
    """The runs of a row that a claim is judged on."""

    basis: str
    """What was selected how."""
    runs: tuple[RunRecord, ...]
    """One per seed, in the order of the seeds, without a gap."""
    values: tuple[float, ...]
    """Scores of the runs, in points."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))


@dataclass(frozen=True, slots=True)
class ClaimVerdict:
    """What is known of one claim; scores and differences in points."""

    family: str
    above: Expected
    below: Expected
    outcome: ClaimOutcome
    reason: str
    basis: str = ""
    seeds: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    difference: float | None = None
    """Mean of the first row's runs less that of the second's."""
    on_seeds: Source | None = None
    """Welch's standard error."""
    on_clips: Source | None = None
    """Standard error over samples of source videos, the same for both rows."""
    in_pairs: Source | None = None
    """Standard error over seeds that both rows share, if their trainings read the same clips in the same order; not judged."""
    p_value: float = 1.0
    """Two-sided, before Holm's adjustment; 1 if not run."""
    adjusted: float = 1.0
    more_seeds: str = ""
    """How many seeds each row would take, if it is too close to call."""
    not_judged: tuple[tuple[str, float], ...] = ()
    """Differences under other selections, by name."""
    near_tie: str = ""
    """How close the published values are, if that is closer than the margin of the row."""

    @property
    def published(self) -> float:
        return self.above.published - self.below.published


def claims_path(table: Path) -> Path:
    """Return the claims of the rule set whose table is at `table`."""
    return table.with_name("claims.yaml")


def load_claims(path: Path, rows: Rows) -> dict[str, ClaimFamily]:
    """Read the claims, by family.

    Raises:
        UsageError: the file is not valid; a row is unknown; a pair occurs twice, has other test clips or another metric, or its
            published values are in the other order.
    """
    families = load_config(ClaimsFile, path).families
    seen = set()
    for name, family in families.items():
        for pair in family.pairs:
            # A claim between rows of other test clips or metrics would compare what is not comparable:
            # refused as the file is read.
            where = f"{path}: {name}: [{', '.join(pair)}]"
            unknown = [row for row in pair if row not in rows]
            if unknown:
                raise UsageError(f"{where}: row '{unknown[0]}' is none of configs/rows")
            (above, published), (below, other) = (rows[row] for row in pair)
            if frozenset(pair) in seen:
                raise UsageError(f"{where}: the two rows are in an earlier pair: expected each pair once")
            if (above.data.test, above.metric) != (below.data.test, below.metric):
                raise UsageError(f"{where}: rows of other test clips or metrics: expected two that can be compared")
            if published.published <= other.published:
                raise UsageError(f"{where}: published {published.published} is not above {other.published}")
            seen.add(frozenset(pair))
    return families


def judge_claim_families(
    rows: Rows, families: Mapping[str, ClaimFamily], records: Iterable[RunRecord], memory: Memory[RunRecord, RunSamples]
) -> list[ClaimVerdict]:
    """Judge every claim by the records that measure its two rows.

    Args:
        rows: Row and published value, by name.
        families: Claims, as `load_claims` returns them.
        records: Any run records.
        memory: Of the samples of the records' runs (samples.py).

    Returns:
        One verdict per claim, in the order of the file.
    """
    records = list(records)
    verdicts, left_out = judge_rows(rows, records)
    refused = [one for verdict in verdicts for one in verdict.refused]
    unfit = {id(record) for record, _ in (*left_out, *refused)}
    fit: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        # What judge_rows leaves out for its protocol alone is fit for the selection on held-out clips.
        may_count = id(record) not in unfit or (record.protocol == "held-out" and record.complete)
        if record.row in rows and record.kind == "published" and may_count:
            fit[record.row].append(record)
    judge = _Judge(rows, {verdict.expected.row: verdict for verdict in verdicts}, fit, memory)
    return [
        one
        for name, family in families.items()
        for one in _adjust([judge.compare_rows(name, *pair) for pair in family.pairs])
    ]


def judge_workspace_claims(
    rows: Rows,
    records: Iterable[RunRecord],
    workspace: Workspace,
    table: Path,
    warn: Callable[[str], None] = lambda line: None,
) -> tuple[list[ClaimVerdict], dict[str, ClaimFamily]]:
    """Judge the claims of the rule set at `table` by records whose predictions are in a workspace.

    What takes long is kept there. `warn` is called with a message if something that was kept is wrong.

    Returns:
        One verdict per claim, and the families.

    Raises:
        UsageError: the file is not valid.
        MissingError: the predictions of a record are missing.
    """
    families = load_claims(claims_path(table), rows)
    memory = _remember_workspace_samples(workspace, warn)
    return judge_claim_families(rows, families, records, memory), families


def keep_samples(
    row: Row, expected: Expected, records: Iterable[RunRecord], workspace: Workspace, warn: Callable[[str], None]
) -> None:
    """Compute the samples that the claims on a row take of its runs, and keep them in the workspace.

    Args:
        row: The row.
        expected: Its published value.
        records: Records of the row.
        workspace: Where their predictions are.
        warn: Called with a message if something that was kept is wrong.

    Raises:
        MissingError: the predictions of a record are missing.
    """
    records = [record for record in records if record.complete]
    memory = _remember_workspace_samples(workspace, warn)
    for protocol in PROTOCOLS:
        runs = select_runs(row, expected, records, protocol).runs
        # Of fewer seeds no claim is judged.
        if len(runs) >= row.seeds.planned:
            memory.recall({name_samples(run): run for run in runs})


def _remember_workspace_samples(workspace: Workspace, warn: Callable[[str], None]) -> Memory[RunRecord, RunSamples]:
    def find_run(record: RunRecord) -> StoredRun:
        return stored_run(workspace.runs, record.row, record.seed, record.run)

    return remember_samples(
        lambda record: read_run_predictions(find_run(record)),
        workspace.computed,
        warn,
        lambda record: stamp_run(find_run(record)),
    )


@dataclass(slots=True)
class _Judge:
    """Compares rows, and computes what several claims need once."""

    rows: Rows
    verdicts: Mapping[str, Verdict]
    records: Mapping[str, Sequence[RunRecord]]
    memory: Memory[RunRecord, RunSamples]
    resampled: dict[tuple[str, str], RunSamples] = field(default_factory=dict)
    """Means over a row's seeds, by row and what was selected how."""

    def compare_rows(self, family: str, first: str, second: str) -> ClaimVerdict:
        """Return the verdict on "`first` scores above `second`", not yet adjusted for the number of claims."""
        pair = [self.rows[name] for name in (first, second)]
        searches = [
            [select_runs(row, line, self.records.get(row.name, ()), protocol) for row, line in pair]
            for protocol in PROTOCOLS
        ]
        planned = [row.seeds.planned for row, _ in pair]
        # The first search with as many seeds of both rows as planned, else the published one.
        found = next(
            (s for s in searches if all(len(m.runs) >= n for m, n in zip(s, planned, strict=True))), searches[0]
        )
        ours, theirs = found
        short = any(len(one.runs) < count for one, count in zip(found, planned, strict=True))
        verdict = ClaimVerdict(
            family,
            pair[0][1],
            pair[1][1],
            ClaimOutcome.NOT_RUN,
            f"seeds run as planned: {len(ours.runs)} of {planned[0]} and {len(theirs.runs)} of {planned[1]}"
            if short
            else "",
            basis=ours.basis,
            seeds=(ours.seeds, theirs.seeds),
            difference=ours.mean - theirs.mean if ours.runs and theirs.runs else None,
            not_judged=tuple(self._other_searches(first, second, [s for s in searches if s is not found])),
            near_tie=describe_near_tie(*pair[0], *pair[1]),
        )
        if verdict.reason or verdict.difference is None:
            return verdict
        edited = dict.fromkeys(name for _, line in pair for name in line.edited)
        if edited:
            return dataclasses.replace(verdict, reason=f"edited configs: {', '.join(edited)}")
        one, other = self._resample(first, ours), self._resample(second, theirs)
        if one.clips != other.clips:
            return dataclasses.replace(verdict, reason="the rows were tested on other clips, labels or source videos")
        if one.videos < FEWEST_VIDEOS:
            return dataclasses.replace(verdict, reason=f"{one.videos} source videos, {FEWEST_VIDEOS} are needed")
        on_seeds = compare_seeds(ours.values, theirs.values)
        # Both rows on the same samples: what a sample of videos does to both cancels in their difference.
        on_clips = Source(float(np.std(one.scores - other.scores, ddof=1)), one.videos - 1)
        return dataclasses.replace(
            verdict,
            outcome=ClaimOutcome.TOO_CLOSE,
            reason=_describe_missing([*ours.runs, *theirs.runs]),
            on_seeds=on_seeds,
            on_clips=on_clips,
            in_pairs=_compare_in_pairs(ours, theirs),
            p_value=float(claim_p_value(verdict.difference, on_seeds, on_clips)),
        )

    def _other_searches(
        self, first: str, second: str, searches: Sequence[Sequence[Measured]]
    ) -> Iterator[tuple[str, float]]:
        for ours, theirs in searches:
            if ours.runs and theirs.runs:
                yield ours.basis, ours.mean - theirs.mean
        above, below = self.verdicts[first], self.verdicts[second]
        if above.measured is not None and below.measured is not None and (above.best_of_grid or below.best_of_grid):
            yield f"best of {max(above.cells, below.cells)} cells", above.measured - below.measured

    def _resample(self, row: str, measured: Measured) -> RunSamples:
        if (row, measured.basis) not in self.resampled:
            of_runs = list(self.memory.recall({name_samples(run): run for run in measured.runs}).values())
            clips = {one.clips for one in of_runs}
            self.resampled[row, measured.basis] = RunSamples(
                np.mean([one.scores for one in of_runs], axis=0),
                of_runs[-1].videos,
                # Seeds that were tested on other clips have no common samples; such a name equals no other row's.
                clips.pop() if len(clips) == 1 else f"the clips of {row}'s seeds",
            )
        return self.resampled[row, measured.basis]


def select_runs(row: Row, expected: Expected, records: Sequence[RunRecord], protocol: Protocol) -> Measured:
    """Select the runs of one set that measure a row at equal search: the planned seeds, up to the first that is missing.

    Args:
        row: The row.
        expected: Its published value.
        records: Records of the row.
        protocol: published: its default cell. held-out: the cell that the held-out clips select if a grid was run that is judged,
            else its default cell; and the epoch that they select.
    """
    basis = "best epoch on test, default cell" if protocol == "published" else "selected on held-out clips"
    records = [record for record in records if record.protocol == protocol]
    if not records:  # before the grid's cells are read from configs
        return Measured(basis, (), ())
    cells = [row.features.name] if protocol == "published" else accepted_cells(row, expected)
    configured = read_configured(row)
    fit = [
        record
        for record in records
        if record.features.cell in cells and not explain_mismatch(record, configured, cells, any_precision=True)
    ]
    sets = [found for found in build_run_sets(row, expected, fit) if found.seeds]
    if not sets:
        return Measured(basis, (), ())
    best = max(sets, key=RunSet.rank)
    selected = best.select_cells(best.seeds)
    runs = tuple(best.by_seed[one.seed][one.cell] for one in selected) or tuple(best.own_runs(best.seeds))
    return Measured(basis, runs, tuple(100 * selection_of(run).scores[run.metric] for run in runs))


def _compare_in_pairs(first: Measured, second: Measured) -> Source | None:
    """Return the error over shared seeds; None if trainings at one seed read other clips, or in other batches."""
    ours, theirs = (
        {run.seed: 100 * selection_of(run).scores[run.metric] for run in one.runs} for one in (first, second)
    )
    shared = sorted(ours.keys() & theirs.keys())
    # At one seed, batches are the same only with the same clips and batch size.
    orders = {(run.train.sha256, run.recipe.batch_size) for one in (first, second) for run in one.runs}
    if len(orders) > 1 or len(shared) < 2:
        return None
    return compare_pairs([ours[seed] for seed in shared], [theirs[seed] for seed in shared])


def _describe_missing(runs: Sequence[RunRecord]) -> str:
    """Say how many clips the run with the fewest of them read; empty if none is missing."""
    parts = []
    for role in ("test", "train"):
        split = max((getattr(run, role) for run in runs), key=lambda split: len(split.missing_clips))
        if split.missing_clips:
            gone = len(split.missing_clips)
            parts.append(f"{gone} of {split.clips + gone} {role} clips missing")
    return ", ".join(parts)


def _adjust(claims: Sequence[ClaimVerdict]) -> list[ClaimVerdict]:
    """Return the claims of a family with their verdicts."""
    adjusted = adjust_holm(np.array([claim.p_value for claim in claims]))
    # argsort of argsort is the rank; stable as in adjust_holm, so that equal p-values get the ranks that they have there.
    ranks = np.argsort(np.argsort([claim.p_value for claim in claims], kind="stable"), kind="stable")
    found = []
    for claim, p_value, rank in zip(claims, adjusted.tolist(), ranks.tolist(), strict=True):
        if claim.outcome is ClaimOutcome.NOT_RUN or claim.difference is None:
            found.append(claim)
            continue
        # Holm's level for the claim of this rank: what more seeds would have to pass.
        level = LEVEL / (len(claims) - rank)
        outcome = ClaimOutcome.TOO_CLOSE
        if p_value <= LEVEL:
            outcome = ClaimOutcome.HOLDS if claim.difference > 0 else ClaimOutcome.REVERSED
        seeds = describe_seeds_needed(claim, level / 2) if outcome is ClaimOutcome.TOO_CLOSE else ""
        reason = claim.reason
        assumed = [line.row for line in (claim.above, claim.below) if line.checkpoint_assumed]
        if assumed:
            direction = {ClaimOutcome.HOLDS: "above", ClaimOutcome.REVERSED: "below"}.get(outcome, "too close to call")
            reason = (
                f"{direction} with our weights: the release does not state the checkpoint of {' and '.join(assumed)}"
                + (f"; {reason}" if reason else "")
            )
            outcome = ClaimOutcome.OUR_WEIGHTS
        found.append(dataclasses.replace(claim, outcome=outcome, reason=reason, adjusted=p_value, more_seeds=seeds))
    return found


def describe_seeds_needed(claim: ClaimVerdict, level: float) -> str:
    """Say how many seeds of each row would show a difference, if means, spreads and clips stay as they are."""
    assert claim.difference is not None
    assert claim.on_seeds is not None
    assert claim.on_clips is not None
    fewest = min(map(len, claim.seeds))
    # The spread of single runs that gives Welch's standard error at the smaller number of runs.
    spread = float(claim.on_seeds.error * np.sqrt(fewest / 2))
    clip_error = float(claim.on_clips.error)
    needed = seeds_for_gap(claim.difference, spread, level, clip_error=clip_error)
    if needed is not None:
        return f"{max(needed, fewest + 1)} seeds of each row would decide"
    if abs(claim.difference) <= claim.on_clips.half_width(2 * level):
        return f"no number of seeds can decide: the test clips leave ±{claim.on_clips.half_width():.2f}"
    return "more than 100 seeds of each row would be needed"


def describe_near_tie(above: Row, published: Expected, below: Row, other: Expected) -> str:
    """Say how near two published values are, if nearer than the row's margin; as clips if they are accuracies."""
    gap = published.published - other.published
    if gap > published.margin + 1e-9:
        return ""
    text = f"a near-tie: {gap:.{max(published.digits, other.digits)}f} points"
    counts = [_count_clips(above, published), _count_clips(below, other)]
    if None in counts:
        return text
    (ours, clips), (theirs, _) = (count for count in counts if count is not None)
    unit = "one clip" if ours - theirs == 1 else f"{ours - theirs} clips"
    return f"{text}, {ours:,} against {theirs:,} of {clips:,} clips: {unit}"


def _count_clips(row: Row, line: Expected) -> tuple[int, int] | None:
    """Return the number of clips right that a published accuracy means, and the number of all; None if it is not the only one."""
    clips = row_datasets(row)[row.data.test.dataset].splits[row.data.test.split].clips
    if row.metric != "top1" or clips is None:
        return None
    near = round(line.published * clips / 100)
    # More than one number of clips may round to the printed value; then it does not say which.
    possible = [n for n in range(near - 2, near + 3) if round(100 * n / clips, line.digits) == line.published]
    return (possible[0], clips) if len(possible) == 1 else None
