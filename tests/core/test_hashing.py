"""A remembered hash is only ever that of the bytes that are there."""

import os
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


def settled(path: Path, content: bytes, age: float = 100) -> Path:
    path.write_bytes(content)
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def test_a_file_is_read_through_once(tmp_path: Path, reads: list[Path]) -> None:
    video = settled(tmp_path / "#1 ü.mp4", b"abc")
    for _ in range(3):
        assert FileHashes(tmp_path / "hashes.jsonl").sha256(video) == file_sha256(video)
    assert reads == [video]


def test_another_content_is_another_hash(tmp_path: Path, reads: list[Path]) -> None:
    video = settled(tmp_path / "a", b"abc", age=100)
    known = FileHashes(tmp_path / "hashes.jsonl")
    first = known.sha256(video)
    settled(video, b"abd", age=50)
    assert known.sha256(video) == file_sha256(video) != first
    other = settled(tmp_path / "b", b"abe", age=50)
    other.replace(video)  # same path, size and time, another file
    assert known.sha256(video) == file_sha256(video)


def test_a_file_just_written_is_not_trusted(tmp_path: Path, reads: list[Path]) -> None:
    known = FileHashes(tmp_path / "hashes.jsonl")
    (tmp_path / "a").write_bytes(b"x")
    known.sha256(tmp_path / "a")
    known.sha256(tmp_path / "a")
    assert len(reads) == 2


def test_lines_that_make_no_sense_are_passed_over(tmp_path: Path, reads: list[Path]) -> None:
    video = settled(tmp_path / "a", b"abc")
    place = tmp_path / "hashes.jsonl"
    FileHashes(place).sha256(video)
    place.write_bytes(b'{"x": 1}\n[1, 2]\nnot json\xff\n["a", 1, 2, 3, "short"]\n' + place.read_bytes() + b'["cut o')
    assert FileHashes(place).sha256(video) == file_sha256(video)
    assert len(reads) == 1
