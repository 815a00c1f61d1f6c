"""Decode a clip and sample it: every stride-th native frame of its first seconds.

The release reads with torchvision's read_video (PyAV) up to 180 s and keeps `video[0::4]`, whatever the frame rate.
decord and PyAV give the same bits (tests/test_video.py); decord is the reader, PyAV the one for what decord refuses.
Frames come in chunks, so a long clip is never whole in memory. repro/decoding.py runs these in worker processes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from repro.errors import MissingError

Frames = UInt8[np.ndarray, "T H W 3"]
Reader = Callable[[Path, int, float, int], Iterator[Frames]]

FEWER_FRAMES_ALLOWED = 2
"""A container may count a frame or two more than decode; beyond that the file is taken to be cut off."""


class VideoError(MissingError):
    """A clip that cannot be decoded; the message names it."""


def check_file(path: Path) -> None:
    """Refuse what no reader need try.

    Raises:
        VideoError: there is no such file, or it has no bytes.
    """
    if not path.is_file():
        raise VideoError(f"clip {path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"clip {path}: the file is empty (0 bytes): fetch or copy it again")


def read_decord(path: Path, stride: int, max_seconds: float, chunk: int) -> Iterator[Frames]:
    """Sampled frames of `path`, at most `chunk` at a time, through decord.

    Raises:
        VideoError: decord cannot read it, or not all of it.
        ImportError: decord is not installed (it has no build for this platform).
    """
    import decord

    check_file(path)
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        native = len(reader)
        if native == 0:
            raise VideoError(f"clip {path}: it holds no video frames")
        _check_whole(path, native, declared_frames(path))
        # Starts of frames in seconds; read_video keeps those that start at or before the end asked for.
        within = int(np.searchsorted(reader.get_frame_timestamp(range(native))[:, 0], max_seconds, side="right"))
        indices = list(range(0, within, stride))
        for start in range(0, len(indices), chunk):
            yield reader.get_batch(indices[start : start + chunk]).asnumpy()
    except (decord.DECORDError, IndexError, RuntimeError) as error:
        raise VideoError(f"clip {path}: decord cannot decode it ({_first_line(error)})") from error


def read_pyav(path: Path, stride: int, max_seconds: float, chunk: int) -> Iterator[Frames]:
    """Sampled frames of `path`, at most `chunk` at a time, through PyAV.

    Raises:
        VideoError: not a video, no frames, damaged or cut off.
    """
    import av

    check_file(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"clip {path}: it has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            declared = stream.frames
            kept: list[np.ndarray] = []
            native, capped = 0, False
            for frame in container.decode(stream):
                if frame.time is not None and frame.time > max_seconds:
                    capped = True
                    break
                if native % stride == 0:
                    kept.append(frame.to_ndarray(format="rgb24"))
                    if len(kept) == chunk:
                        yield np.stack(kept)
                        kept = []
                native += 1
            if native == 0:
                raise VideoError(f"clip {path}: it holds no video frames")
            if not capped:
                _check_whole(path, native, declared)
            if kept:
                yield np.stack(kept)
    except av.FFmpegError as error:
        raise VideoError(f"clip {path}: not a video that can be decoded ({_first_line(error)})") from error


READERS: dict[str, Reader] = {"decord": read_decord, "pyav": read_pyav}


def declared_frames(path: Path) -> int:
    """How many frames the container says it holds; 0 where it does not say or cannot be opened."""
    import av

    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].frames if container.streams.video else 0
    except av.FFmpegError:
        return 0


def _check_whole(path: Path, native: int, declared: int) -> None:
    if declared and native < declared - FEWER_FRAMES_ALLOWED:
        raise VideoError(f"clip {path}: cut off: {native} of its {declared} frames decode: fetch or copy it again")


def _first_line(error: Exception) -> str:
    """An error's own words, without decord's stack trace."""
    text = str(error).strip() or type(error).__name__
    # decord puts its source file and line before the words.
    lines = [line for line in text.splitlines() if line.strip() and "Stack trace" not in line]
    return lines[0].split("] ", 1)[-1][:160] if lines else type(error).__name__
