"""What a workspace has in the end, to be compared with what another one has."""

from typing import Any

from repro.core.hashing import file_sha256
from repro.core.workspace import Workspace
from repro.records.record import find_runs


def describe_results(workspace: Workspace) -> dict[str, Any]:
    """Return packed features by their bytes, and run records but for what made them when."""
    results: dict[str, Any] = {}
    for path in workspace.root.glob("features/**/packed/*.npy"):
        results[str(path.relative_to(workspace.root))] = file_sha256(path)
    for run in find_runs(workspace.runs):
        record = run.load_record()
        assert record is not None
        results[f"{record.row} {record.seed}"] = record.model_dump(mode="json", exclude={"made"})
    return results
