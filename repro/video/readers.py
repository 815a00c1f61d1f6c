"""Decode a clip and sample it: every stride-th native frame of its first seconds.

The release reads with torchvision's read_video (PyAV) up to 180 s and keeps `video[0::4]`, whatever the frame rate.
decord reads where it gives PyAV's bits (tests/video/test_readers.py has the containers and codecs tried), PyAV the rest.
Frames come in chunks, so a long clip is never whole in memory. repro/video/decoders.py runs these in worker processes.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from repro.core.errors import MissingError

if TYPE_CHECKING:
    from av.container import InputContainer

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
    if path.is_dir():
        raise VideoError(f"clip {path}: a folder: name the files in it")
    if not path.is_file():
        raise VideoError(f"clip {path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"clip {path}: the file is empty (0 bytes): fetch or copy it again")


def read_decord(path: Path, stride: int, max_seconds: float, chunk: int) -> Iterator[Frames]:
    """Sampled frames of `path`, at most `chunk` at a time, through decord.

    Every native frame is read in turn: asked for every fourth, decord returns wrong ones where frames are stored out of
    order (B-frames in AVI, MPEG-4 part 2).

    Raises:
        VideoError: decord cannot read it, or not all of it, or would not give PyAV's frames.
        ImportError: decord is not installed (it has no build for this platform).
    """
    import decord

    check_file(path)
    decord.logging.set_level(decord.logging.QUIET)
    declared = _for_decord(path)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        native = len(reader)
        if native == 0:
            raise VideoError(f"clip {path}: it holds no video frames")
        _check_whole(path, native, declared)
        # Starts of frames in seconds; read_video keeps those that start at or before the end asked for.
        within = int(np.searchsorted(reader.get_frame_timestamp(range(native))[:, 0], max_seconds, side="right"))
        kept: list[np.ndarray] = []
        for number in range(within):
            frame = reader.next()
            if number % stride == 0:
                kept.append(frame.asnumpy())
                if len(kept) == chunk:
                    yield np.stack(kept)
                    kept = []
        if kept:
            yield np.stack(kept)
    except (decord.DECORDError, IndexError, RuntimeError, StopIteration) as error:
        raise VideoError(f"clip {path}: decord cannot decode it ({_first_line(error)})") from error


def _for_decord(path: Path) -> int:
    """How many frames the container says it holds.

    Raises:
        VideoError: decord's frames would not be PyAV's, which are the published ones: it turns rotated pictures and
            converts more than 8 bits in its own way.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"clip {path}: it has no video stream")
            stream = container.streams.video[0]
            pixels = stream.codec_context.format
            if pixels is not None and max(component.bits for component in pixels.components) > 8:
                raise VideoError(f"clip {path}: more than 8 bits a colour, which decord reads otherwise")
            declared = _declared(container)
            for frame in container.decode(stream):
                if frame.rotation:
                    raise VideoError(f"clip {path}: marked as rotated, which decord would undo")
                break
            return declared
    except av.FFmpegError as error:
        raise VideoError(f"clip {path}: not a video that can be decoded ({_first_line(error)})") from error


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
            declared = _declared(container)
            kept: list[np.ndarray] = []
            native, capped, start = 0, False, 0.0
            for frame in container.decode(stream):
                if native == 0:
                    start = frame.time or 0.0
                if frame.time is not None and frame.time - start > max_seconds:
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


def declared_frames(path: Path, max_seconds: float) -> int:
    """How many native frames of the first `max_seconds` the container says it holds; 0 where that is not known."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return 0
            frames, rate = _declared(container), container.streams.video[0].average_rate
            return min(frames, round(max_seconds * rate)) if rate else frames
    except (av.FFmpegError, OSError):
        return 0


def _declared(container: "InputContainer") -> int:
    """Frames of the video stream: as counted in the container, else from its duration; 0 where neither is known."""
    stream = container.streams.video[0]
    if stream.frames:
        return stream.frames
    rate = stream.average_rate
    if not rate:
        return 0
    if stream.duration and stream.time_base:
        return round(stream.duration * stream.time_base * rate)
    if container.duration:
        # Sound may outlast the pictures: only a tenth and a second less is a cut.
        seconds = container.duration / 1_000_000
        return round(max(0.0, min(0.9 * seconds, seconds - 1)) * rate)
    return 0


def _check_whole(path: Path, native: int, declared: int) -> None:
    if native < declared - FEWER_FRAMES_ALLOWED:
        raise VideoError(f"clip {path}: cut off: {native} of its {declared} frames decode: fetch or copy it again")


def describe_failure(error: Exception) -> str:
    """Say why a reader failed, whatever it raised."""
    return str(error) if isinstance(error, VideoError) else f"{type(error).__name__}: {error}"


def silence_ffmpeg() -> None:
    """Discard what this process's FFmpeg prints to stderr. Only for a worker process; its errors travel through its pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _first_line(error: Exception) -> str:
    """An error's own words, without decord's stack trace."""
    text = str(error).strip() or type(error).__name__
    # decord puts its source file and line before the words.
    lines = [line for line in text.splitlines() if line.strip() and "Stack trace" not in line]
    return lines[0].split("] ", 1)[-1][:160] if lines else type(error).__name__
