"""`repro verify --sample`: wrong features are found where they are sampled, and how likely they are not is said exactly."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import tiny_datasets
from builders.commands import run_repro
from builders.reporters import RecordingReporter

from repro.backbones.config import Cell
from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone, load_backbone
from repro.core.errors import NothingToCheckError
from repro.core.workspace import Workspace
from repro.datasets.registry import open_dataset
from repro.features.collection import Collection
from repro.features.pack_collection import add_to_pack
from repro.features.store import Entry, FeatureStore
from repro.pipeline.extract import compute_features, open_stores
from repro.pipeline.sharing import recheck

CONFIG = load_backbone("mean_colour")


@pytest.fixture
def store(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """Features of HMDB51's clips, of which three have videos; the others' were imported, say."""
    config = tiny_datasets.hmdb51(workspace.data / "hmdb51", films=False)
    monkeypatch.setattr(recheck, "load_dataset", {"hmdb51": config}.__getitem__)
    clips = open_dataset(config, workspace).clips
    for number, clip in enumerate(clips[:3]):
        tiny_datasets.film(clip.path, number)
    requests = open_stores([(describe_backbone(CONFIG, workspace), (CONFIG.axes().usual,))], "hmdb51", workspace)
    done = compute_features(requests, Collection("hmdb51", clips[:3]), Execution(), RecordingReporter())
    assert not done.failed
    invented = Entry({"final": np.ones((2, 3), np.float32)}, "0" * 64, "pyav")
    add_to_pack(requests[0].store, "final", {clip.id: invented for clip in clips[3:]})
    return requests[0].store


def test_a_wrong_clip_is_found_and_another_video_is_no_comparison(store: FeatureStore, workspace: Workspace) -> None:
    (found,) = recheck.recheck_sample(CONFIG, 20, workspace, Execution(), RecordingReporter())
    assert (found.dataset, found.stored, found.sampled, found.failed) == ("hmdb51", 3, 3, {})
    assert set(found.deviations.values()) == {0.0}
    wrong, changed, _ = found.deviations
    entry = store.read_own_file(wrong)
    assert entry is not None
    features = {"final": entry.features["final"] * np.float32(1.001)}
    store.write_clip(wrong, Entry(features, entry.video_sha256, entry.reader, entry.origins))
    video = next((workspace.data / "hmdb51").rglob(f"{changed}.avi"))
    tiny_datasets.film(video, 77)
    (found,) = recheck.recheck_sample(CONFIG, 3, workspace, Execution(), RecordingReporter())
    assert found.deviations[wrong] == pytest.approx(1e-3, rel=0.01)
    assert "another video" in found.failed[changed]
    assert found.sampled == 2
    done = run_repro("verify", "--sample", "3", "--device", "cpu", "--workspace", workspace.root, "--json")
    assert done.code == 1
    (printed,) = json.loads(done.out)["checks"]
    assert printed["above_limit"] == [wrong]
    assert printed["missed"]["0.2"] == pytest.approx(1 / 3)  # one wrong clip of three, two of them seen


def test_clips_are_compiled_as_their_origins_say(
    store: FeatureStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = recheck.recheck_sample(CONFIG, 3, workspace, Execution(), RecordingReporter())
    assert found.compiled == 0
    first, *others = sorted(found.deviations)
    entry = store.read_own_file(first)
    assert entry is not None
    origin = store.add_origin({"batch": "1 window; windows by 8, compiled"})
    store.write_clip(first, replace(entry, origins=(origin,)))
    extract_again, compiled = recheck.extract_again, dict[str, bool | None]()

    def record(*arguments: Any) -> Any:
        _, _, collection, execution, _ = arguments
        compiled.update({clip.id: execution.compile for clip in collection.clips})
        return extract_again(*arguments)

    monkeypatch.setattr(recheck, "extract_again", record)
    reporter = RecordingReporter()
    (found,) = recheck.recheck_sample(CONFIG, 3, workspace, Execution(), reporter)
    assert compiled == {first: True} | dict.fromkeys(others, False)
    assert (found.compiled, found.sampled) == (1, 3)
    assert any("1 of 3 clips were computed with compiled networks" in line for line in reporter.lines)
    for choice in (False, True):
        recheck.recheck_sample(CONFIG, 3, workspace, Execution(compile=choice), reporter)
        assert set(compiled.values()) == {choice}


def test_nothing_to_compare_is_said(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NothingToCheckError, match="no features of mean_colour"):
        recheck.recheck_sample(CONFIG, 3, workspace, Execution(), RecordingReporter())
    for words in ((), ("mean_colour",)):
        assert run_repro("verify", *words, "--sample", "2", "--workspace", tmp_path / "none").code == 5
    assert run_repro("verify", "--store", "--sample", "2", "--workspace", tmp_path / "none").code == 2
    assert run_repro("verify", "--sample", "0", "--workspace", tmp_path / "none").code == 2


def test_what_a_sample_misses_is_counted_exactly() -> None:
    for clips, wrong, sampled in ((6, 2, 3), (7, 1, 4), (5, 3, 3), (5, 0, 2)):
        samples = list(itertools.combinations(range(clips), sampled))
        without = [sample for sample in samples if min(sample) >= wrong]
        assert recheck.miss_probability(clips, wrong, sampled) == pytest.approx(len(without) / len(samples))
        assert recheck.miss_probability(clips, wrong, sampled) <= (1 - wrong / clips) ** sampled + 1e-12
    unseen = recheck.most_missed(1840, 20)
    assert recheck.miss_probability(1840, unseen, 20) >= 0.05 > recheck.miss_probability(1840, unseen + 1, 20)
    assert recheck.most_missed(10, 10) == 0


def test_a_cells_name_is_read_back() -> None:
    for name in ("t20_layer09", "t05_up_03", "layer12", "final"):
        assert Cell.parse(name).name == name
