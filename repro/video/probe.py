"""Decode clips whole, in processes, to say what is in them. Frames stay in the process that decodes them.

Each clip is read as its features will be: by decord, and by PyAV where decord does not read it, hangs or dies.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from repro.core.hashing import FileHashes
from repro.video.decoders import TIME_LIMIT, Worker, silence
from repro.video.readers import READERS, VideoError, check_file

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
    """What became of one clip."""

    path: Path
    sha256: str = ""
    reader: str = ""
    contents: Contents | None = None
    """None where it does not decode."""
    error: str = ""


def read_whole(path: Path, reader: str, alive: Callable[[], None]) -> Contents:
    """Decode every native frame; calls `alive` after each few.

    Raises:
        VideoError: it cannot be decoded whole.
    """
    import av

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
            seconds = container.duration / 1_000_000
        return Contents(frames, float(rate) if rate else 0.0, stream.width, stream.height, seconds)


def _serve(pipe: Connection) -> None:
    """A worker's life: take (path, reader, hashes) from `pipe`; send None as a sign of life, a sha256, and at last the
    contents or a VideoError's words in a tuple."""
    silence()
    hashes: FileHashes | None = None
    while True:
        try:
            path, reader, known = pipe.recv()
            try:
                check_file(path)
                if known is not None:
                    hashes = hashes or FileHashes(known)
                    pipe.send(hashes.sha256(path))
                pipe.send(read_whole(path, reader, lambda: pipe.send(None)))
            except (EOFError, BrokenPipeError):
                return
            except Exception as error:
                # Whatever a reader makes of a damaged file is that clip's failure, said to the parent.
                text = str(error) if isinstance(error, VideoError) else f"{type(error).__name__}: {error}"
                pipe.send((" ".join(text.split()),))
        except (EOFError, BrokenPipeError):
            return


@dataclass(slots=True)
class _Running:
    place: int
    worker: Worker
    last: float = field(default_factory=time.monotonic)
    """When it gave its last sign of life."""


def probe_all(
    paths: Sequence[Path], workers: int, hashes: Path, time_limit: float = TIME_LIMIT
) -> Iterator[tuple[int, Probe]]:
    """Every clip's place in `paths` and what is in it, as they are done: whoever is free takes the next.

    `hashes` is the file of remembered hashes; a process that gives no sign of life for `time_limit` seconds is given up.
    """
    probes = [Probe(path) for path in paths]
    todo = deque(range(len(paths)))
    idle: list[Worker] = []
    running: dict[Connection, _Running] = {}

    def start(place: int, worker: Worker, reader: str) -> None:
        probes[place].reader = reader
        running[worker.pipe] = _Running(place, worker)
        worker.send(paths[place], reader, None if probes[place].sha256 else hashes)

    try:
        for _ in range(min(workers, len(paths))):
            idle.append(Worker(_serve))
        while todo or running:
            while todo and idle:
                start(todo.popleft(), idle.pop(), "decord")
            ready = set(wait(list(running), timeout=1.0))
            for pipe, run in list(running.items()):
                worker, probe = run.worker, probes[run.place]
                try:
                    if pipe not in ready:
                        _check_alive(run, time_limit)
                        continue
                    failure = _answer(pipe, probe)
                except _LostError as error:
                    failure = str(error)
                    worker.kill()
                    worker = Worker(_serve)
                if failure is None:
                    run.last = time.monotonic()
                    continue
                del running[pipe]
                if failure and probe.reader == "decord":
                    start(run.place, worker, "pyav")
                    continue
                if failure:
                    probe.error, probe.reader = failure, ""
                idle.append(worker)
                yield run.place, probe
    finally:
        for worker in [*idle, *(run.worker for run in running.values())]:
            worker.kill()


class _LostError(Exception):
    """A worker died or hangs."""


def _answer(pipe: Connection, probe: Probe) -> str | None:
    """Take a worker's word: None where it goes on, "" where the clip is done, else why it could not be read."""
    try:
        message = pipe.recv()
    except (EOFError, OSError) as error:
        raise _LostError("its process died") from error
    if isinstance(message, Contents):
        probe.contents = message
        return ""
    if isinstance(message, str):
        probe.sha256 = message
    return message[0] if isinstance(message, tuple) else None


def _check_alive(run: _Running, time_limit: float) -> None:
    if time.monotonic() - run.last > time_limit:
        raise _LostError(f"no frame within {time_limit:g} s")
