"""Scores of a test split: the published ones and the owners' official ones. scikit-learn computes them.

Scores are `[N, K]`, larger for a likelier class; targets `[N, K]`, 0 or 1. Values are shares of 1.
"""

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import average_precision_score

Scores = Float[np.ndarray, "N K"]
Targets = Int[np.ndarray, "N K"]


def map_micro(scores: Scores, targets: Targets) -> float:
    """Average precision over all (clip, class) pairs pooled: the release's mAP (docs/deviations.md 1). 0 without any
    positive."""
    return float(average_precision_score(targets.ravel(), scores.ravel())) if targets.any() else 0.0


def map_macro(scores: Scores, targets: Targets) -> float:
    """Mean over classes of each class's average precision; classes without a positive are left out. The official metric
    of Animal Kingdom and Charades-Ego. 0 without any positive."""
    present = targets.any(axis=0)
    if not present.any():
        return 0.0
    return float(np.mean([average_precision_score(targets[:, k], scores[:, k]) for k in np.flatnonzero(present)]))


def top1(scores: Scores, targets: Targets) -> float:
    """Share of clips whose likeliest class is one of theirs; all classes compete, also those that never occur."""
    return float(targets[np.arange(len(targets)), scores.argmax(axis=1)].astype(bool).mean())


def top1_occurring(scores: Scores, targets: Targets) -> float:
    """top1 among the classes that occur in `targets`."""
    present = targets.any(axis=0)
    return top1(scores[:, present], targets[:, present]) if present.any() else 0.0


def class_accuracy(scores: Scores, targets: Targets) -> float:
    """Mean over classes that occur of the share of their clips classified as them (single-label datasets)."""
    guesses = scores.argmax(axis=1)
    return float(np.mean([(guesses[targets[:, k] == 1] == k).mean() for k in np.flatnonzero(targets.any(axis=0))]))


def all_scores(scores: Scores, targets: Targets) -> dict[str, float]:
    """Every score by name; single-label ones only where each clip has one label."""
    result = {
        "map_micro": map_micro(scores, targets),
        "map_macro": map_macro(scores, targets),
        "top1": top1(scores, targets),
        "top1_occurring": top1_occurring(scores, targets),
    }
    if (targets.sum(axis=1) == 1).all():
        result["class_accuracy"] = class_accuracy(scores, targets)
    return result
