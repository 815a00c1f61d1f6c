"""Decoding in worker processes: ahead of the backbone and under a time limit.

A decoder can hang on a damaged file while it holds the interpreter's lock, and can crash its process; either costs one worker
here and no more. Frames do not depend on the number of workers: each clip is decoded completely by one reader, and clips
are returned in the order they were requested.
"""

import ctypes
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from repro.core.errors import state_reason
from repro.video.published import Frames, VideoError
from repro.video.readers import open_clip, read_frames
from repro.video.sampling import Sampling
from repro.video.workers import Send, WorkerLostError, WorkerPool, WorkFunction

TIME_LIMIT = 120.0
"""Seconds a worker may take without a sign of life: FRAMES_PER_SIGN native frames, or one chunk of sampled ones."""
M_PERTURB = -6
"""glibc's parameter of mallopt: new memory is filled with the complement of the value, freed memory with the value."""
BYTES_AHEAD = 64 << 20
"""Frames that a worker decodes before the first of them is taken: 11 s of UCF101 at every 4th frame. At least one chunk."""


@dataclass(frozen=True, slots=True)
class Job:
    """One clip to decode."""

    path: Path
    sampling: Sampling


@dataclass(slots=True)
class Decoding:
    """A clip being decoded: iterate over it for its frames, `[<= chunk, H, W, 3]` each; read `damage` and `still`
    afterwards."""

    job: Job
    chunks: Iterator[Frames]
    damage: str = ""
    """Why the clip counts as damaged, if its job allows damaged clips; else empty."""
    still: str = ""
    """Why its one frame is a still picture next to the video; else empty."""

    def __iter__(self) -> Iterator[Frames]:
        return self.chunks


def count_spare_cores() -> int:
    """Return the default number of decoding processes: one core is left for what feeds the device."""
    # The cores that this process may use: a container or a job has fewer than the machine.
    return max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a decoding process reports of a clip at its end."""

    error: str = ""
    damage: str = ""
    still: str = ""


def prepare_decoding() -> WorkFunction:
    """Run once in each decoding process; returns the function that it calls for each job."""
    silence_ffmpeg()
    clear_new_memory()
    return decode_clip


def clear_new_memory() -> None:
    """Have this process's allocator hand out zeros, where it is glibc's.

    Some decoders (Ut Video's is one) leave parts of a damaged picture as the memory was. Frames would depend on what the process
    had decoded before.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_PERTURB, 0xFF)


def silence_ffmpeg() -> None:
    """Discard what this process's FFmpeg prints to stderr. Only for a worker process; its errors travel through its pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def describe_failure(path: Path, error: Exception) -> str:
    """Say why a reader failed, whatever it raised; the message names the clip."""
    return (
        str(error)
        if isinstance(error, VideoError)
        else f"clip {path}: {type(error).__name__}: {state_reason(error, most=None)}"
    )


def decode_clip(job: Job, send: Send) -> _Outcome:
    """Send a clip's chunks of frames, and None as a sign of life before the first. Errors are returned and not raised."""
    try:
        index = open_clip(job.path, job.sampling, alive=lambda: send(None))
        # A pipe holds less than a frame: without the thread, a clip whose turn comes later would not be decoded beyond its
        # first chunk until then. Leaving the block waits for what is left to send, also after an error.
        with ThreadPoolExecutor(1, "send") as thread:
            # Sent by one thread, so that chunks arrive in their order.
            sending: deque[Future[None]] = deque()
            for frames in read_frames(index, job.sampling):
                sending.append(thread.submit(send, frames))
                while len(sending) * frames.nbytes > BYTES_AHEAD:
                    sending.popleft().result()
    except Exception as error:  # whatever a reader makes of a damaged file is that clip's failure
        return _Outcome(error=describe_failure(job.path, error))
    return _Outcome(damage=index.damage, still=index.still)


class Decoders:
    """A pool of decoding processes; use it in a `with`.

    Args:
        workers: How many clips are decoded at once.
        time_limit: Seconds a worker may take without a sign of life.
    """

    def __init__(self, workers: int = 1, time_limit: float = TIME_LIMIT) -> None:
        self.time_limit = time_limit
        self.pool: WorkerPool[Job] = WorkerPool(prepare_decoding, (), name="decoder", size=workers)

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.__exit__()

    def decode(self, jobs: Sequence[Job]) -> Iterator[Decoding]:
        """Yield every job's clip, in order; up to `workers` clips are decoded ahead.

        Iterating over a clip raises VideoError if it cannot be decoded; the next clips still come. A clip must be iterated to
        its end or its error before the next is requested; the rest of its frames is skipped.
        """
        # One job a worker: more would wait in its pipe, and a worker that dies would take them along.
        ahead = min(self.pool.size, len(jobs))
        for place in range(ahead):
            self.pool.send(place, jobs[place])
        for number, job in enumerate(jobs):
            place = number % self.pool.size
            decoding = Decoding(job, iter(()))
            decoding.chunks = self._receive_chunks(place, decoding)
            yield decoding
            # What the caller left unread is still in the worker's pipe, before the frames of its next job.
            for _ in _until_error(decoding.chunks):
                pass
            if ahead < len(jobs):
                # Workers take turns, so the worker that is free now is the one whose turn job `ahead` is.
                self.pool.send(place, jobs[ahead])
                ahead += 1

    def _receive_chunks(self, place: int, decoding: Decoding) -> Iterator[Frames]:
        """Yield the chunks that the worker at `place` sends.

        Raises:
            VideoError: the clip cannot be decoded, or its worker was lost.
        """
        while True:
            try:
                answer = self.pool.receive(place, self.time_limit)
            except WorkerLostError as error:
                raise VideoError(f"clip {decoding.job.path}: {error}") from error
            if answer.is_last:
                break
            # None is a sign of life: the worker indexes a long clip.
            if answer.value is not None:
                yield answer.value
        if answer.value.error:
            raise VideoError(answer.value.error)
        decoding.damage, decoding.still = answer.value.damage, answer.value.still


def _until_error(chunks: Iterator[Frames]) -> Iterator[Frames]:
    try:
        yield from chunks
    except VideoError:
        return
