"""Mean colour over time: a control that sees neither shape nor motion."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from repro.backbones.config import Axes, BackboneConfig, Cell, FrameSampling
from repro.backbones.extractor import Execution, Noise, Requests, Stream
from repro.backbones.family import Family
from repro.core.config import Positive


class MeanColourConfig(BackboneConfig):
    """Mean red, green and blue of each frame: what a readout can do without seeing any action."""

    family: Literal["mean_colour"]
    checkpoint: None = None
    width: Positive
    """Channels that a fixed linear map spreads the three values over, as the readout has no input layer."""

    def axes(self) -> Axes:
        return Axes(final=True, usual=Cell(layer="final"))

    def channels(self, cell: Cell) -> int:
        return self.width


class MeanColour:
    """Mean red, green and blue of each frame, times a fixed random matrix."""

    at_once = 1
    batch = "1 window"
    noise_seed = 0

    def __init__(self, config: MeanColourConfig) -> None:
        self.config, self.backbones = config, (config.name,)
        # A fixed seed: the matrix is part of what the backbone is, as a network's weights are.
        self.spread = np.random.default_rng(3).standard_normal((3, config.width)).astype(np.float32)

    @property
    def frames(self) -> FrameSampling:
        return self.config.frames

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return {}

    def features(
        self, windows: Sequence[UInt8[np.ndarray, "_ H W 3"]], noises: Sequence[Noise]
    ) -> dict[str, dict[str, Float32[np.ndarray, "_ _"]]]:
        # Mean over rows and columns, in float64, from [0, 255] to [-1, 1].
        colour = np.concatenate([frames.mean(axis=(1, 2)) for frames in windows]) / 127.5 - 1
        return {self.config.name: {"final": (colour @ self.spread.astype(np.float64)).astype(np.float32)}}


class MeanColourFamily(Family[MeanColourConfig]):
    config_class = MeanColourConfig

    def open_extractors(self, requests: Requests[MeanColourConfig], execution: Execution) -> list[MeanColour]:
        return [MeanColour(backbone.config) for backbone, _ in requests]
