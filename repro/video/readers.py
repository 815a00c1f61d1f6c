"""Readers of clips, by the name that a backbone's config gives: the published frames, by PyAV or by decord.

Both index the clip first (repro/video/published.py), so that both know the order of its frames and its damage. decord orders
frames, picks streams and converts colours in its own way. It is used only where a config names it, and only on clips for which
it returns the published frames, which every sampled one is compared with; every other clip it refuses by name. There is no silent
change of reader.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from repro.video.published import (
    ClipIndex,
    DamagedClipError,
    Frames,
    VideoError,
    convert_each,
    convert_frames,
    index_clip,
    stack_chunks,
)
from repro.video.sampling import Sampling

DECORD_NARROWEST = 32
"""Pixels: decord returns rows of a wrong length for narrower pictures."""


def open_clip(path: Path, sampling: Sampling, alive: Callable[[], None] = lambda: None) -> ClipIndex:
    """Index a clip and check that `sampling` allows to read it.

    Args:
        path: The clip.
        sampling: How it is to be read.
        alive: Called now and then while the clip is indexed.

    Raises:
        DamagedClipError: The clip is damaged and `sampling` does not allow it.
        VideoError: It cannot be read, or not by the reader named.
    """
    index = index_clip(path, sampling.max_seconds, alive)
    if index.damage and not sampling.allow_damaged:
        raise DamagedClipError(
            f"clip {path}: damaged: {index.damage}; {len(index.order)} frames decode: fetch or copy it again, or use what "
            f"decodes, as the release does, with --allow-damaged"
        )
    if sampling.reader == "decord":
        why = index.damage or index.not_plain
        # Damage first: it is the reason that helps the user.
        if index.width < DECORD_NARROWEST:
            why = why or f"only {index.width} pixels wide"
        if why:
            raise VideoError(
                f"clip {path}: decord would not return the published frames ({why}): use frames.reader: pyav"
            )
    return index


def read_frames(index: ClipIndex, sampling: Sampling) -> Iterator[Frames]:
    """Yield the sampled frames of a clip, at most `sampling.chunk` at a time.

    Raises:
        VideoError: The file changed since it was indexed, or decord fails.
        ImportError: decord is not installed (it has no build for this platform).
    """
    if sampling.reader == "pyav":
        return convert_frames(index, sampling.stride, sampling.chunk)
    return _read_with_decord(index, sampling.stride, sampling.chunk)


def read_clip(path: Path, sampling: Sampling) -> Iterator[Frames]:
    """Open a clip and yield its sampled frames; see `open_clip` and `read_frames`."""
    yield from read_frames(open_clip(path, sampling), sampling)


def _read_with_decord(index: ClipIndex, stride: int, chunk: int) -> Iterator[Frames]:
    import decord

    path = index.path
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1)
        # decord counts packets; it may find more than are shown (trimmed clips), never fewer.
        if len(reader) < len(index.order):
            raise VideoError(
                f"clip {path}: decord finds {len(reader)} of its {len(index.order)} frames: use frames.reader: pyav"
            )
        # One after the other: asked for every fourth frame, decord returns wrong ones where frames are stored out of order.
        native = (reader.next() for _ in range(len(index.order)))
        yield from stack_chunks(
            _compare_frames((frame.asnumpy() for frame in islice(native, 0, None, stride)), index, stride), chunk
        )
    except (decord.DECORDError, IndexError, RuntimeError, StopIteration) as error:
        raise VideoError(
            f"clip {path}: decord cannot decode it ({_first_line(error)}): use frames.reader: pyav"
        ) from error


def _compare_frames(frames: Iterator[np.ndarray], index: ClipIndex, stride: int) -> Iterator[np.ndarray]:
    """Yield decord's frames; raise VideoError at one that is not PyAV's.

    A damaged file can mislead decord's FFmpeg, which is older, in any frame, while PyAV's decodes it without a complaint.
    """
    for number, (frame, published) in enumerate(zip(frames, convert_each(index, stride), strict=True)):
        if not np.array_equal(frame, published):
            raise VideoError(
                f"clip {index.path}: decord returns another frame {number * stride} than PyAV: use frames.reader: pyav"
            )
        yield frame


def _first_line(error: Exception) -> str:
    """decord's message without its source line and stack trace."""
    lines = [line for line in str(error).splitlines() if line.strip() and "Stack trace" not in line]
    return lines[0].split("] ", 1)[-1][:160] if lines else type(error).__name__
