"""Decoding in worker processes: ahead of the backbone, under a time limit, with PyAV where decord fails.

decord can hang on a damaged file while it holds the interpreter's lock, and can take its process down; both cost one
worker here and no more. Frames do not depend on how many workers there are: each clip is decoded whole by one reader,
and clips are handed out in the order they were asked for.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

from repro.video.readers import READERS, Frames, VideoError

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
    """Where PyAV had to step in, why."""

    def __iter__(self) -> Iterator[Frames]:
        return self.chunks


class _ReaderFailed(Exception):
    """A worker's reader said no."""


class _WorkerLost(_ReaderFailed):
    """A worker died or took too long."""


def spare_cores() -> int:
    """Processes that decode where nothing else is said: one core is left for what feeds the device."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def silence() -> None:
    """Drop FFmpeg's own complaints; errors travel through the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _serve(pipe: Connection) -> None:
    """A worker's life: take jobs from `pipe`, send frames back, until it closes."""
    silence()
    while True:
        try:
            job, reader, skip = pipe.recv()
            try:
                for number, frames in enumerate(READERS[reader](job.path, job.stride, job.max_seconds, job.chunk)):
                    if number >= skip:
                        pipe.send(frames)
                pipe.send(None)
            except (EOFError, BrokenPipeError):
                return
            except Exception as error:
                # Whatever a reader makes of a damaged file is that clip's failure, said to the parent.
                pipe.send(str(error) if isinstance(error, VideoError) else f"{type(error).__name__}: {error}")
        except (EOFError, BrokenPipeError):
            return


class Worker:
    """A process that runs `serve` on its end of a pipe."""

    def __init__(self, serve: Callable[[Connection], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True, name="decoder")
        resource_tracker.ensure_running()  # else the first start() does this, and leaves interrupts unblocked
        # Blocked here, an interrupt stays blocked in the child, which is ended by its pipe, and waits for the parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()

    def send(self, *job: object) -> None:
        self.pipe.send(job)

    def frames(self, time_limit: float) -> Iterator[Frames]:
        """Chunks of the job in hand, where `serve` sends any.

        Raises:
            _ReaderFailed: with the reason in words.
        """
        while True:
            if not self.pipe.poll(time_limit):
                raise _WorkerLost(f"no frame within {time_limit:g} s")
            try:
                message = self.pipe.recv()
            except (EOFError, OSError) as error:
                raise _WorkerLost("its process died") from error
            if message is None:
                return
            if isinstance(message, str):
                raise _ReaderFailed(message)
            yield message

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass(slots=True)
class Decoders:
    """A pool of decoding processes; use it in a `with`."""

    workers: int = 1
    time_limit: float = TIME_LIMIT
    _pool: list[Worker] = field(default_factory=list)

    def __enter__(self) -> "Decoders":
        self._pool = [Worker(_serve) for _ in range(self.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._pool:
            worker.kill()
        self._pool = []

    def decode(self, jobs: Sequence[Job]) -> Iterator[Decoding]:
        """Every job's clip, in order; up to `workers` clips are decoded ahead.

        Iterating over a clip raises VideoError if neither reader can decode it; the next clips come all the same.
        A clip must be iterated to its end or its error before the next is asked for; what is left is passed over.
        """
        ahead = min(self.workers, len(jobs))
        for slot in range(ahead):
            self._pool[slot].send(jobs[slot], "decord", 0)
        for number, job in enumerate(jobs):
            slot = number % self.workers
            decoding = Decoding(job, iter(()))
            decoding.chunks = self._chunks(slot, decoding)
            yield decoding
            for _ in _until_error(decoding.chunks):
                pass
            if ahead < len(jobs):
                # ahead % workers is this very slot: workers take turns.
                self._pool[slot].send(jobs[ahead], "decord", 0)
                ahead += 1

    def _chunks(self, slot: int, decoding: Decoding) -> Iterator[Frames]:
        delivered = 0
        try:
            for frames in self._pool[slot].frames(self.time_limit):
                delivered += 1
                yield frames
            decoding.reader = "decord"
            return
        except _ReaderFailed as failure:
            self._replace_if_lost(slot, failure)
            decoding.reader, decoding.instead = "pyav", str(failure)
        # Both readers give the same frames, so PyAV goes on where decord stopped.
        self._pool[slot].send(decoding.job, "pyav", delivered)
        try:
            yield from self._pool[slot].frames(self.time_limit)
        except _ReaderFailed as failure:
            self._replace_if_lost(slot, failure)
            text = str(failure)
            raise VideoError(text if text.startswith("clip ") else f"clip {decoding.job.path}: {text}") from failure

    def _replace_if_lost(self, slot: int, failure: _ReaderFailed) -> None:
        """A worker that answered is kept; one that hangs or died is replaced."""
        if isinstance(failure, _WorkerLost):
            self._pool[slot].kill()
            self._pool[slot] = Worker(_serve)


def _until_error(chunks: Iterator[Frames]) -> Iterator[Frames]:
    try:
        yield from chunks
    except VideoError:
        return
