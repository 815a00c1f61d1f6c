"""V-JEPA and VideoMAEv2: exact against their publishers' code, and every choice of clip and pooling is where it should be."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.commands import run_repro
from builders.reporters import RecordingReporter
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional

from repro.backbones.comparison import DEVIATION_LIMIT, relative_l2
from repro.backbones.config import Cell, FrameSampling
from repro.backbones.extractor import Execution, Extractor
from repro.backbones.mean_colour import MeanColour
from repro.backbones.registry import describe_backbone, family_of, load_backbone, open_extractors
from repro.backbones.vit import videomaev2, vjepa
from repro.backbones.vit.config import EncoderSizes as Sizes
from repro.backbones.vit.config import PictureConfig, VitConfig
from repro.backbones.vit.extractor import VitExtractor
from repro.backbones.vit.pictures import FrameResizer, resize_frames, resized_size
from repro.core.errors import UsageError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features.collection import Collection
from repro.features.extract import FeatureRequest, extract_missing
from repro.features.store import FeatureStore
from repro.features.windows import WindowCutter
from repro.video.decoders import Decoders
from repro.video.synthetic.scenes import smoke_scenes

FAMILIES = ("vjepa", "videomaev2")
FINAL = (Cell(layer="final"),)


def tiny(family: str, **changes: str) -> VitConfig:
    config = load_backbone(f"{family}_tiny", {key.replace("__", "."): value for key, value in changes.items()})
    assert isinstance(config, VitConfig)
    return config


def opened(family: str, workspace: Workspace, cells: Sequence[Cell] = FINAL, **changes: str) -> Extractor:
    backbone = describe_backbone(tiny(family, **changes), workspace)
    return open_extractors([(backbone, cells)], Execution())[0]


def moving(frames: int, height: int = 90, width: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def rows(extractor: Extractor, *windows: np.ndarray, cell: str = "final") -> np.ndarray:
    (found,) = extractor.features(windows, []).values()
    return found[cell]


# Against the publishers' own code.


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_tokens(reference: Path, family: str) -> None:
    deviations = deviation(family, reference / "parity" / family)
    assert len(deviations) == 1
    assert max(deviations) <= DEVIATION_LIMIT


def deviation(family: str, folder: Path) -> list[float]:
    config = tiny(family)
    against = family_of(config).verify_against_golden
    return [d.relative_l2 for d in against(config, Path("none"), folder, Execution())]


def reversed_tubelet(values: np.ndarray) -> np.ndarray:
    return values[:, :, ::-1]


def transposed_patch(values: np.ndarray) -> np.ndarray:
    return values.swapaxes(-1, -2)


def other_channels(values: np.ndarray) -> np.ndarray:
    return values[:, ::-1]


def time_last(table: np.ndarray) -> np.ndarray:
    """The table of positions as of tokens that run through time first."""
    return table.reshape(1, 8, 4, 4, -1).transpose(0, 2, 3, 1, 4).reshape(table.shape)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("swap", [reversed_tubelet, transposed_patch, other_channels])
def test_golden_tokens_see_frames_rows_and_channels_swapped(
    reference: Path, tmp_path: Path, family: str, swap: Any
) -> None:
    golden = load_file(reference / "parity" / family / "tiny.safetensors")
    name = "weights/patch_embed.proj.weight"
    golden[name] = np.ascontiguousarray(swap(golden[name]))
    save_file(golden, tmp_path / "swapped.safetensors")
    assert min(deviation(family, tmp_path)) > 1000 * DEVIATION_LIMIT


def test_golden_tokens_see_positions_swapped(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = load_file(reference / "parity" / "vjepa" / "tiny.safetensors")
    golden["weights/pos_embed"] = np.ascontiguousarray(time_last(golden["weights/pos_embed"]))
    save_file(golden, tmp_path / "swapped.safetensors")
    assert min(deviation("vjepa", tmp_path)) > 1000 * DEVIATION_LIMIT
    # VideoMAEv2's are computed.
    right = videomaev2.sinusoid_positions

    def swapped(count: int, width: int, device: torch.device) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(time_last(right(count, width, device).numpy())))

    monkeypatch.setattr(videomaev2, "sinusoid_positions", swapped)
    assert min(deviation("videomaev2", reference / "parity" / "videomaev2")) > 1000 * DEVIATION_LIMIT


def drawn(sizes: Sizes, patches: int, family: str, seed: int) -> dict[str, Tensor]:
    """Random weights of any size under the publishers' names."""
    width, hidden = sizes.width, sizes.mlp
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, sizes.tubelet, sizes.patch, sizes.patch),
        "patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    if family == "vjepa":
        shapes["pos_embed"] = (1, patches, width)
    for number in range(sizes.depth):
        biases = (
            {"attn.qkv.bias": (3 * width,)}
            if family == "vjepa"
            else dict.fromkeys(("attn.q_bias", "attn.v_bias"), (width,))
        )
        for name, shape in (biases | {
            "attn.qkv.weight": (3 * width, width), "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
            "mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,),
        }).items():  # fmt: skip
            shapes[f"blocks.{number}.{name}"] = shape
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draws) * 0.2 for name, shape in shapes.items()}


def plain_tokens(weights: Mapping[str, Tensor], seen: Tensor, heads: int, family: str) -> Tensor:
    """Both encoders as their papers describe them, in fp64, one operation after another."""
    w = {name: values.double() for name, values in weights.items()}
    patches = w["patch_embed.proj.weight"]
    width, _, tubelet, patch, _ = patches.shape
    batch, _, frames, height, wide = seen.shape
    cut = seen.double().reshape(batch, 3, frames // tubelet, tubelet, height // patch, patch, wide // patch, patch)
    cut = cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
    x = cut @ patches.flatten(1).T + w["patch_embed.proj.bias"]
    if family == "vjepa":
        x = x + w["pos_embed"]
    else:
        place, channel = torch.arange(x.shape[1]).double()[:, None], torch.arange(width)
        angle = place / 10000.0 ** (2 * (channel // 2).double() / width)
        x = x + torch.where(channel % 2 == 0, angle.sin(), angle.cos())
    norm = partial(functional.layer_norm, normalized_shape=(width,), eps=1e-6)
    for number in range(sum(name.endswith("norm1.weight") for name in w)):
        b = {n.removeprefix(f"blocks.{number}."): v for n, v in w.items() if n.startswith(f"blocks.{number}.")}
        y = norm(x, weight=b["norm1.weight"], bias=b["norm1.bias"])
        bias = (
            b["attn.qkv.bias"]
            if family == "vjepa"
            else torch.cat([b["attn.q_bias"], torch.zeros(width), b["attn.v_bias"]])
        )
        q, k, v = (
            (y @ b["attn.qkv.weight"].T + bias).reshape(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        )
        weight = (q @ k.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
        x = x + (weight @ v).transpose(1, 2).flatten(2) @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        y = norm(x, weight=b["norm2.weight"], bias=b["norm2.bias"])
        y = functional.gelu(y @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"])
        x = x + y @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]
    return norm(x, weight=w["norm.weight"], bias=w["norm.bias"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("sizes", "heads", "frames", "side"),
    [
        (Sizes(width=24, depth=2, patch=8, tubelet=2, mlp=96), 3, 4, 24),
        (Sizes(width=40, depth=1, patch=4, tubelet=4, mlp=72), 5, 8, 8),
        (Sizes(width=32, depth=4, patch=16, tubelet=1, mlp=33), 2, 3, 32),
    ],
)
@pytest.mark.slow
def test_any_size_equals_the_plain_computation(
    tmp_path: Path, family: str, sizes: Sizes, heads: int, frames: int, side: int
) -> None:
    """Through `repro verify`, which reads sizes off the weights; heads are said."""
    patches = frames // sizes.tubelet * (side // sizes.patch) ** 2
    weights = drawn(sizes, patches, family, seed=frames)
    seen = torch.randn(2, 3, frames, side, side, generator=torch.Generator().manual_seed(1))
    golden = {f"weights/{name}": values.numpy() for name, values in weights.items()}
    golden |= {"input": seen.numpy(), "tokens": plain_tokens(weights, seen, heads, family).float().numpy()}
    save_file(golden, tmp_path / "golden.safetensors")
    done = run_repro("verify", f"{family}_tiny", "--golden", tmp_path, "--set", f"num_heads={heads}")
    assert done.code == 0, done.out + done.err
    assert "1 tensors" in done.out


def test_positions_of_another_grid_are_interpolated(tmp_path: Path) -> None:
    """As the publishers' code does where a clip is longer or larger than the one a table is for: trilinear, by tubelets and patches."""
    sizes = Sizes(width=16, depth=1, patch=8, tubelet=2, mlp=32)
    encoder = vjepa.VjepaEncoder(drawn(sizes, 8 * 2 * 2, "vjepa", 3), sizes, 2, 16)
    assert encoder.positions((8, 2, 2)) is encoder.pos_embed
    assert not torch.equal(encoder.positions((2, 4, 4)), encoder.pos_embed)  # as many tokens, of other places
    table = encoder.pos_embed.detach()
    longer = encoder.positions((16, 4, 4)).detach()
    cube = table.view(1, 8, 2, 2, 16).permute(0, 4, 1, 2, 3)
    expected = functional.interpolate(cube, size=(16, 4, 4), mode="trilinear").permute(0, 2, 3, 4, 1).reshape(1, -1, 16)
    torch.testing.assert_close(longer, expected)
    assert encoder.embed(torch.zeros(1, 3, 32, 32, 32)).shape == (1, 16 * 16, 16)


# From a frame to the encoder's input.


def test_pixels_are_normalised_channel_by_channel() -> None:
    colour = np.array([10, 100, 250], np.uint8)
    frames = np.broadcast_to(colour, (2, 30, 40, 3))
    seen = resize_frames(frames, PictureConfig(short_side=16, size=16))
    assert seen.shape == (2, 3, 16, 16)
    expected = (colour / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen[0, :, 0, 0].numpy(), expected, rtol=1e-5)
    unit = resize_frames(frames, PictureConfig(short_side=16, size=16, normalisation="unit"))
    np.testing.assert_allclose(unit[1, :, 3, 3].numpy(), colour / 255, rtol=1e-6)


def test_the_short_side_is_resized_and_the_centre_cut_out() -> None:
    picture = PictureConfig(short_side=256, size=224)
    assert resized_size((480, 854), picture) == (256, 455)
    assert resized_size((854, 480), picture) == (455, 256)
    assert resized_size((256, 256), picture) == (256, 256)
    assert resized_size((480, 854), PictureConfig(fit="stretch", size=224)) == (224, 224)
    frames = np.zeros((1, 40, 80, 3), np.uint8)
    frames[..., 20:60, :] = 255  # the middle square of a wide frame
    assert (resize_frames(frames, PictureConfig(short_side=40, size=40, normalisation="unit")) == 1).all()
    assert resize_frames(frames, PictureConfig(fit="stretch", size=40, normalisation="unit")).mean() == pytest.approx(
        0.5, abs=0.02
    )


def test_shrinking_is_bilinear_between_the_two_nearest_pixels_without_a_blur() -> None:
    """As the publishers' loaders (cv2's INTER_LINEAR): to a quarter, the middle two of four."""
    frames = moving(1, 16, 16)
    seen = resize_frames(frames, PictureConfig(short_side=4, size=4, normalisation="unit"))[0].permute(1, 2, 0).numpy()
    near = frames[0].reshape(4, 4, 4, 4, 3)[:, 1:3, :, 1:3].mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(seen, near, atol=1e-6)


def test_rows_columns_and_frames_keep_their_order() -> None:
    frames = moving(3, 16, 16)
    resizer = FrameResizer(PictureConfig(short_side=16, size=16, normalisation="unit"), hop=3)
    seen = resizer.resize_windows([frames], 3)
    assert seen.shape == (1, 3, 3, 16, 16)
    np.testing.assert_allclose(seen[0].permute(1, 2, 3, 0).numpy(), frames / 255, atol=1e-6)


# From tokens to vectors.


class Numbered:
    """An encoder whose tokens say which tubelet they are of."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self.blocks = sizes, [lambda tokens: tokens]

    def embed(self, seen: Tensor) -> Tensor:
        batch, _, frames, height, width = seen.shape
        grid = torch.zeros(batch, frames // 2, height // 8, width // 8, 4)
        grid += torch.arange(frames // 2).view(1, -1, 1, 1, 1)
        return grid.flatten(1, 3)

    def norm(self, tokens: Tensor) -> Tensor:
        return tokens

    def fc_norm(self, mean: Tensor) -> Tensor:
        return mean

    def to(self, device: str) -> object:
        return self


def numbered(pooling: str = "tubelet", **changes: str) -> VitExtractor:
    sizes = Sizes(width=4, depth=1, patch=8, tubelet=2, mlp=4)
    config = tiny("vjepa", pooling=pooling, picture="{short_side: 24, size: 24}", encoder="null", **changes)
    return VitExtractor(config, Numbered(sizes), FINAL, "cpu")


def test_a_vector_is_the_mean_of_one_tubelets_tokens() -> None:
    found = rows(numbered(), moving(16), moving(16))
    np.testing.assert_array_equal(found[:, 0], [*range(8), *range(8)])


@pytest.mark.parametrize(("real", "expected"), [(1, 1), (2, 1), (3, 2), (15, 8), (16, 8)])
def test_a_tubelet_with_a_real_frame_gives_a_vector(real: int, expected: int) -> None:
    """Even where there are fewer frames than a tubelet spans."""
    np.testing.assert_array_equal(rows(numbered(), moving(real))[:, 0], range(expected))
    assert rows(numbered("window"), moving(real)).tolist() == [[np.mean(range(expected))] * 4]


def test_a_short_window_repeats_its_last_frame() -> None:
    frames = moving(3)
    picture = PictureConfig(short_side=90, size=90, normalisation="unit")
    (window,) = FrameResizer(picture, hop=8).resize_windows([frames], 8).transpose(1, 2)
    assert window.shape == (8, 3, 90, 90)
    assert torch.equal(window[:3], resize_frames(frames, picture))
    assert (window[3:] == window[2]).all()


@pytest.mark.parametrize("real", [1, 2, 15, 16])
def test_padded_tubelets_count_only_if_kept(real: int) -> None:
    extractor = numbered(keep_padded_tubelets="true")
    assert "keep_padded_tubelets" not in tiny("vjepa").model_dump(mode="json")  # keys of earlier features stay
    np.testing.assert_array_equal(rows(extractor, moving(real))[:, 0], range(8))
    assert rows(numbered("window", keep_padded_tubelets="true"), moving(real)).tolist() == [[3.5] * 4]


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"pooling": "window"}, {"frames__overlap": "12"}, {"frames__tail_window": "false"},
        {"frames__overlap": "12", "frames__tail_window": "false"}, {"keep_padded_tubelets": "true"},
        {"keep_padded_tubelets": "true", "pooling": "window", "frames__tail_window": "false"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_a_clip_has_as_many_vectors_as_its_config_says(
    workspace: Workspace, changes: dict[str, str], count: int
) -> None:
    extractor, config = opened("vjepa", workspace, **changes), tiny("vjepa", **changes)
    cutter = WindowCutter(config.frames)
    windows = [*cutter.add_chunk(moving(count)), *cutter.finish_clip()]
    assert len(rows(extractor, *windows)) == config.vectors(count)


SWITCHES = {
    "stretched": {"picture": "{fit: stretch, size: 64}"},
    "another crop": {"picture": "{short_side: 96, size: 64}"},
    "another size": {"picture": "{short_side: 96, size: 96}"},
    "not normalised": {"picture": "{short_side: 72, size: 64, normalisation: unit}"},
    "mean, then norm": {"norm": "fc_norm"},
    "one a window": {"pooling": "window"},
    "shorter windows": {"frames__window": "8"},
    "overlapping windows": {"frames__overlap": "8"},
    "no tail window": {"frames__tail_window": "false"},
    "padding kept": {"keep_padded_tubelets": "true"},
}


@pytest.mark.parametrize("what", SWITCHES)
def test_every_switch_gives_other_features_under_another_key(workspace: Workspace, what: str) -> None:
    changes = SWITCHES[what]
    before = describe_backbone(tiny("vjepa"), workspace)
    after = describe_backbone(tiny("vjepa", **changes), workspace)
    assert before.identity() != after.identity()
    found = []
    for backbone in (before, after):
        extractor = open_extractors([(backbone, FINAL)], Execution())[0]
        cutter = WindowCutter(extractor.frames)
        found.append(rows(extractor, *cutter.add_chunk(moving(20)), *cutter.finish_clip()))
    ours, theirs = found
    assert ours.shape != theirs.shape or relative_l2(ours, theirs) > 1e-3


def test_norm_of_the_mean_is_what_it_says(workspace: Workspace) -> None:
    """Without learned weights for a pre-trained encoder: mean 0 and variance 1 over channels."""
    found = rows(opened("videomaev2", workspace, norm="fc_norm"), moving(16))
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(found.var(axis=1), 1, rtol=1e-3)
    raw = rows(opened("videomaev2", workspace, (Cell(layer=3),)), moving(16), cell="layer03")
    normed = (raw - raw.mean(axis=1, keepdims=True)) / raw.std(axis=1, keepdims=True)
    np.testing.assert_allclose(found, normed, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_outputs_of_blocks(workspace: Workspace, family: str) -> None:
    cells = (Cell(layer=1), Cell(layer=2), Cell(layer=3), *FINAL)
    (found,) = opened(family, workspace, cells).features([moving(16)], []).values()
    assert sorted(found) == ["final", "layer01", "layer02", "layer03"]
    alone = rows(opened(family, workspace, cells[:1]), moving(16), cell="layer01")
    np.testing.assert_allclose(found["layer01"], alone, rtol=1e-5, atol=1e-5)
    assert relative_l2(found["layer02"], found["layer01"]) > 1e-2
    with pytest.raises(UsageError, match="layer 4 does not exist"):
        opened(family, workspace, (Cell(layer=4),))


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_together_are_windows_alone(workspace: Workspace, family: str) -> None:
    extractor = opened(family, workspace)
    windows = [moving(16, seed=1), moving(16, seed=2), moving(5, seed=3)]
    together = rows(extractor, *windows)
    alone = np.concatenate([rows(extractor, window) for window in windows])
    assert relative_l2(together, alone) < DEVIATION_LIMIT


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_reduced_precision_is_near(workspace: Workspace, precision: str) -> None:
    exact, reduced = (rows(opened("vjepa", workspace, precision=p), moving(16)) for p in ("fp32", precision))
    assert reduced.dtype == np.float32
    assert 0 < relative_l2(reduced, exact) < 0.05


# Among the others.


def make_requests(folder: Path, *names: str, **changes: dict[str, str]) -> list[FeatureRequest]:
    """Requests of the named backbones' usual cells; `changes` to a config by the backbone's name."""
    workspace = Workspace(folder)
    found = []
    for name in names:
        config = load_backbone(name, changes.get(name))
        backbone = describe_backbone(config, workspace)
        store = FeatureStore.open(workspace, name, backbone.identity(), "clips")
        found.append(FeatureRequest(backbone, (config.axes().usual,), store))
    return found


@pytest.mark.slow
def test_backbones_asked_for_together_share_one_decoding(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One decoder feeds backbones that cut windows of 4, 8, 16 and 25 frames; their features are the same as alone."""
    names = ("svd_xt_tiny", "vjepa_tiny", "videomaev2_tiny", "mean_colour")
    # Of the 3 and 10 frames sampled from the two shortest clips, SVD makes 1 and 3 windows, V-JEPA 1 and 2.
    changes = {
        "svd_xt_tiny": {"frames.window": "4", "size": "[64, 64]"},
        "vjepa_tiny": {"frames.window": "8"},
        # Decoding is shared by backbones that sample alike, whatever their windows.
        "videomaev2_tiny": {"frames": "{stride: 4, window: 16, overlap: 12, tail_window: false}"},
    }
    frames = {scene.id: scene.frames for scene in smoke_scenes()}
    shortest = sorted(rendered, key=lambda name: frames[name])[:2]
    clips = Collection("clips", tuple(Clip(name, rendered[name], (0,)) for name in shortest))
    decoded = []
    decode = Decoders.decode

    def spy(self: Decoders, jobs: Sequence[Any]) -> Iterator[Any]:
        decoded.extend(jobs)
        return decode(self, jobs)

    monkeypatch.setattr(Decoders, "decode", spy)
    together = make_requests(tmp_path / "a", *names, **changes)
    extract_missing(clips, together, Execution(), {"by": "test"}, reporter)
    assert len(decoded) == len(clips.clips)
    alone = make_requests(tmp_path / "b", *names, **changes)
    for request in alone:
        extract_missing(clips, [request], Execution(), {"by": "test"}, reporter)
    for one, other in zip(together, alone, strict=True):
        for clip in clips.clips:
            ours, theirs = one.store.read_clip(clip.id), other.store.read_clip(clip.id)
            assert ours is not None
            assert theirs is not None
            for cell, values in ours.features.items():
                np.testing.assert_array_equal(values, theirs.features[cell])


def test_a_clip_of_one_frame_has_a_vector(
    tmp_path: Path, reporter: RecordingReporter, rendered: dict[str, Path]
) -> None:
    (request,) = make_requests(tmp_path, "vjepa_tiny")
    shortest = min(rendered.values(), key=lambda path: path.stat().st_size)
    config = request.backbone.config.model_copy(update={"frames": FrameSampling(window=16, stride=1000)})
    request = replace(request, backbone=replace(request.backbone, config=config))
    done = extract_missing(
        Collection("clips", (Clip("one", shortest, (0,)),)), [request], Execution(), {"by": "test"}, reporter
    )
    assert done.extracted == ["one"]
    entry = request.store.read_clip("one")
    assert entry is not None
    assert entry.features["final"].shape == (1, 96)


@pytest.mark.slow
def test_verify_compares_on_this_machine(tmp_path: Path) -> None:
    describe_backbone(tiny("videomaev2"), Workspace(tmp_path))
    done = run_repro("verify", "videomaev2_tiny", "--workspace", tmp_path)
    assert done.code == 0, done.err
    assert "3 windows together" in done.out
    assert "equal" in done.out


def test_what_a_clip_has_is_not_computed_again_for_another(
    rendered: dict[str, Path], tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip without one backbone's features does not go through another's, nor is its file written."""
    clips = tuple(Clip(name, path, (0,)) for name, path in list(rendered.items())[:3])
    both = make_requests(tmp_path, "mean_colour", "vjepa_tiny")
    extract_missing(Collection("clips", clips[:2]), both[:1], Execution(), {"by": "before"}, reporter)
    before = both[0].store.clip_path(clips[0].id).read_bytes()
    seen: list[int] = []
    compute = MeanColour.features

    def spy(self: MeanColour, windows: Sequence[np.ndarray], noises: Sequence[Any]) -> Any:
        seen.extend(map(len, windows))
        return compute(self, windows, noises)

    monkeypatch.setattr(MeanColour, "features", spy)
    done = extract_missing(Collection("clips", clips), both, Execution(), {"by": "after"}, reporter)
    assert done.extracted == [clip.id for clip in clips]
    third = both[0].store.read_clip(clips[2].id)
    assert third is not None
    assert sum(seen) == len(third.features["final"])
    assert both[0].store.clip_path(clips[0].id).read_bytes() == before
    assert all(both[1].store.read_clip(clip.id) for clip in clips)
