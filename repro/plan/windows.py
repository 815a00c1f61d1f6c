"""Clips, windows and vectors of splits in this workspace: stored ones and remaining ones, each counted once.

They are counted clip by clip if an audit has counted frames, else estimated from what a data set's config states.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from repro.backbones.config import BackboneConfig, Cell
from repro.core.errors import UsageError
from repro.datasets.config import ClipLengths, DatasetConfig
from repro.datasets.manifest import ClipFacts
from repro.plan.amounts import Amount, counted, estimated
from repro.plan.workspace_state import WorkspaceState


@dataclass(frozen=True, slots=True)
class Portion:
    """Clips, and the windows and vectors that extraction makes of them."""

    clips: Amount
    windows: Amount
    vectors: Amount

    def __add__(self, other: "Portion") -> "Portion":
        return Portion(self.clips + other.clips, self.windows + other.windows, self.vectors + other.vectors)

    def share(self, part: int, of: int) -> "Portion":
        """Return the share of `part` clips out of `of`."""
        return Portion(
            # A number of clips is exact although their windows are not: clips differ in length.
            counted(part) if self.clips.exact else self.clips.share(part, of),
            self.windows.share(part, of),
            self.vectors.share(part, of),
        )


NO_CLIPS = Portion(counted(0), counted(0), counted(0))


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """One split's clips and their features of one backbone."""

    total: Portion
    remaining: Portion
    """What remains to be computed."""
    stored_clips: int
    """Number of clips whose features are stored."""
    basis: str
    """Source of the counts."""


class SplitCounter:
    """Counts clips, windows and vectors of splits; every split once."""

    def __init__(self, state: WorkspaceState) -> None:
        self.state = state
        self.count_split = cache(self._count_split)

    def count_clips(self, dataset: str, split: str) -> Amount:
        """Return the number of clips of a split.

        Raises:
            UsageError: neither the data set's files nor its config state it.
        """
        listed, facts = self.state.listed_dataset(dataset), self.state.dataset_config(dataset).splits[split]
        # The annotation files in the workspace take precedence over what the config states of the publisher's.
        if listed is not None:
            return counted(len(listed.split(split).clips))
        if facts.clips is not None:
            return counted(facts.clips)
        if facts.estimated_clips is None:
            raise UsageError(
                f"configs/datasets/{dataset}.yaml: splits.{split} has neither clips nor estimated_clips, which a plan needs "
                f"until the data set's files have been read (`repro data status {dataset}` reads them)"
            )
        return estimated(facts.estimated_clips)

    def _count_split(self, dataset: str, split: str, backbone: str, cell: Cell) -> SplitCounts:
        """Count a split's clips, windows and vectors, and those whose features are stored.

        Args:
            dataset: Name of the data set.
            split: One of its splits.
            backbone: The backbone's label (WorkspaceState.label_backbone).
            cell: The cell that is read.

        Raises:
            UsageError: neither an audit nor the data set's config state how long its clips are.
        """
        state = self.state
        facts, config = state.dataset_config(dataset).splits[split], state.backbone(backbone)
        listed, audit = state.listed_dataset(dataset), state.audited_clips(dataset)
        stored = state.stored_clips(dataset, backbone, cell)
        ids = [] if listed is None else [clip.id for clip in listed.split(split).clips]
        remaining = [clip for clip in ids if clip not in stored]
        stored_count = len(ids) - len(remaining)
        if audit:
            total, rest = (count_audited((audit[i] for i in some if i in audit), config) for some in (ids, remaining))
            return SplitCounts(total, rest, stored_count, "frames counted by `repro data audit`")
        if facts.frames is None:
            raise UsageError(
                f"configs/datasets/{dataset}.yaml: splits.{split} does not say how long its clips are (frames): "
                f"run `repro data audit {dataset}`, which counts them, once the data are in the workspace"
            )
        clips = self.count_clips(dataset, split)
        number = round(clips.likely)
        total = count_from_config(clips, facts.frames, config)
        how = "counted from" if total.windows.exact else "estimated from"
        rest = total.share(number - stored_count, number)
        return SplitCounts(total, rest, stored_count, f"{how} {facts.frames.source}")


def distinct_splits(config: DatasetConfig, splits: Sequence[str]) -> tuple[str, ...]:
    """Return the splits that together contain all clips of `splits`, none of them twice."""
    wanted = tuple(dict.fromkeys(splits))
    # A split within others is left out if all of those are present: together they have every clip of it.
    return tuple(s for s in wanted if not (within := config.splits[s].within) or not set(within) <= set(wanted))


def count_audited(clips: Iterable[ClipFacts], config: BackboneConfig) -> Portion:
    """Count exactly, from the frames that decode within the seconds that are read."""
    number = windows = vectors = 0
    # Many clips have equal lengths, so each length is computed once.
    for (native, fps), times in Counter((clip.frames, clip.fps) for clip in clips).items():
        # The reader keeps frames that start at or before max_seconds; frame 0 starts at 0, hence the + 1.
        seconds = config.frames.max_seconds
        read = native if seconds is None or fps <= 0 else min(native, math.floor(seconds * fps) + 1)
        sampled = -(-read // config.frames.stride)  # rounded up: frame 0 is always sampled
        number += times
        windows += times * config.frames.windows(sampled)
        vectors += times * config.vectors(sampled)
    return Portion(counted(number), counted(windows), counted(vectors))


def count_from_config(clips: Amount, lengths: ClipLengths, config: BackboneConfig) -> Portion:
    """Count or estimate windows and vectors from what a data set's config states of a split's lengths.

    Exact only if the config has counts of this very sampling. Otherwise from the mean length, assuming that lengths are
    spread evenly over one window: then the mean of ceil(length / window) is taken over that spread, not at the mean length.

    Args:
        clips: Number of the split's clips.
        lengths: What the config states of their lengths in native frames.
        config: The backbone, which says how clips are sampled and cut into windows.
    """
    number, frames, count = clips.likely, config.frames, lengths.counted
    windows, vectors = _estimate_by_mean(clips, lengths, config)
    # With overlap, windows are more than the config counted, and without tail windows fewer.
    same_windows = count is not None and count.window == frames.window == frames.hop and frames.tail_window
    if count is not None and same_windows and count.stride == frames.stride:
        total_vectors = config.vectors(count.sampled)
        # With one vector per frame the total is the sum over clips; otherwise each clip's last step is rounded up by itself.
        one_each = total_vectors == count.sampled
        return Portion(clips, counted(count.windows), counted(total_vectors) if one_each else vectors)
    if lengths.total is not None:
        # Limits for any distribution of lengths: every clip's last window is full, or holds a single frame; without tail
        # windows, up to hop - 1 frames of a clip are in none.
        steps = lengths.total / (frames.stride * frames.hop)
        outside = 0 if frames.tail_window else frames.hop - 1
        least = max(number, number + steps - number * (frames.window + outside) / frames.hop)
        windows = estimated(windows.likely, least, steps + number)
    return Portion(clips, windows, vectors)


def _estimate_by_mean(clips: Amount, lengths: ClipLengths, config: BackboneConfig) -> tuple[Amount, Amount]:
    """Return windows and vectors, estimated from the mean length of a clip."""
    stride, count = config.frames.stride, lengths.counted
    if lengths.total is not None:
        least = most = lengths.total / clips.likely
    else:
        assert lengths.mean is not None
        least, most = lengths.mean
    # Sampling every stride-th frame rounds up: on average (stride - 1) / 2 native frames follow the last sample.
    means = [native / stride + (stride - 1) / (2 * stride) for native in (least, most)]
    if count is not None and count.stride == stride:
        means = [count.sampled / clips.likely] * 2
    windows, vectors = (
        [clips.likely * _average(function, mean, config.frames.hop) for mean in means]
        for function in (config.frames.windows, config.vectors)
    )
    return estimated(sum(windows) / 2, *windows), estimated(sum(vectors) / 2, *vectors)


def _average(function: Callable[[int], int], mean: float, period: int) -> float:
    """Mean of `function` over lengths that are spread evenly over one period around `mean`, each at least 1."""

    def interpolate(length: float) -> float:
        length = max(1.0, length)
        below = math.floor(length)
        part = length - below
        return (1 - part) * function(below) + part * function(below + 1)

    first = mean - (period - 1) / 2
    return sum(interpolate(first + offset) for offset in range(period)) / period
