"""What the SVD path leaves out must not change a result; what it feeds the networks is held against other code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from repro.backbones.config import Cell, SvdConfig, load_backbone
from repro.backbones.noise import WindowNoise
from repro.backbones.svd import modules, pictures, schedule
from repro.backbones.svd.extractor import SvdExtractor
from repro.backbones.svd.model import SvdModel
from repro.errors import UsageError
from repro.features.windows import padded


@pytest.fixture(scope="module")
def loaded(tiny: SvdConfig, tiny_checkpoint: Path) -> modules.SvdModules:
    return modules.load(tiny_checkpoint, tiny.architecture, 13)


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (7, 40, 60, 3), dtype=np.uint8)


NOISE = WindowNoise(23, "0" * 64, 0)


def deviation(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_black_padding_computed_once_changes_nothing(
    tiny: SvdConfig, loaded: modules.SvdModules, frames: np.ndarray
) -> None:
    model = SvdModel(tiny, loaded, [20], [9, 13])
    window = padded(frames, 25)
    short, full = model.window(window, len(frames), NOISE), model.window(window, 25, NOISE)
    for cell in full:
        assert deviation(short[cell], full[cell]) < 2e-6


def test_padding_acts_on_real_frames(tiny: SvdConfig, loaded: modules.SvdModules, frames: np.ndarray) -> None:
    """Why the windows must be padded as released: without it the features are others."""
    model = SvdModel(tiny, loaded, [20], [9])
    alone, with_black = model.window(frames, 7, NOISE), model.window(padded(frames, 25), 7, NOISE)
    assert deviation(alone[(20, 9)], with_black[(20, 9)][:7]) > 0.05


def test_without_temporal_mixing_frames_are_independent(loaded: modules.SvdModules, frames: np.ndarray) -> None:
    config = load_backbone("sdv2_tiny")
    assert isinstance(config, SvdConfig)
    model = SvdModel(config, loaded, [20], [9])
    picture = pictures.pixels(frames, config.size)
    conditioning, latent = model.condition(picture, 7, NOISE), model.latent(picture, 7, NOISE)
    level = schedule.sigma(config.schedule, 20)
    together = model._unet(latent, conditioning, level)[9]
    two = type(conditioning)(conditioning.crossattn[:2], conditioning.concat[:2], conditioning.vector[:2])
    assert deviation(model._unet(latent[:2], two, level)[9], together[:2]) < 2e-6


def test_layers_behind_the_last_one_asked_for_change_nothing(
    tiny: SvdConfig, tiny_checkpoint: Path, loaded: modules.SvdModules, frames: np.ndarray
) -> None:
    window = padded(frames, 25)
    whole = SvdModel(tiny, loaded, [20], range(1, 14)).window(window, 7, NOISE)
    for last in (1, 4, 8, 9, 12):
        cut = SvdModel(tiny, modules.load(tiny_checkpoint, tiny.architecture, last), [20], [last]).window(
            window, 7, NOISE
        )
        assert torch.equal(cut[(20, last)], whole[(20, last)])


def test_timesteps_together_are_timesteps_alone(
    tiny: SvdConfig, loaded: modules.SvdModules, frames: np.ndarray
) -> None:
    window = padded(frames, 25)
    together = SvdModel(tiny, loaded, [0, 20, 29], [9]).window(window, 7, NOISE)
    for timestep in (0, 20, 29):
        alone = SvdModel(tiny, loaded, [timestep], [9]).window(window, 7, NOISE)
        assert torch.equal(alone[(timestep, 9)], together[(timestep, 9)])


def test_pixels_are_contiguous_and_span_the_range() -> None:
    """Channels-last pictures of black frames cost up to 3e-3 in torch's CPU GroupNorm."""
    frames = np.zeros((2, 10, 12, 3), np.uint8)
    frames[1] = 255
    picture = pictures.pixels(frames, (64, 128))
    assert picture.is_contiguous()
    assert picture.shape == (2, 3, 64, 128)
    assert (float(picture[0].max()), float(picture[1].min())) == (-1.0, 1.0)


@pytest.mark.parametrize("size", [(576, 1024), (256, 384), (64, 128), (224, 224), (576, 200)])
def test_the_image_towers_input_is_kornias(size: tuple[int, int]) -> None:
    """diffusers carries a copy of kornia's antialiased resize; ours is held against it at the published size too."""
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    picture = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    theirs = _resize_with_antialiasing(picture, (224, 224))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (pictures.MEAN, pictures.STD))
    assert deviation(pictures.image_tower_input(picture, 224), ((theirs + 1) / 2 - mean) / std) < 1e-6


def test_the_noise_levels(tiny: SvdConfig) -> None:
    for timestep, level in {0: 700, 5: 234.6, 10: 64.2, 15: 13.07, 20: 1.659, 25: 0.0878, 29: 0.002}.items():
        assert schedule.sigma(tiny.schedule, timestep) == pytest.approx(level, rel=1e-3)


def test_the_noise_levels_are_eulers(tiny: SvdConfig) -> None:
    from diffusers import EulerDiscreteScheduler

    euler = EulerDiscreteScheduler(
        sigma_min=0.002, sigma_max=700.0, use_karras_sigmas=True, timestep_type="continuous",
        prediction_type="v_prediction", num_train_timesteps=1000, interpolation_type="linear",
    )  # fmt: skip
    euler.set_timesteps(30)
    for timestep in range(30):
        level = schedule.sigma(tiny.schedule, timestep)
        assert level == pytest.approx(float(euler.sigmas[timestep]), rel=1e-6)
        assert schedule.c_noise(level) == pytest.approx(float(euler.timesteps[timestep]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("timestep", [-1, 30])
def test_a_timestep_that_does_not_exist(tiny: SvdConfig, loaded: modules.SvdModules, timestep: int) -> None:
    with pytest.raises(UsageError, match=r"has timesteps 0 to 29"):
        SvdModel(tiny, loaded, [timestep], [9])


def test_a_cell_without_a_timestep(tiny: SvdConfig, tiny_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="needs a timestep and a layer"):
        SvdExtractor(tiny, tiny_checkpoint, "x", [Cell(layer="final")])


def test_noise_depends_on_what_it_is_for_alone() -> None:
    first = WindowNoise(23, "a" * 64, 0).draw("posterior", (3, 4))
    np.testing.assert_array_equal(first, WindowNoise(23, "a" * 64, 0).draw("posterior", (3, 4)))
    others = [
        WindowNoise(24, "a" * 64, 0).draw("posterior", (3, 4)),
        WindowNoise(23, "b" * 64, 0).draw("posterior", (3, 4)),
        WindowNoise(23, "a" * 64, 1).draw("posterior", (3, 4)),
        WindowNoise(23, "a" * 64, 0).draw("augmentation", (3, 4)),
    ]
    assert all(not np.array_equal(first, other) for other in others)
    many = WindowNoise(23, "a" * 64, 0).draw("augmentation", (100_000,))
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02
