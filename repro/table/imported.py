"""Rows whose features were imported, for which nothing else is needed to train readouts. Imports no torch."""

from repro.core.errors import ReproError
from repro.core.workspace import Workspace
from repro.datasets.registry import list_dataset
from repro.features.imported import find_likely_identity
from repro.features.store import IMPORTED, FeatureStore
from repro.table.row import Row, row_backbone, row_datasets


def has_imported_features(row: Row, workspace: Workspace) -> bool:
    """Whether features of all clips of a row are stored, some of each data set imported. Indexes are read, and no features."""
    config = row_backbone(row)
    try:
        # Most workspaces have none.
        if not any(workspace.features.glob(f"{config.name}-*/origins/{IMPORTED}*.json")):
            return False
    except (
        PermissionError
    ):  # as of a mount of another user: what is missing matters more, and the command that writes says it
        return False
    # Without the checkpoint its sha256 is not known: the stored features that fit the config state it.
    identity = find_likely_identity(config, workspace, row.features, row.data.datasets)
    if identity is None:
        return False
    for name, dataset in row_datasets(row).items():
        store = FeatureStore.locate(workspace, config.name, identity, name)
        if not store.is_imported:
            return False
        try:
            listed = list_dataset(dataset, workspace, keep=False)
        except ReproError:  # no labels, or annotation files that cannot be read
            return False
        splits = [listed.split(part.split) for part in (row.data.train, row.data.test) if part.dataset == name]
        if {clip.id for split in splits for clip in split.clips} - store.stored_clips(row.features.name):
            return False
    return True


def explain_imported(row: Row) -> str:
    """Return what to do with a row whose features were imported."""
    command = "repro readout " + row.command.removeprefix("repro ").removeprefix("run ")
    return f"features of {row.name} were imported: `{command}` needs no videos, checkpoint or GPU"
