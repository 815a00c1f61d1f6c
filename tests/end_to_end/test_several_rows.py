"""Several rows in one command: the records of rows run alone, with shared passes, and rows without their data named at the end."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import tiny_datasets
from builders.commands import run_repro
from builders.reporters import RecordingReporter
from builders.tiny_project import load_records

from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone
from repro.backbones.svd.extractor import SvdExtractor
from repro.backbones.svd.model import SvdModel
from repro.backbones.vit.extractor import VitExtractor
from repro.core.workspace import Workspace
from repro.datasets.config import load_dataset
from repro.features.store import FeatureStore
from repro.pipeline.passes import plan_passes
from repro.pipeline.row import RowRequest, open_requested_data, run_row
from repro.pipeline.several_rows import list_unstored_cells, run_rows
from repro.plan.amounts import Amount, counted
from repro.plan.plan import Plan, make_plan
from repro.readout.compute import Compute
from repro.records import mlflow_view
from repro.table.row import row_backbone
from repro.table.rows import load_row

ROWS = ("ak_full", "ak_unseen_sdv2", "ak_unseen_vjepa", "ucf_hmdb_vjepa")


def copy_inputs(project: Workspace, folder: Path) -> Workspace:
    folder.mkdir()
    for name in ("data", "checkpoints"):
        (folder / name).symlink_to(project.root / name)
    return Workspace(folder)


def count_work(patch: pytest.MonkeyPatch, work: Counter[str]) -> None:
    """Count windows by the backbones that compute them, and frames by VAE encoder."""

    def count(owner: type, method: str, name: Callable[[Any], str], size: Callable[[Any], int]) -> None:
        original = getattr(owner, method)

        def counted_method(self: Any, first: Any, *more: Any) -> Any:
            work[name(self)] += size(first)
            return original(self, first, *more)

        patch.setattr(owner, method, counted_method)

    for extractor in (SvdExtractor, VitExtractor):
        count(extractor, "launch", lambda self: " ".join(self.backbones), len)
    count(SvdModel, "_encode_moments", lambda _: "frames encoded", len)
    count(SvdModel, "_encode_condition", lambda _: "noisy frames encoded", len)


def count_planned(plan: Plan) -> dict[str, Amount]:
    """The same of a plan, with 2 frames a window of SVD."""
    found: dict[str, Amount] = {}
    for one in plan.passes:
        for group in one.groups:
            name = " ".join(label.split()[0] for label in group.backbones)
            found[name] = found.get(name, counted(0)) + group.portion.windows
            if group.work is not None and group.work.one_black:
                for what, frames in (
                    ("frames encoded", group.portion.vectors + group.portion.short_windows),
                    ("noisy frames encoded", group.portion.windows.times(2)),
                ):
                    found[what] = found.get(what, counted(0)) + frames
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_rows_together_have_the_records_of_rows_apart(
    project: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_view, "log_runs", lambda *_: None)  # takes seconds; other tests have it
    # Clips have 3 sampled frames: of 2 windows the second is padded.
    rows = [
        row if "vjepa" in name else row.model_copy(update={"changes": {"frames.window": "2"}})
        for name, row in ((name, load_row(name)) for name in ROWS)
    ]
    together, apart, audited = (copy_inputs(project, tmp_path / name) for name in ("together", "apart", "audited"))
    reporter, work = RecordingReporter(), Counter[str]()
    with pytest.MonkeyPatch.context() as patch:
        count_work(patch, work)
        result = run_rows(rows, RowRequest(), together, Execution(), Compute(), reporter)
    assert result.failures == {}
    for workspace in (audited, together):
        for name in ("animal_kingdom", "ucf101", "hmdb51"):
            tiny_datasets.write_audit(load_dataset(name), workspace, frames=9)
    planned = make_plan(rows, audited, "cpu", 1, "published")
    assert {row: (n.likely, n.exact) for row, n in count_planned(planned).items()} == {
        row: (n, True) for row, n in work.items()
    }
    assert make_plan(rows, together, "cpu", 1, "published").passes == ()
    for row in rows:
        data = open_requested_data(row, RowRequest(), together, Execution())
        assert [one.clips for one in list_unstored_cells(row, data, together) if one.clips] == []
    assert list(result.records) == list(ROWS)
    shared = [line for line in reporter.lines if line.startswith("together")]
    assert len(shared) == 1
    assert "animal_kingdom for" in shared[0]
    assert {"svd_xt", "sdv2", "vjepa"} == set(shared[0].split(" for ")[1].split(", "))

    for row in rows:
        run_row(row, RowRequest(), apart, Execution(), Compute(), RecordingReporter())
    records, records_apart = load_records(together), load_records(apart)
    for row in rows:
        name = row.name
        assert records[name].run == records_apart[name].run
        assert [e.scores.keys() for e in records[name].epochs] == [e.scores.keys() for e in records_apart[name].epochs]
        # sdv2 leaves out a window's padding where it is alone, so that sums are rounded otherwise.
        for one, other in zip(records[name].epochs, records_apart[name].epochs, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
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
            ours, theirs = (entry.features[row.features.name] for entry in (one, other))
            assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


@pytest.mark.slow
def test_passes_compute_no_clip_that_no_row_reads(project: Workspace, tmp_path: Path) -> None:
    # Without the features that other tests store.
    place = copy_inputs(project, tmp_path / "nothing stored")

    def passes(*names: str) -> list[tuple[str, list[str], int]]:
        unstored = []
        for row in map(load_row, names):
            unstored += list_unstored_cells(row, open_requested_data(row, RowRequest(), place, Execution()), place)
        return [
            (one.dataset, [config.name for config, _ in one.backbones], len(one.clips))
            for one in plan_passes(unstored)
            if one.is_shared
        ]

    def count_clips(name: str) -> int:
        data = open_requested_data(load_row(name), RowRequest(), place, Execution())
        return len({clip.id for split in data.splits.values() for clip in split.clips})

    # One backbone is left to its rows.
    assert passes("ak_full", "ak_unseen") == []
    few = count_clips("ak_unseen")
    assert few < count_clips("ak_full")
    assert passes("ak_full", "ak_unseen_sdv2") == [("animal_kingdom", ["svd_xt", "sdv2"], few)]
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
    words = ("run", "ucf_hmdb_videomaev2", "ucf_hmdb_vjepa", "--device", "cpu", "--workspace", workspace.root)
    done = run_repro(*words)
    assert done.code == 4
    assert "ucf_hmdb_videomaev2 seed 42: top1" in done.out
    lines = done.err.splitlines()
    assert lines[-1].startswith(
        "repro: row ucf_hmdb_vjepa cannot run; to get these: repro fetch ucf_hmdb_vjepa --accept-"
    )
    assert lines[-2].startswith("  checkpoint vjepa  small  CC BY-NC 4.0  repro fetch vjepa")
    again = run_repro(*words, "--json")
    assert again.code == 4
    assert [record["row"] for record in json.loads(again.out)] == ["ucf_hmdb_videomaev2"]
    with workspace.lock("run ucf_hmdb_videomaev2"):
        busy = run_repro("run", "ucf_hmdb_videomaev2", "hmdb_ucf_videomaev2", *words[3:])
    assert busy.code == 4
    assert "'run ucf_hmdb_videomaev2' is already running here" in busy.err
    assert "hmdb_ucf_videomaev2 seed 42: top1" in busy.out


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
    rows = [load_row(name) for name in ("ucf_hmdb_vjepa", "ucf_hmdb_videomaev2")]
    result = run_rows(rows, RowRequest(), workspace, Execution(), Compute(), RecordingReporter())
    assert list(result.records) == ["ucf_hmdb_videomaev2"]
    assert "vjepa" in result.failures["ucf_hmdb_vjepa"]
