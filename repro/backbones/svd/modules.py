"""The modules of Stable Video Diffusion that features need, from diffusers and transformers, filled from a published file.

Only what the last layer asked for needs is kept: the UNet's blocks behind it, and their weights, are never loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNetSpatioTemporalConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from repro.backbones.config import SVD_LAYERS, SvdArchitecture
from repro.backbones.svd import names
from repro.backbones.svd.names import Source
from repro.errors import MissingError, UsageError

MULTIPLIERS = (1, 2, 4, 4)
"""Width of the four levels of the UNet and of the VAEs, in units of the first."""


@dataclass(frozen=True, slots=True)
class Block:
    """One layer: a convolution, or a resnet with or without attention, or the middle block's three."""

    parts: tuple[nn.Module, ...]


@dataclass(frozen=True, slots=True)
class SvdModules:
    unet: UNetSpatioTemporalConditionModel
    blocks: tuple[Block, ...]
    """Layers 1 to the last one asked for."""
    latent_vae: AutoencoderKL
    condition_vae: AutoencoderKL
    image_tower: CLIPVisionModelWithProjection


def load(path: Path, architecture: SvdArchitecture, last_layer: int) -> SvdModules:
    """Read `path`, a checkpoint in the published layout, for features up to `last_layer`; fp32, on the CPU, eval mode.

    Raises:
        MissingError: no such file, not a safetensors file, or tensors missing, unknown or of another shape.
        UsageError: there is no such layer.
    """
    if not 1 <= last_layer <= SVD_LAYERS:
        raise UsageError(f"layer {last_layer} does not exist: layers 1 to 12 are the input blocks, 13 the middle block")
    with torch.device("meta"):
        unet = _unet(architecture)
        latent_vae = _vae(architecture, quantised=False)
        condition_vae = _vae(architecture, quantised=True)
        image_tower = _image_tower(architecture)
    parts: list[tuple[nn.Module, Callable[[str], Source]]] = [
        (unet, names.unet_source),
        (latent_vae, lambda name: names.vae_source(name, names.LATENT_VAE)),
        (condition_vae, lambda name: names.vae_source(name, names.CONDITION_VAE)),
        (image_tower, names.tower_source),
    ]
    with _open(path) as file:
        _account_for(path, {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}, layout(architecture))  # noqa: SIM118
        blocks = _cut(unet, last_layer)
        for module, source in parts:
            _fill(module, source, file)
    # transformers computes this table when the module is made; on the meta device it stayed empty.
    embeddings = image_tower.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    for module, _ in parts:
        module.eval().requires_grad_(False)
    return SvdModules(unet, blocks, latent_vae, condition_vae, image_tower)


def layout(architecture: SvdArchitecture) -> dict[str, tuple[int, ...]]:
    """Every tensor of the whole model and its shape, as the published file has them (names.UNUSED apart)."""
    with torch.device("meta"):
        modules: list[tuple[nn.Module, Callable[[str], Source]]] = [
            (_unet(architecture), names.unet_source),
            (_vae(architecture, quantised=False), lambda name: names.vae_source(name, names.LATENT_VAE)),
            (_vae(architecture, quantised=True), lambda name: names.vae_source(name, names.CONDITION_VAE)),
            (_image_tower(architecture), names.tower_source),
        ]
    shapes = {}
    for module, source in modules:
        for name, tensor in module.state_dict().items():
            origin = source(name)
            shapes[origin.name] = origin.shape_in_file(tuple(tensor.shape))
    return shapes


def _unet(architecture: SvdArchitecture) -> UNetSpatioTemporalConditionModel:
    widths = tuple(architecture.unet.channels * m for m in MULTIPLIERS)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=widths,
        cross_attention_dim=architecture.unet.context_dim,
        num_attention_heads=tuple(width // architecture.unet.head_channels for width in widths),
    )
    # sgm's resnets have eps 1e-5 throughout; diffusers fixes 1e-6 in the blocks with attention.
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm) and "resnets" in name:
            module.eps = 1e-5
    return unet


def _vae(architecture: SvdArchitecture, quantised: bool) -> AutoencoderKL:
    """An encoder; the condition's has a `quant_conv` behind it, the latent's has none."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=tuple(architecture.vae_channels * m for m in MULTIPLIERS),
        layers_per_block=2,
        latent_channels=4,
        use_quant_conv=quantised,
        use_post_quant_conv=False,
    )
    del vae.decoder
    return vae


def _image_tower(architecture: SvdArchitecture) -> CLIPVisionModelWithProjection:
    tower = architecture.image_tower
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=tower.width,
            intermediate_size=4 * tower.width,
            num_hidden_layers=tower.layers,
            num_attention_heads=tower.heads,
            patch_size=tower.patch,
            image_size=tower.image,
            projection_dim=tower.embed_dim,
            hidden_act="gelu",  # open_clip's; transformers' default is an approximation of it
            layer_norm_eps=1e-5,
        )
    )


def _cut(unet: UNetSpatioTemporalConditionModel, last_layer: int) -> tuple[Block, ...]:
    """The layers up to `last_layer` in order; everything behind them is taken out of `unet`, the rest keeps its names."""
    blocks = [Block((unet.conv_in,))]
    for down in unet.down_blocks:
        wanted = max(0, min(len(down.resnets), last_layer - len(blocks)))
        attentions = getattr(down, "attentions", None)
        for slot in range(wanted):
            blocks.append(Block((down.resnets[slot], *([attentions[slot]] if attentions is not None else []))))
        down.resnets = down.resnets[:wanted]
        if attentions is not None:
            down.attentions = attentions[:wanted]
        if down.downsamplers is not None and len(blocks) < last_layer:
            blocks.append(Block((down.downsamplers[0],)))
        else:
            down.downsamplers = None
    if last_layer == SVD_LAYERS:
        blocks.append(Block((unet.mid_block.resnets[0], unet.mid_block.attentions[0], unet.mid_block.resnets[1])))
    else:
        unet.mid_block = None
    del unet.up_blocks, unet.conv_norm_out, unet.conv_out
    return tuple(blocks)


def _open(path: Path) -> safe_open:
    if not path.is_file():
        raise MissingError(f"checkpoint {path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise MissingError(
            f"checkpoint {path}: not a whole safetensors file ({error}): fetch it again and compare its sha256"
        ) from error


def _account_for(path: Path, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    """Every tensor of the file is one the model has, or one known to be of no use; and the other way round."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted and not name.startswith(names.UNUSED)]
    misshapen = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    for problem, culprits in (("missing", missing), ("unknown", unknown), ("wrongly shaped", misshapen)):
        if culprits:
            more = f" and {len(culprits) - 3} more" if len(culprits) > 3 else ""
            raise MissingError(
                f"checkpoint {path}: {len(culprits)} tensors {problem}: {', '.join(culprits[:3])}{more}: "
                "this is not the checkpoint the config describes"
            )


def _fill(module: nn.Module, source: Callable[[str], Source], file: safe_open) -> None:
    state = {}
    for name, target in module.state_dict().items():
        origin = source(name)
        tensor: Tensor = file.get_tensor(origin.name).float()  # type: ignore[no-untyped-call]
        if origin.third is not None:
            tensor = tensor.chunk(3)[origin.third].clone()
        if origin.transposed:
            tensor = tensor.T.contiguous()
        state[name] = tensor.reshape(target.shape)
    module.load_state_dict(state, strict=True, assign=True)
