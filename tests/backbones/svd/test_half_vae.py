"""Precision fast: the VAE's convolutions in fp16 change features by rounding alone, and what overflows is computed again;
in published, the network that overflows is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repro.backbones.config import Cell, Precision
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.noise import WindowNoise
from repro.backbones.precision import explain_precision
from repro.backbones.svd import half_vae, implementations
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.extractor import open_extractor
from repro.backbones.svd.half_vae import (
    HalfConvolution,
    HalfResnet,
    NormSilu,
    explain_eager_norm,
    make_half_encoder,
    write_out_norm_silu,
)
from repro.backbones.svd.model import Request, SvdModel
from repro.backbones.svd.networks import Needs, Networks

NOISE = WindowNoise(23, "0" * 64, 0)
PLACE = (20, 3)


@pytest.fixture
def networks(tiny: SvdConfig, tiny_checkpoint: Path) -> Networks:
    """Loaded for each test: tests change weights."""
    return implementations.load_networks("diffusers", tiny_checkpoint, tiny.architecture, Needs(3))


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)


def model(config: SvdConfig, networks: Networks, precision: str) -> SvdModel:
    own = config.model_copy(update={"precision": precision})
    return SvdModel(own, networks, {"": Request(True, frozenset({PLACE}))})


def compute(found: SvdModel, frames: np.ndarray) -> Tensor:
    return found.compute_window(frames, len(frames), NOISE)[""][PLACE]


def deviation(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_fast_differs_from_published_by_rounding_alone(tiny: SvdConfig, networks: Networks, frames: np.ndarray) -> None:
    published, fast = (model(tiny, networks, precision) for precision in ("published", "fast"))
    before, found = compute(published, frames), compute(fast, frames)
    assert 0 < deviation(found, before) < 3e-3
    assert fast.recomputed_frames == 0
    # The networks that fast was made of still compute as published, and their other weights are the same tensors.
    assert torch.equal(compute(published, frames), before)
    shared = {id(parameter) for parameter in networks.latent_encoder.parameters()}
    own = list(fast.vae.latent_encoder.parameters())
    assert own
    assert all(id(parameter) in shared for parameter in own)


def test_which_convolutions_read_fp16(networks: Networks) -> None:
    half = make_half_encoder(networks.latent_encoder, fused=False)
    converted = [name for name, module in half.named_modules() if isinstance(module, HalfConvolution)]
    resnets = [name for name, module in half.named_modules() if isinstance(module, HalfResnet)]
    assert len(resnets) == 4 * 2 + 2
    assert len(converted) == 2 * len(resnets) + 1  # and conv_out
    kept = [name for name, module in half.named_modules() if isinstance(module, nn.Conv2d)]
    assert sum("downsampler" in name for name in kept) == 3
    assert sum(name.endswith("shortcut") for name in kept) == 2
    assert "conv_in" in kept
    assert len(kept) == 3 + 2 + 1


def test_frames_that_overflow_are_computed_again_as_published_and_counted(
    tiny: SvdConfig, networks: Networks, frames: np.ndarray
) -> None:
    norm: Any = networks.latent_encoder.mid_block.resnets[0].norm1  # type: ignore[union-attr,index]
    norm.weight.data *= 1e6  # what the convolution after it reads is beyond 65504
    published, fast = (model(tiny, networks, precision) for precision in ("published", "fast"))
    expected = compute(published, frames)
    assert expected.isfinite().all()
    with torch.inference_mode():
        moments = fast.vae.moments(torch.rand(1, 3, 64, 128))
    assert not moments.isfinite().all()
    found = compute(fast, frames)
    assert fast.recomputed_frames == len(frames)  # of the latent; the condition's encoder does not overflow
    assert deviation(found, expected) < 3e-3


def test_only_the_frames_that_overflow_are_computed_again(
    tiny: SvdConfig, networks: Networks, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = model(tiny, networks, "fast")
    expected = compute(fast, frames)
    moments, again = fast.vae.moments, []

    def overflow_in_the_second(picture: Tensor) -> Tensor:
        found: Tensor = moments(picture)
        found[1, 5] = torch.inf
        return found

    def count(picture: Tensor) -> Tensor:
        again.append(len(picture))
        return moments(picture)

    monkeypatch.setattr(fast.vae, "moments", overflow_in_the_second)
    monkeypatch.setattr(networks, "moments", count)
    # A frame alone is summed in another order than among others.
    assert deviation(compute(fast, frames), expected) < 1e-3
    assert (again, fast.recomputed_frames) == ([1], 1)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("image_tower.visual_projection", "the image tower"),
        ("unet.conv_in", "the UNet, at layer 3 of timestep 20 or before"),
    ],
)
def test_a_network_that_overflows_in_fp16_is_named(
    tiny: SvdConfig, networks: Networks, frames: np.ndarray, part: str, said: str
) -> None:
    network, name = part.split(".")
    getattr(getattr(networks, network), name).weight.data *= 1e7
    exact, published = (model(tiny, networks, precision) for precision in ("fp32", "published"))
    assert compute(exact, frames).isfinite().all()
    assert exact.explain_nonfinite(frames, len(frames), NOISE) == ""
    assert not compute(published, frames).isfinite().all()
    assert published.explain_nonfinite(frames, len(frames), NOISE) == said


def test_a_half_convolution_adds_in_fp32() -> None:
    """Beyond 2048 fp16 has no odd numbers: a sum of ones that starts at 30000 would never grow."""
    conv = nn.Conv2d(1024, 1, 1, bias=False)
    conv.weight.data.fill_(1.0)
    x = torch.ones(1, 1024, 1, 1)
    x[0, 0] = 30000.0
    assert HalfConvolution(conv, channels_last=False)(x).item() == 31024.0


def test_the_norm_that_is_compiled_is_torchs() -> None:
    generator = torch.Generator().manual_seed(4)
    norm = nn.GroupNorm(4, 16)
    norm.weight.data, norm.bias.data = torch.randn(16, generator=generator), torch.randn(16, generator=generator)
    x = torch.randn((2, 16, 6, 5), generator=generator).contiguous(memory_format=torch.channels_last)
    x[1] = 0.001 * x[1] + 30  # nearly constant, as a black frame
    with torch.no_grad():
        ours = write_out_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
        exact = (norm.weight.double(), norm.bias.double())
        theirs = functional.silu(functional.group_norm(x.double(), 4, *exact, norm.eps))
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(ours.double(), theirs, rtol=4e-3, atol=4e-3)


class SgmBlock(nn.Module):
    """A resnet with the names that sgm gives its parts; its shortcut exists only where the width changes."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, narrow), nn.Conv2d(narrow, wide, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, wide), nn.Conv2d(wide, wide, 3, padding=1)
        if narrow != wide:
            self.nin_shortcut = nn.Conv2d(narrow, wide, 1)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        hidden = self.conv2(functional.silu(self.norm2(self.conv1(functional.silu(self.norm1(x))))))
        kept: Tensor = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return kept + hidden


class SgmEncoder(nn.Module):
    """Two blocks in the nesting of sgm's encoder."""

    def __init__(self) -> None:
        super().__init__()
        level = nn.Module()
        level.block = nn.ModuleList([SgmBlock(8, 16), SgmBlock(16, 16)])
        self.conv_in, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.ModuleList([level])
        self.norm_out, self.conv_out = nn.GroupNorm(4, 16), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                x = block(x, None)
        out: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return out


@torch.no_grad()
def test_an_encoder_with_sgms_names_is_converted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    encoder, picture = SgmEncoder(), torch.rand(2, 3, 16, 24)
    half = make_half_encoder(encoder, fused=False)
    assert sum(isinstance(module, HalfConvolution) for module in half.modules()) == 5
    expected = encoder(picture)
    assert 0 < deviation(half(picture), expected) < 2e-3
    assert not any(isinstance(module, HalfConvolution) for module in encoder.modules())
    # The layout of a GPU with a compiled norm, with the norm computed operation by operation.
    operations: NormSilu = lambda x, norm: write_out_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps)  # noqa: E731
    monkeypatch.setattr(half_vae, "compile_norm_silu", lambda: operations)
    fused = make_half_encoder(encoder, fused=True)
    assert 0 < deviation(fused(picture), expected) < 2e-3
    assert fused(picture).is_contiguous()


@pytest.mark.parametrize("name", ["fp32", "published", "fast"])
def test_opening_says_what_the_device_computes_otherwise(
    tiny: SvdConfig, tiny_checkpoint: Path, name: Precision
) -> None:
    said: list[str] = []
    config = tiny.model_copy(update={"precision": name})
    backbone = Backbone(config, tiny_checkpoint, "sha", "diffusers")
    open_extractor([(backbone, [Cell(timestep=20, layer=1)])], Execution(say=said.append))
    assert said == [note for note in [explain_precision(name, "cpu")] if note]


def test_an_encoder_of_another_structure_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear: no resnets of two convolutions"):
        make_half_encoder(nn.Linear(2, 2), fused=False)


def test_a_device_that_compiles_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain_eager_norm(torch.device("cpu"))
    monkeypatch.setattr("repro.backbones.svd.half_vae.shutil.which", lambda name: None)
    assert "needs a C compiler" in explain_eager_norm(torch.device("cuda"))
