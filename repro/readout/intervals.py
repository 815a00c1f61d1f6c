"""How closely a test split pins a score: bootstrap intervals over clips, or over source videos where they are known.

Clips are drawn again, never single (clip, class) pairs: a clip's scores are one observation (percentile method, Efron
and Tibshirani 1993, chapter 13).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from repro.core.errors import UsageError
from repro.readout.metrics import Scores, Targets, class_accuracy, map_macro, map_micro, top1, top1_occurring

SCORES = {
    "map_micro": map_micro,
    "map_macro": map_macro,
    "top1": top1,
    "top1_occurring": top1_occurring,
    "class_accuracy": class_accuracy,
}


@dataclass(frozen=True, slots=True)
class Interval:
    value: float
    """On the split as it is."""
    low: float
    high: float
    level: float
    resampled: str
    """clips, or source videos."""


def bootstrap(
    score: str,
    scores: Scores,
    targets: Targets,
    groups: Sequence[str | None] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The interval of a score's value over resamples of the test split.

    Raises:
        UsageError: an unknown score.
    """
    if score not in SCORES:
        raise UsageError(f"score '{score}': expected one of {', '.join(SCORES)}")
    owner = _owners(groups, len(targets))
    draw = np.random.default_rng(seed)
    sources = int(owner.max()) + 1
    ranking = _Ranking(scores, targets, pooled=score == "map_micro") if score.startswith("map_") else None
    values = []
    for _ in range(resamples):
        times = np.bincount(draw.integers(0, sources, sources), minlength=sources)[owner]
        if ranking is not None:
            values.append(ranking.average_precision(times))
        else:
            again = np.repeat(np.arange(len(targets)), times)
            values.append(SCORES[score](scores[again], targets[again]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
    value = SCORES[score](scores, targets)
    return Interval(value, low, high, level, "clips" if groups is None else "source videos")


def _owners(groups: Sequence[str | None] | None, clips: int) -> Int64[np.ndarray, " N"]:
    """The number of each clip's source; a clip whose source is not known is one of its own."""
    names = [("clip", str(n)) if groups is None or groups[n] is None else ("video", groups[n]) for n in range(clips)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


class _Ranking:
    """Average precision of resamples of one ranking, which is sorted once: a clip drawn n times weighs n.

    Sorting each resample anew would take minutes for Animal Kingdom's 850,000 pairs.
    """

    def __init__(self, scores: Scores, targets: Targets, pooled: bool) -> None:
        clips, classes = scores.shape
        clip_of = np.repeat(np.arange(clips), classes) if pooled else np.arange(clips)
        columns = [(scores.ravel(), targets.ravel())] if pooled else list(zip(scores.T, targets.T, strict=True))
        self.columns = []
        for values, labels in columns:
            if not labels.any():
                continue
            order = np.argsort(-values, kind="stable")
            ends = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)  # of runs of equal scores
            self.columns.append((clip_of[order], labels[order], ends))

    def average_precision(self, times: Int64[np.ndarray, " N"]) -> float:
        """Mean over columns that have a positive in the resample, 0 without any."""
        found = [_weighted(times[clips], labels, ends) for clips, labels, ends in self.columns]
        present = [value for value in found if value is not None]
        return float(np.mean(present)) if present else 0.0


def _weighted(weights: np.ndarray, labels: np.ndarray, ends: np.ndarray) -> float | None:
    """Sum over thresholds of precision times the gain in recall; None without a positive."""
    hits = np.cumsum(weights * labels)[ends]
    if not hits[-1]:
        return None
    taken = np.cumsum(weights)[ends]
    precision = hits / np.maximum(taken, 1)
    return min(1.0, float(np.sum(precision * np.diff(hits, prepend=0)) / hits[-1]))
