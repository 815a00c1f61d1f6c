"""The published layout maps onto the modules one to one, and what does not fit is refused by name."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from repro.backbones.registry import load_backbone
from repro.backbones.svd import checkpoint as names
from repro.backbones.svd import implementations, with_diffusers
from repro.backbones.svd.config import SVD_LAYERS, SvdConfig
from repro.backbones.svd.networks import Needs
from repro.core.errors import MissingError


def test_every_tensor_of_the_kit_is_accounted_for(reference: Path, tiny: SvdConfig) -> None:
    kit = {name: tuple(shape) for name, shape in json.loads((reference / "parity" / "keys.json").read_text()).items()}
    layout = with_diffusers.published_shapes(tiny.architecture)
    assert {name: kit[name] for name in layout} == layout
    unused = set(kit) - set(layout)
    assert len(unused) == 146
    assert all(name.startswith(names.UNUSED) for name in unused)


def test_the_published_size(tiny: SvdConfig) -> None:
    """1,525 M parameters in the UNet, 632 M in the image tower, as counted on the published file."""
    config = load_backbone("svd_xt")
    assert isinstance(config, SvdConfig)
    sizes: dict[str, int] = {}
    for name, shape in with_diffusers.published_shapes(config.architecture).items():
        part = next(
            p for p in (names.UNET, names.LATENT_VAE, names.CONDITION_VAE, names.IMAGE_TOWER) if name.startswith(p)
        )
        sizes[part] = sizes.get(part, 0) + torch.Size(shape).numel()
    assert sizes[names.UNET] == 1_524_623_082
    assert sizes[names.IMAGE_TOWER] == 632_076_800
    assert sizes[names.LATENT_VAE] == pytest.approx(34.2e6, rel=0.01)


def test_no_two_tensors_share_a_source(tiny: SvdConfig) -> None:
    sources = [names.unet_source(name) for name in with_diffusers.build_unet(tiny.architecture).state_dict()]
    assert len({s.name for s in sources}) == len(sources) == 1428
    towers = [names.tower_source(name) for name in with_diffusers.build_image_tower(tiny.architecture).state_dict()]
    assert len({(s.name, s.third) for s in towers}) == len(towers)


@pytest.mark.slow
def test_only_what_the_last_layer_needs_is_loaded(tiny: SvdConfig, tiny_checkpoint: Path) -> None:
    def count(unet: torch.nn.Module) -> int:
        return sum(p.numel() for p in unet.parameters())

    with torch.device("meta"):
        complete = with_diffusers.build_unet(tiny.architecture)
    sizes = []
    for last in range(1, SVD_LAYERS + 1):
        cut = copy.deepcopy(complete)
        with_diffusers.drop_later_layers(cut, last)
        sizes.append(count(cut))
    assert sizes == sorted(sizes)
    assert sizes[-1] < count(complete)
    loaded = implementations.load_networks("diffusers", tiny_checkpoint, tiny.architecture, Needs(5))
    assert count(loaded.unet) == sizes[4]  # type: ignore[attr-defined]


def test_the_published_model_up_to_layer_9() -> None:
    """384 M of the UNet's 1,525 M parameters, as counted on the published modules."""
    config = load_backbone("svd_xt")
    assert isinstance(config, SvdConfig)
    with torch.device("meta"):
        unet = with_diffusers.build_unet(config.architecture)
    with_diffusers.drop_later_layers(unet, 9)
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(384e6, abs=0.5e6)


@pytest.mark.parametrize("damage", ["missing", "unknown", "wrongly shaped", "cut off", "pickle", "absent", "empty"])
@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit(tiny: SvdConfig, tiny_checkpoint: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    weights = load_file(tiny_checkpoint)
    name = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "unknown":
        weights["model.diffusion_model.input_blocks.99.weight"] = torch.zeros(1)
    elif damage == "wrongly shaped":
        weights[name] = weights[name][:1].clone()
    if damage in ("missing", "unknown", "wrongly shaped"):
        save_file(weights, path)
    elif damage == "cut off":
        path.write_bytes(tiny_checkpoint.read_bytes()[:-1000])
    elif damage == "pickle":
        torch.save(weights[name], path)
    elif damage == "empty":
        path.write_bytes(b"")
    with pytest.raises(MissingError) as caught:
        implementations.load_networks("diffusers", path, tiny.architecture, Needs(9))
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    said = {
        "missing": name,
        "unknown": "input_blocks.99",
        "wrongly shaped": "expected [32, 32, 3, 3]",
        "absent": "no such file",
    }
    assert said.get(damage, "not a complete safetensors file") in text


@pytest.mark.slow
def test_leftovers_of_the_published_file_are_passed_over(
    tiny: SvdConfig, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    weights = load_file(tiny_checkpoint)
    weights["first_stage_model.decoder.conv_in.weight"] = torch.zeros(2)
    weights["conditioner.embedders.0.open_clip.model.logit_scale"] = torch.zeros(())
    save_file(weights, tmp_path / "with.safetensors")
    implementations.load_networks("diffusers", tmp_path / "with.safetensors", tiny.architecture, Needs(1))
