"""`repro check --bundle`: judge a bundle that somebody else made, from its evidence alone."""

import json
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.backbones.extractor import Execution
from repro.cli.judge.bundle import describe_verdicts
from repro.cli.options import command_for_row
from repro.core.console import Reporter, print_line, print_lines, print_sentence, terminal_width
from repro.core.errors import Exit, UsageError
from repro.core.workspace import Workspace
from repro.datasets.split import Split, SplitName
from repro.judge.expected import rows_with_expected, table_path
from repro.judge.formats import verdict_as_json
from repro.judge.verdict import exit_code, judge_rows
from repro.pipeline.bundle.contents import compare_origin
from repro.pipeline.bundle.read import OpenedBundle, find_annotated_split, open_bundle
from repro.table.requirements import chosen_device
from repro.table.rows import load_row

if TYPE_CHECKING:
    from repro.pipeline.bundle.spot_check import SpotCheck


def check_bundle(
    path: Path, sample: int | None, nonce: str | None, workspace: Workspace, *, strict: bool, as_json: bool
) -> Exit:
    """Verify a bundle, print its verdicts and how far they were checked.

    Args:
        path: The zip file.
        sample: Number of random clips of each data set to extract again; None: no clips.
        nonce: Decides which; None: a new one.
        workspace: Only its annotation files, videos and checkpoints are read; nothing is written.
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
        nonce = nonce or secrets.token_hex(16)
        checks = [] if sample is None else _check_features(opened, sample, nonce, workspace, reporter)
        if any(check.wrong for check in checks):
            code = Exit.JUDGED_DIFFERENT
        elif any(check.failed for check in checks) or (sample is not None and not any(c.deviations for c in checks)):
            # What was asked for was not done, or not wholly.
            code = code or Exit.MISSING
        levels = _describe_levels(opened, checks)
    notes = compare_origin(opened.manifest)
    notes += [f"{record.row} seed {record.seed}: not judged: {why}" for record, why in left_out]
    if as_json:
        report: dict[str, Any] = {
            "bundle": str(path), "made_by": opened.manifest.made_by, "rules": opened.manifest.rules.model_dump(), "notes": notes,
            "verdicts": [verdict_as_json(verdict) for verdict in verdicts], "lines": lines, "targets": opened.targets,
            "levels": [{"level": level, "done": done, "how": how} for level, done, how in levels],
            "spot_checks": [asdict(check) | {"nonce": nonce, "wrong": list(check.wrong)} for check in checks],
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
        # Imported here: it imports the video library, which only the smoke job's clips need.
        from repro.smoke.clips import rendered_splits

        return rendered_splits(workspace.smoke).get(name.split)
    return find_annotated_split(name, workspace)


def _check_features(
    opened: OpenedBundle, count: int, nonce: str, workspace: Workspace, reporter: Reporter
) -> list["SpotCheck"]:
    # Imported here: it imports torch, which the rest of a check does not need.
    from repro.pipeline.bundle.spot_check import Draw, check_row_features

    if opened.index is None:
        raise UsageError(f"--sample: {opened.path} has no features.index, so there is nothing to compare clips with")
    execution = Execution(chosen_device(None))
    draw, checks = Draw(count, nonce), dict[tuple[str, str], "SpotCheck"]()
    for record in {(r.row, r.features.key, r.features.cell): r for r in opened.records}.values():
        if record.kind in ("smoke", "own"):
            reporter.warn(f"{record.row}: its clips are not of a published data set: not extracted again")
            continue
        # Rows share features: each column is checked once.
        row = load_row(record.row)
        for check in check_row_features(row, record, opened.index, draw, workspace, execution, reporter):
            checks.setdefault((check.dataset, check.features), check)
    return list(checks.values())


def _describe_levels(opened: OpenedBundle, checks: Sequence["SpotCheck"]) -> list[tuple[str, bool, list[str]]]:
    """Return each level of trust, from the lowest, whether it was reached, and lines on how or by which command it can be."""
    kinds = {record.row: record.kind for record in opened.records}
    ordinary = [row for row, kind in kinds.items() if kind in ("published", "extra")]
    compared = sum(len(check.deviations) for check in checks)
    if ordinary:
        features = [
            "`repro features import FILE`, with features of whoever made the bundle",
            *_shorten_commands([f"`repro readout {row}`" for row in ordinary]),
        ]
        sample = f"`repro check --bundle {shlex.quote(str(opened.path))} --sample 30`"
        clips = [f"{sample}, with videos and checkpoint here"] if opened.index else ["there is no features.index in it"]
    else:
        features = clips = ["no features of these rows are shared: repeat everything"]
    commands = [f"`{command_for_row(row)}`" for row, kind in kinds.items() if kind != "own"]
    return [
        ("records only", True, [f"{len(opened.records)} records agree with themselves and their sha256"]),
        (
            "scores recomputed from predictions",
            True,
            [f"targets of {name}: {how}" for name, how in opened.targets.items()],
        ),
        ("readout repeated from features", False, features),
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


def _print_check(check: "SpotCheck", nonce: str) -> None:
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
            f"  at 95 %, at most {100 * check.undetected_share:.1f} % of them can be wrong and none be drawn"
        )
