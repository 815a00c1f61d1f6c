"""Frozen backbones: windows of frames in, feature vectors by cell out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from repro.backbones.config import BackboneConfig, Beside, Cell, Frames
from repro.backbones.noise import Noise, Stream
from repro.backbones.weights import absence, checkpoint_path, noted_sha256
from repro.core.errors import MissingError, ReproError
from repro.core.hashing import FileHashes
from repro.core.workspace import Workspace


@runtime_checkable
class Extractor(Protocol):
    """What walks clips (repro/features/extract.py) asks of one or more backbones computed together."""

    @property
    def backbones(self) -> Sequence[str]:
        """Whose features it computes."""
        ...

    @property
    def frames(self) -> Frames: ...

    @property
    def at_once(self) -> int:
        """Windows of a clip it takes at once."""
        ...

    @property
    def batch(self) -> str:
        """How much is computed at once, in words, for the record."""
        ...

    @property
    def noise_seed(self) -> int: ...

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        """The noise a window with `real` frames takes."""
        ...

    def features(
        self, windows: Sequence[UInt8[np.ndarray, "_ H W 3"]], noises: Sequence[Noise]
    ) -> dict[str, dict[str, Float32[np.ndarray, "_ _"]]]:
        """Vectors of a clip's next windows, one behind the other, by backbone and cell name. A clip's last window may hold
        fewer frames than the others; how it is filled is the backbone's own."""
        ...


@dataclass(frozen=True, slots=True)
class Backbone:
    """A backbone as it would be computed here, nothing of it loaded."""

    name: str
    config: BackboneConfig
    checkpoint: Path | None
    checkpoint_sha256: str | None
    implementation: str | None
    beside: Beside = field(default_factory=Beside)

    def identity(self) -> dict[str, Any]:
        """All its features depend on beside the video and the cell: what content keys are made of."""
        identity = self.config.model_dump(mode="json", exclude=set(self.config.beside_features))
        if self.checkpoint is not None:
            identity |= {"checkpoint_sha256": self.checkpoint_sha256, "implementation": self.implementation}
        return identity | dict(self.beside.identity)


@dataclass(frozen=True, slots=True)
class Execution:
    """Where and how features are computed; of this only the machine's float noise can show in them."""

    device: str = "cpu"
    batch: int | None = None
    """How much the largest networks take at once: frames of SVD, windows of the others; None: as much as a bound on memory
    allows."""
    workers: int = 1
    """Processes that decode."""
    say: Callable[[str], None] = lambda line: None
    """Told what is worth knowing of a checkpoint."""


def describe(name: str, config: BackboneConfig, workspace: Workspace, to_compute: bool = True) -> Backbone:
    """What `config` comes to on this machine.

    Not `to_compute`, for features that are there already, a checkpoint whose sha256 the config names need not be.

    Raises:
        MissingError: its checkpoint is absent or another file than the config says; modules asked for are not there.
    """
    checkpoint, implementation = config.checkpoint, config.resolved_implementation()
    if checkpoint is None:
        return Backbone(name, config, None, None, implementation)
    beside = config.beside(workspace, to_compute)
    lacking = absence(name, checkpoint, workspace)
    path = checkpoint_path(checkpoint, workspace)
    if checkpoint.drawn_from_seed is not None and not path.is_file():
        from repro.backbones.drawn import draw

        draw(config, workspace, lambda warning: None)
    # Of an encoder that was cut from its owners' file, what its cutting noted.
    expected = checkpoint.sha256 if checkpoint.encoder_file is None else noted_sha256(path)
    if lacking and not to_compute and expected is not None:
        return Backbone(name, config, path, expected, implementation, beside)
    if lacking:
        raise MissingError(lacking)
    sha256 = FileHashes(workspace.hashes).sha256(path)
    if expected not in (None, sha256):
        raise MissingError(
            f"checkpoint {path}: sha256 is {sha256}, expected {expected}: it is damaged or another file: fetch it again"
        )
    return Backbone(name, config, path, sha256, implementation, beside)


def likely_identity(name: str, config: BackboneConfig, workspace: Workspace) -> dict[str, Any] | None:
    """The identity `describe` would come to, found without reading, importing or writing anything large: a checkpoint's
    sha256 is the one expected, else the one remembered. None where neither is known."""
    checkpoint, implementation = config.checkpoint, config.likely_implementation()
    try:
        beside = config.beside(workspace, to_compute=False)
    except ReproError:  # its data set's classes are not to be had
        return None
    if checkpoint is None:
        return Backbone(name, config, None, None, implementation, beside).identity()
    path = checkpoint_path(checkpoint, workspace)
    sha256 = checkpoint.sha256 if checkpoint.encoder_file is None else noted_sha256(path)
    if sha256 is None and path.is_file():
        sha256 = FileHashes(workspace.hashes).known(path)
    return None if sha256 is None else Backbone(name, config, path, sha256, implementation, beside).identity()


def open_extractors(asks: Sequence[tuple[Backbone, Sequence[Cell]]], execution: Execution) -> list[Extractor]:
    """Load what computes the cells asked for; a family may compute several of its backbones together.

    Raises:
        UsageError: a cell that does not exist.
        MissingError: a checkpoint that is not what its config describes; no memory for it.
    """
    from repro.backbones.family import load_family

    families: dict[str, list[tuple[Backbone, Sequence[Cell]]]] = {}
    for backbone, cells in asks:
        families.setdefault(backbone.config.family, []).append((backbone, cells))
    return [extractor for name, own in families.items() for extractor in load_family(name).open(own, execution)]
