"""Models that read a feature sequence: the release's transformer (models/Transformer.py) and linear head (models/MLP.py).

Both have the release's tensor names, and `forward` is the release's, on padded clips. Trainings and scores compute the same on
clips that are not padded, several heads at once (stack.py).

Shapes: B clips, T frames of a padded clip, C channels, K classes.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from repro.readout.recipe import Recipe


class ClassificationTransformer(nn.Module):
    """Transformer encoder with a CLS token: post-norm ReLU layers, a final norm and one linear layer on the CLS token.

    The number of channels must be divisible by the recipe's heads.
    """

    def __init__(self, width: int, classes: int, recipe: Recipe) -> None:
        super().__init__()
        # The order of construction is the order in which initial weights are sampled: it is part of a run's result.
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.dropout = nn.Dropout(recipe.dropout)
        # With torch's defaults for what is not named, as in the release: norm_first=False (post-norm), ReLU, eps 1e-5.
        layer = nn.TransformerEncoderLayer(
            d_model=width,
            nhead=recipe.heads,
            dim_feedforward=recipe.feedforward_factor * width,
            dropout=recipe.dropout,
            batch_first=True,
        )
        # Nested tensors are a fast path for inference with other kernels; without them scoring and training compute alike.
        self.encoder = nn.TransformerEncoder(layer, recipe.layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.classifier = nn.Linear(width, classes)

    def forward(self, features: Float[Tensor, "B T C"], valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B K"]:
        """Logits of padded clips; `valid` is False at padding."""
        batch, _, width = features.shape
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), features], dim=1)
        # As in the release, dropout falls on the sum of features and positions, and on the CLS token as well.
        tokens = self.dropout(tokens + position_encoding(tokens.shape[1], width).to(tokens.device))
        # PyTorch masks where True, the opposite of `valid`. The CLS token is never masked.
        padding = torch.cat([torch.zeros(batch, 1, dtype=torch.bool, device=valid.device), ~valid], dim=1)
        # Position 0 is the CLS token, the only one that the classifier reads.
        encoded = self.encoder(tokens, src_key_padding_mask=padding)
        logits: Tensor = self.classifier(encoded[:, 0])
        return logits


TABLE_STEP = 64
"""Tables of positions are made for multiples of this length, so that few are kept."""


@lru_cache(maxsize=16)
def _store_positions(length: int, width: int, device: torch.device) -> Float[Tensor, "T C"]:
    # An ordinary tensor also where the first call is for inference, because later calls may train.
    with torch.inference_mode(mode=False):
        return position_encoding(length, width).to(device)


def stored_position_encoding(length: int, width: int, device: torch.device) -> Float[Tensor, "T C"]:
    """Return position_encoding of at least `length` positions on `device`, computed once a process."""
    # A row depends on its position alone, so the beginning of a longer table has the same bits.
    return _store_positions(TABLE_STEP * -(-length // TABLE_STEP), width, device)


def position_encoding(length: int, width: int) -> Float[Tensor, "T C"]:
    """Sines on even and cosines on odd channels (Vaswani et al. 2017, section 3.5); the CLS token is position 0."""
    positions = torch.arange(length, dtype=torch.float32)[:, None]
    # Equal to 10000 ** (-i / C) up to rounding; another spelling would change results in their last bits.
    frequencies = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(positions * frequencies)
    table[:, 1::2] = torch.cos(positions * frequencies)
    return table


class FlattenedLinear(nn.Module):
    """The release's linear head: one linear layer on a clip padded with zeros to max_length and flattened.

    It has no mask, so it reads what mixup puts behind a clip's end.
    """

    def __init__(self, width: int, classes: int, recipe: Recipe) -> None:
        super().__init__()
        # A Sequential of one layer, for the release's tensor names layers.0.weight and layers.0.bias.
        self.layers = nn.Sequential(nn.Linear(width * recipe.max_length, classes))

    def forward(self, features: Float[Tensor, "B T C"], valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B K"]:
        """Logits of clips padded to any length up to max_length; `valid` is ignored.

        Frames up to max_length would be zeros, so the weights that would meet them are left out.
        """
        flat = features.flatten(1)
        weight = self.layers[0].weight
        assert isinstance(weight, Tensor)
        return functional.linear(flat, weight[:, : flat.shape[1]], self.layers[0].bias)  # type: ignore[arg-type]


Head = ClassificationTransformer | FlattenedLinear


def build_head(recipe: Recipe, width: int, classes: int) -> Head:
    """Build the recipe's head with new weights, sampled from PyTorch's current random state."""
    kind = FlattenedLinear if recipe.head == "linear" else ClassificationTransformer
    return kind(width, classes, recipe)
