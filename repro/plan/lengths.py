"""From clips to windows and vectors: clip by clip if an audit has counted frames, else from what is known of a split."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from repro.backbones.config import BackboneConfig
from repro.datasets.config import ClipLengths
from repro.datasets.manifest import ClipFacts
from repro.plan.amounts import Amount, counted, estimated


@dataclass(frozen=True, slots=True)
class Portion:
    """Clips, and the windows and vectors that extraction makes of them."""

    clips: Amount
    windows: Amount
    vectors: Amount

    def __add__(self, other: "Portion") -> "Portion":
        return Portion(self.clips + other.clips, self.windows + other.windows, self.vectors + other.vectors)

    def share(self, part: int, of: int) -> "Portion":
        return Portion(
            counted(part) if self.clips.exact else self.clips.share(part, of),
            self.windows.share(part, of),
            self.vectors.share(part, of),
        )


NOTHING = Portion(counted(0), counted(0), counted(0))


def from_audit(clips: Iterable[ClipFacts], config: BackboneConfig) -> Portion:
    """Count exactly, from the frames that decode within the seconds that are read."""
    number = windows = vectors = 0
    for (native, fps), times in Counter((clip.frames, clip.fps) for clip in clips).items():
        # The reader keeps frames that start at or before max_seconds; frame 0 starts at 0, hence the + 1.
        read = min(native, math.floor(config.frames.max_seconds * fps) + 1) if fps > 0 else native
        sampled = -(-read // config.frames.stride)
        number += times
        windows += times * config.frames.windows(sampled)
        vectors += times * config.vectors(sampled)
    return Portion(counted(number), counted(windows), counted(vectors))


def from_config(clips: Amount, known: ClipLengths, config: BackboneConfig) -> Portion:
    """Estimate windows and vectors from what the data set's config knows of a split's lengths.

    Exact only if the config counts this very sampling. Otherwise from the mean length, assuming that lengths are spread evenly
    over one window: then the mean of ceil(length / window) is taken over that spread, not at the mean length.
    """
    number, frames, count = clips.likely, config.frames, known.counted
    same_stride = count is not None and count.stride == frames.stride
    if count is not None and same_stride and count.window == frames.window == frames.hop:
        vectors = config.vectors(count.sampled)
        # With one vector per frame the total is the sum over clips; otherwise each clip's last step is rounded up by itself.
        one_each = vectors == count.sampled
        return Portion(clips, counted(count.windows), counted(vectors) if one_each else _mean(clips, known, config)[1])
    windows, vectors_about = _mean(clips, known, config)
    if known.total is not None:
        # Limits for any distribution of lengths: every clip's last window is full, or holds a single frame.
        whole = known.total / (frames.stride * frames.hop)
        least = max(number, number + whole - number * frames.window / frames.hop)
        windows = estimated(windows.likely, least, whole + number)
    return Portion(clips, windows, vectors_about)


def _mean(clips: Amount, known: ClipLengths, config: BackboneConfig) -> tuple[Amount, Amount]:
    """Windows and vectors, by the mean clip."""
    stride, count = config.frames.stride, known.counted
    if known.total is not None:
        least = most = known.total / clips.likely
    else:
        assert known.mean is not None
        least, most = known.mean
    # Sampling every stride-th frame rounds up: on average (stride - 1) / 2 native frames follow the last sample.
    ends = [native / stride + (stride - 1) / (2 * stride) for native in (least, most)]
    if count is not None and count.stride == stride:
        ends = [count.sampled / clips.likely] * 2
    windows, vectors = (
        [clips.likely * averaged(function, mean, config.frames.hop) for mean in ends]
        for function in (config.frames.windows, config.vectors)
    )
    return estimated(sum(windows) / 2, *windows), estimated(sum(vectors) / 2, *vectors)


def averaged(function: Callable[[int], int], mean: float, period: int) -> float:
    """Mean of `function` over lengths that spread evenly over one period around `mean`, each at least 1."""
    first = mean - (period - 1) / 2
    values = [_between(function, first + offset) for offset in range(period)]
    return sum(values) / period


def _between(function: Callable[[int], int], length: float) -> float:
    length = max(1.0, length)
    below = math.floor(length)
    part = length - below
    return (1 - part) * function(below) + part * function(below + 1)
