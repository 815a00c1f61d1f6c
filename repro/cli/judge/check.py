"""`repro check`: compare the workspace's run records with the published table."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.cli.options import BUNDLE, COMMON, BundleOptions, CommonOptions, FlagOption
from repro.core.console import print_line, print_lines, print_sentence, terminal_width
from repro.core.errors import Exit, MissingError, NothingToCheckError, UsageError
from repro.core.workspace import Workspace
from repro.judge.expected import name_rule_set, rows_with_expected, table_path
from repro.judge.formats import HEADER, format_counts, format_left_out, refusal_as_json, verdict_as_json, wrap_verdict
from repro.judge.outcome import Outcome
from repro.judge.rules import RULES
from repro.judge.verdict import Verdict, exit_code, judge_rows
from repro.records.record import RunRecord, find_runs
from repro.table.rows import command_for_row, extra_names, is_smoke_row, row_names

if TYPE_CHECKING:
    from repro.judge.scores.intervals import SplitInterval


def check(
    *,
    rules: str = "1",
    strict: FlagOption = False,
    claims: FlagOption = False,
    bundle: Path | None = None,
    depth: BundleOptions = BUNDLE,
    common: CommonOptions = COMMON,
) -> Exit:
    """Judge recorded scores against the published table; exits 1 if any is higher or lower.

    Scores are computed again from the predictions of each run. What does not agree is named and not judged.

    Example: `repro check --strict`

    Args:
        rules: Number of a shipped rule set (expected/rules-N), or the folder of another.
        strict: Exit 1 also for rows that are inconclusive, edited or not run.
        claims: Judge also whether one row scores above another, as published; exits 1 if a claim is reversed.
        bundle: Judge this file of `repro bundle` from its own evidence instead of the workspace's records.
    """
    if bundle is not None:
        from repro.cli.judge.check_bundle import check_bundle

        if claims:
            raise UsageError("--claims goes without --bundle: claims are judged on the workspace's records")
        if rules != "1":
            raise UsageError("--rules goes without --bundle: a bundle is judged by the rule set that it names")
        if depth.features and not depth.repeat_readout:
            raise UsageError("--features goes with --repeat-readout")
        return check_bundle(bundle, depth, common.open_workspace(), strict=strict, as_json=common.as_json)
    if depth != BUNDLE:
        raise UsageError(
            "--sample, --nonce, --repeat-readout, --features and --device go with --bundle FILE; `repro verify --sample N` checks the "
            "workspace's own features"
        )
    workspace, path = common.open_workspace(), table_path(rules)
    rows, (name, sha256) = rows_with_expected(path), name_rule_set(path)
    records, damaged, annotated = _read_records(workspace)
    verdicts, left_out = judge_rows(rows, records, annotated)
    claimed = None
    if claims:
        # Imported here: it imports NumPy and pyarrow, which the verdicts on rows can do without.
        from repro.judge.claims.formats import report_claims

        claimed = report_claims(rows, records, verdicts, workspace, path, _warn)
    extras, own = ([record for record in records if record.kind == kind] for kind in ("extra", "own"))
    for line in format_left_out(left_out):
        _warn(line)
    intervals = _find_intervals(verdicts, workspace)
    if common.as_json:
        report = {
            "rule_set": {"name": name, "sha256": sha256, "rules": RULES},
            "verdicts": [verdict_as_json(verdict) for verdict in verdicts],
            "counts": {str(o): sum(v.outcome is o for v in verdicts) for o in Outcome},
            "intervals_over_test_clips": {row: dataclasses.asdict(found) for row, found in intervals.items()},
            "targets_compared_with_annotations": sorted(annotated),
            "damaged_records": damaged,
            "records_not_judged": [refusal_as_json(record, why) for record, why in left_out],
            "extras_not_judged": [{"row": r.row, "seed": r.seed, "run": r.run} for r in extras],
            "own_rows_not_judged": [{"row": r.row, "seed": r.seed, "run": r.run} for r in own],
        }
        print(json.dumps(report | (claimed.as_json() if claimed else {}), indent=1))
    else:
        print_sentence(f"judged by {name}, sha256 {sha256[:16]}")
        _print_verdicts(verdicts, {"extras": extras, "own rows": own})
        if intervals:
            print_line("what other test clips would give, which no verdict uses:")
        print_lines(f"{row:<24} {interval}" for row, interval in intervals.items())
        for line in claimed.format() if claimed else []:
            print_sentence(line)
        # Last, where a person looks first.
        _print_counts(verdicts, damaged=len(damaged), left_out=len(left_out))
    # An error, after the table is printed: a script must not take an empty workspace for a success.
    if all(verdict.outcome is Outcome.NOT_RUN for verdict in verdicts):
        if damaged and not records:
            raise MissingError(f"nothing to check: no intact run in {workspace.runs}: the warnings above say why")
        smoke = "; `repro smoke` judges those of the smoke job" if any(r.kind == "smoke" for r in records) else ""
        raise NothingToCheckError(
            f"nothing to check: no run record of a published row in {workspace.runs}: run one with `repro ROW`{smoke}"
        )
    return Exit.JUDGED_DIFFERENT if claimed and claimed.any_reversed else exit_code(verdicts, strict)


def _find_intervals(verdicts: Sequence[Verdict], workspace: Workspace) -> "dict[str, SplitInterval]":
    if not any(verdict.runs for verdict in verdicts):
        return {}
    # Imported here: it imports NumPy and pyarrow, and an empty workspace has no interval.
    from repro.judge.scores.intervals import find_intervals

    return find_intervals(verdicts, workspace.runs, workspace.rescored, _warn)


def _warn(line: str) -> None:
    print_sentence(f"warning: {line}", to_stderr=True)


def _print_verdicts(verdicts: Sequence[Verdict], others: Mapping[str, Sequence[RunRecord]]) -> None:
    width = terminal_width()
    print_line(HEADER)
    for verdict in verdicts:
        print_lines(wrap_verdict(verdict, width))
    for kind, records in others.items():
        if records:
            names = ", ".join(dict.fromkeys(record.row for record in records))
            print_sentence(f"not judged: {len(records)} records of {kind}, which have no published value: {names}")


def _print_counts(verdicts: Sequence[Verdict], *, damaged: int, left_out: int) -> None:
    notes = [format_counts(verdicts)]
    if damaged:
        notes.append(f"{damaged} damaged records left out")
    if left_out:
        notes.append(f"{left_out} records not judged")
    print_sentence("; ".join(notes))


def _read_records(workspace: Workspace) -> tuple[list[RunRecord], list[dict[str, str]], Collection[str]]:
    """Return the complete records; rule, folder and reason of each damaged one, which are also printed; and the test splits
    whose targets were compared with annotation files."""
    runs = list(find_runs(workspace.runs))
    if not runs:
        return [], [], ()
    # Imported here: it imports NumPy and pyarrow, and an empty workspace has nothing to compute again.
    from repro.judge.evidence import Annotations, read_evidence

    annotations = Annotations(workspace)
    records, damaged = read_evidence(runs, annotations, _warn)
    for run, why in damaged:
        # A damaged record cannot say which row it is of; its folder can.
        row = run.folder.parent.name
        known = is_smoke_row(row) or row in (*row_names(), *extra_names())
        remedy = f"`{command_for_row(row)}` writes it again" if known else f"delete {run.folder}: no row has this name"
        if row.startswith("own_"):
            remedy = "`repro run` of its row file writes it again"
        _warn(f"{why}: left out; {remedy}")
    refused = [{"rule": why[:3], "folder": str(run.folder), "why": why[4:]} for run, why in damaged]
    return records, refused, annotations.compared
