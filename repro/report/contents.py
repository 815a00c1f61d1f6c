"""What a report shows, gathered from a workspace: verdicts, runs, grids, scores by class, claims, audits. Imports no torch."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from repro.backbones.config import read_precision
from repro.core.errors import MissingError, NothingToCheckError, ReproError, UsageError
from repro.core.workspace import Workspace
from repro.datasets.manifest import Manifest, stored_manifest
from repro.features.spent import Spent, load_spent
from repro.judge.claims.formats import ClaimsReport, report_claims
from repro.judge.evidence import Annotations, read_evidence
from repro.judge.expected import name_rule_set, rows_with_expected, table_path
from repro.judge.fitness import explain_mismatch, read_configured, record_precision
from repro.judge.formats import format_left_out
from repro.judge.grid_selection import grid_cells, has_grid
from repro.judge.kept import Memory
from repro.judge.scores.numbers import Numbers, ScoresInput, remember_numbers
from repro.judge.scores.row_scores import RowScores, compute_row_scores
from repro.judge.verdict import Verdict, judge_rows
from repro.pipeline.grid.report import GridResult
from repro.readout.recipe import PROTOCOLS, Protocol
from repro.records.record import RunRecord, find_runs
from repro.table.row import Row, row_backbone
from repro.table.rows import load_row

WATTS = 700.0
"""Assumed draw of a GPU that computes: the limit of an H100 or H200 SXM. An upper bound of its energy, without the machine around it."""


@dataclass(frozen=True, slots=True)
class RowContents:
    """One row: its verdict and what is behind it."""

    row: Row
    verdict: Verdict | None
    """None for rows that are never judged: extras, the smoke job's and own ones."""
    published: tuple[RunRecord, ...]
    """Runs of the row's cell under the published protocol, one per seed: the judged ones if the row is judged."""
    held_out: tuple[RunRecord, ...]
    """The same under the held-out protocol."""
    default_cell: tuple[RunRecord, ...]
    """Runs of the row's own cell, whose last epoch selects nothing; `published` has others if a complete grid is judged."""
    grid: GridResult | None
    """None if no other cell was run."""
    scores: RowScores | None
    """By class; None if there is no run."""
    notes: tuple[str, ...]
    """What could not be shown, and why."""

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        return self.published or self.held_out


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything on the page."""

    workspace: Workspace
    rows: tuple[RowContents, ...]
    judge_claims: Callable[[], ClaimsReport] | None
    """Judges the claims, which takes long if nothing is kept; None if only some rows were asked for."""
    rules: str
    """Which rules the verdicts were made under."""
    audits: Mapping[str, Manifest | None]
    """By data set of the rows shown; None if it was not audited here."""
    damaged: tuple[str, ...]
    not_judged: tuple[str, ...]

    @property
    def judged(self) -> list[RowContents]:
        return [one for one in self.rows if one.verdict is not None]


def gather_contents(
    named: Sequence[Row], workspace: Workspace, warn: Callable[[str], None] = lambda line: None
) -> Contents:
    """Read the runs of a workspace and judge them.

    Args:
        named: Rows to show, in this order [default: the 24, and all others that have runs, but those of own clips].
        workspace: Where the runs are. What takes long to compute is kept there.
        warn: Called with a message if something that was kept is wrong.

    Raises:
        UsageError: runs of a row that no longer exists.
        NothingToCheckError: none of the rows has a run.
        MissingError: they have runs, and none is intact.
    """
    path = table_path()
    table = rows_with_expected(path)
    annotations = Annotations(workspace)
    # Judged as `repro check` does: the page shows no number whose evidence does not hold.
    found, damaged = read_evidence(find_runs(workspace.runs), annotations, warn)
    records = [record for record in found if record.complete]
    verdicts, left_out = judge_rows(table, records, annotations.compared)
    by_row: defaultdict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_row[record.row].append(record)
    # A row of own clips is a file of the user's, which no record has: it must be named.
    own = [name for name in by_row if name.startswith("own_")]
    chosen = named or [load_row(name) for name in (*table, *(n for n in by_row if n not in table and n not in own))]
    judged = {verdict.expected.row: verdict for verdict in verdicts}
    memory = remember_numbers(workspace.computed, warn)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # NumPy computes without the interpreter's lock
        rows = list(
            pool.map(lambda row: _gather_row(judged.get(row.name), by_row[row.name], memory, row, workspace), chosen)
        )
    not_shown = (
        [] if named else [f"{name}: own clips: name its row file, as `repro report my_row.yaml`" for name in own]
    )
    if not any(one.runs for one in rows):
        what = f"of {', '.join(row.name for row in chosen)}" if named else "of any row"
        unusable = [why for run, why in damaged if run.folder.parent.name in {row.name for row in chosen}]
        if unusable:
            more = f"; and {len(unusable) - 1} more runs like it" if unusable[1:] else ""
            raise MissingError(f"nothing to report: no intact run {what} in {workspace.runs}: {unusable[0]}{more}")
        if not_shown:
            raise NothingToCheckError(f"nothing to report without a row's name: {'; '.join(not_shown)}")
        raise NothingToCheckError(f"nothing to report: no run record {what} in {workspace.runs}: `repro ROW` makes one")
    datasets = dict.fromkeys(name for one in rows if one.runs for name in one.row.data.datasets)
    return Contents(
        workspace=workspace,
        rows=tuple(rows),
        judge_claims=None if named else partial(report_claims, table, records, verdicts, workspace, path, warn),
        rules="{}, sha256 {:.16}".format(*name_rule_set(path)),
        audits={name: _read_audit(workspace, name) for name in datasets},
        # A report is handed on: where the workspace is stored is nobody else's business.
        damaged=tuple(why.replace(f"{workspace.root}{os.sep}", "") for _, why in damaged),
        not_judged=(*format_left_out(left_out), *not_shown),
    )


def gather_extractions(contents: Contents, runs: Iterable[RunRecord]) -> list[Spent]:
    """Return what the extractions of the features of `runs` took, as far as they ran in this workspace."""
    datasets = {one.name: one.row.data.datasets for one in contents.rows}
    stores = {(run.features.key, dataset) for run in runs for dataset in datasets[run.row]}
    return load_spent(contents.workspace, lambda key, collection: (key, collection) in stores)


def gather_table(workspace: Workspace) -> list[RowContents]:
    """Return the 24 rows with their verdicts, without what is behind them; a workspace without runs will do."""
    table = rows_with_expected(table_path())
    records, _ = read_evidence(find_runs(workspace.runs), Annotations(workspace))
    verdicts, _ = judge_rows(table, [record for record in records if record.complete])
    return [
        RowContents(row, verdict, verdict.runs, (), (), None, None, ())
        for (row, _), verdict in zip(table.values(), verdicts, strict=True)
    ]


def _read_audit(workspace: Workspace, dataset: str) -> Manifest | None:
    try:
        return stored_manifest(workspace, dataset)
    except UsageError:  # damaged: as good as none, and `repro data status` says so
        return None


def _gather_row(
    verdict: Verdict | None,
    records: Sequence[RunRecord],
    memory: Memory[ScoresInput, Numbers],
    row: Row,
    workspace: Workspace,
) -> RowContents:
    notes, configured = [], read_configured(row)
    # Of the row as it is configured now: an older version's runs say nothing on it.
    own = [run for run in records if not explain_mismatch(run, configured, [row.features.name], any_precision=True)]
    published, held_out = (_choose_group(row, own, protocol) for protocol in PROTOCOLS)
    judged = () if verdict is None else verdict.runs
    if judged:
        # Only judged seeds: curves of others would be shown under a verdict that is not on them.
        published = tuple(run for run in published if run.seed in {one.seed for one in judged})
    scores = None
    if published or held_out:
        try:
            scores = compute_row_scores(row, workspace, records=records, memory=memory)
        except ReproError as error:
            notes.append(f"scores by class are left out: {error}")
    return RowContents(
        row=row,
        verdict=verdict,
        # A grid is judged by the cell that each seed selects: the curves are of these runs.
        published=judged or published,
        held_out=held_out,
        default_cell=published or held_out,
        grid=_gather_grid(row, records),
        scores=scores,
        notes=tuple(notes),
    )


def _choose_group(row: Row, records: Iterable[RunRecord], protocol: Protocol) -> tuple[RunRecord, ...]:
    """Return the newest runs of a protocol that differ in their seed alone, by seed; those in the row's precision go first."""
    groups: defaultdict[str, dict[int, RunRecord]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.made.at):
        if record.protocol == protocol:
            # Oldest first: the newest run of a seed stays.
            groups[record.group][record.seed] = record
    if not groups:
        return ()
    precision = read_precision(row_backbone(row))

    def rank(runs: dict[int, RunRecord]) -> tuple[bool, str]:
        return record_precision(next(iter(runs.values()))) == precision, max(run.made.at for run in runs.values())

    return tuple(run for _, run in sorted(max(groups.values(), key=rank).items()))


def _gather_grid(row: Row, records: Sequence[RunRecord]) -> GridResult | None:
    """Return the largest grid of each protocol with more than one cell, the newest of equals."""
    if not has_grid(row):
        return None
    cells = grid_cells(row)
    names, configured = [cell.name for cell in cells], read_configured(row)
    runs: dict[tuple[Protocol, int, str], RunRecord] = {}
    for protocol in PROTOCOLS:
        grids: defaultdict[str, dict[tuple[Protocol, int, str], RunRecord]] = defaultdict(dict)
        for record in sorted(records, key=lambda record: record.made.at):
            if record.protocol == protocol and not explain_mismatch(record, configured, names, any_precision=True):
                grids[record.grid][record.protocol, record.seed, record.features.cell] = record
        several = [found for found in grids.values() if len({cell for _, _, cell in found}) > 1]
        if several:
            # max takes the first of equals: reversed, that is the newest.
            largest: dict[tuple[Protocol, int, str], RunRecord] = max(reversed(several), key=len)
            runs |= largest
    if not runs:
        return None
    seeds = tuple(sorted({seed for _, seed, _ in runs}))
    stored_as = next(iter(runs.values())).features.stored_as
    return GridResult(row, cells, seeds, runs, "float16" if stored_as == "float16" else "float32", row.name)
