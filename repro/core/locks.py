"""Ownership between processes: locks that the kernel frees when their holder dies, and folders of unfinished files.

A lock, unlike a pid and a host name, is the same for two containers with one host name, for threads and after a reboot.
"""

import fcntl
import glob
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repro.core.errors import UsageError
from repro.core.reading import open_in_place

ABANDONED = 24 * 3600.0
"""Seconds after which an unfinished file without a lock is deleted: one of another version, or of a file system without locks."""
LOCK = "lock"
"""Name of the lock file in the folder of an unfinished file."""
NO_LOCK = "no-lock"
"""Name of the file in its place on a file system without locks."""
POLL = 0.1
"""Seconds between two tries of a lock that is waited for. Tries, unlike a blocking call, can be interrupted on any file system."""


class NoLocksError(UsageError):
    """The file system cannot lock files."""


def take_lock(descriptor: int, path: Path) -> bool:
    """Lock the open file `path` if it is free; returns whether it was.

    Raises:
        NoLocksError: the file system has no locks.
    """
    # flock rather than a file that exists: the kernel frees it when its holder dies, so no stale lock is ever left.
    # The lock belongs to the open file: a second open of the same path conflicts even within one process. The file
    # itself stays, because deleting it would let two processes lock two different files of one name.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise NoLocksError(
            f"{path}: cannot be locked ({error.strerror}): use a workspace on a file system with locks (docs/design.md)"
        ) from error
    return True


@contextmanager
def wait_for_lock(path: Path, waiting: Callable[[], None], deadline: float = math.inf) -> Iterator[None]:
    """Hold the lock file `path` during the block. If another process holds it, call `waiting` once, then wait.

    Raises:
        TimeoutError: another process holds it when `time.monotonic()` reaches the deadline.
        NoLocksError: the file system has no locks.
    """
    # Mode "a" creates the file and leaves its contents, which name the holder.
    with open(path, "a", opener=open_in_place) as file:
        if not take_lock(file.fileno(), path):
            waiting()
            while not take_lock(file.fileno(), path):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path}: another process holds the lock")
                time.sleep(POLL)
        try:
            yield
        finally:
            # Not left to closing the file: a child process that was forked meanwhile holds it open too.
            fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def own_partial(path: Path) -> Iterator[Path]:
    """Yield a path for an unfinished version of `path`, on the same file system; nobody else deletes it during the block.

    The path is in a folder of its own next to `path`, with everything else that a library may write there: SQLite's
    journals, temporary files of safetensors. The folder is deleted at the end of the block.
    """
    folder, lock = _create_partial_folder(path)
    try:
        yield folder / "content"
    finally:
        _remove_folder(folder)
        if lock is not None:
            os.close(lock)


def remove_partials(folder: Path, name: str = "") -> None:
    """Delete the unfinished files of killed writers in `folder`, or those of the file `name` alone; keep those whose writer still holds
    their lock."""
    start = f"{glob.escape(_cut_name(name))}." if name else ""
    for partial in folder.glob(f".{start}*.partial*"):
        with suppress(OSError):  # deleted by its writer or another cleaner meanwhile, or another user's
            if partial.is_dir() and not partial.is_symlink():
                _remove_if_free(partial)
            elif _is_old(partial):  # a file of an earlier version, which had no locks
                partial.unlink(missing_ok=True)


def _cut_name(name: str) -> str:
    # File systems allow 255 bytes a name, of which a character may take four.
    return name.encode(errors="ignore")[:60].decode(errors="ignore")


def _create_partial_folder(path: Path) -> tuple[Path, int | None]:
    """Create the folder of an unfinished version of `path`; returned with its held lock, None without locks."""
    start = _cut_name(path.name)
    while True:
        # In the same folder as the file: a rename is atomic only within a file system. The random part keeps
        # two writers of one file apart.
        folder = path.with_name(f".{start}.{secrets.token_hex(6)}.partial")
        folder.mkdir()
        try:
            # O_EXCL: the lock file is always this process's, and never one that a cleaner has open.
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:  # a cleaner found it empty
            continue
        except BaseException:  # a full disk, say
            _remove_folder(folder)
            raise
        try:
            # A cleaner may have taken the lock, or deleted it, between its creation and here: then another folder.
            if take_lock(lock, folder / LOCK) and _is_open_file(lock, folder / LOCK):
                return folder, lock
            os.close(lock)
        except NoLocksError:
            os.close(lock)
            # Only its age tells others that the folder is in use, and that it is not empty.
            (folder / LOCK).rename(folder / NO_LOCK)
            return folder, None


def _remove_if_free(folder: Path) -> None:
    try:
        # Opened for writing: NFS needs that for a lock.
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        # An empty one is of a process that was killed before it created the lock, or is about to, and then creates another.
        with suppress(OSError):
            folder.rmdir()
            return
        if _is_old(folder):
            _remove_folder(folder)
        return
    try:
        if take_lock(lock, folder / LOCK):
            _remove_folder(folder)
    except NoLocksError:
        pass
    finally:
        os.close(lock)


def _remove_folder(folder: Path) -> None:
    """Delete the folder of an unfinished file, its lock last: a killed cleaner leaves a folder that the next one deletes."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name != LOCK:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _is_open_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_old(path: Path) -> bool:
    """Whether nothing has been written to a file, or to any file in a folder, for a day."""
    paths = [path, *path.iterdir()] if path.is_dir() else [path]
    return time.time() - max(p.stat().st_mtime for p in paths) > ABANDONED
