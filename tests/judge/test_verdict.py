"""The judge: the whole table of outcomes, exit codes, and sums that add up."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from builders.records import record
from scipy import stats

from repro.cli.judge.check import explain_left_out
from repro.core.errors import Exit, UsageError
from repro.judge import verdict as judge
from repro.judge.expected import Expected, rows_with_expected, table_path
from repro.judge.grid_selection import grid_cells
from repro.judge.verdict import Outcome, judge_values
from repro.records.record import FeaturesRecord, RunRecord
from repro.table.row import with_precision
from repro.table.rows import load_row

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
        (around(78.45, 0.001), Outcome.WITHIN_MARGIN),
        (around(78.54, 0.001), Outcome.HIGHER),  # half a printed digit beyond the margin is allowed to one run alone
        (around(79.0, 2.0), Outcome.INCONCLUSIVE),
        (around(79.0, 0.2), Outcome.HIGHER),
        (around(74.0, 0.2), Outcome.LOWER),
        ([79.0] * 5, Outcome.HIGHER),
        ([76.5] * 5, Outcome.REPRODUCED),
    ],
)
def test_the_truth_table(values: list[float], outcome: Outcome) -> None:
    assert judge_values(LINE, values)[0] is outcome


def test_one_cell_of_a_grid_is_never_lower() -> None:
    for values in ([60.0], around(60.0, 0.1)):
        outcome, reason = judge_values(GRID, values)
        assert outcome is Outcome.INCONCLUSIVE
        assert "1 cell of 91" in reason
    assert judge_values(GRID, around(90.0, 0.1))[0] is Outcome.HIGHER
    assert judge_values(LINE, around(60.0, 0.1))[0] is Outcome.LOWER


def test_a_part_of_a_grid_is_never_lower_and_a_whole_one_may_be() -> None:
    for values in ([60.0], around(60.0, 0.1)):
        outcome, reason = judge_values(GRID, values, 90, 91)
        assert outcome is Outcome.INCONCLUSIVE
        assert "90 cells of 91" in reason
    outcome, reason = judge_values(GRID, around(60.0, 0.1), 91, 91)
    assert outcome is Outcome.LOWER
    assert "cells" not in reason
    assert judge_values(GRID, [60.0], 91, 91) == (Outcome.INCONCLUSIVE, "one run of 5 planned")


CELLS = [cell.name for cell in grid_cells(load_row("ucf_hmdb"))]


def cell_runs(seed: int, score: float, cells: list[str], set_of: str = "g", at: str = "2026-01-01") -> list[RunRecord]:
    """One seed's runs of cells, as a grid makes them; the first scores `score`, each other 0.001 less."""
    return [
        (one := record("ucf_hmdb", seed, score - 0.001 * (place > 0), f"{set_of}{cell}", at)).model_copy(
            update={"grid": set_of, "features": one.features.model_copy(update={"cell": cell})}
        )
        for place, cell in enumerate(cells)
    ]


@pytest.mark.slow
def test_a_whole_grid_is_judged_by_its_best_cell() -> None:
    """Of each seed its own best, as the published value is the best of one; the last epoch stays the row's own cell's."""
    shifted = [*CELLS[1:], CELLS[0]]
    runs = [one for seed in range(5) for one in cell_runs(seed, 0.70 + 0.001 * seed, shifted if seed else CELLS)]
    judged = verdict("ucf_hmdb", *runs)
    assert judged.outcome is Outcome.LOWER
    assert judged.measured == pytest.approx(70.2)
    assert judged.last_epoch == pytest.approx(70.1)
    assert judged.cells == 91
    assert [one.cell for one in judged.best_of_grid] == ["t00_layer01", *["t00_layer02"] * 4]
    assert "best of 91 cells, seed 0 t00_layer01, seed 1 t00_layer02" in judged.reason
    assert judge.verdict_as_json(judged)["cells"] == 91
    assert judge.judge_rows(ROWS, runs)[1] == []
    assert judge.exit_code([judged], False) is Exit.JUDGED_DIFFERENT


@pytest.mark.slow
def test_with_a_missing_cell_the_rows_own_is_judged() -> None:
    runs = [one for seed in range(5) for one in cell_runs(seed, 0.70, CELLS[:-1])]
    judged = verdict("ucf_hmdb", *runs)
    assert judged.outcome is Outcome.INCONCLUSIVE
    assert judged.measured == pytest.approx(69.9)
    assert (judged.best_of_grid, judged.cells) == ((), 90)
    assert "90 cells of 91; the published value is the best of a grid" in judged.reason
    assert "t20_layer09 alone is judged of 90 cells of 91" in judged.reason


@pytest.mark.slow
def test_one_seeds_whole_grid_goes_before_more_seeds_of_one_cell() -> None:
    own = [one for seed in range(5) for one in cell_runs(seed, 0.776, ["t20_layer09"])]
    assert verdict("ucf_hmdb", *own).outcome is Outcome.REPRODUCED
    judged = verdict("ucf_hmdb", *own, *cell_runs(0, 0.60, CELLS))
    assert (judged.outcome, judged.seeds) == (Outcome.INCONCLUSIVE, (0,))
    assert judged.reason.startswith("one run of 5 planned; best of 91 cells")
    assert "4 seeds without all cells not judged" in judged.reason


@pytest.mark.slow
def test_grids_that_differ_are_not_joined() -> None:
    """Half the cells on other features, or of another version: no whole grid."""
    judged = verdict("ucf_hmdb", *cell_runs(0, 0.70, CELLS[:60], "a"), *cell_runs(0, 0.70, CELLS[60:], "b"))
    assert judged.best_of_grid == ()
    without_own = [cell for cell in CELLS if cell != "t20_layer09"]
    judged = verdict("ucf_hmdb", *cell_runs(0, 0.70, without_own))
    assert (judged.outcome, judged.measured) == (Outcome.NOT_RUN, None)
    assert judged.reason == "no run record of its cell t20_layer09, though of 90 others"


def test_other_cells_of_a_row_that_is_one_cell_are_named_together() -> None:
    """SDv2's published values are one cell's."""
    runs = [
        (one := record("ucf_hmdb_sdv2", 1, 0.765, cell)).model_copy(
            update={"grid": "g", "features": one.features.model_copy(update={"cell": cell})}
        )
        for cell in CELLS
    ]
    verdicts, left_out = judge.judge_rows(ROWS, runs)
    judged = next(v for v in verdicts if v.expected.row == "ucf_hmdb_sdv2")
    assert (judged.outcome, judged.measured) == (Outcome.WITHIN_MARGIN, 76.5)
    assert len(left_out) == 90
    assert explain_left_out(left_out) == [
        "ucf_hmdb_sdv2: 90 records not judged: another cell of a grid: the row is t20_layer09"
    ]


def test_it_is_two_sided() -> None:
    """Mirrored differences get mirrored outcomes."""
    mirror = {Outcome.HIGHER: Outcome.LOWER, Outcome.LOWER: Outcome.HIGHER}
    for difference, spread, k in itertools.product((0.3, 1.9, 2.5, 8.0), (0.01, 0.5, 3.0), (1, 3, 5)):
        up = judge_values(LINE, around(76.5 + difference, spread, k) if k > 1 else [76.5 + difference])[0]
        down = judge_values(LINE, around(76.5 - difference, spread, k) if k > 1 else [76.5 - difference])[0]
        assert mirror.get(up, up) is down


def test_the_interval_is_students() -> None:
    values = around(78.0, 0.7)
    half = stats.t.ppf(0.975, 4) * 0.7 * math.sqrt(1 + 1 / 5) + 0.05
    assert f"{1.5 - half:+.2f} to {1.5 + half:+.2f}" in judge_values(LINE, values)[1]


ROWS = rows_with_expected(table_path())


def verdict(row: str, *runs: RunRecord) -> judge.Verdict:
    return next(v for v in judge.judge_rows(ROWS, runs)[0] if v.expected.row == row)


def test_the_newest_finished_set_of_runs_is_judged() -> None:
    old = [record("ucf_hmdb_sdv2", seed, 0.765, "a", "2026-01-01") for seed in range(6)]
    new = [record("ucf_hmdb_sdv2", seed, 0.50 + 0.001 * seed, "b", "2026-02-01") for seed in range(5)]
    trial = [record("ucf_hmdb_sdv2", 9, 0.99, "c", "2026-03-01")]
    judged = verdict("ucf_hmdb_sdv2", *old, *new, *trial)
    assert judged.outcome is Outcome.LOWER
    assert judged.seeds == (0, 1, 2, 3, 4)
    assert judged.measured == pytest.approx(50.2)
    assert "2 older or unfinished sets" in judged.reason


FEATURES = record("ucf_hmdb_sdv2", 1, 0.5).features


def changed(**keys: object) -> FeaturesRecord:
    """Features of the row's cell from a backbone configured otherwise."""
    return FEATURES.model_copy(update={"identity": FEATURES.identity | keys})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"row_version": 99}, "row version 99"),
        ({"complete": False}, "a trial on fewer clips"),
        ({"metric": "map_micro"}, "metric map_micro"),
        ({"row": "nothing"}, "no such row"),
        ({"recipe": load_row("ak_full").readout}, "another recipe: loss"),
        ({"features": record("ak_full_vjepa", 1, 0.5).features}, "features final"),
        ({"features": changed(conditioning={"source": "none"})}, "another backbone: its conditioning is not the row's"),
        ({"features": changed(version=99)}, "another backbone: its version is not the row's"),
        ({"features": FEATURES.model_copy(update={"stored_as": "float16"})}, "features stored as float16"),
        ({"precision": "bf16"}, "a readout in bf16"),
        ({"test": record("ak_full", 1, 0.5).test}, "test split animal_kingdom/full_test"),
        ({"train": record("ucf_hmdb", 1, 0.5).train.model_copy(update={"clips": 7})}, "7 clips of ucf101/train"),
    ],
)
def test_what_does_not_measure_the_row_is_not_judged_and_named(change: dict[str, object], said: str) -> None:
    run = record("ucf_hmdb_sdv2", 1, 0.765).model_copy(update=change)
    verdicts, left_out = judge.judge_rows(ROWS, [run])
    assert {v.outcome for v in verdicts} == {Outcome.NOT_RUN}
    assert len(left_out) == 1
    assert said in left_out[0][1]


def in_precision(run: RunRecord, precision: str) -> RunRecord:
    identity = run.features.identity | {"precision": precision}
    features = run.features.model_copy(update={"identity": identity, "key": precision})
    # The group is made of the features' key, among others.
    return run.model_copy(update={"features": features, "group": f"{run.group}-{precision}"})


def test_runs_in_another_precision_are_judged_and_said_to_be() -> None:
    runs = [in_precision(record("ucf_hmdb_sdv2", seed, 0.765 + 0.001 * seed), "fp32") for seed in range(2)]
    judged = verdict("ucf_hmdb_sdv2", *runs)
    assert (judged.seeds, judged.precision) == ((0, 1), "fp32")
    assert judged.reason.endswith("; features in precision fp32, not published as the row's")
    assert judge.verdict_as_json(judged)["precision"] == "fp32"


def test_runs_in_the_rows_precision_take_precedence_and_are_never_averaged_with_others() -> None:
    published = record("ucf_hmdb_sdv2", 0, 0.765)
    exact = [in_precision(record("ucf_hmdb_sdv2", seed, 0.9, at="2026-05-01"), "fp32") for seed in range(5)]
    judged = verdict("ucf_hmdb_sdv2", published, *exact)
    assert (judged.seeds, judged.precision, judged.measured) == ((0,), "published", 76.5)
    assert judged.reason.endswith("; runs with features in precision fp32 not judged")
    # For a plan only runs on the features that the row would read now count.
    row = load_row("ucf_hmdb_sdv2")
    assert judge.explain_mismatch(published, row) == ""
    assert judge.explain_mismatch(exact[0], row) == "features in precision fp32, the row's are in published"
    assert judge.explain_mismatch(exact[0], with_precision(row, "fp32")) == ""


def with_missing_clips(run: RunRecord, **ids: int) -> RunRecord:
    """`run` without some clips of its train or test split, as --allow-missing records it."""
    for part, count in ids.items():
        split = getattr(run, part)
        gone = tuple(f"clip{n}" for n in range(count))
        run = run.model_copy(
            update={part: split.model_copy(update={"clips": split.clips - count, "missing_clips": gone})}
        )
    return run


def test_missing_test_clips_widen_the_margin_of_accuracy() -> None:
    """30 of HMDB51's 1,200 clips: 2.5 points in addition to the margin of 2."""
    for score, gone, outcome in (
        (0.765 + 0.044, 30, Outcome.WITHIN_MARGIN),
        (0.765 + 0.046, 30, Outcome.INCONCLUSIVE),
        (0.765 + 0.044, 0, Outcome.INCONCLUSIVE),
        (0.765 - 0.044, 30, Outcome.WITHIN_MARGIN),
    ):
        run = record("ucf_hmdb_sdv2", 1, score)
        judged = verdict("ucf_hmdb_sdv2", with_missing_clips(run, test=gone) if gone else run)
        assert judged.outcome is outcome
        assert judged.margin == pytest.approx(2 + 100 * gone / 1200)
    judged = verdict("ucf_hmdb_sdv2", with_missing_clips(record("ucf_hmdb_sdv2", 1, 0.765), test=30))
    assert "30 of 1200 test clips missing, margin wider by 2.50" in judge.format_verdict(judged)
    assert "margin 4.5" in judge.format_verdict(judged)
    assert (judge.verdict_as_json(judged)["margin"], judge.verdict_as_json(judged)["margin_widened_by"]) == (4.5, 2.5)


def test_nothing_is_allowed_for_other_missing_clips() -> None:
    """No such bound holds for average precision, or for what was learnt from."""
    judged = verdict("ak_full_sdv2", with_missing_clips(record("ak_full_sdv2", 1, 0.80), test=60))
    assert (judged.outcome, judged.allowance) == (Outcome.INCONCLUSIVE, 0.0)
    assert "60 of 6096 test clips missing, for which nothing is allowed" in judged.reason
    judged = verdict("ucf_hmdb_sdv2", with_missing_clips(record("ucf_hmdb_sdv2", 1, 0.80), train=100))
    assert (judged.outcome, judged.allowance) == (Outcome.INCONCLUSIVE, 0.0)
    assert "100 of 1438 training clips missing, for which nothing is allowed" in judged.reason


def test_clips_that_are_neither_there_nor_said_to_be_missing() -> None:
    run = with_missing_clips(record("ucf_hmdb_sdv2", 1, 0.765), test=30)
    short = run.model_copy(update={"test": run.test.model_copy(update={"missing_clips": ("a",)})})
    assert "1170 clips of hmdb51/full, which has 1200" in judge.judge_rows(ROWS, [short])[1][0][1]


def test_smoke_records_are_none_of_its_business() -> None:
    run = record("ucf_hmdb_sdv2", 1, 0.765).model_copy(update={"kind": "smoke"})
    assert judge.judge_rows(ROWS, [run])[1] == []


def test_the_sum_adds_up_to_the_rows() -> None:
    verdicts, _ = judge.judge_rows(ROWS, [record("ucf_hmdb_sdv2", 1, 0.765), record("ak_full", 1, 0.5)])
    text = judge.format_counts(verdicts)
    assert text.startswith("24 rows: ")
    assert sum(int(part.split()[0]) for part in text.split(": ")[1].split(", ")) == 24
    assert all("\n" not in judge.format_verdict(v) for v in verdicts)


def test_exit_codes() -> None:
    def code(values: list[float], strict: bool) -> Exit:
        outcome, reason = judge_values(LINE, values)
        return judge.exit_code([judge.Verdict(LINE, outcome, reason)], strict)

    assert code(around(79.0, 0.2), False) is Exit.JUDGED_DIFFERENT
    assert code(around(74.0, 0.2), False) is Exit.JUDGED_DIFFERENT
    for values in ([], [76.5, 77.0]):
        assert code(values, False) is Exit.OK
        assert code(values, True) is Exit.JUDGED_DIFFERENT
    assert code([76.5], True) is Exit.OK


def test_an_assumed_checkpoint_is_named_with_the_verdict() -> None:
    line = judge.format_verdict(verdict("ak_full_vjepa", record("ak_full_vjepa", 1, 0.7864)))
    assert "WITHIN MARGIN" in line
    assert line.endswith("[checkpoint assumed]")


@pytest.mark.parametrize(
    ("row", "known"),
    [
        ("ak_unseen_videomaev2", "documented by the author's fork (inferred from names)"),
        ("charades_1to1_videomaev2", "inferred"),
        ("ucf_hmdb_videomaev2", "assumed"),
    ],
)
def test_what_is_known_of_a_checkpoint_is_said_with_the_verdict(row: str, known: str) -> None:
    found = verdict(row, record(row, 1, 0.2))
    assert found.checkpoint_assumed
    assert judge.format_verdict(found).endswith(f" [checkpoint {known}]")


def test_a_table_that_lacks_a_row_is_refused(tmp_path: Path) -> None:
    """Else leaving a line out would hide a verdict."""
    lines = [line for line in table_path().read_text().splitlines() if not line.startswith("ak_full_sdv2,")]
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match="row 'ak_full_sdv2' of configs/rows has no line"):
        rows_with_expected(tmp_path / "results.csv")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",1.0,", ",one,", r"results\.csv:2: margin: 'one'"),
        (",1.0,", ",180,", "expected a number from 0 to 100"),
        (",best cell and epoch on test,", ",best,", "selection: 'best': expected one of best epoch on test"),
        (",reconstructed,", ",guessed,", "status: 'guessed': expected one of documented"),
        (",1.0,", ",-1,", "margin: '-1'"),
        (",1.0,", ",nan,", "margin: 'nan'"),
        (",1.0,", ",", "4 values, expected 5"),
        ("\nak_full_sdv2,", "\nak_full,", "duplicate row 'ak_full'"),
        ("\nak_full,", "\nak_fool,", "row 'ak_fool' is none of configs/rows"),
        ("margin", "margins", "expected the columns"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "results.csv").write_text(table_path().read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=said):
        rows_with_expected(tmp_path / "results.csv")
