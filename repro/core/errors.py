"""What can go wrong, and the exit code each kind ends in. Codes are stable; README lists them."""

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    JUDGED_DIFFERENT = 1
    USAGE = 2
    INTERNAL = 3
    MISSING = 4
    NOTHING_TO_CHECK = 5
    INTERRUPTED = 130


class ReproError(Exception):
    """Something a person can mend: the message is one line saying what, where, what was expected and what to do."""

    exit_code = Exit.USAGE


class UsageError(ReproError):
    """A wrong option, name, config or path."""


class MissingError(ReproError):
    """Data, a checkpoint or a licence that a run needs is absent or unusable."""

    exit_code = Exit.MISSING


class NothingToCheckError(ReproError):
    """There is no run record to judge."""

    exit_code = Exit.NOTHING_TO_CHECK
