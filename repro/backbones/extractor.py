"""Frozen backbones: a window of frames in, one feature vector a frame and cell out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from repro.backbones.checkpoints import absence, checkpoint_path
from repro.backbones.config import BackboneConfig, Cell, DeclaredConfig, Frames, MeanColourConfig, SvdConfig
from repro.backbones.noise import Noise, Stream
from repro.errors import MissingError
from repro.hashes import Hashes
from repro.workspace import Workspace


@runtime_checkable
class Extractor(Protocol):
    """What walks clips (repro/features/extract.py) asks of one or more backbones computed together."""

    @property
    def frames(self) -> Frames: ...

    @property
    def noise_seed(self) -> int: ...

    @property
    def batch(self) -> str:
        """How much is computed at once, in words, for the record."""
        ...

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        """The noise a window with `real` frames takes."""
        ...

    def window(
        self, frames: UInt8[np.ndarray, "T H W 3"], real: int, noise: Noise
    ) -> dict[str, dict[str, Float32[np.ndarray, "real _"]]]:
        """Features of the first `real` frames, by backbone and cell name; the frames after them are black padding."""
        ...


@dataclass(frozen=True, slots=True)
class Backbone:
    """A backbone as it would be computed here, nothing of it loaded."""

    name: str
    config: BackboneConfig
    checkpoint: Path | None
    checkpoint_sha256: str | None
    implementation: str | None

    def identity(self) -> dict[str, Any]:
        """All its features depend on beside the video and the cell: what content keys are made of."""
        identity = self.config.model_dump(mode="json", exclude={"title", "checkpoint", "implementation"})
        if self.checkpoint is not None:
            identity |= {"checkpoint_sha256": self.checkpoint_sha256, "implementation": self.implementation}
        return identity


@dataclass(frozen=True, slots=True)
class Execution:
    """Where and how features are computed; of this only the machine's float noise can show in them."""

    device: str = "cpu"
    batch: int | None = None
    """Frames the largest networks take at once; None: as many as a bound on memory allows."""
    workers: int = 1
    """Processes that decode."""


def describe(name: str, config: BackboneConfig, workspace: Workspace, to_compute: bool = True) -> Backbone:
    """What `config` comes to on this machine.

    Not `to_compute`, for features that are there already, a checkpoint whose sha256 the config names need not be.

    Raises:
        MissingError: its checkpoint is absent or another file than the config says; sgm is asked for and not there.
    """
    if isinstance(config, MeanColourConfig):
        return Backbone(name, config, None, None, None)
    if isinstance(config, DeclaredConfig):
        raise MissingError(f"backbone {name}: this version has no extraction for it; see CHANGELOG.md")
    from repro.backbones.svd import networks

    lacking = absence(name, config.checkpoint, workspace)
    path = checkpoint_path(config.checkpoint, workspace)
    if lacking and not to_compute and config.checkpoint.sha256 is not None:
        return Backbone(name, config, path, config.checkpoint.sha256, networks.resolve(config.implementation))
    if lacking:
        raise MissingError(lacking)
    sha256 = Hashes(workspace.hashes).sha256(path)
    if config.checkpoint.sha256 not in (None, sha256):
        raise MissingError(
            f"checkpoint {path}: sha256 is {sha256}, expected {config.checkpoint.sha256}: it is damaged or another "
            "file: fetch it again"
        )
    return Backbone(name, config, path, sha256, networks.resolve(config.implementation))


def open_extractors(asks: Sequence[tuple[Backbone, Sequence[Cell]]], execution: Execution) -> list[Extractor]:
    """Load what computes the cells asked for: backbones that differ in temporal mixing alone are computed together.

    Raises:
        UsageError: a cell that does not exist.
        MissingError: a checkpoint that is not what its config describes; no memory for it.
    """
    extractors: list[Extractor] = []
    shared: dict[str, list[tuple[Backbone, Sequence[Cell]]]] = {}
    for backbone, cells in asks:
        if isinstance(backbone.config, MeanColourConfig):
            from repro.backbones.mean_colour import MeanColour

            extractors.append(MeanColour(backbone.name, backbone.config))
        else:
            config = backbone.config.model_dump(mode="json", exclude={"title", "version", "temporal_mixing"})
            shared.setdefault(repr((config, backbone.checkpoint_sha256)), []).append((backbone, cells))
    for group in shared.values():
        from repro.backbones.svd.extractor import SvdExtractor
        from repro.backbones.svd.networks import IMPLEMENTATIONS

        first = group[0][0]
        assert first.checkpoint is not None
        extractors.append(
            SvdExtractor(
                {b.name: (b.config, cells) for b, cells in group if isinstance(b.config, SvdConfig)},
                first.checkpoint,
                next(name for name in IMPLEMENTATIONS if name == first.implementation),
                execution.device,
                execution.batch,
            )
        )
    return extractors
