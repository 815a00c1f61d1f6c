"""Clips that are damaged in every way, from a seed, and what the readers make of them.

A clip is a valid file of one of KINDS, of another container that FFmpeg here writes, of an odd pixel format or size, or of
sound alone, with up to three alterations. The same seed and number give the same bytes. Both readers read it in worker processes,
as an extraction does, and a plain reader that decodes everything and sorts it, by the rules of `read_everything`, is the oracle.
"""

import hashlib
import random
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream

from builders.videos import KINDS, Video, write_packed, write_two_streams, write_video, write_with_picture
from repro.video.decoders import Decoders, Job, clear_new_memory, silence_ffmpeg
from repro.video.published import MOST_PIXELS, VideoError
from repro.video.sampling import ReaderName, Sampling
from repro.video.workers import Send, WorkerLostError, WorkerPool, WorkFunction

FRAMES = 24
"""Native frames of the valid clips."""
LIMIT = 60.0
"""Seconds without a sign of life after which a reader counts as hung."""
STRIDE, SECONDS = 4, 180.0
MOST_MEMORY = 1 << 30
"""Bytes that a reader's process may take."""
MOST_HELD = 1 << 30
"""Bytes of pixels that the oracle holds; a clip with more is not compared."""
TOO_LARGE, TOO_MUCH = "pictures that no reader may read", "more than the oracle holds"

OTHER_CONTAINERS = [
    Video("h264.3g2", "mpeg4", size=(176, 144)),
    Video("h264.m4v"),
    Video("h264.mov"),
    Video("h264.f4v"),
    Video("mpeg2.vob", "mpeg2video"),
    Video("mpeg4.asf", "mpeg4"),
    Video("mpeg4.nut", "mpeg4"),
    Video("vp8.ivf", "libvpx"),
    Video("vp8.ogg", "libvpx"),
    Video("mpeg2.mxf", "mpeg2video"),
    Video("h264.h264"),
    Video("mpeg2.m2v", "mpeg2video"),
    Video("mpeg1.m1v", "mpeg1video"),
    Video("mjpeg.mjpeg", "mjpeg", "yuvj420p"),
    Video("flash.swf", "flv"),
    Video("flash.flv", "flv"),
    Video("real.rm", "rv10", size=(176, 144)),
    Video("roq.roq", "roqvideo", "yuvj444p"),
    Video("raw.y4m", "rawvideo"),
    Video("animated.apng", "apng", "rgb24"),
    Video("dv.dv", "dvvideo", size=(720, 576)),
    Video("gxf.gxf", "mpeg2video", size=(720, 576)),
    Video("pictures.webp", "libwebp_anim"),
    Video("wtv.wtv", "mpeg2video"),
    Video("film.cpk", "cinepak", "rgb24"),
    Video("h263.h263", "h263", size=(176, 144)),
]
"""Containers beyond those of KINDS; what FFmpeg here cannot write is left out and counted."""

ODD_PIXELS = [
    Video(f"ffv1_{pixels}.mkv", "ffv1", pixels)
    for pixels in ("gray", "gray16le", "yuv410p", "yuv411p", "yuv440p", "yuva420p", "yuv444p16le", "bgr0", "gbrp12le")
] + [
    Video("raw.avi", "rawvideo"),
    Video("raw_bgr.avi", "rawvideo", "bgr24"),
    Video("raw.mkv", "rawvideo", "yuv422p"),
    Video("monow.mov", "rawvideo", "monow"),
    Video("huffyuv.avi", "huffyuv", "yuv422p"),
    Video("utvideo.avi", "utvideo", "gbrp"),
    Video("png.mov", "png", "rgb48be"),
    Video("ffv1_tall.mkv", "ffv1", size=(2, 4096)),
    Video("ffv1_wide.avi", "ffv1", size=(4096, 2)),
]

SOUND = {
    "sound.mp4": "aac",
    "sound.mkv": "pcm_s16le",
    "sound.avi": "mp3",
    "sound.mov": "pcm_s16le",
    "sound.wav": "pcm_s16le",
}
"""Files without pictures, with their codec."""
EXTREMES = (0, 1, 7, 8, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
SIZES = ((0, 0), (1, 1), (2, 48), (16, 8192), (8192, 16), (4096, 2304), (16384, 16384), (32767, 32767), (65535, 65535))
BOXES = (
    *b"moov trak mdia minf stbl stsd stts ctts stsz stsc stco stss elst tkhd mdhd mvhd mdat ftyp avcC moof traf trun".split(),
    *b"LIST hdrl strl strh strf avih movi idx1 00dc FLV\1".split(),
    *(bytes.fromhex(identifier) for identifier in ("1a45dfa3", "18538067", "1654ae6b", "1f43b675")),  # Matroska's
)
"""Names of boxes, chunks and elements."""

ALLOWED = "pyav, damaged allowed"
WAYS: dict[str, tuple[ReaderName, bool]] = {
    "pyav": ("pyav", False),
    ALLOWED: ("pyav", True),
    "decord": ("decord", False),
}
"""Ways to read a clip: reader, and whether damaged clips are allowed."""
AGAIN = 10
"""Readings that show whether a clip is read alike each time."""


class Sources:
    """Valid files to start from, written when they are first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.refused: dict[str, str] = {}
        """Files that FFmpeg here does not write or does not read back, and why."""
        writers: dict[str, Callable[[Path], object]] = {
            video.name: lambda path, video=video: write_video(path, video, FRAMES)  # type: ignore[misc]
            for video in (*KINDS, *OTHER_CONTAINERS, *ODD_PIXELS)
        }
        writers |= {name: lambda path, codec=codec: _write_sound(path, codec) for name, codec in SOUND.items()}  # type: ignore[misc]
        writers["packed.avi"] = lambda path: write_packed(path, FRAMES)
        writers["two_streams.mkv"] = write_two_streams
        writers["cover.mp4"] = lambda path: write_with_picture(path, attached=True)
        self.writers = writers
        self._contents: dict[str, bytes] = {}

    @property
    def names(self) -> list[str]:
        return [*self.writers]

    def read(self, name: str) -> bytes | None:
        """Return a valid file's bytes; None if it cannot be written here."""
        if name not in self._contents and name not in self.refused:
            path = self.folder / name
            try:
                self.writers[name](path)
                self._contents[name] = path.read_bytes()
                if not self._contents[name]:
                    raise ValueError("nothing was written")
            except (av.FFmpegError, ValueError, LookupError, OSError) as error:
                self.refused[name] = " ".join(str(error).split())
        return None if name in self.refused else self._contents[name]


def _write_sound(path: Path, codec: str) -> None:
    with av.open(str(path), "w") as container:
        stream = cast(AudioStream, container.add_stream(codec, rate=44100))
        stream.layout = "mono"
        samples = (8000 * np.sin(np.arange(44100 * 2) / 20)).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


Alter = Callable[[bytearray, random.Random], None]


def _cut_end(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _cut_middle(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.choice((1, 4, 64, 512, len(data) // 4 + 1))]


def _flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 4, 16, 64))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _flip_header_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 2, 4, 8))):
        data[chance.randrange(min(len(data), 600))] ^= 1 << chance.randrange(8)


def _overwrite(data: bytearray, chance: random.Random) -> None:
    start, length = chance.randrange(len(data)), chance.choice((16, 188, 1024, 4096))
    data[start : start + length] = chance.choice((b"\0", b"\xff", chance.randbytes(1))) * len(
        data[start : start + length]
    )


def _randomise(data: bytearray, chance: random.Random) -> None:
    start, length = chance.randrange(len(data)), chance.choice((16, 188, 1024))
    data[start : start + length] = chance.randbytes(len(data[start : start + length]))


def _swap_chunks(data: bytearray, chance: random.Random) -> None:
    size = max(1, min(chance.choice((4, 188, 512, 2048)), len(data) // 3))
    first, second = sorted(chance.sample(range(max(2, len(data) // size)), 2))
    one, two = slice(first * size, (first + 1) * size), slice(second * size, (second + 1) * size)
    if len(data[one]) == len(data[two]):
        data[one], data[two] = data[two], data[one]


def _repeat_chunk(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    piece = bytes(data[start : start + chance.choice((4, 188, 1024, 8192))])
    where = chance.randrange(len(data))
    data[where:where] = piece * chance.choice((1, 2, 8))


def _append(data: bytearray, chance: random.Random) -> None:
    data += chance.choice((b"\0" * 4096, chance.randbytes(4096), bytes(data[:4096]), bytes(data)))


def _patch_box(data: bytearray, chance: random.Random) -> None:
    """Set a size, name or number of a box, chunk or element to an extreme value."""
    places = [place for name in BOXES for place in _find_all(data, name)] or [chance.randrange(len(data))]
    place = chance.choice(places)
    number = chance.choice(EXTREMES)
    offset = chance.choice(
        (-4, 0, 4, 8, 12, 16, 20, 4 * chance.randrange(40))
    )  # before the name: the size of an MP4's box
    code = chance.choice((">I", "<I"))
    start = max(0, place + offset)
    data[start : start + 4] = struct.pack(code, number)


def _patch_size(data: bytearray, chance: random.Random) -> None:
    """Claim pictures of another size, wherever 64x48 is written as two numbers."""
    ways = ((">HH", 1), ("<HH", 1), (">II", 1), ("<II", 1), (">II", 65536))
    places = [
        (place, code, scale)
        for code, scale in ways
        for place in _find_all(data, struct.pack(code, 64 * scale, 48 * scale))
    ]
    width, height = chance.choice(SIZES)
    for place, code, scale in places:
        most = (1 << 16 if "H" in code or scale > 1 else 1 << 32) - 1
        packed = struct.pack(code, min(width, most) * scale, min(height, most) * scale)
        data[place : place + len(packed)] = packed
    for place in _find_all(
        data, b"\xb0\x81\x40\xba\x81\x30"
    ):  # Matroska's PixelWidth and PixelHeight, of one byte each
        data[place : place + 6] = b"\xb0\x81" + bytes([width & 0xFF]) + b"\xba\x81" + bytes([height & 0xFF])


def _patch_rate(data: bytearray, chance: random.Random) -> None:
    """Claim absurd rates and lengths: numbers of the headers that hold a rate, a time base or a count of frames."""
    fields = [(b"mvhd", 12), (b"mvhd", 16), (b"mdhd", 12), (b"mdhd", 16), (b"stts", 8), (b"stts", 12), (b"stsz", 12)]
    fields += [(b"avih", 8), (b"avih", 24), (b"vids", 20), (b"vids", 24), (b"vids", 32), (b"elst", 12), (b"elst", 16)]
    fields += [(b"\x23\xe3\x83", 4), (b"\x2a\xd7\xb1", 4), (b"\x44\x89", 3), (b"trun", 8), (b"DKIF", 16), (b"ctts", 12)]
    found = [place + offset for name, offset in fields for place in _find_all(data, name)]
    found = found or [4 * chance.randrange(max(1, min(len(data), 400) // 4))]
    for place in chance.sample(found, min(len(found), chance.choice((1, 2, 4)))):
        data[place : place + 4] = struct.pack(chance.choice((">I", "<I")), chance.choice(EXTREMES))


def _find_all(data: bytearray, what: bytes) -> Iterator[int]:
    place = data.find(what)
    while place >= 0:
        yield place
        place = data.find(what, place + 1)


ALTERATIONS: dict[str, Alter] = {
    "cut at the end": _cut_end,
    "a part cut out": _cut_middle,
    "bits flipped": _flip_bits,
    "bits of the header flipped": _flip_header_bits,
    "a part overwritten": _overwrite,
    "a part made random": _randomise,
    "chunks swapped": _swap_chunks,
    "a chunk repeated": _repeat_chunk,
    "bytes appended": _append,
    "box or chunk patched": _patch_box,
    "absurd picture size": _patch_size,
    "absurd rate or count": _patch_rate,
}


@dataclass
class FuzzedClip:
    """One clip: where it comes from and what was done to it."""

    path: Path
    source: str
    altered: tuple[str, ...]
    """Names of ALTERATIONS; empty if the file is as written."""

    @property
    def kind(self) -> str:
        if self.source in SOUND:
            return "sound alone"
        return "several of these" if len(self.altered) > 1 else "".join(self.altered) or "as written"


def make_clip(sources: Sources, folder: Path, seed: int, number: int) -> FuzzedClip:
    """Write clip `number` of a seed."""
    chance = random.Random(f"{seed} {number}")
    # All sources take turns, so that any run of many clips has them all.
    names = sources.names
    order = random.Random(seed).sample(names, len(names))
    place = number
    while (content := sources.read(order[place % len(order)])) is None:
        place += 1
    source = order[place % len(order)]
    data, before = bytearray(content), bytes(content)
    # One in twelve stays as it is; most have one alteration, as the cause is then known.
    altered = tuple(chance.sample([*ALTERATIONS], chance.choice((0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3))))
    for name in altered:
        if data:
            ALTERATIONS[name](data, chance)
    if bytes(data) == before:
        altered = ()
    suffix = Path(source).suffix if chance.random() < 0.95 else Path(chance.choice(names)).suffix
    path = folder / f"{number:05d}_{Path(source).stem}{suffix}"
    path.write_bytes(data)
    return FuzzedClip(path, source, altered)


@dataclass
class Reading:
    """What one reader made of a clip."""

    frames: tuple[str, ...] = ()
    """A digest of each sampled frame."""
    error: str = ""
    damage: str = ""
    peak: int = 0
    """Most memory of its process while it read, in bytes."""


def digest_frame(frame: np.ndarray) -> str:
    return hashlib.sha256(str(frame.shape).encode() + frame.tobytes()).hexdigest()


def prepare_oracle() -> WorkFunction:
    silence_ffmpeg()
    clear_new_memory()
    return read_plainly


def read_plainly(path: Path, send: Send) -> Reading:
    """Decode everything, keep it, sort: torchvision 0.15.2's rules with nothing else.

    Frames are kept until the end, as read_video keeps them: what FFmpeg cannot conceal of a damaged frame shows the memory that
    it was decoded into, and that is not used again only while the frames before are kept.
    """
    found: dict[int, av.VideoFrame] = {}
    end, beyond, held = float("inf"), 0, 0
    try:
        with av.open(
            str(path), metadata_errors="ignore", container_options={"protocol_whitelist": "file"}
        ) as container:
            stream = container.streams.video[0]
            # Damage is concealed by slices, so their number matters: two on any machine, as in repro/video/published.py.
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 2
            container.seek(0, any_frame=False, backward=True, stream=stream)
            if stream.time_base:
                end = -(-int(SECONDS) // stream.time_base)
            for number, frame in enumerate(container.decode(video=0)):
                if number % 16 == 0:
                    send(None)
                if frame.width * frame.height > MOST_PIXELS:
                    return Reading(error=TOO_LARGE)
                held += frame.width * frame.height * 3
                if held > MOST_HELD:
                    return Reading(error=TOO_MUCH)
                found[frame.pts] = frame
                if frame.pts >= end:
                    beyond += 1
                    if beyond > 5:
                        break
    except (av.FFmpegError, IndexError, TypeError, ValueError, MemoryError) as error:
        if not found:
            return Reading(error=f"{type(error).__name__}: {error}")
    published = [found[time] for time in sorted(found) if 0 <= time <= end]
    digests = tuple(digest_frame(frame.to_ndarray(format="rgb24")) for frame in published[::STRIDE])
    return Reading(digests, error="" if digests else "no frames")


def read_peak(process: int) -> int:
    """Return the most memory that a process has had since the last call, in bytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        Path(f"/proc/{process}/clear_refs").write_text("5")
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def read_all(paths: Sequence[Path], ways: Sequence[tuple[ReaderName, bool]]) -> Iterator[Reading]:
    """Read clips as an extraction does, in a worker process.

    Args:
        paths: The clips.
        ways: Each a reader, and whether damaged clips are allowed. All clips are read in the first way, then in the second, ...
    """
    jobs = [
        Job(path, Sampling(STRIDE, SECONDS, 25, reader, allow_damaged))
        for reader, allow_damaged in ways
        for path in paths
    ]
    with Decoders(1, time_limit=LIMIT) as decoders:
        for decoding in decoders.decode(jobs):
            reading, digests = Reading(), []
            try:
                for chunk in decoding:
                    digests += [digest_frame(frame) for frame in chunk]
            except VideoError as error:
                reading.error = str(error)
            else:
                reading.frames, reading.damage = tuple(digests), decoding.damage
            reading.peak = max((read_peak(process) for process in decoders.pool.process_ids), default=0)
            yield reading


def read_oracle(paths: Sequence[Path]) -> Iterator[Reading]:
    with WorkerPool[Path](prepare_oracle, (), name="oracle", size=1) as pool:
        for _, answer in pool.run(deque(paths), LIMIT):
            yield Reading(error=str(answer)) if isinstance(answer, WorkerLostError) else answer.value


def varies(path: Path) -> bool:
    """Whether a damaged clip that was read otherwise than plainly is, of a few readings, once read alike by both.

    FFmpeg decodes MPEG-1 and MPEG-2 in two threads, and what it conceals of a damaged picture can depend on which is the first:
    of 50 such clips three were read otherwise, once in 30 to 300 times, plainly too.
    """
    plain = {reading.frames for reading in read_oracle([path] * AGAIN)}
    return not plain.isdisjoint(reading.frames for reading in read_all([path] * AGAIN, [WAYS[ALLOWED]]))


@dataclass
class Verdict:
    """What was found of one clip, and what of it must not be."""

    clip: FuzzedClip
    outcome: str
    """"as published", "changed" (accepted, with the frames that the release reads of it, which are not those of the file before
    it was altered), "named"."""
    decord: str
    """"as published" or "named"."""
    faults: list[str] = field(default_factory=list)
    peak: int = 0
    reason: str = ""


def judge_clip(clip: FuzzedClip, source: Reading, oracle: Reading, readings: dict[str, Reading]) -> Verdict:
    """Compare what the readers made of a clip with the oracle.

    Args:
        clip: The clip.
        source: What the oracle reads of the file before it was altered.
        oracle: What it reads of the clip.
        readings: Of "pyav", "pyav, damaged allowed" and "decord".
    """
    strict, decord = readings["pyav"], readings["decord"]
    verdict = Verdict(clip, "named" if strict.error else "as published", "named" if decord.error else "as published")
    verdict.reason, verdict.peak = strict.error, max(reading.peak for reading in readings.values())
    for name, reading in readings.items():
        if reading.peak > MOST_MEMORY:
            verdict.faults.append(f"{name}: {reading.peak / 1e6:.0f} MB")
        if not reading.error:
            if oracle.error == TOO_LARGE:
                verdict.faults.append(f"{name}: pictures that are too large were read")
            elif reading.frames != oracle.frames and oracle.error != TOO_MUCH:
                verdict.faults.append(
                    f"{name}: other frames than published ({len(reading.frames)} for {len(oracle.frames)}, {oracle.error})"
                )
        elif not reading.error.startswith(f"clip {clip.path}: ") or "\n" in reading.error:
            verdict.faults.append(f"{name}: the clip is not named in one line: {reading.error!r}")
        elif "no frame within" in reading.error:
            verdict.faults.append(f"{name}: hung")
        elif "its process died" in reading.error and name != "decord":
            verdict.faults.append(f"{name}: {reading.error}")
        elif "Error: " in reading.error.removeprefix(f"clip {clip.path}: ")[:40]:
            verdict.faults.append(f"{name}: an error of Python's in the place of a reason: {reading.error}")
    if not strict.error and clip.altered and strict.frames != source.frames:
        verdict.outcome = "changed"
    return verdict


def fuzz(folder: Path, seed: int, clips: int) -> tuple[list[Verdict], Sources]:
    """Write `clips` clips of a seed into the subfolder "clips" and read them."""
    sources = Sources(folder / "sources")
    media = folder / "clips"
    media.mkdir(exist_ok=True)
    made = [make_clip(sources, media, seed, number) for number in range(clips)]
    used = sorted({clip.source for clip in made})
    # One worker answers in order.
    plain = list(read_oracle([*(sources.folder / name for name in used), *(clip.path for clip in made)]))
    undamaged, oracle = dict(zip(used, plain, strict=False)), plain[len(used) :]
    readings = list(read_all([clip.path for clip in made], [*WAYS.values()]))
    verdicts = []
    for number, clip in enumerate(made):
        own = {name: readings[place * clips + number] for place, name in enumerate(WAYS)}
        if own[ALLOWED].frames not in ((), oracle[number].frames) and varies(clip.path):
            own[ALLOWED].frames = oracle[number].frames
        verdicts.append(judge_clip(clip, undamaged[clip.source], oracle[number], own))
    return verdicts, sources
