"""Noise that depends only on what it is for: seed, video, window and stream; never on what was sampled before it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

Stream = Literal["augmentation", "posterior", "latent"]
"""Noise on the conditioning image, in sampling the VAE's posterior, and on the latent."""


@runtime_checkable
class Noise(Protocol):
    """A source of one window's noise."""

    def sample(self, stream: Stream, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]: ...


@dataclass(frozen=True, slots=True)
class WindowNoise:
    """The noise of one window, keyed by (seed, video sha256, window, stream).

    So order, sharding and resuming change no feature. The release seeds once per process instead, and its features depend
    on the order of videos (docs/deviations.md 5).
    """

    seed: int
    video_sha256: str
    window: int

    def sample(self, stream: Stream, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        """Sample standard normals of `shape`; a smaller first dimension gives the beginning of the same noise."""
        name = f"{self.seed}/{self.video_sha256}/{self.window}/{stream}"
        # A counter-based generator: any 128-bit key gives an independent stream, so the hash can be the key itself.
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
        # Filled in row-major order, frames first: what makes a shorter window take the beginning.
        return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class SampledNoise:
    """Noise sampled ahead of its use, so that the device need not wait for it."""

    streams: Mapping[Stream, Float32[np.ndarray, "..."]]

    @classmethod
    def of(cls, noise: Noise, shapes: Mapping[Stream, tuple[int, ...]]) -> "SampledNoise":
        return cls({stream: noise.sample(stream, shape) for stream, shape in shapes.items()})

    def sample(self, stream: Stream, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        values = self.streams[stream]
        assert values.shape == shape, (stream, values.shape, shape)
        return values
