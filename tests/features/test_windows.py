"""Windows of a clip contain every frame, however the decoder chunks them."""

import numpy as np
import pytest

from repro.backbones.config import Frames
from repro.features.windows import WindowCutter


@pytest.mark.parametrize("frames", [Frames(window=16), Frames(window=16, overlap=12), Frames(window=5, overlap=1)])
@pytest.mark.parametrize("count", [1, 4, 5, 15, 16, 17, 20, 21, 33, 64])
@pytest.mark.parametrize("chunk", [3, 16, 25])
def test_windows_contain_every_frame_and_are_as_many_as_planned(frames: Frames, count: int, chunk: int) -> None:
    clip = np.arange(count, dtype=np.uint8).repeat(3).reshape(-1, 1, 1, 3)
    cutter = WindowCutter(frames)
    found = [w for at in range(0, count, chunk) for w in cutter.add_chunk(clip[at : at + chunk])] + list(
        cutter.finish_clip()
    )
    assert len(found) == frames.windows(count)
    for number, window in enumerate(found):
        np.testing.assert_array_equal(window, clip[number * frames.hop : number * frames.hop + frames.window])
    assert {int(i) for window in found for i in window.ravel()} == set(range(count))
    assert list(cutter.finish_clip()) == []
