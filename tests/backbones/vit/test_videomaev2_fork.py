"""VideoMAEv2's recipe is the author's: windows, pixels and features of his fork, and no frame is decoded or resized twice."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import fork_clips
from builders.videos import Video, write_video
from safetensors.numpy import load_file

from repro.backbones.comparison import relative_l2
from repro.backbones.config import Cell
from repro.backbones.registry import load_backbone
from repro.backbones.vit import pictures
from repro.backbones.vit.config import PictureConfig, VitConfig
from repro.backbones.vit.extractor import VitExtractor
from repro.backbones.vit.pictures import FrameResizer, resize_frames
from repro.backbones.vit.videomaev2 import Videomaev2Encoder
from repro.core.errors import UsageError
from repro.features.windows import WindowCutter
from repro.video import published
from repro.video.readers import read_clip
from repro.video.sampling import Sampling

TOLERANCE = 1e-6
"""Relative L2 in fp32 on a CPU; the same code on another machine differs by 1e-7."""
FINAL = (Cell(layer="final"),)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load_file(fork_clips.GOLDEN)


@pytest.fixture(scope="module")
def encoder(golden: dict[str, np.ndarray]) -> Videomaev2Encoder:
    weights = {
        name.removeprefix("weights/"): torch.from_numpy(values).float()
        for name, values in golden.items()
        if name.startswith("weights/")
    }
    return Videomaev2Encoder(weights, fork_clips.SIZES, fork_clips.NUM_HEADS)


def small_config(**changes: str) -> VitConfig:
    """The row's backbone with the golden encoder's sizes."""
    small = {"encoder": fork_clips.SIZES.model_dump_json(), "num_heads": str(fork_clips.NUM_HEADS)}
    config = load_backbone("videomaev2", small | {key.replace("__", "."): value for key, value in changes.items()})
    assert isinstance(config, VitConfig)
    return config


def compute(extractor: VitExtractor, clip: np.ndarray, chunk: int = 16) -> np.ndarray:
    """A clip's vectors, its frames arriving in chunks, its windows in batches."""
    cutter = WindowCutter(extractor.frames)
    windows = [w for at in range(0, len(clip), chunk) for w in cutter.add_chunk(clip[at : at + chunk])]
    windows += cutter.finish_clip()
    step = extractor.at_once
    found = [extractor.features(windows[at : at + step], []) for at in range(0, len(windows), step)]
    return np.concatenate([batch["videomaev2"]["final"] for batch in found])


def start_indices(frames: int) -> list[int]:
    """First frames of the fork's windows, by its rule."""
    return list(range(0, frames - 15, 4)) if frames >= 16 else [0]


# Against the fork.


@pytest.mark.slow
@pytest.mark.parametrize(("chunk", "batch", "longest"), [(16, 1, 100), (25, 4, 51)])
def test_features_are_the_forks(
    golden: dict[str, np.ndarray], encoder: Videomaev2Encoder, chunk: int, batch: int, longest: int
) -> None:
    extractor = VitExtractor(small_config(), encoder, FINAL, "cpu", batch)
    for clip in fork_clips.CLIPS:
        if clip[0] > longest:
            continue
        name = fork_clips.name_clip(*clip)
        theirs, ours = golden[f"features/{name}"], compute(extractor, fork_clips.draw_clip(*clip), chunk)
        assert ours.shape == theirs.shape == (len(start_indices(clip[0])), fork_clips.SIZES.width), name
        assert relative_l2(ours, theirs) < TOLERANCE, name


WRONG = {
    "ImageNet's statistics": {"picture": "{fit: stretch, size: 224, normalisation: imagenet}"},
    "centre of the picture": {"picture": "{fit: crop, short_side: 224, size: 224, normalisation: unit}"},
    "norm of the mean": {"norm": "fc_norm"},
    "padding left out": {"keep_padded_tubelets": "false"},
}


@pytest.mark.parametrize("what", WRONG)
def test_another_choice_is_seen(golden: dict[str, np.ndarray], encoder: Videomaev2Encoder, what: str) -> None:
    extractor = VitExtractor(small_config(**WRONG[what]), encoder, FINAL, "cpu")
    clip = (10, 48, 64)  # shorter than a window, and no square
    ours = compute(extractor, fork_clips.draw_clip(*clip))
    assert relative_l2(ours, golden[f"features/{fork_clips.name_clip(*clip)}"]) > 1000 * TOLERANCE


def test_neighbouring_windows_differ_in_the_golden_values(golden: dict[str, np.ndarray]) -> None:
    """Otherwise they could not tell a window that starts at the wrong frame."""
    found = golden["features/n100_36x48"]
    apart = [relative_l2(after, before) for before, after in pairwise(found)]
    assert min(apart) > 1000 * TOLERANCE


def test_windows_begin_where_the_forks_do() -> None:
    frames = small_config().frames
    for count in range(1, 201):
        clip = np.arange(count, dtype=np.uint8).repeat(3).reshape(-1, 1, 1, 3)
        for chunk in (7, 16):
            cutter = WindowCutter(frames)
            windows = [w for at in range(0, count, chunk) for w in cutter.add_chunk(clip[at : at + chunk])]
            windows += cutter.finish_clip()
            assert [int(window[0, 0, 0, 0]) for window in windows] == start_indices(count)
            assert {len(window) for window in windows} == {min(16, count)}
        assert frames.windows(count) == small_config().vectors(count) == len(start_indices(count))


def test_clips_are_read_completely() -> None:
    """The fork reads whole files, without the 180 seconds of the release's reader."""
    frames = load_backbone("videomaev2").frames
    assert frames.max_seconds is None
    assert load_backbone("videomaev2_tubelet").frames.max_seconds == 180.0


# Each frame once.


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of frames of each call that resizes."""
    counts: list[int] = []

    def spy(frames: np.ndarray, *args: Any) -> torch.Tensor:
        counts.append(len(frames))
        return resize_frames(frames, *args)

    monkeypatch.setattr(pictures, "resize_frames", spy)
    return counts


@pytest.mark.parametrize("batch", [1, 3])
def test_a_frame_is_decoded_and_resized_once(
    encoder: Videomaev2Encoder, resized: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    path = write_video(tmp_path / "clip.mp4", Video("clip"), 51)
    decoded: list[int] = []
    convert = published._to_rgb

    def spy(frame: Any) -> np.ndarray:
        decoded.append(frame.pts)
        return convert(frame)

    monkeypatch.setattr(published, "_to_rgb", spy)
    extractor = VitExtractor(small_config(), encoder, FINAL, "cpu", batch)
    frames = extractor.frames
    cutter = WindowCutter(frames)
    waiting: list[np.ndarray] = []
    vectors = 0

    def flush() -> Iterator[int]:
        while waiting:
            yield len(extractor.features(waiting[:batch], [])["videomaev2"]["final"])
            del waiting[:batch]

    for chunk in read_clip(path, Sampling(frames.stride, frames.last_second, frames.window)):
        waiting += cutter.add_chunk(chunk)
        vectors += sum(flush())
    waiting += cutter.finish_clip()
    vectors += sum(flush())
    assert vectors == 9
    assert len(decoded) == len(set(decoded)) == 51
    # 9 windows of 16, 144 frames, cut from the first 48; the last 3 frames are in none.
    assert sum(resized) == 16 + 8 * 4


def test_resizing_depends_on_the_window_alone(resized: list[int]) -> None:
    picture = PictureConfig(fit="stretch", size=28, normalisation="unit")
    clip, other = fork_clips.draw_clip(24, 30, 40), 255 - fork_clips.draw_clip(24, 30, 40)
    resizer = FrameResizer(picture, hop=4)
    for window in (clip[:16], clip[4:20], other[4:20], clip[8:24], clip[8:24], clip[:3], clip[8:24]):
        expected = resize_frames(window, picture)
        (found,) = resizer.resize_windows([window], len(window))
        assert torch.equal(found.transpose(0, 1), expected)
    assert resized == [16, 4, 16, 16, 16, 3, 16]


def test_an_array_may_be_overwritten_between_calls() -> None:
    """A still clip's frames are all alike: what is compared must be what was resized, not what the array holds now."""
    picture = PictureConfig(fit="stretch", size=28, normalisation="unit")
    resizer = FrameResizer(picture, hop=4)
    buffer = np.full((16, 30, 40, 3), 10, np.uint8)
    resizer.resize_windows([buffer], 16)
    buffer[:] = 200
    fresh = FrameResizer(picture, hop=4)
    assert torch.equal(resizer.resize_windows([buffer], 16), fresh.resize_windows([buffer], 16))


# Messages.


@pytest.mark.parametrize(
    ("backbone", "change", "remedy"),
    [
        ("vjepa", {"picture.fit": "stretch"}, {"picture.short_side": "null"}),
        ("videomaev2", {"picture.fit": "crop"}, {"picture.short_side": "224"}),
    ],
)
def test_another_fit_alone_says_what_else_it_needs(
    backbone: str, change: dict[str, str], remedy: dict[str, str]
) -> None:
    ((key, value),) = remedy.items()
    with pytest.raises(UsageError, match=f"add --set {key}={value}"):
        load_backbone(backbone, change)
    config = load_backbone(backbone, change | remedy)
    assert isinstance(config, VitConfig)
    assert config.picture.fit == change["picture.fit"]
