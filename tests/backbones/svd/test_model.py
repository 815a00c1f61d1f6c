"""What the SVD path leaves out must not change a result; the inputs of the networks are compared with other code."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from repro.backbones.config import Cell
from repro.backbones.extractor import Backbone
from repro.backbones.noise import WindowNoise
from repro.backbones.registry import load_backbone
from repro.backbones.svd import implementations, pictures
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.extractor import SvdExtractor
from repro.backbones.svd.model import Request, SvdModel, TimestepLayer, find_needs, noise_level, time_input
from repro.backbones.svd.networks import Needs, Networks
from repro.backbones.svd.pictures import pad_window
from repro.backbones.svd.plain import NEEDS, compute_plain_window
from repro.core.errors import MissingError, UsageError

NOISE = WindowNoise(23, "0" * 64, 0)


@pytest.fixture(scope="session")
def tiny(tiny: SvdConfig) -> SvdConfig:
    """Half the picture: golden values have the whole one, and these tests compare ways to compute one thing."""
    return changed(tiny, size=(64, 64))


@pytest.fixture(scope="module")
def loaded(tiny: SvdConfig, tiny_checkpoint: Path) -> Networks:
    return implementations.load_networks("diffusers", tiny_checkpoint, tiny.architecture, Needs(13))


@pytest.fixture(scope="module")
def complete(tiny: SvdConfig, tiny_checkpoint: Path) -> Networks:
    return implementations.load_networks("diffusers", tiny_checkpoint, tiny.architecture, NEEDS)


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (7, 40, 60, 3), dtype=np.uint8)


def changed(config: SvdConfig, **changes: object) -> SvdConfig:
    return SvdConfig.model_validate(config.model_dump() | {"name": config.name} | changes)


def request(timesteps: Iterable[int], layers: Iterable[int], mixing: bool = True) -> Request:
    return Request(mixing, frozenset((t, n) for t in timesteps for n in layers))


def means(
    config: SvdConfig, loaded: Networks, wanted: Request, frames: np.ndarray, real: int
) -> dict[TimestepLayer, torch.Tensor]:
    return SvdModel(config, loaded, {"": wanted}).compute_window(frames, real, NOISE)[""]


def deviation(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "mixing"),
    [
        ({}, True),
        ({"frames": {"window": 10}}, False),
        ({"conditioning": {"source": "none"}, "frames": {"window": 10}}, True),
        ({"latent_noise": True, "frames": {"window": 10}}, True),
        ({"latent_noise": True, "frames": {"window": 10}}, False),
        # What changes sizes and noise levels alone does so for all frames alike, whether they are mixed or not.
        ({"size": (64, 128), "frames": {"window": 10}}, True),
        ({"schedule": {"steps": 25}, "frames": {"window": 14}}, True),  # svd, of 14 frames
    ],
)
def test_what_is_left_out_changes_nothing(
    tiny: SvdConfig, loaded: Networks, complete: Networks, frames: np.ndarray, mixing: bool, changes: dict[str, object]
) -> None:
    """Against the computation as released: doubled batch, complete UNet, VAE and image tower again for each timestep."""
    config = changed(tiny, **changes)
    # Without conditioning next to nothing enters the UNet at the noisiest timesteps (the latent is scaled by 1/700), and its
    # normalisations magnify float noise: 7e-5 at timestep 0, 4e-5 at 10, 5e-6 at 15, 7e-7 from 20 on.
    other = 29 if config.conditioning.source == "none" else 0
    wanted = request([other, 20], [1, 6, 9, 13], mixing)
    window = pad_window(frames, config.frames.window)
    plain = compute_plain_window(config, complete, wanted, window, NOISE)
    for place, mean in means(config, loaded, wanted, window, 7).items():
        assert deviation(mean[:7], plain[place][:7]) < 5e-6, place


@pytest.mark.slow
def test_padding_acts_on_real_frames(tiny: SvdConfig, loaded: Networks, frames: np.ndarray) -> None:
    """Why the windows must be padded as released: without padding the features differ."""
    wanted = request([20], [9])
    alone, with_black = means(tiny, loaded, wanted, frames, 7), means(tiny, loaded, wanted, pad_window(frames, 25), 7)
    assert deviation(alone[(20, 9)], with_black[(20, 9)][:7]) > 0.05


def test_without_temporal_mixing_frames_are_independent(tiny: SvdConfig, loaded: Networks, frames: np.ndarray) -> None:
    """So black padding is not computed at all."""
    wanted = request([20], [9], mixing=False)
    together = means(tiny, loaded, wanted, pad_window(frames, 25), 7)
    assert together[(20, 9)].shape[0] == 7
    two = means(tiny, loaded, wanted, frames[:2], 2)
    assert deviation(two[(20, 9)], together[(20, 9)][:2]) < 2e-6


@pytest.mark.slow
def test_temporal_branches_are_neither_loaded_nor_computed_where_they_count_for_nothing(
    tiny: SvdConfig, tiny_checkpoint: Path, loaded: Networks, frames: np.ndarray
) -> None:
    wanted = request([20], [9, 13], mixing=False)
    spatial = implementations.load_networks("diffusers", tiny_checkpoint, tiny.architecture, find_needs(tiny, [wanted]))
    names = [name for name, _ in spatial.unet.named_parameters()]  # type: ignore[attr-defined]
    assert not [name for name in names if "temporal" in name or "time_mixer" in name or "time_pos" in name]
    for place, mean in means(tiny, spatial, wanted, frames, 7).items():
        assert torch.equal(mean, means(tiny, loaded, wanted, frames, 7)[place])


@pytest.mark.slow
def test_layers_after_the_last_requested_one_change_nothing(
    tiny: SvdConfig, tiny_checkpoint: Path, loaded: Networks, frames: np.ndarray
) -> None:
    window = frames[:3]
    every = means(tiny, loaded, request([20], range(1, 14)), window, 3)
    for last in (1, 4, 8, 9, 12):
        cut = implementations.load_networks("diffusers", tiny_checkpoint, tiny.architecture, Needs(last))
        assert torch.equal(means(tiny, cut, request([20], [last]), window, 3)[(20, last)], every[(20, last)])


@pytest.mark.slow
def test_timesteps_together_are_timesteps_alone(tiny: SvdConfig, loaded: Networks, frames: np.ndarray) -> None:
    window = pad_window(frames, 10)
    together = means(tiny, loaded, request([0, 20, 29], [9]), window, 7)
    for timestep in (0, 20, 29):
        alone = means(tiny, loaded, request([timestep], [9]), window, 7)
        assert torch.equal(alone[(timestep, 9)], together[(timestep, 9)])


@pytest.mark.slow
def test_vae_and_image_tower_run_once_for_all_timesteps_and_both_backbones(
    tiny: SvdConfig, loaded: Networks, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, int] = {}
    for name in ("moments", "condition_latent", "image_embeds"):
        network = getattr(loaded, name)

        def counted(picture: torch.Tensor, name: str = name, network: object = network) -> torch.Tensor:
            calls[name] = calls.get(name, 0) + len(picture)
            return network(picture)  # type: ignore[operator,no-any-return]

        monkeypatch.setattr(loaded, name, counted)
    both = {"svd_xt": request([0, 20], [1, 2]), "sdv2": request([20], [1], mixing=False)}
    SvdModel(tiny, loaded, both).compute_window(pad_window(frames, 25), 7, NOISE)
    # Seven real frames and one black one; the condition of black frames carries its own noise and is encoded.
    assert calls == {"moments": 8, "image_embeds": 8, "condition_latent": 25}


@pytest.mark.slow
def test_without_conditioning_image_nothing_of_it_is_loaded(
    tiny: SvdConfig, tiny_checkpoint: Path, frames: np.ndarray
) -> None:
    config = changed(tiny, conditioning={"source": "none"})
    wanted = request([20], [2])
    assert not find_needs(config, [wanted]).image
    bare = implementations.load_networks("diffusers", tiny_checkpoint, tiny.architecture, find_needs(config, [wanted]))
    means(config, bare, wanted, frames, 7)
    assert next(bare.image_tower.parameters()).is_meta  # type: ignore[attr-defined]
    assert "augmentation" not in SvdModel(config, bare, {"": wanted}).noise_shapes(7)


def test_noise_on_the_latent_is_off_as_released_and_matters_when_on(
    tiny: SvdConfig, loaded: Networks, frames: np.ndarray
) -> None:
    wanted = request([0, 29], [9])
    clean, noisy = (means(changed(tiny, latent_noise=on), loaded, wanted, frames, 7) for on in (False, True))
    assert not tiny.latent_noise
    assert deviation(noisy[(0, 9)], clean[(0, 9)]) > 0.1
    assert deviation(noisy[(29, 9)], clean[(29, 9)]) < 0.1  # at a level of 0.002


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.slow
def test_frames_a_few_at_a_time_are_the_same_frames(
    tiny: SvdConfig, loaded: Networks, frames: np.ndarray, batch: int
) -> None:
    wanted, config = request([20], [9]), changed(tiny, size=(64, 128))
    window = pad_window(frames, 10)
    parts = SvdModel(config, loaded, {"": wanted}, batch=batch).compute_window(window, 7, NOISE)[""]
    assert deviation(parts[(20, 9)], means(config, loaded, wanted, window, 7)[(20, 9)]) < 2e-6


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory: you tried")])
def test_out_of_memory_says_what_was_tried(
    tiny: SvdConfig, loaded: Networks, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setattr(loaded, "moments", fail)
    model = SvdModel(tiny, loaded, {"": request([20], [9])}, batch=4)
    with pytest.raises(
        MissingError, match=r"out of memory on cpu: a window of 25 frames of 64x64 in fp32, 4 frames at once in the"
    ):
        model.compute_window(pad_window(frames, 25), 7, NOISE)


def test_pixels_are_contiguous_and_span_the_range() -> None:
    """Channels-last pictures of black frames cost up to 3e-3 in torch's CPU GroupNorm."""
    frames = np.zeros((2, 10, 12, 3), np.uint8)
    frames[1] = 255
    picture = pictures.to_pixels(frames, (64, 128))
    assert picture.is_contiguous()
    assert picture.shape == (2, 3, 64, 128)
    assert (float(picture[0].max()), float(picture[1].min())) == pytest.approx((-1, 1), abs=1e-6)


@pytest.mark.parametrize("size", [(576, 1024), (256, 384), (64, 128), (224, 224), (576, 200)])
def test_the_image_towers_input_is_kornias(size: tuple[int, int]) -> None:
    """diffusers carries a copy of kornia's antialiased resize; ours is held against it at the published size too."""
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    picture = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    theirs = _resize_with_antialiasing(picture, (224, 224))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (pictures.CLIP_MEAN, pictures.CLIP_STD))
    assert deviation(pictures.to_image_tower_input(picture, 224), ((theirs + 1) / 2 - mean) / std) < 1e-6


def test_the_noise_levels(tiny: SvdConfig) -> None:
    for timestep, level in {0: 700, 5: 234.6, 10: 64.2, 15: 13.07, 20: 1.659, 25: 0.0878, 29: 0.002}.items():
        assert noise_level(tiny.schedule, timestep) == pytest.approx(level, rel=1e-3)


def test_the_noise_levels_are_eulers(tiny: SvdConfig) -> None:
    from diffusers import EulerDiscreteScheduler

    euler = EulerDiscreteScheduler(
        sigma_min=0.002, sigma_max=700.0, use_karras_sigmas=True, timestep_type="continuous",
        prediction_type="v_prediction", num_train_timesteps=1000, interpolation_type="linear",
    )  # fmt: skip
    euler.set_timesteps(30)
    for timestep in range(30):
        level = noise_level(tiny.schedule, timestep)
        assert level == pytest.approx(float(euler.sigmas[timestep]), rel=1e-6)
        assert time_input(level) == pytest.approx(float(euler.timesteps[timestep]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("timestep", [-1, 30])
def test_a_timestep_that_does_not_exist(tiny: SvdConfig, timestep: int) -> None:
    with pytest.raises(UsageError, match=r"has timesteps 0 to 29"):
        find_needs(tiny, [request([timestep], [9])])


@pytest.mark.parametrize("layer", [0, 14])
def test_a_layer_that_does_not_exist(tiny: SvdConfig, layer: int) -> None:
    with pytest.raises(UsageError, match=rf"layer {layer} does not exist: layers 1 to 12"):
        find_needs(tiny, [request([20], [3, layer])])


def test_a_cell_without_a_timestep(tiny: SvdConfig, tiny_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="needs a timestep and a layer"):
        SvdExtractor([(Backbone(tiny, tiny_checkpoint, "sha", "diffusers"), [Cell(layer="final")])])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames.window": "0"}, "frames.window: 0: input should be greater than or equal to 1"),
        ({"size": "[64, 100]"}, "size.1: 100: not a multiple of 64"),
        ({"size": "[0, 64]"}, "size.0: 0"),
        ({"schedule.steps": "0"}, "schedule.steps"),
        ({"conditioning.source": "text"}, "conditioning.source"),
        ({"precision": "fp8"}, "precision"),
        ({"frames.windows": "3"}, "unknown key 'frames.windows'; did you mean 'window'?"),
        ({"title.x": "3"}, "'title' is a value and has no keys"),
    ],
)
def test_a_config_that_makes_no_sense(changes: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_backbone("svd_xt_tiny", changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
