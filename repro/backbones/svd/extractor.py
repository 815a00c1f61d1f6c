"""Stable Video Diffusion as an Extractor: windows in, cells out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from repro.backbones.config import Cell, Frames, SvdConfig
from repro.backbones.noise import WindowNoise
from repro.backbones.svd import modules
from repro.backbones.svd.model import SvdModel
from repro.errors import UsageError


class SvdExtractor:
    """A frozen SVD asked for some (timestep, layer) cells.

    Raises:
        UsageError: a cell without a timestep or with a layer that does not exist.
        MissingError: the checkpoint is not the one the config describes.
    """

    def __init__(self, config: SvdConfig, checkpoint: Path, checkpoint_sha256: str, cells: Sequence[Cell]) -> None:
        self.config = config
        self.checkpoint_sha256 = checkpoint_sha256
        self.cells = {}
        for cell in cells:
            if cell.timestep is None or not isinstance(cell.layer, int):
                raise UsageError(f"features {cell.name}: {config.title} needs a timestep and a layer number")
            self.cells[(cell.timestep, cell.layer)] = cell.name
        layers = sorted({layer for _, layer in self.cells})
        loaded = modules.load(checkpoint, config.architecture, layers[-1])
        self.model = SvdModel(config, loaded, sorted({t for t, _ in self.cells}), layers)

    @property
    def frames(self) -> Frames:
        return self.config.frames

    @property
    def noise_seed(self) -> int:
        return self.config.noise_seed

    def identity(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", exclude={"title", "checkpoint"}) | {
            "checkpoint_sha256": self.checkpoint_sha256,
            "implementation": "diffusers",
            "precision": "fp32",
            "cells": sorted(self.cells.values()),
        }

    def window(
        self, frames: UInt8[np.ndarray, "T H W 3"], real: int, noise: WindowNoise
    ) -> dict[str, Float32[np.ndarray, "real C"]]:
        means = self.model.window(frames, real, noise)
        return {name: means[place][:real].numpy() for place, name in self.cells.items()}
