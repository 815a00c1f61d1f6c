"""Atomic file writing, and locks between processes. A file is either complete or missing, whatever kills the process."""

import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repro.core.errors import UsageError
from repro.core.reading import parse_json, read_text

ABANDONED = 24 * 3600.0
"""Seconds after which an unfinished file of another machine is treated as abandoned."""


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; when the block succeeds, the file written there replaces `path`.

    If the block raises, the temporary file is deleted and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is cut because file systems allow 255 bytes a name. It carries process and host, so that
    # remove_partials can tell a killed writer's file from one that is still being written.
    partial = path.with_name(f".{path.name[:60]}.{os.getpid()}-{_host()}-{secrets.token_hex(3)}.partial")
    try:
        yield partial
        # Some writers (safetensors, tempfile) create files with mode 0600; a shared workspace needs the umask's mode.
        # A hard link shares its mode with the file it links to, which is not ours to change.
        if partial.stat().st_nlink == 1:
            partial.chmod(0o666 & ~_umask())
        rename_synced(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def rename_synced(partial: Path, path: Path) -> None:
    """Rename the finished file `partial` to `path` in the same folder, synced to disk."""
    # The order matters: without fsync before the rename, a power cut can leave the new name on an empty file.
    # Syncing the folder afterwards makes the rename itself durable.
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing_file(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON.

    Raises:
        ValueError: it contains NaN or infinity, which JSON cannot represent.
    """
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_json_or_none(path: Path) -> Any:
    """Read a JSON file that can be made again; returns None if it is missing or not JSON."""
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError):
        return None


def set_aside(path: Path) -> Path:
    """Rename an unusable file to NAME.damaged1, 2, ... without overwriting earlier ones; returns the new path."""
    for n in range(1, 10_000):
        aside = path.with_name(f"{path.name}.damaged{n}")
        if not aside.exists():
            path.replace(aside)
            return aside
    raise RuntimeError(f"{path.parent}: thousands of damaged copies of {path.name}")


def remove_partials(folder: Path) -> None:
    """Delete temporary files of killed writers in `folder`, and SQLite's journals of them; keep those still being written."""
    for partial in folder.glob(".*.partial*"):
        if _is_abandoned(partial):
            partial.unlink(missing_ok=True)


def _is_abandoned(partial: Path) -> bool:
    writer = re.search(r"\.(\d+)-([^-]*)-[0-9a-f]{6}\.partial", partial.name)
    if writer and writer[2] == _host():
        pid = int(writer[1])
        # A file under our own pid was left by an earlier process with this pid: we write nothing while we clean up.
        return pid == os.getpid() or not _is_running(pid)
    # Processes of another host (a shared file system) cannot be looked up: only age can tell.
    try:
        return time.time() - partial.stat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists and belongs to another user
        return True
    return True


def _host() -> str:
    return re.sub("[^A-Za-z0-9]", "", os.uname().nodename)[:30]


def _umask() -> int:
    current = os.umask(0)  # there is no way to read it without setting it
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, on file systems that can sync a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


@contextmanager
def lock_file(path: Path, busy: str, remedy: str) -> Iterator[None]:
    """Hold the lock file `path` during the block.

    Raises:
        UsageError: another process holds it; the message is `busy`, that process's pid and host, and `remedy`.
    """
    with path.open("a+") as file:
        if not _lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(f"{busy} ({holder}): {remedy}")
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"pid": os.getpid(), "host": os.uname().nodename}))
        file.flush()
        yield


@contextmanager
def try_lock_file(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` during the block if it is free; yields whether it is."""
    with path.open("a") as file:
        yield _lock(file.fileno())


def _lock(descriptor: int) -> bool:
    # flock rather than a file that exists: the kernel frees it when its holder dies, so no stale lock is ever left.
    # The lock belongs to the open file: a second open of the same path conflicts even within one process. The file
    # itself stays, because deleting it would let two processes lock two different files of one name.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
