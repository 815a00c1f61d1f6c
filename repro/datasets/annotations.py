"""Reading the publishers' annotation files: errors name file and row, and no path leads out of the dataset's folder."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from repro.core.errors import MissingError
from repro.core.reading import MOST_READ, describe_absence
from repro.datasets.split import Clip, Split

MAX_NAME = 200
"""Maximal bytes of a clip's name. File systems allow 255, of which extensions and suffixes of partial files take some."""


class DataError(MissingError):
    """A publisher's file is missing or invalid. The message names the file and, if there is one, the row."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The contents of a dataset's annotation files."""

    splits: dict[str, Split]
    notes: tuple[str, ...] = ()
    """Results of checks, shown to the user."""


def path_inside(folder: Path, relative: str) -> Path:
    """Return `folder / relative` if it is inside the dataset.

    Its first part may be a link, as `repro data prepare` makes them to a user's folders. A link below that must not lead
    out of it: an unpacked archive must not make us read other files of the user.

    Raises:
        DataError: it leads out.
    """
    path = folder / relative
    # Both are resolved, so that neither `..` nor a chain of links leads out unseen.
    top = os.path.realpath(folder / Path(relative).parts[0])
    real = os.path.realpath(path)
    if real != top and not real.startswith(f"{top}{os.sep}"):
        raise DataError(
            f"{path}: a link that leads out of the data set, to {real}: not read: put the file itself there"
        )
    return path


def check_not_empty(path: Path) -> None:
    """Check that a file exists and is not empty.

    Raises:
        DataError: no such file, or it has no bytes.
    """
    if not path.is_file():
        raise DataError(f"{path}: {describe_absence(path, 'file')}: fetch the publisher's files again")
    # An interrupted copy leaves an empty file, which would read as a split without clips.
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes): fetch or copy it again")
    if path.stat().st_size > MOST_READ:
        raise DataError(f"{path}: larger than {MOST_READ} bytes: fetch the publisher's file again")


def read_text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1. Any line ends and a byte order mark are allowed.

    Raises:
        DataError: no such file, empty, or not text.
    """
    check_not_empty(path)
    number = 0
    try:
        # utf-8-sig drops the byte order mark that some spreadsheet programs write, which would become part of the first name.
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number + 1}: not text ({error.reason}): fetch the publisher's file again") from error


def to_one_line(text: str, limit: int = 120) -> str:
    """Shorten text from a file to one line of a message."""
    return " ".join(text.split())[:limit]


def check_plain_name(name: str, where: str) -> str:
    """Return `name` if it is a plain file name.

    Raises:
        DataError: empty, too long, a path, hidden, or with control characters.
    """
    # The name becomes part of paths, keys and messages: it must stay in its folder and in one line.
    if (
        not name
        or name.startswith(".")
        or any(c in "/\\" or not c.isprintable() for c in name)
        or len(name.encode("utf-8", "replace")) > MAX_NAME
    ):
        raise DataError(f"{where}: clip {name[:80]!r}: expected a plain file name, without folders")
    return name


def refuse_duplicates(clips: Iterable[Clip], folder: Path) -> None:
    """Check that no clip is listed twice.

    Raises:
        DataError: two clips share a name.
    """
    # Features are stored by clip id, and a clip listed twice could be trained and tested on.
    first: dict[str, str] = {}
    for clip in clips:
        if clip.id in first:
            raise DataError(
                f"{folder / clip.listed}: clip '{clip.id}' is listed twice, first at {first[clip.id]}: "
                "fetch the publisher's file again"
            )
        first[clip.id] = clip.listed
