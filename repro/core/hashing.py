"""sha256 of large files, remembered: a checkpoint or a data set is not read through again while its files stay the same.

A line a file in WORKSPACE/hashes.jsonl, keyed by path, size, time of last change and inode. Lines are only ever appended,
each in one write, so that processes can share the file; a line that makes no sense is passed over.
"""

import json
import os
import re
import time
from pathlib import Path

from repro.core.keys import file_sha256

SETTLED = 2.0
"""Seconds since a file's last change before its hash is remembered: a later change might leave the same time stamp."""

_Stamp = tuple[str, int, int, int]


class Hashes:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _read(path)

    def sha256(self, path: Path) -> str:
        """sha256 of a file's bytes, as 64 hex digits; read through only where it is new or has changed.

        Raises:
            OSError: it cannot be read.
        """
        stamp = _stamp(path)
        known = self._known.get(stamp)
        if known is not None:
            return known
        digest = file_sha256(path)
        if _stamp(path) == stamp and time.time() - stamp[2] / 1e9 > SETTLED:
            self._remember(stamp, digest)
        return digest

    def known(self, path: Path) -> str | None:
        """What is remembered of a file as it is now, nothing read or written; None where nothing is.

        Raises:
            OSError: there is no such file.
        """
        return self._known.get(_stamp(path))

    def _remember(self, stamp: _Stamp, digest: str) -> None:
        self._known[stamp] = digest
        line = json.dumps([*stamp, digest], ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, line.encode("utf-8", "surrogateescape"))
        finally:
            os.close(handle)


def _stamp(path: Path) -> _Stamp:
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino


def _read(path: Path) -> dict[_Stamp, str]:
    known: dict[_Stamp, str] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return known
    for line in lines:
        try:
            name, size, changed, inode, digest = json.loads(line)
            if re.fullmatch("[0-9a-f]{64}", digest):
                known[(name, size, changed, inode)] = digest
        except (ValueError, TypeError):
            continue
    return known
