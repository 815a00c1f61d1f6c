"""Unpack a publisher's archive into its own folder.

Archives are not trusted. A member whose name leads out of the folder, or that is neither a file nor a folder, is refused, and
the caller deletes what was unpacked before it.

zip and tar are read by Python's standard library. rar is read by an installed unar (with lsar) or bsdtar, because there is no
free reader to ship. unar is preferred, because bsdtar does not verify a rar's checksums.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import unicodedata
import zipfile
import zlib
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import cast

from repro.core.disk import DiskError, describe_disk_error, find_errno_in_text, format_size, naming_write, require_room
from repro.core.errors import MissingError, state_reason
from repro.core.reading import open_in_place, parse_json
from repro.datasets.annotations import DataError, check_not_empty

SUFFIXES = {
    ".zip": "zip", ".rar": "rar", ".tar": "tar", ".tar.gz": "gzip", ".tgz": "gzip", ".tar.bz2": "bzip2", ".tar.xz": "xz",
}  # fmt: skip
MAGIC = (
    (b"PK\x03\x04", "zip"), (b"PK\x05\x06", "zip"), (b"Rar!\x1a\x07", "rar"), (b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"), (b"7z\xbc\xaf\x27\x1c", "7z"),
)  # fmt: skip
KEPT_SUFFIXES = frozenset({".avi", ".mp4", ".csv", ".txt", ".xlsx", *SUFFIXES})
"""Types of files that a dataset may need. Others (pictures, feature files) are not unpacked from zip and tar, to save disk."""
PARTIAL = ".partial"
MOST_TIMES, MOST_UNPACKED = 100, 100_000_000
"""How many times its size an archive may unpack to, and what is allowed to any. Videos hardly shrink, and tables to a tenth; what
compression can do to zeros is 1,000 times and more."""


def archive_suffix(path: Path | PurePosixPath) -> str:
    """Return the suffix that makes `path` an archive, such as `.tar.gz`; an empty string if it is none."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), "")


def most_unpacked(archive: Path) -> int:
    """Return the bytes that an archive may unpack to, with the archives in it."""
    return max(MOST_UNPACKED, MOST_TIMES * archive.stat().st_size)


def unpack_archive(path: Path, into: Path, most: int | None = None) -> int:
    """Write the archive's files below `into`. Complete files that an interrupted run left there are not written again.

    Args:
        path: The archive.
        into: Folder for its files.
        most: Bytes that it may unpack to, if it is part of another one [default: by its own size].

    Returns:
        Bytes of the files written.

    Raises:
        DataError: empty, damaged, cut off, of another type than its name says, or with a member that is refused.
        MissingError: a rar archive, and no program that reads it is installed.
    """
    kind = SUFFIXES[archive_suffix(path)]
    found = _kind_by_content(path)
    if found != kind:
        raise DataError(
            f"{path}: by its name a {kind} archive, by its content {found}: fetch it again, or give it its right name"
        )
    into.mkdir(parents=True, exist_ok=True)
    unpacked = _Unpacked(path, into, most_unpacked(path) if most is None else most)
    try:
        if kind == "rar":
            _unpack_rar(path, into, unpacked)
        elif kind == "zip":
            _unpack_zip(path, into, unpacked)
        else:
            _unpack_tar(path, into, kind, unpacked)
        return unpacked.bytes
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or cut off ({state_reason(error)}): fetch it again") from error
    except (NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be unpacked here ({state_reason(error)}): unpack it yourself") from error
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise DataError(f"{path}: a member is both a file and a folder ({error.filename}): fetch it again") from error
    except OSError as error:
        # bz2 raises OSError without a number for damaged data. Errors of the system, such as a full disk, have one.
        if error.errno is not None:
            raise
        raise DataError(f"{path}: damaged or cut off ({state_reason(error)}): fetch it again") from error


def check_member_path(name: str, archive: Path) -> PurePosixPath:
    """Return where a member may be written, relative to the archive's folder.

    Raises:
        DataError: the name is absolute, has a `..`, or has characters that no clip's name has.
    """
    path = PurePosixPath(name)
    # The last pattern is a drive letter, which is a plain name to PurePosixPath.
    if not name or path.is_absolute() or ".." in path.parts or re.match("^[A-Za-z]:", name):
        raise DataError(
            f"{archive}: member '{name[:120]}' leads out of the folder it is unpacked into: nothing of it is used; it may be damaged: fetch it again"
        )
    # A backslash separates folders on other systems, so that `..\x` would pass the check above.
    if "\\" in name or not name.isprintable():
        raise DataError(
            f"{archive}: member {name[:120]!r} has characters that file names here may not: nothing of it is used; it may be damaged: fetch it again"
        )
    return path


def link_or_device_error(name: str, archive: Path) -> DataError:
    """Return the error for a member that could lead out of the folder or open a device."""
    return DataError(
        f"{archive}: member '{name[:120]}' is a link or a device, not a file: nothing of it is used; it may be damaged: fetch it again"
    )


def _kind_by_content(path: Path) -> str:
    """Tell the type from the first bytes: a saved login or error page may have an archive's name."""
    check_not_empty(path)
    with path.open("rb") as file:
        start = file.read(512)
    for magic, kind in MAGIC:
        if start.startswith(magic):
            return kind
    # A server that requires a login often answers with a page of HTML and status 200.
    if start.lstrip().startswith(b"<"):
        return "a web page"
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return "none that is known"
    return "tar"


class _Unpacked:
    """What an archive unpacks to, by the sizes that it states. They are exact: a member with more or fewer bytes is damaged."""

    def __init__(self, archive: Path, into: Path, most: int) -> None:
        self.archive, self.into, self.bytes, self.most = archive, into, 0, most

    def add(self, size: int) -> None:
        """Count a member before it is written.

        Raises:
            DataError: the archive unpacks to far more than one of videos can.
            UsageError: the disk has no room for it.
        """
        self.bytes += size
        if self.bytes > self.most:
            raise DataError(
                f"{self.archive}: unpacks to more than {format_size(self.most)}, which no archive of videos of "
                f"{format_size(self.archive.stat().st_size)} does: nothing of it is used; it may be damaged: fetch it again"
            )
        require_room(self.into, size, f"what {self.archive.name} unpacks to")


def _unpack_zip(path: Path, into: Path, unpacked: _Unpacked) -> None:
    with zipfile.ZipFile(path) as archive:
        # All members are checked before the first is written: a zip lists them at its end.
        seen: dict[str, PurePosixPath] = {}
        members = []
        for info in archive.infolist():
            target = check_member_path(info.filename, path)
            # The upper 16 bits are the Unix mode, 0 in archives of other systems.
            mode = stat.S_IFMT(info.external_attr >> 16)
            # A link that is written first could redirect a member written after it.
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise link_or_device_error(info.filename, path)
            if info.is_dir():
                continue
            _refuse_duplicate(target, seen, path, into)
            if target.suffix.lower() in KEPT_SUFFIXES:
                members.append((info, target))
        missing = [info.file_size for info, target in members if not _is_complete(into / target, info.file_size)]
        unpacked.add(sum(missing))
        for info, target in members:
            with archive.open(info) as source:
                _write_member(cast(BufferedIOBase, source), into / target, info.file_size)


def _unpack_tar(path: Path, into: Path, kind: str, unpacked: _Unpacked) -> None:
    """Check and write one member after the other: to check all first, a compressed tar would be read twice."""
    with _open_decompressed(path, kind) as raw:
        tail = _Tail(raw)
        seen: dict[str, PurePosixPath] = {}
        with tarfile.open(fileobj=tail, mode="r:") as archive:
            for member in archive:
                # Before the standard library's own check, whose messages do not name the archive.
                target = check_member_path(member.name, path)
                if not (member.isreg() or member.isdir()):
                    raise link_or_device_error(member.name, path)
                tarfile.data_filter(member, str(into))  # The standard library's own checks, in addition.
                if member.isdir():
                    continue
                _refuse_duplicate(target, seen, path, into)
                source = archive.extractfile(member)
                assert source is not None  # It is a regular file.
                if target.suffix.lower() in KEPT_SUFFIXES:
                    unpacked.add(member.size)
                    with source:
                        _write_member(cast(BufferedIOBase, source), into / target, member.size)
        # A tar ends with blocks of zeros. Without this check one that was cut off between two members would pass.
        if tail.last.strip(b"\0") or len(tail.last) < tarfile.BLOCKSIZE:
            raise DataError(f"{path}: cut off: it does not end as tar archives do: fetch it again")
        while raw.read(1 << 20):
            pass  # Read to the end, because the checksum of a compressed file is only verified there.


def _open_decompressed(path: Path, kind: str) -> BufferedIOBase:
    """Open the decompressed content of a tar archive."""
    if kind == "gzip":
        return gzip.GzipFile(path)
    if kind == "bzip2":
        return bz2.BZ2File(path)
    return lzma.LZMAFile(path) if kind == "xz" else path.open("rb")


class _Tail(io.RawIOBase):
    """A file that remembers the last block read: tarfile takes the file's end for the archive's end, also if the end mark, a
    block of zeros, is missing."""

    def __init__(self, file: BufferedIOBase) -> None:
        self.file = file
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        self.last = self.file.read(size)
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def _refuse_duplicate(target: PurePosixPath, seen: dict[str, PurePosixPath], archive: Path, into: Path) -> None:
    """Refuse a second file of one name, and of names that are one on this disk: one clip would be read for two."""
    # As disks of macOS and Windows compare names: without case, and with one form of an accented letter.
    other = seen.setdefault(unicodedata.normalize("NFC", str(target).casefold()), target)
    if other is target:
        return
    if other == target:
        raise DataError(f"{archive}: two members are named '{target}': fetch it again")
    if _folds_names(into):
        raise DataError(
            f"{archive}: members '{other}' and '{target}' are one name on this disk: unpack it on one that tells them apart"
        )


def _folds_names(folder: Path) -> bool:
    """Whether names that differ in case, or in how an accent is written, are one file in this folder."""
    # Asked of the disk itself: which names are one depends on the file system and how it is mounted, not on the
    # system.
    probe = folder / f".\u00e9a{PARTIAL}"
    probe.touch()
    try:
        return any((folder / f"{name}{PARTIAL}").exists() for name in (".\u00e9A", ".e\u0301a"))
    finally:
        probe.unlink()


def _is_complete(target: Path, size: int) -> bool:
    # A file gets its name only after its last byte.
    return target.is_file() and target.stat().st_size == size


def _write_member(source: BufferedIOBase, target: Path, size: int) -> None:
    if _is_complete(target, size):
        return
    partial = target.with_name(f"{target.name[:200]}{PARTIAL}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming_write(target, partial):
        # copyfileobj reads to the end of the member, where zipfile verifies its checksum.
        with open(partial, "wb", opener=open_in_place) as file:
            shutil.copyfileobj(source, file, 1 << 20)
        # Some streams that end early raise no error, so the size is compared as well.
        if partial.stat().st_size != size:
            raise EOFError(f"{target.name}: {partial.stat().st_size} bytes of {size}")
        # Only now has it the name by which an interrupted run counts it as complete.
        partial.replace(target)


# rar. The programs decide for themselves what they write, so the list of members is checked before and the written files after.


def _unpack_rar(path: Path, into: Path, unpacked: _Unpacked) -> None:
    """Write the archive's files below `into`, which is emptied first.

    Raises:
        DataError: damaged, cut off, or with a member that is refused.
        MissingError: neither program is installed.
    """
    # The programs overwrite or skip existing files by rules of their own, so each run starts empty.
    shutil.rmtree(into)
    into.mkdir(parents=True)
    # Linked into an empty folder, because unar takes files with similar names alongside for further volumes.
    alone = into.with_name(f"{into.name}.archive")
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    link = alone / "archive.rar"
    # A name without spaces or a leading dash, which the programs could take for something else.
    link.symlink_to(path.absolute())
    try:
        program = require_rar_program(path)
        if program == "unar":
            unpacked.add(_check_members_with_lsar(link, path, into))
            _run_program(
                ["unar", "-quiet", "-no-directory", "-no-recursion", "-output-directory", str(into), str(link)], path
            )
        else:
            unpacked.add(_check_members_with_bsdtar(link, path, into))
            _run_program(["bsdtar", "-x", "-f", str(link), "-C", str(into)], path)
    finally:
        shutil.rmtree(alone)
    _check_unpacked_files(into, path)


def require_rar_program(archive: Path) -> str:
    """Return the installed program that reads rar archives, unar (with lsar) or bsdtar.

    Raises:
        MissingError: neither is installed.
    """
    if shutil.which("unar") and shutil.which("lsar"):
        return "unar"
    if shutil.which("bsdtar"):
        return "bsdtar"
    raise MissingError(
        f"{archive}: a rar archive, and neither unar nor bsdtar is installed: install one (Debian: unar or "
        "libarchive-tools), or unpack it yourself and pass the folder with `repro data prepare NAME --from FOLDER`"
    )


def _check_members_with_lsar(link: Path, archive: Path, into: Path) -> int:
    """Check the names and kinds of all members; returns the bytes that they unpack to."""
    try:
        listing = parse_json(_run_program(["lsar", "-json", str(link)], archive))
        if listing.get("lsarError"):
            raise DataError(f"{archive}: damaged or cut off (lsar: error {listing['lsarError']}): fetch it again")
        members, seen = listing["lsarContents"], dict[str, PurePosixPath]()
        for member in members:
            name = str(member["XADFileName"])
            target = check_member_path(name, archive)
            if not member.get("XADIsDirectory"):
                _refuse_duplicate(target, seen, archive, into)
            mode = stat.S_IFMT(int(member.get("XADPosixPermissions", 0)))
            if member.get("XADIsLink") or mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise link_or_device_error(name, archive)
        return sum(int(member.get("XADFileSize", 0)) for member in members)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{archive}: lsar cannot list it: damaged or not a rar archive: fetch it again") from error


def _check_members_with_bsdtar(link: Path, archive: Path, into: Path) -> int:
    """Check the names and kinds of all members; returns the bytes that they unpack to."""
    # Not splitlines(), which also ends lines at characters that names may have.
    names, lines = (
        _run_program(["bsdtar", *words, "-f", str(link)], archive).rstrip("\n").split("\n")
        for words in (["-t"], ["-t", "-v"])
    )
    if len(names) != len(lines):
        raise DataError(f"{archive}: bsdtar lists it in two ways: damaged: fetch it again")
    # As of `ls -l`: the first letter is the type, the fifth word the size.
    seen: dict[str, PurePosixPath] = {}
    for name, line in zip(names, lines, strict=True):
        target = check_member_path(name, archive)
        if line[:1] != "d":
            _refuse_duplicate(target, seen, archive, into)
        if line[:1] not in ("-", "d"):
            raise link_or_device_error(name, archive)
    try:
        return sum(int(line.split()[4]) for line in lines)
    except (IndexError, ValueError) as error:
        raise DataError(f"{archive}: bsdtar lists no sizes: damaged: fetch it again") from error


def _check_unpacked_files(folder: Path, archive: Path) -> None:
    """Refuse anything but folders and regular files."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            found = Path(parent, name).lstat()
            # A file with a second name may be a hard link to a file outside.
            plain = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
            if not plain:
                raise link_or_device_error(str(Path(parent, name).relative_to(folder)), archive)


def _run_program(words: list[str], archive: Path) -> str:
    done = subprocess.run(  # noqa: S603  # One of three programs, and paths that begin with /.
        words, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        reason = said[-1][:160] if said else f"exit code {done.returncode}"
        # An archive is not damaged because the disk is full: what is unpacked of it must not be deleted.
        number = find_errno_in_text(done.stderr + done.stdout)
        if number is not None:
            raise DiskError(describe_disk_error(f"unpacking {archive}", number))
        raise DataError(
            f"{archive}: {words[0]} cannot unpack it ({reason}): damaged, cut off or encrypted: fetch it again"
        )
    return done.stdout
