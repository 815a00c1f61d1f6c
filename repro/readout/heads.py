"""Models that read a feature sequence: the release's transformer (models/Transformer.py) and linear head (models/MLP.py).

Both have the release's tensor names. `forward` is the release's, on padded clips; `forward_packed` gives the same logits from
clips concatenated without padding, and computes nothing that the logits do not depend on (docs/deviations.md 12).

Shapes: B clips, T frames of a padded clip, N frames of all clips of a batch, C channels, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from repro.readout.recipe import Recipe


class ClassificationTransformer(nn.Module):
    """Transformer encoder with a CLS token: post-norm ReLU layers, a final norm and one linear layer on the CLS token.

    The number of channels must be divisible by the recipe's heads.
    """

    # Attention masks everything after a clip's end, so batches need no padding.
    sees_padding = False

    def __init__(self, width: int, classes: int, recipe: Recipe) -> None:
        super().__init__()
        # The order of construction is the order in which initial weights are sampled: it is part of a run's result.
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.dropout = nn.Dropout(recipe.dropout)
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
        encoded = self.encoder(tokens, src_key_padding_mask=padding)
        logits: Tensor = self.classifier(encoded[:, 0])
        return logits

    def forward_packed(self, features: Float[Tensor, "N C"], lengths: Sequence[int]) -> Float[Tensor, "B K"]:
        """Logits of concatenated clips of `lengths` frames.

        Only attention mixes tokens, and the padding mask hides padding from it; all other operations act on each token
        alone. So padding tokens can be left out. The classifier reads the last layer's CLS tokens only, so the last layer is
        computed for those alone.
        """
        spans = [length + 1 for length in lengths]  # each clip's tokens: CLS, then its frames
        table = _stored_position_encoding(TABLE_STEP * -(-max(spans) // TABLE_STEP), features.shape[1], features.device)
        tokens = torch.cat(
            [part for own in features.split_with_sizes(list(lengths)) for part in (self.cls_token[0], own)]
        )
        # Positions start again at 0 with every clip's CLS token, as in a padded batch.
        tokens = self.dropout(tokens + torch.cat([table[:span] for span in spans]))
        # Where tokens are is the same in every layer. On a GPU each layout waits for the device, so it is made once.
        everyone, first_only = (_lay_out(sizes, features.device) for sizes in (spans, [1] * len(spans)))
        *layers, last = self.encoder.layers
        for layer in layers:
            tokens = _encoder_layer(layer, tokens, everyone, tokens, everyone)
        # Where each clip starts in the packed tokens.
        cls_positions = [0, *accumulate(spans)][:-1]
        cls_tokens = _encoder_layer(last, tokens[cls_positions], first_only, tokens, everyone)
        norm = self.encoder.norm
        # The constructor passes a norm; PyTorch's type also allows None.
        assert norm is not None
        logits: Tensor = self.classifier(norm(cls_tokens))
        return logits


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of concatenated clips are in a batch that is padded to the longest clip."""

    sizes: tuple[int, ...]
    """Number of tokens of each clip."""
    positions: Int64[Tensor, " N"] | None = None
    """Row of every token in the padded batch, flattened to `clips * longest` rows; None where no padded batch is made."""
    is_token: Bool[Tensor, "B 1 1 T"] | None = None
    """False at padding."""

    @classmethod
    def padded(cls, sizes: Sequence[int], device: torch.device) -> "Layout":
        clips, longest = len(sizes), max(sizes)
        positions = torch.cat([torch.arange(n) + clip * longest for clip, n in enumerate(sizes)])
        is_token = torch.zeros(clips * longest, dtype=torch.bool)
        is_token[positions] = True
        return cls(tuple(sizes), positions.to(device), is_token.view(clips, 1, 1, -1).to(device))


def _lay_out(sizes: Sequence[int], device: torch.device) -> Layout:
    """Return the layout that attention on `device` takes."""
    # On a CPU one call per clip is fastest. On a GPU the many small kernel launches would dominate.
    return Layout.padded(sizes, device) if device.type == "cuda" else Layout(tuple(sizes))


def _encoder_layer(layer: nn.Module, inputs: Tensor, asked: Layout, tokens: Tensor, given: Layout) -> Tensor:
    """Apply nn.TransformerEncoderLayer (post-norm, ReLU) to `inputs`, which attend to all `tokens` of their clip.

    Args:
        layer: The layer.
        inputs: Concatenated tokens to compute.
        asked: Where they are.
        tokens: Concatenated tokens to attend to.
        given: Where those are.
    """
    assert isinstance(layer, nn.TransformerEncoderLayer)
    # Post-norm (Vaswani et al. 2017): x = norm1(x + attention(x)), then x = norm2(x + feed_forward(x)). The dropout modules
    # are the layer's own, so rates and training mode are those of the padded layer.
    inputs = layer.norm1(inputs + layer.dropout1(_self_attention(layer.self_attn, inputs, asked, tokens, given)))
    hidden = layer.dropout(functional.relu(layer.linear1(inputs)))
    out: Tensor = layer.norm2(inputs + layer.dropout2(layer.linear2(hidden)))
    return out


def _self_attention(
    attention: nn.MultiheadAttention, inputs: Tensor, asked: Layout, tokens: Tensor, given: Layout
) -> Tensor:
    width = tokens.shape[1]
    # nn.MultiheadAttention stacks the projections of queries, keys and values, in this order, in one matrix.
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    queries = functional.linear(inputs, weight[:width], bias[:width])
    keys, values = functional.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=1)
    dropout = attention.dropout if attention.training else 0.0
    attend = attend_per_clip if given.positions is None else attend_padded
    out: Tensor = attention.out_proj(attend(queries, asked, keys, values, given, attention.num_heads, dropout))
    return out


def attend_per_clip(
    queries: Float[Tensor, "M C"],
    asked: Layout,
    keys: Float[Tensor, "N C"],
    values: Float[Tensor, "N C"],
    given: Layout,
    heads: int,
    dropout: float,
) -> Float[Tensor, "M C"]:
    """Scaled dot-product attention within each clip, one call per clip.

    Args:
        queries: Concatenated queries.
        asked: Where they are.
        keys: Concatenated keys.
        values: Concatenated values.
        given: Where keys and values are.
        heads: Attention heads; they share the channels equally.
        dropout: Probability of dropping an attention weight.
    """
    width = queries.shape[1]
    attended = []
    for q, k, v in zip(
        queries.split_with_sizes(list(asked.sizes)),
        keys.split_with_sizes(list(given.sizes)),
        values.split_with_sizes(list(given.sizes)),
        strict=True,
    ):
        # [tokens, C] -> [1, heads, tokens, C / heads], the layout of scaled_dot_product_attention.
        q, k, v = (x.view(1, -1, heads, width // heads).transpose(1, 2) for x in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        attended.append(out.transpose(1, 2).reshape(-1, width))
    return torch.cat(attended)


def attend_padded(
    queries: Float[Tensor, "M C"],
    asked: Layout,
    keys: Float[Tensor, "N C"],
    values: Float[Tensor, "N C"],
    given: Layout,
    heads: int,
    dropout: float,
) -> Float[Tensor, "M C"]:
    """attend_per_clip in a single call, on clips padded to the longest; both layouts are padded ones."""
    clips, width = len(given.sizes), queries.shape[1]
    assert asked.positions is not None
    assert given.positions is not None

    def pad_clips(rows: Tensor, layout: Layout) -> Tensor:
        assert layout.positions is not None
        room = rows.new_zeros(clips * max(layout.sizes), width)
        return room.index_copy(0, layout.positions, rows).view(clips, -1, heads, width // heads).transpose(1, 2)

    out = functional.scaled_dot_product_attention(
        pad_clips(queries, asked),
        pad_clips(keys, given),
        pad_clips(values, given),
        # Padded keys get no attention. The outputs of padded queries are left out below.
        attn_mask=given.is_token,
        dropout_p=dropout,
    )
    return out.transpose(1, 2).reshape(-1, width).index_select(0, asked.positions)


TABLE_STEP = 64
"""Tables of positions are made for multiples of this length, so that few are kept."""


@lru_cache(maxsize=16)
def _stored_position_encoding(length: int, width: int, device: torch.device) -> Float[Tensor, "T C"]:
    # A row depends on its position alone, so the beginning of a longer table has the same bits. An ordinary tensor also where
    # the first call is for inference, because later calls may train.
    with torch.inference_mode(mode=False):
        return position_encoding(length, width).to(device)


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

    sees_padding = True

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

    def forward_packed(self, features: Float[Tensor, "N C"], lengths: Sequence[int]) -> Float[Tensor, "B K"]:
        """Logits of concatenated clips of `lengths` frames."""
        padded = torch.nn.utils.rnn.pad_sequence(list(features.split_with_sizes(list(lengths))), batch_first=True)
        return self.forward(padded, torch.ones(padded.shape[:2], dtype=torch.bool))


Head = ClassificationTransformer | FlattenedLinear


def build_head(recipe: Recipe, width: int, classes: int) -> Head:
    """Build the recipe's head with new weights, sampled from PyTorch's current random state."""
    kind = FlattenedLinear if recipe.head == "linear" else ClassificationTransformer
    return kind(width, classes, recipe)
