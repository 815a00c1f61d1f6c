"""The frames the paper's features are computed from, read as the release reads them, in bounded memory.

The release calls torchvision 0.15.2's `read_video(path, 0, 180, "sec")` and keeps `video[0::4]`. That function decodes video
stream 0 with PyAV and orders its frames by presentation time (pts), which is not always the order in which a decoder returns
them: XviD and DivX files of UCF101 and HMDB51 with packed B-frames return pts 1, 2, 4, 3, 5, 7, 6, ... Its rules:

- Of two frames with the same pts, the one decoded later is kept.
- Frames with a pts below 0, or above the cap rounded up to the stream's time base, are dropped. The cap counts from 0 of the
  file's clock, not from the first frame.
- Decoding stops FRAMES_BEYOND_CAP frames after the first frame at or beyond the cap.
- At the first error of the demuxer or decoder reading ends, without a word; the frames decoded until then are used. Here that
  is damage: it is reported, and the caller decides.

read_video holds every frame of a clip in memory. Here a first pass decodes the clip, without converting colours, and finds
the order of its frames and its damage. Frames that fit KEPT_BYTES are kept and converted from there; a larger clip is
decoded a second time, and no more frames are held back than its order requires.
"""

import errno
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.format import formats_available
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from repro.core.errors import MissingError, state_reason
from repro.core.reading import describe_absence
from repro.video.file_ends import describe_missing_end

Frames = UInt8[np.ndarray, "T H W 3"]

FRAMES_BEYOND_CAP = 5
"""Frames that read_video decodes after the first one at or beyond the cap, in case an earlier pts follows."""
KEPT_BYTES = 64_000_000
"""Decoded frames kept from the first pass: about 550 frames of 320x240, so most clips of the data sets are decoded once."""
CHUNK_BYTES = 64 << 20
"""Frames that are handed on at a time: two of 4K. Passing them to another process takes several times as much."""
MOST_PIXELS = 1 << 26
"""Pixels of a frame beyond which a clip is refused; 8K has half as many. A file of some kB can claim and decode to more, of
which a window would take tens of GB."""
DECORD_CONTAINERS = {"avi", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"}
"""Containers, by FFmpeg's names, of which decord returns the published frames."""
LISTS = {"concat", "dash", "hls", "image2", "imf", "mlv", "sdp"}
"""Formats, by FFmpeg's names, that name other files or addresses: features would not be of the file whose sha256 they carry."""
DECORD_BYTES = 1 << 30
"""Frames of a file, as RGB, beyond which decord does not get it: 155 s of 320x240. Its thread decodes ahead without a bound while a backbone
computes."""
BT601_COLOURS = {2, 5, 6}
"""FFmpeg's AVColorSpace: not specified, BT.470 BG and SMPTE 170M, which are converted alike."""
FULL_RANGE = 2
"""FFmpeg's AVCOL_RANGE_JPEG."""
PICTURE_MARKS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
"""Marks of streams that are not the video: cover art, thumbnails, still pictures."""
SMALLEST_FRAME = 16
"""Bytes that a stored frame takes at least, to bound what a damaged header claims."""
FRAMES_PER_SIGN = 32
"""Frames of the first pass between two calls of `alive`."""


class VideoError(MissingError):
    """A clip that cannot be decoded; the message names it."""


class DamagedClipError(VideoError):
    """A clip of which only a part decodes, or whose frames the decoder marks as corrupt."""


@dataclass(slots=True)
class ClipIndex:
    """What the first pass over a clip finds."""

    path: Path
    order: list[int] = field(default_factory=list)
    """The published native frames in presentation order, each as its position in decoding order."""
    pts: list[int] = field(default_factory=list)
    """Presentation times in decoding order, in the stream's time base."""
    damage: str = ""
    """Why the clip counts as damaged; empty if it does not."""
    still: str = ""
    """Why its one frame is a still picture next to the video, such as cover art; empty if it is not."""
    not_plain: str = ""
    """Why decord would not return these frames (repro/video/readers.py); empty if nothing speaks against it."""
    kept: list[VideoFrame] | None = field(default_factory=list)
    """All frames in decoding order; None if they exceed KEPT_BYTES."""
    fps: float = 0.0
    """Average frame rate by the container; 0 if it is not known."""
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    """From the first published frame to the end of the last one, which is taken to last as long as a mean frame."""


def check_file(path: Path) -> None:
    """Refuse what no reader needs to open.

    Raises:
        VideoError: there is no such file, it is not a regular file, or it is empty.
    """
    if path.is_dir():
        raise VideoError(f"clip {path}: a folder: name the files in it")
    if not path.exists():
        raise VideoError(f"clip {path}: {describe_absence(path, 'file')}")
    if not path.is_file():
        # Opening a named pipe would wait for a writer for ever.
        raise VideoError(f"clip {path}: not a regular file")
    if path.stat().st_size == 0:
        raise VideoError(f"clip {path}: the file is empty (0 bytes): fetch or copy it again")


def read_frame_rate(path: Path) -> tuple[float, float]:
    """Return average frames per second and length in seconds by the container, without decoding; 0 for what is not known.

    Raises:
        VideoError: the file has no video stream, or cannot be opened.
    """
    check_file(path)
    try:
        with open_container(path) as container:
            rate = float(container.streams.video[0].average_rate or 0)
            seconds = container.duration / av.time_base if container.duration else 0.0
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(f"clip {path}: cannot be opened as a video ({error})") from error
    return rate, seconds


def open_container(path: Path) -> InputContainer:
    """Open a video file as read_video does: metadata in a broken encoding is ignored."""
    # An absolute path, because FFmpeg takes the start of `12:30:05.mp4` for a protocol. Files alone, because a format that is
    # allowed may still name an address.
    options = {"protocol_whitelist": "file", "format_whitelist": list_formats()}
    return av.open(str(path.absolute()), metadata_errors="ignore", container_options=options)


@lru_cache(1)
def list_formats() -> str:
    """Return FFmpeg's formats that are read: all but those whose pictures are in other files. A playlist can have any file name."""
    return ",".join(sorted(formats_available - LISTS))


def index_clip(
    path: Path, max_seconds: float, alive: Callable[[], None] = lambda: None, *, keep: bool = True
) -> ClipIndex:
    """Decode a clip once to find its published frames and its damage.

    Args:
        path: The clip.
        max_seconds: Frames presented later are dropped; may be infinite.
        alive: Called every FRAMES_PER_SIGN frames.
        keep: Whether decoded frames are kept for conversion, as far as KEPT_BYTES allow.

    Raises:
        VideoError: Not a video, no frame decodes, or a frame has no presentation time.
    """
    check_file(path)
    index = ClipIndex(path, kept=[] if keep else None)
    # Frames that the decoder marks as corrupt, and bytes of the frames kept.
    corrupt = held = 0
    try:
        with open_container(path) as container:
            stream = _rewind(container, path)
            time_base = stream.time_base
            # In ticks of the stream, as pts are: the comparison is one of whole numbers, as in read_video.
            end = _last_tick(stream, max_seconds)
            index.fps = float(stream.average_rate or 0)
            index.width, index.height = stream.width, stream.height
            index.not_plain = _describe_stream(container)
            try:
                for frame in _decode_to_cap(container, stream, end, path):
                    corrupt += frame.is_corrupt
                    index.not_plain = index.not_plain or _describe_frame(frame)
                    # The container's size may differ from the pictures'; from the second frame on, only pictures are compared.
                    if (frame.width, frame.height) != (index.width, index.height) and index.pts:
                        raise VideoError(
                            f"clip {path}: its picture size changes from {index.width}x{index.height} to "
                            f"{frame.width}x{frame.height} at frame {len(index.pts)}; the release cannot read it either"
                        )
                    index.width, index.height = frame.width, frame.height
                    if frame.width * frame.height > MOST_PIXELS:
                        raise VideoError(
                            f"clip {path}: pictures of {frame.width}x{frame.height}; at most {MOST_PIXELS:,} pixels are read: "
                            f"scale it down"
                        )
                    index.pts.append(frame.pts)
                    # A kept frame holds its decoded planes; converted to RGB it would take twice as much.
                    if index.kept is not None:
                        index.kept.append(frame)
                        held += sum(plane.buffer_size for plane in frame.planes)
                        if held > KEPT_BYTES:
                            index.kept = None
                    if len(index.pts) % FRAMES_PER_SIGN == 0:
                        alive()
                # Of a clip that the cap ends, the end of the file was not reached and does not matter.
                capped = bool(index.pts) and max(index.pts) >= end
                index.damage = "" if capped else describe_missing_end(path)
            except av.FFmpegError as error:
                index.damage = f"decoding fails ({describe_ffmpeg_error(error)})"
            index.still = _describe_still(container, len(index.pts))
    except av.FFmpegError as error:
        why = describe_ffmpeg_error(error)
        if error.errno == errno.EINVAL:
            why += "; a playlist or another list of files is not read"
        raise VideoError(f"clip {path}: not a video that can be decoded ({why})") from error
    # FFmpeg conceals what it cannot decode and marks the frame; it raises no error.
    if corrupt and not index.damage:
        index.damage = f"the decoder marks {corrupt} frames as corrupt"
    index.order = order_frames(index.pts, end)
    if index.order != list(range(len(index.order))):
        index.not_plain = index.not_plain or "its frames are not stored in the order of their times"
    if index.order and time_base:
        first, last = index.pts[index.order[0]], index.pts[index.order[-1]]
        # The last frame is shown for a while, too: as long as a mean one.
        index.seconds = float((last - first) * time_base) + (1 / index.fps if index.fps else 0.0)
    if not index.order:
        raise VideoError(f"clip {path}: it holds no video frames" + (f": {index.damage}" if index.damage else ""))
    return index


def order_frames(pts: Sequence[int], end: float) -> list[int]:
    """Return the positions of the published frames, in presentation order, of frames decoded with these times."""
    # A later frame with the same pts replaces an earlier one, as in read_video's dictionary.
    latest = {time: position for position, time in enumerate(pts)}
    return [latest[time] for time in sorted(latest) if 0 <= time <= end]


def estimate_frames(path: Path, max_seconds: float) -> int:
    """Estimate the number of native frames from the container's header; 0 if it says nothing or cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return 0
    # Disk, hours and time left of one extraction are estimated from the same clips.
    return _estimate_frames(path, max_seconds, (status.st_size, status.st_mtime_ns))


@lru_cache(1024)
def _estimate_frames(path: Path, max_seconds: float, stamp: tuple[int, int]) -> int:
    try:
        with open_container(path) as container:
            if not container.streams.video:
                return 0
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 0)
            frames = stream.frames
            if not frames and stream.duration and stream.time_base:
                # Containers differ in what they state: the number of frames, the stream's length, or the file's length alone.
                frames = round(float(stream.duration * stream.time_base) * rate)
            elif not frames and container.duration:
                frames = round(container.duration / av.time_base * rate)
            if rate:
                frames = round(min(frames, max_seconds * rate))
    except (av.FFmpegError, OSError):
        return 0
    # Headers may say anything; a stored frame takes some bytes.
    return max(0, min(frames, stamp[0] // SMALLEST_FRAME))


def convert_frames(index: ClipIndex, stride: int, chunk: int) -> Iterator[Frames]:
    """Yield every `stride`-th frame in presentation order as RGB, at most `chunk` at a time.

    Raises:
        VideoError: The file changed since it was indexed.
    """
    yield from stack_chunks(convert_each(index, stride), chunk)


def convert_each(index: ClipIndex, stride: int) -> Iterator[np.ndarray]:
    """Yield every `stride`-th frame in presentation order as RGB, one at a time; see `convert_frames`."""
    # The release's video[0::4]: every stride-th frame of the order by time, from the first.
    sampled = index.order[::stride]
    return _kept_frames(index, sampled) if index.kept is not None else _decode_again(index, sampled)


def stack_chunks(frames: Iterator[np.ndarray], chunk: int) -> Iterator[Frames]:
    """Stack frames, `chunk` at a time, or as many as CHUNK_BYTES allow; the last chunk may be shorter."""
    for first in frames:
        count = max(1, min(chunk, CHUNK_BYTES // first.nbytes))
        yield np.stack([first, *islice(frames, count - 1)])


def describe_ffmpeg_error(error: av.FFmpegError) -> str:
    """FFmpeg's description of an error, in one line."""
    return state_reason(error.strerror or type(error).__name__, 160)


def _kept_frames(index: ClipIndex, sampled: list[int]) -> Iterator[np.ndarray]:
    assert index.kept is not None
    for position in sampled:
        yield _to_rgb(index.kept[position])


def _decode_again(index: ClipIndex, sampled: Sequence[int]) -> Iterator[np.ndarray]:
    """Second pass over a clip too large to keep."""
    # Frames are decoded in one order and returned in another: `turn` says when a decoded frame is due.
    turn = {position: number for number, position in enumerate(sampled)}
    # Decoding can stop there: the frames after it in decoding order are not sampled.
    last = max(sampled)
    early: dict[int, np.ndarray] = {}  # converted frames, by turn, that earlier ones have to precede
    due = 0
    try:
        with open_container(index.path) as container:
            stream = _rewind(container, index.path)
            for position, frame in enumerate(_decode_to_cap(container, stream, math.inf, index.path)):
                # Decoding repeats itself, so another time at a position means another file.
                if position >= len(index.pts) or frame.pts != index.pts[position]:
                    raise VideoError(f"clip {index.path}: the file changed while it was read")
                if position in turn:
                    early[turn[position]] = _to_rgb(frame)
                # What was held back is yielded as soon as its turn comes, so that few frames are in memory.
                while due in early:
                    yield early.pop(due)
                    due += 1
                if position == last:
                    break
    except av.FFmpegError as error:
        raise VideoError(f"clip {index.path}: reading it again fails ({describe_ffmpeg_error(error)})") from error
    if due < len(sampled):
        raise VideoError(f"clip {index.path}: the file changed while it was read")


def _to_rgb(frame: VideoFrame) -> np.ndarray:
    return frame.to_ndarray(format="rgb24")


def _rewind(container: InputContainer, path: Path) -> VideoStream:
    """Return video stream 0, with the file positioned as read_video positions it."""
    if not container.streams.video:
        raise VideoError(f"clip {path}: it has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError(f"clip {path}: FFmpeg has no decoder for its video stream; the release cannot read it either")
    # read_video decodes slices in parallel, which changes how damage is concealed; two threads do so on any machine.
    stream.thread_type = "SLICE"
    stream.codec_context.thread_count = 2
    # read_video seeks to 0 before it decodes; where a file starts elsewhere, this decides which frames come.
    try:
        container.seek(0, any_frame=False, backward=True, stream=stream)
    except av.FFmpegError as error:
        # read_video returns no frames then. MP4's cover art, for one, is not part of what can be positioned.
        why = _describe_still(container) or "its first video stream cannot be positioned at its start"
        raise VideoError(
            f"clip {path}: no frame of it is read, as in the release ({describe_ffmpeg_error(error)} at seeking to 0): {why}"
        ) from error
    return stream


def _last_tick(stream: VideoStream, max_seconds: float) -> float:
    """Return the last pts that is read, in the stream's time base."""
    if math.isinf(max_seconds) or not stream.time_base:
        return math.inf
    return math.ceil(max_seconds * (1 / stream.time_base))


def _decode_to_cap(container: InputContainer, stream: VideoStream, end: float, path: Path) -> Iterator[VideoFrame]:
    """Yield the frames that read_video decodes, in decoding order."""
    beyond = 0
    for number, frame in enumerate(container.decode(stream)):
        if frame.pts is None:
            raise VideoError(f"clip {path}: frame {number} has no presentation time; the release cannot read it either")
        yield frame
        # As read_video: frames that follow the first one beyond the cap may still have earlier times.
        if frame.pts >= end:
            if beyond == FRAMES_BEYOND_CAP:
                return
            beyond += 1


def _describe_still(container: InputContainer, frames: int = 0) -> str:
    """Say why the first video stream is a still picture; empty if it is not.

    read_video takes the first video stream whatever it is (docs/deviations.md 32).

    Args:
        container: The file.
        frames: Number of frames decoded from that stream.
    """
    first, *others = container.streams.video
    if frames == 1 and container.format.name.endswith("_pipe"):  # FFmpeg's names of JPEG, PNG and other pictures
        return "the file is a picture, not a video"
    if first.disposition & PICTURE_MARKS:
        what = "an attached picture, such as cover art"
    elif frames == 1 and others:  # not every program marks it
        what = "a single picture"
    else:
        return ""
    later = [stream.index for stream in others if not stream.disposition & PICTURE_MARKS]
    where = f"a video follows as stream {later[0]}" if later else "no video follows"
    return f"its first video stream ({first.index}) is {what}, and the release reads no other; {where}"


def _describe_stream(container: InputContainer) -> str:
    """Say what about the file would make decord return other frames; empty if nothing does."""
    # decord starts MPEG-TS files a group of pictures late; other containers have not been compared.
    if container.format.name not in DECORD_CONTAINERS:
        return f"container {container.format.name}"
    if len(container.streams.video) > 1:
        return f"{len(container.streams.video)} video streams"  # decord takes the "best", not the first
    stream = container.streams.video[0]
    # As decord counts them.
    stated = stream.frames or float(stream.average_rate or 0) * (container.duration or 0) / av.time_base
    size = 3 * stated * stream.width * stream.height
    return f"its {stated:.0f} frames take {size / 1e9:,.0f} GB, and decord may hold all" if size > DECORD_BYTES else ""


def _describe_frame(frame: VideoFrame) -> str:
    """Say what about a frame would make decord return another; empty if nothing does."""
    if frame.format.name != "yuv420p":
        return f"pixel format {frame.format.name}"  # decord converts colours in its own way
    if frame.colorspace not in BT601_COLOURS or frame.color_range == FULL_RANGE:
        return "colours that are not BT.601's"  # decord follows such a mark; the release's PyAV did not
    if frame.width % 2 or frame.height % 2:
        return f"odd size {frame.width}x{frame.height}"
    if frame.interlaced_frame:
        return "interlaced"
    if frame.rotation:
        return "marked as rotated"  # decord turns the pictures; the release does not
    return ""
