"""Errors that end a command with a message, their exit codes, and what messages are made of. The codes are stable; docs/commands.md lists them."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

CUTOFF = 0.6
"""Least similarity of a suggested name. Cyclopts takes the same for options and choices."""


class Exit(IntEnum):
    """Exit codes of `repro`."""

    OK = 0
    JUDGED_DIFFERENT = 1
    # 2 is also the usual code of command-line parsers for an unknown option.
    USAGE = 2
    INTERNAL = 3
    MISSING = 4
    NOTHING_TO_CHECK = 5
    INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class ReproError(Exception):
    """A problem that the user can fix. The message is one line: what, where, what was expected and what to do."""

    exit_code = Exit.USAGE


def hide_logins(text: str) -> str:
    """Remove user names and passwords from the addresses in a text."""
    # To the last @ before a slash or a space: passwords may have one.
    return re.sub(r"://[^/\s]*@", "://", text)


def state_reason(error: object, most: int | None = 200) -> str:
    """Return what another library says of a failure in one line of at most `most` characters, without logins; its name if it says
    nothing."""
    return hide_logins(" ".join(str(error).split()))[:most] or type(error).__name__


def find_nearest(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" for the nearest of `names`, or an empty string if none is near."""
    near = difflib.get_close_matches(word, list(names), n=1, cutoff=CUTOFF)
    return f"; did you mean '{near[0]}'?" if near else ""


class UsageError(ReproError):
    """A wrong option, name, config or path."""


class MissingError(ReproError):
    """Data, weights or the acceptance of a licence that a run needs is missing, or a file is unusable."""

    exit_code = Exit.MISSING

    def __init__(self, message: str, missing: Sequence[Mapping[str, str]] = ()) -> None:
        """`missing` has one object for each missing thing, which --json prints; its keys are those of `repro list --json`."""
        super().__init__(message)
        self.missing = missing


class NothingToCheckError(ReproError):
    """There is no run record to judge."""

    exit_code = Exit.NOTHING_TO_CHECK
