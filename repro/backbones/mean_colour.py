"""Mean colour over time: a control that sees neither shape nor motion."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, UInt8

from repro.backbones.config import Frames, MeanColourConfig
from repro.backbones.noise import Noise, Stream


class MeanColour:
    """Mean red, green and blue of each frame, spread over `width` channels by a fixed random linear map."""

    batch = "1 window"

    def __init__(self, name: str, config: MeanColourConfig) -> None:
        self.name, self.config = name, config
        self.spread = np.random.default_rng(3).standard_normal((3, config.width)).astype(np.float32)

    @property
    def frames(self) -> Frames:
        return self.config.frames

    @property
    def noise_seed(self) -> int:
        return self.config.noise_seed

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return {}

    def window(
        self, frames: UInt8[np.ndarray, "T H W 3"], real: int, noise: Noise
    ) -> dict[str, dict[str, Float32[np.ndarray, "real _"]]]:
        colour = frames[:real].mean(axis=(1, 2)) / 127.5 - 1
        return {self.name: {"final": (colour @ self.spread.astype(np.float64)).astype(np.float32)}}
