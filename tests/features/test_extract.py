"""Features depend on the clip alone; a store trusts nothing it did not write whole."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.reporters import RecordingReporter

from repro.backbones.config import Cell, Frames
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.noise import Noise, Stream
from repro.backbones.registry import load_backbone
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.pictures import pad_window
from repro.core.hashing import file_sha256
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features import extract as extracting
from repro.features.collection import Collection, folder_collection
from repro.features.extract import Ask, Extraction, extract
from repro.features.packed import DamagedFeaturesError
from repro.features.store import Entry, FeatureStore, StoredAs
from repro.smoke.clips import encode
from repro.video.synthetic import scenes

COLOUR = (Cell(layer="final"),)
T20 = (Cell(timestep=20, layer=9),)


def store(folder: Path, identity: dict[str, Any] | None = None, stored_as: StoredAs = "float32") -> FeatureStore:
    return FeatureStore.open(Workspace(folder), "test", identity or {"a": 1}, "clips", stored_as)


def colour(folder: Path) -> Ask:
    """The mean colour of clips, in a store below `folder`."""
    return Ask(Backbone(load_backbone("mean_colour"), None, None, None), COLOUR, store(folder))


@dataclasses.dataclass
class Tiny:
    """The tiny SVD with and without temporal mixing, on one checkpoint."""

    config: SvdConfig
    checkpoint: Path

    def ask(
        self, folder: Path, cells: Sequence[Cell] = T20, mixing: bool = True, stored_as: StoredAs = "float32"
    ) -> Ask:
        changes = {"name": "svd"} if mixing else {"name": "sdv2", "temporal_mixing": "off"}
        config = self.config.model_copy(update=changes)
        backbone = Backbone(config, self.checkpoint, "sha", "diffusers")
        place = FeatureStore.open(Workspace(folder), backbone.name, backbone.identity(), "clips", stored_as)
        return Ask(backbone, tuple(cells), place)


@pytest.fixture(scope="module")
def svd(tiny: SvdConfig, tiny_checkpoint: Path) -> Tiny:
    return Tiny(tiny, tiny_checkpoint)


def clips(rendered: dict[str, Path]) -> list[Clip]:
    return [Clip(name, path, (0,)) for name, path in rendered.items()]


def run(
    some: Sequence[Clip], reporter: RecordingReporter, *asks: Ask, workers: int = 1, batch: int | None = None
) -> Extraction:
    return extract(
        Collection("clips", tuple(some)), asks, Execution(workers=workers, batch=batch), {"by": "test"}, reporter
    )


def test_padding_is_black_and_behind() -> None:
    frames = np.full((3, 2, 2, 3), 7, np.uint8)
    window = pad_window(frames, 5)
    assert window.shape == (5, 2, 2, 3)
    assert (window[:3] == 7).all()
    assert (window[3:] == 0).all()
    assert pad_window(window, 5) is window


@pytest.mark.slow
def test_order_workers_and_company_change_no_bit(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    some = clips(rendered)
    one, other, single = (svd.ask(tmp_path / name) for name in ("one", "other", "single"))
    run(some, reporter, one)
    run(some[::-1], reporter, other, workers=2)
    run(some[1:2], reporter, single)
    for clip in some:
        assert one.store.clip_path(clip.id).read_bytes() == other.store.clip_path(clip.id).read_bytes()
    assert one.store.clip_path(some[1].id).read_bytes() == single.store.clip_path(some[1].id).read_bytes()


@pytest.mark.slow
def test_backbones_together_are_backbones_alone(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    """svd_xt and sdv2 share decoding, VAE and image tower; sdv2 alone does without the padding."""
    some = clips(rendered)[:2]
    cells = (Cell(timestep=0, layer=4), *T20)
    together = svd.ask(tmp_path / "a", cells), svd.ask(tmp_path / "a", cells, mixing=False)
    alone = svd.ask(tmp_path / "b", cells), svd.ask(tmp_path / "b", cells, mixing=False)
    run(some, reporter, *together)
    for ask in alone:
        run(some, reporter, ask)
    for one, other in zip(together, alone, strict=True):
        for clip in some:
            ours, theirs = one.store.read_clip(clip.id), other.store.read_clip(clip.id)
            assert ours is not None
            assert theirs is not None
            for cell in cells:
                difference = ours.features[cell.name] - theirs.features[cell.name]
                assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(theirs.features[cell.name])


def test_shards_are_disjoint_and_together_all(rendered: dict[str, Path]) -> None:
    whole = Collection("clips", tuple(clips(rendered)))
    shards = [whole.shard(n, 3) for n in (1, 2, 3)]
    assert sorted(c.id for shard in shards for c in shard.clips) == sorted(c.id for c in whole.clips)
    assert len({shard.part for shard in shards}) == 3


@pytest.mark.slow
def test_another_batch_shape_is_noted_and_moves_nothing_but_float_noise(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    some = clips(rendered)[:1]
    one, other = svd.ask(tmp_path / "a"), svd.ask(tmp_path / "b")
    run(some, reporter, one)
    run(some, reporter, other, batch=2)
    ours, theirs = one.store.read_clip(some[0].id), other.store.read_clip(some[0].id)
    assert ours is not None
    assert theirs is not None
    assert ours.origins != theirs.origins
    (origin,) = theirs.origins
    assert "2 frames in the VAE encoders" in (other.store.folder.parent / "origins" / f"{origin}.json").read_text()
    difference = ours.features["t20_layer09"] - theirs.features["t20_layer09"]
    assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(ours.features["t20_layer09"])


@pytest.mark.slow
def test_cells_asked_for_later_join_those_that_are_there(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = clips(rendered)[:1]
    run(some, reporter, svd.ask(tmp_path))
    seen: list[tuple[Cell, ...]] = []
    opened = extracting.open_extractors

    def spy(asks: Sequence[tuple[Backbone, Sequence[Cell]]], execution: Execution) -> Any:
        seen.extend(tuple(cells) for _, cells in asks)
        return opened(asks, execution)

    monkeypatch.setattr(extracting, "open_extractors", spy)
    more = svd.ask(tmp_path, (Cell(timestep=5, layer=2), *T20))
    run(some, reporter, more)
    assert seen == [(Cell(timestep=5, layer=2),)]  # what is there is not computed again
    entry = more.store.read_clip(some[0].id)
    assert entry is not None
    assert sorted(entry.features) == ["t05_layer02", "t20_layer09"]
    assert run(some, reporter, more).reused == [some[0].id]
    assert len(seen) == 1  # nor is a backbone loaded for nothing


@pytest.mark.slow
def test_halves_are_another_store(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    some = clips(rendered)[:1]
    half, full = svd.ask(tmp_path, stored_as="float16"), svd.ask(tmp_path)
    assert half.store.key != full.store.key
    run(some, reporter, half)
    run(some, reporter, full)
    ours, theirs = half.store.read_clip(some[0].id), full.store.read_clip(some[0].id)
    assert ours is not None
    assert theirs is not None
    np.testing.assert_array_equal(ours.features["t20_layer09"], theirs.features["t20_layer09"].astype(np.float16))


def test_one_token_a_sampled_frame(
    rendered: dict[str, Path], svd: Tiny, tmp_path: Path, reporter: RecordingReporter
) -> None:
    short = [c for c in clips(rendered) if c.path.stat().st_size == min(p.stat().st_size for p in rendered.values())]
    ask = svd.ask(tmp_path)
    run(short, reporter, ask)
    entry = ask.store.read_clip(short[0].id)
    assert entry is not None
    assert entry.features["t20_layer09"].shape == (-(-11 // 4), 128)
    assert entry.features["t20_layer09"].dtype == np.float32
    assert entry.video_sha256 == file_sha256(short[0].path)


def test_a_clip_of_one_frame_is_one_token(svd: Tiny, tmp_path: Path, reporter: RecordingReporter) -> None:
    scene = dataclasses.replace(scenes.smoke_scenes()[0], frames=1)
    clip = Clip("one", tmp_path / "one.mp4", (0,))
    encode(clip.path, scene)
    ask = svd.ask(tmp_path)
    assert run([clip], reporter, ask).extracted == ["one"]
    entry = ask.store.read_clip("one")
    assert entry is not None
    assert entry.features["t20_layer09"].shape == (1, 128)
    assert reporter.warnings == []


def test_what_is_there_is_reused_and_what_changed_is_not(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter
) -> None:
    some = clips(rendered)
    copies = [Clip(c.id, tmp_path / f"{c.id}.mp4", (0,)) for c in some]
    for clip, copy in zip(some, copies, strict=True):
        copy.path.write_bytes(clip.path.read_bytes())
    ask = colour(tmp_path / "store")
    assert run(copies, reporter, ask).extracted == [c.id for c in copies]
    assert run(copies, reporter, ask).reused == [c.id for c in copies]
    copies[0].path.write_bytes(some[1].path.read_bytes())
    again = run(copies, reporter, ask)
    assert again.extracted == [copies[0].id]
    assert reporter.warnings == []


@pytest.mark.parametrize("damage", ["cut off", "bit", "other clip", "text", "empty"])
def test_a_damaged_file_is_kept_aside_and_made_again(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter, damage: str
) -> None:
    some = clips(rendered)
    ask = colour(tmp_path)
    place = ask.store
    run(some, reporter, ask)
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
    assert run(some, reporter, ask).extracted == [some[0].id]
    assert path.read_bytes() == good
    assert path.with_name(path.name + ".damaged1").read_bytes() == bad
    assert len(reporter.warnings) == 1
    assert str(path) in reporter.warnings[0]
    assert "\n" not in reporter.warnings[0]


def test_a_clip_that_fails_is_named_and_the_rest_goes_on(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter
) -> None:
    bad, absent = Clip("bad", tmp_path / "bad.mp4", (0,)), Clip("absent", tmp_path / "absent.mp4", (0,))
    bad.path.write_bytes(b"no video")
    good = clips(rendered)
    ask = colour(tmp_path)
    result = run([bad, *good, absent], reporter, ask)
    assert set(result.failed) == {"bad", "absent"}
    assert result.extracted == [c.id for c in good]
    assert len(reporter.warnings) == 2
    bad.path.write_bytes(good[0].path.read_bytes())
    listed = json.loads((ask.store.folder / "failed.json").read_text())
    assert set(listed) == {"bad", "absent"}
    assert run([bad, *good], reporter, ask).extracted == ["bad"]
    assert not (ask.store.folder / "failed.json").exists()


@pytest.mark.parametrize(("value", "stored_as"), [(np.nan, "float32"), (np.inf, "float32"), (7e4, "float16")])
def test_features_that_are_not_finite_are_not_stored(
    rendered: dict[str, Path],
    tmp_path: Path,
    reporter: RecordingReporter,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    stored_as: StoredAs,
) -> None:
    class Broken:
        backbones = ("mean_colour",)
        frames = Frames()
        at_once = 1
        noise_seed = 0
        batch = ""

        def noise_shapes(self, real: int) -> Mapping[Stream, tuple[int, ...]]:
            return {}

        def features(self, windows: Sequence[np.ndarray], noises: Sequence[Noise]) -> dict[str, dict[str, np.ndarray]]:
            return {"mean_colour": {"final": np.full((sum(map(len, windows)), 2), value, np.float32)}}

    monkeypatch.setattr(extracting, "open_extractors", lambda asks, execution: [Broken()])
    some = clips(rendered)[:1]
    ask = dataclasses.replace(colour(tmp_path), store=store(tmp_path, stored_as=stored_as))
    result = run(some, reporter, ask)
    assert "hold NaN or infinity" in result.failed[some[0].id]
    assert str(some[0].path) in result.failed[some[0].id]
    assert ask.store.read_clip(some[0].id) is None


def test_a_folder_of_videos_is_walked_in_order(tmp_path: Path) -> None:
    for name in ("b.MP4", "a/c.avi", "a/notes.txt", ".hidden.mp4", "a/.cache/x.mp4", "z.webm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [clip.id for clip in folder_collection(tmp_path).clips] == ["a/c.avi", "b.MP4", "z.webm"]


@pytest.mark.parametrize(
    "name", ["plain", "Goal_1_&_2_kick", "#437_How_To [x](y)!", "a/../../b", "ü é", ".hidden", "x" * 300]
)
def test_any_clip_name_has_a_file_of_its_own(tmp_path: Path, name: str) -> None:
    place = store(tmp_path)
    place.write_clip(name, Entry({"final": np.ones((2, 3), np.float32)}, "v", "decord"))
    entry = place.read_clip(name)
    assert entry is not None
    np.testing.assert_array_equal(entry.features["final"], np.ones((2, 3)))
    assert place.clip_path(name).parent == place.folder / "clips"


def test_another_identity_is_another_folder(tmp_path: Path) -> None:
    assert store(tmp_path, {"a": 1}).folder == store(tmp_path, {"a": 1}).folder
    assert store(tmp_path, {"a": 1}).folder != store(tmp_path, {"a": 2}).folder
