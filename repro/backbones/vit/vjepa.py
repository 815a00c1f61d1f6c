"""The encoder of V-JEPA: a vision transformer over tubelets. Tensors are named as in the published file."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from repro.backbones.vit.config import EncoderSizes
from repro.backbones.vit.encoder import Encoder

EPS = 1e-6
"""Of every LayerNorm (jepa: src/models/vision_transformer.py)."""


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        # The packed layer's outputs are ordered (query/key/value, head, channel), as in timm. [B, N, 3C] to 3 x [B, heads, N, c].
        queries, keys, values = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        # The exact GELU, torch's default, not the tanh approximation.
        out: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    def __init__(self, sizes: EncoderSizes, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=EPS)
        self.attn = Attention(sizes.width, heads)
        self.norm2 = nn.LayerNorm(sizes.width, eps=EPS)
        self.mlp = Mlp(sizes.width, sizes.mlp)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        # Pre-norm: each branch reads normalised tokens, and the sum stays as it is.
        attended: Tensor = tokens + self.attn(self.norm1(tokens))
        out: Tensor = attended + self.mlp(self.norm2(attended))
        return out


class PatchEmbed(nn.Module):
    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        # Kernel and stride are equal: tubelets (frames by patch by patch) do not overlap, and each becomes one token.
        step = (sizes.tubelet, sizes.patch, sizes.patch)
        self.proj = nn.Conv3d(3, sizes.width, kernel_size=step, stride=step)

    def forward(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        out: Tensor = self.proj(pixels)
        return out


@Encoder.register  # by name: since Python 3.12, isinstance does not find attributes that torch's modules keep in a table
class VjepaEncoder(nn.Module):
    """The encoder, with values from `tensors`.

    Args:
        table_frames: frames that the table of positions is for. Its patches are assumed to form a square.
    """

    def __init__(self, tensors: Mapping[str, Tensor], sizes: EncoderSizes, num_heads: int, table_frames: int) -> None:
        super().__init__()
        self.sizes, self.table_frames = sizes, table_frames
        # On the meta device: values are not initialised only to be overwritten.
        with torch.device("meta"):
            self.patch_embed = PatchEmbed(sizes)
            self.blocks = nn.ModuleList(Block(sizes, num_heads) for _ in range(sizes.depth))
            self.norm = nn.LayerNorm(sizes.width, eps=EPS)
            self.pos_embed = nn.Parameter(torch.empty(tensors["pos_embed"].shape), requires_grad=False)
        self.load_state_dict(dict(tensors), assign=True)
        self.eval().requires_grad_(requires_grad=False)

    def embed(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B N C"]:
        # [B, C, t, h, w] to [B, t*h*w, C]: tubelets vary slowest, columns fastest, as the table of positions does.
        patches: Tensor = self.patch_embed(pixels)
        return patches.flatten(2).transpose(1, 2) + self.positions(patches.shape[-3:])

    def positions(self, grid: Sequence[int]) -> Float[Tensor, "1 N C"]:
        """Return the table of positions, interpolated if the grid (tubelets, rows, columns) is not the one it is for.

        Source: VisionTransformer.interpolate_pos_encoding, trilinear by scale factor.
        """
        table: Tensor = self.pos_embed
        tubelets = self.table_frames // self.sizes.tubelet
        # The published table is of square pictures.
        side = math.isqrt(table.shape[1] // tubelets)
        if tuple(grid) == (tubelets, side, side):
            return table
        # interpolate takes channels before space: [1, C, tubelets, rows, columns].
        cube = table.view(1, tubelets, side, side, -1).permute(0, 4, 1, 2, 3)
        scale = (grid[0] / tubelets, grid[1] / side, grid[2] / side)
        # By scale factor, as the publisher's code, which torch then takes for the sampling positions; by size
        # they may differ.
        return functional.interpolate(cube, scale_factor=scale, mode="trilinear").flatten(2).transpose(1, 2)

    # A pre-trained encoder has no weights for this norm: the mean is only standardised.
    def fc_norm(self, mean: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        return functional.layer_norm(mean, (self.sizes.width,), eps=EPS)
