"""The judge: the whole table of outcomes, exit codes, and sums that add up."""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any

import pytest
from builders.records import record
from scipy import stats

from repro.core.errors import Exit
from repro.judge import verdict as judge
from repro.judge.expected import Expected, rows_with_expected, table_path
from repro.judge.fitness import explain_mismatch
from repro.judge.formats import format_left_out, format_verdict, verdict_as_json, wrap_verdict
from repro.judge.grid_selection import grid_cells
from repro.judge.outcome import MissingClips, Outcome, judge_values
from repro.records.record import FeaturesRecord, RunRecord
from repro.table.row import with_precision
from repro.table.rows import load_row

LINE = Expected(
    row="ucf_hmdb_sdv2", metric="top1", selection="best epoch on test", published=76.5, digits=1, margin=2.0,
    planned_seeds=5, first_seed=39, source="", status="documented", note="",
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
        (around(78.54, 0.001), Outcome.WITHIN_MARGIN),  # half the last printed digit, as for one run
        (around(78.56, 0.001), Outcome.HIGHER),
        ([78.55] * 5, Outcome.WITHIN_MARGIN),  # a tie, whatever 78.55 - 76.5 is in binary
        ([74.45] * 5, Outcome.WITHIN_MARGIN),
        ([78.45] * 5, Outcome.REPRODUCED),
        ([74.55] * 5, Outcome.REPRODUCED),
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
        outcome, reason, *_ = judge_values(GRID, values)
        assert outcome is Outcome.INCONCLUSIVE
        assert "1 cell of 91" in reason
    assert judge_values(GRID, around(90.0, 0.1))[0] is Outcome.HIGHER
    assert judge_values(LINE, around(60.0, 0.1))[0] is Outcome.LOWER


def test_one_cell_that_equals_the_best_of_a_grid_has_not_reproduced_it() -> None:
    """A search would find more: ours may be better by what it adds."""
    assert judge_values(LINE, around(76.5, 0.2))[0] is Outcome.REPRODUCED
    for mean in (76.4, 76.6):
        assert judge_values(GRID, around(mean, 0.2))[0] is Outcome.CONSISTENT
        assert judge_values(GRID, around(mean, 0.2), 90, 91)[0] is Outcome.CONSISTENT
        assert judge_values(GRID, around(mean, 0.2), 91, 91)[0] is Outcome.REPRODUCED


def test_the_authors_spread_is_not_known() -> None:
    judged = judge_values(LINE, around(76.5, 0.5))
    assert judged.by_ratio == {0: Outcome.REPRODUCED, 1: Outcome.REPRODUCED, 2: Outcome.CONSISTENT}
    assert (
        "at equal spread; if the authors' spread is 0, 1, 2 times ours: REPRODUCED, REPRODUCED, CONSISTENT"
        in judged.reason
    )
    judged = judge_values(LINE, around(79.2, 0.6))
    assert judged.by_ratio == {0: Outcome.HIGHER, 1: Outcome.HIGHER, 2: Outcome.INCONCLUSIVE}
    assert "at equal spread" in judged.reason
    judged = judge_values(LINE, around(76.6, 0.1))
    assert set(judged.by_ratio.values()) == {Outcome.REPRODUCED}
    assert "spread" not in judged.reason


def test_a_part_of_a_grid_is_never_lower_and_a_whole_one_may_be() -> None:
    for values in ([60.0], around(60.0, 0.1)):
        outcome, reason, *_ = judge_values(GRID, values, 90, 91)
        assert outcome is Outcome.INCONCLUSIVE
        assert "90 cells of 91" in reason
    outcome, reason, *_ = judge_values(GRID, around(60.0, 0.1), 91, 91)
    assert outcome is Outcome.LOWER
    assert "cells" not in reason
    assert judge_values(GRID, [60.0], 91, 91)[:2] == (Outcome.INCONCLUSIVE, "one run of 5 planned")


CELLS = [cell.name for cell in grid_cells(load_row("ucf_hmdb"))]


def first_seed(row: str) -> int:
    return load_row(row).seeds.published


def cell_runs(
    number: int, score: float, cells: list[str], set_of: str = "g", at: str = "2026-01-01"
) -> list[RunRecord]:
    """Runs of cells of one planned seed, as a grid makes them; the first scores `score`, each other 0.001 less."""
    seed = first_seed("ucf_hmdb") + number
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
    assert "best of 91 cells, seed 42 t00_layer01, seed 43 t00_layer02" in judged.reason
    assert "seeds 42-46 as planned" in judged.reason
    assert [run.features.cell for run in judged.runs] == [one.cell for one in judged.best_of_grid]
    assert verdict_as_json(judged)["cells"] == 91
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
    assert verdict("ucf_hmdb", *own).outcome is Outcome.CONSISTENT
    judged = verdict("ucf_hmdb", *own, *cell_runs(0, 0.60, CELLS))
    assert (judged.outcome, judged.seeds) == (Outcome.INCONCLUSIVE, (42,))
    assert judged.reason.startswith("one run of 5 planned; best of 91 cells")
    assert "R16 seeds 43-46 without all cells not judged (seeds 43-46 would be 77.60, INCONCLUSIVE)" in judged.reason


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
        (one := record("ucf_hmdb_sdv2", 39, 0.765, cell)).model_copy(
            update={"grid": "g", "features": one.features.model_copy(update={"cell": cell})}
        )
        for cell in CELLS
    ]
    verdicts, left_out = judge.judge_rows(ROWS, runs)
    judged = next(v for v in verdicts if v.expected.row == "ucf_hmdb_sdv2")
    assert (judged.outcome, judged.measured) == (Outcome.WITHIN_MARGIN, 76.5)
    assert len(left_out) == 90
    assert format_left_out(left_out) == [
        "ucf_hmdb_sdv2: 90 records not judged: R15 another cell of a grid: the row is t20_layer09"
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
FEATURES = record("ucf_hmdb_sdv2", 1, 0.5).features


def verdict(row: str, *runs: RunRecord) -> judge.Verdict:
    (found,), _ = judge.judge_rows({row: ROWS[row]}, runs)
    return found


def sdv2(
    seeds: Iterable[int], score: float, group: str = "g", at: str = "2026-01-01", step: float = 0.001
) -> list[RunRecord]:
    """Runs of ucf_hmdb_sdv2, whose planned seeds are 39 to 43; each scores `step` more than the one before."""
    return [record("ucf_hmdb_sdv2", seed, score + step * n, group, at) for n, seed in enumerate(seeds)]


def test_the_newest_finished_set_of_runs_is_judged() -> None:
    old, new = sdv2(range(39, 45), 0.765, "a"), sdv2(range(39, 44), 0.50, "b", "2026-02-01")
    judged = verdict("ucf_hmdb_sdv2", *old, *new, *sdv2([39], 0.99, "c", "2026-03-01"))
    assert judged.outcome is Outcome.LOWER
    assert judged.seeds == (39, 40, 41, 42, 43)
    assert judged.measured == pytest.approx(50.2)
    assert "seeds 39-43 as planned" in judged.reason
    assert "not judged: another set, seeds 39-44: 76.75, REPRODUCED" in judged.reason
    assert "not judged: another set, seeds 39: 99.00, INCONCLUSIVE" in judged.reason
    assert judged.runs == tuple(new)


def test_seeds_are_those_fixed_beforehand() -> None:
    """Ten seeds run, the worst five left out: 76.6 CONSISTENT in place of 74.3 INCONCLUSIVE. The first gap ends what is judged."""
    values = [0.766, 0.718, 0.767, 0.719, 0.765, 0.72, 0.766, 0.721, 0.766, 0.722]
    every = [record("ucf_hmdb_sdv2", 39 + n, value) for n, value in enumerate(values)]
    judged = verdict("ucf_hmdb_sdv2", *every)
    assert (judged.outcome, judged.seeds) == (Outcome.INCONCLUSIVE, tuple(range(39, 49)))
    assert "seeds 39-48, planned 39-43" in judged.reason
    best = [run for run, value in zip(every, values, strict=True) if value > 0.76]
    judged = verdict("ucf_hmdb_sdv2", *best)
    assert (judged.outcome, judged.seeds, judged.measured) == (Outcome.WITHIN_MARGIN, (39,), pytest.approx(76.6))
    assert "seed 39 of the planned 39-43" in judged.reason
    assert (
        "R16 seeds 41, 43, 45, 47 without 40 not judged (seeds 39, 41, 43, 45, 47 would be 76.60, REPRODUCED)"
        in judged.reason
    )


def test_without_the_published_seed_nothing_is_judged() -> None:
    judged = verdict("ucf_hmdb_sdv2", *sdv2(range(40, 45), 0.765))
    assert (judged.outcome, judged.seeds, judged.measured) == (Outcome.INCONCLUSIVE, (), None)
    assert judged.reason.startswith(
        "none of the planned seeds 39-43: 39 is missing; R16 seeds 40-44 without 39 not judged"
    )
    assert "76.70, REPRODUCED" in judged.reason
    assert len(wrap_verdict(judged, 80)) > 1
    # Another set that has it goes before, however few its runs.
    judged = verdict("ucf_hmdb_sdv2", *sdv2(range(40, 45), 0.765), *sdv2([39], 0.7, "b", "2025-01-01"))
    assert judged.seeds == (39,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": {"sha256": "1" * 64}}, "another test split"),
        ({"train": {"sha256": "1" * 64}}, "another training split"),
        ({"features": {"identity": FEATURES.identity | {"checkpoint_sha256": "1" * 64}}}, "another checkpoint"),
        ({"manifests": {"hmdb51": "1"}}, "another audit of hmdb51"),
        ({"made": {"by": {"torch": "9"}}}, "torch 9, not None"),
    ],
)
def test_runs_of_one_set_share_all_but_the_seed(change: dict[str, Any], said: str) -> None:
    runs = [run.model_copy(update={"manifests": {"hmdb51": "0"}}) for run in sdv2(range(39, 44), 0.765)]
    ((part, update),) = change.items()
    value = update if part == "manifests" else getattr(runs[3], part).model_copy(update=update)
    runs[3] = runs[3].model_copy(update={part: value})
    judged = verdict("ucf_hmdb_sdv2", *runs)
    assert judged.seeds == (39, 40, 41)
    assert f"R12 seed 42 has {said} as seed 39" in judged.reason
    assert [why.split(" ")[0] for _, why in judged.refused] == ["R12"]


def test_runs_on_several_devices_are_judged_and_the_devices_named() -> None:
    """Other devices and builds are judged together; other code is not."""
    made = [
        ("H100", {"torch": "2.8.0+cu128", "python": "3.12.3"}), ("H100", {"torch": "2.8.0+cu128", "python": "3.12.3"}),
        ("A100", {"torch": "2.8.0+cu128", "python": "3.12.7"}), ("cpu", {"torch": "2.8.0", "python": "3.12.3"}),
        ("H100", {"torch": "2.8.1+cu128", "python": "3.12.3"}),
    ]  # fmt: skip
    runs = [
        run.model_copy(update={"made": run.made.model_copy(update={"on": {"device": device}, "by": by})})
        for run, (device, by) in zip(sdv2(range(39, 44), 0.765), made, strict=True)
    ]
    judged = verdict("ucf_hmdb_sdv2", *runs)
    assert judged.seeds == (39, 40, 41, 42)
    assert judged.devices == {"H100": 2, "A100": 1, "cpu": 1}
    assert "trained on H100 (2), A100 (1), cpu (1)" in judged.reason
    assert "torch 2.8.0+cu128 and 2.8.0; python 3.12.3 and 3.12.7" in judged.reason
    assert [why for _, why in judged.refused] == ["R12 seed 43 has torch 2.8.1+cu128, not 2.8.0+cu128 as seed 39"]
    assert "trained on" not in verdict("ucf_hmdb_sdv2", *runs[:2]).reason


def test_a_seed_counts_once() -> None:
    twice = record("ucf_hmdb_sdv2", 39, 0.7, "g", "2026-01-02").model_copy(update={"run": "again"})
    judged = verdict("ucf_hmdb_sdv2", *sdv2([39], 0.765), twice)
    assert (judged.seeds, judged.measured) == ((39,), 70.0)
    assert judged.reason.count("R13 an older run of seed 39") == 1


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
    runs = [in_precision(run, "fp32") for run in sdv2((39, 40), 0.765)]
    judged = verdict("ucf_hmdb_sdv2", *runs)
    assert (judged.seeds, judged.precision) == ((39, 40), "fp32")
    assert "; features in precision fp32, not published as the row's" in judged.reason
    assert verdict_as_json(judged)["precision"] == "fp32"


def test_runs_in_the_rows_precision_take_precedence_and_are_never_averaged_with_others() -> None:
    published = record("ucf_hmdb_sdv2", 39, 0.765)
    exact = [in_precision(run, "fp32") for run in sdv2(range(39, 44), 0.9, at="2026-05-01", step=0)]
    judged = verdict("ucf_hmdb_sdv2", published, *exact)
    assert (judged.seeds, judged.precision, judged.measured) == ((39,), "published", 76.5)
    assert "not judged: another set, seeds 39-43 in precision fp32: 90.00, HIGHER" in judged.reason
    # For a plan only runs on the features that the row would read now count.
    row = load_row("ucf_hmdb_sdv2")
    assert explain_mismatch(published, row) == ""
    assert explain_mismatch(exact[0], row) == "features in precision fp32, the row's are in published"
    assert explain_mismatch(exact[0], with_precision(row, "fp32")) == ""


def with_missing_clips(run: RunRecord, **ids: int) -> RunRecord:
    """`run` without some clips of its train or test split, as --allow-missing records it."""
    for part, count in ids.items():
        split = getattr(run, part)
        gone = tuple(f"clip{n}" for n in range(count))
        run = run.model_copy(
            update={part: split.model_copy(update={"clips": split.clips - count, "missing_clips": gone})}
        )
    return run


def test_missing_test_clips_widen_the_interval_and_never_the_margin() -> None:
    """400 of 1,200 clips missing, 60.3 against 76.5: nothing is reproduced by leaving clips out."""
    runs = [with_missing_clips(run, test=400) for run in sdv2(range(39, 44), 0.603)]
    judged = verdict("ucf_hmdb_sdv2", *runs)
    assert (judged.outcome, judged.margin) == (Outcome.INCONCLUSIVE, 2.0)
    assert judged.widened_by == pytest.approx(100 / 3 * 0.605)
    assert "400 of 1200 test clips missing; interval wider by 20.17" in format_verdict(judged)
    for missing, outcome in (
        (0, Outcome.REPRODUCED),
        (12, Outcome.REPRODUCED),
        (31, Outcome.CONSISTENT),
        (48, Outcome.INCONCLUSIVE),
    ):
        judged = judge_values(LINE, around(76.5, 0.1), missing=MissingClips(missing / 1200))
        assert judged.outcome is outcome
    assert judge_values(LINE, around(70.0, 0.1), missing=MissingClips(0.05)).outcome is Outcome.LOWER
    assert judge_values(LINE, around(71.0, 0.1), missing=MissingClips(0.05)).outcome is Outcome.INCONCLUSIVE
    # 30 of 1,200 clips: at most 1.9 points, of which the margin leaves 2.
    run = with_missing_clips(record("ucf_hmdb_sdv2", 39, 0.765), test=30)
    assert verdict("ucf_hmdb_sdv2", run).outcome is Outcome.WITHIN_MARGIN
    run = with_missing_clips(record("ucf_hmdb_sdv2", 39, 0.770), test=30)
    assert verdict("ucf_hmdb_sdv2", run).outcome is Outcome.INCONCLUSIVE


def test_the_share_of_missing_clips_is_that_of_all_runs() -> None:
    runs = sdv2(range(39, 44), 0.765)
    runs[4] = with_missing_clips(runs[4], test=300)
    assert verdict("ucf_hmdb_sdv2", *runs).widened_by == pytest.approx(25 * 0.767)


def test_there_is_no_bound_for_other_missing_clips() -> None:
    """Neither for average precision, nor for what was learnt from."""
    for row, part, words in (
        ("ak_full_sdv2", "test", "60 of 6096 test clips missing"),
        ("ucf_hmdb_sdv2", "train", "60 of 1438 training clips missing"),
    ):
        published, seed = ROWS[row][1].published / 100, first_seed(row)
        for score in (published, published - 0.3):
            runs = [with_missing_clips(record(row, seed + n, score + 0.0001 * n), **{part: 60}) for n in range(5)]
            for of_runs in (runs, runs[:1]):
                judged = verdict(row, *of_runs)
                assert (judged.outcome, judged.widened_by) == (Outcome.INCONCLUSIVE, 0.0)
                assert words in judged.reason
        assert "for which there is no bound" in verdict(row, *runs).reason


def test_clips_that_are_neither_there_nor_said_to_be_missing() -> None:
    run = with_missing_clips(record("ucf_hmdb_sdv2", 1, 0.765), test=30)
    short = run.model_copy(update={"test": run.test.model_copy(update={"missing_clips": ("a",)})})
    assert "1170 clips of hmdb51/full, which has 1200" in judge.judge_rows(ROWS, [short])[1][0][1]


def test_smoke_records_are_none_of_its_business() -> None:
    run = record("ucf_hmdb_sdv2", 1, 0.765).model_copy(update={"kind": "smoke"})
    assert judge.judge_rows(ROWS, [run])[1] == []


def test_exit_codes() -> None:
    def code(values: list[float], strict: bool) -> Exit:
        outcome, reason, *_ = judge_values(LINE, values)
        return judge.exit_code([judge.Verdict(LINE, outcome, reason)], strict)

    assert code(around(79.0, 0.2), False) is Exit.JUDGED_DIFFERENT
    assert code(around(74.0, 0.2), False) is Exit.JUDGED_DIFFERENT
    for values in ([], [76.5, 77.0]):
        assert code(values, False) is Exit.OK
        assert code(values, True) is Exit.JUDGED_DIFFERENT
    assert code([76.5], True) is Exit.OK


@pytest.mark.parametrize(
    "row", [name for name, (_, line) in rows_with_expected(table_path()).items() if line.checkpoint_assumed]
)
def test_weights_that_are_a_guess_are_no_verdict_on_the_authors(row: str) -> None:
    """12 rows: the number is shown, and no exit code depends on it."""
    seed, published = first_seed(row), ROWS[row][1].published / 100
    for score, by_number in ((published, Outcome.REPRODUCED), (published / 2, Outcome.LOWER)):
        judged = verdict(row, *(record(row, seed + n, score + 0.00001 * n) for n in range(5)))
        assert (judged.outcome, judged.by_number) == (Outcome.OTHER_WEIGHTS, by_number)
        assert judged.difference == pytest.approx(100 * (score - published), abs=0.01)
        assert f"by its number {by_number}" in judged.reason
        assert judge.exit_code([judged], strict=True) is Exit.OK
    assert verdict(row).outcome is Outcome.NOT_RUN


def test_rows_of_other_weights_are_half_of_the_table() -> None:
    assert sum(line.checkpoint_assumed for _, line in ROWS.values()) == 12


def test_what_was_inferred_of_a_reconstructed_row_is_said() -> None:
    for name, (_, line) in ROWS.items():
        judged = verdict(name, record(name, first_seed(name), line.published / 100))
        assert (f"reconstructed: {line.note}" in judged.reason) == (line.status == "reconstructed")
