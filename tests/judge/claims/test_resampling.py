"""Scores on samples of source videos are those of the metric with the videos repeated."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from repro.judge.claims.resampling import index_groups, resample_score, sample_groups
from repro.readout.metrics import map_micro, top1


def made_up(decimals: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties if rounded, targets and source videos of 60 clips."""
    draw = np.random.default_rng(seed)
    targets = (draw.random((60, 7)) < 0.2).astype(np.int64)
    scores = (draw.normal(size=(60, 7)) + targets).round(decimals)
    return scores, targets, index_groups([str(n) for n in range(60)], [str(n % 17) for n in range(60)])


@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_average_precision_is_scikit_learns_with_sample_weights(decimals: int) -> None:
    scores, targets, groups = made_up(decimals)
    # More samples than are computed at once.
    weights = sample_groups(17, 260)
    found = resample_score("map_micro", scores, targets, groups, weights)
    for sample in (0, 1, 249, 250, 259):
        repeated = np.repeat(weights[groups, sample], 7)
        expected = average_precision_score(targets.ravel(), scores.ravel(), sample_weight=repeated)
        assert found[sample] / 100 == pytest.approx(expected, abs=1e-13)


def test_every_video_once_is_the_score_itself() -> None:
    scores, targets, groups = made_up(2)
    once = np.ones((17, 1), np.float32)
    for metric, score in (("map_micro", map_micro), ("top1", top1)):
        assert resample_score(metric, scores, targets, groups, once)[0] == pytest.approx(100 * score(scores, targets))


def test_a_sample_is_the_clips_of_its_videos() -> None:
    scores, targets, groups = made_up(12)
    weights = sample_groups(17, 5)
    for metric, score in (("map_micro", map_micro), ("top1", top1)):
        found = resample_score(metric, scores, targets, groups, weights)
        for sample in range(5):
            repeated = np.repeat(np.arange(60), weights[groups, sample].astype(int))
            assert found[sample] == pytest.approx(100 * score(scores[repeated], targets[repeated]))


def test_samples_without_a_positive_score_nothing() -> None:
    targets = np.zeros((4, 2), np.int64)
    targets[0, 0] = 1
    weights = np.array([[0, 2], [1, 0], [1, 0], [2, 2]], np.float32)
    scores = np.array([[0.9, 0.1], [0.8, 0.7], [0.2, 0.3], [0.1, 0.2]])
    assert resample_score("map_micro", scores, targets, np.arange(4), weights).tolist() == [0.0, 100.0]
    assert resample_score("map_micro", scores, np.zeros((4, 2), np.int64), np.arange(4), weights).tolist() == [0, 0]


def test_the_spread_over_samples_of_clips_is_the_binomials() -> None:
    scores = np.zeros((400, 2))
    scores[:, 0] = 1
    targets = np.zeros((400, 2), np.int64)
    targets[:240, 0], targets[240:, 1] = 1, 1
    alone = index_groups([str(n) for n in range(400)], None)
    spread = resample_score("top1", scores, targets, alone, sample_groups(400)).std()
    assert spread == pytest.approx(100 * np.sqrt(0.6 * 0.4 / 400), rel=0.06)
    # Ten clips a video that are right or wrong together: the square root of ten times as much.
    tens = index_groups([str(n) for n in range(400)], [str(n // 10) for n in range(400)])
    together = resample_score("top1", scores, targets, tens, sample_groups(40)).std()
    assert together == pytest.approx(100 * np.sqrt(0.6 * 0.4 / 40), rel=0.06)


def test_a_clip_without_a_video_is_one_of_its_own() -> None:
    assert index_groups(["a", "b", "c", "d"], ["b", None, "b", ""]).tolist() == [0, 1, 0, 2]
    assert index_groups(["a", "b"], None).tolist() == [0, 1]


def test_samples_repeat() -> None:
    assert np.array_equal(sample_groups(9, 20), sample_groups(9, 20))
    assert (sample_groups(9, 20).sum(axis=0) == 9).all()
