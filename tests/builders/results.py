"""What a workspace has in the end, to be compared with what another one has."""

import base64
import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from repro.core.hashing import FileHashes
from repro.core.workspace import Workspace
from repro.features.packed import list_packed_cells, open_pack
from repro.records.record import find_runs

WHEN_AND_WHERE = {"made", "checkpoints", "predictions_sha256"}
"""Fields of a record that differ between processes: software and time, and the last bits of weights and of scores of clips."""


def describe_results(workspace: Workspace) -> dict[str, Any]:
    """Return packed features by clip, to the bit, and run records with their splits, losses and scores."""
    results: dict[str, Any] = {}
    for folder in workspace.root.glob("features/*/*/packed"):
        for cell in list_packed_cells(folder):
            packed = open_pack(folder, cell, FileHashes(workspace.hashes))
            assert packed is not None
            results[f"{folder.relative_to(workspace.features)} {cell}"] = {
                clip: (place.video_sha256, hashlib.sha256(packed.clip_values(clip).tobytes()).hexdigest())
                for clip, place in packed.places.items()
            }
    for run in find_runs(workspace.runs):
        record = run.load_record()
        assert record is not None
        results[f"{record.row} {record.seed}"] = record.model_dump(mode="json", exclude=WHEN_AND_WHERE)
    return results


def read_texts(path: Path) -> str:
    """Return all that a file holds: a zip's members as they are, a parquet file's values, which are compressed, and a page's data."""
    return "\n".join(_texts(path.read_bytes(), path.suffix))


def _texts(content: bytes, suffix: str) -> list[str]:
    texts = [content.decode("utf-8", "replace"), content.decode("latin-1")]
    texts += [base64.b64decode(data).decode("latin-1") for data in re.findall(rb";base64,([A-Za-z0-9+/=]+)", content)]
    if suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                texts += [name, *_texts(archive.read(name), Path(name).suffix)]
    elif suffix == ".parquet":
        table = pq.ParquetFile(io.BytesIO(content)).read()
        texts += [repr(table.schema.metadata), *(repr(column.to_pylist()) for column in table.columns)]
    return texts
