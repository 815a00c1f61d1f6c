"""The owners' annotation files: what is wrong in one is said with its file and row, and nothing leads out of the folder."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from repro.core.errors import MissingError
from repro.datasets.split import Clip, Split

MAX_NAME = 200
"""Bytes of a clip's name; file systems allow 255 with an extension and what is put around it."""


class DataError(MissingError):
    """The owners' files are not as they should be: the message names the file and, where there is one, the row."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a data set's annotation files say."""

    splits: dict[str, Split]
    notes: tuple[str, ...] = ()
    """What was checked and found, for a reader."""


def inside(folder: Path, relative: str) -> Path:
    """`folder / relative`, kept in the data set. The first part may be a link of the user's own, as `repro data prepare`
    makes them; a link below it that leads out is refused.

    Raises:
        DataError: it leads out.
    """
    path = folder / relative
    top = os.path.realpath(folder / Path(relative).parts[0])
    real = os.path.realpath(path)
    if real != top and not real.startswith(f"{top}{os.sep}"):
        raise DataError(
            f"{path}: a link that leads out of the data set, to {real}: not read: put the file itself there"
        )
    return path


def check_not_empty(path: Path) -> None:
    """
    Raises:
        DataError: no such file, or it has no bytes.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: fetch the owners' files again")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes): fetch or copy it again")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Any line ends and a byte order mark are allowed.

    Raises:
        DataError: no such file, empty, or not text.
    """
    check_not_empty(path)
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number + 1}: not text ({error.reason}): fetch the owners' file again") from error


def one_line(text: str, limit: int = 120) -> str:
    """The start of what a file says, for a message."""
    return " ".join(text.split())[:limit]


def plain_name(name: str, where: str) -> str:
    """`name`, if it can be a file's name and nothing else.

    Raises:
        DataError: empty, too long, a path, hidden, or with control characters.
    """
    if (
        not name
        or name.startswith(".")
        or any(c in "/\\" or not c.isprintable() for c in name)
        or len(name.encode("utf-8", "replace")) > MAX_NAME
    ):
        raise DataError(f"{where}: clip {name[:80]!r}: expected a plain file name, without folders")
    return name


def refuse_twice(clips: Iterable[Clip], folder: Path) -> None:
    """
    Raises:
        DataError: two clips share a name.
    """
    first: dict[str, str] = {}
    for clip in clips:
        if clip.id in first:
            raise DataError(
                f"{folder / clip.listed}: clip '{clip.id}' stands twice, first at {first[clip.id]}: "
                "fetch the owners' file again"
            )
        first[clip.id] = clip.listed
