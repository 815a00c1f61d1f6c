"""Heads of one shape computed together: their weights are stacked along a first dimension, and one operation computes all.

A single head of the published sizes leaves most of a GPU idle, and starting its many small operations takes longer than
computing them. Seeds of a row and cells of a grid are independent trainings of one shape, so the same operations serve
several. A lone training is a stack of one.

Clips are packed one after another without padding: only attention mixes tokens, and it is masked at a clip's end, so padding
would change no logit (docs/deviations.md 12).

Shapes: S heads, B clips of a batch, D = S * B clips of all batches, M tokens of a batch, T tokens of a clip, C channels, H
attention heads, Q queries, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from repro.backbones.device import upload
from repro.readout.compute import Compute
from repro.readout.heads import Head, build_head, stored_position_encoding
from repro.readout.recipe import Recipe
from repro.readout.sequences import Batch


class HeadStack:
    """Trainable copies of heads, one operation for all of them.

    Every head gets its own batch and its own dropout, and its gradient depends on its own loss alone: what a head learns is, up
    to rounding, what it learns by itself.
    """

    def __init__(self, weights: Mapping[str, Tensor], recipe: Recipe) -> None:
        self.weights = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        """By the names of a head's state_dict, each with the heads as its first dimension."""
        self.recipe = recipe
        self.sees_padding = recipe.head == "linear"

    @classmethod
    def of_heads(cls, heads: Sequence[Head], recipe: Recipe) -> "HeadStack":
        """Stack copies of `heads`, which `recipe` built for the same width and classes."""
        states = [head.state_dict() for head in heads]
        return cls({name: torch.stack([state[name] for state in states]) for name in states[0]}, recipe)

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    @property
    def device(self) -> torch.device:
        return next(iter(self.weights.values())).device

    def state_of(self, index: int) -> dict[str, Tensor]:
        """Return the state_dict of one head; it shares the stack's memory."""
        return {name: tensor.detach()[index] for name, tensor in self.weights.items()}

    def select(self, index: int) -> "HeadStack":
        """Return a stack of one head, which shares this one's memory."""
        return HeadStack({name: tensor[index : index + 1] for name, tensor in self.weights.items()}, self.recipe)

    def to_head(self, index: int, width: int, classes: int) -> Head:
        """Return a copy of one head as a module, ready to score clips."""
        head = build_head(self.recipe, width, classes).to(self.device)
        head.load_state_dict(self.state_of(index))
        return head.eval()

    def compute_logits(
        self, batches: Sequence[Batch], generators: Sequence[torch.Generator] | None = None
    ) -> Float[Tensor, "S B K"]:
        """Compute the logits of one batch for each head.

        Args:
            batches: One for each head, all with the same number of clips.
            generators: One for each head, from which its dropout is sampled; None computes without dropout, as for scores.
        """
        packed = self._pack_features(batches)
        lengths = [batch.lengths for batch in batches]
        if self.sees_padding:
            return self._compute_linear(packed, lengths)
        return self._compute_transformer(packed, TokenLayout.of_clips(lengths, self.device), generators)

    def _pack_features(self, batches: Sequence[Batch]) -> Float[Tensor, "S N C"]:
        first = batches[0].features
        if all(batch is batches[0] for batch in batches):
            # Seeds score the same clips: no copies.
            return upload(first, self.device).expand(len(batches), -1, -1)
        return pad_sequence([upload(batch.features, self.device) for batch in batches], batch_first=True)

    def _compute_linear(
        self, packed: Float[Tensor, "S N C"], lengths: Sequence[tuple[int, ...]]
    ) -> Float[Tensor, "S B K"]:
        """The release's linear head (heads.FlattenedLinear): padded clips, flattened."""
        clips = [
            clip
            for own, sizes in zip(packed, lengths, strict=True)
            for clip in own.split([*sizes, len(own) - sum(sizes)])[:-1]
        ]
        flat = pad_sequence(clips, batch_first=True).view(len(lengths), len(lengths[0]), -1)
        # Frames up to max_length would be zeros, so the weights that would meet them are left out.
        return _apply_linear(
            flat, self.weights["layers.0.weight"][:, :, : flat.shape[2]], self.weights["layers.0.bias"]
        )

    def _compute_transformer(
        self, packed: Float[Tensor, "S N C"], layout: "TokenLayout", generators: Sequence[torch.Generator] | None
    ) -> Float[Tensor, "S B K"]:
        """The release's transformer (heads.ClassificationTransformer), computing only what the logits depend on."""
        weights, recipe, width = self.weights, self.recipe, packed.shape[2]
        masks = None
        if generators is not None and recipe.dropout:
            masks = DropoutMasks.sample(layout, recipe, width, generators)
        # CLS tokens first. A clip's CLS token is its position 0, its frames follow from 1.
        # A view: the one token of each head serves all of its clips.
        cls_tokens = weights["cls_token"][:, 0].expand(-1, layout.clips, -1)
        # Sines and cosines by position; only rows up to the longest clip are computed.
        table = stored_position_encoding(layout.longest, width, packed.device)
        tokens = torch.cat([cls_tokens, packed], dim=1) + table[layout.places]
        if masks is not None:
            tokens = tokens * masks.tokens
        for number in range(recipe.layers):
            prefix = f"encoder.layers.{number}."
            layer = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            own_masks = None if masks is None else masks.of_layer(number)
            tokens = self._compute_layer(layer, tokens, layout, own_masks, last=number == recipe.layers - 1)
        tokens = _apply_norm(tokens, weights["encoder.norm.weight"], weights["encoder.norm.bias"])
        return _apply_linear(tokens, weights["classifier.weight"], weights["classifier.bias"])

    def _compute_layer(
        self,
        layer: Mapping[str, Tensor],
        tokens: Float[Tensor, "S M C"],
        layout: "TokenLayout",
        masks: tuple[Tensor, ...] | None,
        *,
        last: bool,
    ) -> Float[Tensor, "S A C"]:
        """Post-norm (Vaswani et al. 2017): x = norm1(x + attention(x)), then x = norm2(x + feed_forward(x))."""
        on_attention, after_attention, on_hidden, at_end = (None,) * 4 if masks is None else masks
        # The classifier reads CLS tokens only, so the last layer is computed for those alone.
        asked = tokens[:, : layout.clips] if last else tokens
        attended = self._attend(layer, asked, tokens, layout, on_attention)
        inner = _apply_norm(asked + _drop(attended, after_attention), layer["norm1.weight"], layer["norm1.bias"])
        hidden = functional.relu(_apply_linear(inner, layer["linear1.weight"], layer["linear1.bias"]))
        out = _apply_linear(_drop(hidden, on_hidden), layer["linear2.weight"], layer["linear2.bias"])
        return _apply_norm(inner + _drop(out, at_end), layer["norm2.weight"], layer["norm2.bias"])

    def _attend(
        self,
        layer: Mapping[str, Tensor],
        asked: Float[Tensor, "S A C"],
        tokens: Float[Tensor, "S M C"],
        layout: "TokenLayout",
        mask: Float[Tensor, "D H Q T"] | None,
    ) -> Float[Tensor, "S A C"]:
        """nn.MultiheadAttention: scaled dot-product attention of `asked` tokens (all, or the CLS tokens) within each clip."""
        heads, width = self.recipe.heads, tokens.shape[2]
        # It stacks the projections of queries, keys and values, in this order, in one matrix.
        weight, bias = layer["self_attn.in_proj_weight"], layer["self_attn.in_proj_bias"]

        def split_heads(padded: Tensor) -> tuple[Tensor, ...]:
            # [D, T, parts * C] to one [D, H, T, C / H] for each part.
            return padded.view(*padded.shape[:2], -1, heads, width // heads).transpose(1, 3).unbind(2)

        if asked is tokens:
            queries, keys, values = split_heads(layout.pad_clips(_apply_linear(tokens, weight, bias)))
        else:
            # Only the CLS tokens ask in the last layer, but keys and values are of all tokens.
            (query_weight, others), (query_bias, other_bias) = (
                torch.split(part, [width, 2 * width], 1) for part in (weight, bias)
            )
            (queries,) = split_heads(_apply_linear(asked, query_weight, query_bias).reshape(-1, 1, width))
            keys, values = split_heads(layout.pad_clips(_apply_linear(tokens, others, other_bias)))
        # softmax(q k / sqrt(d)) with d channels a head (Vaswani et al. 2017, equation 1); the queries are
        # scaled, which are fewer than the scores.
        scores = (queries * (width // heads) ** -0.5) @ keys.transpose(2, 3)
        # Padded keys get no attention; every clip has its CLS token, so no row is empty. Padded queries are left out below.
        shares = scores.masked_fill_(layout.is_padding, -math.inf).softmax(dim=3)
        mixed = (_drop(shares, mask) @ values).transpose(1, 2).flatten(2)
        packed = layout.pack_clips(mixed) if asked is tokens else mixed.view(asked.shape)
        return _apply_linear(packed, layer["self_attn.out_proj.weight"], layer["self_attn.out_proj.bias"])


def choose_stack_size(compute: Compute, recipe: Recipe, width: int, classes: int) -> int:
    """Return how many trainings to compute together: `compute.together` or, on a GPU, as many as half of its free memory holds.

    On a CPU one, unless asked: at the published sizes nothing is gained, and a lone training repeats bit for bit.
    """
    if compute.together is not None:
        return compute.together
    device = torch.device(compute.device)
    if device.type != "cuda":
        return 1
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build_head(recipe, width, classes).parameters())
    # Weights, gradients, two moments and the selected epoch's weights; and what a step keeps for its gradient, at most: about 40
    # values a channel, token and layer.
    # The estimate is checked by nothing: a stack that is too large fails, and is halved (train_members).
    kept = 40 * width * recipe.layers * recipe.batch_size * (recipe.max_length + 1)
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(free / 2 / (4 * (5 * parameters + kept))))


def _apply_linear(inputs: Float[Tensor, "S N C"], weight: Float[Tensor, "S K C"], bias: Float[Tensor, "S K"]) -> Tensor:
    if len(inputs) == 1:
        return functional.linear(inputs.squeeze(0), weight.squeeze(0), bias.squeeze(0))[None]
    # One batched product for all heads. A single head takes the plain path, which rounds as torch's own layers do.
    return torch.baddbmm(bias[:, None], inputs, weight.transpose(1, 2))


def _apply_norm(inputs: Float[Tensor, "S N C"], weight: Float[Tensor, "S C"], bias: Float[Tensor, "S C"]) -> Tensor:
    if len(inputs) == 1:
        return functional.layer_norm(inputs, inputs.shape[2:], weight.squeeze(0), bias.squeeze(0))
    # Normalised once without weights, as layer_norm takes one weight for all heads.
    return torch.addcmul(bias[:, None], functional.layer_norm(inputs, inputs.shape[2:]), weight[:, None])


def _drop(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Where the tokens of S packed batches are: first the CLS tokens of all clips, then the frames of one clip after another.

    A batch with fewer tokens than another is filled up; what is computed of the filling goes nowhere.
    """

    clips: int
    """B, the clips of each batch."""
    longest: int
    """T, the tokens of the longest clip, CLS included."""
    counts: tuple[int, ...]
    """Tokens of each batch, without filling."""
    spans: tuple[int, ...]
    """Tokens of the longest clip of each batch."""
    places: Int64[Tensor, "S M"]
    """Position of each token in its clip; 0 of filling."""
    rows: Int64[Tensor, " N"] | None
    """Rows of the tokens among all S * M rows; None if nothing is filled up."""
    slots: Int64[Tensor, " N"]
    """Rows of the tokens among the S * B * T rows of padded clips."""
    is_padding: Bool[Tensor, "D 1 1 T"]

    @classmethod
    def of_clips(cls, lengths: Sequence[tuple[int, ...]], device: torch.device) -> "TokenLayout":
        """Lay out S batches, given the frames of every clip."""
        frames = np.array(lengths)
        stack, clips = frames.shape
        totals = frames.sum(1)
        longest, most = int(frames.max()) + 1, clips + int(totals.max())
        places = np.zeros((stack, most), np.int64)
        # In NumPy: torch would start several small operations for each clip.
        slots = np.full((stack, most), -1)
        slots[:, :clips] = np.arange(stack * clips).reshape(stack, clips) * longest
        for one, sizes in enumerate(frames):
            ends = np.cumsum(sizes)
            within = np.arange(1, ends[-1] + 1) - np.repeat(ends - sizes, sizes)
            places[one, clips : clips + ends[-1]] = within
            slots[one, clips : clips + ends[-1]] = np.repeat(slots[one, :clips], sizes) + within
        used = slots.ravel() >= 0
        # One copy to the device: each takes as long to start as an operation.
        parts = (places.ravel(), slots.ravel()[used], np.flatnonzero(used), frames.ravel())
        indices = torch.split(upload(np.concatenate(parts), device), [len(part) for part in parts])
        return cls(
            clips,
            longest,
            tuple((clips + totals).tolist()),
            tuple((frames.max(1) + 1).tolist()),
            indices[0].view(stack, most),
            None if used.all() else indices[2],
            indices[1],
            (torch.arange(longest, device=device) > indices[3][:, None])[:, None, None],
        )

    def pad_clips(self, packed: Float[Tensor, "S M C"]) -> Float[Tensor, "D T C"]:
        """Copy every clip's tokens to rows of its own, with zeros after its end."""
        rows = packed.flatten(0, 1)
        rows = rows if self.rows is None else rows.index_select(0, self.rows)
        room = rows.new_zeros(len(self.is_padding) * self.longest, rows.shape[1])
        return room.index_copy(0, self.slots, rows).view(-1, self.longest, rows.shape[1])

    def pack_clips(self, padded: Float[Tensor, "D T C"]) -> Float[Tensor, "S M C"]:
        """Undo pad_clips; filling is 0."""
        rows = padded.flatten(0, 1).index_select(0, self.slots)
        if self.rows is not None:
            room = rows.new_zeros(self.places.numel(), rows.shape[1])
            rows = room.index_copy(0, self.rows, rows)
        return rows.view(*self.places.shape, -1)


@dataclass(frozen=True, slots=True)
class DropoutMasks:
    """What the dropouts of one step multiply with: 0, or 1 / (1 - rate).

    Each head's are sampled by one call of its own generator, in sizes that depend on its own batch alone: so a head gets the same
    masks in every stack.
    """

    by_token: Float[Tensor, "S M X"]
    """Of all tokens: embedding, then every layer but the last."""
    by_cls_token: Float[Tensor, "S B Y"]
    """Of the CLS tokens: the last layer."""
    by_pair: Float[Tensor, "S B L H T T"]
    """Of attention, in every of L layers but the last."""
    by_cls_pair: Float[Tensor, "S B H 1 T"]
    """Of the attention of CLS tokens, in the last layer."""
    widths: tuple[int, int, int]
    """Channels of a layer's dropouts: after attention, hidden, after the feed-forward layers."""

    @classmethod
    def sample(
        cls, layout: TokenLayout, recipe: Recipe, width: int, generators: Sequence[torch.Generator]
    ) -> "DropoutMasks":
        """Sample the masks of one step; the generators are on the layout's device."""
        inner, clips = recipe.layers - 1, layout.clips
        widths = (width, recipe.feedforward_factor * width, width)
        kinds: list[list[Tensor]] = [[], [], [], []]
        for generator, count, span in zip(generators, layout.counts, layout.spans, strict=True):
            shapes = (
                (count, width + inner * sum(widths)),
                (clips, sum(widths)),
                (clips, inner, recipe.heads, span, span),
                (clips, recipe.heads, 1, span),
            )
            sizes = [math.prod(shape) for shape in shapes]
            flat = torch.empty(sum(sizes), device=layout.places.device)
            flat.bernoulli_(1 - recipe.dropout, generator=generator).div_(1 - recipe.dropout)
            for parts, part, shape in zip(kinds, torch.split(flat, sizes), shapes, strict=True):
                parts.append(part.view(shape))
        by_token, by_cls_token, by_pair, by_cls_pair = (_stack_parts(parts) for parts in kinds)
        return cls(by_token, by_cls_token, by_pair, by_cls_pair, widths)

    @property
    def tokens(self) -> Float[Tensor, "S M C"]:
        return self.by_token[..., : self.widths[0]]

    def of_layer(self, number: int) -> tuple[Tensor, ...]:
        """Return what a layer multiplies: attention weights, the output of attention, hidden values, the output of the feed-forward
        layers."""
        start = self.widths[0] + number * sum(self.widths)
        if start == self.by_token.shape[2]:  # the last layer
            return (self.by_cls_pair.flatten(0, 1), *torch.split(self.by_cls_token, list(self.widths), dim=2))
        own = self.by_token[..., start : start + sum(self.widths)]
        return (self.by_pair[:, :, number].flatten(0, 1), *torch.split(own, list(self.widths), dim=2))


def _stack_parts(parts: Sequence[Tensor]) -> Tensor:
    """Stack tensors, each filled up with ones to the largest size in every dimension."""
    if len(parts) == 1:
        return parts[0][None]
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    stacked = parts[0].new_ones(len(parts), *shape)
    for room, part in zip(stacked, parts, strict=True):
        room[tuple(map(slice, part.shape))] = part
    return stacked
