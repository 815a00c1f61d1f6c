"""Files of another type than expected never make a read wait, and nesting is bounded."""

import os
import socket
from pathlib import Path

import pytest

from repro.core.locks import wait_for_lock
from repro.core.reading import (
    MAX_DEPTH,
    IrregularFileError,
    check_regular,
    describe_absence,
    open_in_place,
    open_regular,
    parse_json,
    read_bytes,
    read_text,
)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_named_pipe_is_refused_at_once(pipe: Path) -> None:
    for read in (read_bytes, read_text, check_regular):
        with pytest.raises(IrregularFileError, match="not a regular file"):
            read(pipe)
    with pytest.raises(IrregularFileError), open(pipe, "rb", opener=open_regular):
        pass


def test_what_is_in_the_place_of_a_file_or_folder_is_named(tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert describe_absence(tmp_path, "file") == "a folder, expected a file"
    assert describe_absence(tmp_path / "file", "folder") == "a file, expected a folder"
    assert describe_absence(pipe, "file") == "neither a file nor a folder"
    assert describe_absence(tmp_path / "link", "file") == f"a link to {tmp_path / 'gone'}, which does not exist"
    assert describe_absence(tmp_path / "gone", "folder") == "no such folder"


def test_a_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(IrregularFileError):
        read_bytes(tmp_path / "link")


def test_a_socket_and_a_folder_are_os_errors(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match=r"No such device|not a regular"):
            read_bytes(tmp_path / "socket")
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"caf\xc3\xa9\n")
    assert read_bytes(tmp_path / "file") == b"caf\xc3\xa9\n"
    assert read_text(tmp_path / "file") == "caf\u00e9\n"


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 2_000, 200_000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_deep_json_is_a_value_error(depth: int, start: str, end: str) -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json(start * depth + "1" + end * depth)


def test_json_within_the_limit_is_parsed() -> None:
    value = parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == []


def test_a_file_that_is_written_in_place_is_no_link(tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for path in (tmp_path / "link", pipe):
        with pytest.raises(IrregularFileError), open(path, "w", opener=open_in_place):
            pass
        with pytest.raises(IrregularFileError), wait_for_lock(path, lambda: None):
            pass
    assert (tmp_path / "mine").read_text() == "mine"
    with open(tmp_path / "new", "a", opener=open_in_place) as file:
        file.write("x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "mine").stat().st_mode
