"""Atomic file writing, and locks between processes. A file is either complete or missing, whatever kills the process."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repro.core.disk import naming_write
from repro.core.errors import UsageError
from repro.core.locks import own_partial, remove_partials, take_lock
from repro.core.reading import open_in_place, parse_json, read_text


@contextmanager
def replacing_file(path: Path, *, by_user: bool = False) -> Iterator[Path]:
    """Yield a temporary path on the same file system; when the block succeeds, the file written there replaces `path`.

    If the block raises, the temporary file is deleted and `path` stays as it was.

    Args:
        path: The file.
        by_user: The user has named it, so that no command cleans its folder: temporary files that killed writers of it left are deleted.

    Raises:
        DiskError: the disk is full, read-only or refuses the write for another reason; the message names `path`.
    """
    with naming_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if by_user:
            remove_partials(path.parent, path.name)
        with own_partial(path) as partial, naming_write(path, partial):
            yield partial
            # Some writers (safetensors, tempfile) create files with mode 0600; a shared workspace needs the umask's mode.
            # A hard link shares its mode with the file it links to, which is not ours to change.
            if partial.stat().st_nlink == 1:
                partial.chmod(0o666 & ~_umask())
            rename_synced(partial, path)


def rename_synced(partial: Path, path: Path) -> None:
    """Rename the finished file `partial` to `path`, synced to disk."""
    # The order matters: without fsync before the rename, a power cut can leave the new name on an empty file.
    # Syncing the folder afterwards makes the rename itself durable.
    with naming_write(path, partial):
        # Some network disks report a full disk or an exceeded quota only here.
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        # POSIX: readers see the old file or the new one, and never none.
        partial.replace(path)
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes, *, by_user: bool = False) -> None:
    """Write a file atomically; `by_user` as for `replacing_file`."""
    with replacing_file(path, by_user=by_user) as partial:
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


def set_aside(path: Path, label: str = "damaged") -> Path:
    """Rename an unusable file to NAME.damaged1, 2, ... without overwriting earlier ones; returns the new path.

    If another process has renamed or deleted it meanwhile, nothing happens.
    """
    for n in range(1, 10_000):
        aside = path.with_name(f"{path.name}.{label}{n}")
        if path.is_dir():
            if aside.exists():
                continue
        else:
            # The name is taken before the rename: two processes never rename two files to one name.
            try:
                aside.touch(exist_ok=False)
            except FileExistsError:
                continue
        try:
            path.replace(aside)
        except FileNotFoundError:
            aside.unlink(missing_ok=True)
        return aside
    raise RuntimeError(f"{path.parent}: thousands of damaged copies of {path.name}")


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
    with naming_write(path):
        opened = open(path, "a+", opener=open_in_place)  # noqa: SIM115  # Closed below.
    with opened as file:
        if not take_lock(file.fileno(), path):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(f"{busy} ({holder}): {remedy}")
        with naming_write(path):
            # Not through the buffer of `file`, which would be written once more, and fail once more, when it is closed.
            os.ftruncate(file.fileno(), 0)
            # For messages alone: the lock, and not this text, decides who holds it.
            os.write(file.fileno(), json.dumps({"pid": os.getpid(), "host": os.uname().nodename}).encode())
        yield


@contextmanager
def try_lock_file(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` during the block if it is free; yields whether it is."""
    with naming_write(path):
        opened = open(path, "a", opener=open_in_place)  # noqa: SIM115  # Closed below.
    with opened as file:
        yield take_lock(file.fileno(), path)
