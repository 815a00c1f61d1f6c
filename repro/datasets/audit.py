"""Audit a dataset: decode every clip of its splits in worker processes, and store the results.

    audits/<dataset>/journal.jsonl      one line per clip, written when it is done; an interrupted audit resumes from it
    audits/<dataset>/manifest.parquet   all clips, written atomically at the end (repro/datasets/manifest.py)

A clip is decoded again if its path, size, inode or one of its times of last change (mtime, ctime) has changed since its last
audit, or if it failed then: a failure may have been the machine's (memory, a time limit).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.core.console import Reporter
from repro.core.files import write_bytes
from repro.core.hashing import FileStamp
from repro.core.locks import remove_partials
from repro.core.reading import open_in_place, parse_json, read_text
from repro.core.workspace import Workspace
from repro.datasets.manifest import ClipFacts, Manifest, manifest_path, write_manifest
from repro.datasets.presence import find_missing
from repro.datasets.registry import Dataset
from repro.datasets.split import Clip
from repro.video.probe import ClipContents, Probe, probe_all

JOURNAL_VERSION = 4
"""Version of the journal's lines; lines of other versions are ignored."""


@dataclass(frozen=True, slots=True)
class Audit:
    manifest: Manifest
    path: Path
    decoded: int
    reused: int


def audit_dataset(
    dataset: Dataset, workspace: Workspace, workers: int, reporter: Reporter, time_limit: float | None = None
) -> Audit:
    """Decode every clip of `dataset` that has changed since its last audit, and write the manifest.

    Raises:
        UsageError: another process audits the dataset in this workspace.
    """
    workspace.require_writable()
    folder = workspace.audits / dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    with workspace.lock(f"audit-{dataset.name}"):
        remove_partials(folder)
        clips = dataset.clips
        # Missing clips are not decoded, but the manifest lists them.
        missing = _find_missing(dataset)
        journal = Journal(folder / "journal.jsonl")
        # Taken before decoding: if a clip is replaced meanwhile, its old stamp no longer matches and the next audit decodes
        # it.
        stamps = {clip.id: FileStamp.of(clip.path) for clip in clips if clip.id not in missing}
        found = {name: probe for name, stamp in stamps.items() if (probe := journal.find_result(stamp)) is not None}
        todo = [clip for clip in clips if clip.id in stamps and clip.id not in found]
        reused = len(found)
        limits = {} if time_limit is None else {"time_limit": time_limit}
        with reporter.progress("audit", len(todo)) as advance:
            for place, probe in probe_all([clip.path for clip in todo], workers, workspace.hashes, **limits):
                clip = todo[place]
                # Without the folder's path, because manifests of two machines are compared.
                probe.error = probe.error.replace(f"{dataset.folder}{os.sep}", "")
                found[clip.id] = probe
                # Written clip by clip, since an audit of a large data set takes hours.
                journal.append_result(stamps[clip.id], probe)
                advance("")
        manifest = Manifest(dataset.name, dataset.key, _collect_facts(dataset, clips, missing, stamps, found))
        # Only now: a manifest on disk is always of a complete audit.
        path = manifest_path(workspace, dataset.name)
        write_manifest(path, manifest)
    return Audit(manifest, path, len(todo), reused)


def _find_missing(dataset: Dataset) -> dict[str, str]:
    gone: dict[str, str] = {}
    for split in dataset.splits.values():
        gone |= find_missing(split, dataset.boundary)
    return {name: why.replace(f"{dataset.folder}{os.sep}", "") for name, why in gone.items()}


def _collect_facts(
    dataset: Dataset,
    clips: Sequence[Clip],
    missing: dict[str, str],
    stamps: dict[str, FileStamp],
    found: dict[str, Probe],
) -> tuple[ClipFacts, ...]:
    lists: dict[str, list[str]] = {}
    for name, split in dataset.splits.items():
        for clip in split.clips:
            lists.setdefault(clip.id, []).append(name)
    rows = []
    for clip in clips:
        # A clip that was not decoded is missing, and its error says why.
        probe = found.get(clip.id) or Probe(clip.path, error=missing[clip.id])
        contents = probe.contents or ClipContents(0, 0.0, 0, 0, 0.0, still=False)
        rows.append(
            ClipFacts(
                id=clip.id,
                path=os.path.relpath(clip.path, dataset.folder),
                splits=tuple(lists[clip.id]),
                present=clip.id in stamps,
                bytes=stamps[clip.id].size if clip.id in stamps else 0,
                frames=contents.frames,
                fps=contents.fps,
                width=contents.width,
                height=contents.height,
                seconds=contents.seconds,
                reader=probe.reader,
                error=probe.error,
                sha256=probe.sha256,
            )
        )
    return tuple(rows)


class Journal:
    """Clips already decoded, one line each. Invalid lines, such as the torn last line of a killed process, are dropped."""

    def __init__(self, path: Path) -> None:
        self._known: dict[FileStamp, Probe] = {}
        # Not splitlines: names may hold what Unicode calls line breaks.
        lines = read_text(path, errors="surrogateescape").split("\n") if path.exists() else []
        kept = [line for line in lines if self._parse_line(line)]
        # Rewritten without a torn last line: the next line would be appended to it and be lost as well.
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode("utf-8", "surrogateescape"))
        self.path = path

    def find_result(self, stamp: FileStamp) -> Probe | None:
        """Return the result for this unchanged file, or None if it is not known or did not decode."""
        probe = self._known.get(stamp)
        return probe if probe and not probe.error else None

    def append_result(self, stamp: FileStamp, probe: Probe) -> None:
        contents = probe.contents
        values = None if contents is None else [getattr(contents, name) for name in ClipContents.__slots__]
        line = json.dumps(
            [JOURNAL_VERSION, *stamp, probe.sha256, probe.reader, probe.error, values], ensure_ascii=False
        )
        # One unbuffered write per line, so that a killed process leaves at most one torn line.
        handle = open_in_place(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, f"{line}\n".encode("utf-8", "surrogateescape"))
        finally:
            os.close(handle)

    def _parse_line(self, line: str) -> bool:
        try:
            version, *parts, sha256, reader, error, values = parse_json(line)
            stamp = FileStamp(*parts)
            probe = Probe(Path(stamp.path), sha256, reader, None if values is None else ClipContents(*values), error)
            hash(stamp)
        except (ValueError, TypeError):
            return False
        # A line of another version is valid JSON too: its fields may mean something else.
        if version != JOURNAL_VERSION:
            return False
        self._known[stamp] = probe
        return True
