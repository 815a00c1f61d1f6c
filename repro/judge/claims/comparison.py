"""Whether one row scores above another: tests on seeds and on clips, and both together. All functions take numbers or arrays.

Two things vary. Another seed gives another score on the same clips; other clips give another score at the same seed. The test on
seeds is Welch's, the one on clips uses the standard error over samples of source videos (repro/judge/claims/resampling.py). A difference of
two rows on other seeds and other clips has the variance of both, so each test alone is passed too easily: the p-value of a claim is
the largest of that on seeds, that on clips and that on both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

Values = float | Float[np.ndarray, "..."]
LEVEL = 0.05
"""Probability of a wrong verdict in a family of claims, after Holm's adjustment; and one less the level of intervals."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source of error of a difference."""

    error: Values
    """Standard error."""
    freedom: Values
    """Degrees of freedom of the standard error."""

    def p_value(self, difference: Values) -> Values:
        """Return the two-sided p-value of no difference."""
        # Runs that are all alike differ for certain, or not at all.
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.where(np.equal(difference, 0), 0, np.abs(difference) / np.asarray(self.error, float))
        # Both tails of Student's t: 2 P(T <= -|difference| / error).
        found: Values = 2 * stdtr(np.where(np.isfinite(self.freedom), self.freedom, 1e9), -size)
        return found

    def half_width(self, level: float = LEVEL) -> Values:
        """Return half the width of the interval that misses the difference with probability `level`."""
        quantile: Values = stdtrit(np.where(np.isfinite(self.freedom), self.freedom, 1e9), 1 - level / 2)
        return quantile * self.error


def compare_seeds(first: Sequence[float], second: Sequence[float]) -> Source:
    """Return the error of the difference of two means (Welch 1947); each of at least two values."""
    return combine_sources(
        *(Source(np.std(values, ddof=1) / np.sqrt(len(values)), len(values) - 1) for values in (first, second))
    )


def compare_pairs(first: Sequence[float], second: Sequence[float]) -> Source:
    """Return the error of the mean difference of runs in pairs; at least two pairs."""
    # What the two runs of a pair share cancels in their difference, which Welch's error does not see.
    return Source(np.std(np.subtract(first, second), ddof=1) / np.sqrt(len(first)), len(first) - 1)


def combine_sources(*sources: Source) -> Source:
    """Return the error from independent sources together; degrees of freedom as by Welch and Satterthwaite."""
    # Errors e of independent sources: the variance of the difference is sum(e²), with (sum e²)² / sum(e⁴ /
    # freedom) degrees of freedom (Welch 1947, Satterthwaite 1946).
    squares = [np.square(source.error) for source in sources]
    parts = [square**2 / source.freedom for square, source in zip(squares, sources, strict=True)]
    total = np.asarray(sum(squares), float)
    with np.errstate(divide="ignore", invalid="ignore"):
        # No error at all: any number of degrees of freedom.
        freedom = np.where(total > 0, total**2 / np.asarray(sum(parts), float), np.inf)
    return Source(np.sqrt(total), freedom)


def claim_p_value(difference: Values, seeds: Source, clips: Source) -> Values:
    """Return the largest p-value of the tests on seeds, on clips and on both."""
    # The claim is rejected only if each test rejects, so the largest of the p-values is one for it.
    largest: Values = seeds.p_value(difference)
    for source in (clips, combine_sources(seeds, clips)):
        largest = np.maximum(largest, source.p_value(difference))
    return largest


def adjust_holm(values: Float[np.ndarray, "... M"]) -> Float[np.ndarray, "... M"]:
    """Adjust p-values for their number, so that a family has no wrong rejection but with probability LEVEL (Holm 1979)."""
    order = np.argsort(values, axis=-1, kind="stable")
    count = values.shape[-1]
    # Step down: the smallest of m values times m, the next times m - 1, and so on; none below the one before
    # it, none above 1.
    ranked = np.take_along_axis(values, order, -1) * np.arange(count, 0, -1)
    adjusted = np.empty_like(ranked)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(ranked, axis=-1)), -1)
    return adjusted
