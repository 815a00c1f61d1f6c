"""`repro check`: compare the workspace's run records with the published table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from repro.cli.options import COMMON, CommonOptions, FlagOption, command_for_row
from repro.core.console import print_line
from repro.core.errors import Exit, NothingToCheckError
from repro.core.workspace import Workspace
from repro.judge import verdict as judge
from repro.judge.expected import rows_with_expected, table_path, table_sha256
from repro.judge.verdict import Outcome, Verdict
from repro.records.record import RunRecord, find_runs
from repro.table.rows import extra_names, is_smoke_row, row_names


def check(*, expected: Path | None = None, strict: FlagOption = False, common: CommonOptions = COMMON) -> Exit:
    """Judge recorded scores against the published table; exits 1 if any is higher or lower.

    Example: `repro check --strict`

    Args:
        expected: Another table than the shipped expected/results.csv.
        strict: Exit 1 also for rows that are inconclusive or not run.
    """
    workspace, path = common.open_workspace(), expected or table_path()
    rows = rows_with_expected(path)
    records, damaged = _read_records(workspace)
    verdicts, left_out = judge.judge_rows(rows, records)
    extras, own = ([record for record in records if record.kind == kind] for kind in ("extra", "own"))
    for line in explain_left_out(left_out):
        print_line(f"warning: {line}", to_stderr=True)
    if common.as_json:
        report = {
            "expected_sha256": table_sha256(path),
            "verdicts": [judge.verdict_as_json(verdict) for verdict in verdicts],
            "counts": {str(o): sum(v.outcome is o for v in verdicts) for o in Outcome},
            "damaged_records": damaged,
            "records_not_judged": [{"row": r.row, "seed": r.seed, "run": r.run, "why": why} for r, why in left_out],
            "extras_not_judged": [{"row": r.row, "seed": r.seed, "run": r.run} for r in extras],
            "own_rows_not_judged": [{"row": r.row, "seed": r.seed, "run": r.run} for r in own],
        }
        print(json.dumps(report, indent=1))
    else:
        print_line(f"expected values {path.name}, sha256 {table_sha256(path)[:16]}")
        _print_verdicts(verdicts, {"extras": extras, "own rows": own}, damaged=len(damaged), left_out=len(left_out))
    # An error, after the table is printed: a script must not take an empty workspace for a success.
    if all(verdict.outcome is Outcome.NOT_RUN for verdict in verdicts):
        raise NothingToCheckError(
            f"nothing to check: no run record of a published row in {workspace.runs}: run one with `repro ROW`"
        )
    return judge.exit_code(verdicts, strict)


def _print_verdicts(
    verdicts: Sequence[Verdict], others: Mapping[str, Sequence[RunRecord]], *, damaged: int, left_out: int
) -> None:
    for verdict in verdicts:
        print_line(judge.format_verdict(verdict))
    for kind, records in others.items():
        if records:
            names = ", ".join(dict.fromkeys(record.row for record in records))
            print_line(f"not judged: {len(records)} records of {kind}, which have no published value: {names}")
    notes = [judge.format_counts(verdicts)]
    if damaged:
        notes.append(f"{damaged} damaged records left out")
    if left_out:
        notes.append(f"{left_out} records not judged")
    print_line("; ".join(notes))


def explain_left_out(left_out: Sequence[tuple[RunRecord, str]]) -> list[str]:
    """Return one line for each record that was not judged.

    Records of a row that share the reason share a line: a grid leaves out up to 90.
    """
    alike: dict[tuple[str, str], list[RunRecord]] = {}
    for record, why in left_out:
        alike.setdefault((record.row, why), []).append(record)
    return [
        f"{row} seed {runs[0].seed} ({runs[0].run}): not judged: {why}"
        if len(runs) == 1
        else f"{row}: {len(runs)} records not judged: {why}"
        for (row, why), runs in alike.items()
    ]


def _read_records(workspace: Workspace) -> tuple[list[RunRecord], list[str]]:
    """Return the complete records, and a message for each damaged one, which is also printed."""
    runs = list(find_runs(workspace.runs))
    if not runs:
        return [], []
    # Imported here: it imports NumPy and pyarrow, and an empty workspace has nothing to compute again.
    from repro.judge.evidence import read_evidence

    records, damaged = read_evidence(runs)
    for run, why in damaged:
        # A damaged record cannot say which row it is of; its folder can.
        row = run.folder.parent.name
        known = is_smoke_row(row) or row in (*row_names(), *extra_names())
        remedy = f"`{command_for_row(row)}` writes it again" if known else f"delete {run.folder}: no row has this name"
        if row.startswith("own_"):
            remedy = "`repro run` of its row file writes it again"
        print_line(f"warning: {why}: left out; {remedy}", to_stderr=True)
    return records, [why for _, why in damaged]
