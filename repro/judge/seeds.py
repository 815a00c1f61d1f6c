"""What a number of seeds can decide: probabilities of verdicts, and how many seeds a verdict would take. Values are in points.

The difference D of a measured mean of k runs to a published value is judged by repro/judge/outcome.py. Here the same rules are
applied to arrays of means and standard deviations, for the tables of expected/README.md and for "n more seeds would decide".
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import chdtri, ndtr, stdtrit

from repro.judge.outcome import ALPHA, TIE, Outcome, is_different, is_equivalent, quantile, standard_error

MOST_SEEDS = 100
"""Largest number of seeds that is searched: beyond it, nobody runs them."""
STEPS = 200
"""Equally likely values of a sample standard deviation that probabilities are summed over."""
Values = Float[np.ndarray, "..."]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a difference is compared with."""

    margin: float
    rounding: float = 0.0
    """Half a unit of the last printed digit of the published value."""


def judge_arrays(
    difference: Values, spread: Values, seeds: int, limits: Limits
) -> dict[Outcome, Bool[np.ndarray, "..."]]:
    """Judge many measurements at once, as repro.judge.outcome.judge_values does at equal spread.

    Args:
        difference: Measured mean less published value.
        spread: Sample standard deviation of the runs; with one run, it is not read.
        seeds: Number of runs of each measurement, all of which were planned.
        limits: Margin and rounding.

    Returns:
        By outcome, where it is the verdict.
    """
    size = np.abs(difference)
    near = size <= limits.margin + limits.rounding + TIE
    if seeds == 1:
        return {Outcome.WITHIN_MARGIN: near, Outcome.INCONCLUSIVE: ~near}
    error = standard_error(spread, seeds)
    reproduced = is_equivalent(difference, error, seeds, limits.margin, limits.rounding)
    different = is_different(difference, error, seeds, limits.margin, limits.rounding)
    inside = size <= quantile(1 - ALPHA / 2, seeds - 1) * error + limits.rounding + TIE
    rest = ~reproduced & ~different
    return {
        Outcome.REPRODUCED: reproduced,
        Outcome.CONSISTENT: rest & near & inside,
        Outcome.WITHIN_MARGIN: rest & near & ~inside,
        Outcome.INCONCLUSIVE: rest & ~near,
        Outcome.HIGHER: different & (difference > 0),
        Outcome.LOWER: different & (difference < 0),
    }


def decision_power(
    seeds: int, spread: float, limits: Limits, *, difference: float = 0.0, published_varies: bool = False
) -> tuple[float, float]:
    """Return the probabilities of REPRODUCED, and of HIGHER or LOWER.

    Args:
        seeds: Number of runs, all of which were planned.
        spread: Standard deviation of single runs.
        limits: Margin and rounding.
        difference: Mean of all possible runs less the published value; with `published_varies`, less the authors' own mean.
        published_varies: The published value is another run, with the same spread, rather than a given number.
    """
    sampled = standard_error(spread * _chi_steps(seeds - 1), seeds)
    error = spread * np.sqrt(published_varies + 1 / seeds)

    def inside(limit: Values) -> Values:
        """Probability that the size of the measured difference is at most `limit`."""
        at_most = np.maximum(limit, 0)
        return np.where(limit < 0, 0, ndtr((at_most - difference) / error) - ndtr((-at_most - difference) / error))

    reproduced = inside(limits.margin - limits.rounding - quantile(1 - ALPHA, seeds - 1) * sampled)
    not_different = inside(np.maximum(limits.margin, quantile(1 - ALPHA / 2, seeds - 1) * sampled) + limits.rounding)
    return float(reproduced.mean()), float(1 - not_different.mean())


def seeds_needed(
    spread: float,
    limits: Limits,
    *,
    difference: float = 0.0,
    published_varies: bool = False,
    power: float = 0.8,
    least: int = 2,
) -> int | None:
    """Return the smallest number of seeds with which REPRODUCED, or HIGHER or LOWER, has a probability of `power`.

    Args:
        spread: Standard deviation of single runs.
        limits: Margin and rounding.
        difference: As in `decision_power`.
        published_varies: As in `decision_power`.
        power: Probability of a decision.
        least: Smallest number to try.

    Returns:
        The number, up to MOST_SEEDS; None if none of them is enough.
    """
    if spread <= 0:
        return least
    for seeds in range(max(2, least), MOST_SEEDS + 1):
        if (
            max(decision_power(seeds, spread, limits, difference=difference, published_varies=published_varies))
            >= power
        ):
            return seeds
    return None


def explain_seeds(
    outcome: Outcome, difference: float, spread: float, seeds: int, limits: Limits, planned: int = 2
) -> str:
    """Say how many more seeds would settle a row, if its mean and spread stay as they are; empty if it is settled.

    The published value is a given number here: it is the runs to come that vary.
    """
    if outcome not in (Outcome.CONSISTENT, Outcome.WITHIN_MARGIN, Outcome.INCONCLUSIVE) or seeds < 2:
        return ""
    needed = seeds_needed(spread, limits, difference=difference, least=max(seeds + 1, planned))
    if needed is not None:
        return f"{needed - seeds} more seed{'s' if needed > seeds + 1 else ''} would decide"
    # As the number of seeds grows, t becomes the normal quantile and the standard error the spread of a single run.
    size, equivalence, interval = abs(difference), 1.645 * spread, 1.96 * spread
    if size + equivalence + limits.rounding < limits.margin or size > max(limits.margin, interval) + limits.rounding:
        return f"more than {MOST_SEEDS} seeds would be needed"
    return "no number of seeds can decide"


def seeds_for_gap(
    gap: float, spread: float, level: float, *, clip_error: float = 0.0, power: float = 0.9, most: int = MOST_SEEDS
) -> int | None:
    """Return the seeds that each of two rows needs to show that they differ.

    The difference has to exceed t sqrt(clip_error² + 2 spread²/k). Its clips stay the same, so that more seeds leave `clip_error`.

    Args:
        gap: Difference of the rows' means.
        spread: Standard deviation of single runs of either row.
        level: One-sided level of the test.
        clip_error: Standard error of the difference that is due to the sampled clips.
        power: Probability that the difference exceeds its limit.
        most: Largest number to try.

    Returns:
        The number, None if none up to `most` is enough.
    """

    def find_power(seeds: int) -> float:
        freedom, error = 2 * (seeds - 1), spread * np.sqrt(2 / seeds)
        if not error:
            return float(abs(gap) > stdtrit(1e9, 1 - level) * clip_error)
        # The clips' part has many more degrees of freedom than the seeds' (Satterthwaite 1946).
        joined = min(1e9, freedom * (1 + (clip_error / error) ** 2) ** 2)
        limit = stdtrit(joined, 1 - level) * np.sqrt(clip_error**2 + (error * _chi_steps(freedom)) ** 2)
        return float(ndtr((abs(gap) - limit) / error).mean())

    # More seeds never make it less likely.
    found = bisect_left(range(2, most + 1), power, key=find_power) + 2
    return found if found <= most else None


def rate_outcomes(
    seeds: int, spread: float, limits: Limits, *, difference: float, ratio: float, draws: int, seed: int = 0
) -> dict[Outcome, float]:
    """Simulate how often each verdict is given, as shares of 1.

    Args:
        seeds: Number of runs, all of which were planned.
        spread: Standard deviation of our runs.
        limits: Margin and rounding.
        difference: Mean of our runs less that of the authors'.
        ratio: The authors' standard deviation over ours.
        draws: Number of simulated measurements.
        seed: Of the random numbers.
    """
    draw = np.random.default_rng(seed)
    ours = difference + draw.normal(0, spread / np.sqrt(seeds), draws)
    # A sample variance of normal values is a scaled chi-square, independent of their mean: no single run has to be drawn.
    sampled = spread * np.sqrt(draw.chisquare(max(1, seeds - 1), draws) / max(1, seeds - 1))
    found = judge_arrays(ours - draw.normal(0, ratio * spread, draws), sampled, seeds, limits)
    return {outcome: float(found[outcome].mean()) if outcome in found else 0.0 for outcome in Outcome}


@lru_cache(maxsize=1024)
def _chi_steps(freedom: int) -> Values:
    """Return equally likely values of a sample standard deviation over the true one."""
    steps: Values = np.sqrt(chdtri(freedom, (np.arange(STEPS) + 0.5) / STEPS) / freedom)
    return steps
