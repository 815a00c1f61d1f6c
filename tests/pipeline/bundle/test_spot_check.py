"""`repro check --bundle --sample`: features that are not the videos' are found where they are drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from builders import tiny_datasets
from builders.records import record
from builders.reporters import RecordingReporter

from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone, load_backbone
from repro.core.console import Reporter
from repro.core.workspace import Workspace
from repro.datasets.registry import open_dataset
from repro.datasets.split import SplitName
from repro.features.collection import Collection
from repro.features.store import Entry
from repro.pipeline.bundle import spot_check
from repro.pipeline.bundle.archive import BundleError
from repro.pipeline.bundle.features_index import FeaturesIndex, index_features, merkle_root
from repro.pipeline.bundle.spot_check import SAME_LIMIT, Draw, draw_clips
from repro.pipeline.extract import compute_features, open_stores
from repro.records.record import RunRecord
from repro.table.row import Data, Row
from repro.table.rows import load_row

CLIPS = 4


@pytest.fixture
def row(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Row:
    """The smoke job's row of mean colours, on HMDB51."""
    config = tiny_datasets.hmdb51(workspace.data / "hmdb51", films=False)
    monkeypatch.setattr(spot_check, "row_datasets", lambda _: {"hmdb51": config})
    split = SplitName("hmdb51", "full")
    made: Row = load_row("smoke_mean_colour").model_copy(update={"data": Data(train=split, test=split)})
    clips = open_dataset(config, workspace).clips[:CLIPS]
    for number, clip in enumerate(clips):
        tiny_datasets.film(clip.path, number)
    backbone = describe_backbone(load_backbone("mean_colour"), workspace)
    requests = open_stores([(backbone, (made.features,))], "hmdb51", workspace)
    assert not compute_features(requests, Collection("hmdb51", clips), Execution(), RecordingReporter()).failed
    return made


def record_of(row: Row, workspace: Workspace) -> RunRecord:
    made = record("ucf_hmdb", 1, 0.5)
    (folder,) = workspace.features.iterdir()
    identity = describe_backbone(load_backbone("mean_colour"), workspace).identity()
    features = made.features.model_copy(
        update={"key": folder.name.rsplit("-", 1)[1], "cell": row.features.name, "identity": identity}
    )
    changes = {"features": features, "test": made.test, "train": made.test}
    return made.model_copy(update=changes)


def check(
    row: Row, made: RunRecord, index: FeaturesIndex, workspace: Workspace, nonce: str = "n"
) -> spot_check.SpotCheck:
    draw = Draw(CLIPS, nonce)
    (found,) = spot_check.check_row_features(row, made, index, draw, workspace, Execution(), RecordingReporter())
    return found


def test_a_forged_clip_is_found_and_another_rounding_is_not_one(row: Row, workspace: Workspace) -> None:
    made = record_of(row, workspace)
    true, missing = index_features([made], workspace, Reporter(to_stderr=True))
    assert missing == []
    found = check(row, made, true, workspace)
    assert (found.indexed, found.present, found.wrong) == (CLIPS, CLIPS, ())
    assert set(found.deviations.values()) == {0.0}
    # Somebody who invented one clip's features and rounds another one differently, and commits to both.
    store = open_stores(
        [(describe_backbone(load_backbone("mean_colour"), workspace), (row.features,))], "hmdb51", workspace
    )[0].store
    forged, rounded, *_ = sorted(true.collections["hmdb51"].videos)
    for clip, factor in ((forged, 1.5), (rounded, 1 + 1e-3)):
        entry = store.read_own_file(clip)
        assert entry is not None
        features = {row.features.name: entry.features[row.features.name] * np.float32(factor)}
        store.write_clip(clip, Entry(features, entry.video_sha256, entry.reader, entry.origins))
    index, _ = index_features([made], workspace, Reporter(to_stderr=True))
    assert index.merkle_root != true.merkle_root
    found = check(row, made, index, workspace)
    assert found.wrong == (forged,)
    assert 0 < found.deviations[rounded] < SAME_LIMIT
    # Another video under the clip's name shows nothing about the features.
    tiny_datasets.film(next((workspace.data / "hmdb51").rglob(f"{forged}.avi")), 77)
    found = check(row, made, index, workspace)
    assert found.wrong == ()
    assert "another video" in found.failed[forged]


def test_features_of_another_checkpoint_are_not_compared(row: Row, workspace: Workspace) -> None:
    made = record_of(row, workspace)
    index, _ = index_features([made], workspace, Reporter(to_stderr=True))
    identity = made.features.identity | {"checkpoint_sha256": "f" * 64}
    other = made.model_copy(update={"features": made.features.model_copy(update={"identity": identity})})
    with pytest.raises(BundleError, match="differ from those computed here in checkpoint_sha256"):
        check(row, other, index, workspace)


def test_the_draw_follows_from_root_and_nonce() -> None:
    clips = [f"clip{n}" for n in range(500)]
    first = draw_clips(clips, 30, "root", "nonce")
    assert first == draw_clips(clips[::-1], 30, "root", "nonce")
    assert len(set(first)) == 30
    for other in (draw_clips(clips, 30, "root", "other"), draw_clips(clips, 30, "other", "nonce")):
        assert len(set(first) & set(other)) < 10
    # Every clip is drawn about equally often.
    counts = np.zeros(500)
    for nonce in range(400):
        for clip in draw_clips(clips, 30, "root", str(nonce)):
            counts[int(clip[4:])] += 1
    assert counts.sum() == 400 * 30
    assert abs(np.mean(np.square(counts - 24)) / (24 * (1 - 30 / 500)) - 1) < 0.2


@pytest.mark.parametrize(("count", "share"), [(10, 26), (30, 9.5), (59, 4.9), (100, 2.9), (299, 1.0)])
def test_what_a_sample_leaves_possible(count: int, share: float) -> None:
    clips = 100_000  # so many that the draw is as one with replacement, as in the published bounds
    deviations = {str(number): 0.0 for number in range(count)}
    found = spot_check.SpotCheck("hmdb51", "a/b", clips, clips, deviations, {})
    assert 100 * found.undetected_share == pytest.approx(share, abs=0.06 if share < 20 else 0.2)


def test_the_index_is_of_the_workspaces_features(row: Row, workspace: Workspace, tmp_path: Path) -> None:
    made = record_of(row, workspace)
    index, _ = index_features([made], workspace, Reporter(to_stderr=True))
    assert json.loads(json.dumps(index.collections["hmdb51"].features)) == [
        f"mean_colour-{made.features.key}/{made.features.cell}"
    ]
    assert index.merkle_root == merkle_root(index.collections)
    empty, missing = index_features([made], Workspace(tmp_path / "none"), Reporter(to_stderr=True))
    assert empty.collections == {}
    assert "not in the workspace" in missing[0]
