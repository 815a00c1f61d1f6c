"""Decoded clips as work for extractors: windows as soon as their frames are decoded, each with its noise."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from repro.backbones.config import Cell
from repro.backbones.extractor import Extractor
from repro.backbones.noise import SampledNoise, WindowNoise
from repro.datasets.split import Clip
from repro.features.windows import Windows
from repro.video.decoders import Decoding
from repro.video.readers import Frames, VideoError

Missing = dict[str, tuple[Cell, ...]]
"""Cells that a clip is missing, by backbone."""


@dataclass(frozen=True, slots=True)
class Work:
    """As many of a clip's next windows as an extractor processes at once."""

    clip: Clip
    extractor: Extractor
    first: int
    """Index of the first window within the clip."""
    frames: tuple[UInt8[np.ndarray, "_ H W 3"], ...]


@dataclass(frozen=True, slots=True)
class End:
    """The end of a clip: decoded completely, or failed with `error`."""

    clip: Clip
    decoding: Decoding
    error: VideoError | None


def lacks(missing: Mapping[str, Missing], clip: Clip, extractor: Extractor) -> bool:
    return any(backbone in missing[clip.id] for backbone in extractor.backbones)


def events(
    clips: Sequence[Clip], decodings: Iterable[Decoding], group: Sequence[Extractor], missing: Mapping[str, Missing]
) -> Iterator[Work | End]:
    """Yield every clip's windows, for each extractor whose features it is missing, and then its end."""
    for clip, decoding in zip(clips, decodings, strict=True):
        cutting = [_Cutting(clip, extractor) for extractor in group if lacks(missing, clip, extractor)]
        error = None
        try:
            for chunk in decoding:
                for one in cutting:
                    yield from one.add(chunk)
            for one in cutting:
                yield from one.end()
        except VideoError as failed:
            error = failed
        yield End(clip, decoding, error)


class _Cutting:
    """Cuts a clip's frames into windows and groups them for one extractor."""

    def __init__(self, clip: Clip, extractor: Extractor) -> None:
        self.clip, self.extractor = clip, extractor
        self.windows = Windows(extractor.frames)
        self.waiting: list[Frames] = []
        self.gone = 0

    def add(self, chunk: Frames) -> Iterator[Work]:
        for frames in self.windows.add(chunk):
            yield from self._gather(frames)

    def end(self) -> Iterator[Work]:
        for frames in self.windows.end():
            yield from self._gather(frames)
        yield from self._leave()

    def _gather(self, frames: Frames) -> Iterator[Work]:
        self.waiting.append(frames)
        if len(self.waiting) == self.extractor.at_once:
            yield from self._leave()

    def _leave(self) -> Iterator[Work]:
        if self.waiting:
            yield Work(self.clip, self.extractor, self.gone, tuple(self.waiting))
            self.gone += len(self.waiting)
            self.waiting = []


def with_noise(
    coming: Iterator[Work | End], video_sha256: Mapping[str, str]
) -> Iterator[tuple[Work | End, list[SampledNoise]]]:
    """Yield each event with its windows' noise, sampled in a thread while the event before is computed.

    One event ahead is enough: sampling takes less time than computing, and more would hold frames in memory.
    """

    def draw(event: Work | End) -> list[SampledNoise]:
        if isinstance(event, End):
            return []
        seed, sha256 = event.extractor.noise_seed, video_sha256[event.clip.id]
        return [
            SampledNoise.of(WindowNoise(seed, sha256, number), event.extractor.noise_shapes(len(frames)))
            for number, frames in enumerate(event.frames, start=event.first)
        ]

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="noise") as thread:
        ahead: deque[tuple[Work | End, Future[list[SampledNoise]]]] = deque()
        for event in coming:
            ahead.append((event, thread.submit(draw, event)))
            if len(ahead) > 1:
                current, noises = ahead.popleft()
                yield current, noises.result()
        for current, noises in ahead:
            yield current, noises.result()
