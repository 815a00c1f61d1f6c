"""Writes that the disk refuses: full, over quota, read-only, not permitted, too large. One message for all of them.

Libraries hide the operating system's error in several ways. `find_disk_errno` recognises them in one place, so that no caller has
to: `naming_write` puts the path into the message where it is known, and `__main__` reports everything else.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from repro.core.errors import ReproError, UsageError

_ANOTHER_DISK = "free space or choose another disk with --workspace, then run the same command again"
_ANOTHER_TEMPORARY = (
    "free space there or name another folder for temporary files with TMPDIR, then run the same command again"
)
_PERMISSIONS = "correct its permissions, or choose another folder with --workspace"
_WRONG_PATH = "correct the path, then run the same command again"

DISK_REMEDIES = {
    errno.ENOSPC: _ANOTHER_DISK,
    errno.EDQUOT: _ANOTHER_DISK,
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`) or choose another disk with --workspace",
    errno.EROFS: "choose a folder on another disk with --workspace",
}
"""What the user can do about errors that only writing causes, by errno."""

WRITE_REMEDIES = DISK_REMEDIES | {
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EIO: "check free space, quota and health of the disk, or choose another one with --workspace",
    errno.ESTALE: "check the network disk, then run the same command again",
}
"""As DISK_REMEDIES, with errors that reading causes as well."""

REMEDIES = WRITE_REMEDIES | {
    errno.EISDIR: _WRONG_PATH,
    errno.ENOTDIR: _WRONG_PATH,
    errno.EEXIST: _WRONG_PATH,
    errno.ENOTEMPTY: _WRONG_PATH,
    errno.ENAMETOOLONG: _WRONG_PATH,
    errno.ELOOP: _WRONG_PATH,
}
"""What the user can do, by errno. Any other errno is not the user's to fix."""

_MESSAGES = {os.strerror(number).lower(): number for number in DISK_REMEDIES} | {
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    # SQLite says so for every other error of a write, such as a quota.
    "disk i/o error": errno.EIO,
    "unable to open database file": errno.EACCES,
    # torch.save, which does not say why a write failed.
    "iostream error": errno.EIO,
    "unexpected pos": errno.EIO,
}
"""How libraries that raise no OSError report the system's error: safetensors, SQLite, MLflow, programs that unpack archives."""


class DiskError(UsageError):
    """A file cannot be written. The message names it, the reason and what to do."""


def find_disk_errno(error: BaseException) -> int | None:
    """Return the errno of the file system's refusal that `error` reports, or None if it is another error.

    Of the exceptions that led to `error`, only those count that nothing but a write causes: torch and MLflow raise their own
    error after the system's, but so does a bug in a handler of, say, FileExistsError.
    """
    number = _own_errno(error)
    # Contexts of exceptions can form a circle.
    seen = {id(error)}
    earlier = error.__cause__ or error.__context__
    while number is None and earlier is not None and id(earlier) not in seen:
        seen.add(id(earlier))
        # Of earlier errors only those of a disk count: a missing file may have been expected, and handled.
        found = _own_errno(earlier)
        number = found if found in DISK_REMEDIES else None
        earlier = earlier.__cause__ or earlier.__context__
    return number


def _own_errno(error: BaseException) -> int | None:
    number = getattr(error, "errno", None)  # FFmpeg's errors carry one without being an OSError
    if isinstance(number, int) and number in REMEDIES:
        return number
    return None if isinstance(error, OSError) and number is not None else find_errno_in_text(str(error))


def find_errno_in_text(text: str) -> int | None:
    """Return the errno that the message of a library or program quotes, or None."""
    lower = text.lower()
    quoted = re.search(r"\(os error (\d+)\)", lower)  # Rust's spelling
    if quoted and int(quoted[1]) in REMEDIES:
        return int(quoted[1])
    return next((number for words, number in _MESSAGES.items() if words in lower), None)


def describe_disk_error(where: str | Path | None, number: int) -> str:
    """Return the one line that reports a file or folder that cannot be used."""
    return f"{'' if where is None else f'{where}: '}{os.strerror(number).lower()}: {REMEDIES[number]}"


def describe_temporary_failure(error: BaseException) -> str | None:
    """Return the one line that reports that temporary files cannot be written, or None if `error` is about something else.

    Only libraries write temporary files, where Python's `tempfile` places them and not --workspace.
    """
    if isinstance(error, FileNotFoundError) and "no usable temporary directory" in str(error).lower():
        # The text lists the folders that were tried.
        return f"{error.strerror}: {_ANOTHER_TEMPORARY}"
    number, where = getattr(error, "errno", None), getattr(error, "filename", None)
    if number not in DISK_REMEDIES or not isinstance(where, str | bytes) or tempfile.tempdir is None:
        return None
    path, folder = Path(os.fsdecode(where)), Path(os.fsdecode(tempfile.tempdir))
    # The start of the name tells its files from those of a workspace in the same folder.
    if folder in path.parents and path.relative_to(folder).parts[0].startswith(tempfile.gettempprefix()):
        return f"{path}: {os.strerror(number).lower()}: {_ANOTHER_TEMPORARY}"
    return None


@contextmanager
def naming_write(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn the file system's refusal to write `path` in the block into a DiskError that names it.

    Errors about another file than `path`, its folders and `partial`, such as one that the block reads, are left as they are.

    Raises:
        DiskError: the file cannot be written.
    """
    try:
        yield
    except ReproError:
        raise
    except Exception as error:
        number = find_disk_errno(error)
        about = getattr(error, "filename", None)
        # That a folder is in place of a file or the other way round is for the caller to judge, as when archives are unpacked.
        if number not in WRITE_REMEDIES:
            raise
        # shutil names the source of a copy whose target is on a full disk.
        if (
            number not in DISK_REMEDIES
            and about is not None
            and not _belongs_to(Path(os.fsdecode(about)), path, partial)
        ):
            raise
        # SQLite reports permissions, a full disk and a failing one alike when it cannot open a file.
        if number == errno.EACCES and not isinstance(error, OSError):
            is_allowed = not path.exists() or os.access(path, os.R_OK | os.W_OK)
            number = _find_refusal(path.parent) or (errno.EIO if is_allowed else number)
        raise DiskError(describe_disk_error(path, number)) from error


def _find_refusal(folder: Path) -> int | None:
    """Return why no file can be created in `folder`, as an errno of WRITE_REMEDIES; None if one can, or for another reason."""
    # Not at the top: __main__ needs this module to refuse Windows in a line, and there locks cannot be imported.
    from repro.core.locks import own_partial

    try:
        with own_partial(folder / "writable"):
            return None
    except OSError as error:
        return error.errno if error.errno in WRITE_REMEDIES else None


def _belongs_to(about: Path, path: Path, partial: Path | None) -> bool:
    # replacing_file writes in a folder `.NAME.partial` next to `path`.
    unfinished = path.parent in about.parents and any(part.endswith(".partial") for part in about.parts)
    return unfinished or about in {path, partial, *path.parents}


def reserve_space(file: IO[Any], size: int) -> None:
    """Reserve `size` bytes of disk for an open file, so that a full disk is found before anything is written.

    Raises:
        OSError: there is not enough space.
    """
    if size <= 0:
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        # Not every file system can reserve space (NFS before 4.2, FUSE): there the writes themselves find out.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
            raise


def format_size(count: int) -> str:
    """Format a number of bytes, as in 9.56 GB (decimal units)."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{count} bytes"


def require_room(folder: Path, more: int, what: str) -> None:
    """Raise UsageError if the disk of `folder` has less free space than `more` bytes."""
    free = shutil.disk_usage(folder).free
    if free < more:
        raise UsageError(
            f"{folder}: {format_size(free)} free, {format_size(more)} needed for {what}: free space, or choose another disk with "
            "--workspace, REPRO_DATA or REPRO_CHECKPOINTS"
        )
