"""Decoding in worker processes: ahead of the backbone, under a time limit, with PyAV where decord fails.

decord can hang on a damaged file while it holds the interpreter's lock, and can crash its process; either costs one worker
here and no more. Frames do not depend on the number of workers: each clip is decoded completely by one reader, and clips
are returned in the order they were requested.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.video.readers import READERS, Frames, VideoError, describe_failure, silence_ffmpeg
from repro.video.workers import Send, Work, WorkerLostError, WorkerPool

TIME_LIMIT = 120.0
"""Seconds a worker may take for one chunk of frames."""


@dataclass(frozen=True, slots=True)
class Job:
    """One clip to decode: `chunk` sampled frames at a time."""

    path: Path
    stride: int
    max_seconds: float
    chunk: int


@dataclass(slots=True)
class Decoding:
    """A clip being decoded: iterate over it for its frames, `[<= chunk, H, W, 3]` each; read `reader` afterwards."""

    job: Job
    chunks: Iterator[Frames]
    reader: str = ""
    """What decoded it: decord or pyav."""
    instead: str = ""
    """Why PyAV had to replace decord; empty if decord read the clip."""

    def __iter__(self) -> Iterator[Frames]:
        return self.chunks


class _ReaderFailed(Exception):
    """A worker's reader refused the clip, or its worker was lost."""


def spare_cores() -> int:
    """Return the default number of decoding processes: one core is left for what feeds the device."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(frozen=True, slots=True)
class _ReaderJob:
    job: Job
    reader: str
    skip: int
    """Chunks that another reader has delivered already."""


def prepare_decoding() -> Work:
    """Run once in each decoding process."""
    silence_ffmpeg()
    return decode_clip


def decode_clip(job: _ReaderJob, send: Send) -> str:
    """Send a clip's chunks of frames; returns why it could not be decoded, or an empty string."""
    clip = job.job
    try:
        for number, frames in enumerate(READERS[job.reader](clip.path, clip.stride, clip.max_seconds, clip.chunk)):
            if number >= job.skip:
                send(frames)
    except Exception as error:  # whatever a reader makes of a damaged file is that clip's failure
        return describe_failure(error)
    return ""


class Decoders:
    """A pool of decoding processes; use it in a `with`.

    Args:
        workers: How many clips are decoded at once.
        time_limit: Seconds a worker may take for one chunk of frames.
    """

    def __init__(self, workers: int = 1, time_limit: float = TIME_LIMIT) -> None:
        self.time_limit = time_limit
        self.pool: WorkerPool[_ReaderJob] = WorkerPool(prepare_decoding, (), name="decoder", size=workers)

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.__exit__()

    def decode(self, jobs: Sequence[Job]) -> Iterator[Decoding]:
        """Yield every job's clip, in order; up to `workers` clips are decoded ahead.

        Iterating over a clip raises VideoError if neither reader can decode it; the next clips still come. A clip must be
        iterated to its end or its error before the next is requested; the rest of its frames is skipped.
        """
        ahead = min(self.pool.size, len(jobs))
        for place in range(ahead):
            self.pool.send(place, _ReaderJob(jobs[place], "decord", 0))
        for number, job in enumerate(jobs):
            place = number % self.pool.size
            decoding = Decoding(job, iter(()))
            decoding.chunks = self._chunks(place, decoding)
            yield decoding
            for _ in _until_error(decoding.chunks):
                pass
            if ahead < len(jobs):
                # Workers take turns, so the worker that is free now is the one whose turn job `ahead` is.
                self.pool.send(place, _ReaderJob(jobs[ahead], "decord", 0))
                ahead += 1

    def _chunks(self, place: int, decoding: Decoding) -> Iterator[Frames]:
        delivered = 0
        try:
            for frames in self._received(place):
                delivered += 1
                yield frames
            decoding.reader = "decord"
            return
        except _ReaderFailed as failure:
            decoding.reader, decoding.instead = "pyav", str(failure)
        # Both readers give the same frames, so PyAV continues where decord stopped.
        self.pool.send(place, _ReaderJob(decoding.job, "pyav", delivered))
        try:
            yield from self._received(place)
        except _ReaderFailed as failure:
            text = str(failure)
            raise VideoError(text if text.startswith("clip ") else f"clip {decoding.job.path}: {text}") from failure

    def _received(self, place: int) -> Iterator[Frames]:
        """Yield the chunks that the worker at `place` sends.

        Raises:
            _ReaderFailed: the message says why.
        """
        while True:
            try:
                answer = self.pool.receive(place, self.time_limit)
            except WorkerLostError as error:
                raise _ReaderFailed(str(error)) from error
            if not answer.is_last:
                yield answer.value
            elif answer.value:
                raise _ReaderFailed(answer.value)
            else:
                return


def _until_error(chunks: Iterator[Frames]) -> Iterator[Frames]:
    try:
        yield from chunks
    except VideoError:
        return
