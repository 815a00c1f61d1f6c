"""Reading files that others may have written: nothing in a file's type or nesting makes a read wait or recurse for ever."""

import json
import os
import stat
from collections.abc import Callable
from errno import EINVAL
from pathlib import Path
from typing import Any, Literal

MAX_DEPTH = 100
"""Levels of nesting that are read. Files of this project have at most ten; Python's own limits vary between versions."""


class IrregularFileError(OSError):
    """A named pipe, a socket or a device in the place of a file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(EINVAL, "not a regular file", str(path))


def open_regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file; an `opener` for `open`.

    Raises:
        IrregularFileError: it is a named pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    # Without O_NONBLOCK, opening a named pipe waits for a writer for ever. It has no effect on regular files. The opened
    # file is checked rather than the path, which could be replaced in between.
    try:
        handle = os.open(path, flags | os.O_NONBLOCK)
    except ValueError as error:  # a name from a file that somebody else wrote
        raise OSError(EINVAL, "a null byte in its name", str(path)) from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # `open` itself refuses folders
        return handle
    os.close(handle)
    raise IrregularFileError(path)


def describe_absence(path: Path, expected: Literal["file", "folder", "file or folder"]) -> str:
    """Say why `path` is not the expected file or folder: nothing is there, or something of another type."""
    if path.is_dir():
        return "a folder, expected a file"
    if path.is_file():
        return "a file, expected a folder"
    if path.exists():
        return "neither a file nor a folder"
    if path.is_symlink():
        return f"a link to {path.readlink()}, which does not exist"
    return f"no such {expected}"


def check_regular(path: Path) -> None:
    """Check a file that a library opens by its path.

    Raises:
        IrregularFileError: it is a named pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    os.close(open_regular(path))


def read_bytes(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open(path, "rb", opener=open_regular) as file:
        return file.read()


def read_text(path: Path, errors: str = "strict") -> str:
    """Read a regular file as UTF-8.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open(path, encoding="utf-8", errors=errors, opener=open_regular) as file:
        return file.read()


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(n for n in names if names.count(n) > 1)[:80]!r}")
    return found


def parse_json(text: str | bytes, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Parse JSON.

    Raises:
        ValueError: not JSON, nested deeper than MAX_DEPTH, or an object with a key twice, of which programs read another one.
    """
    too_deep = f"nested deeper than {MAX_DEPTH} levels"
    try:
        value = json.loads(text, parse_constant=parse_constant, object_pairs_hook=_refuse_duplicates)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    # What is parsed is hashed and written by functions that recurse, so the limit is below that of the parser.
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError(too_deep)
