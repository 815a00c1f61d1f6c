"""A split's feature sequences with their targets, and batches of them without padding."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from repro.core.errors import MissingError, UsageError
from repro.datasets.split import Split
from repro.features.store import DamagedFeaturesError, FeatureStore
from repro.readout.draws import Draw


@dataclass(frozen=True, slots=True)
class Batch:
    features: Float[Tensor, "N C"]
    """The clips one after another."""
    lengths: tuple[int, ...]
    targets: Float[Tensor, "B K"]


@dataclass(frozen=True, slots=True)
class Sequences:
    clips: tuple[str, ...]
    features: tuple[Float32[Tensor, "_ C"], ...]
    """Each clip at its own length, cut at the recipe's max_length."""
    targets: Float32[Tensor, "N K"]
    readers: Counter[str]
    """What decoded how many of the clips."""
    groups: tuple[str | None, ...] | None = None
    """Which source video each clip was cut from, where that is known."""

    @property
    def width(self) -> int:
        return self.features[0].shape[1]

    def part(self, chosen: Sequence[int]) -> "Sequences":
        """The clips at those places."""
        return replace(
            self,
            clips=tuple(self.clips[i] for i in chosen),
            features=tuple(self.features[i] for i in chosen),
            targets=self.targets[list(chosen)],
            groups=None if self.groups is None else tuple(self.groups[i] for i in chosen),
        )

    def on(self, device: torch.device) -> "Sequences":
        """The same with its features on `device` where they take no more than half its free memory."""
        if device.type != "cuda" or sum(f.nbytes for f in self.features) > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        return replace(self, features=tuple(f.to(device) for f in self.features))

    def batch(self, draw: Draw, sees_padding: bool = False) -> Batch:
        """A batch, mixed as drawn.

        Padding masks are not mixed, as released (docs/deviations.md 6): each clip keeps its own length, and of a longer
        partner the tail is never seen. A head without a mask sees it (`sees_padding`).
        """
        own = [self.features[i] for i in draw.chosen]
        targets = self.targets[list(draw.chosen)]
        if draw.partner is None:
            return Batch(torch.cat(own), tuple(len(f) for f in own), targets)
        partners = [own[place] for place in draw.partner]
        lengths = [max(len(a), len(b)) if sees_padding else len(a) for a, b in zip(own, partners, strict=True)]
        mixed = draw.share * _laid_out(own, lengths) + (1 - draw.share) * _laid_out(partners, lengths)
        soft = draw.share * targets + (1 - draw.share) * targets[list(draw.partner)]
        return Batch(mixed, tuple(lengths), soft)


def _laid_out(clips: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """Clips one after another, each cut or filled with zeros to its length."""
    parts = []
    for features, length in zip(clips, lengths, strict=True):
        parts.append(features[:length])
        if length > len(features):
            parts.append(features.new_zeros(length - len(features), features.shape[1]))
    return torch.cat(parts)


def load_sequences(
    store: FeatureStore, split: Split, cell: str, max_length: int, width: int | None = None
) -> Sequences:
    """Read a split's features; `width` is what they should have, where it is known.

    Raises:
        MissingError: features of some clips are missing, damaged, empty or not finite, lack the cell, or are of another
            width than the others.
        UsageError: max_length below 1, or a target that is no class of the split.
    """
    if max_length < 1:
        raise UsageError(f"max_length {max_length}: expected at least 1 frame")
    features, absent, unfit = [], [], []
    readers: Counter[str] = Counter()
    try:
        read = store.cell_reader(cell)
    except DamagedFeaturesError as error:
        raise MissingError(f"features {store.folder} {cell}: damaged: {error}: extract them again") from error
    for clip in split.clips:
        try:
            entry = read(clip.id)
        except DamagedFeaturesError as error:
            raise MissingError(f"features {store.path(clip.id)}: damaged: {error}: extract them again") from error
        if entry is None:
            absent.append(clip.id)
            continue
        readers[entry.reader] += 1
        values = entry.features[cell]
        width = values.shape[1] if width is None else width
        if values.shape[1] != width:
            raise MissingError(
                f"features {store.path(clip.id)}: '{cell}' is {values.shape[1]} wide, expected {width}: extract them again"
            )
        if not len(values) or not np.isfinite(values).all():
            unfit.append(clip.id)
        features.append(_tensor(values[:max_length].astype(np.float32, copy=False)))  # a grid's may be stored as fp16
    for clips, what in ((absent, "have no features"), (unfit, "have features that are empty or not finite")):
        if clips:
            raise MissingError(f"split {split.name}: {len(clips)} of {len(split.clips)} clips {what} ({cell}) in {store.folder}: "
                               f"{_named(clips)}: extract them again")  # fmt: skip
    targets = torch.zeros(len(split.clips), len(split.classes))
    for number, clip in enumerate(split.clips):
        outside = [label for label in clip.target if not 0 <= label < len(split.classes)]
        if outside:
            raise UsageError(
                f"split {split.name}: clip {clip.id} has label {outside[0]}, there are {len(split.classes)} classes"
            )
        targets[number, list(clip.target)] = 1.0
    groups = tuple(clip.group or None for clip in split.clips)
    return Sequences(
        tuple(clip.id for clip in split.clips),
        tuple(features),
        targets,
        readers,
        groups if any(group is not None for group in groups) else None,
    )


def _tensor(values: Float32[np.ndarray, "T C"]) -> Float32[Tensor, "T C"]:
    """The same memory as a tensor, also where it is mapped from a file and cannot be written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
        return torch.from_numpy(np.ascontiguousarray(values))


def _named(clips: Sequence[str]) -> str:
    return ", ".join(clips[:3]) + (f" and {len(clips) - 3} more" if len(clips) > 3 else "")
