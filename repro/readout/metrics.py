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
    by_class = average_precision_by_class(scores, targets)
    predicted = scores.argmax(axis=1)
    return {
        "map_micro": map_micro(scores, targets),
        "map_macro": _mean_of_occurring(by_class, targets),
        **{
            f"map_macro_{name}": _mean_of_occurring(by_class[list(classes)], targets[:, list(classes)])
            for name, classes in (segments or {}).items()
        },
        "top1": _share_of_right(predicted, targets),
        "top1_occurring": _share_of_right(_predict_occurring(scores, targets, predicted), targets),
        "class_accuracy": _class_accuracy(predicted, targets),
    }


def map_micro(scores: Scores, targets: Targets) -> float:
    """Average precision of all (clip, class) pairs in one ranking: the release's mAP (docs/deviations.md 1)."""
    # Classes compete in the ranking, so the value depends on how scores of different classes compare.
    positives = scores[targets == 1]
    if not len(positives):
        return 0.0
    return float(_average_precisions(scores.reshape(1, -1), positives, np.zeros(len(positives), np.int64))[0])


def count_at_least(scores: Scores, targets: Targets) -> UInt32[np.ndarray, " P"]:
    """For each positive (clip, class) pair, in row order, how many of all pairs score at least as high: all that map_micro depends on."""
    # size - searchsorted from the left: how many of all pairs are not below.
    ranked = np.sort(scores, axis=None)
    counts: UInt32[np.ndarray, " P"] = (ranked.size - np.searchsorted(ranked, scores[targets == 1])).astype(np.uint32)
    return counts


def map_micro_of_counts(at_least: UInt32[np.ndarray, " P"]) -> float:
    """map_micro from the counts of `count_at_least`, up to rounding (1e-12); 0 if no target is positive."""
    if not len(at_least):
        return 0.0
    # Ascending counts are descending scores. At the k-th positive, k of the at_least pairs from there up are
    # positive, so that its precision is k / at_least, and AP is the mean of these.
    found = np.sort(at_least)
    # Positives of equal scores share one threshold, and so the number of positives at or above it.
    ends = find_ends_of_equals(found)
    return float(np.mean(np.repeat(ends, np.diff(ends, prepend=0)) / found))


def find_ends_of_equals(ascending: np.ndarray) -> Int[np.ndarray, " D"]:
    """Return the index after the last of each distinct value."""
    return np.append(np.flatnonzero(ascending[1:] != ascending[:-1]) + 1, len(ascending))


def map_macro(scores: Scores, targets: Targets) -> float:
    """Mean over classes of each class's average precision: the official metric of Animal Kingdom and Charades-Ego.

    Average precision is not defined for a class without a positive clip, so such classes are left out of the mean.
    """
    # 13 of Animal Kingdom's 140 classes have no clip in its test split.
    return _mean_of_occurring(average_precision_by_class(scores, targets), targets)


def average_precision_by_class(scores: Scores, targets: Targets) -> Float[np.ndarray, " K"]:
    """Average precision of each class; NaN for a class without a positive clip."""
    values = np.full(targets.shape[1], np.nan)
    # np.nonzero of a matrix is many times slower.
    labels, clips = np.divmod(np.flatnonzero(targets.T == 1), len(targets))
    present, rows = np.unique(labels, return_inverse=True)
    if len(present):
        values[present] = _average_precisions(scores.T[present], scores[clips, labels], rows)
    return values


def _mean_of_occurring(values: Float[np.ndarray, " K"], targets: Targets) -> float:
    present = targets.any(axis=0)
    return float(values[present].mean()) if present.any() else 0.0


def _average_precisions(
    scores: Float[np.ndarray, "R N"], positives: Float[np.ndarray, " P"], rows: Int[np.ndarray, " P"]
) -> Float[np.ndarray, " R"]:
    """Average precision of each row, the sum of (R_n - R_{n-1}) P_n over its distinct scores, without interpolation.

    Bit for bit the values of scikit-learn's `average_precision_score`, in a twentieth of its time: a grid's records take hundreds
    of thousands of these.

    Args:
        scores: Scores of one ranking a row.
        positives: Those whose target is 1, at least one of each row.
        rows: Their rows, ascending.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    # Sorting values alone is several times faster than sorting their places, and the positives are few.
    ranked = np.sort(scores, axis=1)
    if not np.isfinite(ranked[:, [0, -1]]).all():  # NaN comes last
        raise ValueError("scores that are NaN or infinite")
    every = np.arange(len(ranked))
    found, starts = positives[np.lexsort((positives, rows))], np.searchsorted(rows, every)
    ends = np.append(starts[1:], len(rows))
    # Equal scores share one threshold. Recall changes only at thresholds that some positive has.
    is_first = np.append(True, (found[1:] != found[:-1]) | (rows[1:] != rows[:-1]))
    first, levels, rows = np.flatnonzero(is_first), found[is_first], rows[is_first]
    # Positives at or above a level; recall and precision follow from them and from the level's place.
    true = ends[rows] - first
    recall = true / (ends - starts)[rows]
    following = np.where(np.append(rows[1:], -1) == rows, np.append(recall[1:], 0.0), 0.0)
    parts = np.split(levels, np.searchsorted(rows, every[1:]))
    places = np.concatenate([np.searchsorted(row, part) for row, part in zip(ranked, parts, strict=True)])
    is_repeated = np.zeros(ranked.shape, bool)
    np.equal(ranked[:, 1:], ranked[:, :-1], out=is_repeated[:, 1:])
    repeated, size = np.flatnonzero(is_repeated), ranked.shape[1]
    before = np.searchsorted(repeated, every * size)
    # With the zeros of all other thresholds, because the order of additions decides the last bits of their sum.
    steps = np.zeros(ranked.shape)
    thresholds = places - (np.searchsorted(repeated, rows * size + places) - before[rows])
    steps[rows, thresholds] = (following - recall) * (true / (size - places))
    lengths = size - np.diff(before, append=len(repeated))
    sums = np.array([-np.sum(row[:length]) for row, length in zip(steps, lengths, strict=True)])
    # For a perfect ranking the sum of many small steps can exceed 1 by a rounding error.
    return sums.clip(0.0, 1.0)


def top1(scores: Scores, targets: Targets) -> float:
    """Share of clips whose predicted class is one of theirs. Classes that never occur can be predicted too."""
    # argmax takes the first of equal scores, so a collapsed readout predicts class 0 for every clip.
    return _share_of_right(scores.argmax(axis=1), targets)


def top1_occurring(scores: Scores, targets: Targets) -> float:
    """top1 among the classes that occur in `targets` (docs/deviations.md 10)."""
    return _share_of_right(_predict_occurring(scores, targets, scores.argmax(axis=1)), targets)


def class_accuracy(scores: Scores, targets: Targets) -> float:
    """Mean over occurring classes of the share of the class's clips that are predicted as it."""
    return _class_accuracy(scores.argmax(axis=1), targets)


def _share_of_right(predicted: Int[np.ndarray, " N"], targets: Targets) -> float:
    return float(targets[np.arange(len(targets)), predicted].astype(bool).mean())


def _predict_occurring(scores: Scores, targets: Targets, predicted: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Return the first of the highest scored classes that occur, given those among all classes."""
    present = np.flatnonzero(targets.any(axis=0))
    others = np.flatnonzero(~np.isin(predicted, present))
    if not (len(others) and len(present)):
        return predicted
    among = predicted.copy()
    among[others] = present[scores[np.ix_(others, present)].argmax(axis=1)]
    return among


def _class_accuracy(predicted: Int[np.ndarray, " N"], targets: Targets) -> float:
    right = predicted[targets[np.arange(len(targets)), predicted] == 1]
    # A class without clips would divide by 0; it is left out of the mean.
    shares = np.bincount(right, minlength=targets.shape[1]) / np.maximum(targets.sum(axis=0), 1)
    return _mean_of_occurring(shares, targets)


def count_confusions(scores: Scores, targets: Targets) -> Int[np.ndarray, "K K"]:
    """Confusion matrix: number of clips of the row's class that are predicted as the column's."""
    counts = np.zeros((targets.shape[1],) * 2, np.int64)
    clips, labels = np.nonzero(targets)
    # Not counts[...] += 1, which adds once for several equal pairs of indices.
    np.add.at(counts, (labels, scores.argmax(axis=1)[clips]), 1)
    return counts


def count_ranking_errors(scores: Scores, targets: Targets) -> Int[np.ndarray, "K K"]:
    """Number of clips of the row's class, and not of the column's, whose score of the column's class is at least that of the row's.

    For clips with any number of labels, whose classes are scored and not chosen: the pairs that label ranking loss counts
    (Tsoumakas, Katakis and Vlahavas 2010; scikit-learn's `label_ranking_loss`), by class.
    """
    counts = np.zeros((targets.shape[1],) * 2, np.int64)
    for label, positive in enumerate(targets.T.astype(bool)):
        # At least as high: a tie counts as an error, as a ranking cannot tell the two.
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
