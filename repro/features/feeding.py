"""Clips as work for extractors: their windows as they are decoded, each with the noise it takes."""

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
"""Cells a clip lacks, by backbone."""


@dataclass(frozen=True, slots=True)
class Work:
    """As many of a clip's next windows as an extractor takes at once."""

    clip: Clip
    extractor: Extractor
    first: int
    """Number of the first of them."""
    frames: tuple[UInt8[np.ndarray, "_ H W 3"], ...]


@dataclass(frozen=True, slots=True)
class End:
    """A clip has been decoded whole, or not."""

    clip: Clip
    decoding: Decoding
    error: VideoError | None


def lacks(missing: Mapping[str, Missing], clip: Clip, extractor: Extractor) -> bool:
    return any(backbone in missing[clip.id] for backbone in extractor.backbones)


def events(
    clips: Sequence[Clip], decodings: Iterable[Decoding], group: Sequence[Extractor], missing: Mapping[str, Missing]
) -> Iterator[Work | End]:
    """Every clip's windows, for each extractor it lacks something of, and its end."""
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
    """A clip's frames on their way to an extractor."""

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
    """Each event with the noise its windows take, drawn in a thread while the event before is computed."""

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
