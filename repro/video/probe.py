"""Decode clips completely, in worker processes, to find out what is in them. Frames stay in the process that decodes them.

Each clip is read as its features will be: by decord, and by PyAV where decord does not read it, hangs or dies.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av

from repro.core.hashing import FileHashes
from repro.video.decoders import TIME_LIMIT
from repro.video.readers import READERS, check_file, describe_failure, silence_ffmpeg
from repro.video.workers import Send, Work, WorkerLostError, WorkerPool

CHUNK = 8
"""Frames in memory at a time."""


@dataclass(frozen=True, slots=True)
class Contents:
    frames: int
    fps: float
    width: int
    height: int
    seconds: float


@dataclass(slots=True)
class Probe:
    """What was found in one clip."""

    path: Path
    sha256: str = ""
    reader: str = ""
    """What decoded it; empty if nothing did."""
    contents: Contents | None = None
    """None if it does not decode."""
    error: str = ""


def read_contents(path: Path, reader: str, alive: Callable[[], None]) -> Contents:
    """Decode every native frame; calls `alive` after each chunk.

    Raises:
        VideoError: it cannot be decoded completely.
    """
    frames = 0
    for chunk in READERS[reader](path, 1, float("inf"), CHUNK):
        frames += len(chunk)
        alive()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        seconds = 0.0
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration:
            seconds = container.duration / 1_000_000  # FFmpeg counts a container's length in microseconds
        return Contents(frames, float(rate) if rate else 0.0, stream.width, stream.height, seconds)


@dataclass(frozen=True, slots=True)
class _ProbeJob:
    index: int
    path: Path
    reader: str = "decord"
    needs_sha256: bool = True


def prepare_probing(hashes: Path) -> Work:
    """Run once in each probing process. `hashes` is the file of cached hashes."""
    silence_ffmpeg()
    cache = FileHashes(hashes)

    def probe_clip(job: _ProbeJob, send: Send) -> Contents | str:
        """Send the clip's sha256, then return its contents, or why it cannot be read."""
        try:
            check_file(job.path)
            if job.needs_sha256:
                # Sent before decoding: a clip that crashes its reader is still identified.
                send(cache.sha256(job.path))
            return read_contents(job.path, job.reader, lambda: send(None))
        except Exception as error:  # whatever a reader makes of a damaged file is that clip's failure
            return " ".join(describe_failure(error).split())

    return probe_clip


def probe_all(
    paths: Sequence[Path], workers: int, hashes: Path, time_limit: float = TIME_LIMIT
) -> Iterator[tuple[int, Probe]]:
    """Probe every clip, each by the next free worker.

    Args:
        paths: The clips.
        workers: How many are decoded at once.
        hashes: The file of cached hashes.
        time_limit: Seconds without a decoded frame after which a reader is given up.

    Yields:
        Index in `paths` and what was found, in the order in which clips are finished.
    """
    probes = [Probe(path) for path in paths]
    jobs = deque(_ProbeJob(index, path) for index, path in enumerate(paths))
    with WorkerPool[_ProbeJob](prepare_probing, (hashes,), name="probe", size=min(workers, len(paths))) as pool:
        for job, answer in pool.run(jobs, time_limit):
            probe = probes[job.index]
            if not isinstance(answer, WorkerLostError) and not answer.is_last:
                probe.sha256 = answer.value
                continue
            found = str(answer) if isinstance(answer, WorkerLostError) else answer.value
            if isinstance(found, str) and job.reader == "decord":
                # Next in the queue, so that the worker that has just become free takes it.
                jobs.appendleft(replace(job, reader="pyav", needs_sha256=not probe.sha256))
                continue
            if isinstance(found, str):
                probe.error = found
            else:
                probe.contents, probe.reader = found, job.reader
            yield job.index, probe
