"""`repro bundle`: the evidence of rows as one zip file, to hand to others."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from repro.cli.options import COMMON, CommonOptions
from repro.core import LazyModule
from repro.core.console import Reporter, print_sentence
from repro.core.errors import Exit, MissingError, NothingToCheckError, UsageError
from repro.core.workspace import Workspace
from repro.judge.expected import rows_with_expected, table_path
from repro.judge.formats import format_left_out, wrap_verdict
from repro.judge.verdict import Verdict, exit_code, judge_rows
from repro.records.record import RunRecord, find_runs
from repro.table.row import Row
from repro.table.rows import command_for_row, load_any_row, row_names

# These import NumPy, pyarrow or matplotlib, which help and refusals do not need.
if TYPE_CHECKING:
    from repro.judge import evidence
    from repro.pipeline.bundle import make
    from repro.report import contents as page_contents
    from repro.report import page as report_page
    from repro.smoke import golden as golden_values
else:
    evidence = LazyModule("repro.judge.evidence")
    make = LazyModule("repro.pipeline.bundle.make")
    page_contents = LazyModule("repro.report.contents")
    report_page = LazyModule("repro.report.page")
    golden_values = LazyModule("repro.smoke.golden")


def bundle(
    rows: Annotated[tuple[str, ...], Parameter(negative="")],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    common: CommonOptions = COMMON,
) -> Exit:
    """Write the evidence of rows to a zip file that others can judge: records, predictions, configs, hashes of features; no video.

    Paths, names of users and hosts, and tokens are removed. `repro check --bundle FILE` judges it.

    Example: `repro bundle ucf_hmdb -o ucf_hmdb.zip`

    Args:
        rows: Names of rows with run records, the smoke job's and row files among them, or all.
        output: The zip file to write.
    """
    if not rows:
        raise UsageError("expected a row, or all: as `repro bundle ucf_hmdb -o ucf_hmdb.zip`")
    if output.suffix != ".zip":
        raise UsageError(f"--output {output}: expected a name that ends in .zip")
    workspace, reporter = common.open_workspace(), Reporter(to_stderr=common.as_json)
    named = {row.name: row for row in map(load_any_row, dict.fromkeys(name for name in rows if name != "all"))}
    chosen = {name: load_any_row(name) for name in row_names()} | named if "all" in rows else named
    runs = [run for run in find_runs(workspace.runs) if run.folder.parent.name in chosen]
    records, damaged = evidence.read_evidence(runs)
    for _, why in damaged:
        reporter.warn(f"{why}: left out")
    verdicts, left_out = judge_rows(rows_with_expected(table_path()), records)
    for line in format_left_out(left_out):
        reporter.warn(f"{line}: left out")
    records = [record for record in records if all(record is not other for other, _ in left_out)]
    found = {record.row for record in records}
    for name, row in named.items():
        if name not in found:
            if any(run.folder.parent.name == name for run, _ in damaged):
                raise MissingError(f"{name}: no intact run in {workspace.runs} to bundle: the warnings above say why")
            command = row.command if row.own_datasets else command_for_row(name)
            raise NothingToCheckError(f"no run record of {name} to bundle in {workspace.runs}: `{command}` makes one")
    if damaged and not records:
        raise MissingError(
            f"no intact run of a published row in {workspace.runs} to bundle: the warnings above say why"
        )
    if not records:
        raise NothingToCheckError(f"no run record of a published row in {workspace.runs}: run one with `repro ROW`")
    lines, _ = describe_verdicts([verdict for verdict in verdicts if verdict.expected.row in found], records)
    used: list[Row] = [row for name, row in chosen.items() if name in found]
    made = make.write_bundle(output, used, records, lines, workspace, reporter, _render_page)
    manifest = made.manifest
    if common.as_json:
        print(json.dumps({"file": str(output), "bytes": made.bytes, **manifest.model_dump(mode="json")}, indent=1))
        return Exit.OK
    print_sentence(
        f"{output}: {manifest.records} records of {len(manifest.rows)} row{'s' * (len(manifest.rows) > 1)}, {made.bytes / 1e6:.2f} MB"
    )
    for line in manifest.missing:
        print_sentence(f"not in it: {line}")
    if manifest.redacted:
        print_sentence(
            f"paths, names or tokens were removed from {len(manifest.redacted)} files, which report.md lists"
        )
    if manifest.features_root:
        print_sentence(
            f"features: Merkle root {manifest.features_root}: publish it before others choose clips to check"
        )
    print_sentence(f"to judge it: repro check --bundle {output}")
    return Exit.OK


def _render_page(rows: Sequence[Row], workspace: Workspace) -> str:
    return report_page.render_page(page_contents.gather_contents(rows, workspace))


def describe_verdicts(
    verdicts: Sequence[Verdict], records: Sequence[RunRecord], width: int | None = None
) -> tuple[list[str], Exit]:
    """Return a line for each verdict and each record that has other values than published ones; and the exit code.

    Verdicts are wrapped to `width` columns. The smoke job's rows are compared with their golden values, on any machine within the tolerance of those.
    """
    lines = [line for verdict in verdicts for line in wrap_verdict(verdict, width)]
    code = exit_code(verdicts, strict=False)
    smoke = [record for record in records if record.kind == "smoke"]
    by_row = {name: [r for r in smoke if r.row == name] for name in dict.fromkeys(record.row for record in smoke)}
    for found in golden_values.judge_scores(by_row, golden_values.load_golden()) if smoke else ():
        golden = "no golden value" if found.golden is None else f"golden {found.golden:.2f}, within {found.tolerance:g}"
        where = f"{found.row} seed {found.seed}"
        lines.append(f"{where:<26} {found.outcome:<10} {found.metric} {found.measured:.2f} ({golden})")
        if found.outcome in ("HIGHER", "LOWER"):
            code = Exit.JUDGED_DIFFERENT
    for record in records:
        if record.kind in ("extra", "own"):
            score = 100 * record.best_epoch_on_test.scores[record.metric]
            where = f"{record.row} seed {record.seed}"
            lines.append(f"{where:<26} {'NOT JUDGED':<10} {record.metric} {score:.2f} (no published value)")
    return lines, code
