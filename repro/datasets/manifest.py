"""Manifest of an audit: a parquet file with one row per clip, audits/<dataset>/manifest.parquet.

Its sha256 is of the contents, not of the parquet file's bytes, which differ between versions of pyarrow. Two people with
the same sha256 have the same clips, byte for byte.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from repro.core.errors import UsageError, state_reason
from repro.core.files import replacing_file
from repro.core.hashing import content_sha256
from repro.core.reading import describe_absence, parse_json, read_table
from repro.core.workspace import Workspace

MANIFEST_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class ClipFacts:
    id: str
    path: str
    """Relative to the dataset's folder."""
    splits: tuple[str, ...]
    """Names of the splits that list the clip."""
    present: bool
    bytes: int
    frames: int
    """Native frames that decode; 0 if the clip does not decode."""
    fps: float
    """Frames per second according to the container; 0 if not given."""
    width: int
    height: int
    seconds: float
    """Duration according to the container; 0 if not given."""
    reader: str
    """The library that decoded it, and whether what it read is a still picture (`label_reader`); empty if nothing decodes."""
    error: str
    """The first problem found, or an empty string."""
    sha256: str


FIELDS = tuple(field.name for field in dataclasses.fields(ClipFacts))
COMPARED = ("present", "bytes", "frames", "fps", "width", "height", "seconds", "sha256", "error")
"""Columns that `repro data diff` compares. Folders and decoding library may differ between machines."""


@dataclass(frozen=True, slots=True)
class Manifest:
    dataset: str
    annotations: str
    """Key of the listing whose clips these are (repro/datasets/registry.py)."""
    clips: tuple[ClipFacts, ...]

    @property
    def sha256(self) -> str:
        """Hash of every clip's id, number of frames and video hash. A run record stores it."""
        # Sorted by id: independent of the order of the annotation files. Paths and reader are left out, as they differ
        # between machines.
        contents = sorted([c.id, c.frames, c.sha256] for c in self.clips)
        return content_sha256({"dataset": self.dataset, "clips": contents})


def manifest_path(workspace: Workspace, dataset: str) -> Path:
    return workspace.audits / dataset / "manifest.parquet"


def stored_manifest(workspace: Workspace, dataset: str) -> Manifest | None:
    """Read the manifest of a dataset's last audit in this workspace; returns None if there is none.

    Raises:
        UsageError: it is damaged.
    """
    path = manifest_path(workspace, dataset)
    return read_manifest(path) if path.exists() else None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest atomically."""
    # Widths are fixed, so that manifests of different machines have one schema; strings by default. bytes is 64-bit: videos
    # may exceed 4 GB.
    types = {
        "splits": pa.list_(pa.string()), "present": pa.bool_(), "bytes": pa.int64(), "frames": pa.int64(),
        "fps": pa.float64(), "width": pa.int32(), "height": pa.int32(), "seconds": pa.float64(),
    }  # fmt: skip
    columns = {
        name: pa.array([getattr(clip, name) for clip in manifest.clips], types.get(name, pa.string()))
        for name in FIELDS
    }
    about = {
        "format": MANIFEST_FORMAT,
        "dataset": manifest.dataset,
        "annotations": manifest.annotations,
        "sha256": manifest.sha256,
    }
    with replacing_file(path) as partial:
        pq.write_table(pa.table(columns, metadata={"manifest": json.dumps(about)}), partial)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest and verify its sha256.

    Raises:
        UsageError: no such file, or it is incomplete, damaged or edited.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: {describe_absence(path, 'file')}: name a manifest.parquet; `repro data audit NAME` writes one"
        )
    try:
        table = read_table(path)
        about: dict[str, Any] = parse_json((table.schema.metadata or {})[b"manifest"])
        if about["format"] != MANIFEST_FORMAT:
            raise UsageError(
                f"{path}: a manifest of format {str(about['format'])[:80]}, this version reads {MANIFEST_FORMAT}"
            )
        # By name: a later version may add columns.
        rows = table.select(FIELDS).to_pylist()
        clips = tuple(ClipFacts(**(row | {"splits": tuple(row["splits"])})) for row in rows)
        manifest = Manifest(about["dataset"], about["annotations"], clips)
        # A program that edits the table can save a valid parquet file, but not the matching sha256.
        intact = manifest.sha256 == about["sha256"]
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise UsageError(
            f"{path}: not a complete manifest of `repro data audit` ({state_reason(error)}): audit again"
        ) from error
    if not intact:
        raise UsageError(f"{path}: damaged or edited: it does not match the sha256 written with it: audit again")
    return manifest


@dataclass(frozen=True, slots=True)
class ClipDifference:
    clip: str
    what: str
    """The column that differs; "only in A" or "only in B" if one manifest does not list the clip."""
    a: Any = None
    b: Any = None

    def __str__(self) -> str:
        return f"{self.clip}: {self.what}" + (
            f" {_shorten_value(self.a)} -> {_shorten_value(self.b)}" if self.a != self.b else ""
        )


def list_differences(a: Manifest, b: Manifest) -> Iterator[ClipDifference]:
    """List the differences between two manifests, ordered by clip id.

    Raises:
        UsageError: they are of different datasets.
    """
    if a.dataset != b.dataset:
        raise UsageError(f"the manifests are of two data sets, {a.dataset} and {b.dataset}")
    # By id, since the two may list clips in different orders.
    left, right = ({clip.id: clip for clip in manifest.clips} for manifest in (a, b))
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            yield ClipDifference(name, "only in B" if name not in left else "only in A")
            continue
        for column in COMPARED:
            mine, theirs = getattr(left[name], column), getattr(right[name], column)
            if column == "error":
                mine, theirs = bool(mine), bool(theirs)  # The wording differs between versions of the libraries.
            if mine != theirs:
                yield ClipDifference(name, column, getattr(left[name], column), getattr(right[name], column))


def _shorten_value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return (text[:12] if len(text) == 64 else text[:100]) or "none"
