"""The release's classification transformer (models/Transformer.py): same tensors, same names."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from repro.rows import Recipe


class ClassificationTransformer(nn.Module):
    """Reads a feature sequence with a CLS token: post-norm ReLU encoder, final norm, one linear layer.

    Shapes: features `[B, T, C]`, valid `[B, T]` (False where padded), logits `[B, K]`. C must be divisible by the heads.
    """

    def __init__(self, width: int, classes: int, recipe: Recipe) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.dropout = nn.Dropout(recipe.dropout)
        layer = nn.TransformerEncoderLayer(
            d_model=width,
            nhead=recipe.heads,
            dim_feedforward=recipe.feedforward_factor * width,
            dropout=recipe.dropout,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, recipe.layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.classifier = nn.Linear(width, classes)

    def forward(self, features: Float[Tensor, "B T C"], valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B K"]:
        batch, _, width = features.shape
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), features], dim=1)
        tokens = self.dropout(tokens + positions(tokens.shape[1], width).to(tokens.device))
        padding = torch.cat([torch.zeros(batch, 1, dtype=torch.bool, device=valid.device), ~valid], dim=1)
        encoded = self.encoder(tokens, src_key_padding_mask=padding)
        logits: Tensor = self.classifier(encoded[:, 0])
        return logits


def positions(length: int, width: int) -> Float[Tensor, "T C"]:
    """Sines on even and cosines on odd channels (Vaswani et al. 2017, section 3.5); the CLS token is position 0."""
    at = torch.arange(length, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(at * rates)
    table[:, 1::2] = torch.cos(at * rates)
    return table
