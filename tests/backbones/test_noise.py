"""The windows' noise: the cipher by known answers and numpy, the normals by their distribution, and what they depend on."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from repro.backbones.compilation import Compiled
from repro.backbones.noise import (
    SampledNoise,
    WindowNoise,
    _compute_normals,
    _key_words,
    philox_blocks,
    philox_words,
    transform_to_normals,
)

NOISE = WindowNoise(23, "0" * 64, 0)
KEY = (0x0123456789ABCDEF << 64) | 0xFEDCBA9876543210

ONES = (1 << 64) - 1
KNOWN_ANSWERS = [
    # Counter, key and output of philox4x64-10: the authors' vectors (Salmon et al. 2011; Random123, kat_vectors).
    ((0,) * 4, (0,) * 2, (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
    ((ONES,) * 4, (ONES,) * 2, (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0)),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]


def as_tensor(word: int) -> torch.Tensor:
    return torch.from_numpy(np.array([word], np.uint64).view(np.int64))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_cipher_gives_its_authors_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    words = philox_blocks(tuple(map(as_tensor, counter)), tuple(map(as_tensor, key)))  # type: ignore[arg-type]
    assert tuple(int(word.numpy().view(np.uint64)[0]) for word in words) == expected


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 4099), (4, 6), (4096, 1000)])
def test_words_are_numpys(first: int, count: int) -> None:
    expected = np.random.Philox(key=KEY).random_raw(first + count)[first:]
    np.testing.assert_array_equal(philox_words(KEY, first, count).numpy().view(np.uint64), expected)


def test_normals_are_box_and_mullers_of_the_words() -> None:
    words = np.random.Philox(key=KEY).random_raw(100_000)
    # The largest and the smallest radius; the smallest and the largest angle.
    words[:4] = 0, ONES, 0xFFFFFE0000000000, 0xFFFFFF00
    upper = (words >> np.uint64(41)).astype(np.float64)
    lower = ((words >> np.uint64(8)) & np.uint64(0xFFFFFF)).astype(np.float64)
    radius, angle = np.sqrt(-2 * np.log((upper + 0.5) / 2**23)), 2 * math.pi * lower / 2**24
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    found = transform_to_normals(torch.from_numpy(words.view(np.int64))).numpy()
    # fp32 rounds angles of up to 2 pi by 2.4e-7, and radii are up to 5.8.
    assert np.abs(found - expected).max() < 2e-6


def test_the_normals_are_standard_and_independent() -> None:
    sample = NOISE.sample("augmentation", (1_000_000,)).double().numpy()
    # Limits of five standard errors; the sample is always the same.
    assert abs(sample.mean()) < 5e-3
    assert abs(sample.var() - 1) < 5 * math.sqrt(2e-6)
    assert abs((sample**3).mean()) < 5 * math.sqrt(15e-6)
    assert abs((sample**4).mean() - 3) < 5 * math.sqrt(96e-6)
    assert stats.kstest(sample, "norm").pvalue > 1e-3
    # Neighbours: the two normals of a word, and those of consecutive words.
    for lag in (1, 2, 3, 8):
        assert abs(np.corrcoef(sample[:-lag], sample[lag:])[0, 1]) < 5e-3
    # Squares too: two normals of a word share its radius, and must be independent all the same.
    assert abs(np.corrcoef(sample[::2] ** 2, sample[1::2] ** 2)[0, 1]) < 5 * math.sqrt(2e-6)
    other = WindowNoise(23, "0" * 64, 1).sample("augmentation", (1_000_000,)).double().numpy()
    assert abs(np.corrcoef(sample, other)[0, 1]) < 5e-3


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = NOISE.sample("latent", (9, 5, 7))
    monkeypatch.setattr("repro.backbones.noise._CHUNK", {"cpu": 8})
    assert torch.equal(NOISE.sample("latent", (9, 5, 7)), whole)
    # As on a device without numpy's generator.
    monkeypatch.setattr("repro.backbones.noise._CHUNK", {})
    monkeypatch.setattr("repro.backbones.noise._CHUNK_ELSEWHERE", 8)
    words = torch.cat([philox_words(KEY, first, 8) for first in range(0, 64, 8)])
    assert torch.equal(words, philox_words(KEY, 0, 64))


def test_one_program_computes_the_normals_of_all_keys_and_places() -> None:
    graphs = []

    def capture(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compute = Compiled(_compute_normals, backend=capture)
    for key, first in ((KEY, 0), (KEY, 64), (KEY + 1, 64)):
        words = np.random.Philox(key=key).random_raw(first + 64)[first:]
        expected = transform_to_normals(torch.from_numpy(words.view(np.int64)))
        assert torch.equal(compute(torch.tensor(first), *_key_words(key, torch.device("cpu")), 64), expected)
    assert len(graphs) == 1


def test_fewer_frames_take_the_beginning_of_the_same_noise() -> None:
    many, few = NOISE.sample("augmentation", (25, 3, 9, 7)), NOISE.sample("augmentation", (7, 3, 9, 7))
    assert torch.equal(many[:7], few)
    sampled = SampledNoise.of(NOISE, {"augmentation": (7, 3, 9, 7)})
    assert torch.equal(sampled.sample("augmentation", (7, 3, 9, 7)), few)


def test_noise_depends_on_what_it_is_for_alone() -> None:
    first = WindowNoise(23, "a" * 64, 0).sample("posterior", (3, 4))
    assert torch.equal(first, WindowNoise(23, "a" * 64, 0).sample("posterior", (3, 4)))
    others = [
        WindowNoise(24, "a" * 64, 0).sample("posterior", (3, 4)),
        WindowNoise(23, "b" * 64, 0).sample("posterior", (3, 4)),
        WindowNoise(23, "a" * 64, 1).sample("posterior", (3, 4)),
        WindowNoise(23, "a" * 64, 0).sample("augmentation", (3, 4)),
    ]
    assert all(not torch.equal(first, other) for other in others)
