"""decord and PyAV give the same frames; files that are no whole video are refused by name, in one line."""

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from repro.video.readers import READERS, VideoError, read_decord, read_pyav


def frames(
    reader: Callable[..., Iterator[np.ndarray]], path: Path, stride: int = 4, seconds: float = 180.0
) -> np.ndarray:
    return np.concatenate(list(reader(path, stride, seconds, 25)))


def write(
    path: Path, count: int, rate: int = 25, codec: str = "libx264", pixels: str = "yuv420p", **options: str
) -> Path:
    """A clip in which every frame differs from every other."""
    base = np.random.default_rng(1).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    container_options = {"movflags": options.pop("movflags")} if "movflags" in options else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for number in range(count):
            picture = np.roll(base, 2 * number, axis=1)
            picture[:16, :16] = number
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.avi", "mpeg4", {"bf": "0"}),
        ("b.avi", "mpeg4", {"bf": "1"}),
        ("c.avi", "mpeg4", {"bf": "2"}),
        ("d.mp4", "mpeg4", {"bf": "2"}),
        ("e.avi", "libx264", {"g": "12", "bf": "3"}),
        ("f.mp4", "libx264", {"g": "12", "bf": "3"}),
        ("g.mkv", "libx264", {"bf": "2"}),
        ("h.mpg", "mpeg1video", {}),
    ],
)
def test_decord_samples_the_frames_pyav_samples(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    """Asked for every fourth frame, decord itself returns others where frames are stored out of order."""
    path = write(tmp_path / name, 90, codec=codec, **options)
    everything = frames(read_pyav, path, stride=1)
    assert len(everything) == 90
    np.testing.assert_array_equal(frames(read_pyav, path), everything[::4])
    np.testing.assert_array_equal(frames(read_decord, path), everything[::4])


def test_what_decord_would_read_otherwise_is_left_to_pyav(tmp_path: Path) -> None:
    deep = write(tmp_path / "deep.mp4", 10, pixels="yuv420p10le")
    with pytest.raises(VideoError, match="more than 8 bits"):
        frames(read_decord, deep)
    assert len(frames(read_pyav, deep)) == 3
    turned = write(tmp_path / "turned.mp4", 10)
    content = bytearray(turned.read_bytes())
    header = content.find(b"tkhd")
    content[header + 44 : header + 80] = struct.pack(">9i", -65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30)
    turned.write_bytes(content)
    with pytest.raises(VideoError, match="marked as rotated"):
        frames(read_decord, turned)
    np.testing.assert_array_equal(frames(read_pyav, turned), frames(read_pyav, write(tmp_path / "plain.mp4", 10)))


def test_both_readers_agree_on_rendered_clips(rendered: dict[str, Path]) -> None:
    for path in rendered.values():
        ours = frames(read_decord, path)
        assert len(ours) == -(-len(frames(read_pyav, path, stride=1)) // 4)
        np.testing.assert_array_equal(ours, frames(read_pyav, path))


def test_both_readers_agree_on_real_clips(reference: Path) -> None:
    paths = sorted((reference / "clips").glob("*.mp4"))
    assert len(paths) >= 6
    for path in paths:
        np.testing.assert_array_equal(frames(read_decord, path), frames(read_pyav, path))


def test_every_fourth_native_frame_is_taken(clip: Path) -> None:
    everything = frames(read_pyav, clip, stride=1)
    np.testing.assert_array_equal(frames(read_decord, clip), everything[::4])


@pytest.mark.parametrize("reader", [read_decord, read_pyav])
def test_frames_behind_the_cap_are_left_out(tmp_path: Path, reader: Callable[..., Iterator[np.ndarray]]) -> None:
    path = write(tmp_path / "long.mp4", 60, rate=10)
    # Frames start at 0.0, 0.1, ... s; the one that starts at the cap itself is kept, as read_video keeps it.
    assert len(frames(reader, path, stride=1, seconds=2.0)) == 21


@pytest.mark.parametrize("reader", [read_decord, read_pyav])
def test_chunks_are_never_longer_than_asked(clip: Path, reader: Callable[..., Iterator[np.ndarray]]) -> None:
    assert [len(c) for c in reader(clip, 4, 180.0, 4)] == [4, 4, 2]


@pytest.mark.parametrize("reader", READERS.values())
def test_a_clip_of_one_frame(tmp_path: Path, reader: Callable[..., Iterator[np.ndarray]]) -> None:
    assert frames(reader, write(tmp_path / "one.mp4", 1)).shape == (1, 48, 64, 3)


@pytest.mark.parametrize("name", list(READERS))
@pytest.mark.parametrize(
    "damage", ["absent", "empty", "text", "no index", "cut off", "cut off.mkv", "no frames", "sound only"]
)
def test_what_is_no_whole_video_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    ending = "mkv" if damage == "cut off.mkv" else "mp4"
    path = tmp_path / f"clip (1) & [x].{ending}"
    options = {"movflags": "+faststart"} if damage == "cut off" else {}
    whole = write(tmp_path / f"whole.{ending}", 120, **options).read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_bytes(b"this is not a video\n" * 50)
    elif damage in ("no index", "cut off", "cut off.mkv"):
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "no frames":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
    elif damage == "sound only":
        with av.open(str(path), "w") as container:
            sound = container.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    with pytest.raises(VideoError) as caught:
        frames(READERS[name], path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
