"""VAE encoders rewritten: compiled they compute the same; precision fast changes features by rounding alone, and what overflows is
computed again; in published, the network that overflows is named."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repro.backbones.compilation import choose_compilation
from repro.backbones.config import Cell, Precision
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.noise import WindowNoise
from repro.backbones.precision import explain_precision
from repro.backbones.svd import implementations
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.extractor import open_extractor
from repro.backbones.svd.model import Request, SvdModel
from repro.backbones.svd.networks import Implementation, Needs, Networks
from repro.backbones.svd.vae import (
    Attention,
    Convolution,
    Resnet,
    attend_half,
    rewrite_encoder,
    write_out_norm,
)

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


def test_which_products_read_fp16(networks: Networks) -> None:
    half = rewrite_encoder(networks.latent_encoder, half=True, channels_last=False)
    converted = [
        name for name, module in half.named_modules() if isinstance(module, Convolution) and module.half_precision
    ]
    resnets = [name for name, module in half.named_modules() if isinstance(module, Resnet)]
    assert len(resnets) == 4 * 2 + 2
    assert len(converted) == 2 * len(resnets) + 1  # and conv_out
    assert [module.half_precision for module in half.modules() if isinstance(module, Attention)] == [True]
    kept = [
        name
        for name, module in half.named_modules()
        if isinstance(module, nn.Conv2d) or (isinstance(module, Convolution) and not module.half_precision)
    ]
    assert sum("downsampler" in name for name in kept) == 3
    assert sum(name.endswith("shortcut") for name in kept) == 2
    assert "conv_in" in kept
    assert len(kept) == 3 + 2 + 1


@pytest.mark.parametrize("implementation", ["diffusers", "sgm"])
@pytest.mark.slow
def test_compiled_networks_compute_the_same_in_few_programs(
    tiny: SvdConfig, tiny_checkpoint: Path, frames: np.ndarray, implementation: Implementation
) -> None:
    """Captured as on a GPU, and run operation by operation: inductor would take minutes on a CPU."""
    if implementation == "sgm" and (problem := implementations.explain_missing_sgm()):
        pytest.skip(problem)
    networks = implementations.load_networks(implementation, tiny_checkpoint, tiny.architecture, Needs(3))
    graphs: list[torch.fx.GraphModule] = []

    def capture(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    own = tiny.model_copy(update={"precision": "fp32", "frames": tiny.frames.model_copy(update={"window": 3})})
    requests = {"mixed": Request(True, frozenset({PLACE, (5, 3)})), "alone": Request(False, frozenset({(20, 2)}))}
    said: list[str] = []
    plain = SvdModel(own, networks, requests)
    compiled = SvdModel(own, networks, requests, batch=2, say=said.append, compiled=True, backend=capture)
    frames[2:] = 0
    expected, found = plain.compute_window(frames, 2, NOISE), compiled.compute_window(frames, 2, NOISE)
    for name, means in expected.items():
        assert list(found[name]) == list(means)
        for place, values in means.items():
            assert found[name][place].shape == values.shape
            # Norms add in another order.
            assert deviation(found[name][place], values) < 3e-5
    assert said == []
    # One of both encoders, which have the same structure, and the UNet with and without mixing.
    assert len(graphs) == 3
    # In no cycle of references: a GPU's memory is free when the model is dropped.
    dropped = weakref.ref(compiled), weakref.ref(compiled.vae.latent_encoder)
    del compiled
    assert [one() for one in dropped] == [None, None]


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
    assert Convolution(conv, half=True, channels_last=False)(x).item() == 31024.0


def test_half_attention_sums_in_fp32() -> None:
    """Scores beyond fp16, and a mean of 4096 equal values of 30.02, which fp16 sums could not hold."""
    queries = torch.full((1, 8, 16), 100.0).half()
    keys = torch.full((1, 4096, 16), 100.0).half()
    values = torch.full((1, 4096, 16), 30.02).half()
    found = attend_half(queries, keys, values)
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), values[:, :8].float(), rtol=1e-3)


def test_the_norm_that_is_compiled_is_torchs() -> None:
    generator = torch.Generator().manual_seed(4)
    norm = nn.GroupNorm(4, 16)
    norm.weight.data, norm.bias.data = torch.randn(16, generator=generator), torch.randn(16, generator=generator)
    x = torch.randn((3, 16, 6, 5), generator=generator).contiguous(memory_format=torch.channels_last)
    x[0] = 0.001 * x[0] + 30  # nearly constant, as a black frame
    x[1] += torch.arange(16)[:, None, None]  # channels of a group differ in their means
    with torch.no_grad():
        ours = write_out_norm(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
        exact = (norm.weight.double(), norm.bias.double())
        theirs = functional.group_norm(x.double(), 4, *exact, norm.eps)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(ours[1:].double(), theirs[1:], rtol=1e-5, atol=1e-5)
    # fp32 has 2e-6 at 30, a 500th of the deviation.
    assert torch.allclose(ours[0].double(), theirs[0], rtol=0, atol=4e-3)


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


class SgmAttention(nn.Module):
    """Attention with the names that sgm gives its parts, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        queries, keys, values = (part(normed).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        shares = (queries @ keys.transpose(1, 2) * queries.shape[2] ** -0.5).softmax(dim=2)
        out: Tensor = x + self.proj_out((shares @ values).transpose(1, 2).view_as(x))
        return out


class SgmEncoder(nn.Module):
    """Two blocks and an attention in the nesting of sgm's encoder."""

    def __init__(self) -> None:
        super().__init__()
        level = nn.Module()
        level.block = nn.ModuleList([SgmBlock(8, 16), SgmBlock(16, 16)])
        self.mid = nn.Module()
        self.mid.attn_1 = SgmAttention(16)
        self.conv_in, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.ModuleList([level])
        self.norm_out, self.conv_out = nn.GroupNorm(4, 16), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                x = block(x, None)
        x = self.mid.attn_1(x)
        out: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return out


@torch.no_grad()
def test_an_encoder_with_sgms_names_is_rewritten_too() -> None:
    torch.manual_seed(5)
    encoder, picture = SgmEncoder(), torch.rand(2, 3, 16, 24)
    expected = encoder(picture)
    half = rewrite_encoder(encoder, half=True, channels_last=False)
    assert sum(isinstance(module, Convolution) and module.half_precision for module in half.modules()) == 5
    assert sum(isinstance(module, Attention) for module in half.modules()) == 1
    assert 0 < deviation(half(picture), expected) < 2e-3
    assert not any(isinstance(module, Convolution) for module in encoder.modules())
    # The layout in which encoders are compiled.
    last = picture.contiguous(memory_format=torch.channels_last)
    for halved, most in ((True, 2e-3), (False, 1e-5)):
        found = rewrite_encoder(encoder, half=halved, channels_last=True)(last)
        assert 0 < deviation(found, expected) < most
        assert found.is_contiguous(memory_format=torch.channels_last)


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
        rewrite_encoder(nn.Linear(2, 2), half=True, channels_last=False)


def test_a_device_that_compiles_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert not choose_compilation(Execution("cuda", say=said.append), "fast")  # not asked for
    assert not choose_compilation(Execution("cuda", say=said.append, compile=True), "fp32")
    assert not choose_compilation(Execution("cuda", say=said.append, compile=True), "tf32")
    assert said == []
    assert not choose_compilation(Execution("cpu", say=said.append, compile=True), "fast")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("repro.core.workspace.shutil.which", lambda name: None)
    assert not choose_compilation(Execution("cuda", say=said.append, compile=True), "fast")
    assert "not compiled for a CPU" in said[0]
    assert "without a C compiler" in said[1]
