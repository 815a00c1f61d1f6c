"""A split's feature sequences with their targets, batched without padding beyond the longest clip of a batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from repro.datasets import Split
from repro.errors import MissingError
from repro.features.store import DamagedFeaturesError, FeatureStore


@dataclass(frozen=True, slots=True)
class Sequences:
    clips: tuple[str, ...]
    features: tuple[Float32[Tensor, "_ C"], ...]
    """Each clip at its own length, cut at the recipe's max_length."""
    targets: Float32[Tensor, "N K"]
    readers: Counter[str]
    """What decoded how many of the clips."""

    @property
    def width(self) -> int:
        return self.features[0].shape[1]

    def batch(self, chosen: Sequence[int]) -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"], Float[Tensor, "B K"]]:
        """Features, which of them are a clip's own, and targets."""
        own = [self.features[i] for i in chosen]
        lengths = torch.tensor([len(f) for f in own])
        padded = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
        valid = torch.arange(padded.shape[1])[None] < lengths[:, None]
        return padded, valid, self.targets[list(chosen)]


def load_sequences(store: FeatureStore, split: Split, cell: str, max_length: int) -> Sequences:
    """Read a split's features.

    Raises:
        MissingError: features of some clips are missing, damaged, or lack the cell.
    """
    features, absent = [], []
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
        else:
            readers[entry.reader] += 1
            features.append(torch.from_numpy(entry.features[cell][:max_length].astype(np.float32)))
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise MissingError(
            f"split {split.name}: {len(absent)} of {len(split.clips)} clips have no features {cell} in {store.folder}: "
            f"{', '.join(absent[:3])}{more}"
        )
    targets = torch.zeros(len(split.clips), len(split.classes))
    for number, clip in enumerate(split.clips):
        targets[number, list(clip.target)] = 1.0
    return Sequences(tuple(clip.id for clip in split.clips), tuple(features), targets, readers)
