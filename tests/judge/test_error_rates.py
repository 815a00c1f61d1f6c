"""How often a verdict is wrong, over 10,000 simulated draws a case."""

import itertools
from typing import Any

import numpy as np
import pytest

from repro.judge.outcome import ALPHA, bound_missing, is_different, is_equivalent, quantile, standard_error

DRAWS = 10_000
MOST = ALPHA + 0.005
PUBLISHED, MARGIN, ROUNDING = 76.5, 2.0, 0.05
COUNTS, SPREADS, MISSING = (3, 5, 10), (0.25, 0.5, 1.0, 2.0), (0.0, 0.005, 0.02, 0.05)


def simulate(k: int, spread: float, offset: float, authors: float, missing: float, worst: float) -> dict[str, Any]:
    """Draw k runs of ours, whose truth is `offset` from that of the authors, and one published value of theirs.

    Args:
        k: Number of runs.
        spread: Ours.
        offset: Of our true value from theirs.
        authors: Their spread over ours.
        missing: Share of clips missing from ours.
        worst: Accuracy on those clips: 0 or 100.
    """
    rng = np.random.default_rng([k, int(100 * spread), int(100 * abs(offset)), int(authors), int(1000 * missing)])
    published = np.round(PUBLISHED + authors * spread * rng.normal(size=DRAWS), 1)
    ours = PUBLISHED + offset + spread * rng.normal(size=(DRAWS, k))
    seen = (ours - missing * worst) / (1 - missing)  # what is measured on the clips that are there
    return {
        "difference": seen.mean(axis=1) - published,
        "spread": seen.std(axis=1, ddof=1),
        "slack": ROUNDING + bound_missing(missing, seen).mean(axis=1),
    }


@pytest.mark.parametrize("missing", MISSING)
def test_false_verdicts_are_rare(missing: float) -> None:
    for k, spread, worst in itertools.product(COUNTS, SPREADS, (0.0, 100.0)):
        # REPRODUCED though we are off by the margin, on either side; HIGHER or LOWER though we are not off at all.
        for offset, wrong in ((MARGIN, is_equivalent), (-MARGIN, is_equivalent), (0.0, is_different)):
            for authors in (1, 2):
                drawn = simulate(k, spread, offset, authors, missing, worst)
                error = standard_error(drawn["spread"], k, authors)
                found = wrong(drawn["difference"], error, k, MARGIN, drawn["slack"])
                assert found.mean() <= MOST, (wrong.__name__, k, spread, authors, missing, worst, found.mean())


def test_right_verdicts_are_possible() -> None:
    """A rule that never decides would have no false verdicts either."""
    drawn = simulate(5, 0.25, 0.0, 1, 0.0, 0.0)
    error = standard_error(drawn["spread"], 5)
    assert is_equivalent(drawn["difference"], error, 5, MARGIN, drawn["slack"]).mean() > 0.95
    drawn = simulate(5, 0.25, 5.0, 1, 0.0, 0.0)
    assert is_different(drawn["difference"], error, 5, MARGIN, drawn["slack"]).mean() > 0.95


def test_equal_spread_is_an_assumption() -> None:
    """What the verdict at twice the spread guards against: judged as equal, both errors are several times 5 %."""
    drawn = simulate(5, 0.5, MARGIN, 2, 0.0, 0.0)
    assert (
        is_equivalent(drawn["difference"], standard_error(drawn["spread"], 5), 5, MARGIN, drawn["slack"]).mean() > 0.1
    )


def test_a_margin_widened_by_missing_clips_would_be_wrong() -> None:
    """As it was once: off by the margin, and 5 % of the clips missing."""
    drawn = simulate(5, 0.5, MARGIN, 1, 0.05, 100.0)
    error = standard_error(drawn["spread"], 5)
    assert is_equivalent(drawn["difference"], error, 5, MARGIN + 5, ROUNDING).mean() > 0.9


def test_mlperfs_reference_convergence_point_is_the_same_test() -> None:
    """Two means of 18 and 8 runs with one spread: the numbers of mlcommons/training issue 838."""
    mean, spread, reference, submitted = 215040.0, 11976.86, 18, 8
    t = quantile(0.95, reference + submitted - 2)
    assert t == pytest.approx(1.7109, abs=5e-5)
    # One of their means spreads 1 / sqrt(18) times as much as a run.
    assert mean - t * standard_error(spread, submitted, reference**-0.5) == pytest.approx(206333.0007, abs=0.5)
