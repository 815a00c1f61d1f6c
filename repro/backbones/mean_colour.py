"""Mean colour over time: a control that sees neither shape nor motion."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from repro.backbones.config import Axes, BackboneConfig, Cell, Frames, Positive
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.family import Family
from repro.backbones.noise import Noise, Stream


class MeanColourConfig(BackboneConfig):
    """Mean red, green and blue of each frame: what a readout can do without seeing any action."""

    family: Literal["mean_colour"]
    checkpoint: None = None
    width: Positive
    """The three values are spread over this many channels by a fixed linear map, as the readout has no input layer."""

    def axes(self) -> Axes:
        return Axes(final=True, usual=Cell(layer="final"))

    def channels(self, cell: Cell) -> int:
        return self.width


class MeanColour:
    """Mean red, green and blue of each frame, spread over `width` channels by a fixed random linear map."""

    at_once = 1
    batch = "1 window"
    noise_seed = 0

    def __init__(self, name: str, config: MeanColourConfig) -> None:
        self.name, self.config, self.backbones = name, config, (name,)
        self.spread = np.random.default_rng(3).standard_normal((3, config.width)).astype(np.float32)

    @property
    def frames(self) -> Frames:
        return self.config.frames

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return {}

    def features(
        self, windows: Sequence[UInt8[np.ndarray, "_ H W 3"]], noises: Sequence[Noise]
    ) -> dict[str, dict[str, Float32[np.ndarray, "_ _"]]]:
        colour = np.concatenate([frames.mean(axis=(1, 2)) for frames in windows]) / 127.5 - 1
        return {self.name: {"final": (colour @ self.spread.astype(np.float64)).astype(np.float32)}}


def _open(asks: Sequence[tuple[Backbone, Sequence[Cell]]], execution: Execution) -> list[MeanColour]:
    return [MeanColour(b.name, b.config) for b, _ in asks if isinstance(b.config, MeanColourConfig)]


FAMILY = Family(MeanColourConfig, _open)
