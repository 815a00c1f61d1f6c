"""`--precision` reaches every command alike: features of each precision are kept apart, and records say which were read."""

from pathlib import Path

import pytest
import torch
from builders import tiny_datasets
from builders.reporters import RecordingReporter
from builders.repro_rows import colour_row, read_out_here, run_here

from repro.backbones.config import Cell, Precision
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.registry import load_backbone
from repro.cli import app as cli
from repro.core.console import Reporter, format_duration
from repro.core.errors import MissingError, UsageError
from repro.core.hashing import content_key
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features import rates
from repro.pipeline import costs, row_data
from repro.pipeline.extract import open_stores
from repro.pipeline.grid.grid import GridRequest, plan_grid
from repro.pipeline.predict import predict_videos
from repro.pipeline.stored_row import extract_command
from repro.records.record import RunRecord, find_runs
from repro.table.extras import extra_row, read_extras
from repro.table.row import Row, row_backbone, with_precision
from repro.table.rows import load_row

ROW = "ucf_hmdb"


@pytest.fixture
def place(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with tiny UCF101 and HMDB51."""
    monkeypatch.setattr(row_data, "open_dataset", tiny_datasets.ucf_hmdb_opener(workspace))
    return workspace


def tiny_row(precision: Precision | None = None) -> Row:
    """The row on a small network with random weights, of which the least is computed."""
    row = colour_row(ROW, epochs=1).model_copy(
        update={"backbone": "vjepa_tiny", "features": Cell(layer=1), "changes": {"frames.stride": "16"}}
    )
    return with_precision(row, precision)


def records(workspace: Workspace) -> list[RunRecord]:
    return [record for run in find_runs(workspace.runs) if (record := run.load_record())]


@pytest.mark.slow
def test_a_row_in_another_precision_extracts_reads_and_records_features_of_its_own(
    place: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(tiny_row(), place)
    (exact,) = records(place)
    assert exact.features.identity["precision"] == "fp32"
    # Features in fp32 are there, and are not read as features in fp16.
    with pytest.raises(
        MissingError, match=r"have no features layer01 .*`repro extract ucf101 .* --precision fp16 --set"
    ):
        read_out_here(tiny_row("fp16"), place)
    video = next((place.data / "hmdb51" / "hmdb51_org").rglob("*.avi"))
    with pytest.raises(
        MissingError, match=r"in precision fp32, not fp16: pass --precision fp32, or .* --precision fp16`"
    ):
        predict_videos(tiny_row("fp16"), [video], None, place, Execution(), Reporter(to_stderr=True))
    capsys.readouterr()
    run_here(tiny_row("fp16"), place)
    assert "reused" not in capsys.readouterr().out.partition("readout")[0]
    both = {record.features.identity["precision"]: record for record in records(place)}
    assert set(both) == {"fp32", "fp16"}
    assert both["fp16"].features.key != both["fp32"].features.key
    assert both["fp16"].run != both["fp32"].run
    assert both["fp32"] == exact
    assert len(list(place.features.glob("vjepa_tiny-*"))) == 2
    monkeypatch.setattr("repro.table.rows.load_row", lambda name: tiny_row())
    where = ["--workspace", str(place.root)]
    for precision in ("fp32", "fp16"):
        cli.dispatch(["readout", ROW, "--precision", precision, *where])
        assert "reused all 1" in capsys.readouterr().out
        cli.dispatch(["predict", ROW, str(video), "--precision", precision, *where])
        assert "%" in capsys.readouterr().out
    assert len(records(place)) == 2


def test_a_row_keeps_its_own_precision_unless_another_is_requested() -> None:
    row = load_row("ak_full")
    assert with_precision(row, None) is row
    assert with_precision(row, "published") is row
    exact = with_precision(row, "fp32")
    assert row_backbone(exact).model_dump() | {"precision": "published"} == row_backbone(row).model_dump()
    assert extract_command(exact, "animal_kingdom") == "repro extract animal_kingdom --backbone svd_xt --precision fp32"
    with pytest.raises(UsageError, match="--precision fp16: svd_xt has fp32, tf32, published, fast, bf16"):
        with_precision(row, "fp16")


def test_grids_of_two_precisions_write_two_reports() -> None:
    row = load_row("ak_full")
    reports = {plan_grid(with_precision(row, one), GridRequest()).report for one in (None, "published", "fp32", "fast")}
    assert reports == {"ak_full-grid", "ak_full-grid-in-fp32", "ak_full-grid-in-fast"}


@pytest.mark.parametrize("command", [["run"], ["grid"], ["readout"], ["plan"], ["run", "--dry-run"]])
def test_every_verb_of_a_row_refuses_a_precision_that_it_does_not_have(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command
    with pytest.raises(UsageError, match="--precision fast: vjepa has fp32, tf32, fp16, bf16"):
        cli.dispatch([name, "ak_full_vjepa", "--precision", "fast", *options, "--workspace", str(tmp_path)])


def test_the_precision_is_part_of_the_key_of_features() -> None:
    keys = {}
    for precision in ("fp32", "published", "fast"):
        config = load_backbone("svd_xt_tiny", {"precision": precision})
        keys[precision] = content_key(Backbone(config, Path("x"), "sha", "diffusers").identity())
    assert len(set(keys.values())) == 3
    # The small backbones are in fp32 without saying so.
    assert keys["fp32"] == content_key(Backbone(load_backbone("svd_xt_tiny"), Path("x"), "sha", "diffusers").identity())


def test_versions_of_rows_whose_features_changed_were_raised() -> None:
    for name in ("ak_full", "ucf_hmdb_sdv2", "charades_1to1_svd", "ak_full_videomaev2", "charades_1to3_videomaev2"):
        assert load_row(name).version == 2
    for name in ("ak_full_vjepa", "charades_1to3_vjepa", "smoke"):
        assert load_row(name).version == 1
    extra = read_extras()["ak_full_svd"].model_copy(update={"version": 7})
    assert extra_row("ak_full_svd", extra, load_row("ak_full_sdv2")).version == 7


def test_what_takes_hours_on_a_cpu_is_said_before_it_begins(
    rendered: dict[str, Path], workspace: Workspace, reporter: RecordingReporter
) -> None:
    clips = [Clip(name, path, (0,)) for name, path in rendered.items()]  # 1 + 1 + 2 + 3 windows of 25 frames
    backbone = Backbone(load_backbone("svd_xt"), None, "sha", "diffusers")
    cells = (Cell(timestep=20, layer=9),)
    requests = open_stores([(backbone, cells)], "clips", workspace)
    costs.report_cpu_hours(clips, requests, workspace, reporter)
    (line,) = reporter.lines
    seconds = 7 * 165.9 / 0.11 / torch.get_num_threads()
    assert line.startswith(f"time        about {format_duration(seconds)} on this CPU (assumed, 165.9 TFLOP a window")
    # A speed that was measured here takes precedence; work that is unknown is not made up.
    rates.record_rate(
        workspace, "svd_xt", backbone.identity(), [cells[0].name], {"device": "cpu"}, windows=8, seconds=80
    )
    costs.report_cpu_hours(clips, requests, workspace, reporter)
    assert reporter.lines[1].startswith("time        about 70 s on this CPU (measured in this workspace, 20")
    other = Backbone(load_backbone("mean_colour"), None, None, None)
    costs.report_cpu_hours(
        clips, open_stores([(other, (Cell(layer="final"),))], "clips", workspace), workspace, reporter
    )
    assert len(reporter.lines) == 2
