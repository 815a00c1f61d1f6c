"""Feature sequences of a split with their targets, the batches that an epoch reads, and the part that is held out of a split.

Shapes: B clips of a batch, N clips of a split, T sampled frames of a clip, C channels, K classes.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from repro.core.errors import MissingError, UsageError
from repro.core.stratified import select_held_out
from repro.datasets.split import Split, name_first_clips
from repro.features.packed import DamagedFeaturesError
from repro.features.store import IMPORTED, FeatureStore
from repro.readout.recipe import Recipe

# The release holds nothing out; the share is this project's choice (docs/deviations.md 2).
HELD_OUT_SHARE = 0.2
"""Share of the training clips that is held out: every fifth."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Which clips a batch holds and how mixup combines them."""

    clips: tuple[int, ...]
    """Indices into the split."""
    weight: float = 1.0
    """Mixup's lambda: the weight of the clip itself; its partner has 1 - weight."""
    partners: tuple[int, ...] | None = None
    """Mixup partner of each clip, as an index into the batch; None without mixup."""


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive a separate seed for every purpose.

    Everything random in a training is seeded through this function. What an epoch samples therefore does not depend on what
    was sampled before it, and a resumed training samples what an uninterrupted one would.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    # A hash, so that neighbouring seeds share nothing; 8 bytes are the most that torch.manual_seed takes.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def plan_epoch(seed: int, epoch: int, clips: int, recipe: Recipe) -> list[BatchPlan]:
    """Sample the batches of an epoch: a permutation of all clips, and mixup weights and partners per batch.

    Args:
        seed: Seed of the training.
        epoch: Number of the epoch, from 1.
        clips: Number of clips in the split.
        recipe: Its batch_size and mixup are used. The last batch holds the remaining clips.
    """
    # The order of these calls is fixed: another order would give other batches, and other weights, for the same seed.
    generator = np.random.default_rng(derive_seed(seed, "epoch", epoch))
    order = generator.permutation(clips).tolist()
    plans = []
    for start in range(0, clips, recipe.batch_size):
        # A last batch of fewer clips is used, not dropped.
        chosen = tuple(order[start : start + recipe.batch_size])
        if recipe.mixup > 0:
            # One lambda per batch, as the release's scripts/train.py and Zhang et al. 2018.
            weight = float(generator.beta(recipe.mixup, recipe.mixup))
            plans.append(BatchPlan(chosen, weight, tuple(generator.permutation(len(chosen)).tolist())))
        else:
            plans.append(BatchPlan(chosen))
    return plans


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips packed one after another, without padding."""

    features: Float[Tensor, "N C"]
    """Frames of all clips, concatenated."""
    lengths: tuple[int, ...]
    """Number of frames of each clip."""
    targets: Float[Tensor, "B K"]


@dataclass(frozen=True, slots=True)
class Sequences:
    """Features and targets of all clips of a split."""

    clips: tuple[str, ...]
    """Clip ids."""
    features: tuple[Float[Tensor, "_ C"], ...]
    """One sequence per clip, each with its own length, truncated to the recipe's max_length. They may be read-only and of a file
    mapped into memory, which nothing copies as a whole."""
    targets: Float32[Tensor, "N K"]
    """1 for the classes of a clip, else 0."""
    readers: Counter[str]
    """Number of clips decoded by each video reader."""
    groups: tuple[str | None, ...] | None = None
    """Source video of each clip, where it is known."""
    imported: Counter[str] = field(default_factory=Counter)
    """Number of clips whose features were imported, by the sha256 of what was imported."""

    @property
    def width(self) -> int:
        """Number of channels C."""
        return self.features[0].shape[1]

    def select_clips(self, indices: Sequence[int]) -> "Sequences":
        """Return the clips at `indices`, in that order."""
        return replace(
            self,
            clips=tuple(self.clips[i] for i in indices),
            features=tuple(self.features[i] for i in indices),
            targets=self.targets[list(indices)],
            groups=None if self.groups is None else tuple(self.groups[i] for i in indices),
        )

    def to_device(self, device: torch.device) -> "Sequences":
        """Copy the features to a GPU if they take at most half of its free memory; otherwise return self."""
        # Half, because weights, AdamW's moments and activations need the rest.
        if device.type != "cuda" or sum(f.nbytes for f in self.features) > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        return replace(self, features=tuple(f.to(device) for f in self.features))

    def make_batch(self, plan: BatchPlan, sees_padding: bool = False) -> Batch:
        """Pack the clips of `plan`, mixed with their partners (mixup, Zhang et al. 2018).

        The release pads all clips of a batch, mixes the padded features, and keeps each clip's own padding mask
        (docs/deviations.md 6). Packed, this means that a mixed clip keeps its own length: a longer partner is truncated and a
        shorter one continues as zeros.

        Args:
            plan: Clips, partners and weight.
            sees_padding: For a head without a mask, which reads what mixup puts behind a clip's end: a mixed clip then has
                the length of the longer of the two.
        """
        own = [self.features[i] for i in plan.clips]
        targets = self.targets[list(plan.clips)]
        if plan.partners is None:
            lengths = [len(f) for f in own]
            return Batch(_pack_clips(own, lengths), tuple(lengths), targets)
        partners = [own[index] for index in plan.partners]
        lengths = [max(len(a), len(b)) if sees_padding else len(a) for a, b in zip(own, partners, strict=True)]
        # Mixup (Zhang et al. 2018): features and targets are mixed with the same weight.
        # lambda x_i + (1 - lambda) x_j, frame by frame, on clips of the same lengths.
        mixed = plan.weight * _pack_clips(own, lengths) + (1 - plan.weight) * _pack_clips(partners, lengths)
        # Soft targets of the same weight: lambda y_i + (1 - lambda) y_j.
        soft = plan.weight * targets + (1 - plan.weight) * targets[list(plan.partners)]
        return Batch(mixed, tuple(lengths), soft)


def split_held_out(split: Sequences, seed: int) -> tuple[Sequences, Sequences]:
    """Divide a training split into the clips to train on and the clips held out, each in the split's order.

    Raises:
        MissingError: there are too few clips or source videos to hold any out.
    """
    # A seed of its own: the part stays the same if other random numbers of a training change.
    held_out = select_held_out(split.targets.numpy(), split.groups, derive_seed(seed, "held out"), HELD_OUT_SHARE)
    kept = sorted(set(range(len(split.clips))) - set(held_out))
    if not held_out or not kept:
        raise MissingError(
            f"{len(split.clips)} training clips are too few to hold any out: --protocol held-out needs three clips or "
            "source videos of some class"
        )
    return split.select_clips(kept), split.select_clips(held_out)


def _pack_clips(clips: Sequence[Tensor], lengths: Sequence[int]) -> Float32[Tensor, "N C"]:
    """Concatenate clips, each truncated or zero-padded to its length, in fp32."""
    parts = []
    for features, length in zip(clips, lengths, strict=True):
        parts.append(features[:length])
        if length > len(features):
            # A shorter partner has zeros after its end, as padded clips have in the release.
            parts.append(features.new_zeros(length - len(features), features.shape[1]))
    return torch.cat(parts).float()  # a grid may store fp16, which is exact in fp32


def load_sequences(
    store: FeatureStore, split: Split, cell: str, max_length: int, width: int | None = None
) -> Sequences:
    """Read the features of a split. Packed ones stay in their file, verified and mapped into memory.

    Args:
        store: Where the features are.
        split: Clips and classes.
        cell: Name of the cell (timestep and layer) to read.
        max_length: Frames read from the start of each clip.
        width: Expected number of channels; None takes that of the first clip.

    Raises:
        MissingError: some clips have no features, or features that are damaged, empty, not finite or of another width.
        UsageError: max_length is below 1, or a clip has a label that is no class of the split.
    """
    if max_length < 1:
        raise UsageError(f"max_length {max_length}: expected at least 1 frame")
    # Collected over all clips, so that one message counts all and a user does not fix them one by one.
    features, missing, unfit = [], [], []
    readers: Counter[str] = Counter()
    imported: Counter[str] = Counter()
    try:
        reader = store.cell_reader(cell)
    except DamagedFeaturesError as error:
        raise MissingError(
            f"features {store.folder}: damaged: {error}: extract its clips again: run the row, or `repro extract`"
        ) from error
    for clip in split.clips:
        try:
            entry = reader.read(clip.id)
        except DamagedFeaturesError as error:
            raise MissingError(f"features {store.clip_path(clip.id)}: damaged: {error}: extract them again") from error
        if entry is None:
            missing.append(clip.id)
            continue
        readers[entry.reader] += 1
        imported.update(name.removeprefix(IMPORTED) for name in entry.origins if name.startswith(IMPORTED))
        values = entry.features[cell]
        width = values.shape[1] if width is None else width
        if values.shape[1] != width:
            raise MissingError(
                f"features {store.clip_path(clip.id)}: '{cell}' is {values.shape[1]} wide, expected {width}: extract them again"
            )
        # Also after max_length: a NaN anywhere shows that the extraction went wrong.
        if not len(values) or not np.isfinite(values).all():
            unfit.append(clip.id)
        features.append(_as_tensor(values[:max_length]))
    for clips, what in ((missing, "have no features"), (unfit, "have features that are empty or not finite")):
        if clips:
            raise MissingError(
                f"split {split.name}: {len(clips)} of {len(split.clips)} clips {what} ({cell}) in {store.folder}: "
                f"{name_first_clips(clips)}: extract them again"
            )
    groups = tuple(clip.group or None for clip in split.clips)
    return Sequences(
        tuple(clip.id for clip in split.clips),
        tuple(features),
        _multi_hot(split),
        readers,
        groups if any(group is not None for group in groups) else None,
        imported,
    )


def _multi_hot(split: Split) -> Float32[Tensor, "N K"]:
    targets = torch.zeros(len(split.clips), len(split.classes))
    for index, clip in enumerate(split.clips):
        # PyTorch would take label -1 as the last class, and name no clip for one that is too large.
        outside = [label for label in clip.target if not 0 <= label < len(split.classes)]
        if outside:
            raise UsageError(
                f"split {split.name}: clip {clip.id} has label {outside[0]}, there are {len(split.classes)} classes"
            )
        targets[index, list(clip.target)] = 1.0
    return targets


def _as_tensor(values: Float[np.ndarray, "T C"]) -> Float[Tensor, "T C"]:
    """Share the array's memory with a tensor, also if it is mapped read-only from a file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
        return torch.from_numpy(np.ascontiguousarray(values))
