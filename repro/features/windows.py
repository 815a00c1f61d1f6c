"""Decoded clips cut into windows, batched for extractors, each window with its noise.

Windows are yielded as soon as their frames are decoded: a long clip is never held in memory as a whole.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from repro.backbones.config import Cell
from repro.backbones.config import Frames as FrameSampling
from repro.backbones.extractor import Extractor, Noise
from repro.backbones.noise import SampledNoise, WindowNoise
from repro.datasets.split import Clip
from repro.video.decoders import Decoding
from repro.video.published import Frames, VideoError

MissingCells = dict[str, tuple[Cell, ...]]
"""Cells that a clip is missing, by backbone."""


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Consecutive windows of a clip, as many as an extractor processes at once."""

    clip: Clip
    extractor: Extractor
    first: int
    """Index of the first window within the clip."""
    windows: tuple[UInt8[np.ndarray, "_ H W 3"], ...]


@dataclass(frozen=True, slots=True)
class ClipEnd:
    """The end of a clip: decoded completely, or failed with `error`."""

    clip: Clip
    decoding: Decoding
    error: VideoError | None


Event = WindowBatch | ClipEnd


def is_needed(extractor: Extractor, clip: Clip, missing: Mapping[str, MissingCells]) -> bool:
    """Whether `clip` is missing features of one of the extractor's backbones."""
    return any(backbone in missing[clip.id] for backbone in extractor.backbones)


def batch_windows(
    clips: Sequence[Clip],
    decodings: Iterable[Decoding],
    extractors: Sequence[Extractor],
    missing: Mapping[str, MissingCells],
) -> Iterator[Event]:
    """Yield each clip's windows for every extractor that it needs, and then its end.

    Args:
        clips: The clips.
        decodings: Their frames, in the same order.
        extractors: Extractors that sample frames in the same way, and so share the decoding.
        missing: The missing cells, by clip id.
    """
    for clip, decoding in zip(clips, decodings, strict=True):
        batchers = [_Batcher(clip, extractor) for extractor in extractors if is_needed(extractor, clip, missing)]
        error = None
        try:
            for chunk in decoding:
                for batcher in batchers:
                    yield from batcher.add_chunk(chunk)
            for batcher in batchers:
                yield from batcher.finish_clip()
        except VideoError as failure:
            # Batches of this clip may have been yielded already; whoever stores features must wait for the end.
            error = failure
        yield ClipEnd(clip, decoding, error)


class WindowCutter:
    """Cuts sampled frames, which arrive in chunks of any length, into windows.

    Each window starts `hop` frames after the previous one. A clip's last window is shorter if the clip ends in it, and exists
    only if it has frames that no other window has, and if tail windows are wanted or the clip has no other window. The number
    of windows equals Frames.windows, which plans use.
    """

    def __init__(self, sampling: FrameSampling) -> None:
        self.length, self.hop, self.tail_window = sampling.window, sampling.hop, sampling.tail_window
        self.rest: Frames | None = None
        """Frames received that are not in a complete window, preceded by those that the next window shares."""
        self.count = 0
        """Number of complete windows."""

    def add_chunk(self, chunk: Frames) -> Iterator[Frames]:
        """Yield the windows that `chunk` completes."""
        frames = chunk if self.rest is None else np.concatenate([self.rest, chunk])
        while len(frames) >= self.length:
            yield frames[: self.length]
            self.count += 1
            frames = frames[self.hop :]
        self.rest = frames

    def finish_clip(self) -> Iterator[Frames]:
        """Yield the last, shorter window, if there is one; the next chunk starts a new clip."""
        # After a complete window, the first length - hop frames of the rest were in that window already.
        shared = self.length - self.hop if self.count else 0
        if self.rest is not None and len(self.rest) > shared and (self.tail_window or not self.count):
            yield self.rest
        self.rest, self.count = None, 0


class _Batcher:
    """Cuts one clip into windows and batches them for one extractor."""

    def __init__(self, clip: Clip, extractor: Extractor) -> None:
        self.clip, self.extractor = clip, extractor
        self.cutter = WindowCutter(extractor.frames)
        self.waiting: list[Frames] = []
        self.yielded = 0
        """Number of windows in earlier batches."""

    def add_chunk(self, chunk: Frames) -> Iterator[WindowBatch]:
        for window in self.cutter.add_chunk(chunk):
            yield from self._add_window(window)

    def finish_clip(self) -> Iterator[WindowBatch]:
        for window in self.cutter.finish_clip():
            yield from self._add_window(window)
        # Batches never mix clips: a clip's features must not depend on which clips are computed with it.
        yield from self._yield_batch()

    def _add_window(self, window: Frames) -> Iterator[WindowBatch]:
        self.waiting.append(window)
        if len(self.waiting) == self.extractor.at_once:
            yield from self._yield_batch()

    def _yield_batch(self) -> Iterator[WindowBatch]:
        if self.waiting:
            yield WindowBatch(self.clip, self.extractor, self.yielded, tuple(self.waiting))
            self.yielded += len(self.waiting)
            self.waiting = []


def add_noise(
    events: Iterator[Event], video_sha256: Mapping[str, str], device: str
) -> Iterator[tuple[Event, list[Noise]]]:
    """Yield each event with the noise of its windows.

    Args:
        events: What batch_windows yields.
        video_sha256: sha256 of each clip's video, by clip id. Noise is seeded by video and window index, so that it depends on
            neither the order of clips nor the batch.
        device: Where the networks run. On a CPU the noise is sampled in a thread while the event before is computed; a GPU
            samples its own when the networks ask for it, in a small part of a window's time.
    """

    def make_noise(event: Event) -> list[Noise]:
        if isinstance(event, ClipEnd):
            return []
        seed, sha256 = event.extractor.noise_seed, video_sha256[event.clip.id]
        noises = [WindowNoise(seed, sha256, event.first + number) for number in range(len(event.windows))]
        if device != "cpu":
            return list(noises)
        shapes = [event.extractor.noise_shapes(len(window)) for window in event.windows]
        return [SampledNoise.of(noise, shape) for noise, shape in zip(noises, shapes, strict=True)]

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="noise") as thread:
        # One event ahead is enough: sampling takes less time than computing, and more would hold frames in memory.
        ahead: deque[tuple[Event, Future[list[Noise]]]] = deque()
        for event in events:
            ahead.append((event, thread.submit(make_noise, event)))
            if len(ahead) > 1:
                current, noises = ahead.popleft()
                yield current, noises.result()
        for current, noises in ahead:
            yield current, noises.result()
