"""The tests of differences are those of the literature, and together they keep their level."""

import numpy as np
import pytest
from builders.commands import ROOT, load_script
from scipy import stats

from repro.judge.claims.comparison import (
    Source,
    adjust_holm,
    claim_p_value,
    combine_sources,
    compare_pairs,
    compare_seeds,
)

A, B = (50.1, 50.9, 49.7, 51.2, 50.3), (49.5, 49.9, 50.0, 48.7)


def test_seeds_are_compared_as_welch_does() -> None:
    difference, source = np.mean(A) - np.mean(B), compare_seeds(A, B)
    theirs = stats.ttest_ind(A, B, equal_var=False)
    assert source.p_value(difference) == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval(0.95)
    assert difference - source.half_width() == pytest.approx(interval.low)


def test_pairs_are_compared_as_students_test_does() -> None:
    source = compare_pairs(A[:4], B)
    assert source.p_value(np.mean(A[:4]) - np.mean(B)) == pytest.approx(stats.ttest_rel(A[:4], B).pvalue)


def test_runs_that_are_all_alike() -> None:
    source = compare_seeds([50.0] * 3, [49.0] * 3)
    assert source.p_value(1.0) == 0
    assert source.p_value(0.0) == 1
    assert source.half_width() == 0


def test_a_claim_needs_every_test() -> None:
    small, large = Source(0.1, 8.0), Source(1.0, 400.0)
    both = combine_sources(small, large)
    assert both.error == pytest.approx(np.sqrt(1.01))
    assert claim_p_value(2.0, small, large) == pytest.approx(both.p_value(2.0))
    assert claim_p_value(2.0, small, large) >= max(small.p_value(2.0), large.p_value(2.0))
    # Few seeds: the test on seeds has the fewest degrees of freedom.
    assert claim_p_value(2.0, Source(0.5, 2.0), Source(0.01, 400.0)) == pytest.approx(
        Source(0.5, 2.0).p_value(2.0), rel=0.01
    )


def test_holm() -> None:
    assert adjust_holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert adjust_holm(np.array([1.0, 0.5, 0.0])).tolist() == [1.0, 1.0, 0.0]
    families = np.array([[0.04, 0.01, 0.03], [0.5, 0.001, 1.0]])
    assert adjust_holm(families)[1].tolist() == pytest.approx([1.0, 0.003, 1.0])


def test_equal_rows_seldom_differ() -> None:
    """Corners of the table in expected/README.md, with fewer draws: 5 % and three standard errors."""
    script = load_script("make_claim_rates")
    for runs, error in ((3, 0.0), (5, 0.3), (10, 0.3)):
        found = script.family_rates(runs, error, draws=2000, seed=1)
        assert found["judged"] <= 6.5
    # The tests on seeds and on clips, each by itself, do not suffice.
    assert found["both"] > 15
    readme = (ROOT / "expected" / "README.md").read_text()
    line = next(line for line in readme.splitlines() if line.startswith("| 10 | 0.3 |"))
    assert [float(cell) for cell in line.split("|")[3:6]] == pytest.approx(list(found.values()), abs=3)
    judged = [
        float(line.split("|")[5])
        for line in readme.split("<!-- claims -->")[1].splitlines()
        if line[:3] in ("| 3", "| 5", "| 1")
    ]
    assert len(judged) == 15
    assert max(judged) <= 5.5


def test_equal_predictions_do_not_differ() -> None:
    assert load_script("make_claim_rates").clip_family_rate(3, draws=2, resamples=100) == 0
