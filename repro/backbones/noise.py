"""Noise that depends only on what it is for: seed, video, window and stream; never on what was sampled before it.

It is computed where it is used, so that nothing of it is sampled on a CPU and copied to a GPU: Philox4x64-10 (Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3") gives the same words on every machine and device, and the Box-Muller
transform (Box and Muller 1958) makes normals of them, which differ between devices by the last bits of log, sin and cos.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from repro.backbones.compilation import Compiled, explain_no_compilation
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
    compiled: bool = False
    """On a GPU, compute the cipher as one kernel, which has to be compiled; no number depends on it but by the last bits."""

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
        for part in _generate_normals(key, len(normals), device, compiled=self.compiled):
            normals[done : done + len(part)] = part[: len(normals) - done]
            done += len(part)
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


def _generate_normals(
    key: int, count: int, device: torch.device, *, compiled: bool
) -> Iterator[Float32[Tensor, "words 2"]]:
    """Yield the normals of at least `count` words in chunks: numpy's generator on a CPU, philox_words on other devices."""
    chunk = _CHUNK.get(device.type, _CHUNK_ELSEWHERE)
    if device.type == "cpu":
        generator = np.random.Philox(key=key)
        for first in range(0, count, chunk):
            words = generator.random_raw(min(chunk, count - first))
            yield transform_to_normals(torch.from_numpy(words.view(np.int64)))
        return
    # A program has one size; less than that takes no time worth one.
    whole = compiled and count >= chunk and not explain_no_compilation(device)
    compute = _compile_normals() if whole else _compute_normals
    halves = _key_words(key, device)
    for first in range(0, count, chunk):
        place = torch.full((), first, device=device)
        yield compute(place, *halves, chunk if whole else min(chunk, count - first))


@cache
def _compile_normals() -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    """Operation by operation, the cipher takes 36 ms of a window of SVD on an H200; as one kernel, less than one."""
    return Compiled(_compute_normals)


def _compute_normals(first: Tensor, low: Tensor, high: Tensor, count: int) -> Float32[Tensor, "words 2"]:
    return transform_to_normals(_compute_words(first, low, high, count))


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
    return _compute_words(torch.full((), first, device=device), *_key_words(key, device), count)


def _key_words(key: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the lower and the upper half of a key as tensors: a program would be compiled for each value of a number."""
    low, high = (torch.full((), _as_signed(part), device=device) for part in (key, key >> 64))
    return low, high


def _compute_words(first: Tensor, low: Tensor, high: Tensor, count: int) -> Int64[Tensor, " words"]:
    # numpy advances its counter before the first block. Counters of a stream this short fill the first of four words.
    blocks = 1 + first // 4 + torch.arange(-(-count // 4), device=first.device)
    zero = torch.zeros_like(blocks)
    words = philox_blocks((blocks, zero, zero, zero), (low, high))
    return torch.stack(words, dim=1).flatten()[:count]


def philox_blocks(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Encrypt counters with Philox4x64-10 (Salmon et al. 2011, section 3.3).

    Args:
        counter: four int64 tensors of one shape, the lowest word first.
        key: two words of 64 bits, likewise.
    """
    a, b, c, d = counter
    for step in range(_ROUNDS):
        # Sums of int64 tensors wrap, as the words of the cipher do.
        first, second = (word + _as_signed(step * advance) for word, advance in zip(key, _KEY_STEPS, strict=True))
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
