"""A remembered hash is only ever that of the bytes that are there."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.core import hashing as hashes
from repro.core.hashing import FileHashes, file_sha256


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def counted(path: Path) -> str:
        seen.append(path)
        return file_sha256(path)

    monkeypatch.setattr(hashes, "file_sha256", counted)
    return seen


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write files whose hashes are cached at once: only the kernel sets a ctime, so the wait for it is left out."""
    monkeypatch.setattr(hashes, "SETTLED", -1.0)

    def write(path: Path, content: bytes, age: float = 100) -> Path:
        path.write_bytes(content)
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
        return path

    return write


def test_a_file_is_read_through_once(tmp_path: Path, reads: list[Path], settled: Callable[..., Path]) -> None:
    video = settled(tmp_path / "#1 ü.mp4", b"abc")
    for _ in range(3):
        assert FileHashes(tmp_path / "hashes.jsonl").sha256(video) == file_sha256(video)
    assert reads == [video]


def test_another_content_is_another_hash(tmp_path: Path, reads: list[Path], settled: Callable[..., Path]) -> None:
    video = settled(tmp_path / "a", b"abc", age=100)
    known = FileHashes(tmp_path / "hashes.jsonl")
    first = known.sha256(video)
    settled(video, b"abd", age=50)
    assert known.sha256(video) == file_sha256(video) != first
    other = settled(tmp_path / "b", b"abe", age=50)
    other.replace(video)  # same path, size and time, another file
    assert known.sha256(video) == file_sha256(video)


def test_bytes_overwritten_with_size_and_mtime_restored_are_noticed(
    tmp_path: Path, reads: list[Path], settled: Callable[..., Path]
) -> None:
    array = settled(tmp_path / "a.npy", b"abc" * 1000)
    known, before = FileHashes(tmp_path / "hashes.jsonl"), array.stat()
    first = known.sha256(array)
    with array.open("r+b") as file:
        file.seek(100)
        file.write(b"\0" * 400)
    os.utime(array, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert array.stat().st_mtime_ns == before.st_mtime_ns
    assert FileHashes(tmp_path / "hashes.jsonl").sha256(array) == file_sha256(array) != first


def test_lines_without_a_ctime_are_read_again(tmp_path: Path, reads: list[Path], settled: Callable[..., Path]) -> None:
    video, place = settled(tmp_path / "a", b"abc"), tmp_path / "hashes.jsonl"
    stat = video.stat()
    place.write_text(json.dumps([str(video), stat.st_size, stat.st_mtime_ns, stat.st_ino, "0" * 64]) + "\n")
    assert FileHashes(place).sha256(video) == file_sha256(video)


def test_a_forced_reading_replaces_a_hash_that_is_wrong(
    tmp_path: Path, reads: list[Path], settled: Callable[..., Path]
) -> None:
    """A disk that fails changes bytes and no stamp: as if another hash had been cached."""
    array, place = settled(tmp_path / "a.npy", b"abc"), tmp_path / "hashes.jsonl"
    place.write_text(json.dumps([*hashes.FileStamp.of(array), "0" * 64]) + "\n")
    assert FileHashes(place).sha256(array) == "0" * 64
    for _ in range(2):
        assert FileHashes(place).reread_sha256(array) == file_sha256(array)
    assert FileHashes(place).sha256(array) == file_sha256(array)
    assert reads == [array]


def test_files_are_hashed_ahead_and_errors_are_left_to_who_asks(
    tmp_path: Path, reads: list[Path], settled: Callable[..., Path]
) -> None:
    known, files = FileHashes(tmp_path / "hashes.jsonl"), [settled(tmp_path / f"{n}", b"%d" % n) for n in range(20)]
    os.mkfifo(tmp_path / "pipe")
    known.cache_all([*files, tmp_path / "missing", tmp_path / "pipe"])
    assert len(reads) == 21
    again = FileHashes(tmp_path / "hashes.jsonl")
    assert [again.sha256(file) for file in files] == [file_sha256(file) for file in files]
    assert len(reads) == 21
    for name in ("missing", "pipe"):
        with pytest.raises(OSError, match=r"No such file|regular file"):
            known.sha256(tmp_path / name)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_only_regular_files_are_hashed(tmp_path: Path, kind: str) -> None:
    """A named pipe would be waited for, for good."""
    os.mkfifo(tmp_path / "a") if kind == "pipe" else (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match=r"regular file|directory"):
        file_sha256(tmp_path / "a")


def test_a_file_just_written_is_not_trusted(tmp_path: Path, reads: list[Path]) -> None:
    known = FileHashes(tmp_path / "hashes.jsonl")
    (tmp_path / "a").write_bytes(b"x")
    known.sha256(tmp_path / "a")
    known.sha256(tmp_path / "a")
    assert len(reads) == 2


def test_lines_that_make_no_sense_are_passed_over(
    tmp_path: Path, reads: list[Path], settled: Callable[..., Path]
) -> None:
    video = settled(tmp_path / "a", b"abc")
    place = tmp_path / "hashes.jsonl"
    FileHashes(place).sha256(video)
    place.write_bytes(b'{"x": 1}\n[1, 2]\nnot json\xff\n["a", 1, 2, 3, "short"]\n' + place.read_bytes() + b'["cut o')
    assert FileHashes(place).sha256(video) == file_sha256(video)
    assert len(reads) == 1


def test_deep_nesting_in_the_cache_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "hashes.jsonl").write_text("[" * 200_000 + "\n")
    assert FileHashes(tmp_path / "hashes.jsonl").known(tmp_path / "hashes.jsonl") is None


def test_a_named_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hashes.jsonl")
    with pytest.raises(OSError, match="not a regular file"):
        FileHashes(tmp_path / "hashes.jsonl")
