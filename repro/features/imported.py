"""Which features a workspace has of a backbone, if some were imported from elsewhere. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.extractor import Backbone
from repro.backbones.registry import describe_backbone, likely_identity
from repro.core.errors import MissingError, ReproError
from repro.core.files import read_json_or_none
from repro.core.workspace import Workspace
from repro.features.store import FeatureStore


def find_stored_identity(
    config: BackboneConfig, workspace: Workspace, cell: Cell, collections: Sequence[str]
) -> dict[str, Any]:
    """Return the identity of the features of `config` to read: what this machine would compute, or else what was imported.

    Imported features count only if this machine would compute none or has none of its own, and if they are of the same config and,
    as far as it is known here, of the same checkpoint. All collections are read under one identity.

    Raises:
        MissingError: the checkpoint is missing and nothing was imported, several imports fit, or the one that there is is of another
            checkpoint.
    """

    own, problem = None, None
    try:
        own = describe_backbone(config, workspace, to_compute=False).identity()
    except MissingError as error:
        problem = error
    if own is not None and _has_all(config, own, workspace, cell, collections):
        return own
    imported, fitting = _find_fitting(config, workspace, cell, collections, own)
    if len(fitting) > 1:
        raise MissingError(
            f"backbone {config.name}: {len(fitting)} sets of imported features fit, of other checkpoints or implementations: keep "
            "each in a workspace of its own"
        )
    if fitting:
        return fitting[0]
    if imported and own is not None:
        why = explain_other_features(config, imported[0], workspace, own)
        raise MissingError(
            f"backbone {config.name}: imported features are of {why}, and there are no others: import features of this "
            "backbone, or extract them"
        )
    if problem is not None:
        raise problem
    assert own is not None
    return own


def find_likely_identity(
    config: BackboneConfig, workspace: Workspace, cell: Cell, collections: Sequence[str]
) -> dict[str, Any] | None:
    """As find_stored_identity, for lists and plans: no checkpoint is read and nothing is written.

    Returns:
        The identity; None if this machine's is not known and no imported features fit, or several do.
    """
    own = likely_identity(config, workspace)
    if own is not None and _has_all(config, own, workspace, cell, collections):
        return own
    _, fitting = _find_fitting(config, workspace, cell, collections, own)
    return fitting[0] if len(fitting) == 1 else own


def _has_all(
    config: BackboneConfig, identity: dict[str, Any], workspace: Workspace, cell: Cell, collections: Sequence[str]
) -> bool:
    return all(FeatureStore.locate(workspace, config.name, identity, name).has_cell(cell.name) for name in collections)


def _find_fitting(
    config: BackboneConfig, workspace: Workspace, cell: Cell, collections: Sequence[str], own: dict[str, Any] | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the identities of imported features of the collections, apart from `own`, and those of them that fit the config."""
    imported = [
        found
        for found in _list_imported(config, workspace)
        if found != own and _has_all(config, found, workspace, cell, collections)
    ]
    return imported, [found for found in imported if not explain_other_features(config, found, workspace, own)]


def explain_other_features(
    config: BackboneConfig, identity: dict[str, Any], workspace: Workspace, own: dict[str, Any] | None = None
) -> str:
    """Return how features of `identity` differ from those of `config`; empty if they do not.

    Args:
        config: The backbone.
        identity: Of features from elsewhere.
        workspace: Where the backbone's checkpoint may be.
        own: Identity of what this machine would compute, if its checkpoint is present or pinned.
    """
    wanted = getattr(config, "implementation", "auto")
    checkpoint, implementation = identity.get("checkpoint_sha256"), identity.get("implementation")
    try:
        others = config.other_inputs(workspace, to_compute=False)
    except ReproError as error:
        return f"unknown inputs ({error})"
    path = None if config.checkpoint is None else Path()
    expected = Backbone(config, path, checkpoint, implementation, others).identity()
    keys = sorted(key for key in {*expected, *identity} if expected.get(key) != identity.get(key))
    if keys:
        return f"another config: {', '.join(keys)}"
    if wanted not in ("auto", implementation):
        return f"implementation {implementation}, expected {wanted}"
    # The config's own sha256, or that of the file that is here.
    known = (own or likely_identity(config, workspace) or {}).get("checkpoint_sha256")
    return "" if known in (None, checkpoint) else f"checkpoint {checkpoint}, expected {known}"


def _list_imported(config: BackboneConfig, workspace: Workspace) -> list[dict[str, Any]]:
    """Return the identities under which features of a backbone of this name were imported."""
    found = []
    for folder in sorted(workspace.features.glob(f"{config.name}-*")):
        manifest = read_json_or_none(folder / "manifest.json")
        if not isinstance(manifest, dict) or not isinstance(manifest.get("identity"), dict):
            continue
        identity = {key: value for key, value in manifest["identity"].items() if key not in ("store", "stored_as")}
        store = FeatureStore.locate(workspace, config.name, identity, "any")
        # The folder's name is a hash of the identity: an edited manifest, or one of features stored as fp16, is not its own.
        if store.folder.parent == folder and store.is_imported:
            found.append(identity)
    return found
