"""The encoder of VideoMAEv2, built of transformers' VideoMAE modules."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import VideoMAEConfig, VideoMAEModel

from repro.backbones.vit.config import EncoderSizes
from repro.backbones.vit.encoder import BlockFunction

EPS = 1e-6
"""Of every LayerNorm (VideoMAEv2: models/modeling_pretrain.py and modeling_finetune.py)."""

_NAMES = {
    "attn.proj.weight": "attention.output.dense.weight",
    "attn.proj.bias": "attention.output.dense.bias",
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    "mlp.fc1.weight": "intermediate.dense.weight",
    "mlp.fc1.bias": "intermediate.dense.bias",
    "mlp.fc2.weight": "output.dense.weight",
    "mlp.fc2.bias": "output.dense.bias",
    "norm1.weight": "layernorm_before.weight",
    "norm1.bias": "layernorm_before.bias",
    "norm2.weight": "layernorm_after.weight",
    "norm2.bias": "layernorm_after.bias",
}
"""Names of a block's tensors in the published file, and in transformers."""


class Videomaev2Encoder:
    """A pre-trained encoder, which ends in `norm`, or a fine-tuned one, which has `fc_norm` instead.

    Positions are computed for as many tokens as there are, so `table_frames` is ignored.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], sizes: EncoderSizes, num_heads: int, table_frames: int = 0
    ) -> None:
        self.sizes = sizes
        # Sizes of a single token: positions are computed here, so transformers' own table need not have the clip's size.
        config = VideoMAEConfig(
            image_size=sizes.patch,
            patch_size=sizes.patch,
            num_frames=sizes.tubelet,
            tubelet_size=sizes.tubelet,
            hidden_size=sizes.width,
            num_hidden_layers=sizes.depth,
            num_attention_heads=num_heads,
            intermediate_size=sizes.mlp,
            layer_norm_eps=EPS,
            # With mean pooling transformers builds no final norm, as the fine-tuned file has none.
            use_mean_pooling="norm.weight" not in tensors,
        )
        # torch's fused attention: transformers' modules read from their config which to take.
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            self.model = VideoMAEModel(config)
        # transformers keeps fc_norm in its classifier, which is not built; the norm is applied by `fc_norm` below.
        without_mean_norm = {name: values for name, values in tensors.items() if not name.startswith("fc_norm.")}
        self.model.load_state_dict(_rename_tensors(without_mean_norm), assign=True)
        self.model.train(mode=False)
        self.model.requires_grad_(requires_grad=False)
        self.mean_norm = {name: tensors.get(f"fc_norm.{name}") for name in ("weight", "bias")}

    def to(self, device: str) -> object:
        self.mean_norm = {name: None if v is None else v.to(device) for name, v in self.mean_norm.items()}
        return nn.Module.to(self.model, device)

    @property
    def blocks(self) -> Sequence[BlockFunction]:
        return list(self.model.encoder.layer)

    def embed(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B N C"]:
        # Only the convolution: transformers' embedding takes a fixed picture size, and its table stays on the CPU.
        patches: Tensor = self.model.embeddings.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
        return patches + sinusoid_positions(patches.shape[1], self.sizes.width, patches.device)

    def norm(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        out: Tensor = tokens if self.model.layernorm is None else self.model.layernorm(tokens)
        return out

    def fc_norm(self, mean: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        return functional.layer_norm(
            mean, (self.sizes.width,), self.mean_norm["weight"], self.mean_norm["bias"], eps=EPS
        )


@cache
def sinusoid_positions(count: int, width: int, device: torch.device) -> Float[Tensor, "1 N C"]:
    """Compute sinusoids of each token's number (Vaswani et al. 2017): sine in even channels, cosine in odd ones."""
    # In float64, then rounded once, as the publisher computes its table (get_sinusoid_encoding_table).
    channels = np.arange(width)
    # 2 * (channels // 2): a sine and the cosine after it have one frequency.
    angles = np.arange(count)[:, None] / np.power(10000, 2 * (channels // 2) / width)
    table = np.where(channels % 2 == 0, np.sin(angles), np.cos(angles))
    return torch.from_numpy(table.astype(np.float32))[None].to(device)


def _rename_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, values in tensors.items():
        if name.startswith("patch_embed.proj."):
            found[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = values
        elif name.startswith("norm."):
            found[name.replace("norm", "layernorm")] = values
        else:
            _, number, rest = name.split(".", 2)
            place = f"encoder.layer.{number}."
            if rest == "attn.qkv.weight":
                # The file stacks the three matrices; transformers has a layer for each.
                for part, third in zip(("query", "key", "value"), values.chunk(3), strict=True):
                    found[f"{place}attention.attention.{part}.weight"] = third
            else:
                found[place + _NAMES[rest]] = values
    return found
