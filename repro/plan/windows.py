"""Clips, windows and vectors of splits and of parts of them in this workspace.

They are counted clip by clip if an audit has counted frames, else estimated from what a data set's config states.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from repro.backbones.config import BackboneConfig
from repro.core.errors import UsageError
from repro.datasets.config import ClipLengths, DatasetConfig
from repro.datasets.manifest import ClipFacts
from repro.pipeline.assumptions import load_assumptions
from repro.plan.amounts import Amount, counted, estimated
from repro.plan.workspace_state import WorkspaceState


@dataclass(frozen=True, slots=True)
class Portion:
    """Clips, and the windows and vectors that extraction makes of them."""

    clips: Amount
    windows: Amount
    vectors: Amount
    short_windows: Amount
    """Windows that the end of their clip cuts short."""

    def __add__(self, other: "Portion") -> "Portion":
        return Portion(
            self.clips + other.clips,
            self.windows + other.windows,
            self.vectors + other.vectors,
            self.short_windows + other.short_windows,
        )

    def share(self, part: int, of: int) -> "Portion":
        """Return the share of `part` clips out of `of`."""
        return Portion(
            # A number of clips is exact although their windows are not: clips differ in length.
            counted(part) if self.clips.exact else self.clips.share(part, of),
            self.windows.share(part, of),
            self.vectors.share(part, of),
            self.short_windows.share(part, of),
        )


NO_CLIPS = Portion(counted(0), counted(0), counted(0), counted(0))


class ClipCounter:
    """Names the clips of splits, and counts the windows and vectors of any of them."""

    def __init__(self, state: WorkspaceState) -> None:
        self.state = state
        self.list_clips = cache(self._list_clips)
        self.splits_by_size = cache(self._splits_by_size)
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

    def _list_clips(self, dataset: str, split: str) -> tuple[str, ...]:
        """Return the ids of a split's clips; until the annotation files have been read, made-up ones.

        Made-up ids are shared by a split and those it is within, and by no others as long as there are enough.

        Raises:
            UsageError: as count_clips.
        """
        listed, config = self.state.listed_dataset(dataset), self.state.dataset_config(dataset)
        if listed is not None:
            return tuple(clip.id for clip in listed.split(split).clips)
        number = round(self.count_clips(dataset, split).likely)
        within = config.splits[split].within
        if not within:
            return tuple(f"{split} {n}" for n in range(number))
        # Made-up ids of a split within others are some of theirs, so that clips in both are counted once.
        around = [clip for one in within for clip in self.list_clips(dataset, one)]
        before = list(config.splits)[: list(config.splits).index(split)]
        first = sum(len(self.list_clips(dataset, one)) for one in before if config.splits[one].within == within)
        return tuple(around[n % len(around)] for n in range(first, first + number))

    def count_portion(self, dataset: str, clips: Collection[str], backbone: str) -> Portion:
        """Count clips, and the windows and vectors that a backbone makes of them.

        Complete splits are counted as such. Of others, clips count as their mean, unless an audit has counted each.

        Args:
            dataset: Name of the data set.
            clips: Ids, of clips of its splits.
            backbone: The backbone's label (WorkspaceState.label_backbone).

        Raises:
            UsageError: neither an audit nor the data set's config state how long the clips of a split are.
        """
        audit = self.state.audited_clips(dataset)
        if audit:
            return count_audited((audit[clip] for clip in clips if clip in audit), self.state.backbone(backbone))
        # Complete splits first, whose numbers of windows configs state; what remains is a share of the
        # smallest split that has it.
        rest, total = set(clips), NO_CLIPS
        for split, ids in reversed(self.splits_by_size(dataset)):
            # A split whose lengths are not known is refused below, if no others contain its clips.
            if ids and ids <= rest and self.state.dataset_config(dataset).splits[split].frames is not None:
                total += self.count_split(dataset, split, backbone)
                rest -= ids
        for split, ids in self.splits_by_size(dataset):
            # Clips differ in length, so that a share of a split is an estimate.
            if part := rest & ids:
                total += self.count_split(dataset, split, backbone).share(len(part), len(ids))
                rest -= part
        return total

    def _splits_by_size(self, dataset: str) -> list[tuple[str, frozenset[str]]]:
        """Return the ids of each split, the smallest first; splits whose lengths are not known come last, the largest first."""
        facts = self.state.dataset_config(dataset).splits
        splits = [(name, frozenset(self.list_clips(dataset, name))) for name in facts]
        return sorted(splits, key=lambda one: (1, -len(one[1])) if facts[one[0]].frames is None else (0, len(one[1])))

    def _count_split(self, dataset: str, split: str, backbone: str) -> Portion:
        """Count a complete split; the arguments and errors are those of count_portion."""
        config = self.state.backbone(backbone)
        if self.state.audited_clips(dataset):
            return self.count_portion(dataset, self.list_clips(dataset, split), backbone)
        return count_from_config(self.count_clips(dataset, split), self._read_lengths(dataset, split), config)

    def describe_basis(self, dataset: str, split: str, backbone: str) -> str:
        """Return where the counts of a split come from."""
        if self.state.audited_clips(dataset):
            return "frames counted by `repro data audit`"
        how = "counted from" if self.count_split(dataset, split, backbone).windows.exact else "estimated from"
        return f"{how} {self._read_lengths(dataset, split).source}"

    def _read_lengths(self, dataset: str, split: str) -> ClipLengths:
        config = self.state.dataset_config(dataset)
        lengths = config.splits[split].frames
        if lengths is None and config.own_listing is not None:
            # No file states them, and without their videos, as imported ones are, nobody can count them.
            return load_assumptions().own_clips
        if lengths is None:
            raise UsageError(
                f"data {dataset}: splits.{split} does not say how long its clips are (frames): run `repro data audit "
                f"{config.argument}`, which counts them, once the data are in the workspace"
            )
        return lengths


def distinct_splits(config: DatasetConfig, splits: Sequence[str]) -> tuple[str, ...]:
    """Return the splits that together contain all clips of `splits`, none of them twice."""
    wanted = tuple(dict.fromkeys(splits))
    # A split within others is left out if all of those are present: together they have every clip of it.
    return tuple(s for s in wanted if not (within := config.splits[s].within) or not set(within) <= set(wanted))


def count_audited(clips: Iterable[ClipFacts], config: BackboneConfig) -> Portion:
    """Count exactly, from the frames that decode within the seconds that are read."""
    number = windows = vectors = short = 0
    # Many clips have equal lengths, so each length is computed once.
    for (native, fps), times in Counter((clip.frames, clip.fps) for clip in clips).items():
        sampled = config.frames.count_sampled(native, fps)
        number += times
        windows += times * config.frames.windows(sampled)
        vectors += times * config.vectors(sampled)
        short += times * config.frames.ends_in_short_window(sampled)
    return Portion(counted(number), counted(windows), counted(vectors), counted(short))


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
    # Of lengths that are spread evenly, one in `hop` ends with a complete window.
    short = estimated(number * (1 - 1 / frames.hop), 0, number) if frames.tail_window else estimated(0, 0, number)
    # With overlap, windows are more than the config counted, and without tail windows fewer.
    same_windows = count is not None and count.window == frames.window == frames.hop and frames.tail_window
    if count is not None and same_windows and count.stride == frames.stride:
        total_vectors = config.vectors(count.sampled)
        # With one vector per frame the total is the sum over clips; otherwise each clip's last step is rounded up by itself.
        one_each = total_vectors == count.sampled
        return Portion(clips, counted(count.windows), counted(total_vectors) if one_each else vectors, short)
    if lengths.total is not None:
        # Limits for any distribution of lengths: every clip's last window is full, or holds a single frame; without tail
        # windows, up to hop - 1 frames of a clip are in none.
        steps = lengths.total / (frames.stride * frames.hop)
        outside = 0 if frames.tail_window else frames.hop - 1
        least = max(number, number + steps - number * (frames.window + outside) / frames.hop)
        windows = estimated(windows.likely, least, steps + number)
    return Portion(clips, windows, vectors, short)


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
