"""Content keys, and sha256 of files with a cache of the large ones.

A stage's folder is named by a hash of everything it depends on, never by a time. The cache is WORKSPACE/hashes.jsonl: one
line per file, so that a checkpoint or a data set is read through only once while its files stay the same.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from repro.core.reading import open_in_place, open_regular, parse_json, read_text

SETTLED = 2.0
"""Seconds since a file's last change before its hash is cached: a later change could leave the same time stamp."""


class FileStamp(NamedTuple):
    """What tells one state of a file from another without reading it."""

    path: str
    """Absolute path."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Time of the last change of the contents. Any program can set it: rsync, cp -p and touch do."""
    ctime_ns: int
    """Time of the last change of contents or attributes. Set by the kernel alone, so contents that were overwritten have a
    later one even if size and mtime were restored."""
    inode: int
    """Tells a file that was renamed over another one of equal size and times."""

    @classmethod
    def of(cls, path: Path) -> "FileStamp":
        """Return the stamp of a file in its present state.

        Raises:
            OSError: there is no such file.
        """
        stat = path.stat()
        return cls(str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def canonical_json(value: Any) -> bytes:
    """Serialise `value` in the one form that is hashed: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def content_sha256(value: Any) -> str:
    """Hash `value` (anything JSON can hold) to 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def content_key(value: Any) -> str:
    """Hash `value` (anything JSON can hold) to 16 hex digits, enough to name a folder: 64 bits do not collide here."""
    return content_sha256(value)[:16]


def file_sha256(path: Path) -> str:
    """Hash a file's bytes with sha256; returns 64 hex digits.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open(path, "rb", opener=open_regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_ahead(path: Path) -> None:
    """Have a large file read from the disk faster than it is hashed, unless it would push itself out of the page cache."""
    with open(path, "rb", opener=open_regular) as file:
        size = os.fstat(file.fileno()).st_size
        if size < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2:
            for start in range(0, size, 1 << 26):
                os.posix_fadvise(file.fileno(), start, 1 << 26, os.POSIX_FADV_WILLNEED)


_READ_HERE: dict[FileStamp, str] = {}
"""sha256 of the files that this process has read through with `reread_sha256`."""


class FileHashes:
    """sha256 of files, cached in a jsonl file that several processes may share.

    Args:
        path: The cache; created when the first hash is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _read_known_hashes(path)

    def sha256(self, path: Path) -> str:
        """Hash a file; it is read only if it is new or has changed since it was cached.

        Returns:
            64 hex digits.

        Raises:
            OSError: it cannot be read.
        """
        stamp = FileStamp.of(path)
        known = self._known.get(stamp)
        if known is not None:
            return known
        digest = file_sha256(path)
        # Cached only if the file did not change while it was read, and changed last long enough ago that a further
        # change would show in its time stamps.
        if FileStamp.of(path) == stamp and time.time() - max(stamp.mtime_ns, stamp.ctime_ns) / 1e9 > SETTLED:
            self._add(stamp, digest)
        return digest

    def cache_all(self, paths: Iterable[Path], after: Callable[[], None] = lambda: None) -> None:
        """Hash files ahead, several at once; those that cannot be read are left to `sha256`, which says why.

        `after` is called after each.
        """

        def hash_file(path: Path) -> None:
            with suppress(OSError):
                self.sha256(path)

        # Threads: hashlib lets the others run while it hashes.
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        try:
            for _ in pool.map(hash_file, paths):
                after()
        finally:
            pool.shutdown(cancel_futures=True)  # when interrupted, do not hash the rest of a data set first

    def reread_sha256(self, path: Path) -> str:
        """Hash a file by reading it, whatever is cached; at most once per process while its stamp stays the same.

        For bytes that changed without a trace in the stamp, as a failing disk changes them. A cached hash that turns out to
        be wrong is replaced.

        Raises:
            OSError: it cannot be read.
        """
        stamp = FileStamp.of(path)
        digest = _READ_HERE.get(stamp)
        if digest is None:
            with ThreadPoolExecutor(1) as disk:
                disk.submit(_read_ahead, path)
                digest = file_sha256(path)
            if FileStamp.of(path) == stamp:
                _READ_HERE[stamp] = digest
        # The file has the stamp that is cached and other contents: the cache is corrected, and callers see the damage.
        if self._known.get(stamp, digest) != digest:
            with suppress(OSError):  # a workspace that cannot be written to
                self._add(stamp, digest)
        return digest

    def known(self, path: Path) -> str | None:
        """Return the cached hash of a file in its present state, or None. Reads and writes nothing.

        Raises:
            OSError: there is no such file.
        """
        return self._known.get(FileStamp.of(path))

    def _add(self, stamp: FileStamp, digest: str) -> None:
        self._known[stamp] = digest
        line = json.dumps([*stamp, digest], ensure_ascii=False) + "\n"
        # A full or read-only disk costs the cache's line, not the hash: otherwise the file that was hashed would be blamed.
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write in append mode per line: processes that share the file cannot interleave their lines.
            handle = open_in_place(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                os.write(handle, line.encode("utf-8", "surrogateescape"))
            finally:
                os.close(handle)


def _read_known_hashes(path: Path) -> dict[FileStamp, str]:
    known: dict[FileStamp, str] = {}
    try:
        # Not splitlines: names may hold what Unicode calls line breaks.
        lines = read_text(path, errors="surrogateescape").split("\n")
    except FileNotFoundError:
        return known
    for line in lines:
        try:
            *stamp, digest = parse_json(line)
            if re.fullmatch("[0-9a-f]{64}", digest):
                known[FileStamp(*stamp)] = digest
        # The last line of a killed writer, or a line of another version: one with fewer parts has no ctime, and its file is
        # read again.
        except (ValueError, TypeError):
            continue
    return known
