"""Decoded clips cut into windows, batched for extractors, each window with its noise.

Windows are yielded as soon as their frames are decoded: a long clip is never held in memory as a whole.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from repro.backbones.config import Cell, FrameSampling
from repro.backbones.extractor import Extractor, Launches, Noise
from repro.backbones.noise import SampledNoise, WindowNoise
from repro.datasets.split import Clip
from repro.video.decoders import Decoding
from repro.video.published import Frames, VideoError, estimate_frames

SAMPLED_CLIPS = 200
"""Clips whose length is read to estimate what all of them will take."""
LARGE = 256 << 20
"""Bytes of frames of a batch beyond which the next one waits until it is computed: a window of 4K takes 622 MB."""
MissingCells = dict[str, tuple[Cell, ...]]
"""Cells that a clip is missing, by backbone."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Consecutive frames of a clip, which are computed together."""

    clip: Clip
    number: int
    """Index within the clip."""
    frames: Frames


@dataclass(frozen=True, slots=True, eq=False)
class WindowBatch:
    """As many windows as an extractor processes at once: consecutive ones of a clip, or also of the clips after it."""

    extractor: Extractor
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ClipEnd:
    """The end of a clip: decoded completely, or failed with `error`."""

    clip: Clip
    decoding: Decoding
    error: VideoError | None
    windows: int
    """Number of its windows, for all extractors together. Some may be yielded later, with windows of the next clips."""


Event = WindowBatch | ClipEnd


def estimate_windows(clips: Sequence[Clip], frames: FrameSampling) -> list[float]:
    """Estimate the windows of each clip from declared lengths; empty if none declares one.

    Lengths are read of SAMPLED_CLIPS clips, spread over the list: it is ordered by class, and classes differ in the length of
    their clips. The clips after one of these count as it; clips that declare no length count as average.
    """
    # Evenly spread over the list: data sets list clips of one class, and so of similar length, together.
    step = max(1, len(clips) // SAMPLED_CLIPS)
    # From the containers' headers: decoding to count would take as long as the extraction.
    declared = [estimate_frames(clip.path, frames.last_second) for clip in clips[::step]]
    counts = [float(frames.windows(-(-number // frames.stride))) for number in declared]
    known = [count for count in counts if count]
    if not known:
        return []
    # A clip whose header states no length counts as an average one.
    mean = sum(known) / len(known)
    return [counts[index // step] or mean for index in range(len(clips))]


def is_needed(extractor: Extractor, clip: Clip, missing: Mapping[str, MissingCells]) -> bool:
    """Whether `clip` is missing features of one of the extractor's backbones."""
    return any(backbone in missing[clip.id] for backbone in extractor.backbones)


def batch_windows(
    clips: Sequence[Clip],
    decodings: Iterable[Decoding],
    extractors: Sequence[Extractor],
    missing: Mapping[str, MissingCells],
) -> Iterator[Event]:
    """Yield each clip's windows for every extractor that it needs, and its end.

    Args:
        clips: The clips.
        decodings: Their frames, in the same order.
        extractors: Extractors that sample frames in the same way, and so share the decoding.
        missing: The missing cells, by clip id.
    """
    batchers = [_Batcher(extractor) for extractor in extractors]
    for clip, decoding in zip(clips, decodings, strict=True):
        needed = [batcher for batcher in batchers if is_needed(batcher.extractor, clip, missing)]
        for batcher in needed:
            batcher.start_clip(clip)
        error = None
        try:
            for chunk in decoding:
                for batcher in needed:
                    yield from batcher.add_windows(batcher.cutter.add_chunk(chunk))
            for batcher in needed:
                yield from batcher.add_windows(batcher.cutter.finish_clip())
        except VideoError as failure:
            # Batches of this clip may have been yielded already; whoever stores features must wait for the end.
            error = failure
            for batcher in needed:
                batcher.drop_clip()
        for batcher in needed:
            if not batcher.mixes_clips:
                yield from batcher.yield_rest()
        yield ClipEnd(clip, decoding, error, sum(batcher.count for batcher in needed))
    for batcher in batchers:
        yield from batcher.yield_rest()


class WindowCutter:
    """Cuts sampled frames, which arrive in chunks of any length, into windows.

    Each window starts `hop` frames after the previous one. A clip's last window is shorter if the clip ends in it, and exists
    only if it has frames that no other window has, and if tail windows are wanted or the clip has no other window. The number
    of windows equals Frames.windows, which plans use.
    """

    def __init__(self, sampling: FrameSampling) -> None:
        self.length, self.hop, self.tail_window = sampling.window, sampling.hop, sampling.tail_window
        self.window: Frames | None = None
        """Frames of the window that is not complete yet, the first `filled` of which have arrived."""
        self.filled = 0
        self.count = 0
        """Number of complete windows."""

    def add_chunk(self, chunk: Frames) -> Iterator[Frames]:
        """Yield the windows that `chunk` completes."""
        while len(chunk):
            # Copied into one array that is a window alone: a part of a larger one would keep all of that in memory.
            if self.window is None:
                self.window = np.empty((self.length, *chunk.shape[1:]), chunk.dtype)
            part, chunk = chunk[: self.length - self.filled], chunk[self.length - self.filled :]
            self.window[self.filled : self.filled + len(part)] = part
            self.filled += len(part)
            if self.filled == self.length:
                complete, self.window, self.filled = self.window, None, 0
                self.count += 1
                # The overlap begins the next window. Copied: windows that share memory would keep each other in it.
                if self.hop < self.length:
                    self.window, self.filled = np.empty_like(complete), self.length - self.hop
                    self.window[: self.filled] = complete[self.hop :]
                yield complete
                del complete

    def finish_clip(self) -> Iterator[Frames]:
        """Yield the last, shorter window, if there is one; the next chunk starts a new clip."""
        # After a complete window, the first length - hop frames of the rest were in that window already.
        shared = self.length - self.hop if self.count else 0
        if self.window is not None and self.filled > shared and (self.tail_window or not self.count):
            yield self.window[: self.filled]
        self.window, self.filled, self.count = None, 0, 0


class _Batcher:
    """Cuts clips into windows and batches them for one extractor."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.mixes_clips = isinstance(extractor, Launches) and extractor.mixes_clips
        self.waiting: list[Window] = []

    def start_clip(self, clip: Clip) -> None:
        self.clip, self.cutter, self.count = clip, WindowCutter(self.extractor.frames), 0

    def add_windows(self, windows: Iterable[Frames]) -> Iterator[WindowBatch]:
        for frames in windows:
            self.waiting.append(Window(self.clip, self.count, frames))
            self.count += 1
            if len(self.waiting) >= self.extractor.at_once:
                yield from self.yield_rest()

    def drop_clip(self) -> None:
        self.waiting = [window for window in self.waiting if window.clip is not self.clip]

    def yield_rest(self) -> Iterator[WindowBatch]:
        if self.waiting:
            batch, self.waiting = WindowBatch(self.extractor, tuple(self.waiting)), []
            yield batch


def add_noise(
    events: Iterator[Event], video_sha256: Mapping[str, str], device: str, *, compiled: bool = False
) -> Iterator[tuple[Event, list[Noise]]]:
    """Yield each event with the noise of its windows.

    Args:
        events: What batch_windows yields.
        video_sha256: sha256 of each clip's video, by clip id. Noise is seeded by video and window index, so that it depends on
            neither the order of clips nor the batch.
        device: Where the networks run. On a CPU the noise is sampled in a thread while the event before is computed; a GPU
            samples its own when the networks ask for it, in a small part of a window's time.
        compiled: Sample it in a compiled kernel on a GPU.
    """

    def make_noise(event: Event) -> list[Noise]:
        if isinstance(event, ClipEnd):
            return []
        extractor = event.extractor
        noises = [WindowNoise(extractor.noise_seed, video_sha256[w.clip.id], w.number, compiled) for w in event.windows]
        if device != "cpu":
            return list(noises)
        # On a CPU a thread samples the noise while the network computes; on a GPU it is sampled there.
        shapes = [extractor.noise_shapes(len(window.frames)) for window in event.windows]
        return [SampledNoise.of(noise, shape) for noise, shape in zip(noises, shapes, strict=True)]

    if device != "cpu":
        for event in events:
            yield event, make_noise(event)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="noise") as thread:
        # One event ahead is enough: sampling takes less time than computing, and more would hold frames in memory.
        ahead: deque[tuple[Event, Future[list[Noise]]]] = deque()
        for event in events:
            ahead.append((event, thread.submit(make_noise, event)))
            while len(ahead) > (0 if _is_large(event) else 1):
                current, noises = ahead.popleft()
                yield current, noises.result()
                del current, noises
            del event  # else it would stay in memory while the next one is made
        for current, noises in ahead:
            yield current, noises.result()


def _is_large(event: Event) -> bool:
    return isinstance(event, WindowBatch) and sum(window.frames.nbytes for window in event.windows) > LARGE
