"""What predictors score that see no feature: the floor a readout is held against. Targets `[N, K]`, 0 or 1."""

import numpy as np
from jaxtyping import Int

from repro.readout.metrics import Segments, Targets, all_scores


def chance(targets: Targets) -> dict[str, float]:
    """Expected scores of a guesser who gives every class the same odds: one class in K right, every ranking at the share
    of positives."""
    present = targets.any(axis=0)
    if not present.any():
        return dict.fromkeys(("map_micro", "map_macro", "top1", "top1_occurring", "class_accuracy"), 0.0)
    occurring = targets[:, present].mean()
    return {
        "map_micro": float(targets.mean()),
        "map_macro": float(occurring),
        "top1": float(targets.mean()),
        "top1_occurring": float(occurring),
        "class_accuracy": 1 / targets.shape[1],
    }


def class_prior(
    train_targets: Int[np.ndarray, "M K"], targets: Targets, segments: Segments | None = None
) -> dict[str, float]:
    """Every clip gets the classes' shares of the training split: what is won by knowing which classes are common."""
    prior = train_targets.mean(axis=0)
    return all_scores(np.broadcast_to(prior, targets.shape), targets, segments)


def constant(targets: Targets, segments: Segments | None = None) -> dict[str, float]:
    """The same score for every clip and class: what a readout that collapsed scores."""
    return all_scores(np.zeros(targets.shape), targets, segments)
