"""The statistics of a verdict: measured values against one published number, two-sided. All values are in points (percent).

A published number is one value of unknown spread; a measurement is k runs of one configuration, with mean m and sample
standard deviation s. If the authors' spread is rho s, the difference of the two has standard error s sqrt(rho^2 + 1/k).
Half a unit of the last printed digit is added for rounding, and what missing test clips could change. Both widen the interval
of the difference, never the margin.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

from repro.judge.expected import Expected

ALPHA = 0.05
"""Error rate of the prediction interval (two-sided) and of each one-sided equivalence test."""
RATIOS = (0, 1, 2)
"""The authors' spread over ours, which nothing published tells. The verdict is that at 1, shown alongside those at 0 and 2."""
TIE = 1e-9
"""Differences below this are rounding errors of the arithmetic, and change no verdict."""


class Outcome(StrEnum):
    """The possible verdicts. HIGHER and LOWER alone say that the row was not reproduced."""

    REPRODUCED = "REPRODUCED"
    """Equivalent: two one-sided tests (Schuirmann 1987), each at 5 %, place the difference inside the margin."""
    CONSISTENT = "CONSISTENT"
    """Inside the margin and the 95 % prediction interval, without enough runs for equivalence."""
    WITHIN_MARGIN = "WITHIN MARGIN"
    """Inside the margin: a single run, or runs so alike that the published value is outside their prediction interval."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """Too few runs, too wide a spread, or cells of the grid or clips missing: neither the same nor different."""
    HIGHER = "HIGHER"
    """Above both the margin and the prediction interval."""
    LOWER = "LOWER"
    """Below both."""
    OTHER_WEIGHTS = "OTHER WEIGHTS"
    """Measured with weights that are our guess: no verdict on the published value, whatever the difference."""
    EDITED = "EDITED"
    """Measured with configs that are not those of the rule set: no measurement of the row."""
    NOT_RUN = "NOT RUN"


DECIDED = (Outcome.REPRODUCED, Outcome.HIGHER, Outcome.LOWER)
"""Outcomes that rest on the error rates of their tests."""


@dataclass(frozen=True, slots=True)
class MissingClips:
    """Clips that the runs of a set did not read."""

    share: float = 0.0
    """Largest share of the test split that is missing from a run."""
    training: bool = False
    """Whether training clips are missing from a run."""


class Judgement(NamedTuple):
    """The outcome of a comparison."""

    outcome: Outcome
    """At equal spread."""
    reason: str
    by_ratio: Mapping[int, Outcome] = {}
    """The outcome by the authors' spread over ours; empty with fewer runs than planned."""
    widened_by: float = 0.0
    """Points by which missing test clips widen the interval on either side."""
    half_width: float | None = None
    """Of the 95 % prediction interval, in points; None for a single run."""


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation, which a single value does not have."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@cache
def quantile(share: float, degrees: int) -> float:
    """Return Student's t quantile."""
    # Imported here because scipy would slow the start of `repro plan`, which imports the judge, too; scipy.stats would take a
    # second more.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def standard_error(spread: Any, k: int, ratio: float = 1.0) -> Any:
    """Return the standard error of the mean of k values minus one value that spreads `ratio` times as much.

    Not the narrower one of the mean alone: the published value is itself a single run. Numbers or arrays.
    """
    # The variances add: s²/k of our mean and (ratio s)² of one published run. At ratio 1 its interval is the
    # prediction interval for one further run.
    return spread * math.sqrt(ratio**2 + 1 / k)


def is_equivalent(difference: Any, error: Any, k: int, margin: float, slack: Any) -> Any:
    """Whether two one-sided t tests place the difference inside the margin, whatever `slack` hides. Numbers or arrays."""
    # Two tests at level ALPHA (Schuirmann 1987) are equivalent to this: the two-sided 90 % interval, widened by the slack, is
    # within the margin. So the quantile is at 1 - ALPHA here, and at 1 - ALPHA / 2 below.
    return abs(difference) + quantile(1 - ALPHA, k - 1) * error + slack <= margin + TIE


def is_different(difference: Any, error: Any, k: int, margin: float, slack: Any) -> Any:
    """Whether the difference is beyond both the margin and its 95 % prediction interval. Numbers or arrays."""
    # Both: beyond the margin alone could be spread, and beyond the interval alone a difference too small to matter.
    beyond_margin = abs(difference) > margin + slack + TIE
    return beyond_margin & (abs(difference) > quantile(1 - ALPHA / 2, k - 1) * error + slack + TIE)


def bound_missing(share: float, values: Any) -> Any:
    """Return by how many points missing clips can change the accuracy of each run: all of them right, or all wrong.

    Of n clips a share f is missing and a of those present are right: (1 - f) a to (1 - f) a + f of all are. The same bounds the
    best epoch, whose score on all clips is at least that of the epoch chosen here, and whose score on those present is at most.
    """
    # 50 + |a - 50| is the larger of a and 100 - a: what the missing clips score at most apart from those present.
    return share * (50 + abs(values - 50))


def judge_values(
    expected: Expected, values: Sequence[float], cells: int = 1, of: int = 91, missing: MissingClips = MissingClips()
) -> Judgement:
    """Judge measured values against a published one.

    Args:
        expected: Published value, margin and planned number of runs.
        values: One per seed, in points.
        cells: If the published value is the best of a grid, how many of its cells were run. With fewer than all, values
            below it prove nothing: the best cell may be missing. Nor does one at it prove equality: the search may add points.
        of: Number of cells of the grid.
        missing: Clips that the runs did not read. For average precision and for training clips there is no bound on what they
            could change.
    """
    if not values:
        return Judgement(Outcome.NOT_RUN, "no run record")
    # The formulas' names: k runs, and the difference of their mean to the published value.
    k, plan = len(values), expected.planned_seeds
    difference = statistics.fmean(values) - expected.published
    part = ""
    if expected.best_of_grid and cells < of:
        part = f"{cells} cell{'s' if cells > 1 else ''} of {of}; the published value is the best of a grid"
    also = f"; {part}" if part else ""
    # Average precision depends on the order of all pairs, and training clips change the network: neither has a bound.
    unbounded = missing.training or (missing.share > 0 and expected.metric != "top1")
    bound = 0.0 if unbounded else statistics.fmean(bound_missing(missing.share, value) for value in values)
    # Both widen the interval and never the margin: a wider margin calls results reproduced that are wrong by
    # more than the margin.
    slack = expected.rounding + bound
    # Near whatever the missing clips are.
    near = not unbounded and abs(difference) + bound <= expected.margin + expected.rounding + TIE
    if k == 1:
        # One run has no standard deviation and so no interval: it can be near, but never different.
        outcome = Outcome.WITHIN_MARGIN if near else Outcome.INCONCLUSIVE
        return Judgement(outcome, f"one run of {plan} planned{also}", widened_by=bound)
    spread = statistics.stdev(values)
    half = quantile(1 - ALPHA / 2, k - 1) * standard_error(spread, k) + slack
    interval = f"95 % prediction interval {difference - half:+z.2f} to {difference + half:+z.2f}"
    # The number of runs is fixed before any run: whoever may stop at the seed that suits has other error
    # rates than the tests state.
    if k < plan:
        reason = f"{k} runs of {plan} planned; {interval}{also}"
        return Judgement(Outcome.INCONCLUSIVE, reason, widened_by=bound, half_width=half)
    if unbounded:
        what = "training clips" if missing.training else "test clips of an average precision"
        reason = f"{what} are missing, for which there is no bound; {interval}{also}"
        return Judgement(Outcome.INCONCLUSIVE, reason, half_width=half)

    def decide(ratio: int) -> Outcome:
        error = standard_error(spread, k, ratio)
        if is_equivalent(difference, error, k, expected.margin, slack):
            return Outcome.CONSISTENT if part else Outcome.REPRODUCED
        if is_different(difference, error, k, expected.margin, slack):
            # The best of all cells is at least the best of some: from a part of the grid, only HIGHER can be concluded.
            return Outcome.HIGHER if difference > 0 else Outcome.INCONCLUSIVE if part else Outcome.LOWER
        if near:
            inside = abs(difference) <= quantile(1 - ALPHA / 2, k - 1) * error + slack + TIE
            return Outcome.CONSISTENT if inside else Outcome.WITHIN_MARGIN
        return Outcome.INCONCLUSIVE

    # Nobody knows how much the authors' runs spread. With twice our spread both error rates at ratio 1 are
    # several times as high, so the verdicts at 0 and 2 are printed too.
    by_ratio = {ratio: decide(ratio) for ratio in RATIOS}
    outcome = by_ratio[1]
    reason = interval + also
    if outcome is Outcome.REPRODUCED:
        reason = f"equivalent within the margin; {reason}"
    elif outcome is Outcome.WITHIN_MARGIN:
        reason = f"runs agree more closely than they do with the published value; {reason}"
    elif outcome is Outcome.INCONCLUSIVE and abs(difference) > expected.margin and abs(difference) <= half:
        reason = f"the difference exceeds the margin, the spread allows for it; {reason}"
    if outcome in DECIDED and by_ratio[2] is not outcome:
        reason += "; at equal spread"
    if len(set(by_ratio.values())) > 1:
        reason += f"; if the authors' spread is 0, 1, 2 times ours: {', '.join(by_ratio.values())}"
    return Judgement(outcome, reason, by_ratio, bound, half)
