"""Scores of a test split: the published ones and the owners' official ones. scikit-learn computes them.

Scores are `[N, K]`, larger for a likelier class; targets `[N, K]`, 0 or 1. Values are shares of 1; without any positive
all are 0. Of equal scores the first class is the likeliest.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import average_precision_score

Scores = Float[np.ndarray, "N K"]
Targets = Int[np.ndarray, "N K"]
Segments = Mapping[str, Sequence[int]]
"""Label ids by segment, as head, middle and tail by how often a class occurs (Animal Kingdom's owners' table)."""


def map_micro(scores: Scores, targets: Targets) -> float:
    """Average precision over all (clip, class) pairs pooled: the release's mAP (docs/deviations.md 1)."""
    return _average_precision(scores.ravel(), targets.ravel()) if targets.any() else 0.0


def map_macro(scores: Scores, targets: Targets) -> float:
    """Mean over classes of each class's average precision; classes without a positive are left out. The official metric
    of Animal Kingdom and Charades-Ego."""
    present = targets.any(axis=0)
    if not present.any():
        return 0.0
    return float(np.mean([_average_precision(scores[:, k], targets[:, k]) for k in np.flatnonzero(present)]))


def _average_precision(scores: Float[np.ndarray, " N"], targets: Int[np.ndarray, " N"]) -> float:
    """At most 1, which a perfect ranking's sum of small gains may pass by a rounding error."""
    return min(1.0, float(average_precision_score(targets, scores)))


def top1(scores: Scores, targets: Targets) -> float:
    """Share of clips whose likeliest class is one of theirs; all classes compete, also those that never occur."""
    return float(targets[np.arange(len(targets)), scores.argmax(axis=1)].astype(bool).mean())


def top1_occurring(scores: Scores, targets: Targets) -> float:
    """top1 among the classes that occur in `targets` (docs/deviations.md 10)."""
    present = targets.any(axis=0)
    return top1(scores[:, present], targets[:, present]) if present.any() else 0.0


def class_accuracy(scores: Scores, targets: Targets) -> float:
    """Mean over classes that occur of the share of their clips whose likeliest class they are."""
    guesses = scores.argmax(axis=1)
    present = np.flatnonzero(targets.any(axis=0))
    if not len(present):
        return 0.0
    return float(np.mean([(guesses[targets[:, k] == 1] == k).mean() for k in present]))


def all_scores(scores: Scores, targets: Targets, segments: Segments | None = None) -> dict[str, float]:
    """Every score by name; macro AP also within each segment."""
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
