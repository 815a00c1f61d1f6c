"""Models that read a feature sequence: the release's transformer (models/Transformer.py) and linear head (models/MLP.py).

Both have the release's tensor names. `forward` is the release's, on padded clips; `forward_packed` gives the same logits from
clips concatenated without padding, and computes nothing that the logits do not depend on (docs/deviations.md 12).

Shapes: B clips, T frames of a padded clip, N frames of all clips of a batch, C channels, K classes.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Float
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
        table = position_encoding(max(spans), features.shape[1]).to(features.device)
        tokens = torch.cat(
            [part for own in features.split_with_sizes(list(lengths)) for part in (self.cls_token[0], own)]
        )
        # Positions start again at 0 with every clip's CLS token, as in a padded batch.
        tokens = self.dropout(tokens + torch.cat([table[:span] for span in spans]))
        *layers, last = self.encoder.layers
        for layer in layers:
            tokens = _encoder_layer(layer, tokens, spans, tokens, spans)
        # Where each clip starts in the packed tokens.
        cls_positions = [0, *accumulate(spans)][:-1]
        cls_tokens = _encoder_layer(last, tokens[cls_positions], [1] * len(spans), tokens, spans)
        norm = self.encoder.norm
        # The constructor passes a norm; PyTorch's type also allows None.
        assert norm is not None
        logits: Tensor = self.classifier(norm(cls_tokens))
        return logits


def _encoder_layer(
    layer: nn.Module, inputs: Tensor, counts: Sequence[int], tokens: Tensor, spans: Sequence[int]
) -> Tensor:
    """Apply nn.TransformerEncoderLayer (post-norm, ReLU) to `inputs`, `counts` per clip, which attend to all `tokens` of
    their clip, `spans` per clip."""
    assert isinstance(layer, nn.TransformerEncoderLayer)
    # Post-norm (Vaswani et al. 2017): x = norm1(x + attention(x)), then x = norm2(x + feed_forward(x)). The dropout modules
    # are the layer's own, so rates and training mode are those of the padded layer.
    inputs = layer.norm1(inputs + layer.dropout1(_self_attention(layer.self_attn, inputs, counts, tokens, spans)))
    hidden = layer.dropout(functional.relu(layer.linear1(inputs)))
    out: Tensor = layer.norm2(inputs + layer.dropout2(layer.linear2(hidden)))
    return out


def _self_attention(
    attention: nn.MultiheadAttention, inputs: Tensor, counts: Sequence[int], tokens: Tensor, spans: Sequence[int]
) -> Tensor:
    width = tokens.shape[1]
    # nn.MultiheadAttention stacks the projections of queries, keys and values, in this order, in one matrix.
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    queries = functional.linear(inputs, weight[:width], bias[:width])
    keys, values = functional.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=1)
    dropout = attention.dropout if attention.training else 0.0
    # On a CPU one call per clip is fastest. On a GPU the many small kernel launches would dominate.
    attend = attend_padded if tokens.is_cuda else attend_per_clip
    out: Tensor = attention.out_proj(attend(queries, counts, keys, values, spans, attention.num_heads, dropout))
    return out


def attend_per_clip(
    queries: Float[Tensor, "M C"],
    counts: Sequence[int],
    keys: Float[Tensor, "N C"],
    values: Float[Tensor, "N C"],
    spans: Sequence[int],
    heads: int,
    dropout: float,
) -> Float[Tensor, "M C"]:
    """Scaled dot-product attention within each clip, one call per clip.

    Args:
        queries: Concatenated queries, `counts` per clip.
        counts: Number of queries of each clip.
        keys: Concatenated keys, `spans` per clip.
        values: Concatenated values, `spans` per clip.
        spans: Number of keys and values of each clip.
        heads: Attention heads; they share the channels equally.
        dropout: Probability of dropping an attention weight.
    """
    width = queries.shape[1]
    attended = []
    for q, k, v in zip(
        queries.split_with_sizes(list(counts)),
        keys.split_with_sizes(list(spans)),
        values.split_with_sizes(list(spans)),
        strict=True,
    ):
        # [tokens, C] -> [1, heads, tokens, C / heads], the layout of scaled_dot_product_attention.
        q, k, v = (x.view(1, -1, heads, width // heads).transpose(1, 2) for x in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        attended.append(out.transpose(1, 2).reshape(-1, width))
    return torch.cat(attended)


def attend_padded(
    queries: Float[Tensor, "M C"],
    counts: Sequence[int],
    keys: Float[Tensor, "N C"],
    values: Float[Tensor, "N C"],
    spans: Sequence[int],
    heads: int,
    dropout: float,
) -> Float[Tensor, "M C"]:
    """attend_per_clip in a single call, on clips padded to the longest."""
    clips, width = len(spans), queries.shape[1]

    def padded_positions(sizes: Sequence[int]) -> Tensor:
        """Row of every token in the padded batch, flattened to `clips * max(sizes)` rows."""
        longest = max(sizes)
        return torch.cat([torch.arange(n) + clip * longest for clip, n in enumerate(sizes)]).to(queries.device)

    def pad_clips(rows: Tensor, sizes: Sequence[int], positions: Tensor) -> Tensor:
        room = rows.new_zeros(clips * max(sizes), width)
        return room.index_copy(0, positions, rows).view(clips, -1, heads, width // heads).transpose(1, 2)

    query_positions, key_positions = padded_positions(counts), padded_positions(spans)
    # Padded keys get no attention. The outputs of padded queries are left out below.
    is_token = torch.zeros(clips * max(spans), dtype=torch.bool, device=queries.device)
    is_token[key_positions] = True
    out = functional.scaled_dot_product_attention(
        pad_clips(queries, counts, query_positions),
        pad_clips(keys, spans, key_positions),
        pad_clips(values, spans, key_positions),
        attn_mask=is_token.view(clips, 1, 1, -1),
        dropout_p=dropout,
    )
    return out.transpose(1, 2).reshape(-1, width).index_select(0, query_positions)


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
