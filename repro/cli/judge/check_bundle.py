"""`repro check --bundle`: judge a bundle that somebody else made, from its evidence alone."""

import json
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from repro.backbones.extractor import Execution
from repro.cli.judge.bundle import describe_verdicts
from repro.cli.options import BundleOptions
from repro.core import LazyModule
from repro.core.console import Reporter, escape_text, print_line, print_lines, print_sentence, terminal_width
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets.split import Split, SplitName
from repro.judge.expected import rows_with_expected, table_path
from repro.judge.formats import format_left_out, verdict_as_json
from repro.judge.verdict import exit_code, judge_rows
from repro.pipeline.bundle.contents import compare_origin
from repro.pipeline.bundle.read import OpenedBundle, find_annotated_split, open_bundle
from repro.pipeline.row_data import ReadoutInputs, RowData
from repro.table.requirements import chosen_device
from repro.table.rows import command_for_row, load_row

# These import torch or the video library: only what is computed again, and the smoke job's clips, need them.
if TYPE_CHECKING:
    from repro.pipeline import stored_row
    from repro.pipeline.bundle import repeat, spot_check
    from repro.pipeline.sharing import share
    from repro.smoke import clips
    from repro.smoke import golden as golden_values
else:
    stored_row = LazyModule("repro.pipeline.stored_row")
    repeat = LazyModule("repro.pipeline.bundle.repeat")
    spot_check = LazyModule("repro.pipeline.bundle.spot_check")
    share = LazyModule("repro.pipeline.sharing.share")
    clips = LazyModule("repro.smoke.clips")
    golden_values = LazyModule("repro.smoke.golden")


def check_bundle(path: Path, depth: BundleOptions, workspace: Workspace, *, strict: bool, as_json: bool) -> Exit:
    """Verify a bundle, print its verdicts and how far they were checked.

    Args:
        path: The zip file.
        depth: What to compute again.
        workspace: Only its annotation files, videos, checkpoints and features are read; no result is written.
        strict: As of `repro check`.
        as_json: Print JSON only.

    Raises:
        UsageError: the bundle is refused, or its features cannot be compared here.
    """
    reporter = Reporter(to_stderr=as_json)
    with open_bundle(path, lambda name: _find_split(name, workspace)) as opened:
        names = {record.row for record in opened.records}
        rows = {
            name: row
            for name, row in rows_with_expected(table_path(opened.manifest.rules.name.removeprefix("rules-"))).items()
            if name in names
        }
        verdicts, left_out = judge_rows(rows, opened.records, opened.annotated)
        lines, code = describe_verdicts(verdicts, opened.records, None if as_json else terminal_width())
        if strict:
            code = max(code, exit_code(verdicts, strict=True))
        nonce = depth.nonce or secrets.token_hex(16)
        checks = [] if depth.sample is None else _check_features(opened, depth, nonce, workspace, reporter)
        repeated = _repeat_readouts(opened, depth, workspace, reporter) if depth.repeat_readout else None
        if any(check.wrong for check in checks) or (repeated and repeated.wrong):
            code = Exit.JUDGED_DIFFERENT
        elif (
            any(check.failed for check in checks)
            or (depth.sample is not None and not any(c.deviations for c in checks))
            or (repeated and not repeated.complete)
        ):
            # A requested check was not done, or not completely.
            code = code or Exit.MISSING
        levels = _describe_levels(opened, checks, repeated)
    notes = compare_origin(opened.manifest)
    versions = dict.fromkeys(f"actiondiff-repro {r.made.by.get('actiondiff-repro', 'unknown')}" for r in opened.records)
    if [*versions] != [opened.manifest.made_by]:
        notes.append(f"records are made by {escape_text(' and '.join(versions))[:200]}")
    notes += format_left_out(left_out)
    if as_json:
        report: dict[str, Any] = {
            "bundle": str(path), "made_by": opened.manifest.made_by, "rules": opened.manifest.rules.model_dump(), "notes": notes,
            "verdicts": [verdict_as_json(verdict) for verdict in verdicts], "lines": lines, "targets": opened.targets,
            "levels": [{"level": level, "done": done, "how": how} for level, done, how in levels],
            "spot_checks": [asdict(check) | {"nonce": nonce, "wrong": list(check.wrong)} for check in checks],
            "readouts": _repetition_as_json(repeated),
            "features_root": opened.manifest.features_root,
        }  # fmt: skip
        print(json.dumps(report, indent=1))
        return code
    print_sentence(
        f"{path.name}: {len(opened.records)} records, {opened.manifest.made_by}, rule set {opened.manifest.rules.name}"
    )
    for note in notes:
        print_sentence(note)
    print_lines(lines)
    if repeated is not None:
        _print_repetition(repeated)
    for check in checks:
        _print_check(check, nonce)
    reached = [level for level, done, _ in levels if done]
    print_line(f"level: {reached[-1]}")
    for level, done, how in levels:
        print_line(f"  {'done' if done else 'not done':<9}{level}")
        for part in how:
            print_sentence(f"             {part}")
    return code


def _find_split(name: SplitName, workspace: Workspace) -> Split | None:
    """Return a split as this machine knows it without the bundle; None if it does not."""
    if name.dataset == "smoke":
        return clips.rendered_splits(workspace.smoke / "clips").get(name.split)
    return find_annotated_split(name, workspace)


def _check_features(
    opened: OpenedBundle, depth: BundleOptions, nonce: str, workspace: Workspace, reporter: Reporter
) -> list["spot_check.SpotCheck"]:
    if opened.index is None:
        raise UsageError(f"--sample: {opened.path} has no features.index, so there is nothing to compare clips with")
    execution = Execution(chosen_device(depth.device))
    draw, checks = spot_check.Draw(depth.sample or 0, nonce), dict[tuple[str, str], "spot_check.SpotCheck"]()
    for record in {(r.row, r.features.key, r.features.cell): r for r in opened.records}.values():
        if record.kind in ("smoke", "own"):
            reporter.warn(f"{record.row}: its clips are not of a published data set: not extracted again")
            continue
        # Rows share features: each column is checked once.
        row = load_row(record.row)
        for check in spot_check.check_row_features(row, record, opened.index, draw, workspace, execution, reporter):
            checks.setdefault((check.dataset, check.features), check)
    return list(checks.values())


def _repeat_readouts(
    opened: OpenedBundle, depth: BundleOptions, workspace: Workspace, reporter: Reporter
) -> "repeat.Repetition":
    smoke = {record.row for record in opened.records if record.kind == "smoke"}
    tolerance = dict.fromkeys(smoke, golden_values.load_golden().tolerance.model_dump() if smoke else {})
    with TemporaryDirectory(prefix="repro-features-") as folder:
        if depth.features:
            elsewhere = Workspace(Path(folder))
            for file in depth.features:
                share.import_features(file, elsewhere, reporter)
            workspace = elsewhere
        inputs = {
            name: _open_inputs(name, kind, workspace)
            for name, kind in {record.row: record.kind for record in opened.records}.items()
        }
        return repeat.repeat_readouts(
            opened.records, inputs, opened.index, chosen_device(depth.device), tolerance, reporter
        )


def _open_inputs(name: str, kind: str, workspace: Workspace) -> ReadoutInputs | str:
    """Return features and splits of a row as far as they are here, or what is missing."""
    if kind == "own":
        return "rows of own clips are trained again by `repro readout` and their row file"
    # The smoke job's clips are listed by code, not in an annotation file.
    data = RowData(clips.rendered_splits(workspace.smoke / "clips")) if kind == "smoke" else None
    try:
        return stored_row.open_stored_row(load_row(name), workspace, allow_damaged=True, data=data)
    except MissingError as error:
        return str(error)


def _repetition_as_json(repeated: "repeat.Repetition | None") -> dict[str, Any] | None:
    if repeated is None:
        return None
    runs = [asdict(run) | {"deviation": run.deviation, "wrong": run.wrong} for run in repeated.runs]
    return {"runs": runs, "failed": dict(repeated.failed), "features_of_the_index": repeated.confirmed}


def _describe_levels(
    opened: OpenedBundle, checks: Sequence["spot_check.SpotCheck"], repeated: "repeat.Repetition | None"
) -> list[tuple[str, bool, list[str]]]:
    """Return each level of trust, from the lowest, whether it was reached, and lines on how or by which command it can be."""
    kinds = {record.row: record.kind for record in opened.records}
    ordinary = [row for row, kind in kinds.items() if kind in ("published", "extra")]
    compared = sum(len(check.deviations) for check in checks)
    features = ["this command with --repeat-readout, on features here", "or on --features FILE of whoever made it"]
    if ordinary:
        sample = f"`repro check --bundle {shlex.quote(str(opened.path))} --sample 30`"
        clips = [f"{sample}, with videos and checkpoint here"] if opened.index else ["there is no features.index in it"]
    else:
        clips = ["the clips of these rows are not of a published data set"]
        if all(kind == "own" for kind in kinds.values()):
            features = ["`repro readout` and the row file, with the features of whoever made it"]
    if repeated is not None and repeated.complete:
        features = ["above"]
    commands = [f"`{command_for_row(row)}`" for row, kind in kinds.items() if kind != "own"]
    return [
        ("records only", True, [f"{len(opened.records)} records agree with themselves and their sha256"]),
        (
            "scores recomputed from predictions",
            True,
            [f"targets of {name}: {how}" for name, how in opened.targets.items()],
        ),
        ("readout repeated from features", repeated is not None and repeated.complete, features),
        (
            f"{compared or 'n'} random clips re-extracted",
            compared > 0 and not any(check.wrong or check.failed for check in checks),
            ["above"] if compared else clips,
        ),
        ("everything repeated here", False, _shorten_commands(commands) or ["its clips are needed"]),
    ]


def _shorten_commands(commands: Sequence[str]) -> list[str]:
    """Return the commands, each once; if they are many, the first, and for how many other rows it is alike."""
    distinct = list(dict.fromkeys(commands))
    return distinct if len(distinct) <= 3 else [f"{distinct[0]}, and so for the {len(distinct) - 1} other rows"]


def _print_repetition(repeated: "repeat.Repetition") -> None:
    if repeated.runs:
        worst = max(repeated.runs, key=lambda run: run.deviation / run.tolerance)
        equal = sum(run.equal_losses for run in repeated.runs)
        print_sentence(
            f"{len(repeated.runs)} readouts trained again, {len(repeated.wrong)} with other scores; largest difference "
            f"{worst.deviation:.2f} points (limit {worst.tolerance:.4g}), {equal} with equal losses bit for bit; {repeated.confirmed} features of "
            "clips are those of features.index"
        )
    for run in repeated.wrong:
        print_sentence(
            f"  wrong: {run.row} seed {run.seed}: selected epoch {run.repeated[0]:.2f}, last {run.repeated[1]:.2f}; recorded "
            f"{run.recorded[0]:.2f}, {run.recorded[1]:.2f}"
        )
    reasons = dict.fromkeys(repeated.failed.values())
    for why in reasons:
        of = [name for name, reason in repeated.failed.items() if reason == why]
        print_sentence(f"  not repeated: {of[0]}{f' and {len(of) - 1} more' if of[1:] else ''}: {why}")


def _print_check(check: "spot_check.SpotCheck", nonce: str) -> None:
    compared = len(check.deviations)
    worst = f", worst relative L2 {max(check.deviations.values()):.1e} (limit {check.limit:g})" if compared else ""
    print_sentence(
        f"{check.dataset}, {check.features}: {compared} of {check.present} clips with videos here extracted again, "
        f"{len(check.wrong)} wrong{worst}; {check.indexed} are indexed; nonce {nonce}"
    )
    for clip in check.wrong:
        print_sentence(f"  wrong: clip {clip}: relative L2 {check.deviations[clip]:.1e}")
    for why in check.failed.values():
        print_sentence(f"  not compared: {why}")
    if compared and not check.wrong:
        print_sentence(
            f"  with 95 % confidence, at most {100 * check.undetected_share:.1f} % of the {check.present} are wrong"
        )
