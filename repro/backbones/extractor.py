"""Frozen backbones: a window of frames in, one feature vector a frame and cell out."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from repro.backbones.checkpoints import absence, checkpoint_path
from repro.backbones.config import BackboneConfig, Cell, DeclaredConfig, Frames, MeanColourConfig, SvdConfig
from repro.backbones.noise import WindowNoise
from repro.errors import MissingError
from repro.keys import file_sha256
from repro.workspace import Workspace


@runtime_checkable
class Extractor(Protocol):
    """What walks a dataset (repro/features/extract.py) asks of a backbone."""

    @property
    def frames(self) -> Frames: ...

    @property
    def noise_seed(self) -> int: ...

    def identity(self) -> dict[str, Any]:
        """All the features depend on beside the video: what their content key is made of."""
        ...

    def window(
        self, frames: UInt8[np.ndarray, "T H W 3"], real: int, noise: WindowNoise
    ) -> dict[str, Float32[np.ndarray, "real C"]]:
        """Features of the first `real` frames, by cell name; the frames after them are black padding."""
        ...


def open_backbone(name: str, config: BackboneConfig, cells: Sequence[Cell], workspace: Workspace) -> Extractor:
    """Load a backbone ready to extract `cells`.

    Raises:
        MissingError: its checkpoint is absent or not what the config describes.
    """
    if isinstance(config, SvdConfig):
        from repro.backbones.svd.extractor import SvdExtractor

        lacking = absence(name, config.checkpoint, workspace)
        if lacking:
            raise MissingError(lacking)
        path = checkpoint_path(config.checkpoint, workspace)
        sha256 = file_sha256(path)
        if config.checkpoint.sha256 not in (None, sha256):
            raise MissingError(
                f"checkpoint {path}: sha256 is {sha256}, expected {config.checkpoint.sha256}: it is damaged or another "
                "file: fetch it again"
            )
        return SvdExtractor(config, path, sha256, cells)
    if isinstance(config, MeanColourConfig):
        from repro.backbones.mean_colour import MeanColour

        return MeanColour(config)
    assert isinstance(config, DeclaredConfig)
    raise MissingError(f"backbone {name}: this version has no extraction for it; see CHANGELOG.md")
