"""Features depend on the clip alone, and a store reuses only files that are complete and intact."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.reporters import RecordingReporter
from builders.videos import Video, write_video, write_with_picture

from repro.backbones.config import Cell, FrameSampling
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.noise import Noise, Stream
from repro.backbones.registry import load_backbone
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.pictures import pad_window
from repro.core.errors import MissingError
from repro.core.hashing import file_sha256
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features import extract as extracting
from repro.features.collection import Collection
from repro.features.extract import FeatureRequest, extract_missing
from repro.features.gathering import Extraction
from repro.features.pack_collection import pack_collection
from repro.features.packed import DamagedFeaturesError
from repro.features.store import FeatureStore, StoredAs
from repro.smoke.clips import encode_scene
from repro.video.synthetic import scenes

COLOUR = (Cell(layer="final"),)
T20 = (Cell(timestep=20, layer=9),)


def open_store(folder: Path, identity: dict[str, Any] | None = None, stored_as: StoredAs = "float32") -> FeatureStore:
    return FeatureStore.open(Workspace(folder), "test", identity or {"a": 1}, "clips", stored_as)


def mean_colour_request(folder: Path) -> FeatureRequest:
    """Request the mean colour of clips, in a store below `folder`."""
    return FeatureRequest(Backbone(load_backbone("mean_colour"), None, None, None), COLOUR, open_store(folder))


@dataclasses.dataclass
class Tiny:
    """The tiny SVD with and without temporal mixing, on one checkpoint."""

    config: SvdConfig
    checkpoint: Path

    def request(
        self, folder: Path, cells: Sequence[Cell] = T20, mixing: bool = True, stored_as: StoredAs = "float32"
    ) -> FeatureRequest:
        changes = {"name": "svd"} if mixing else {"name": "sdv2", "temporal_mixing": "off"}
        config = self.config.model_copy(update=changes)
        backbone = Backbone(config, self.checkpoint, "sha", "diffusers")
        place = FeatureStore.open(Workspace(folder), backbone.name, backbone.identity(), "clips", stored_as)
        return FeatureRequest(backbone, tuple(cells), place)


@pytest.fixture(scope="module")
def svd(tiny: SvdConfig, tiny_checkpoint: Path) -> Tiny:
    """On windows and pictures of a tenth of the work: the clips still have one window, one in part, and several."""
    small = {"size": (64, 64), "frames": FrameSampling(stride=8, window=5)}
    return Tiny(tiny.model_copy(update=small), tiny_checkpoint)


def list_clips(rendered: dict[str, Path]) -> list[Clip]:
    return [Clip(name, path, (0,)) for name, path in rendered.items()]


def run_extraction(
    some: Sequence[Clip],
    reporter: RecordingReporter,
    *requests: FeatureRequest,
    workers: int = 1,
    batch: int | None = None,
    allow_damaged: bool = False,
) -> Extraction:
    execution = Execution(workers=workers, batch=batch, allow_damaged=allow_damaged)
    return extract_missing(Collection("clips", tuple(some)), requests, execution, {"by": "test"}, reporter)


def test_padding_is_black_and_at_the_end() -> None:
    frames = np.full((3, 2, 2, 3), 7, np.uint8)
    window = pad_window(frames, 5)
    assert window.shape == (5, 2, 2, 3)
    assert (window[:3] == 7).all()
    assert (window[3:] == 0).all()
    assert pad_window(window, 5) is window


@pytest.mark.slow
def test_order_workers_and_other_clips_change_no_bit(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    some = list_clips(rendered)[:3]
    one, other, single = (svd.request(tmp_path / name) for name in ("one", "other", "single"))
    run_extraction(some, reporter, one)
    run_extraction(some[::-1], reporter, other, workers=2)
    run_extraction(some[1:2], reporter, single)
    for clip in some:
        assert one.store.clip_path(clip.id).read_bytes() == other.store.clip_path(clip.id).read_bytes()
    assert one.store.clip_path(some[1].id).read_bytes() == single.store.clip_path(some[1].id).read_bytes()


@pytest.mark.slow
def test_backbones_computed_together_or_alone_agree(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    """svd_xt and sdv2 share decoding, VAE and image tower; sdv2 alone needs no padding."""
    some = list_clips(rendered)[:2]
    cells = (Cell(timestep=0, layer=4), *T20)
    together = svd.request(tmp_path / "a", cells), svd.request(tmp_path / "a", cells, mixing=False)
    alone = svd.request(tmp_path / "b", cells), svd.request(tmp_path / "b", cells, mixing=False)
    run_extraction(some, reporter, *together)
    for request in alone:
        run_extraction(some, reporter, request)
    for one, other in zip(together, alone, strict=True):
        for clip in some:
            ours, theirs = one.store.read_clip(clip.id), other.store.read_clip(clip.id)
            assert ours is not None
            assert theirs is not None
            for cell in cells:
                difference = ours.features[cell.name] - theirs.features[cell.name]
                assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(theirs.features[cell.name])


@pytest.mark.slow
def test_another_batch_is_recorded_and_changes_only_rounding(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    some = list_clips(rendered)[:1]
    one, other = svd.request(tmp_path / "a"), svd.request(tmp_path / "b")
    run_extraction(some, reporter, one)
    run_extraction(some, reporter, other, batch=2)
    ours, theirs = one.store.read_clip(some[0].id), other.store.read_clip(some[0].id)
    assert ours is not None
    assert theirs is not None
    assert ours.origins != theirs.origins
    (origin,) = theirs.origins
    assert "2 frames in the VAE encoders" in (other.store.folder.parent / "origins" / f"{origin}.json").read_text()
    difference = ours.features["t20_layer09"] - theirs.features["t20_layer09"]
    assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(ours.features["t20_layer09"])


@pytest.mark.slow
def test_cells_requested_later_are_added(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = list_clips(rendered)[:1]
    run_extraction(some, reporter, svd.request(tmp_path))
    seen: list[tuple[Cell, ...]] = []
    opened = extracting.open_extractors

    def spy(requests: Sequence[tuple[Backbone, Sequence[Cell]]], execution: Execution) -> Any:
        seen.extend(tuple(cells) for _, cells in requests)
        return opened(requests, execution)

    monkeypatch.setattr(extracting, "open_extractors", spy)
    more = svd.request(tmp_path, (Cell(timestep=5, layer=2), *T20))
    run_extraction(some, reporter, more)
    assert seen == [(Cell(timestep=5, layer=2),)]  # stored cells are not computed again
    entry = more.store.read_clip(some[0].id)
    assert entry is not None
    assert sorted(entry.features) == ["t05_layer02", "t20_layer09"]
    assert run_extraction(some, reporter, more).reused == [some[0].id]
    assert len(seen) == 1  # no backbone is loaded if nothing is missing


@pytest.mark.slow
def test_float16_features_have_their_own_store(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    some = list_clips(rendered)[:1]
    half, full = svd.request(tmp_path, stored_as="float16"), svd.request(tmp_path)
    assert half.store.key != full.store.key
    run_extraction(some, reporter, half)
    run_extraction(some, reporter, full)
    ours, theirs = half.store.read_clip(some[0].id), full.store.read_clip(some[0].id)
    assert ours is not None
    assert theirs is not None
    np.testing.assert_array_equal(ours.features["t20_layer09"], theirs.features["t20_layer09"].astype(np.float16))


@pytest.mark.slow
def test_each_sampled_frame_gives_one_token(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    short = [
        c for c in list_clips(rendered) if c.path.stat().st_size == min(p.stat().st_size for p in rendered.values())
    ]
    request = svd.request(tmp_path)
    run_extraction(short, reporter, request)
    entry = request.store.read_clip(short[0].id)
    assert entry is not None
    assert entry.features["t20_layer09"].shape == (-(-11 // 8), 128)
    assert entry.features["t20_layer09"].dtype == np.float32
    assert entry.video_sha256 == file_sha256(short[0].path)


def test_a_clip_of_one_frame_gives_one_token(svd: Tiny, tmp_path: Path, reporter: RecordingReporter) -> None:
    scene = dataclasses.replace(scenes.smoke_scenes()[0], frames=1)
    clip = Clip("one", tmp_path / "one.mp4", (0,))
    encode_scene(clip.path, scene)
    request = svd.request(tmp_path)
    assert run_extraction([clip], reporter, request).extracted == ["one"]
    entry = request.store.read_clip("one")
    assert entry is not None
    assert entry.features["t20_layer09"].shape == (1, 128)
    assert reporter.warnings == []


def test_stored_features_are_reused_unless_the_video_changed(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter
) -> None:
    some = list_clips(rendered)
    copies = [Clip(c.id, tmp_path / f"{c.id}.mp4", (0,)) for c in some]
    for clip, copy in zip(some, copies, strict=True):
        copy.path.write_bytes(clip.path.read_bytes())
    request = mean_colour_request(tmp_path / "store")
    assert run_extraction(copies, reporter, request).extracted == [c.id for c in copies]
    assert run_extraction(copies, reporter, request).reused == [c.id for c in copies]
    copies[0].path.write_bytes(some[1].path.read_bytes())
    again = run_extraction(copies, reporter, request)
    assert again.extracted == [copies[0].id]
    assert reporter.warnings == []


@pytest.mark.parametrize("damage", ["cut off", "bit", "other clip", "text", "empty"])
def test_a_damaged_file_is_set_aside_and_computed_again(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter, damage: str
) -> None:
    some = list_clips(rendered)
    request = mean_colour_request(tmp_path)
    place = request.store
    run_extraction(some, reporter, request)
    path = place.clip_path(some[0].id)
    good = path.read_bytes()
    bad = {
        "cut off": good[:-100],
        "bit": good[:-50] + bytes([good[-50] ^ 1]) + good[-49:],
        "other clip": place.clip_path(some[1].id).read_bytes(),
        "text": b"features",
        "empty": b"",
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(DamagedFeaturesError):
        place.read_clip(some[0].id)
    assert run_extraction(some, reporter, request).extracted == [some[0].id]
    assert path.read_bytes() == good
    assert path.with_name(path.name + ".damaged1").read_bytes() == bad
    assert len(reporter.warnings) == 1
    assert str(path) in reporter.warnings[0]
    assert "\n" not in reporter.warnings[0]


def test_a_failed_clip_is_reported_and_the_others_continue(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter
) -> None:
    bad, absent = Clip("bad", tmp_path / "bad.mp4", (0,)), Clip("absent", tmp_path / "absent.mp4", (0,))
    bad.path.write_bytes(b"no video")
    good = list_clips(rendered)
    request = mean_colour_request(tmp_path)
    result = run_extraction([bad, *good, absent], reporter, request)
    assert set(result.failed) == {"bad", "absent"}
    assert result.extracted == [c.id for c in good]
    assert len(reporter.warnings) == 2
    bad.path.write_bytes(good[0].path.read_bytes())
    listed = json.loads((request.store.folder / "failed.json").read_text())
    assert set(listed) == {"bad", "absent"}
    assert run_extraction([bad, *good], reporter, request).extracted == ["bad"]
    assert not (request.store.folder / "failed.json").exists()


def test_a_still_picture_before_the_video_is_reported_and_recorded(tmp_path: Path, reporter: RecordingReporter) -> None:
    clip = Clip("picture", write_with_picture(tmp_path / "picture.mov", attached=False), (0,))
    request = mean_colour_request(tmp_path)
    assert run_extraction([clip], reporter, request).extracted == ["picture"]
    (warning,) = reporter.warnings
    assert str(clip.path) in warning
    assert "a single picture" in warning
    entry = request.store.read_clip("picture")
    assert entry is not None
    assert entry.reader == "pyav, still picture"


def test_a_damaged_clip_is_refused_unless_allowed(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter
) -> None:
    cut = Clip("cut", write_video(tmp_path / "cut.mkv", Video("cut.mkv"), 60), (0,))
    cut.path.write_bytes(cut.path.read_bytes()[: cut.path.stat().st_size // 2])
    good = list_clips(rendered)[0]
    request = mean_colour_request(tmp_path)
    refused = run_extraction([cut, good], reporter, request)
    assert list(refused.failed) == ["cut"]
    assert "--allow-damaged" in refused.failed["cut"]
    assert refused.extracted == [good.id]
    allowed = run_extraction([cut, good], reporter, request, allow_damaged=True)
    assert allowed.extracted == ["cut"]
    assert "used as far as it decodes" in reporter.warnings[-1]
    entry = request.store.read_clip("cut")
    assert entry is not None
    assert entry.reader == "pyav, damaged clip"
    assert 0 < len(entry.features["final"]) < 15
    # Stored features of a damaged clip are as little taken in silence as the clip itself, in its own file and in a pack.
    for pack in (False, True):
        if pack:
            assert pack_collection(request.store, reporter.warn) == 2
        again = run_extraction([cut, good], reporter, request)
        assert (list(again.failed), again.reused) == (["cut"], [good.id])
        assert run_extraction([cut, good], reporter, request, allow_damaged=True).reused == ["cut", good.id]


class Broken:
    """An extractor whose features are `value`, of every picture or of all but a grey one."""

    backbones = ("mean_colour",)
    frames = FrameSampling()
    at_once = 1
    noise_seed = 0
    batch = ""

    def __init__(self, value: float, grey: float) -> None:
        self.value, self.grey = value, grey

    def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
        return {}

    def features(self, windows: Sequence[np.ndarray], noises: Sequence[Noise]) -> dict[str, dict[str, np.ndarray]]:
        value = self.grey if all((window == 128).all() for window in windows) else self.value
        return {"mean_colour": {"final": np.full((sum(map(len, windows)), 2), value, np.float32)}}


@pytest.mark.parametrize(("value", "stored_as"), [(np.nan, "float32"), (np.inf, "float32"), (7e4, "float16")])
def test_features_that_are_not_finite_are_not_stored(
    rendered: dict[str, Path],
    tmp_path: Path,
    reporter: RecordingReporter,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    stored_as: StoredAs,
) -> None:
    monkeypatch.setattr(extracting, "open_extractors", lambda requests, execution: [Broken(value, 0.0)])
    some = list_clips(rendered)[:1]
    request = dataclasses.replace(mean_colour_request(tmp_path), store=open_store(tmp_path, stored_as=stored_as))
    result = run_extraction(some, reporter, request)
    assert "hold NaN or infinity" in result.failed[some[0].id]
    assert str(some[0].path) in result.failed[some[0].id]
    assert request.store.read_clip(some[0].id) is None


class Recomputing(Broken):
    """An extractor that computes two pictures again in the first window, and none later."""

    recomputed_frames = 0

    def features(self, windows: Sequence[np.ndarray], noises: Sequence[Noise]) -> dict[str, dict[str, np.ndarray]]:
        self.recomputed_frames = 2
        return super().features(windows, noises)

    def explain_nonfinite(self, windows: Sequence[np.ndarray], noises: Sequence[Noise]) -> str:
        return "the image tower"


def test_frames_that_were_computed_again_are_counted_and_recorded(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extracting, "open_extractors", lambda requests, execution: [Recomputing(1.0, 1.0)])
    request, some = mean_colour_request(tmp_path), list_clips(rendered)[:2]
    result = run_extraction(some, reporter, request)
    assert result.recomputed_frames == 2
    assert "2 encodings of frames overflowed in fp16 and were computed again" in reporter.warnings[-1]
    noted = []
    for one in some:
        entry = request.store.read_clip(one.id)
        assert entry is not None
        (origin,) = entry.origins
        about = json.loads((request.store.folder.parent / "origins" / f"{origin}.json").read_text())
        noted.append(about.get("recomputed_frames"))
    assert noted == ["2", None]


def test_the_network_that_overflows_is_named_with_the_remedy(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = mean_colour_request(tmp_path)
    monkeypatch.setattr(extracting, "read_precision", lambda config: "published")
    said = r"; they come from the image tower in precision published, .*: --precision fp32 has a wider range"
    monkeypatch.setattr(extracting, "open_extractors", lambda requests, execution: [Recomputing(np.inf, 0.0)])
    result = run_extraction(list_clips(rendered)[:1], reporter, request)
    assert re.search(said, result.failed[next(iter(rendered))])
    monkeypatch.setattr(extracting, "open_extractors", lambda requests, execution: [Recomputing(np.inf, np.inf)])
    with pytest.raises(MissingError, match=said):
        run_extraction(list_clips(rendered)[:1], reporter, request)
    # An extractor that cannot say more.
    monkeypatch.setattr(extracting, "open_extractors", lambda requests, execution: [Broken(np.inf, 0.0)])
    result = run_extraction(list_clips(rendered)[:1], reporter, request)
    assert "they come from the network in precision published" in result.failed[next(iter(rendered))]


def test_weights_that_are_not_finite_are_named_once(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extracting, "open_extractors", lambda requests, execution: [Broken(np.nan, np.nan)])
    with pytest.raises(MissingError, match=r"backbone mean_colour: .* of a grey picture, .*checkpoint is damaged"):
        run_extraction(list_clips(rendered), reporter, mean_colour_request(tmp_path))
    assert reporter.warnings == []
