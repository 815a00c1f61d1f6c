"""Windows of a clip contain every frame, however the decoder chunks them."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from repro.backbones.config import FrameSampling
from repro.backbones.noise import SampledNoise, WindowNoise
from repro.datasets.split import Clip
from repro.features.windows import Window, WindowBatch, WindowCutter, add_noise


def cut(frames: FrameSampling, count: int, chunk: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A clip whose frames are numbered, and its windows; the cutter is ready for another clip."""
    clip = np.arange(count, dtype=np.uint8).repeat(3).reshape(-1, 1, 1, 3)
    cutter = WindowCutter(frames)
    found = [w for at in range(0, count, chunk) for w in cutter.add_chunk(clip[at : at + chunk])]
    found += cutter.finish_clip()
    assert list(cutter.finish_clip()) == []
    return clip, found


@pytest.mark.parametrize(
    "frames", [FrameSampling(window=16), FrameSampling(window=16, overlap=12), FrameSampling(window=5, overlap=1)]
)
@pytest.mark.parametrize("count", [1, 4, 5, 15, 16, 17, 20, 21, 33, 64])
@pytest.mark.parametrize("chunk", [3, 16, 25])
def test_windows_contain_every_frame_and_are_as_many_as_planned(frames: FrameSampling, count: int, chunk: int) -> None:
    clip, found = cut(frames, count, chunk)
    assert len(found) == frames.windows(count)
    for number, window in enumerate(found):
        np.testing.assert_array_equal(window, clip[number * frames.hop : number * frames.hop + frames.window])
    assert {int(i) for window in found for i in window.ravel()} == set(range(count))


def test_a_cpus_noise_is_sampled_ahead_and_a_gpus_where_it_is_used_and_both_are_the_same() -> None:
    extractor: Any = SimpleNamespace(
        backbones=("x",), frames=FrameSampling(window=4), at_once=2, batch="2 windows", features=print,
        noise_seed=5, noise_shapes=lambda real: {"posterior": (real, 3)},
    )  # fmt: skip
    clip = Clip("a", Path("nowhere"), (0,))
    frames = np.zeros((4, 1, 1, 3), np.uint8)
    windows = [Window(clip, number, frames) for number, frames in enumerate((frames, frames, frames[:2]))]
    events = [WindowBatch(extractor, tuple(windows[:2])), WindowBatch(extractor, tuple(windows[2:]))]
    ahead, there = ([noises for _, noises in add_noise(iter(events), {"a": "b" * 64}, d)] for d in ("cpu", "cuda"))
    assert [len(noises) for noises in ahead] == [len(noises) for noises in there] == [2, 1]
    for number, (one, other) in enumerate(zip(chain(*ahead), chain(*there), strict=True)):
        assert isinstance(one, SampledNoise)
        assert other == WindowNoise(5, "b" * 64, number)
        shape = (2, 3) if number == 2 else (4, 3)
        assert torch.equal(one.sample("posterior", shape), other.sample("posterior", shape))


@pytest.mark.parametrize(
    "frames",
    [
        FrameSampling(window=16, tail_window=False),
        FrameSampling(window=16, overlap=12, tail_window=False),
        FrameSampling(window=5, overlap=1, tail_window=False),
    ],
)
@pytest.mark.parametrize("count", [1, 4, 5, 15, 16, 17, 20, 21, 33, 64])
@pytest.mark.parametrize("chunk", [3, 16, 25])
def test_without_a_tail_window_all_windows_are_complete(frames: FrameSampling, count: int, chunk: int) -> None:
    _, found = cut(frames, count, chunk)
    if count < frames.window:  # the clip has no other window
        assert [len(window) for window in found] == [count]
    else:
        assert {len(window) for window in found} == {frames.window}
        assert count - frames.frames_in_windows(count) < frames.hop
    assert len(found) == frames.windows(count)
    assert len(np.unique(np.concatenate(found))) == frames.frames_in_windows(count)


def test_defaults_of_new_keys_enter_no_key_of_features() -> None:
    """Features stored before the keys existed keep their content keys."""
    assert set(FrameSampling().model_dump(mode="json")) == {"stride", "max_seconds", "reader", "window", "overlap"}
    assert FrameSampling(tail_window=False).model_dump(mode="json")["tail_window"] is False
