"""`repro data`: state of the data sets; placing, auditing and comparing their files."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from repro.cli.options import COMMON, MOST_WORKERS, CommonOptions, DatasetName, JsonOption, require_number
from repro.core.console import Reporter, print_line, print_lines, print_sentence
from repro.core.errors import Exit, ReproError
from repro.core.workspace import Workspace
from repro.datasets.config import DatasetConfig
from repro.datasets.manifest import Manifest, list_differences, read_manifest, stored_manifest
from repro.datasets.own import find_dataset
from repro.datasets.prepare import prepare_dataset
from repro.datasets.presence import find_missing
from repro.datasets.registry import Dataset, list_dataset, user_dataset_names
from repro.video.sampling import is_of_still_picture

data = App(
    name="data",
    help="Show, unpack, audit and compare the data sets.\n\nExample: `repro data status`",
)

FAULTS_SHOWN = 20
"""Clips with faults that are printed; --json has all."""

STILL_PICTURE = "a still picture is read in place of a video, as by the release"
"""What an audit prints of such a clip; docs/deviations.md 32."""

MISSING_PART = "missing"
"""What is printed in place of where a part of a data set is."""
MISSING_SHOWN = 3
"""Missing clips that are printed; --json has all."""


@data.command(name="status")
def data_status(*names: DatasetName, common: CommonOptions = COMMON) -> Exit:
    """Show what is present of each data set, and what is missing.

    Example: `repro data status ucf101 hmdb51`

    Args:
        names: Names from configs/datasets, or paths of own clips' files [default: all shipped].
    """
    workspace = common.open_workspace()
    reports = [_build_status(name, find_dataset(name), workspace) for name in names or user_dataset_names()]
    if common.as_json:
        print(json.dumps(reports, indent=1))
    else:
        for number, report in enumerate(reports):
            _print_datasets(report, after=number > 0)
    return Exit.OK


@data.command(name="new")
def data_new(
    table: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    backbone: str | None = None,
    as_json: JsonOption = False,
) -> Exit:
    """Describe a table of your own labelled clips, and write a row file that trains a readout on them.

    Example: `repro data new my.csv`

    Args:
        table: A csv or parquet file with the columns path, label and, if wanted, split and group.
        output: The YAML file to write; the row file is stored next to it [default: the table's name with .yaml].
        backbone: A name from configs/backbones, for the row file [default: svd_xt].
    """
    # Imported here, as it imports NumPy and pyarrow, which other commands of this module may not need.
    from repro.table.own import write_own_files

    made = write_own_files(table, output or table.with_suffix(".yaml"), backbone)
    listing, command = made.row.dataset.own_listing, made.row.command
    notes, clips = list(listing.notes), sum(len(split.clips) for split in listing.splits.values())
    gone = [why for split in listing.splits.values() for why in find_missing(split, None).values()]
    if gone:
        more = f", and {len(gone) - 1} more (`repro data status {made.data}`)" if gone[1:] else ""
        notes.append(f"warning: {len(gone)} of {clips} videos cannot be read: {gone[0]}{more}: correct the table")
    if as_json:
        files = {"data": str(made.data), "row": str(made.row.file)}
        print(json.dumps(files | {"notes": notes, "command": command}, indent=1))
    else:
        for line in (*notes, f"written {made.data} and {made.row.file}", f"next: {command}"):
            print_sentence(line)
    return Exit.OK


@data.command(name="prepare")
def data_prepare(
    name: DatasetName,
    /,
    *,
    from_: Annotated[list[Path] | None, Parameter(name="--from", consume_multiple=True, negative="")] = None,
    common: CommonOptions = COMMON,
) -> Exit:
    """Link or unpack a data set's videos and annotations into the workspace.

    Exits 4 if clips are still missing.

    Example: `repro data prepare hmdb51 --from ~/downloads/hmdb51_org.rar`

    Args:
        name: A name from configs/datasets.
        from_: Archives, or folders with the archives or their contents [default: archives in the data set's folder].
    """
    workspace, config = common.open_workspace(), find_dataset(name)
    placed = prepare_dataset(config, workspace, from_ or [], Reporter(to_stderr=common.as_json))
    report = _build_status(name, config, workspace)
    if common.as_json:
        print(json.dumps({"placed": [dataclasses.asdict(one) for one in placed], "status": report}, indent=1))
    else:
        _print_datasets(report)
    return Exit.OK if report["ready"] else Exit.MISSING


@data.command(name="audit")
def data_audit(
    name: DatasetName,
    /,
    *,
    workers: Annotated[int | None, Parameter(validator=require_number("--workers", 1, MOST_WORKERS))] = None,
    common: CommonOptions = COMMON,
) -> Exit:
    """Decode every clip of a data set and write a manifest of the results.

    Rerun the command to resume an interrupted audit. Exits 4 if a clip is missing or cannot be decoded, or if counts
    differ from the config's.

    Example: `repro data audit ucf101 --workers 16`

    Args:
        name: A name from configs/datasets, or the path of own clips' file.
        workers: Processes that decode videos [default: one per core].
    """
    # Imported here, because only this command decodes videos.
    from repro.datasets.audit import audit_dataset

    workspace, config = common.open_workspace(), find_dataset(name)
    dataset = list_dataset(config, workspace)
    done = audit_dataset(
        dataset, workspace, workers or len(os.sched_getaffinity(0)), Reporter(to_stderr=common.as_json)
    )
    manifest = done.manifest
    # From the manifest, not from this run: clips that an earlier one decoded are in it too.
    decoded = [clip for clip in manifest.clips if not clip.error]
    faulty = [clip for clip in manifest.clips if clip.error]
    stills = [clip for clip in manifest.clips if is_of_still_picture(clip.reader)]
    counts = _count_splits(dataset, manifest)
    frames = sum(clip.frames for clip in decoded)
    if common.as_json:
        report = {
            "dataset": name,
            "manifest": str(done.path),
            "sha256": manifest.sha256,
            "decoded": done.decoded,
            "reused": done.reused,
            "clips": len(manifest.clips),
            "frames": frames,
            "bytes": sum(clip.bytes for clip in manifest.clips),
            "splits": counts,
            "faults": {clip.id: clip.error for clip in faulty},
            "still_pictures": [clip.id for clip in stills],
        }
        print(json.dumps(report, indent=1))
    else:
        print_lines(_count_lines(counts, "decode"))
        _print_first([f"{clip.id}: {clip.error}" for clip in faulty])
        # No fault: the release reads these clips in the same way.
        _print_first([f"{clip.id}: {STILL_PICTURE}" for clip in stills])
        print_sentence(
            f"{name}: {len(decoded)} of {len(manifest.clips)} clips decode, {frames} frames; "
            f"{done.decoded} decoded now, {done.reused} reused"
        )
        print_sentence(f"manifest {done.path}, content sha256 {manifest.sha256}")
    return Exit.OK if not faulty and not dataset.miscounted else Exit.MISSING


@data.command(name="diff")
def data_diff(a: Path, b: Path, /, *, as_json: JsonOption = False) -> Exit:
    """Compare two manifests of `repro data audit` clip by clip; exits 1 if they differ.

    Example: `repro data diff theirs.parquet workspace/audits/ucf101/manifest.parquet`

    Args:
        a: A manifest.parquet.
        b: Another manifest.parquet.
    """
    left, right = read_manifest(a), read_manifest(b)
    found = list(list_differences(left, right))
    if as_json:
        report = {
            "a": {"path": str(a), "sha256": left.sha256, "clips": len(left.clips)},
            "b": {"path": str(b), "sha256": right.sha256, "clips": len(right.clips)},
            "differences": [dataclasses.asdict(one) for one in found],
        }
        print(json.dumps(report, indent=1))
    else:
        for one in found:
            print_sentence(str(one))
        clips = len({one.clip for one in found})
        if left.annotations != right.annotations:
            print_line("the annotation files, or the folders of the videos, differ")
        print_line(f"{left.dataset}: {len(left.clips)} and {len(right.clips)} clips, {clips} differ")
    return Exit.JUDGED_DIFFERENT if found else Exit.OK


def _print_first(lines: list[str]) -> None:
    """Print at most FAULTS_SHOWN lines, and how many more there are."""
    for line in lines[:FAULTS_SHOWN]:
        print_sentence(line)
    if len(lines) > FAULTS_SHOWN:
        print_line(f"... and {len(lines) - FAULTS_SHOWN} more (--json lists all)")


def _build_status(name: str, config: DatasetConfig, workspace: Workspace) -> dict[str, Any]:
    """Return the state of a data set, as the command line names it: the object that --json prints."""
    folder = workspace.data / config.folder
    report: dict[str, Any] = {
        "dataset": name,
        "title": config.title,
        "licence": config.licence,
        "folder": str(folder),
        "parts": {str(part): _describe_part(folder, part.find_name(folder)) for part in config.parts},
        "official_metric": config.official_metric,
        "splits": {},
        "notes": [],
        "problem": "",
        "audit": None,
        "ready": False,
    }
    try:
        dataset = list_dataset(config, workspace)
        manifest = stored_manifest(workspace, config.name)
    except ReproError as error:
        return report | {"problem": str(error)}
    report["notes"] = list(dataset.notes)
    report["problem"] = "; ".join(dataset.miscounted)
    gone = {part: find_missing(split, dataset.boundary) for part, split in dataset.splits.items()}
    for part, split in dataset.splits.items():
        report["splits"][part] = {
            "listed": len(split.clips),
            "expected": config.splits[part].clips,
            "there": len(split.clips) - len(gone[part]),
            "classes_without_clips": [label for label, count in enumerate(split.positives) if count == 0],
        }
    # A clip of several splits is listed once.
    report["missing"] = list(dict.fromkeys(why for reasons in gone.values() for why in reasons.values()))
    report["ready"] = not report["missing"] and not report["problem"]
    if manifest is not None:
        report["audit"] = {
            "sha256": manifest.sha256,
            "clips": len(manifest.clips),
            "faults": sum(bool(clip.error) for clip in manifest.clips),
            "of_these_files": manifest.annotations == dataset.key,
        }
    return report


def _describe_part(folder: Path, there: str) -> str:
    """Say where a part of a data set is; `there` is its name in `folder`, or an empty string if it is missing."""
    if not there:
        return MISSING_PART
    path = folder / there
    # The target is printed, because it may be on a disk that is not mounted.
    return f"link to {os.path.realpath(path)}" if path.is_symlink() else f"present, as {there}"


def _print_datasets(report: dict[str, Any], *, after: bool = False) -> None:
    for line in [""] * after + _status_lines(report):
        print_sentence(line)


def _status_lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['dataset']}: {report['title']}", f"  in {report['folder']}"]
    lines += [f"  {part:<28} {where}" for part, where in report["parts"].items()]
    lines += [f"  {line}" for line in _count_lines(report["splits"], "there", "present")]
    lines += [f"  {note}" for note in report["notes"]]
    if report["problem"]:
        lines.append(f"  problem: {report['problem']}")
    gone = report.get("missing", [])
    # A missing part of the data set is printed above already, so its clips are counted and not named.
    if gone and MISSING_PART in report["parts"].values():
        lines.append(f"  missing: all {len(gone)} clips (run `repro data prepare {report['dataset']}`)")
        gone = []
    lines += [f"  missing: {why}" for why in gone[:MISSING_SHOWN]]
    if len(gone) > MISSING_SHOWN:
        lines.append(f"  missing: {len(gone) - MISSING_SHOWN} more (--json lists all)")
    found = report["audit"]
    if found is None:
        lines.append(f"  not audited (`repro data audit {report['dataset']}` decodes every clip)")
    else:
        stale = "" if found["of_these_files"] else ", with other annotation files: audit again"
        lines.append(
            f"  audited: {found['clips']} clips, {found['faults']} with faults, content sha256 {found['sha256'][:16]}{stale}"
        )
    return lines


def _count_splits(dataset: Dataset, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Return clips by split: listed in the annotations, expected by the config, and decoded."""
    return {
        name: {
            "listed": len(split.clips),
            "expected": dataset.config.splits[name].clips,
            "decode": sum(name in clip.splits and not clip.error for clip in manifest.clips),
        }
        for name, split in dataset.splits.items()
    }


def _count_lines(splits: dict[str, dict[str, Any]], last: str, header: str = "") -> list[str]:
    if not splits:
        return []
    lines = [f"{'split':<22} {'expected':>8} {'listed':>8} {header or last:>8}"]
    for name, counts in splits.items():
        expected = "unknown" if counts["expected"] is None else counts["expected"]
        lines.append(f"{name:<22} {expected:>8} {counts['listed']:>8} {counts[last]:>8}")
    return lines
