"""What an audit found of every clip of a data set: a parquet file, with one row a clip.

audits/<dataset>/manifest.parquet. Its content hash says which videos there are, whatever the file's own encoding: two
people with the same hash have the same clips, byte for byte.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.core.errors import UsageError
from repro.core.files import replacing_file
from repro.core.hashing import canonical_json
from repro.core.workspace import Workspace

FORMAT = "1"


@dataclass(frozen=True, slots=True)
class ClipFacts:
    id: str
    path: str
    """In the data set's folder."""
    splits: tuple[str, ...]
    """That list the clip."""
    present: bool
    bytes: int
    frames: int
    """Native frames that decode; 0 where the clip does not."""
    fps: float
    """Frames a second as the container says; 0 where it does not."""
    width: int
    height: int
    seconds: float
    """As the container says; 0 where it does not."""
    reader: str
    """What decoded it: decord, or pyav where decord does not read it."""
    error: str
    """The first thing wrong; "" where nothing is."""
    sha256: str


FIELDS = tuple(field.name for field in dataclasses.fields(ClipFacts))
COMPARED = ("present", "bytes", "frames", "fps", "width", "height", "seconds", "sha256", "error")
"""What `repro data diff` holds against each other. Not how clips are stored in folders, nor what decoded them."""


@dataclass(frozen=True, slots=True)
class Manifest:
    dataset: str
    annotations: str
    """Key of the listing whose clips these are (repro/datasets/registry.py)."""
    clips: tuple[ClipFacts, ...]

    @property
    def sha256(self) -> str:
        """Of every clip's id, frames and video hash: what a run record carries."""
        contents = sorted([c.id, c.frames, c.sha256] for c in self.clips)
        return hashlib.sha256(canonical_json({"dataset": self.dataset, "clips": contents})).hexdigest()


def manifest_path(workspace: Workspace, dataset: str) -> Path:
    return workspace.audits / dataset / "manifest.parquet"


def stored_manifest(workspace: Workspace, dataset: str) -> Manifest | None:
    """The manifest of the last audit of a data set in this workspace; None where there is none.

    Raises:
        UsageError: it is damaged.
    """
    path = manifest_path(workspace, dataset)
    return read_manifest(path) if path.exists() else None


def write_manifest(path: Path, manifest: Manifest) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "splits": pa.list_(pa.string()), "present": pa.bool_(), "bytes": pa.int64(), "frames": pa.int64(),
        "fps": pa.float64(), "width": pa.int32(), "height": pa.int32(), "seconds": pa.float64(),
    }  # fmt: skip
    columns = {
        name: pa.array([getattr(clip, name) for clip in manifest.clips], types.get(name, pa.string()))
        for name in FIELDS
    }
    about = {
        "format": FORMAT,
        "dataset": manifest.dataset,
        "annotations": manifest.annotations,
        "sha256": manifest.sha256,
    }
    with replacing_file(path) as partial:
        pq.write_table(pa.table(columns, metadata={"manifest": json.dumps(about)}), partial)


def read_manifest(path: Path) -> Manifest:
    """
    Raises:
        UsageError: no such file, or not a whole manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UsageError(f"{path}: no such manifest: `repro data audit NAME` writes one")
    try:
        with pq.ParquetFile(path) as file:  # read_table imports pandas where there is one, which takes half a second
            table = file.read()
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[b"manifest"])
        if about["format"] != FORMAT:
            raise UsageError(f"{path}: a manifest of format {about['format']}, this version reads {FORMAT}")
        rows = table.select(FIELDS).to_pylist()
        clips = tuple(ClipFacts(**(row | {"splits": tuple(row["splits"])})) for row in rows)
        manifest = Manifest(about["dataset"], about["annotations"], clips)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{path}: not a whole manifest of `repro data audit` ({reason}): audit again") from error
    if manifest.sha256 != about["sha256"]:
        raise UsageError(f"{path}: damaged or edited: it does not match the sha256 written with it: audit again")
    return manifest


@dataclass(frozen=True, slots=True)
class Difference:
    clip: str
    what: str
    """The column that differs; "only in A" or "only in B" where one manifest alone has the clip."""
    a: Any = None
    b: Any = None

    def __str__(self) -> str:
        return f"{self.clip}: {self.what}" + (f" {_shown(self.a)} -> {_shown(self.b)}" if self.a != self.b else "")


def differences(a: Manifest, b: Manifest) -> Iterator[Difference]:
    """Clips that are not the same in both, by name, and how.

    Raises:
        UsageError: they are of two data sets.
    """
    if a.dataset != b.dataset:
        raise UsageError(f"the manifests are of two data sets, {a.dataset} and {b.dataset}")
    left, right = ({clip.id: clip for clip in manifest.clips} for manifest in (a, b))
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            yield Difference(name, "only in B" if name not in left else "only in A")
            continue
        for column in COMPARED:
            mine, theirs = getattr(left[name], column), getattr(right[name], column)
            if column == "error":
                mine, theirs = bool(mine), bool(theirs)  # words differ from version to version
            if mine != theirs:
                yield Difference(name, column, getattr(left[name], column), getattr(right[name], column))


def _shown(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return (text[:12] if len(text) == 64 else text[:100]) or "none"
