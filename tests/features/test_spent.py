"""What extractions took is kept, also of one that was interrupted, and changes no feature."""

from pathlib import Path

import pytest
from builders.reporters import RecordingReporter
from builders.videos import Video, write_video

from repro.backbones.config import Cell
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.registry import load_backbone
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features import extract as extracting
from repro.features.collection import Collection
from repro.features.extract import FeatureRequest, extract_missing
from repro.features.spent import SpentLog, load_spent
from repro.features.store import FeatureStore


def extract(clips: list[Clip], place: Workspace) -> FeatureStore:
    backbone = Backbone(load_backbone("mean_colour"), None, None, None)
    store = FeatureStore.open(place, backbone.name, backbone.identity(), "clips")
    request = FeatureRequest(backbone, (Cell(layer="final"),), store)
    origin = {"device": "a device"}
    extract_missing(Collection("clips", tuple(clips)), [request], Execution(), origin, RecordingReporter())
    return store


def test_every_extraction_leaves_its_time(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [Clip(name, write_video(tmp_path / f"{name}.mp4", Video("a"), frames=8), (0,)) for name in "ab"]
    assert load_spent(workspace) == []
    store = extract(clips[:1], workspace)
    (first,) = load_spent(workspace, lambda key, collection: (key, collection) == (store.key, "clips"))
    assert (first.device, first.keys, first.windows) == ("a device", {"mean_colour": store.key}, 1)
    assert 0 < sum(first.waiting_seconds.values()) <= first.seconds
    assert load_spent(workspace, lambda key, collection: key == "another") == []
    extract(clips[:1], workspace)  # nothing is missing: nothing is spent
    assert len(load_spent(workspace)) == 1

    def interrupt(self: object, *_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(extracting.ClipGatherer, "report_stored", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(clips, workspace)
    assert [one.windows for one in load_spent(workspace)] == [1, 1]


def test_a_long_extraction_is_written_as_it_goes_on(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = SpentLog(workspace.root, "clips", {"svd_xt": "k"}, "cpu")
    log.save(5, 1.0, {})
    assert load_spent(workspace) == []
    now = 61.0
    log.save(7, 61.0, {})
    log.save(8, 61.1, {})
    assert [one.windows for one in load_spent(workspace)] == [7]
    log.save(9, 62.0, {}, at_end=True)
    assert [one.windows for one in load_spent(workspace)] == [9]
    (workspace.root / "spent" / "damaged.json").write_text("{")
    assert len(load_spent(workspace)) == 1


def test_a_full_disk_costs_the_entry_alone(workspace: Workspace) -> None:
    workspace.root.mkdir(parents=True)
    (workspace.root / "spent").write_text("a file")
    SpentLog(workspace.root, "clips", {"svd_xt": "k"}, "cpu").save(1, 1.0, {}, at_end=True)
    assert load_spent(workspace) == []
