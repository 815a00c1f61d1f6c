"""Backbones by name: reading their configs, and dispatching to their families. The only module that knows all families.

A family is either listed in FAMILIES, or is the subclass of Family in the module repro/backbones/<its name>.py.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field

from repro.backbones.config import BackboneConfig, Precision, precision_change
from repro.backbones.extractor import Backbone, Execution, Extractor, Requests
from repro.backbones.family import Family
from repro.backbones.svd.family import SvdFamily
from repro.backbones.vit.family import Videomaev2Family, VjepaFamily
from repro.backbones.weights import (
    checkpoint_path,
    ensure_random_weights,
    explain_missing_checkpoint,
    read_noted_sha256,
)
from repro.core.config import Config, config_names, configs_folder, load_config
from repro.core.errors import MissingError, ReproError, UsageError, find_nearest
from repro.core.hashing import FileHashes
from repro.core.workspace import Workspace

T = TypeVar("T")

DEFAULT_BACKBONE = "svd_xt"
"""The backbone of the release's quick start, used where none is named."""

FAMILIES: Mapping[str, Family[Any]] = {"svd": SvdFamily(), "videomaev2": Videomaev2Family(), "vjepa": VjepaFamily()}
"""Families that have a package; those of a single module are found by its name."""


class _FamilyKey(Config):
    """Of any backbone's config, the key that says how to read the others."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    family: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


def backbone_names() -> list[str]:
    """Names of all shipped backbone configs, sorted."""
    return config_names("backbones")


def load_backbone(name: str, changes: Mapping[str, str] | None = None, *precisions: Precision | None) -> BackboneConfig:
    """Read configs/backbones/<name>.yaml.

    Args:
        name: Name of the file.
        changes: Replaced values by dotted key, as YAML (frames.window: "5").
        precisions: The backbone computes in the first of these that it has; without any, as its config says.

    Raises:
        UsageError: unknown name, an invalid config, or none of the precisions.
    """
    if name not in backbone_names():
        near = find_nearest(name, backbone_names())
        raise UsageError(f"unknown backbone '{name[:80]}'{near} (available: {', '.join(backbone_names())})")
    path = configs_folder() / "backbones" / f"{name}.yaml"
    family = _find_family(load_config(_FamilyKey, path).family, path)
    config: BackboneConfig = load_config(family.config_class, path, changes)
    change = precision_change(config, *precisions)
    return load_config(family.config_class, path, {**(changes or {}), **change}) if change else config


def family_of(config: BackboneConfig) -> Family[Any]:
    """Return the family that computes the backbone `config` describes."""
    return _find_family(config.family)


def _find_family(name: str, path: Path | None = None) -> Family[Any]:
    if name in FAMILIES:
        return FAMILIES[name]
    module = f"repro.backbones.{name}"
    members = vars(import_module(module)).values() if find_spec(module) else ()
    # The module also holds the names it imports, Family itself among them: only its own subclass counts.
    for member in members:
        if isinstance(member, type) and issubclass(member, Family) and member.__module__ == module:
            family: Family[Any] = member()
            return family
    where = f"{path}: " if path else ""
    raise UsageError(
        f"{where}unknown family '{name}': repro/backbones/{name}.py with a subclass of Family in it is missing"
    )


def describe_backbone(config: BackboneConfig, workspace: Workspace, to_compute: bool = True) -> Backbone:
    """Find out what `config` is on this machine: its checkpoint's file and sha256, and whose modules compute.

    Random weights are generated if their file is missing. With to_compute=False (features already extracted) the checkpoint
    file may be missing if the config pins its sha256.

    Raises:
        MissingError: the checkpoint is missing or is not the file the config names, or the implementation that the config
            asks for is not installed.
    """
    checkpoint, implementation = config.checkpoint, family_of(config).resolve_implementation(config)
    if checkpoint is None:
        return Backbone(config, None, None, implementation)
    other_inputs = config.other_inputs(workspace, to_compute)
    problem = explain_missing_checkpoint(config, workspace)
    path = checkpoint_path(checkpoint, workspace)
    if checkpoint.drawn_from_seed is not None and not path.is_file():
        ensure_random_weights(config, family_of(config), workspace, lambda warning: None)
    # The config's sha256 is that of the published file. Of an encoder cut from it, the sha256 was noted when it was cut.
    expected = checkpoint.sha256 if checkpoint.encoder_file is None else read_noted_sha256(path)
    if problem and not to_compute and expected is not None:
        return Backbone(config, path, expected, implementation, other_inputs)
    if problem:
        raise MissingError(problem)
    sha256 = FileHashes(workspace.hashes).sha256(path)
    if expected not in (None, sha256):
        raise MissingError(
            f"checkpoint {path}: sha256 is {sha256}, expected {expected}: it is damaged or another file: fetch it again"
        )
    return Backbone(config, path, sha256, implementation, other_inputs)


def likely_identity(config: BackboneConfig, workspace: Workspace) -> dict[str, Any] | None:
    """Return the identity that `describe_backbone` would give, without reading, importing or writing anything large.

    A checkpoint's sha256 is the expected one, else the one remembered. Returns None if neither is known.
    """
    checkpoint, implementation = config.checkpoint, family_of(config).likely_implementation(config)
    try:
        other_inputs = config.other_inputs(workspace, to_compute=False)
    except ReproError:  # the class names of a data set whose annotations are missing
        return None
    if checkpoint is None:
        return Backbone(config, None, None, implementation, other_inputs).identity()
    path = checkpoint_path(checkpoint, workspace)
    sha256 = checkpoint.sha256 if checkpoint.encoder_file is None else read_noted_sha256(path)
    if sha256 is None and path.is_file():
        sha256 = FileHashes(workspace.hashes).known(path)
    return None if sha256 is None else Backbone(config, path, sha256, implementation, other_inputs).identity()


def group_by_sharing(items: Iterable[T], config_of: Callable[[T], BackboneConfig]) -> list[list[T]]:
    """Group what belongs to backbones by which of them one extractor computes together, given equal checkpoints."""
    groups: dict[tuple[str, str], list[T]] = {}
    for item in items:
        config = config_of(item)
        groups.setdefault((config.family, family_of(config).sharing_key(config)), []).append(item)
    return list(groups.values())


def open_extractors(requests: Requests, execution: Execution) -> list[Extractor]:
    """Load the networks that compute the requested cells; a family may compute several of its backbones together.

    Raises:
        UsageError: a cell does not exist.
        MissingError: a checkpoint is not what its config describes, or does not fit into memory.
    """
    # A family gets all of its backbones in one call: svd_xt and sdv2 then share VAE and image tower.
    by_family: dict[str, list[Any]] = {}
    for backbone, cells in requests:
        by_family.setdefault(backbone.config.family, []).append((backbone, cells))
    return [
        extractor
        for name, own_requests in by_family.items()
        for extractor in _find_family(name).open_extractors(own_requests, execution)
    ]
