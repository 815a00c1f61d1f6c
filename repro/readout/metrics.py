"""Scores of a split: the published metrics, the data sets' official ones, and what predictors that see no feature reach.

Scores are `[N, K]`, larger for a likelier class; targets `[N, K]`, 0 or 1. Metrics are shares of 1, and 0 if no target is
positive. If classes have equal scores, the first of them is the prediction.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt32

Scores = Float[np.ndarray, "N K"]
Targets = Int[np.ndarray, "N K"]
Segments = Mapping[str, Sequence[int]]
"""Label ids by segment, such as head, middle and tail of Animal Kingdom's table of class frequencies."""


def all_scores(scores: Scores, targets: Targets, segments: Segments | None = None) -> dict[str, float]:
    """Compute every metric by name, and map_macro within each segment.

    The names are keys of run records and MLflow metrics.
    """
    return {
        "map_micro": map_micro(scores, targets),
        "map_macro": map_macro(scores, targets),
        **{
            f"map_macro_{name}": map_macro(scores[:, list(classes)], targets[:, list(classes)])
            for name, classes in (segments or {}).items()
        },
        "top1": top1(scores, targets),
        "top1_occurring": top1_occurring(scores, targets),
        "class_accuracy": class_accuracy(scores, targets),
    }


def map_micro(scores: Scores, targets: Targets) -> float:
    """Average precision of all (clip, class) pairs in one ranking: the release's mAP (docs/deviations.md 1)."""
    # Classes compete in the ranking, so the value depends on how scores of different classes compare.
    return _average_precision(scores.ravel(), targets.ravel()) if targets.any() else 0.0


def count_at_least(scores: Scores, targets: Targets) -> UInt32[np.ndarray, " P"]:
    """For each positive (clip, class) pair, in row order, how many of all pairs score at least as high: all that map_micro depends on."""
    ranked = np.sort(scores, axis=None)
    counts: UInt32[np.ndarray, " P"] = (ranked.size - np.searchsorted(ranked, scores[targets == 1])).astype(np.uint32)
    return counts


def map_micro_of_counts(at_least: UInt32[np.ndarray, " P"]) -> float:
    """map_micro from the counts of `count_at_least`, up to rounding (1e-12); 0 if no target is positive."""
    if not len(at_least):
        return 0.0
    found = np.sort(at_least)
    # Positives of equal scores share one threshold, and so the number of positives at or above it.
    return float(np.mean(np.searchsorted(found, found, side="right") / found))


def map_macro(scores: Scores, targets: Targets) -> float:
    """Mean over classes of each class's average precision: the official metric of Animal Kingdom and Charades-Ego.

    Average precision is not defined for a class without a positive clip, so such classes are left out of the mean.
    """
    # 13 of Animal Kingdom's 140 classes have no clip in its test split.
    return _mean_of_occurring(average_precision_by_class(scores, targets), targets)


def average_precision_by_class(scores: Scores, targets: Targets) -> Float[np.ndarray, " K"]:
    """Average precision of each class; NaN for a class without a positive clip."""
    values = np.full(targets.shape[1], np.nan)
    for k in np.flatnonzero(targets.any(axis=0)):
        values[k] = _average_precision(scores[:, k], targets[:, k])
    return values


def _mean_of_occurring(values: Float[np.ndarray, " K"], targets: Targets) -> float:
    present = targets.any(axis=0)
    return float(values[present].mean()) if present.any() else 0.0


def _average_precision(scores: Float[np.ndarray, " N"], targets: Int[np.ndarray, " N"]) -> float:
    """Average precision, the sum of (R_n - R_{n-1}) P_n over the distinct scores, without interpolation; some target is 1.

    Bit for bit the value of scikit-learn's `average_precision_score`, in a tenth of its time: a grid's records take hundreds of
    thousands of these.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores that are NaN or infinite")
    # Sorting values alone is several times faster than sorting their places, and the positives are few.
    ranked, found = np.sort(scores), np.sort(scores[targets == 1])
    # Equal scores share one threshold. Recall changes only at thresholds that some positive has.
    thresholds = ranked[np.concatenate([[True], ranked[1:] != ranked[:-1]])]
    levels = found[np.concatenate([[True], found[1:] != found[:-1]])]
    predicted = len(ranked) - np.searchsorted(ranked, levels)
    true = len(found) - np.searchsorted(found, levels)
    recall = true / len(found)
    # With the zeros of all other thresholds, because the order of additions decides the last bits of their sum.
    steps = np.zeros(len(thresholds))
    steps[np.searchsorted(thresholds, levels)] = (np.append(recall[1:], 0.0) - recall) * (true / predicted)
    # For a perfect ranking the sum of many small steps can exceed 1 by a rounding error.
    return min(1.0, max(0.0, float(-np.sum(steps))))


def top1(scores: Scores, targets: Targets) -> float:
    """Share of clips whose predicted class is one of theirs. Classes that never occur can be predicted too."""
    # argmax takes the first of equal scores, so a collapsed readout predicts class 0 for every clip.
    return float(targets[np.arange(len(targets)), scores.argmax(axis=1)].astype(bool).mean())


def top1_occurring(scores: Scores, targets: Targets) -> float:
    """top1 among the classes that occur in `targets` (docs/deviations.md 10)."""
    present = targets.any(axis=0)
    # Dropping the columns renumbers the classes of scores and targets alike.
    return top1(scores[:, present], targets[:, present]) if present.any() else 0.0


def class_accuracy(scores: Scores, targets: Targets) -> float:
    """Mean over occurring classes of the share of the class's clips that are predicted as it."""
    counts = count_confusions(scores, targets)
    # A class without clips would divide by 0; it is left out of the mean.
    return _mean_of_occurring(counts.diagonal() / np.maximum(targets.sum(axis=0), 1), targets)


def count_confusions(scores: Scores, targets: Targets) -> Int[np.ndarray, "K K"]:
    """Confusion matrix: number of clips of the row's class that are predicted as the column's."""
    counts = np.zeros((targets.shape[1],) * 2, np.int64)
    clips, labels = np.nonzero(targets)
    np.add.at(counts, (labels, scores.argmax(axis=1)[clips]), 1)
    return counts


def count_ranking_errors(scores: Scores, targets: Targets) -> Int[np.ndarray, "K K"]:
    """Number of clips of the row's class, and not of the column's, whose score of the column's class is at least that of the row's.

    For clips with any number of labels, whose classes are scored and not chosen: the pairs that label ranking loss counts
    (Tsoumakas, Katakis and Vlahavas 2010; scikit-learn's `label_ranking_loss`), by class.
    """
    counts = np.zeros((targets.shape[1],) * 2, np.int64)
    for label, positive in enumerate(targets.T.astype(bool)):
        above = scores[positive] >= scores[positive, label, None]
        counts[label] = (above & (targets[positive] == 0)).sum(axis=0)
    return counts


def chance_scores(targets: Targets) -> dict[str, float]:
    """Expected scores of a random guesser who gives every class the same odds.

    Such a guesser predicts each of the K classes for 1/K of the clips. Its ranking is random, and the average precision of a
    random ranking is, in expectation, the share of positives (up to a term that vanishes with the number of clips).
    """
    present = targets.any(axis=0)
    if not present.any():
        return dict.fromkeys(("map_micro", "map_macro", "top1", "top1_occurring", "class_accuracy"), 0.0)
    # Per class, the share of positives is its expected average precision; their mean is the mean of the columns that occur.
    occurring = targets[:, present].mean()
    return {
        "map_micro": float(targets.mean()),
        "map_macro": float(occurring),
        "top1": float(targets.mean()),
        "top1_occurring": float(occurring),
        "class_accuracy": 1 / targets.shape[1],
    }


def class_prior_scores(
    train_targets: Int[np.ndarray, "M K"], targets: Targets, segments: Segments | None = None
) -> dict[str, float]:
    """Scores reached by knowing only how common each class is in the training split."""
    # The same ranking of classes for every clip. Test frequencies would leak the answer, so those of training are used.
    prior = train_targets.mean(axis=0)
    return all_scores(np.broadcast_to(prior, targets.shape), targets, segments)


def constant_scores(targets: Targets, segments: Segments | None = None) -> dict[str, float]:
    """Scores of a collapsed readout, which gives every clip and class the same score."""
    # Any constant gives the same ranking; zeros serve as any.
    return all_scores(np.zeros(targets.shape), targets, segments)
