"""Several rows in one command: the records of rows run alone, with shared passes, and rows without their data named at the end."""

import json
from pathlib import Path

import numpy as np
import pytest
from builders.commands import run_repro
from builders.reporters import RecordingReporter
from builders.tiny_project import load_records

from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone
from repro.core.workspace import Workspace
from repro.features.store import FeatureStore
from repro.pipeline.row import RowRequest, open_requested_data, run_row
from repro.pipeline.several_rows import plan_passes, run_rows
from repro.readout.compute import Compute
from repro.table.row import row_backbone
from repro.table.rows import load_row

ROWS = ("ak_full", "ak_unseen_sdv2", "ak_unseen_vjepa", "ucf_hmdb")


def copy_inputs(project: Workspace, folder: Path) -> Workspace:
    folder.mkdir()
    for name in ("data", "checkpoints"):
        (folder / name).symlink_to(project.root / name)
    return Workspace(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_rows_together_have_the_records_of_rows_apart(project: Workspace, tmp_path: Path) -> None:
    rows = [load_row(name) for name in ROWS]
    together, apart = (copy_inputs(project, tmp_path / name) for name in ("together", "apart"))
    reporter = RecordingReporter()
    result = run_rows(rows, RowRequest(), together, Execution(), Compute(), reporter)
    assert result.failures == {}
    assert list(result.records) == list(ROWS)
    shared = [line for line in reporter.lines if line.startswith("together")]
    assert len(shared) == 1
    assert "animal_kingdom for" in shared[0]
    assert {"svd_xt", "sdv2", "vjepa"} == set(shared[0].split(" for ")[1].split(", "))

    for row in rows:
        run_row(row, RowRequest(), apart, Execution(), Compute(), RecordingReporter())
    ours, theirs = load_records(together), load_records(apart)
    for name in ROWS:
        assert ours[name].run == theirs[name].run
        assert [e.scores.keys() for e in ours[name].epochs] == [e.scores.keys() for e in theirs[name].epochs]
        # sdv2 leaves out a window's padding where it is alone, so that sums are rounded otherwise.
        for one, other in zip(ours[name].epochs, theirs[name].epochs, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        row = load_row(name)
        identity = describe_backbone(row_backbone(row), apart).identity()
        dataset = row.data.train.dataset
        stores = [
            FeatureStore.open(w, row.backbone, identity, dataset).cell_reader(row.features.name)
            for w in (together, apart)
        ]
        for clip in open_requested_data(row, RowRequest(), apart, Execution()).splits["train"].clips:
            one, other = (reader.read(clip.id) for reader in stores)
            assert one is not None
            assert other is not None
            np.testing.assert_allclose(
                one.features[row.features.name], other.features[row.features.name], rtol=1e-4, atol=1e-5
            )


@pytest.mark.slow
def test_passes_compute_no_clip_that_no_row_reads(project: Workspace) -> None:
    def passes(*names: str) -> list[tuple[str, list[str], int]]:
        rows = [load_row(name) for name in names]
        opened = [(row, open_requested_data(row, RowRequest(), project, Execution())) for row in rows]
        return [
            (one.dataset, [b.name for b, _ in one.backbones], len(one.clips)) for one in plan_passes(opened, project)
        ]

    def count_clips(name: str) -> int:
        data = open_requested_data(load_row(name), RowRequest(), project, Execution())
        return len({clip.id for split in data.splits.values() for clip in split.clips})

    # One backbone is left to its rows.
    assert passes("ak_full", "ak_unseen") == []
    few = count_clips("ak_unseen")
    assert few < count_clips("ak_full")
    assert passes("ak_full", "ak_unseen_sdv2") == [("animal_kingdom", ["sdv2", "svd_xt"], few)]
    # Rows of other data sets share nothing.
    assert passes("ak_full", "charades_1to1_sdv2") == []


@pytest.mark.slow
def test_a_row_without_its_weights_is_named_and_the_others_run(project: Workspace, tmp_path: Path) -> None:
    workspace = copy_inputs(project, tmp_path / "w")
    (workspace.root / "checkpoints").unlink()
    (workspace.root / "checkpoints").mkdir()
    for path in project.checkpoints.iterdir():
        if "vjepa" not in path.name:
            (workspace.checkpoints / path.name).symlink_to(path)
    words = ("run", "ucf_hmdb", "ucf_hmdb_vjepa", "--device", "cpu", "--workspace", workspace.root)
    done = run_repro(*words)
    assert done.code == 4
    assert "ucf_hmdb seed 42: top1" in done.out
    lines = done.err.splitlines()
    assert lines[-1].startswith("repro: 1 of 2 rows did not run, for the reasons above")
    assert lines[-2].startswith("ucf_hmdb_vjepa: checkpoint vjepa: not at")
    again = run_repro(*words, "--json")
    assert again.code == 4
    assert [record["row"] for record in json.loads(again.out)] == ["ucf_hmdb"]
    with workspace.lock("run ucf_hmdb"):
        busy = run_repro("run", "ucf_hmdb", "hmdb_ucf", *words[3:])
    assert busy.code == 4
    assert "'run ucf_hmdb' is already running here" in busy.err
    assert "hmdb_ucf seed 42: top1" in busy.out


@pytest.mark.slow
def test_damaged_weights_keep_no_other_row_from_running(project: Workspace, tmp_path: Path) -> None:
    workspace = copy_inputs(project, tmp_path / "w")
    (workspace.root / "checkpoints").unlink()
    (workspace.root / "checkpoints").mkdir()
    for path in project.checkpoints.iterdir():
        if "vjepa" in path.name:
            (workspace.checkpoints / path.name).write_bytes(path.read_bytes()[:-1000])
        else:
            (workspace.checkpoints / path.name).symlink_to(path)
    rows = [load_row(name) for name in ("ucf_hmdb_vjepa", "ucf_hmdb")]
    result = run_rows(rows, RowRequest(), workspace, Execution(), Compute(), RecordingReporter())
    assert list(result.records) == ["ucf_hmdb"]
    assert "vjepa" in result.failures["ucf_hmdb_vjepa"]
