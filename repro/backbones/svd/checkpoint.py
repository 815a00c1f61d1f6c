"""A published SVD checkpoint file: opening it, where each tensor is in it, and writing one with random weights.

Each `*_source` function maps the name of a module's tensor (diffusers, transformers) to its source in the file, so loading
part of a model needs no more than the names of that part. Layout of the file: Stability-AI/generative-models, as in
svd.safetensors and svd_xt.safetensors.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from repro.backbones.weights import Shapes, check_tensors
from repro.core.errors import MissingError, state_reason
from repro.core.reading import describe_absence

UNET = "model.diffusion_model."
LATENT_VAE = "first_stage_model."
CONDITION_VAE = "conditioner.embedders.3.encoder."
IMAGE_TOWER = "conditioner.embedders.0.open_clip.model.visual."

UNUSED = (
    # Features need neither decoders, nor what follows an encoder, nor the remains of the text tower.
    "first_stage_model.decoder.",
    "conditioner.embedders.3.encoder.decoder.",
    "conditioner.embedders.3.encoder.post_quant_conv.",
    "conditioner.embedders.0.open_clip.model.positional_embedding",
    "conditioner.embedders.0.open_clip.model.text_projection",
    "conditioner.embedders.0.open_clip.model.logit_scale",
    "conditioner.embedders.0.open_clip.model.token_embedding.",
    "conditioner.embedders.0.open_clip.model.ln_final.",
)
"""Prefixes of tensors that the published files contain and that are not read."""

_VERSION = 1
"""Raised when the same seed would give other weights; part of the file's metadata."""


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor of the file, and how to convert it to a module's tensor."""

    name: str
    third: int | None = None
    """Which third of its rows: query, key and value are stacked in the file."""
    transposed: bool = False
    """The file has this matrix transposed."""
    pointwise: bool = False
    """The file has this linear layer as a 1x1 convolution."""

    def shape_in_file(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in the file of a module's tensor of `shape`."""
        if self.third is not None:
            # Query, key and value one below the other.
            return (3 * shape[0], *shape[1:])
        if self.transposed:
            return shape[::-1]
        return (*shape, 1, 1) if self.pointwise else shape

    def convert(self, tensor: Any) -> Any:
        """Return the module's tensor; a pointwise one keeps its two trailing dimensions of 1."""
        if self.third is not None:
            tensor = tensor.chunk(3)[self.third].clone()
        return tensor.T.contiguous() if self.transposed else tensor


# sgm's resnets are nn.Sequentials, whose numbers also count layers without weights (SiLU, dropout):
# in_layers = norm, SiLU, conv; emb_layers = SiLU, linear; out_layers = norm, SiLU, dropout, conv.
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_source(name: str) -> TensorSource:
    """Return the source of a tensor of UNetSpatioTemporalConditionModel."""
    owner, leaf = name.rsplit(".", 1)
    if owner in _UNET_ENDS:
        return TensorSource(f"{UNET}{_UNET_ENDS[owner]}.{leaf}")
    match = re.fullmatch(
        r"(down_blocks|up_blocks)\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", name
    )
    if match:
        side, block, kind, slot, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        # input_blocks counts conv_in as 0, then per level two resnets (each with its attention) and a downsampler;
        # output_blocks counts three resnets per level, and has no block for an upsampler.
        if kind == "downsamplers":
            # sgm calls the convolution `op`.
            return TensorSource(f"{UNET}input_blocks.{3 * block + 3}.0.{rest.replace('conv', 'op', 1)}")
        if kind == "upsamplers":
            # After the resnet, and after the attention in blocks that have one (all but the first).
            return TensorSource(f"{UNET}output_blocks.{3 * block + 2}.{1 if block == 0 else 2}.{rest}")
        number = 3 * block + slot + (1 if side == "down_blocks" else 0)
        blocks = "input_blocks" if side == "down_blocks" else "output_blocks"
        return TensorSource(f"{UNET}{blocks}.{number}.{_unet_part(kind, rest)}")
    match = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name)
    if match:
        # Resnet, attention, resnet.
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return TensorSource(f"{UNET}middle_block.{place}.{_unet_part(match[1], match[3]).split('.', 1)[1]}")
    raise KeyError(name)


def _unet_part(kind: str, rest: str) -> str:
    """Return the name of a tensor within its block: resnets are part 0, attentions part 1."""
    if kind == "resnets":
        # The temporal resnet (time_stack) and the factor that mixes it in (time_mixer) are inside the spatial one.
        if rest.startswith("time_mixer."):
            return f"0.{rest}"
        branch, layer, leaf = rest.split(".")
        stack = "time_stack." if branch == "temporal_res_block" else ""
        return f"0.{stack}{_RESNET[layer]}.{leaf}"
    rest = rest.replace("temporal_transformer_blocks.", "time_stack.", 1)
    rest = rest.replace("time_pos_embed.linear_1", "time_pos_embed.0").replace(
        "time_pos_embed.linear_2", "time_pos_embed.2"
    )
    return f"1.{rest}"


# diffusers names the VAE's attention as in its transformers; its query, key and value are linear layers there, and 1x1
# convolutions in the file.
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_source(name: str, prefix: str) -> TensorSource:
    """Return the source of a tensor of AutoencoderKL's encoder; `prefix` says which of the two VAEs."""
    if name.startswith("quant_conv."):
        return TensorSource(prefix + name)
    inner = name.removeprefix("encoder.")
    match = re.fullmatch(r"down_blocks\.(\d)\.resnets\.(\d)\.(.+)", inner)
    if match:
        return TensorSource(
            f"{prefix}encoder.down.{match[1]}.block.{match[2]}.{match[3].replace('conv_shortcut', 'nin_shortcut')}"
        )
    match = re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.(.+)", inner)
    if match:
        return TensorSource(f"{prefix}encoder.down.{match[1]}.downsample.{match[2]}")
    # The middle is block_1, attn_1, block_2, counted from 1.
    match = re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", inner)
    if match:
        return TensorSource(f"{prefix}encoder.mid.block_{int(match[1]) + 1}.{match[2]}")
    match = re.fullmatch(r"mid_block\.attentions\.0\.(.+)\.(weight|bias)", inner)
    if match:
        layer = _VAE_ATTENTION[match[1]]
        return TensorSource(
            f"{prefix}encoder.mid.attn_1.{layer}.{match[2]}", pointwise=layer != "norm" and match[2] == "weight"
        )
    match = re.fullmatch(r"(conv_in|conv_out|conv_norm_out)\.(.+)", inner)
    if match:
        return TensorSource(f"{prefix}encoder.{match[1].replace('conv_norm_out', 'norm_out')}.{match[2]}")
    raise KeyError(name)


_TOWER_ENDS = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "pre_layrnorm.weight": "ln_pre.weight",  # transformers' spelling
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
BLOCK_OF_TOWER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def tower_source(name: str) -> TensorSource:
    """Return the source of a tensor of CLIPVisionModelWithProjection."""
    # open_clip multiplies by `proj` from the right; a linear layer of torch multiplies by its transpose.
    if name == "visual_projection.weight":
        return TensorSource(f"{IMAGE_TOWER}proj", transposed=True)
    inner = name.removeprefix("vision_model.")
    if inner in _TOWER_ENDS:
        return TensorSource(IMAGE_TOWER + _TOWER_ENDS[inner])
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", inner)
    if match:
        block, layer, leaf = f"{IMAGE_TOWER}transformer.resblocks.{match[1]}.", match[2], match[3]
        # open_clip's nn.MultiheadAttention packs query, key and value into one matrix; transformers has a layer for each.
        stacked = re.fullmatch(r"self_attn\.([qkv])_proj", layer)
        if stacked:
            return TensorSource(f"{block}attn.in_proj_{leaf}", third="qkv".index(stacked[1]))
        return TensorSource(f"{block}{BLOCK_OF_TOWER[layer]}.{leaf}")
    raise KeyError(name)


def open_checkpoint(path: Path, expected: Shapes) -> safe_open:
    """Open a file after checking its tensors: all expected ones, and no others but those listed in UNUSED.

    Args:
        path: The checkpoint.
        expected: Shapes of the tensors that features need, by name.

    Raises:
        MissingError: the file is missing or damaged, or tensors are missing, unknown or of another shape.
    """
    if not path.is_file():
        raise MissingError(f"checkpoint {path}: {describe_absence(path, 'file')}")
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise MissingError(
            f"checkpoint {path}: not a complete safetensors file ({state_reason(error)}): fetch it again and compare its sha256"
        ) from error
    # Shapes are in the header: none of SVD's 9 GB is loaded before all shapes are known to fit.
    found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
    check_tensors(f"checkpoint {path}", found, expected, UNUSED)
    return file


def write_random_checkpoint(path: Path, shapes: Shapes, seed: int) -> None:
    """Write tensors of the given names and shapes, generated from `seed`, to `path`."""
    weights = {name: _random_tensor(name, shape, seed) for name, shape in shapes.items()}
    # A single metadata entry: safetensors writes several in any order, and the file's bytes must not vary.
    save_file(weights, path, metadata={"drawn": f"from seed {seed}, version {_VERSION}"})


def _random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Float32[np.ndarray, "..."]:
    """Generate a tensor: scales near 1, biases near 0, all other weights of unit gain."""
    # Keyed by the tensor's name, so that it does not depend on which others are generated.
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    values = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
    # Unscaled: sigmoid(mix_factor) then gives spatial and temporal branches clearly different weights in every block.
    if name.endswith("mix_factor"):
        return values
    if name.endswith("bias"):
        return np.float32(0.05) * values
    if len(shape) == 1:
        return np.float32(1) + np.float32(0.1) * values
    # Divided by the square root of the number of inputs, so that outputs keep the scale of inputs.
    return values / np.float32(math.sqrt(math.prod(shape[1:])))
