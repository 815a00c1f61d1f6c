"""Whatever hides a full, limited or read-only disk, the command ends in one line that names the file and what to do."""

import errno
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from repro.__main__ import run
from repro.cli import app
from repro.core.disk import (
    DiskError,
    describe_temporary_failure,
    find_disk_errno,
    find_errno_in_text,
    naming_write,
    reserve_space,
)
from repro.core.files import lock_file, replacing_file, write_bytes, write_json
from repro.core.hashing import FileHashes, file_sha256

LIMIT = 64 * 1024


@pytest.fixture
def limited_files():
    """A limit on the size of files, which refuses writes as a full disk does and needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def _write_with_torch(path: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(LIMIT)}, path)


WRITERS = {
    "bytes": lambda path: path.write_bytes(b"x" * 2 * LIMIT),
    "safetensors": lambda path: save_file({"a": np.zeros(LIMIT)}, path),
    "torch": _write_with_torch,
    "parquet": lambda path: pq.write_table(pa.table({"a": np.random.default_rng(0).random(LIMIT)}), path),
    "copy": lambda path: shutil.copyfile(pa.lib.__file__, path),
}


@pytest.mark.usefixtures("limited_files")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_refused_write_names_the_file_and_leaves_the_old_one(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"old")

    def write() -> None:
        with replacing_file(path) as partial:
            WRITERS[writer](partial)

    with pytest.raises(
        DiskError, match=r"file: (file too large: raise the limit|input/output error: check free space)"
    ) as raised:
        write()
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(path))
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "mkdir"])
def test_system_calls_that_fail_are_reported(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(DiskError, match=os.strerror(number).lower()):
        write_json(tmp_path / "new" / "file.json", {})
    assert not list(tmp_path.rglob("*.partial"))


def test_an_unreadable_source_is_not_taken_for_the_target(tmp_path: Path) -> None:
    source = tmp_path / "source"

    def copy() -> None:
        with replacing_file(tmp_path / "target"):
            raise PermissionError(errno.EACCES, "Permission denied", str(source))

    with pytest.raises(PermissionError):
        copy()


def test_a_bug_in_a_handler_stays_a_bug() -> None:
    def fail() -> None:
        try:
            raise FileExistsError(errno.EEXIST, "File exists", "folder")
        except FileExistsError:
            raise TypeError("a defect") from None

    with pytest.raises(TypeError) as raised:
        fail()
    assert find_disk_errno(raised.value) is None
    assert find_disk_errno(ValueError("another defect")) is None


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (sqlite3.OperationalError("database or disk is full"), errno.ENOSPC),
        (sqlite3.OperationalError("disk I/O error"), errno.EIO),
        (sqlite3.OperationalError("attempt to write a readonly database"), errno.EROFS),
        (sqlite3.OperationalError("database is locked"), None),
        (sqlite3.DatabaseError("database disk image is malformed"), None),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), None),
    ],
)
def test_errors_of_libraries_are_recognised(error: Exception, number: int | None) -> None:
    assert find_disk_errno(error) == number


def test_what_programs_print_is_recognised() -> None:
    assert find_errno_in_text("bsdtar: Write failed: No space left on device") == errno.ENOSPC
    assert find_errno_in_text("bsdtar: Truncated input file") is None


@pytest.mark.usefixtures("limited_files")
def test_space_is_reserved_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "array"

    def reserve() -> None:
        with naming_write(path), path.open("wb") as file:
            reserve_space(file, 2 * LIMIT)

    with pytest.raises(DiskError, match="array: file too large"):
        reserve()


def test_file_systems_that_cannot_reserve_are_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with (tmp_path / "file").open("wb") as file:
        reserve_space(file, LIMIT)


def test_a_hash_that_cannot_be_cached_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"clip")
    os.utime(path, (0, 0))

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    hashes = FileHashes(tmp_path / "hashes.jsonl")
    monkeypatch.setattr(os, "write", fail)
    assert hashes.sha256(path) == file_sha256(path)


def test_a_lock_on_a_full_disk_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def lock() -> None:
        with lock_file(tmp_path / ".lock", "busy", "wait"):
            raise AssertionError("the block must not run")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(DiskError, match=r"\.lock: no space left on device: free space"):
        lock()


@pytest.mark.parametrize(
    ("number", "said"), [(None, "input/output error"), (errno.ENOSPC, "no space left on device: free space")]
)
def test_what_sqlite_does_not_say_is_found_out(
    number: int | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_database() -> None:
        with replacing_file(tmp_path / "mlflow.db"):
            if number is not None:

                def refuse(_: Path) -> None:
                    raise OSError(number, os.strerror(number))

                monkeypatch.setattr("repro.core.locks.own_partial", refuse)
            raise sqlite3.OperationalError("unable to open database file")

    with pytest.raises(DiskError, match=f"mlflow.db: {said}"):
        open_database()


def _fail_to_find_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(folder / "none")])
    tempfile.mkdtemp()


def _fail_to_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    path = Path(tempfile.mkdtemp()) / "config.json"
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (_fail_to_find_a_folder, "no usable temporary directory"),
        (_fail_to_write, "config.json: no space left on device"),
    ],
)
def test_a_full_folder_of_temporary_files_is_one_line(
    fail: Callable[[Path, pytest.MonkeyPatch], None],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(app, "dispatch", lambda _: fail(tmp_path, monkeypatch))
    assert run(["list"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert said in message.lower()
    assert str(tmp_path) in message
    assert "TMPDIR" in message
    assert "--workspace" not in message


def test_a_workspace_among_temporary_files_is_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "workspace" / "features"))
    assert describe_temporary_failure(full) is None


@pytest.mark.parametrize("options", [["list"], ["list", "--json"]])
def test_output_to_a_full_disk_is_no_bug(options: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "repro", *options], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("repro: standard output: no space left on device: free space")
