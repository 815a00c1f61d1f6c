"""The short form of scripts/fuzz_media.py: damaged and odd clips are read as published or named, by both readers."""

from collections import Counter
from pathlib import Path

import pytest
from builders.fuzzed_media import Sources, fuzz, make_clip

from repro.video.published import VideoError
from repro.video.readers import read_clip
from repro.video.sampling import Sampling


def test_fuzzed_clips_are_read_as_published_or_named(tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="decord has no build for this platform")
    verdicts, _ = fuzz(tmp_path, seed=20, clips=40)
    assert {verdict.clip.path.name: verdict.faults for verdict in verdicts if verdict.faults} == {}
    assert set(Counter(verdict.outcome for verdict in verdicts)) == {"as published", "changed", "named"}
    assert max(verdict.peak for verdict in verdicts) < 500e6


def test_decord_does_not_return_other_frames_of_a_damaged_header(tmp_path: Path) -> None:
    """Found by seed 1: PyAV decodes this clip without a complaint, and all of decord's frames are others."""
    pytest.importorskip("decord", reason="decord has no build for this platform")
    clip = make_clip(Sources(tmp_path / "sources"), tmp_path, 1, 808)
    assert (clip.source, clip.altered) == ("gap.mkv", ("a part overwritten",))
    assert sum(map(len, read_clip(clip.path, Sampling(4, 180.0, 25)))) == 10
    with pytest.raises(VideoError, match="another frame 0 than PyAV"):
        list(read_clip(clip.path, Sampling(4, 180.0, 25, "decord")))


def test_a_seed_and_a_number_give_the_same_clip(tmp_path: Path) -> None:
    first, second = (tmp_path / "first", tmp_path / "second")
    for folder in (first, second):
        folder.mkdir()
    sources = Sources(tmp_path / "sources")
    clips = [make_clip(sources, folder, 3, 4) for folder in (first, second)]
    assert clips[0].path.read_bytes() == clips[1].path.read_bytes()
    assert clips[0].path.read_bytes() != make_clip(sources, first, 3, 5).path.read_bytes()
