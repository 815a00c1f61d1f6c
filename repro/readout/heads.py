"""What reads a feature sequence: the transformer, or the release's linear head."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from repro.readout.recipe import Recipe
from repro.readout.transformer import ClassificationTransformer


class FlattenedLinear(nn.Module):
    """One linear layer on a clip padded with zeros to max_length and flattened (models/MLP.py): same tensor names.

    No mask: what mixup puts behind a clip's end is read.
    """

    sees_padding = True

    def __init__(self, width: int, classes: int, recipe: Recipe) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width * recipe.max_length, classes))

    def forward(self, features: Float[Tensor, "B T C"], valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B K"]:
        """Logits of clips padded to any length up to max_length: the weights of frames behind it would meet zeros."""
        flat = features.flatten(1)
        weight = self.layers[0].weight
        assert isinstance(weight, Tensor)
        return functional.linear(flat, weight[:, : flat.shape[1]], self.layers[0].bias)  # type: ignore[arg-type]

    def packed(self, features: Float[Tensor, "N C"], lengths: Sequence[int]) -> Float[Tensor, "B K"]:
        """Logits of clips that lie one after another, `lengths` frames each."""
        padded = torch.nn.utils.rnn.pad_sequence(list(features.split_with_sizes(list(lengths))), batch_first=True)
        return self.forward(padded, torch.ones(padded.shape[:2], dtype=torch.bool))


Head = ClassificationTransformer | FlattenedLinear


def new_head(recipe: Recipe, width: int, classes: int) -> Head:
    """The recipe's head with fresh weights."""
    kind = FlattenedLinear if recipe.head == "linear" else ClassificationTransformer
    return kind(width, classes, recipe)
