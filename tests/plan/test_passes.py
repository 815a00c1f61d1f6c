"""The passes of a plan: what rows share once, each clip's work by its own frames, and the same for any order of rows."""

import json

import pytest
from builders.commands import run_repro

from repro.backbones.registry import likely_identity, load_backbone
from repro.core.workspace import Workspace
from repro.features import rates
from repro.pipeline.assumptions import load_assumptions
from repro.plan.amounts import counted
from repro.plan.figures import plan_as_json, sum_stages
from repro.plan.plan import Plan, make_plan
from repro.table.row import with_precision
from repro.table.rows import load_row, row_names

SPEED = load_assumptions().gpu.tflop_per_second["published"]


def plan(workspace: Workspace, *names: str) -> Plan:
    return make_plan([load_row(name) for name in names], workspace, "cuda", 1, "published")


def hours(made: Plan) -> float:
    found = sum_stages(made)["extract"][0]
    assert found is not None
    return found.likely


def test_rows_of_different_data_sets_take_the_sum_of_their_plans(workspace: Workspace) -> None:
    names = ("ak_full", "ucf_hmdb_sdv2")
    assert hours(plan(workspace, *names)) == pytest.approx(sum(hours(plan(workspace, name)) for name in names))


@pytest.mark.parametrize("order", [1, -1])
def test_rows_of_the_same_clips_share_a_pass(workspace: Workspace, order: int) -> None:
    (one,) = plan(workspace, *("ak_full", "ak_full_sdv2")[::order]).passes
    (shared,) = one.groups
    assert set(shared.backbones) == {"svd_xt", "sdv2"}
    assert one.clips == counted(30_100)
    assert one.decodings == 1
    assert shared.work is not None
    # The UNet without temporal branches takes 16.8 besides what svd_xt takes.
    assert shared.work.total == pytest.approx(165.9 + 16.8)
    alone = plan(workspace, "ak_full").passes[0]
    assert one.windows == alone.windows  # each counted once
    vectors = plan(workspace, "ak_full").jobs[0].total.vectors.likely
    assert one.tflop is not None
    assert alone.tflop is not None
    # sdv2's UNet leaves out padding.
    assert one.tflop.likely == pytest.approx(alone.tflop.likely + 16.8 * vectors / 25)
    assert hours(plan(workspace, "ak_full", "ak_full_sdv2")) == pytest.approx(one.tflop.likely / SPEED / 3600)


def test_clips_that_one_backbone_needs_are_a_pass_of_their_own(workspace: Workspace) -> None:
    made = plan(workspace, "ak_full", "ak_unseen_sdv2")
    assert {(tuple(one.backbones), one.clips.likely) for one in made.passes} == {
        (("svd_xt", "sdv2"), 5_749),
        (("svd_xt",), 30_100 - 5_749),
    }
    ucf = [one for one in plan(workspace, "ucf_hmdb", "hmdb_ucf_sdv2").passes if one.dataset == "ucf101"]
    # One row reads train, the other both parts; the counts of either are exact.
    assert {(tuple(one.backbones), one.windows) for one in ucf} == {
        (("svd_xt", "sdv2"), counted(3467)),
        (("sdv2",), counted(1352)),
    }


def test_the_whole_table_is_a_pass_a_data_set(workspace: Workspace) -> None:
    made = plan(workspace, *row_names())
    assert [one.dataset for one in made.passes] == ["animal_kingdom", "charades_ego", "ucf101", "hmdb51"]
    for one in made.passes:
        assert {group.backbones for group in one.groups} == {("svd_xt", "sdv2"), ("videomaev2",), ("vjepa",)}
        assert one.decodings == 2  # VideoMAEv2 reads every frame
    found = plan_as_json(made)
    assert sum(one["hours"]["likely"] for one in found["passes"]) == pytest.approx(
        found["stages"]["extract"]["hours"]["likely"], abs=0.01
    )
    assert {one["dataset"] for one in found["savings"]} == {one.dataset for one in made.passes}
    assert {one["tflop_per_window_together"] for one in found["savings"]} == {182.7}


def test_backbones_of_different_precision_share_decoding_alone(workspace: Workspace) -> None:
    rows = [load_row("ucf_hmdb"), with_precision(load_row("ucf_hmdb_sdv2"), "fast")]
    made = make_plan(rows, workspace, "cuda", 1, "published")
    for one in made.passes:
        assert [group.backbones for group in one.groups] == [("svd_xt",), ("sdv2 precision=fast",)]
        assert one.decodings == 1


def test_a_measured_speed_of_one_backbone_is_scaled_to_the_work_of_both(workspace: Workspace) -> None:
    identity = likely_identity(load_backbone("svd_xt"), workspace)
    assert identity is not None
    rates.record_rate(workspace, "svd_xt", identity, ("t20_layer09",), {"device": "NVIDIA H200"}, 100, 50.0)
    (one,) = plan(workspace, "ak_full", "ak_full_sdv2").passes
    assert one.hours is not None
    assert one.hours.likely == pytest.approx(one.windows.likely / 2 * 182.7 / 165.9 / 3600)


def test_missing_data_are_planned_and_named(workspace: Workspace) -> None:
    done = run_repro("plan", "all", "--json", "--workspace", workspace.root)
    assert done.code == 0
    found = json.loads(done.out)
    assert all(row["missing"] for row in found["rows"])
    assert sum(one["clips"]["likely"] for one in found["passes"]) == found["clips"]["likely"]
