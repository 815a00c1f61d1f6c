"""`repro data`: what there is of each data set, brought, audited and compared; as lines or as JSON."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.core.console import Reporter
from repro.core.errors import Exit, ReproError, UsageError
from repro.core.workspace import Workspace
from repro.datasets.audit import audit
from repro.datasets.config import DatasetConfig, load_dataset
from repro.datasets.manifest import Manifest, differences, read_manifest, stored_manifest
from repro.datasets.prepare import prepare
from repro.datasets.presence import missing
from repro.datasets.registry import Dataset, brought_names, list_dataset

SHOWN = 20
"""Clips named one by one before the rest are counted; --json names all."""


def show_status(names: Sequence[str], workspace: Workspace, as_json: bool) -> Exit:
    """What is there of each data set, and what is missing."""
    reports = [_status(name, workspace) for name in names or brought_names()]
    if as_json:
        print(json.dumps(reports, indent=1))
        return Exit.OK
    print("\n\n".join("\n".join(_status_lines(report)) for report in reports))
    return Exit.OK


def show_prepare(name: str, sources: Sequence[Path], workspace: Workspace, as_json: bool) -> Exit:
    """Bring a data set's parts into place; then its status. Exits 4 where clips are missing still."""
    config = _config(name)
    placed = prepare(name, config, workspace, sources, Reporter(to_stderr=as_json))
    report = _status(name, workspace)
    if as_json:
        print(json.dumps({"placed": [dataclasses.asdict(one) for one in placed], "status": report}, indent=1))
    else:
        print("\n".join(_status_lines(report)))
    return Exit.OK if report["ready"] else Exit.MISSING


def show_audit(name: str, workers: int | None, workspace: Workspace, as_json: bool) -> Exit:
    """Decode every clip and write the manifest; exits 4 where a clip is missing or does not decode, or counts differ."""
    if workers is not None and not 1 <= workers <= 1024:
        raise UsageError(f"--workers {workers}: expected a number from 1 to 1024")
    config = _config(name)
    dataset = list_dataset(name, workspace, config)
    done = audit(dataset, workspace, workers or len(os.sched_getaffinity(0)), Reporter(to_stderr=as_json))
    manifest = done.manifest
    whole = [clip for clip in manifest.clips if not clip.error]
    bad = [clip for clip in manifest.clips if clip.error]
    counts = _counts(dataset, manifest)
    if as_json:
        report = {
            "dataset": name,
            "manifest": str(done.path),
            "sha256": manifest.sha256,
            "decoded": done.decoded,
            "reused": done.reused,
            "clips": len(manifest.clips),
            "frames": sum(clip.frames for clip in whole),
            "bytes": sum(clip.bytes for clip in manifest.clips),
            "splits": counts,
            "faults": {clip.id: clip.error for clip in bad},
        }
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(_count_lines(counts, "decode")))
        for clip in bad[:SHOWN]:
            print(f"{clip.id}: {clip.error}")
        if len(bad) > SHOWN:
            print(f"... and {len(bad) - SHOWN} more (--json names all)")
        print(
            f"{name}: {len(whole)} of {len(manifest.clips)} clips decode, {sum(c.frames for c in whole)} frames; "
            f"{done.decoded} decoded now, {done.reused} as they were"
        )
        print(f"manifest {done.path}, content sha256 {manifest.sha256}")
    return Exit.OK if not bad and not dataset.miscounted else Exit.MISSING


def show_diff(a: Path, b: Path, as_json: bool) -> Exit:
    """Which clips two manifests differ in, and how; exits 1 where they differ."""
    left, right = read_manifest(a), read_manifest(b)
    found = list(differences(left, right))
    if as_json:
        report = {
            "a": {"path": str(a), "sha256": left.sha256, "clips": len(left.clips)},
            "b": {"path": str(b), "sha256": right.sha256, "clips": len(right.clips)},
            "differences": [dataclasses.asdict(one) for one in found],
        }
        print(json.dumps(report, indent=1))
    else:
        for one in found:
            print(one)
        clips = len({one.clip for one in found})
        if left.annotations != right.annotations:
            print("the annotation files, or the folder the videos were read from, are not the same")
        print(f"{left.dataset}: {len(left.clips)} and {len(right.clips)} clips, {clips} differ")
    return Exit.JUDGED_DIFFERENT if found else Exit.OK


def _config(name: str) -> DatasetConfig:
    if name not in brought_names():
        load_dataset(name)  # says so of a name that is none
        raise UsageError(f"{name}: not a data set that a user brings: {', '.join(brought_names())}")
    return load_dataset(name)


def _status(name: str, workspace: Workspace) -> dict[str, Any]:
    config = _config(name)
    folder = workspace.data / config.folder
    report: dict[str, Any] = {
        "dataset": name,
        "title": config.title,
        "licence": config.licence,
        "folder": str(folder),
        "parts": {str(part): _where(folder, part.there(folder)) for part in config.parts},
        "official_metric": config.official_metric,
        "splits": {},
        "notes": [],
        "problem": "",
        "audit": None,
        "ready": False,
    }
    try:
        dataset = list_dataset(name, workspace, config)
        manifest = stored_manifest(workspace, name)
    except ReproError as error:
        return report | {"problem": str(error)}
    report["notes"] = list(dataset.notes)
    report["problem"] = "; ".join(dataset.miscounted)
    gone = {part: missing(split, dataset.folder) for part, split in dataset.splits.items()}
    for part, split in dataset.splits.items():
        report["splits"][part] = {
            "listed": len(split.clips),
            "expected": config.splits[part].clips,
            "there": len(split.clips) - len(gone[part]),
            "classes_without_clips": [label for label, count in enumerate(split.positives) if count == 0],
        }
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


def _where(folder: Path, there: str) -> str:
    if not there:
        return "absent"
    path = folder / there
    return f"link to {os.path.realpath(path)}" if path.is_symlink() else f"there, as {there}"


def _status_lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['dataset']}: {report['title']}", f"  in {report['folder']}"]
    lines += [f"  {part:<28} {where}" for part, where in report["parts"].items()]
    lines += [f"  {line}" for line in _count_lines(report["splits"], "there")]
    lines += [f"  {note}" for note in report["notes"]]
    if report["problem"]:
        lines.append(f"  problem: {report['problem']}")
    gone = report.get("missing", [])
    if gone and "absent" in report["parts"].values():
        lines.append(
            f"  missing: all {len(gone)} clips (`repro data prepare {report['dataset']}` brings them into place)"
        )
        gone = []
    lines += [f"  missing: {why}" for why in gone[:3]]
    if len(gone) > 3:
        lines.append(f"  missing: {len(gone) - 3} more (--json names all)")
    found = report["audit"]
    if found is None:
        lines.append(f"  not audited (`repro data audit {report['dataset']}` decodes every clip)")
    else:
        stale = "" if found["of_these_files"] else ", of other annotation files: audit again"
        lines.append(
            f"  audited: {found['clips']} clips, {found['faults']} with faults, content sha256 {found['sha256'][:16]}{stale}"
        )
    return lines


def _counts(dataset: Dataset, manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "listed": len(split.clips),
            "expected": dataset.config.splits[name].clips,
            "decode": sum(name in clip.splits and not clip.error for clip in manifest.clips),
        }
        for name, split in dataset.splits.items()
    }


def _count_lines(splits: dict[str, dict[str, Any]], last: str) -> list[str]:
    if not splits:
        return []
    lines = [f"{'split':<22} {'expected':>8} {'listed':>8} {last:>8}"]
    for name, counts in splits.items():
        expected = "unknown" if counts["expected"] is None else counts["expected"]
        lines.append(f"{name:<22} {expected:>8} {counts['listed']:>8} {counts[last]:>8}")
    return lines
