"""Noise that depends on what it is for, never on what was drawn before it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

Stream = Literal["augmentation", "posterior", "latent"]
"""Noise on the conditioning image, of the posterior's sample, on the latent."""


@runtime_checkable
class Noise(Protocol):
    """What a backbone draws a window's noise from."""

    def draw(self, stream: Stream, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]: ...


@dataclass(frozen=True, slots=True)
class WindowNoise:
    """The noise of one window, keyed by (seed, video sha256, window, stream): order, sharding and resuming change nothing.

    The release seeds once per process instead, so that its features depend on the order of videos (docs/deviations.md 5).
    """

    seed: int
    video_sha256: str
    window: int

    def draw(self, stream: Stream, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        """Standard normals of `shape`; a smaller first dimension gives the beginning of the same noise."""
        name = f"{self.seed}/{self.video_sha256}/{self.window}/{stream}"
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
        return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class DrawnNoise:
    """Noise drawn ahead of its use, so that the device need not wait for it."""

    streams: Mapping[Stream, Float32[np.ndarray, "..."]]

    @classmethod
    def of(cls, noise: Noise, shapes: Mapping[Stream, tuple[int, ...]]) -> "DrawnNoise":
        return cls({stream: noise.draw(stream, shape) for stream, shape in shapes.items()})

    def draw(self, stream: Stream, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        drawn = self.streams[stream]
        assert drawn.shape == shape, (stream, drawn.shape, shape)
        return drawn
