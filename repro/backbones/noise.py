"""Noise that depends only on what it is for: seed, video, window and stream; never on what was sampled before it.

It is computed where it is used, so that nothing of it is sampled on a CPU and copied to a GPU: Philox4x64-10 (Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3") gives the same words on every machine and device, and the Box-Muller
transform (Box and Muller 1958) makes normals of them, which differ between devices by the last bits of log, sin and cos.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from repro.backbones.extractor import Noise, Stream

CPU = torch.device("cpu")

_MASK = 0xFFFFFFFF
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
# The golden ratio and sqrt(3) - 1, in units of 2^-64.
_KEY_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_ROUNDS = 10
# Words at once: on a CPU these stay in its cache, on a GPU they fill it and bound the memory taken in addition to the networks.
_CHUNK = {"cpu": 1 << 16}
_CHUNK_ELSEWHERE = 1 << 22


@dataclass(frozen=True, slots=True)
class WindowNoise:
    """The noise of one window, keyed by (seed, video sha256, window, stream).

    So order, sharding and resuming change no feature. The release seeds once per process instead, and its features depend
    on the order of videos (docs/deviations.md 5).
    """

    seed: int
    video_sha256: str
    window: int

    def sample(self, stream: Stream, shape: tuple[int, ...], device: torch.device = CPU) -> Float32[Tensor, "..."]:
        """Sample standard normals of `shape` on `device`; a smaller first dimension gives the beginning of the same noise."""
        # Another form of this text would give other noise, and so other features.
        name = f"{self.seed}/{self.video_sha256}/{self.window}/{stream}"
        # A counter-based generator: any 128-bit key gives an independent stream, so the hash can be the key itself.
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
        count = math.prod(shape)
        # In row-major order, frames first: what makes a shorter window take the beginning.
        normals = torch.empty(-(-count // 2), 2, device=device)
        done = 0
        for words in _generate_words(key, len(normals), device):
            normals[done : done + len(words)] = transform_to_normals(words)
            done += len(words)
        return normals.flatten()[:count].view(shape)


@dataclass(frozen=True, slots=True)
class SampledNoise:
    """Noise sampled ahead of its use, so that the networks need not wait for it."""

    streams: Mapping[Stream, Float32[Tensor, "..."]]

    @classmethod
    def of(cls, noise: Noise, shapes: Mapping[Stream, tuple[int, ...]]) -> "SampledNoise":
        return cls({stream: noise.sample(stream, shape) for stream, shape in shapes.items()})

    def sample(self, stream: Stream, shape: tuple[int, ...], device: torch.device = CPU) -> Float32[Tensor, "..."]:
        values = self.streams[stream]
        assert values.shape == shape, (stream, values.shape, shape)
        return values.to(device)


def _generate_words(key: int, count: int, device: torch.device) -> Iterator[Int64[Tensor, " words"]]:
    """Yield `count` words of 64 bits in chunks: numpy's generator on a CPU, philox_words on other devices."""
    chunk = _CHUNK.get(device.type, _CHUNK_ELSEWHERE)
    generator = np.random.Philox(key=key)
    for first in range(0, count, chunk):
        size = min(chunk, count - first)
        if device.type == "cpu":
            yield torch.from_numpy(generator.random_raw(size).view(np.int64))
        else:
            yield philox_words(key, first, size, device)


def philox_words(key: int, first: int, count: int, device: torch.device = CPU) -> Int64[Tensor, " words"]:
    """Return the words `first` to `first + count` of the stream that numpy.random.Philox(key=key) generates.

    Args:
        key: of 128 bits.
        first: a multiple of 4, because a counter's block has 4 words.
        count: number of words.
        device: where they are computed.

    Returns:
        Words of 64 bits; torch computes with signed numbers, so bit 63 is their sign.
    """
    assert first % 4 == 0, first
    # numpy advances its counter before the first block. Counters of a stream this short fill the first of four words.
    blocks = 1 + first // 4 + torch.arange(-(-count // 4), device=device)
    zero = torch.zeros_like(blocks)
    words = philox_blocks((blocks, zero, zero, zero), (key & (1 << 64) - 1, key >> 64))
    return torch.stack(words, dim=1).flatten()[:count]


def philox_blocks(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Encrypt counters with Philox4x64-10 (Salmon et al. 2011, section 3.3).

    Args:
        counter: four int64 tensors of one shape, the lowest word first.
        key: two words of 64 bits.
    """
    a, b, c, d = counter
    for step in range(_ROUNDS):
        first, second = (_as_signed(word + step * advance) for word, advance in zip(key, _KEY_STEPS, strict=True))
        (low_high, low_low), (high_high, high_low) = (
            _multiply(word, factor) for word, factor in zip((a, c), _MULTIPLIERS, strict=True)
        )
        # One round: both halves of two products are swapped and mixed with the other words and the round's key.
        a, b, c, d = high_high ^ b ^ first, high_low, low_high ^ d ^ second, low_low
    return a, b, c, d


def transform_to_normals(words: Int64[Tensor, " words"]) -> Float32[Tensor, "words 2"]:
    """Return two standard normals for each word (Box and Muller 1958): radius from its upper half, angle from its lower half."""
    # fp32 holds 24 bits: here the upper 23 and a half step, without which the logarithm of 0 would occur; |normal| < 5.8.
    # r = sqrt(-2 ln u), and the angle 2 pi v, give two independent normals r cos and r sin of uniform u, v.
    radius = torch.sqrt(-2 * torch.log((_shift(words, 41).float() + 0.5) * 2.0**-23))
    angle = (_shift(words, 8) & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=1)


def _multiply(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Return the upper and the lower 64 bits of the product of unsigned numbers."""
    # Four products of 32-bit halves. Each fills 64 bits and may look negative; its bits are right all the same.
    halves = word & _MASK, _shift(word, 32)
    low, middle, other, high = (half * part for part in (factor & _MASK, factor >> 32) for half in halves)
    carried = _shift(low, 32) + (middle & _MASK) + (other & _MASK)
    return high + _shift(middle, 32) + _shift(other, 32) + (carried >> 32), word * _as_signed(factor)


def _shift(word: Tensor, bits: int) -> Tensor:
    """Shift unsigned numbers to the right: torch's shift would fill with the sign."""
    return (word >> bits) & ((1 << 64 - bits) - 1)


def _as_signed(word: int) -> int:
    """Return the signed number that has the bits of a word modulo 2^64."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word
