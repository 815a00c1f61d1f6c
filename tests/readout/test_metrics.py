"""Every score equals its definition, computed by brute force, and the release's golden values."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from repro.readout.metrics import (
    all_scores,
    average_precision_by_class,
    chance_scores,
    class_prior_scores,
    constant_scores,
    map_macro,
    map_micro,
)

SEGMENTS = {"head": (0, 1), "tail": (2, 3, 4)}


def brute_force_ap(scores: np.ndarray, targets: np.ndarray) -> float:
    """Average precision by definition: sum over thresholds of precision times the gain in recall; ties share a threshold."""
    total, previous = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = targets[taken].sum() / targets.sum()
        total += (recall - previous) * targets[taken].mean()
        previous = recall
    return total


def brute_force(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Compute every score pair by pair."""
    clips, classes = range(len(scores)), range(scores.shape[1])
    present = [k for k in classes if any(targets[n, k] for n in clips)]
    if not present:
        return dict.fromkeys(all_scores(scores, targets, SEGMENTS), 0.0)

    def macro(among: list[int]) -> float:
        return sum(brute_force_ap(scores[:, k], targets[:, k]) for k in among) / len(among) if among else 0.0

    guesses = [max(classes, key=lambda k: scores[n, k]) for n in clips]  # of equals the first
    among = [max(present, key=lambda k: scores[n, k]) for n in clips]
    accuracies = []
    for k in present:
        own = [n for n in clips if targets[n, k]]
        accuracies.append(sum(guesses[n] == k for n in own) / len(own))
    return {
        "map_micro": brute_force_ap(scores.ravel(), targets.ravel()),
        "map_macro": macro(present),
        "map_macro_head": macro([k for k in SEGMENTS["head"] if k in present]),
        "map_macro_tail": macro([k for k in SEGMENTS["tail"] if k in present]),
        "top1": sum(targets[n, guesses[n]] for n in clips) / len(clips),
        "top1_occurring": sum(targets[n, among[n]] for n in clips) / len(clips),
        "class_accuracy": sum(accuracies) / len(accuracies),
    }


CASES = (
    "plain",
    "ties",
    "all tied",
    "empty class",
    "empty segment",
    "one clip",
    "one class",
    "single label",
    "no positive",
)


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_their_definitions(case: str) -> None:
    draw = np.random.default_rng(4)
    scores = draw.random((40, 5))
    targets = (draw.random((40, 5)) < 0.3).astype(np.int64)
    if case == "ties":
        scores = scores.round(1)
    elif case == "all tied":
        scores[:] = 0.5
    elif case == "empty class":
        targets[:, 2] = 0
    elif case == "empty segment":
        targets[:, :2] = 0
    elif case == "one clip":
        scores, targets = scores[:1], np.array([[0, 1, 0, 0, 1]])
    elif case == "one class":
        targets[:] = [0, 0, 0, 1, 0]
    elif case == "single label":
        targets = np.eye(5, dtype=np.int64)[draw.integers(0, 4, 40)]
    elif case == "no positive":
        targets[:] = 0
    ours, expected = all_scores(scores, targets, SEGMENTS), brute_force(scores, targets)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_scores_equal_the_releases(reference: Path) -> None:
    kit = load_file(reference / "parity" / "readout" / "transformer.safetensors")
    scores, targets = kit["metric/scores"].double().numpy(), kit["metric/targets"].numpy()
    assert map_micro(scores, targets) == pytest.approx(kit["metric/map_micro"].item(), abs=1e-6)
    assert map_macro(scores, targets) == pytest.approx(kit["metric/map_macro"].item(), abs=1e-6)


@pytest.mark.slow
def test_a_perfect_ranking_scores_one_and_not_more() -> None:
    """A run's record refuses a share that exceeds 1 by a rounding error."""
    draw = np.random.default_rng(0)
    for clips in range(1, 300):
        targets = (draw.random((clips, 3)) < 0.4).astype(np.int64)
        perfect = all_scores(targets + draw.random(targets.shape) / 2, targets)
        assert max(perfect.values()) <= 1.0
        assert perfect["map_micro"] == pytest.approx(float(targets.any()), abs=1e-12)


def test_without_segments_there_are_no_segment_scores() -> None:
    assert not [name for name in all_scores(np.zeros((2, 3)), np.eye(3, dtype=np.int64)[:2]) if "head" in name]


def test_chance_equals_the_mean_score_of_random_guesses() -> None:
    draw = np.random.default_rng(2)
    targets = (draw.random((300, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.0]).astype(np.int64)
    expected = chance_scores(targets)
    guessed = [all_scores(draw.random(targets.shape), targets) for _ in range(60)]
    for name, value in expected.items():
        assert np.mean([g[name] for g in guessed]) == pytest.approx(value, abs=0.02), name
    assert set(expected) == set(guessed[0])
    assert set(chance_scores(np.zeros_like(targets)).values()) == {0.0}


def test_class_prior_and_constant_scores_reflect_class_frequencies() -> None:
    learned = np.eye(3, dtype=np.int64)[[0, 1, 1, 1]]
    targets = np.eye(3, dtype=np.int64)[[1, 1, 0, 2]]
    prior, constant = class_prior_scores(learned, targets), constant_scores(targets)
    assert prior["top1"] == 0.5  # the commonest class of the training split
    assert prior["map_micro"] == pytest.approx(2 / 4 * 2 / 4 + 1 / 4 * 3 / 8 + 1 / 4 * 4 / 12)
    assert prior["map_macro"] == pytest.approx((1 / 4 + 2 / 4 + 1 / 4) / 3)
    assert constant["map_micro"] == pytest.approx(4 / 12)
    assert constant["top1"] == 0.25  # the first class


@pytest.mark.parametrize("count", [1, 2, 7, 129, 5000])
@pytest.mark.parametrize("levels", [1, 3, 50, 10**9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_average_precision_is_scikit_learns_bit_for_bit(count: int, levels: int, dtype: type) -> None:
    rng = np.random.default_rng([count, levels])
    for share in (0.02, 0.5, 1.0):
        scores = (rng.integers(0, levels, (count, 2)) / levels - 0.5).astype(dtype)
        targets = (rng.random((count, 2)) < share).astype(np.int64)
        targets[rng.integers(count)] = 1
        by_class = [min(1.0, average_precision_score(*of)) for of in zip(targets.T, scores.T, strict=True)]
        assert average_precision_by_class(scores, targets).tolist() == by_class
        assert map_micro(scores, targets) == min(1.0, average_precision_score(targets.ravel(), scores.ravel()))


def test_scores_that_are_not_finite_are_refused() -> None:
    targets = np.ones((3, 2), np.int64)
    for bad in (np.nan, np.inf):
        scores = np.zeros((3, 2))
        scores[1, 1] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            all_scores(scores, targets)
