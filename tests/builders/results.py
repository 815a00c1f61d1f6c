"""What a workspace has in the end, to be compared with what another one has."""

import hashlib
from typing import Any

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
