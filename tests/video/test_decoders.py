"""Decoding in workers: the same frames from any number of them, and a bad clip costs itself alone."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from builders.videos import Video, write_video

from repro.video.decoders import Decoders, Job
from repro.video.published import VideoError
from repro.video.readers import read_clip
from repro.video.sampling import Sampling

SAMPLING = Sampling(4, 180.0, 25)


def decode_all(paths: list[Path], workers: int, sampling: Sampling = SAMPLING) -> list[np.ndarray | str]:
    results: list[np.ndarray | str] = []
    with Decoders(workers) as pool:
        for decoding in pool.decode([Job(path, sampling) for path in paths]):
            try:
                results.append(np.concatenate(list(decoding)))
            except VideoError as error:
                results.append(str(error))
    return results


def read(path: Path) -> np.ndarray:
    return np.concatenate(list(read_clip(path, SAMPLING)))


def test_any_number_of_workers_gives_the_same_frames(rendered: dict[str, Path]) -> None:
    paths = list(rendered.values())
    expected = [read(path) for path in paths]
    for workers in (1, 3):
        for ours, theirs in zip(decode_all(paths, workers), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_clip_is_named_and_the_others_are_decoded(
    rendered: dict[str, Path], tmp_path: Path, workers: int
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    good = list(rendered.values())
    results = decode_all([good[0], bad, good[1], bad, good[2]], workers)
    assert [isinstance(r, str) for r in results] == [False, True, False, True, False]
    assert str(bad) in str(results[1])


def test_damage_is_reported_with_the_frames_that_decode(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mkv", Video("cut.mkv"), 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (refused,) = decode_all([path], 1)
    assert "--allow-damaged" in str(refused)
    with Decoders(1) as pool:
        decoding = next(pool.decode([Job(path, Sampling(4, 180.0, 25, allow_damaged=True))]))
        assert 0 < len(np.concatenate(list(decoding))) < 15
        assert "cut off" in decoding.damage


def test_a_clip_left_half_read_does_not_disturb_the_next(rendered: dict[str, Path]) -> None:
    by_size = sorted(rendered.values(), key=lambda path: path.stat().st_size)
    with Decoders(1) as pool:
        decodings = pool.decode([Job(by_size[-1], SAMPLING), Job(by_size[0], SAMPLING)])
        next(iter(next(decodings)))
        np.testing.assert_array_equal(np.concatenate(list(next(decodings))), read(by_size[0]))


def test_a_worker_that_dies_costs_its_clip_alone(rendered: dict[str, Path]) -> None:
    largest, other = sorted(rendered.values(), key=lambda path: -path.stat().st_size)[:2]
    with Decoders(1) as pool:
        decodings = pool.decode([Job(largest, Sampling(1, 180.0, 1)), Job(other, SAMPLING)])
        chunks = iter(next(decodings))
        next(chunks)
        os.kill(pool.pool.process_ids[0], signal.SIGKILL)
        with pytest.raises(VideoError, match=r"its process died \(killed"):
            list(chunks)
        np.testing.assert_array_equal(np.concatenate(list(next(decodings))), read(other))


def test_an_idle_worker_that_dies_is_replaced(rendered: dict[str, Path]) -> None:
    """As one killed for lack of memory between two clips."""
    paths = list(rendered.values())[:2]
    with Decoders(1) as pool:
        for path in paths:
            decoding = next(pool.decode([Job(path, SAMPLING)]))
            np.testing.assert_array_equal(np.concatenate(list(decoding)), read(path))
            os.kill(pool.pool.process_ids[0], signal.SIGKILL)
            time.sleep(0.2)


def test_a_reader_that_takes_too_long_is_given_up(rendered: dict[str, Path]) -> None:
    paths = list(rendered.values())
    with Decoders(1, time_limit=1e-4) as pool:
        decodings = pool.decode([Job(path, SAMPLING) for path in paths[:2]])
        with pytest.raises(VideoError, match=r"no frame within 0\.0001 s"):
            list(next(decodings))
        pool.time_limit = 60.0
        assert np.concatenate(list(next(decodings))).size
