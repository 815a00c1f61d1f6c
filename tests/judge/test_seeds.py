"""What a number of seeds can decide."""

import dataclasses

import numpy as np
import pytest
from builders.commands import ROOT, load_script

from repro.judge.expected import Expected
from repro.judge.outcome import Outcome, judge_values
from repro.judge.seeds import (
    MOST_SEEDS,
    Limits,
    decision_power,
    explain_seeds,
    judge_arrays,
    seeds_for_gap,
    seeds_needed,
)

LINE = Expected(
    row="ucf_hmdb_sdv2", metric="top1", selection="best epoch on test", published=76.5, digits=1, margin=2.0,
    planned_seeds=5, first_seed=39, source="", status="documented", note="",
)  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 10])
def test_arrays_are_judged_as_single_rows_are(seeds: int) -> None:
    draw = np.random.default_rng(seeds)
    line = dataclasses.replace(LINE, planned_seeds=seeds)
    # Near the limits of every verdict: at the margin, within half a printed digit of it, and far from it.
    runs = (
        76.5
        + draw.choice([0, 1.2, 1.97, 2.02, 2.08, 3, -2.02, -3], (600, 1))
        + draw.choice([1e-3, 0.3, 1.5], (600, 1)) * draw.normal(size=(600, seeds))
    )
    spread = runs.std(axis=1, ddof=1) if seeds > 1 else np.zeros(600)
    found = judge_arrays(runs.mean(axis=1) - 76.5, spread, seeds, Limits(2.0, 0.05))
    assert np.array_equal(sum(found.values()), np.ones(600))
    for place, values in enumerate(runs.tolist()):
        assert found[judge_values(line, values).outcome][place], values


NEEDED = {
    1.0: {0.25: 5, 0.4: None},
    1.5: {0.25: 3, 0.4: 7, 0.5: 100, 0.6: None},
    2.0: {0.25: 3, 0.4: 5, 0.5: 5, 0.6: 15, 1.0: None},
}
"""Seeds for REPRODUCED with 80 % at no difference, simulated independently for 3, 5, 7, 10, 15, 20, 50 and 100 seeds."""


@pytest.mark.parametrize(("margin", "spread"), [(m, s) for m, by_spread in NEEDED.items() for s in by_spread])
def test_seeds_that_reproducing_takes(margin: float, spread: float) -> None:
    tried, limits = [2, 3, 5, 7, 10, 15, 20, 50, 100], Limits(margin, 0.005)
    needed = NEEDED[margin][spread]
    found = seeds_needed(spread, limits, published_varies=True)
    if needed is None:
        assert found is None
    else:
        assert found is not None
        assert tried[tried.index(needed) - 1] < found <= needed


def test_probabilities_are_those_of_a_simulation() -> None:
    draw, limits = np.random.default_rng(0), Limits(2.0, 0.05)
    for difference, spread, seeds, varies in ((0.0, 0.6, 5, True), (1.0, 0.5, 8, False), (3.0, 0.7, 5, True)):
        runs = difference + draw.normal(0, spread, (20_000, seeds))
        published = draw.normal(0, spread, 20_000) if varies else 0
        found = judge_arrays(runs.mean(1) - published, runs.std(1, ddof=1), seeds, limits)
        reproduced, different = decision_power(seeds, spread, limits, difference=difference, published_varies=varies)
        assert reproduced == pytest.approx(found[Outcome.REPRODUCED].mean(), abs=0.012)
        assert different == pytest.approx((found[Outcome.HIGHER] | found[Outcome.LOWER]).mean(), abs=0.012)


@pytest.mark.parametrize(
    ("difference", "spread", "said"),
    [
        (0.0, 0.0, "1 more seed would decide"),
        (0.0, 1.5, "no number of seeds can decide"),
        (1.9, 0.3, "no number of seeds can decide"),
        (3.0, 1.2, "16 more seeds would decide"),
        (-3.0, 1.2, "16 more seeds would decide"),
        (3.5, 1.7, "more than 100 seeds would be needed"),
    ],
)
def test_what_more_seeds_would_do(difference: float, spread: float, said: str) -> None:
    assert said in explain_seeds(Outcome.INCONCLUSIVE, difference, spread, 5, Limits(2.0, 0.05))


def test_a_settled_row_needs_none() -> None:
    for outcome in (Outcome.REPRODUCED, Outcome.HIGHER, Outcome.LOWER, Outcome.NOT_RUN):
        assert explain_seeds(outcome, 0.0, 0.5, 5, Limits(2.0)) == ""
    assert explain_seeds(Outcome.WITHIN_MARGIN, 0.0, 0.5, 1, Limits(2.0)) == ""


@pytest.mark.parametrize(
    ("gap", "seeds", "of_eighteen"),
    [(0.09, 530, 1017), (0.8, 8, 15), (1.1, 5, 9), (1.5, 3, 6), (2.0, 3, 5), (2.1, 3, 5), (9.5, 2, 3)],
)
def test_seeds_that_a_gap_takes(gap: float, seeds: int, of_eighteen: int) -> None:
    """Two-sample t tests, one-sided at 5 % and at its 18th part, power 90 %, spread 0.5."""
    assert seeds_for_gap(gap, 0.5, 0.05, most=2000) == seeds
    assert seeds_for_gap(gap, 0.5, 0.05 / 18, most=2000) == of_eighteen
    assert (seeds_for_gap(gap, 0.5, 0.05 / 18) is None) == (of_eighteen > MOST_SEEDS)


def test_seeds_do_not_remove_the_error_of_the_clips() -> None:
    assert seeds_for_gap(2.0, 0.5, 0.025, clip_error=0.5) is not None
    assert seeds_for_gap(2.0, 0.5, 0.025, clip_error=1.1, most=5000) is None
    assert seeds_for_gap(2.0, 0.0, 0.025, clip_error=1.1) is None
    assert seeds_for_gap(2.0, 0.0, 0.025) == 2


def test_the_table_of_margins_is_the_scripts() -> None:
    """Some of its lines, with fewer draws; the seeds that are needed are computed, and the same."""
    script = load_script("make_margin_table")
    readme = (ROOT / "expected" / "README.md").read_text()
    assert script.needed_line(2.0) in readme
    for margin, spread, runs in ((1.0, 0.25, 1), (1.0, 0.25, 5), (1.5, 0.5, 3), (2.0, 2.0, 10)):
        written = next(line for line in readme.splitlines() if line.startswith(f"| {margin} | {spread} | {runs} |"))
        made = script.line(margin, spread, runs, draws=10_000)
        numbers = [
            [float(part) for cell in line.split("|")[4:-1] for part in cell.split("·")] for line in (written, made)
        ]
        assert len(numbers[0]) == 14
        assert numbers[0] == pytest.approx(numbers[1], abs=2)
    tables = readme.split("<!-- margins -->")[1].split("<!-- end of margins -->")[0]
    errors = [
        [float(cell) for cell in line.split("|")[6:8]]
        for line in tables.splitlines()
        if line.count("|") == 10 and line[2].isdigit()
    ]
    assert len(errors) == 48
    assert max(map(max, errors)) <= 5.5
