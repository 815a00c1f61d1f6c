"""Files that are either whole or absent, whatever kills the process."""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there takes `path`'s place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut, as a file system allows 255 bytes a name; who writes it, so that another process can tell whether it lives.
    partial = path.with_name(f".{path.name[:60]}.{os.getpid()}-{_host()}-{secrets.token_hex(3)}.partial")
    try:
        yield partial
        if partial.stat().st_nlink == 1:  # of a hard link, the mode is another's too
            partial.chmod(0o666 & ~_umask())  # some writers make files for their owner alone
        put(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def put(partial: Path, path: Path) -> None:
    """Give the finished file `partial` the name `path` in the same folder, synced."""
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON a person can read and diff. NaN is refused: it is not JSON."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def set_aside(path: Path) -> Path:
    """Move a file that cannot be used out of the way, losing nothing; returns its new name."""
    for n in range(1, 10_000):
        aside = path.with_name(f"{path.name}.damaged{n}")
        if not aside.exists():
            path.replace(aside)
            return aside
    raise RuntimeError(f"{path.parent}: thousands of damaged copies of {path.name}")


ABANDONED = 24 * 3600.0
"""Seconds after which another machine's unfinished file is taken to have been left behind."""


def remove_partials(folder: Path) -> None:
    """Delete what killed writers left in `folder` (and SQLite's journals of it); what others are writing stays."""
    for partial in folder.glob(".*.partial*"):
        if _abandoned(partial):
            partial.unlink(missing_ok=True)


def _abandoned(partial: Path) -> bool:
    writer = re.search(r"\.(\d+)-([^-]*)-[0-9a-f]{6}\.partial", partial.name)
    if writer and writer[2] == _host():
        pid = int(writer[1])
        return pid == os.getpid() or not _lives(pid)
    try:
        return time.time() - partial.stat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return re.sub("[^A-Za-z0-9]", "", os.uname().nodename)[:30]


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; file systems that cannot do this are left as they are."""
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
