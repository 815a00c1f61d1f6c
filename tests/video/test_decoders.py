"""Decoding in workers: the same frames from any number of them, and a bad clip costs itself alone."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from repro.video.decoders import Decoders, Job
from repro.video.readers import VideoError, read_decord


def jobs(paths: list[Path]) -> list[Job]:
    return [Job(path, 4, 180.0, 25) for path in paths]


def decoded(paths: list[Path], workers: int) -> list[np.ndarray | str]:
    results: list[np.ndarray | str] = []
    with Decoders(workers) as pool:
        for decoding in pool.decode(jobs(paths)):
            try:
                results.append(np.concatenate(list(decoding)))
            except VideoError as error:
                results.append(str(error))
    return results


def test_any_number_of_workers_gives_the_same_frames(rendered: dict[str, Path]) -> None:
    paths = list(rendered.values())
    expected = [np.concatenate(list(read_decord(path, 4, 180.0, 25))) for path in paths]
    for workers in (1, 3):
        for ours, theirs in zip(decoded(paths, workers), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_clip_is_named_and_the_others_come(rendered: dict[str, Path], tmp_path: Path, workers: int) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    good = list(rendered.values())
    results = decoded([good[0], bad, good[1], bad, good[2]], workers)
    assert [isinstance(r, str) for r in results] == [False, True, False, True, False]
    assert str(bad) in str(results[1])


def test_a_clip_left_half_read_does_not_disturb_the_next(rendered: dict[str, Path]) -> None:
    long, other = (
        next(p for p in rendered.values() if p.stat().st_size == size)
        for size in (max(p.stat().st_size for p in rendered.values()), min(p.stat().st_size for p in rendered.values()))
    )
    with Decoders(1) as pool:
        decodings = pool.decode(jobs([long, other]))
        next(iter(next(decodings)))
        np.testing.assert_array_equal(
            np.concatenate(list(next(decodings))), np.concatenate(list(read_decord(other, 4, 180.0, 25)))
        )


def test_a_worker_that_dies_is_replaced_and_pyav_goes_on(rendered: dict[str, Path]) -> None:
    path = max(rendered.values(), key=lambda p: p.stat().st_size)
    expected = np.concatenate(list(read_decord(path, 4, 180.0, 5)))
    with Decoders(1) as pool:
        decoding = next(pool.decode([Job(path, 4, 180.0, 5)]))
        chunks = iter(decoding)
        first = next(chunks)
        os.kill(pool.pool.process_ids[0], signal.SIGKILL)
        np.testing.assert_array_equal(np.concatenate([first, *chunks]), expected)
        assert decoding.reader == "pyav"
        assert decoding.instead.startswith("its process died (killed")


def test_a_reader_that_takes_too_long_is_given_up(rendered: dict[str, Path]) -> None:
    paths = list(rendered.values())
    with Decoders(1, time_limit=1e-4) as pool:
        decodings = pool.decode(jobs(paths[:2]))
        with pytest.raises(VideoError, match=r"no frame within 0\.0001 s"):
            list(next(decodings))
        pool.time_limit = 60.0
        assert np.concatenate(list(next(decodings))).size
