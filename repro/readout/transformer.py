"""The release's classification transformer (models/Transformer.py): same tensors, same names."""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from repro.readout.recipe import Recipe


class ClassificationTransformer(nn.Module):
    """Reads a feature sequence with a CLS token: post-norm ReLU encoder, final norm, one linear layer.

    C must be divisible by the heads. `forward` is the release's, on padded clips; `packed` gives the same logits without
    computing what they do not rest on.
    """

    sees_padding = False

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
        """Logits; `valid` is False where a clip is padded."""
        batch, _, width = features.shape
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), features], dim=1)
        tokens = self.dropout(tokens + positions(tokens.shape[1], width).to(tokens.device))
        padding = torch.cat([torch.zeros(batch, 1, dtype=torch.bool, device=valid.device), ~valid], dim=1)
        encoded = self.encoder(tokens, src_key_padding_mask=padding)
        logits: Tensor = self.classifier(encoded[:, 0])
        return logits

    def packed(self, features: Float[Tensor, "N C"], lengths: Sequence[int]) -> Float[Tensor, "B K"]:
        """Logits of clips that lie one after another, `lengths` frames each.

        Tokens are never padded, and of the last layer only the CLS tokens are computed: nothing reads the others.
        """
        spans = [length + 1 for length in lengths]
        table = positions(max(spans), features.shape[1]).to(features.device)
        tokens = torch.cat(
            [part for own in features.split_with_sizes(list(lengths)) for part in (self.cls_token[0], own)]
        )
        tokens = self.dropout(tokens + torch.cat([table[:span] for span in spans]))
        *layers, last = self.encoder.layers
        for layer in layers:
            tokens = _block(layer, tokens, spans, tokens, spans)
        starts = [0, *accumulate(spans)][:-1]
        read = _block(last, tokens[starts], [1] * len(spans), tokens, spans)
        norm = self.encoder.norm
        assert norm is not None
        logits: Tensor = self.classifier(norm(read))
        return logits


def _block(layer: nn.Module, read: Tensor, asked: Sequence[int], tokens: Tensor, spans: Sequence[int]) -> Tensor:
    """A post-norm encoder layer's output at the tokens `read`, `asked` of each clip; all of a clip's are attended to."""
    assert isinstance(layer, nn.TransformerEncoderLayer)
    read = layer.norm1(read + layer.dropout1(_attention(layer.self_attn, read, asked, tokens, spans)))
    hidden = layer.dropout(functional.relu(layer.linear1(read)))
    out: Tensor = layer.norm2(read + layer.dropout2(layer.linear2(hidden)))
    return out


def _attention(
    attention: nn.MultiheadAttention, read: Tensor, asked: Sequence[int], tokens: Tensor, spans: Sequence[int]
) -> Tensor:
    width = tokens.shape[1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    queries = functional.linear(read, weight[:width], bias[:width])
    keys, values = functional.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=1)
    dropout = attention.dropout if attention.training else 0.0
    # Clip by clip costs a processor the least; a GPU would wait for the many small launches.
    attend = attend_padded if tokens.is_cuda else attend_each
    out: Tensor = attention.out_proj(attend(queries, asked, keys, values, spans, attention.num_heads, dropout))
    return out


def attend_each(
    queries: Float[Tensor, "M C"],
    asked: Sequence[int],
    keys: Float[Tensor, "N C"],
    values: Float[Tensor, "N C"],
    spans: Sequence[int],
    heads: int,
    dropout: float,
) -> Float[Tensor, "M C"]:
    """Each clip's queries (`asked` of them) attend to its own keys (`spans`), clip by clip."""
    width = queries.shape[1]
    mixed = []
    for q, k, v in zip(
        queries.split_with_sizes(list(asked)),
        keys.split_with_sizes(list(spans)),
        values.split_with_sizes(list(spans)),
        strict=True,
    ):
        q, k, v = (x.view(1, -1, heads, width // heads).transpose(1, 2) for x in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        mixed.append(out.transpose(1, 2).reshape(-1, width))
    return torch.cat(mixed)


def attend_padded(
    queries: Float[Tensor, "M C"],
    asked: Sequence[int],
    keys: Float[Tensor, "N C"],
    values: Float[Tensor, "N C"],
    spans: Sequence[int],
    heads: int,
    dropout: float,
) -> Float[Tensor, "M C"]:
    """As attend_each, in one call on clips padded to the longest."""
    clips, width = len(spans), queries.shape[1]

    def places(counts: Sequence[int]) -> Tensor:
        """Where the rows of a batch lie in its padded form, flattened."""
        longest = max(counts)
        return torch.cat([torch.arange(n) + clip * longest for clip, n in enumerate(counts)]).to(queries.device)

    def padded(rows: Tensor, counts: Sequence[int], at: Tensor) -> Tensor:
        room = rows.new_zeros(clips * max(counts), width)
        return room.index_copy(0, at, rows).view(clips, -1, heads, width // heads).transpose(1, 2)

    at_queries, at_keys = places(asked), places(spans)
    own = torch.zeros(clips * max(spans), dtype=torch.bool, device=queries.device)
    own[at_keys] = True
    out = functional.scaled_dot_product_attention(
        padded(queries, asked, at_queries),
        padded(keys, spans, at_keys),
        padded(values, spans, at_keys),
        attn_mask=own.view(clips, 1, 1, -1),
        dropout_p=dropout,
    )
    return out.transpose(1, 2).reshape(-1, width).index_select(0, at_queries)


def positions(length: int, width: int) -> Float[Tensor, "T C"]:
    """Sines on even and cosines on odd channels (Vaswani et al. 2017, section 3.5); the CLS token is position 0."""
    at = torch.arange(length, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(at * rates)
    table[:, 1::2] = torch.cos(at * rates)
    return table
