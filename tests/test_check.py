"""The judge: the whole table of outcomes, exit codes, and sums that add up."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from records import record
from scipy import stats

from repro import check
from repro.check import Outcome, judge
from repro.errors import Exit, UsageError
from repro.expected import Expected, load_expected, table_path
from repro.rows import load_row, row_names

LINE = Expected(
    row="ucf_hmdb_sdv2", metric="top1", selection="best epoch on test", published=76.5, digits=1, margin=2.0,
    planned_seeds=5, source="", status="documented", note="",
)  # fmt: skip
GRID = dataclasses.replace(LINE, row="ucf_hmdb", selection="best cell and epoch on test")


def around(mean: float, spread: float, k: int = 5) -> list[float]:
    """k values of that mean and sample standard deviation."""
    base = [i - (k - 1) / 2 for i in range(k)]
    scale = spread / stats.tstd(base)
    return [mean + scale * b for b in base]


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([], Outcome.NOT_RUN),
        ([76.5], Outcome.WITHIN_MARGIN),
        ([78.55], Outcome.WITHIN_MARGIN),  # the margin and half the last printed digit
        ([78.56], Outcome.INCONCLUSIVE),
        ([74.44], Outcome.INCONCLUSIVE),
        ([90.0], Outcome.INCONCLUSIVE),  # one run is never judged higher
        (around(76.5, 0.1, 2), Outcome.INCONCLUSIVE),
        (around(99.0, 0.1, 4), Outcome.INCONCLUSIVE),
        (around(76.6, 0.3), Outcome.REPRODUCED),
        (around(75.0, 0.1), Outcome.REPRODUCED),
        (around(76.6, 1.0), Outcome.CONSISTENT),
        (around(78.0, 0.5), Outcome.CONSISTENT),
        (around(78.54, 0.001), Outcome.WITHIN_MARGIN),
        (around(79.0, 2.0), Outcome.INCONCLUSIVE),
        (around(79.0, 0.2), Outcome.HIGHER),
        (around(74.0, 0.2), Outcome.LOWER),
        ([79.0] * 5, Outcome.HIGHER),
        ([76.5] * 5, Outcome.REPRODUCED),
    ],
)
def test_the_truth_table(values: list[float], outcome: Outcome) -> None:
    assert judge(LINE, values)[0] is outcome


def test_one_cell_of_a_grid_is_never_lower() -> None:
    for values in ([60.0], around(60.0, 0.1)):
        outcome, reason = judge(GRID, values)
        assert outcome is Outcome.INCONCLUSIVE
        assert "1 cell of 91" in reason
    assert judge(GRID, around(90.0, 0.1))[0] is Outcome.HIGHER
    assert judge(LINE, around(60.0, 0.1))[0] is Outcome.LOWER


def test_it_is_two_sided() -> None:
    """Mirrored differences get mirrored outcomes."""
    mirror = {Outcome.HIGHER: Outcome.LOWER, Outcome.LOWER: Outcome.HIGHER}
    for difference, spread, k in itertools.product((0.3, 1.9, 2.5, 8.0), (0.01, 0.5, 3.0), (1, 3, 5)):
        up = judge(LINE, around(76.5 + difference, spread, k) if k > 1 else [76.5 + difference])[0]
        down = judge(LINE, around(76.5 - difference, spread, k) if k > 1 else [76.5 - difference])[0]
        assert mirror.get(up, up) is down


def test_the_interval_is_students() -> None:
    values = around(78.0, 0.7)
    half = stats.t.ppf(0.975, 4) * 0.7 * math.sqrt(1 + 1 / 5) + 0.05
    assert f"{1.5 - half:+.2f} to {1.5 + half:+.2f}" in judge(LINE, values)[1]


ROWS = {name: load_row(name) for name in row_names()}


def test_runs_of_one_configuration_are_judged_together() -> None:
    runs = [record("ucf_hmdb_sdv2", seed, 0.765 + 0.001 * seed, group="a") for seed in range(5)]
    runs += [record("ucf_hmdb_sdv2", seed, 0.9, group="b") for seed in range(2)]
    verdict = next(v for v in check.check(load_expected(table_path()), ROWS, runs) if v.expected.row == "ucf_hmdb_sdv2")
    assert verdict.seeds == (0, 1, 2, 3, 4)
    assert verdict.measured == pytest.approx(76.7)
    assert "1 other configurations" in verdict.reason
    assert verdict.outcome is Outcome.REPRODUCED


@pytest.mark.parametrize("change", [{"row_version": 99}, {"kind": "smoke"}, {"complete": False}])
def test_trials_and_other_versions_are_not_judged(change: dict[str, object]) -> None:
    run = record("ucf_hmdb_sdv2", 1, 0.765).model_copy(update=change)
    assert {v.outcome for v in check.check(load_expected(table_path()), ROWS, [run])} == {Outcome.NOT_RUN}


def test_the_sum_adds_up_to_the_rows() -> None:
    runs = [record("ucf_hmdb_sdv2", 1, 0.765), record("ak_full", 1, 0.5)]
    verdicts = check.check(load_expected(table_path()), ROWS, runs)
    text = check.summary(verdicts)
    assert text.startswith("24 rows: ")
    assert sum(int(part.split()[0]) for part in text.split(": ")[1].split(", ")) == 24
    assert all("\n" not in check.line(v) for v in verdicts)


def test_exit_codes() -> None:
    def code(values: list[float], strict: bool) -> Exit:
        outcome, reason = judge(LINE, values)
        return check.exit_code([check.Verdict(LINE, outcome, reason)], strict)

    assert code(around(79.0, 0.2), False) is Exit.JUDGED_DIFFERENT
    assert code(around(74.0, 0.2), False) is Exit.JUDGED_DIFFERENT
    for values in ([], [76.5, 77.0]):
        assert code(values, False) is Exit.OK
        assert code(values, True) is Exit.JUDGED_DIFFERENT
    assert code([76.5], True) is Exit.OK


def test_an_assumed_checkpoint_is_said_beside_the_verdict() -> None:
    verdicts = check.check(load_expected(table_path()), ROWS, [record("ak_full_vjepa", 1, 0.7864)])
    line = next(check.line(v) for v in verdicts if v.expected.row == "ak_full_vjepa")
    assert "WITHIN MARGIN" in line
    assert line.endswith("[checkpoint assumed]")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("80.79", "eighty", r"results\.csv:2: published: 'eighty'"),
        ("80.79", "180", "expected a number from 0 to 100"),
        (",map_micro,", ",mAP,", "metric: 'mAP': expected one of map_micro, top1"),
        (",1.0,5,", ",-1,5,", "margin: '-1'"),
        (",1.0,5,", ",nan,5,", "margin: 'nan'"),
        (",1.0,5,", ",1.0,", "9 values, expected 10"),
        ("margin", "margins", "expected the columns"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "results.csv").write_text(table_path().read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=said):
        load_expected(tmp_path / "results.csv")
