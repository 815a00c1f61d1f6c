"""The frames of every kind of file that FFmpeg here can write are those of a plain read-everything-and-sort; what is damaged
is named."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from builders.videos import (
    KINDS,
    Video,
    copy_trimmed,
    draw_picture,
    mark_rotated,
    read_everything,
    write_packed,
    write_two_streams,
    write_video,
    write_with_picture,
)
from matplotlib.image import imsave

from repro.video import published
from repro.video.published import ClipIndex, DamagedClipError, VideoError, convert_frames, estimate_frames, index_clip
from repro.video.readers import open_clip, read_clip
from repro.video.sampling import ReaderName, Sampling

READ_BY_DECORD = {
    "mpeg4.avi", "mpeg4_b.avi", "mpeg4_b.mp4", "msmpeg4.avi", "h264.mp4", "h264.mkv", "fragments.mp4", "h265.mp4", "h265.mkv",
    "vp8.webm", "vp9.webm", "h263.3gp", "starts_late.mp4", "variable_rate.mp4", "gap.mkv",
}  # fmt: skip


def read(
    path: Path, stride: int = 4, seconds: float = 180.0, reader: ReaderName = "pyav", damaged: bool = False
) -> np.ndarray:
    return np.concatenate(list(read_clip(path, Sampling(stride, seconds, 7, reader, damaged))))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Video], Path]:
    folder = tmp_path_factory.mktemp("kinds")

    def make(video: Video) -> Path:
        path = folder / video.name
        return path if path.exists() else write_video(path, video)

    return make


@pytest.mark.parametrize("video", KINDS, ids=lambda video: video.name)
def test_frames_are_the_published_ones(
    files: Callable[[Video], Path], video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files(video)
    expected = read_everything(path)
    assert len(expected) >= 38
    index = index_clip(path, 180.0)
    assert index.damage == ""
    np.testing.assert_array_equal(read(path), expected[::4])
    monkeypatch.setattr(published, "KEPT_BYTES", 0)
    np.testing.assert_array_equal(read(path), expected[::4])  # decoded a second time


@pytest.mark.parametrize("video", KINDS, ids=lambda video: video.name)
def test_decord_returns_the_published_frames_or_refuses_the_clip(files: Callable[[Video], Path], video: Video) -> None:
    pytest.importorskip("decord", reason="decord has no build for this platform")
    path = files(video)
    if video.name in READ_BY_DECORD:
        np.testing.assert_array_equal(read(path, reader="decord"), read_everything(path)[::4])
        return
    with pytest.raises(VideoError, match="pyav") as caught:
        read(path, reader="decord")
    assert str(path) in str(caught.value)


def test_packed_b_frames_are_sorted_by_their_times(tmp_path: Path) -> None:
    """The decoder's order is the smooth one; the release's is that of the times."""
    path = write_packed(tmp_path / "packed.avi")
    with av.open(str(path)) as container:
        times = [frame.pts or 0 for frame in container.decode(video=0)]
    assert sum(a > b for a, b in itertools.pairwise(times)) > 20
    np.testing.assert_array_equal(read(path), read_everything(path)[::4])
    assert not np.array_equal(read(path), read(path, stride=1)[np.argsort(np.argsort(times))][::4])
    with pytest.raises(VideoError, match="not stored in the order of their times"):
        read(path, reader="decord")


def test_decord_gets_no_clip_whose_frames_take_too_much(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.avi", Video("x.avi", "mpeg4"), 5)
    content = bytearray(path.read_bytes())
    length = content.index(b"strh") + 8 + 32
    content[length : length + 4] = (117_440_512).to_bytes(4, "little")
    path.write_bytes(content)
    assert len(read(path)) == 2
    with pytest.raises(VideoError, match="its 117440512 frames take 1,082 GB"):
        read(path, reader="decord")


def test_the_first_stream_is_read(tmp_path: Path) -> None:
    path = write_two_streams(tmp_path / "two.mp4")
    assert read(path).shape == (6, 48, 64, 3)
    with pytest.raises(VideoError, match="2 video streams"):
        read(path, reader="decord")


def test_a_picture_before_the_video_is_read_and_reported(tmp_path: Path) -> None:
    path = write_with_picture(tmp_path / "picture.mov", attached=False)
    np.testing.assert_array_equal(read(path), read_everything(path))
    index = index_clip(path, 180.0)
    assert len(index.order) == 1
    assert "its first video stream (0) is a single picture" in index.still
    assert "a video follows as stream 1" in index.still


def test_a_picture_in_place_of_a_video_is_read_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    imsave(path, draw_picture(0))
    assert len(read(path)) == 1
    assert index_clip(path, 180.0).still == "the file is a picture, not a video"


def test_cover_art_before_the_video_is_refused_as_the_release_reads_nothing(tmp_path: Path) -> None:
    path = write_with_picture(tmp_path / "cover.mp4", attached=True)
    with av.open(str(path)) as container, pytest.raises(av.FFmpegError):
        container.seek(0, any_frame=False, backward=True, stream=container.streams.video[0])
    with pytest.raises(VideoError, match="an attached picture") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "a video follows as stream 1" in str(caught.value)


def test_cover_art_after_the_video_and_a_clip_of_one_frame_are_not_reported(tmp_path: Path) -> None:
    with_cover = write_with_picture(tmp_path / "cover.mp4", attached=True, before=False)
    index = index_clip(with_cover, 180.0)
    assert (len(index.order), index.still) == (24, "")
    short = write_video(tmp_path / "short.mp4", Video("short.mp4"), frames=1)
    assert index_clip(short, 180.0).still == ""


def test_hidden_frames_of_a_trimmed_clip_are_no_damage(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", Video("source.mp4", options={"g": "60"}))
    path = copy_trimmed(source, tmp_path / "trimmed.mp4", first=17)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 60
    np.testing.assert_array_equal(read(path), read_everything(path)[::4])
    assert len(read(path, stride=1)) < 60


def test_rotation_is_left_as_stored(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.mp4", Video("plain.mp4"), 10)
    turned = mark_rotated(write_video(tmp_path / "turned.mp4", Video("turned.mp4"), 10))
    np.testing.assert_array_equal(read(turned), read(plain))
    with pytest.raises(VideoError, match="rotated"):
        read(turned, reader="decord")


def test_the_cap_counts_from_the_clock_of_the_file(tmp_path: Path) -> None:
    early = write_video(tmp_path / "early.mp4", Video("early.mp4"), 60)
    late = write_video(tmp_path / "late.mkv", Video("late.mkv", times=tuple(range(25, 85))))
    # Frames start at 0, 0.04, ... s; the one at the cap itself is kept.
    assert len(read(early, 1, 2.0)) == 51
    assert len(read(late, 1, 2.0)) == 26
    for path in (early, late):
        np.testing.assert_array_equal(read(path, 1, 2.0), read_everything(path, 2.0))


def test_the_later_of_two_frames_with_one_time_is_kept(tmp_path: Path) -> None:
    index = ClipIndex(tmp_path, kept=[])
    index.pts = [0, 1, 1, 3, 2, -1]
    assert published.order_frames(index.pts, end=2.0) == [0, 2, 4]


def test_metadata_in_another_encoding_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "title.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXX"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_picture(0), format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"XXXX", b"\xe9t\xe9\xff"))
    assert len(read(path)) == 1


def test_names_that_look_like_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("12:30:05.mp4", "data:x.mp4", "http:x.mp4"):
        write_video(tmp_path / "x.mp4", Video("x.mp4"), 5).rename(tmp_path / name)
        assert len(read(Path(name))) == 2


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", PLAYLIST.format("http://192.0.2.1/a.ts")),
        ("list.m3u8", PLAYLIST.format("../other/x.ts")),
        ("list.mp4", "ffconcat version 1.0\nfile x.ts\n"),
        ("list.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
        ("%d.jpg", "the name is a pattern"),
    ],
)
def test_a_list_of_other_files_opens_none(name: str, text: str, tmp_path: Path) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    for folder in (here, other):
        folder.mkdir()
        write_video(folder / "x.ts", Video("x.ts"), 5)
    write_video(here / "1.jpg", Video("1.jpg", "mjpeg", "yuvj420p"), 1)
    (here / name).write_text(text)
    with pytest.raises(VideoError, match="not a video that can be decoded"):
        read(here / name)


@pytest.mark.parametrize(
    "name", ["h264.mkv", "vp9.webm", "h264.ts", "h264.flv", "mpeg4_b.avi", "mjpeg.avi", "pictures.gif", "fragments.mp4"]
)
@pytest.mark.parametrize("share", [0.95, 0.6])
def test_a_cut_off_clip_is_damaged(files: Callable[[Video], Path], tmp_path: Path, name: str, share: float) -> None:
    """Most of these decode without an error up to the cut."""
    data = files(next(video for video in KINDS if video.name == name)).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share) // 10 * 10 + 1])
    with pytest.raises(DamagedClipError, match=r"damaged: .*frames decode: fetch or copy it again.*--allow-damaged"):
        read(path)
    np.testing.assert_array_equal(read(path, damaged=True)[:2], read_everything_until_error(path)[::4][:2])
    with pytest.raises(VideoError):
        read(path, reader="decord", damaged=True)


def read_everything_until_error(path: Path) -> np.ndarray:
    frames = {}
    with av.open(str(path)) as container:
        try:
            for frame in container.decode(video=0):
                frames[frame.pts] = frame.to_rgb().to_ndarray()
        except av.FFmpegError:
            pass
    return np.stack([frames[pts] for pts in sorted(frames)])


def test_frames_marked_as_corrupt_are_damage(files: Callable[[Video], Path], tmp_path: Path) -> None:
    data = bytearray(files(KINDS[5]).read_bytes())
    generator = np.random.default_rng(3)
    start = data.index(b"mdat")
    for place in generator.integers(start + 2000, start + 8000, 12):
        data[place] ^= 16
    path = tmp_path / "flipped.mp4"
    path.write_bytes(data)
    with pytest.raises(DamagedClipError, match=r"corrupt|decoding fails"):
        read(path)


def test_a_picture_size_that_changes_is_refused(tmp_path: Path) -> None:
    """read_video cannot stack such frames."""
    path = tmp_path / "sizes.ts"
    parts = [
        write_video(tmp_path / f"{width}.ts", Video("part", size=(width, 48)), 10).read_bytes() for width in (64, 96)
    ]
    path.write_bytes(b"".join(parts))
    with pytest.raises(VideoError, match="picture size changes from 64x48 to 96x48"):
        read(path)


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize("kind", ["absent", "empty", "folder", "pipe", "text", "no index", "no frames", "sound only"])
def test_what_is_no_video_is_refused(tmp_path: Path, reader: ReaderName, kind: str) -> None:
    path = tmp_path / "clip (1) & [x].mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "text":
        path.write_bytes(b"this is not a video\n" * 50)
    elif kind == "no index":
        whole = write_video(tmp_path / "whole.mp4", KINDS[5]).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "no frames":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
    elif kind == "sound only":
        with av.open(str(path), "w") as container:
            sound = container.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    with pytest.raises(VideoError) as caught:
        read(path, reader=reader)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text


@pytest.mark.slow
def test_both_readers_agree_on_rendered_and_real_clips(rendered: dict[str, Path], reference: Path) -> None:
    pytest.importorskip("decord", reason="decord has no build for this platform")
    real = sorted((reference / "clips").glob("*.mp4"))
    assert len(real) >= 6
    refused = 0
    for path in [*rendered.values(), *real]:
        expected = read_everything(path)[::4]
        np.testing.assert_array_equal(read(path), expected)
        if is_full_chroma(path):
            refused += 1
            with pytest.raises(VideoError, match="yuv444p"):
                read(path, reader="decord")
        else:
            np.testing.assert_array_equal(read(path, reader="decord"), expected)
    assert refused < len(real)


def is_full_chroma(path: Path) -> bool:
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.pix_fmt == "yuv444p"


def test_chunks_are_never_longer_than_asked(clip: Path) -> None:
    def lengths(reader: ReaderName) -> Iterator[int]:
        yield from (len(chunk) for chunk in read_clip(clip, Sampling(4, 180.0, 4, reader)))

    assert list(lengths("pyav")) == [4, 4, 2]
    assert list(lengths("decord")) == [4, 4, 2]


def test_memory_holds_no_clip_at_full_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond KEPT_BYTES no decoded frame is kept, and the second pass holds back what the order requires."""
    path = write_packed(tmp_path / "packed.avi")
    monkeypatch.setattr(published, "KEPT_BYTES", 50_000)
    index = index_clip(path, 180.0)
    assert index.kept is None
    converted = 0

    def count(frame: av.VideoFrame) -> np.ndarray:
        nonlocal converted
        converted += 1
        return frame.to_ndarray(format="rgb24")

    monkeypatch.setattr(published, "_to_rgb", count)
    ahead = []
    for number, chunk in enumerate(convert_frames(index, 1, 1)):
        np.testing.assert_array_equal(chunk[0], read_everything(path)[number])
        ahead.append(converted - number - 1)
    assert len(ahead) == 60
    assert max(ahead) == 1


def test_a_clip_that_is_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "KEPT_BYTES", 0)
    path = write_video(tmp_path / "a.mp4", Video("a.mp4"), 30)
    sampling = Sampling(4, 180.0, 25)
    index = open_clip(path, sampling)
    write_video(path, Video("a.mp4"), 10)
    with pytest.raises(VideoError, match="changed while it was read"):
        list(convert_frames(index, 4, 25))


def test_estimates_do_not_believe_absurd_headers(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", Video("a.avi", "mpeg4"), 30)
    assert estimate_frames(path, 180.0) == 30
    assert estimate_frames(path, 0.4) == 10
    content = bytearray(path.read_bytes())
    header = content.find(b"strh")
    content[header + 40 : header + 44] = struct_max()  # length of the stream in frames
    content[content.find(b"avih") + 24 : content.find(b"avih") + 28] = struct_max()
    path.write_bytes(content)
    assert estimate_frames(path, float("inf")) < 5_000


def struct_max() -> bytes:
    return b"\xff\xff\xff\x7f"
