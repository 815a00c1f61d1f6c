"""Stable Video Diffusion's networks from the published modules: sgm, of the release's fork or Stability-AI/generative-models.

Only UNet, VAE encoders and image tower are built, on the meta device, then filled from the file: nothing is downloaded, and
attention is torch's own (no xformers). Only implementations.py imports this module, and only to use sgm: it keeps sgm silent.
"""

import repro.backbones.torchvision_operators  # noqa: F401  # before open_clip, which imports torchvision

# isort: split
import json
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import open_clip
import sgm.modules.attention
import torch
from jaxtyping import Float
from safetensors import safe_open
from sgm.modules.attention import SpatialTransformer
from sgm.modules.diffusionmodules.model import Encoder
from sgm.modules.diffusionmodules.openaimodel import ResBlock
from sgm.modules.diffusionmodules.util import timestep_embedding
from sgm.modules.diffusionmodules.video_model import VideoUNet
from sgm.modules.encoders.modules import FrozenOpenCLIPImageEmbedder
from torch import Tensor, nn

from repro.backbones.svd import checkpoint, pictures
from repro.backbones.svd.checkpoint import open_checkpoint
from repro.backbones.svd.config import EMBEDDED, MULTIPLIERS, SVD_LAYERS, SvdArchitecture, layer_depth
from repro.backbones.svd.networks import Implementation, Needs
from repro.backbones.svd.with_diffusers import published_shapes

ARCHITECTURE_NAME = "actiondiff-image-tower"
"""Name under which the image tower's architecture is registered with open_clip."""


def _allow_all_kernels(**kernels: bool) -> AbstractContextManager[None]:
    """Replace torch.backends.cuda.sdp_kernel, within which sgm computes attention.

    With the arguments of _build_video_unet, sgm would allow every kernel of torch, which is torch's default. torch.compile cannot
    capture sdp_kernel, which is deprecated: the UNet up to layer 9 would be 63 programs.
    """
    return nullcontext()


sgm.modules.attention.sdp_kernel = _allow_all_kernels
# einops parses its patterns, which torch.compile would follow step by step: three quarters of the time of capturing the UNet. The
# program is the same.
torch.compiler.allow_in_graph([sgm.modules.attention.rearrange, sgm.modules.attention.repeat])  # type: ignore[no-untyped-call]


class SgmNetworks:
    implementation: Implementation = "sgm"

    def __init__(self, path: Path, architecture: SvdArchitecture, needs: Needs) -> None:
        self.needs = needs
        with open_checkpoint(path, published_shapes(architecture)) as file:
            with torch.device("meta"):
                self.unet = _build_video_unet(architecture)
                self.latent_encoder: nn.Module = _build_encoder(architecture)
            self.condition_encoder: nn.Module | None = None
            if not needs.complete:
                _keep_first_layers(self.unet, layer_depth(needs.last_layer))
            if not needs.mixing:
                _drop_time_stacks(self.unet)
            _fill_from_prefix(self.unet, checkpoint.UNET, file)
            _fill_from_prefix(self.latent_encoder, checkpoint.LATENT_VAE + "encoder.", file)
            self.parts: list[nn.Module] = [self.unet, self.latent_encoder]
            if needs.image:
                with torch.device("meta"):
                    encoder, self.quantise = _build_encoder(architecture), nn.Conv2d(8, 8, 1)
                _fill_from_prefix(encoder, checkpoint.CONDITION_VAE + "encoder.", file)
                _fill_from_prefix(self.quantise, checkpoint.CONDITION_VAE + "quant_conv.", file)
                self.condition_encoder = encoder
                self.parts += [encoder, self.quantise]
            if needs.tower:
                self.image_tower = _build_open_clip_tower(architecture)
                _fill_from_prefix(self.image_tower.model.visual, checkpoint.IMAGE_TOWER, file)
                self.parts.append(self.image_tower)
        for part in self.parts:
            part.eval().requires_grad_(False)

    def to(self, device: str) -> None:
        for part in self.parts:
            part.to(device)

    def image_embeds(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T D"]:
        # Not the embedder's own `forward`: it would turn autocast on, whatever the requested precision.
        embeds: Tensor = self.image_tower.encode_with_vision_transformer(picture)
        return embeds

    def moments(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 8 h w"]:
        moments: Tensor = self.latent_encoder(picture)
        return moments

    def condition_latent(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 4 h w"]:
        assert self.condition_encoder is not None
        moments: Tensor = self.quantise(self.condition_encoder(picture))
        # Channels 0 to 3 are the means, and the mode of a Gaussian is its mean (sgm's AutoencoderKLModeOnly).
        return moments[:, :4]

    def vector(self, numbers: Float[Tensor, " n"]) -> Float[Tensor, " V"]:
        sinusoids: Tensor = timestep_embedding(numbers, EMBEDDED)
        return sinusoids.reshape(-1)

    def embedding(self, c_noise: float, vector: Float[Tensor, "T V"]) -> Float[Tensor, "T E"]:
        time = torch.full((len(vector),), c_noise, device=vector.device)
        sinusoids = timestep_embedding(time, self.unet.model_channels)
        emb: Tensor = self.unet.time_embed(sinusoids) + self.unet.label_emb(vector)
        return emb

    def layers(
        self, x: Float[Tensor, "T 8 h w"], emb: Float[Tensor, "T E"], context: Float[Tensor, "T N D"], mixing: bool
    ) -> Iterator[Float[Tensor, "T C _ _"]]:
        # A block's output is alpha * spatial + (1 - alpha) * temporal (AlphaBlender, learned_with_images), where alpha is
        # sigmoid(mix_factor) for frames of a video (indicator 0) and 1 for single images (indicator 1).
        indicator = torch.zeros(1, len(x), device=x.device)
        unet = self.unet
        middle = [unet.middle_block] if unet.middle_block is not None else []
        passed: list[Tensor] = []
        for layer, block in enumerate([*unet.input_blocks, *middle, *unet.output_blocks], start=1):
            if layer > SVD_LAYERS:
                # Skip connection: each output block takes the output of one input block, the last one first.
                x = torch.cat([x, passed.pop()], dim=1)
            if mixing:
                x = block(x, emb, context=context, image_only_indicator=indicator, num_video_frames=len(x))
            else:
                for part in block:
                    x = _run_image_branch(part, x, emb, context)
            # Only the decoder reads them; without one, each output is freed once its mean is taken.
            if layer < SVD_LAYERS and len(unet.output_blocks):
                passed.append(x)
            yield x

    def published_forward(
        self, x: Float[Tensor, "T2 8 h w"], c_noise: float, context: Float[Tensor, "T2 N D"],
        vector: Float[Tensor, "T2 V"], frames: int, mixing: bool,
    ) -> list[Float[Tensor, "T2 C _ _"]]:  # fmt: skip
        features: list[Tensor] = []
        blocks = [*self.unet.input_blocks, self.unet.middle_block, *self.unet.output_blocks]
        # As in with_diffusers.py: the published forward computes, and hooks only look.
        hooks = [block.register_forward_hook(lambda _, __, output: features.append(output)) for block in blocks]
        # An indicator of 1 gives every temporal branch weight 0: bit for bit the same as a fixed mix factor of 1.
        indicator = torch.full((len(x) // frames, frames), 0.0 if mixing else 1.0, device=x.device)
        time = torch.full((len(x),), c_noise, device=x.device)
        try:
            self.unet(x, time, context=context, y=vector, num_video_frames=frames, image_only_indicator=indicator)
        finally:
            for hook in hooks:
                hook.remove()
        return features


def _build_video_unet(architecture: SvdArchitecture) -> Any:
    """Arguments are those of the published configuration, except that attention is torch's own."""
    return VideoUNet(
        in_channels=8,
        out_channels=4,
        model_channels=architecture.unet.channels,
        num_head_channels=architecture.unet.head_channels,
        context_dim=architecture.unet.context_dim,
        adm_in_channels=3 * EMBEDDED,  # fps id, motion bucket id, noise augmentation
        channel_mult=list(MULTIPLIERS),
        num_res_blocks=2,
        attention_resolutions=[4, 2, 1],
        transformer_depth=1,
        num_classes="sequential",
        use_linear_in_transformer=True,
        extra_ff_mix_layer=True,
        use_spatial_context=True,
        merge_strategy="learned_with_images",
        video_kernel_size=[3, 1, 1],
        spatial_transformer_attn_type="softmax",  # the published config has softmax-xformers
    )


def _build_encoder(architecture: SvdArchitecture) -> nn.Module:
    encoder: nn.Module = Encoder(
        ch=architecture.vae_channels,
        ch_mult=list(MULTIPLIERS),
        num_res_blocks=2,
        attn_resolutions=[],
        in_channels=3,
        out_ch=3,
        z_channels=4,
        double_z=True,
        resolution=256,
        attn_type="vanilla",
    )
    return encoder


def _build_open_clip_tower(architecture: SvdArchitecture) -> Any:
    """Build sgm's embedder around an open_clip model of the architecture; its text side is minimal and then dropped."""
    tower = architecture.image_tower
    described = {
        "embed_dim": tower.embed_dim,
        "vision_cfg": {
            "image_size": tower.image,
            "patch_size": tower.patch,
            "width": tower.width,
            "layers": tower.layers,
            "head_width": tower.width // tower.heads,
        },
        "text_cfg": {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1},
    }
    # open_clip reads architectures from files only.
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / f"{ARCHITECTURE_NAME}.json"
        config.write_text(json.dumps(described))
        open_clip.add_model_config(config)
    with torch.device("meta"):
        embedder = FrozenOpenCLIPImageEmbedder(arch=ARCHITECTURE_NAME, version=None, init_device="meta", device="cpu")
    # Built on the meta device, these buffers have no values, and the file does not contain them.
    for buffer, values in (("mean", pictures.CLIP_MEAN), ("std", pictures.CLIP_STD)):
        embedder.register_buffer(buffer, torch.tensor(values), persistent=False)
    # Keep only the image tower: the text side's tensors are in the same model, and have no values.
    visual = embedder.model.visual
    embedder.model = nn.Module()
    embedder.model.visual = visual
    return embedder


def _keep_first_layers(unet: Any, layers: int) -> None:
    """Keep the first `layers` layers."""
    unet.input_blocks = unet.input_blocks[:layers]
    if layers < SVD_LAYERS:
        unet.middle_block = None
    unet.output_blocks = unet.output_blocks[: max(0, layers - SVD_LAYERS)]
    del unet.out


def _drop_time_stacks(unet: Any) -> None:
    for module in unet.modules():
        kind = type(module).__name__
        if kind == "VideoResBlock":
            del module.time_stack, module.time_mixer
        elif kind == "SpatialVideoTransformer":
            del module.time_stack, module.time_pos_embed, module.time_mixer


def _run_image_branch(part: Any, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
    """Compute only the spatial branch of a module, which is all of it if the temporal branch has weight 0."""
    # The video modules extend the image ones, whose forward is the spatial branch.
    kind = type(part).__name__
    if kind == "VideoResBlock":
        out: Tensor = ResBlock.forward(part, x, emb)
    elif kind == "SpatialVideoTransformer":
        out = SpatialTransformer.forward(part, x, context)
    else:
        out = part(x)
    return out


def _fill_from_prefix(module: nn.Module, prefix: str, file: safe_open) -> None:
    state = {}
    for name in module.state_dict():
        tensor: Tensor = file.get_tensor(prefix + name)  # type: ignore[no-untyped-call]
        state[name] = tensor.float()
    module.load_state_dict(state, strict=True, assign=True)
