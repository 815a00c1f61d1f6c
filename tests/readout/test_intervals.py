"""Predictions on disk give every score again, and an interval by clip or by source video."""

from pathlib import Path

import numpy as np
import pytest

from repro.core.errors import MissingError, UsageError
from repro.readout.intervals import SCORES, bootstrap
from repro.readout.metrics import all_scores
from repro.readout.predictions import read_predictions, write_predictions


def made(clips: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets = (draw.random((clips, 5)) < [0.5, 0.3, 0.2, 0.1, 0.0]).astype(np.int64)
    return (targets + draw.normal(size=targets.shape)).round(1), targets


@pytest.mark.parametrize("groups", [None, ("a", "b", None)])
def test_predictions_are_read_as_they_were_written(tmp_path: Path, groups: tuple[str | None, ...] | None) -> None:
    scores, targets = made(3)
    write_predictions(
        tmp_path / "p.parquet", ("x", "y", "z"), tuple("abcde"), targets, {4: scores, 9: scores / 3}, groups
    )
    found = read_predictions(tmp_path / "p.parquet")
    assert (found.clips, found.classes, found.groups) == (("x", "y", "z"), tuple("abcde"), groups)
    np.testing.assert_array_equal(found.targets, targets)
    assert list(found.by_epoch) == [4, 9]
    np.testing.assert_array_equal(found.by_epoch[9], scores / 3)
    assert all_scores(found.by_epoch[4], found.targets) == all_scores(scores, targets)


@pytest.mark.parametrize("content", [None, b"", b"not a table"])
def test_a_file_that_holds_no_predictions_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "p.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MissingError, match=r"p\.parquet: no"):
        read_predictions(path)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("grouped", [False, True])
def test_an_interval_is_that_of_resamples_scored_one_by_one(score: str, grouped: bool) -> None:
    """With the draws of the definition: every source as often as drawn, all of its clips each time."""
    scores, targets = made(40)
    groups = [f"v{n // 4}" for n in range(40)] if grouped else None
    found = bootstrap(score, scores, targets, groups, resamples=50, seed=5)
    draw = np.random.default_rng(5)
    values = []
    for _ in range(50):
        sources = draw.integers(0, 10, 10) if grouped else draw.integers(0, 40, 40)
        chosen = [n for s in sources for n in (range(4 * s, 4 * s + 4) if grouped else [s])]
        values.append(SCORES[score](scores[chosen], targets[chosen]))
    assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-12)
    assert found.value == SCORES[score](scores, targets)
    assert found.resampled == ("source videos" if grouped else "clips")


def test_it_covers_what_it_should_and_videos_widen_it() -> None:
    """Clips of a video that stand and fall together tell less than as many of their own."""
    draw = np.random.default_rng(1)
    covered, widths = 0, []
    for _ in range(100):
        right = np.repeat(draw.random(40) < 0.6, 5)
        scores = np.stack([right, ~right], axis=1).astype(float)
        targets = np.tile(np.array([[1, 0]]), (200, 1))
        groups = [f"v{n // 5}" for n in range(200)]
        by_video = bootstrap("top1", scores, targets, groups, resamples=200)
        by_clip = bootstrap("top1", scores, targets, resamples=200)
        covered += by_video.low <= 0.6 <= by_video.high
        widths.append((by_video.high - by_video.low) / (by_clip.high - by_clip.low))
    assert covered >= 88
    assert 1.8 < np.median(widths) < 2.6  # the square root of 5


def test_nothing_positive_and_an_unknown_score() -> None:
    scores, targets = made(10)
    assert bootstrap("map_micro", scores, np.zeros_like(targets), resamples=5).high == 0.0
    with pytest.raises(UsageError, match="score 'f1': expected one of map_micro"):
        bootstrap("f1", scores, targets)
