"""The short form of scripts/fuzz_media.py: damaged and odd clips are read as published or named, by both readers."""

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from builders.fuzzed_media import Sources, fuzz, make_clip

from repro.video.published import VideoError
from repro.video.readers import read_clip
from repro.video.sampling import Sampling


@pytest.mark.slow
def test_fuzzed_clips_are_read_as_published_or_named(tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="decord has no build for this platform")
    verdicts, _ = fuzz(tmp_path, seed=20, clips=40)
    assert {verdict.clip.path.name: verdict.faults for verdict in verdicts if verdict.faults} == {}
    assert set(Counter(verdict.outcome for verdict in verdicts)) == {"as published", "changed", "named"}
    assert max(verdict.peak for verdict in verdicts) < 500e6


@pytest.mark.parametrize(("seed", "number", "source", "frame"), [(1, 808, "gap.mkv", 0), (3107, 238, "h264.mp4", 8)])
def test_decord_does_not_return_other_frames_of_a_damaged_clip(
    seed: int, number: int, source: str, frame: int, tmp_path: Path
) -> None:
    """Found by these seeds: PyAV decodes both without a complaint; all of decord's frames of one are others, and one of the other."""
    pytest.importorskip("decord", reason="decord has no build for this platform")
    clip = make_clip(Sources(tmp_path / "sources"), tmp_path, seed, number)
    assert (clip.source, clip.altered) == (source, ("a part overwritten",))
    list(read_clip(clip.path, Sampling(4, 180.0, 25)))
    with pytest.raises(VideoError, match=f"another frame {frame} than PyAV"):
        list(read_clip(clip.path, Sampling(4, 180.0, 25, "decord")))


USED_MEMORY = """
import ctypes, hashlib, sys
from pathlib import Path
from repro.video.decoders import Job, prepare_decoding
from repro.video.sampling import Sampling
decode, library = prepare_decoding(), ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for value in (0, 85, 255):
    places = []
    for size in (2000, 4000, 5000, 8000, 12000, 20000, 50000, 100000) * 40:
        places.append(library.malloc(size))
        ctypes.memset(places[-1], value, size)
    for place in places[::2] + places[1::2]:
        library.free(place)
    frames = hashlib.sha256()
    decode(Job(Path(sys.argv[1]), Sampling(4, 180.0, 25)), lambda chunk: chunk is not None and frames.update(chunk.tobytes()))
    print(frames.hexdigest())
"""


def test_frames_do_not_depend_on_what_memory_held_before(tmp_path: Path) -> None:
    """Found by seed 3107: FFmpeg's decoder of Ut Video leaves a part of a damaged picture as it was allocated."""
    clip = make_clip(Sources(tmp_path / "sources"), tmp_path, 3107, 229)
    assert (clip.source, clip.altered) == ("utvideo.avi", ("a part overwritten",))
    done = subprocess.run([sys.executable, "-c", USED_MEMORY, clip.path], capture_output=True, text=True, check=True)
    digests = done.stdout.split()
    assert len(digests) == 3
    assert len(set(digests)) == 1
    assert digests[0] != hashlib.sha256().hexdigest()


def test_a_seed_and_a_number_give_the_same_clip(tmp_path: Path) -> None:
    first, second = (tmp_path / "first", tmp_path / "second")
    for folder in (first, second):
        folder.mkdir()
    sources = Sources(tmp_path / "sources")
    clips = [make_clip(sources, folder, 3, 4) for folder in (first, second)]
    assert clips[0].path.read_bytes() == clips[1].path.read_bytes()
    assert clips[0].path.read_bytes() != make_clip(sources, first, 3, 5).path.read_bytes()
