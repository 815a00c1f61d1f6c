"""Stable Video Diffusion's networks from diffusers and transformers, filled from a published file.

diffusers' own forward takes one context per video and repeats it. Here every frame has its own, so the blocks are called one
after another.
"""

import repro.backbones.torchvision_operators  # noqa: F401  # before diffusers, which imports torchvision

# isort: split
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, UNetSpatioTemporalConditionModel
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from repro.backbones.svd import checkpoint, pictures
from repro.backbones.svd.checkpoint import TensorSource, open_checkpoint
from repro.backbones.svd.config import MULTIPLIERS, SVD_LAYERS, SvdArchitecture, layer_depth
from repro.backbones.svd.networks import Implementation, Needs
from repro.backbones.weights import Shapes

SourcedModule = tuple[nn.Module, Callable[[str], TensorSource]]
"""A module, and the function that gives each of its tensors' source in the file."""


class DiffusersNetworks:
    implementation: Implementation = "diffusers"

    def __init__(self, architecture: SvdArchitecture, needs: Needs) -> None:
        """Build modules on the meta device, without values; `fill` loads those."""
        self.architecture = architecture
        self.unet, self.latent_vae, self.condition_vae, self.image_tower = _build_modules(architecture)
        if not needs.complete:
            drop_later_layers(self.unet, layer_depth(needs.last_layer))
        if not needs.mixing:
            _drop_temporal_branches(self.unet)
        self._sources: list[SourcedModule] = [
            (self.unet, checkpoint.unet_source),
            (self.latent_vae, lambda name: checkpoint.vae_source(name, checkpoint.LATENT_VAE)),
        ]
        if needs.image:
            self._sources.append(
                (self.condition_vae, lambda name: checkpoint.vae_source(name, checkpoint.CONDITION_VAE))
            )
        if needs.tower:
            self._sources.append((self.image_tower, checkpoint.tower_source))
        self.latent_encoder: nn.Module = self.latent_vae.encoder
        self.condition_encoder: nn.Module | None = self.condition_vae.encoder if needs.image else None
        # eval and no gradients: frozen networks, whatever the caller does.
        self.parts: list[nn.Module] = [module.eval().requires_grad_(False) for module, _ in self._sources]

    def fill(self, path: Path) -> None:
        """Load every value from `path`.

        Raises:
            MissingError: the file is not a checkpoint of the architecture.
        """
        with open_checkpoint(path, published_shapes(self.architecture)) as file:
            for module, source in self._sources:
                _fill_module(module, source, file)
        # transformers computes this buffer when it builds the module, which on the meta device leaves it without values.
        embeddings = self.image_tower.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
        for part in self.parts:
            part.requires_grad_(False)

    def to(self, device: str) -> None:
        for module in self.parts:
            module.to(device)

    def image_embeds(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T D"]:
        embeds: Tensor = self.image_tower(
            pixel_values=pictures.to_image_tower_input(picture, self.architecture.image_tower.image)
        ).image_embeds
        return embeds

    def moments(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 8 h w"]:
        # The latent's VAE has no quant_conv: the encoder's output is the moments.
        moments: Tensor = self.latent_encoder(picture)
        return moments

    def condition_latent(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 4 h w"]:
        assert self.condition_encoder is not None
        moments: Tensor = self.condition_vae.quant_conv(self.condition_encoder(picture))
        # Channels 0 to 3 are the means, and the mode of a Gaussian is its mean (sgm's AutoencoderKLModeOnly).
        return moments[:, :4]

    def vector(self, numbers: Float[Tensor, " n"]) -> Float[Tensor, " V"]:
        sinusoids: Tensor = self.unet.add_time_proj(numbers)
        return sinusoids.reshape(-1)

    def embedding(self, c_noise: float, vector: Float[Tensor, "T V"]) -> Float[Tensor, "T E"]:
        time = torch.full((len(vector),), c_noise, device=vector.device)
        # Time and the three numbers are embedded apart and added, as in sgm (label_emb).
        emb: Tensor = self.unet.time_embedding(self.unet.time_proj(time)) + self.unet.add_embedding(vector)
        return emb

    def layers(
        self, x: Float[Tensor, "T 8 h w"], emb: Float[Tensor, "T E"], context: Float[Tensor, "T N D"], mixing: bool
    ) -> Iterator[Float[Tensor, "T C _ _"]]:
        # A block's output is alpha * spatial + (1 - alpha) * temporal (AlphaBlender, learned_with_images), where alpha is
        # sigmoid(mix_factor) for frames of a video (indicator 0) and 1 for single images (indicator 1).
        indicator = torch.zeros(1, len(x), device=x.device)
        passed: list[Tensor] = []
        for layer, parts in enumerate(_iterate_layers(self.unet), start=1):
            if layer > SVD_LAYERS:
                # Skip connection: each output block takes the output of one input block, the last one first.
                x = torch.cat([x, passed.pop()], dim=1)
            for part in parts:
                x = _run_part(part, x, emb, context, indicator) if mixing else _run_spatial(part, x, emb, context)
            # Only the decoder reads them; without one, each output is freed once its mean is taken.
            if layer < SVD_LAYERS and len(self.unet.up_blocks):
                passed.append(x)
            yield x

    def published_forward(
        self, x: Float[Tensor, "T2 8 h w"], c_noise: float, context: Float[Tensor, "T2 N D"],
        vector: Float[Tensor, "T2 V"], frames: int, mixing: bool,
    ) -> list[Float[Tensor, "T2 C _ _"]]:  # fmt: skip
        unet, emb = self.unet, self.embedding(c_noise, vector)
        # An indicator of 1 gives every temporal branch weight 0: bit for bit the same as a fixed mix factor of 1, by which
        # the release turns its "SDv2" from SVD (docs/deviations.md 4).
        indicator = torch.full((len(x) // frames, frames), 0.0 if mixing else 1.0, device=x.device)
        outputs: list[Tensor] = [unet.conv_in(x)]
        x = outputs[0]
        for down in unet.down_blocks:
            context_of_block = {"encoder_hidden_states": context} if hasattr(down, "attentions") else {}
            x, passed = down(x, temb=emb, image_only_indicator=indicator, **context_of_block)
            outputs += passed
        x = unet.mid_block(x, temb=emb, encoder_hidden_states=context, image_only_indicator=indicator)
        features = [*outputs, x]
        # An up block computes three layers in one call; hooks on each layer's last module give their outputs.
        ends = [parts[-1] for parts in _iterate_up_layers(unet)]
        # A hook sees a module's output as the model's own forward computes it, so that the plain path calls nothing
        # in another way.
        hooks = [end.register_forward_hook(lambda _, __, out: features.append(_first_output(out))) for end in ends]
        try:
            for up in unet.up_blocks:
                taken = tuple(outputs[-len(up.resnets) :])
                del outputs[-len(up.resnets) :]
                context_of_block = {"encoder_hidden_states": context} if hasattr(up, "attentions") else {}
                x = up(x, temb=emb, res_hidden_states_tuple=taken, image_only_indicator=indicator, **context_of_block)
            # The output is dropped, but the release computes it, and benchmarks count it.
            unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        finally:
            for hook in hooks:
                hook.remove()
        return features


@functools.cache
def published_shapes(architecture: SvdArchitecture) -> Shapes:
    """Return name and shape of every tensor of the complete model, as in the published file, without checkpoint.UNUSED."""
    unet, latent_vae, condition_vae, image_tower = _build_modules(architecture)
    parts: list[SourcedModule] = [
        (unet, checkpoint.unet_source),
        (latent_vae, lambda name: checkpoint.vae_source(name, checkpoint.LATENT_VAE)),
        (condition_vae, lambda name: checkpoint.vae_source(name, checkpoint.CONDITION_VAE)),
        (image_tower, checkpoint.tower_source),
    ]
    shapes: dict[str, tuple[int, ...]] = {}
    for module, source in parts:
        for name, tensor in module.state_dict().items():
            origin = source(name)
            shapes[origin.name] = origin.shape_in_file(tuple(tensor.shape))
    return MappingProxyType(shapes)


def _build_modules(
    architecture: SvdArchitecture,
) -> tuple[UNetSpatioTemporalConditionModel, AutoencoderKL, AutoencoderKL, CLIPVisionModelWithProjection]:
    """Build UNet, VAE of the latent, VAE of the condition and image tower on the meta device."""
    with torch.device("meta"):
        return (
            build_unet(architecture),
            _build_vae(architecture, quantised=False),
            _build_vae(architecture, quantised=True),
            build_image_tower(architecture),
        )


def build_unet(architecture: SvdArchitecture) -> UNetSpatioTemporalConditionModel:
    widths = tuple(architecture.unet.channels * m for m in MULTIPLIERS)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=widths,
        cross_attention_dim=architecture.unet.context_dim,
        # diffusers takes the number of heads, the published config the channels of one.
        num_attention_heads=tuple(width // architecture.unet.head_channels for width in widths),
    )
    # sgm's resnets use eps 1e-5 everywhere, diffusers 1e-6 in blocks with attention.
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm) and "resnets" in name:
            module.eps = 1e-5
    return unet


def _build_vae(architecture: SvdArchitecture, quantised: bool) -> AutoencoderKL:
    """Build an encoder. The condition's ends in a `quant_conv`, the latent's has none."""
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


def build_image_tower(architecture: SvdArchitecture) -> CLIPVisionModelWithProjection:
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
            hidden_act="gelu",  # the exact one, as in open_clip; transformers' default approximates it
            layer_norm_eps=1e-5,
        )
    )


def _iterate_layers(unet: UNetSpatioTemporalConditionModel) -> Iterator[tuple[nn.Module, ...]]:
    """Yield the modules of each layer that is loaded, in order."""
    yield (unet.conv_in,)
    for down in unet.down_blocks:
        attentions = getattr(down, "attentions", None)
        for slot, resnet in enumerate(down.resnets):
            yield (resnet, attentions[slot]) if attentions is not None else (resnet,)
        if down.downsamplers is not None:
            yield (down.downsamplers[0],)
    if unet.mid_block is not None:
        yield (unet.mid_block.resnets[0], unet.mid_block.attentions[0], unet.mid_block.resnets[1])
    yield from _iterate_up_layers(unet)


def _iterate_up_layers(unet: UNetSpatioTemporalConditionModel) -> Iterator[tuple[nn.Module, ...]]:
    """Yield the modules of each layer of the decoder. An upsampler belongs to the third layer of its level."""
    for up in unet.up_blocks:
        attentions = getattr(up, "attentions", None)
        for slot, resnet in enumerate(up.resnets):
            sampler = (up.upsamplers[0],) if slot == 2 and up.upsamplers is not None else ()
            yield (resnet, *((attentions[slot],) if attentions is not None else ()), *sampler)


def _first_output(output: Tensor | tuple[Tensor]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def drop_later_layers(unet: UNetSpatioTemporalConditionModel, last_layer: int) -> None:
    """Drop all modules after `last_layer`; 14 is the decoder's first layer."""
    kept = 1  # conv_in is layer 1
    for down in unet.down_blocks:
        wanted = max(0, min(len(down.resnets), last_layer - kept))
        down.resnets = down.resnets[:wanted]
        if getattr(down, "attentions", None) is not None:
            down.attentions = down.attentions[:wanted]
        kept += wanted
        # A downsampler is a layer too, after the resnets of its level.
        if down.downsamplers is not None and kept < last_layer:
            kept += 1
        else:
            down.downsamplers = None
    if last_layer < SVD_LAYERS:
        unet.mid_block = None
    ups = max(0, last_layer - SVD_LAYERS)
    unet.up_blocks = unet.up_blocks[: -(-ups // 3)]  # three layers per block, rounded up
    # A level that is cut loses its upsampler, which belongs to its third layer.
    if ups % 3:
        last = unet.up_blocks[-1]
        last.resnets, last.upsamplers = last.resnets[: ups % 3], None
        if getattr(last, "attentions", None) is not None:
            last.attentions = last.attentions[: ups % 3]
    del unet.conv_norm_out, unet.conv_out


def _drop_temporal_branches(unet: UNetSpatioTemporalConditionModel) -> None:
    for module in unet.modules():
        kind = type(module).__name__
        if kind == "SpatioTemporalResBlock":
            del module.temporal_res_block, module.time_mixer
        elif kind == "TransformerSpatioTemporalModel":
            del module.temporal_transformer_blocks, module.time_pos_embed, module.time_mixer


def _run_part(part: Any, x: Tensor, emb: Tensor, context: Tensor, indicator: Tensor) -> Tensor:
    kind = type(part).__name__
    if kind == "SpatioTemporalResBlock":
        out: Tensor = part(x, emb, image_only_indicator=indicator)
    elif kind == "TransformerSpatioTemporalModel":
        out = part(x, encoder_hidden_states=context, image_only_indicator=indicator, return_dict=False)[0]
    else:
        out = part(x)
    return out


def _run_spatial(part: Any, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
    """Compute only the spatial branch of a module, which is all of it if the temporal branch has weight 0."""
    kind = type(part).__name__
    if kind == "SpatioTemporalResBlock":
        out: Tensor = part.spatial_res_block(x, emb)
    elif kind == "TransformerSpatioTemporalModel":
        frames, channels, height, width = x.shape
        # As TransformerSpatioTemporalModel.forward, without its temporal blocks: pixels become tokens, and the input is
        # added to the result.
        tokens = part.proj_in(part.norm(x).permute(0, 2, 3, 1).reshape(frames, height * width, channels))
        for block in part.transformer_blocks:
            tokens = block(tokens, encoder_hidden_states=context)
        out = part.proj_out(tokens).reshape(frames, height, width, channels).permute(0, 3, 1, 2).contiguous() + x
    else:
        out = part(x)
    return out


def _fill_module(module: nn.Module, source: Callable[[str], TensorSource], file: safe_open) -> None:
    state = {}
    for name, target in module.state_dict().items():
        origin = source(name)
        tensor: Tensor = file.get_tensor(origin.name).float()  # type: ignore[no-untyped-call]
        # reshape drops the two trailing dimensions of 1 of a pointwise convolution.
        state[name] = origin.convert(tensor).reshape(target.shape)
    # assign: the module's tensors are on the meta device and have no memory to copy to.
    module.load_state_dict(state, strict=True, assign=True)
