"""Large pictures are handed on a few frames at a time, converted one by one, and not held longer than they are computed."""

import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders.videos import Video, write_video

from repro.backbones import device
from repro.backbones.config import FrameSampling
from repro.backbones.svd.pictures import to_pixels
from repro.datasets.split import Clip
from repro.features import windows
from repro.features.computing import Waits, compute_batches
from repro.features.windows import add_noise, batch_windows
from repro.video import published
from repro.video.decoders import Decoding, Job
from repro.video.published import VideoError, index_clip
from repro.video.readers import read_clip
from repro.video.sampling import Sampling


def test_frames_are_handed_on_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4", Video("clip.mp4"), 60)
    sampling = Sampling(4, 180.0, 25)
    whole = list(read_clip(path, sampling))
    monkeypatch.setattr(published, "CHUNK_BYTES", 64 * 48 * 3 * 2)
    parts = list(read_clip(path, sampling))
    assert ([len(part) for part in whole], {len(part) for part in parts}) == ([15], {1, 2})
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])


def test_pictures_beyond_any_use_are_refused(tmp_path: Path) -> None:
    """A few kB decode to 268 million pixels."""
    path = write_video(tmp_path / "large.mkv", Video("large.mkv", "ffv1", "gray", size=(16384, 8)), 1)
    assert index_clip(path, 180.0).width == 16384
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "MOST_PIXELS", 16384 * 8 - 1)
        with pytest.raises(VideoError, match=r"large\.mkv: pictures of 16384x8; at most 131,071 pixels are read"):
            index_clip(path, 180.0)


def test_large_frames_are_converted_one_by_one_to_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)
    whole = to_pixels(frames, (32, 40))
    monkeypatch.setattr(device, "LARGE_BYTES", 0)
    assert torch.equal(to_pixels(frames, (32, 40)), whole)


@pytest.mark.parametrize(("large", "most"), [(False, 1), (True, 0)])
def test_a_large_window_is_gone_before_the_next_is_decoded(
    large: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(windows, "LARGE", 0)
    made: list[weakref.ref[np.ndarray]] = []
    alive = []

    def watch(*words: Any) -> np.ndarray:
        made.append(weakref.ref(array := allocate(*words)))
        return array

    def decode() -> Iterator[np.ndarray]:
        for number in range(100):
            if number and number % 25 == 0:
                alive.append(sum(one() is not None for one in made))
            yield np.full((1, 4, 4, 3), number, np.uint8)

    allocate = np.empty
    monkeypatch.setattr(np, "empty", watch)
    extractor: Any = SimpleNamespace(
        backbones=("x",), frames=FrameSampling(window=25), at_once=1, batch="", noise_seed=1, noise_shapes=lambda real: {},
        features=lambda frames, noises: {"x": {"final": frames[0].mean(axis=(1, 2))}},
    )  # fmt: skip
    clip = Clip("a", Path("nowhere"), (0,))
    decoding = Decoding(Job(clip.path, Sampling(4, 180.0, 25)), decode())
    events = batch_windows([clip], [decoding], [extractor], {"a": {"x": ()}})
    for computed in compute_batches(add_noise(events, {"a": "b" * 64}, "cpu"), 0, Waits()):
        del computed
    assert max(alive) == most
