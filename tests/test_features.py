"""Features depend on the clip alone; a store trusts nothing it did not write whole."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Told

from repro.backbones.config import Cell, Frames, MeanColourConfig, SvdConfig, load_backbone
from repro.backbones.mean_colour import MeanColour
from repro.backbones.noise import WindowNoise
from repro.backbones.svd.extractor import SvdExtractor
from repro.datasets import Clip
from repro.features.extract import extract
from repro.features.store import DamagedFeaturesError, Entry, FeatureStore
from repro.features.windows import padded
from repro.keys import file_sha256
from repro.smoke import scenes
from repro.smoke.clips import encode


def store(folder: Path, identity: dict[str, Any] | None = None) -> FeatureStore:
    return FeatureStore.open(folder, "test", identity or {"a": 1}, {})


def clips(rendered: dict[str, Path]) -> list[Clip]:
    return [Clip(name, path, (0,)) for name, path in rendered.items()]


@pytest.fixture(scope="module")
def svd(tiny: SvdConfig, tiny_checkpoint: Path) -> SvdExtractor:
    return SvdExtractor(tiny, tiny_checkpoint, "sha", [Cell(timestep=20, layer=9)])


def test_padding_is_black_and_behind() -> None:
    frames = np.full((3, 2, 2, 3), 7, np.uint8)
    window = padded(frames, 5)
    assert window.shape == (5, 2, 2, 3)
    assert (window[:3] == 7).all()
    assert (window[3:] == 0).all()
    assert padded(window, 5) is window


@pytest.mark.slow
def test_order_workers_and_company_change_no_bit(
    rendered: dict[str, Path], svd: SvdExtractor, tmp_path: Path, told: Told
) -> None:
    some = clips(rendered)
    one, other, single = store(tmp_path / "one"), store(tmp_path / "other"), store(tmp_path / "single")
    extract(some, svd, one, told)
    extract(some[::-1], svd, other, told, workers=2)
    extract(some[1:2], svd, single, told)
    for clip in some:
        assert one.path(clip.id).read_bytes() == other.path(clip.id).read_bytes()
    assert one.path(some[1].id).read_bytes() == single.path(some[1].id).read_bytes()


def test_one_token_a_sampled_frame(rendered: dict[str, Path], svd: SvdExtractor, tmp_path: Path, told: Told) -> None:
    place = store(tmp_path)
    short = [c for c in clips(rendered) if c.path.stat().st_size == min(p.stat().st_size for p in rendered.values())]
    extract(short, svd, place, told)
    entry = place.read(short[0].id)
    assert entry is not None
    assert entry.features["t20_layer09"].shape == (-(-11 // 4), 128)
    assert entry.features["t20_layer09"].dtype == np.float32
    assert entry.video_sha256 == file_sha256(short[0].path)


def test_a_clip_of_one_frame_is_one_token(svd: SvdExtractor, tmp_path: Path, told: Told) -> None:
    scene = dataclasses.replace(scenes.smoke_scenes()[0], frames=1)
    clip = Clip("one", tmp_path / "one.mp4", (0,))
    encode(clip.path, scene)
    place = store(tmp_path)
    assert extract([clip], svd, place, told).extracted == ["one"]
    entry = place.read("one")
    assert entry is not None
    assert entry.features["t20_layer09"].shape == (1, 128)
    assert told.warnings == []


def test_what_is_there_is_reused_and_what_changed_is_not(rendered: dict[str, Path], tmp_path: Path, told: Told) -> None:
    config = load_backbone("mean_colour")
    assert isinstance(config, MeanColourConfig)
    some = clips(rendered)
    copies = [Clip(c.id, tmp_path / f"{c.id}.mp4", (0,)) for c in some]
    for clip, copy in zip(some, copies, strict=True):
        copy.path.write_bytes(clip.path.read_bytes())
    place = store(tmp_path / "store")
    assert extract(copies, MeanColour(config), place, told).extracted == [c.id for c in copies]
    assert extract(copies, MeanColour(config), place, told).reused == [c.id for c in copies]
    copies[0].path.write_bytes(some[1].path.read_bytes())
    again = extract(copies, MeanColour(config), place, told)
    assert again.extracted == [copies[0].id]
    assert told.warnings == []


@pytest.mark.parametrize("damage", ["cut off", "bit", "other clip", "text", "empty"])
def test_a_damaged_file_is_kept_aside_and_made_again(
    rendered: dict[str, Path], tmp_path: Path, told: Told, damage: str
) -> None:
    config = load_backbone("mean_colour")
    assert isinstance(config, MeanColourConfig)
    some = clips(rendered)
    place = store(tmp_path)
    extract(some, MeanColour(config), place, told)
    path = place.path(some[0].id)
    good = path.read_bytes()
    bad = {
        "cut off": good[:-100],
        "bit": good[:-50] + bytes([good[-50] ^ 1]) + good[-49:],
        "other clip": place.path(some[1].id).read_bytes(),
        "text": b"features",
        "empty": b"",
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(DamagedFeaturesError):
        place.read(some[0].id)
    assert extract(some, MeanColour(config), place, told).extracted == [some[0].id]
    assert path.read_bytes() == good
    assert path.with_name(path.name + ".damaged1").read_bytes() == bad
    assert len(told.warnings) == 1
    assert str(path) in told.warnings[0]
    assert "\n" not in told.warnings[0]


def test_a_clip_that_fails_is_named_and_the_rest_goes_on(rendered: dict[str, Path], tmp_path: Path, told: Told) -> None:
    config = load_backbone("mean_colour")
    assert isinstance(config, MeanColourConfig)
    bad, absent = Clip("bad", tmp_path / "bad.mp4", (0,)), Clip("absent", tmp_path / "absent.mp4", (0,))
    bad.path.write_bytes(b"no video")
    good = clips(rendered)
    result = extract([bad, *good, absent], MeanColour(config), store(tmp_path), told)
    assert set(result.failed) == {"bad", "absent"}
    assert result.extracted == [c.id for c in good]
    assert len(told.warnings) == 2
    bad.path.write_bytes(good[0].path.read_bytes())
    assert extract([bad, *good], MeanColour(config), store(tmp_path), told).extracted == ["bad"]


def test_features_that_are_not_finite_are_not_stored(rendered: dict[str, Path], tmp_path: Path, told: Told) -> None:
    class Broken:
        frames = Frames()
        noise_seed = 0

        def identity(self) -> dict[str, Any]:
            return {}

        def window(self, frames: np.ndarray, real: int, noise: WindowNoise) -> dict[str, np.ndarray]:
            return {"final": np.full((real, 2), np.nan, np.float32)}

    some = clips(rendered)[:1]
    result = extract(some, Broken(), store(tmp_path), told)
    assert "hold NaN" in result.failed[some[0].id]
    assert store(tmp_path).read(some[0].id) is None


@pytest.mark.parametrize("name", ["plain", "Goal_1_&_2_kick", "#437_How_To [x](y)!", "a/../../b", "ü é", ".hidden"])
def test_any_clip_name_has_a_file_of_its_own(tmp_path: Path, name: str) -> None:
    place = store(tmp_path)
    place.write(name, Entry({"final": np.ones((2, 3), np.float32)}, "v", "decord"))
    entry = place.read(name)
    assert entry is not None
    np.testing.assert_array_equal(entry.features["final"], np.ones((2, 3)))
    assert place.path(name).parent == place.folder / "clips"


def test_another_identity_is_another_folder(tmp_path: Path) -> None:
    assert store(tmp_path, {"a": 1}).folder == store(tmp_path, {"a": 1}).folder
    assert store(tmp_path, {"a": 1}).folder != store(tmp_path, {"a": 2}).folder
