"""Decode clips completely, in worker processes, to find out what is in them, read as their features will be."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.core.hashing import FileHashes
from repro.video.decoders import TIME_LIMIT, describe_failure, silence_ffmpeg
from repro.video.published import check_file, index_clip
from repro.video.sampling import label_reader
from repro.video.workers import Send, WorkerLostError, WorkerPool, WorkFunction


@dataclass(frozen=True, slots=True)
class ClipContents:
    """What a clip holds.

    Attributes:
        frames: Native frames up to `max_seconds`, as the readers count them.
        fps: Average frame rate by the container; 0 if it is not known.
        width: Of the pictures, in pixels.
        height: Of the pictures, in pixels.
        seconds: From the first frame to the end of the last one.
        still: Whether the frame is a still picture next to the video, such as cover art.
    """

    frames: int
    fps: float
    width: int
    height: int
    seconds: float
    still: bool


@dataclass(slots=True)
class Probe:
    """What was found in one clip."""

    path: Path
    sha256: str = ""
    reader: str = ""
    """What decoded it, as `label_reader` writes it; empty if nothing did."""
    contents: ClipContents | None = None
    """None if nothing of it decodes."""
    error: str = ""
    """Why it does not decode, or not completely."""


def read_contents(path: Path, alive: Callable[[], None]) -> tuple[ClipContents, str]:
    """Decode every native frame; calls `alive` now and then.

    Returns:
        What the clip holds, and why it counts as damaged (an empty string if it does not).

    Raises:
        VideoError: no frame decodes.
    """
    index = index_clip(path, float("inf"), alive, keep=False)
    contents = ClipContents(len(index.order), index.fps, index.width, index.height, index.seconds, bool(index.still))
    return contents, f"damaged: {index.damage}; {contents.frames} frames decode" if index.damage else ""


@dataclass(frozen=True, slots=True)
class _ProbeJob:
    index: int
    path: Path


def prepare_probing(hashes: Path) -> WorkFunction:
    """Run once in each probing process. `hashes` is the file of cached hashes."""
    silence_ffmpeg()
    cache = FileHashes(hashes)

    def probe_clip(job: _ProbeJob, send: Send) -> tuple[ClipContents | None, str]:
        """Send the clip's sha256, then return its contents and why it cannot be read, or not completely."""
        try:
            check_file(job.path)
            # Sent before decoding: a clip that crashes its reader is still identified.
            send(cache.sha256(job.path))
            return read_contents(job.path, lambda: send(None))
        except Exception as error:  # whatever a reader makes of a damaged file is that clip's failure
            return None, " ".join(describe_failure(job.path, error).split())

    return probe_clip


def probe_all(
    paths: Sequence[Path], workers: int, hashes: Path, time_limit: float = TIME_LIMIT
) -> Iterator[tuple[int, Probe]]:
    """Probe every clip, each by the next free worker.

    Args:
        paths: The clips.
        workers: How many are decoded at once.
        hashes: The file of cached hashes.
        time_limit: Seconds without a sign of life after which a clip is given up.

    Yields:
        Index in `paths` and what was found, in the order in which clips are finished.
    """
    probes = [Probe(path) for path in paths]
    jobs = deque(_ProbeJob(index, path) for index, path in enumerate(paths))
    with WorkerPool[_ProbeJob](prepare_probing, (hashes,), name="probe", size=min(workers, len(paths))) as pool:
        for job, answer in pool.run(jobs, time_limit):
            probe = probes[job.index]
            if isinstance(answer, WorkerLostError):
                probe.error = f"clip {job.path}: {answer}"
            elif not answer.is_last:
                probe.sha256 = answer.value
                continue
            else:
                probe.contents, probe.error = answer.value
                # That a clip is damaged is in `error`.
                if probe.contents:
                    probe.reader = label_reader("pyav", still=probe.contents.still, damaged=False)
            yield job.index, probe
