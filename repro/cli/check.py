"""`repro check`: read the workspace's records, judge, print."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from repro.core.errors import Exit, NothingToCheckError
from repro.core.workspace import Workspace
from repro.judge import verdict as check
from repro.judge.expected import rows_with_expected, table_path, table_sha256
from repro.records.record import DamagedRecordError, RunRecord, all_runs
from repro.table.rows import SMOKE_ROWS


def show(workspace: Workspace, expected_path: Path | None, *, strict: bool, as_json: bool) -> Exit:
    """Print one verdict a row and the sum; returns what they amount to.

    Raises:
        NothingToCheckError: no whole run record of a published row.
        UsageError: the expected table is not valid or names a row there is none of.
    """
    path = expected_path or table_path()
    rows = rows_with_expected(path)
    records, damaged = _read(workspace)
    verdicts, left_out = check.check(rows, records)
    extras = [record for record in records if record.kind == "extra"]
    for line in told(left_out):
        print(f"warning: {line}", file=sys.stderr)
    code = check.exit_code(verdicts, strict)
    if as_json:
        report = {
            "expected_sha256": table_sha256(path),
            "verdicts": [check.as_json(verdict) for verdict in verdicts],
            "counts": {str(o): sum(v.outcome is o for v in verdicts) for o in check.Outcome},
            "damaged_records": damaged,
            "records_not_judged": [{"row": r.row, "seed": r.seed, "run": r.run, "why": why} for r, why in left_out],
            "extras_not_judged": [{"row": r.row, "seed": r.seed, "run": r.run} for r in extras],
        }
        print(json.dumps(report, indent=1))
    else:
        for verdict in verdicts:
            print(check.line(verdict))
        print(f"expected values {path.name}, sha256 {table_sha256(path)[:16]}")
        notes = [
            f"{n} {what}"
            for n, what in ((len(damaged), "damaged records left out"), (len(left_out), "records not judged"))
            if n
        ]
        if extras:
            named = ", ".join(dict.fromkeys(record.row for record in extras))
            print(f"{len(extras)} records of extras, which have no published value: not judged: {named}")
        print("; ".join([check.summary(verdicts), *notes]))
    if all(verdict.outcome is check.Outcome.NOT_RUN for verdict in verdicts):
        raise NothingToCheckError(
            f"nothing to check: no run record that measures a published row in {workspace.runs}: run one with `repro ROW`"
        )
    return code


def told(left_out: Sequence[tuple[RunRecord, str]]) -> list[str]:
    """A line for each record not judged, or one for all of a row that share the reason, as a grid's cells do."""
    alike: dict[tuple[str, str], list[RunRecord]] = {}
    for record, why in left_out:
        alike.setdefault((record.row, why), []).append(record)
    return [
        f"{row} seed {runs[0].seed} ({runs[0].run}): not judged: {why}"
        if len(runs) == 1
        else f"{row}: {len(runs)} records not judged: {why}"
        for (row, why), runs in alike.items()
    ]


def _read(workspace: Workspace) -> tuple[list[RunRecord], list[str]]:
    """Whole records, and a line for each damaged one (also printed)."""
    records, damaged = [], []
    for run in all_runs(workspace.runs):
        try:
            record = run.read()
        except DamagedRecordError as error:
            damaged.append(str(error))
            row = run.folder.parent.name
            remedy = "repro smoke" if row in SMOKE_ROWS else f"repro {row}"
            print(f"warning: {error}: left out; `{remedy}` makes it again", file=sys.stderr)
            continue
        if record is not None:
            records.append(record)
    return records, damaged
