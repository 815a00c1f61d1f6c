"""How closely the clips of a test split pin a score: the clips' source videos are sampled again, and the score is recomputed.

Clips of one source video are alike, so videos are sampled and not clips, and never (clip, class) pairs. Two predictors that are
scored on the same samples are compared in pairs. Values are in points (percent).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from repro.readout.metrics import Scores, Targets
from repro.readout.recipe import Metric

CLAIM_RESAMPLES = 2000
SEED = 20250913
"""Seed of the samples: fixed, so that the same records get the same verdict."""
BLOCK, LEVELS = 500, 256
"""Samples and levels of scores that are computed at once: what a processor's cache holds."""


def index_groups(clips: Sequence[str], groups: Sequence[str | None] | None) -> Int64[np.ndarray, " N"]:
    """Return the index of each clip's source video; a clip without one is a video of its own."""
    names = groups or [None] * len(clips)
    # The two kinds of names are kept apart: a clip may be called as another clip's video is.
    keys = [("clip", clip) if not name else ("group", name) for clip, name in zip(clips, names, strict=True)]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return np.array([places[key] for key in keys], np.int64)


def sample_groups(count: int, resamples: int = CLAIM_RESAMPLES, seed: int = SEED) -> Float32[np.ndarray, "G R"]:
    """Return how often each of `count` source videos is in each sample of `count` videos with replacement."""
    draw = np.random.default_rng(seed)
    # Sample by sample, each counted on its own part of one histogram.
    chosen = draw.integers(0, count, (count, resamples), dtype=np.int32) * resamples + np.arange(
        resamples, dtype=np.int32
    )
    return np.bincount(chosen.ravel(), minlength=count * resamples).reshape(count, resamples).astype(np.float32)


def resample_score(
    metric: Metric,
    scores: Scores,
    targets: Targets,
    groups: Int[np.ndarray, " N"],
    weights: Float32[np.ndarray, "G R"],
) -> Float[np.ndarray, " R"]:
    """Compute a metric on every sample of source videos, in points.

    Args:
        metric: top1 or map_micro (repro/readout/metrics.py).
        scores: Score of every clip and class.
        targets: 1 for the classes of a clip, else 0.
        groups: Index of each clip's source video (`index_groups`).
        weights: How often each video is in each sample (`sample_groups`).
    """
    if metric == "map_micro":
        return _resample_map_micro(scores, targets, groups, weights)
    # Clips and right ones are counted by video: a sample's accuracy is then two products with its weights.
    right = targets[np.arange(len(targets)), scores.argmax(axis=1)]
    count = weights.shape[0]
    clips, correct = (np.bincount(groups, part, count) for part in (np.ones(len(groups)), right))
    shares: Float[np.ndarray, " R"] = 100 * (correct @ weights) / (clips @ weights)
    return shares


def _resample_map_micro(
    scores: Scores, targets: Targets, groups: Int[np.ndarray, " N"], weights: Float32[np.ndarray, "G R"]
) -> Float[np.ndarray, " R"]:
    """Average precision of all (clip, class) pairs, each weighted as its video: as scikit-learn's with `sample_weight`.

    AP is the sum over distinct scores of positives, from the highest down, of (weight of positives there) x (weight of positives
    from there up) / (weight of all pairs from there up), divided by the weight of all positives. The pairs are sorted once: a
    sparse matrix holds how many pairs of each video are between two such scores, and a sample is a product with its weights.
    """
    # Imported here: rows that are judged by accuracy do not need it.
    from scipy.sparse import csr_array

    classes, videos = scores.shape[1], weights.shape[0]
    flat, video = scores.ravel(), np.repeat(groups, classes)
    # Only scores of positives matter as levels: average precision changes at positives alone.
    is_positive = targets.ravel() == 1
    levels = np.unique(flat[is_positive])[::-1]
    if not len(levels):
        return np.zeros(weights.shape[1])
    # Level of a pair: the first, from the highest down, that its score reaches. Pairs below the last never count.
    level = np.searchsorted(-levels, -flat)
    counted = level < len(levels)

    def by_level(chosen: np.ndarray) -> csr_array:
        ones = np.ones(int(chosen.sum()), np.float32)
        return csr_array((ones, (level[chosen], video[chosen])), shape=(len(levels), videos))

    of_all, of_positives = by_level(counted), by_level(is_positive)
    starts = range(0, len(levels), LEVELS)
    blocks = [(of_all[start : start + LEVELS], of_positives[start : start + LEVELS]) for start in starts]
    found = np.empty(weights.shape[1])
    for start in range(0, weights.shape[1], BLOCK):
        part = np.ascontiguousarray(weights[:, start : start + BLOCK])
        # Weights so far of all pairs and of the positives, and the sum of the gains: carried from block to block.
        predicted, true, gained = np.zeros((3, part.shape[1]))
        for pairs, positives in blocks:
            # Sums of small whole numbers: exact in float32 up to 16.7 million pairs, and in float64 from there on.
            steps, above = (positives @ part).astype(np.float64), (pairs @ part).astype(np.float64)
            terms = steps.copy()
            for sums, before in ((above, predicted), (terms, true)):
                sums[0] += before
                # Row by row, which is several times faster than np.cumsum over the first axis.
                for row in range(1, len(sums)):
                    np.add(sums[row - 1], sums[row], out=sums[row])
            predicted, true = above[-1].copy(), terms[-1].copy()
            terms *= steps
            terms /= np.maximum(above, 1)
            terms[0] += gained
            gained = terms.sum(axis=0)
        found[start : start + BLOCK] = gained / np.maximum(true, 1)
    return 100 * found
