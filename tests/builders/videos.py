"""Small videos in many containers and codecs, written with PyAV. Every frame differs from every other."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.stream import Disposition
from av.video.stream import VideoStream

VOP_START = bytes.fromhex("000001b6")
"""Start code of an MPEG-4 part 2 picture; the two bits after it are its kind."""
VOP_INTRA, VOP_BIDIRECTIONAL = 0, 2


@dataclass(frozen=True)
class Video:
    """How a video is encoded."""

    name: str
    codec: str = "libx264"
    pixels: str = "yuv420p"
    size: tuple[int, int] = (64, 48)
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    times: tuple[int, ...] = ()
    """Presentation time of each frame in 1/25 s; empty: 0, 1, 2, ..."""


KINDS = [
    Video("mpeg4.avi", "mpeg4", options={"bf": "0"}),
    Video("mpeg4_b.avi", "mpeg4", options={"bf": "2"}),
    Video("mpeg4_b.mp4", "mpeg4", options={"bf": "2"}),
    Video("msmpeg4.avi", "msmpeg4"),
    Video("h264.avi", options={"g": "12", "bf": "3"}),
    Video("h264.mp4", options={"g": "12", "bf": "3"}),
    Video("h264.mkv", options={"bf": "2"}),
    Video("h264.ts", options={"bf": "2"}),
    Video("h264.flv", options={"bf": "2"}),
    Video("fragments.mp4", container={"movflags": "frag_keyframe+empty_moov"}),
    Video("mpeg1.mpg", "mpeg1video"),
    Video("mpeg2.mpg", "mpeg2video", options={"bf": "2"}),
    Video("mpeg2.ts", "mpeg2video", options={"bf": "2"}),
    Video("h265.mp4", "libx265", options={"x265-params": "log-level=none"}),
    Video("h265.mkv", "libx265", options={"x265-params": "log-level=none"}),
    Video("vp8.webm", "libvpx"),
    Video("vp9.webm", "libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"}),
    Video("av1.mp4", "libaom-av1", options={"cpu-used": "8", "usage": "realtime"}),
    Video("mjpeg.avi", "mjpeg", "yuvj420p"),
    Video("pictures.gif", "gif", "rgb8"),
    Video("rle.mov", "qtrle", "rgb24"),
    Video("prores.mov", "prores_ks", "yuv422p10le"),
    Video("wmv.wmv", "wmv2"),
    Video("h263.3gp", "h263", size=(176, 144)),
    Video("deep.mp4", pixels="yuv420p10le"),
    Video("full_chroma.mp4", pixels="yuv444p"),
    Video("odd.webm", "libvpx-vp9", size=(65, 49), options={"cpu-used": "8", "deadline": "realtime"}),
    Video("narrow.mkv", "ffv1", size=(24, 10)),
    Video("one.mkv", "ffv1", "yuv444p", size=(1, 1)),
    Video("interlaced.mp4", options={"x264-params": "interlaced=1"}),
    Video("bt709.mp4", options={"colorspace": "bt709"}),
    Video("starts_late.mp4", times=tuple(range(40, 80))),
    Video("variable_rate.mp4", times=tuple(n * n // 4 + n for n in range(40))),
    Video("gap.mkv", times=(*range(20), *range(60, 80))),
]


def read_everything(path: Path, seconds: float = 180.0) -> np.ndarray:
    """All published native frames: torchvision 0.15.2's rules in the plainest way, everything in memory."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        container.seek(0, any_frame=False, backward=True, stream=stream)
        end = np.ceil(seconds / float(stream.time_base or 1)) if np.isfinite(seconds) else np.inf
        frames, beyond = {}, 0
        for frame in container.decode(video=0):
            frames[frame.pts] = frame.to_rgb().to_ndarray()
            if frame.pts >= end:
                beyond += 1
                if beyond > 5:
                    break
    return np.stack([frames[pts] for pts in sorted(frames) if 0 <= pts <= end])


def draw_picture(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    width, height = size
    noise = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    picture = np.roll(noise, 2 * number, axis=1)
    picture[: height // 3, : width // 4] = 2 * number % 256
    return picture


def write_video(path: Path, video: Video, frames: int = 60) -> Path:
    with av.open(str(path), "w", options=video.container) as container:
        stream = cast(VideoStream, container.add_stream(video.codec, rate=25, options=video.options))
        stream.width, stream.height = video.size
        stream.pix_fmt = video.pixels
        for number in range(len(video.times) or frames):
            frame = av.VideoFrame.from_ndarray(draw_picture(number, video.size), format="rgb24")
            if video.times:
                frame.pts, frame.time_base = video.times[number], Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_packed(path: Path, frames: int = 60) -> Path:
    """An XviD AVI with packed B-frames, as UCF101 and HMDB51 hold: a chunk with a P- and a B-frame, then an empty picture.

    libav's encoder writes each picture by itself; they are joined here, under the mark that DivX encoders left.
    """
    encoder = av.CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.options = {"bf": "1", "g": "12", "b_strategy": "0"}
    packets = []
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(draw_picture(number), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    chunks: list[bytes] = []
    for packet in packets:
        data = bytes(packet)
        start = data.index(VOP_START)
        kind = data[start + len(VOP_START)] >> 6
        if kind == VOP_INTRA:
            data = data[:start] + b"\0\0\1\xb2DivX503b1393p\0" + data[start:]
        if kind == VOP_BIDIRECTIONAL:
            chunks[-1] += data
            data = VOP_START + bytes.fromhex("51227f")  # a picture that repeats the one before
        chunks.append(data)
    return _mux(path, chunks, list(range(len(chunks))))


def _mux(path: Path, chunks: Sequence[bytes], times: Sequence[int]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.codec_tag = "XVID"
        for chunk, time in zip(chunks, times, strict=True):
            packet = av.Packet(chunk)
            packet.pts = packet.dts = time
            packet.time_base, packet.stream = Fraction(1, 25), stream
            container.mux(packet)
    return path


def copy_trimmed(source: Path, path: Path, first: int) -> Path:
    """Cut the beginning off without encoding again, as phones do: frames before `first` are stored but not shown."""
    with av.open(str(source)) as reading, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(reading.streams.video[0])
        base = reading.streams.video[0].time_base
        assert base is not None
        shift = round(first / 25 / base)
        for packet in reading.demux(video=0):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = stream
            container.mux(packet)
    return path


def write_two_streams(path: Path) -> Path:
    """Two video streams; the second is the larger, which players and decord take for the better."""
    with av.open(str(path), "w") as container:
        streams = []
        for size in ((64, 48), (128, 96)):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            streams.append((stream, size))
        for number in range(24):
            for stream, size in streams:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_picture(number, size), format="rgb24")))
        for stream, _ in streams:
            container.mux(stream.encode())
    return path


def write_with_picture(path: Path, *, attached: bool, before: bool = True) -> Path:
    """A video and a picture: cover art of an MP4 if `attached`, before or after the video, else a track of one picture."""
    with av.open(str(path), "w") as container:
        picture, video = (cast(VideoStream, container.add_stream(codec, rate=25)) for codec in ("mjpeg", "libx264"))
        for stream, pixels in ((picture, "yuvj420p"), (video, "yuv420p")):
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        if attached:
            picture.disposition = Disposition.attached_pic.value  # type: ignore[assignment]  # a setter takes the number
        for stream, numbers in ((picture, [0]), (video, range(24))):
            for number in numbers:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_picture(number), format="rgb24")))
            container.mux(stream.encode())
    if attached and before:
        _move_cover_first(path)
    return path


def _move_cover_first(path: Path) -> None:
    """Write an MP4's metadata, which its cover art is part of, before its tracks: its streams are in the order of both."""
    content = path.read_bytes()
    boxes = dict(_split_boxes(content))
    header = boxes[b"moov"]
    inner = _split_boxes(header[8:])
    inner.sort(key=lambda box: (b"mvhd", b"udta", b"trak").index(box[0]))
    path.write_bytes(content.replace(header, header[:8] + b"".join(box for _, box in inner)))


def _split_boxes(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the type and bytes of each box of (a part of) an MP4 file."""
    boxes, start = [], 0
    while start < len(content):
        (size,) = struct.unpack(">I", content[start : start + 4])
        boxes.append((content[start + 4 : start + 8], content[start : start + size]))
        start += size
    return boxes


def mark_rotated(path: Path) -> Path:
    """Write a turn by 180 degrees into an MP4's track header."""
    content = bytearray(path.read_bytes())
    header = content.find(b"tkhd")
    content[header + 44 : header + 80] = struct.pack(">9i", -65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path
