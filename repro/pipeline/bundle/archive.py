"""Zip files: written with the same bytes for the same contents, and read as files that somebody else wrote.

Everything that a zip's list of members states is checked before a byte is unpacked, and what is unpacked is held to it.
"""

import hashlib
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from repro.core.errors import UsageError, state_reason
from repro.core.files import replacing_file
from repro.core.reading import describe_absence

MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*(/[A-Za-z0-9_][A-Za-z0-9_.@+-]*)*")
"""A member's path. No part begins with a dot, none is empty: it cannot lead out of a folder, on any system."""
MOST_FILES = 50_000
MOST_BUNDLE = 4 << 30
"""Of all members, unpacked. The 24 rows with five seeds have a few hundred MB."""
MOST_RATIO = 200
"""Of unpacked to packed bytes: text of records shrinks to a tenth, a bomb to a thousandth."""
FREE_BYTES = 10 << 20
"""Up to this size the ratio does not matter."""
END_RECORD = struct.Struct("<4s4H2LH")
"""The record that ends a zip: signature, disk, disk of the list, members on it and in all, bytes and start of the list, comment's length."""
LOCAL = struct.Struct("<4s5H3L2H")
"""The header of a member; the last two numbers are the lengths of name and extra field, which follow it."""


class BundleError(UsageError):
    """A bundle that is not judged. The message is one line."""


def write_zip(path: Path, members: Mapping[str, bytes | Path]) -> None:
    """Write members in this order, atomically; the same contents give the same bytes.

    Args:
        path: The zip file.
        members: Contents, or the file that holds them, by name.
    """
    with replacing_file(path, by_user=True) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # Without the file's time and mode, which differ between copies of a workspace.
            # The earliest time that a zip can state.
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            info.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
            with archive.open(info, "w") as target:
                if isinstance(content, bytes):
                    target.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)


class Archive:
    """A zip file whose list of members has been checked."""

    def __init__(self, path: Path) -> None:
        """Open `path` and check its members' names, types and sizes.

        Raises:
            BundleError: not a zip file, or one with a member that is refused.
        """
        if not path.is_file():
            raise BundleError(f"{path}: {describe_absence(path, 'file')}: name a file that `repro bundle` wrote")
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
            raise BundleError(f"{path}: not a zip file, or cut off ({state_reason(error)}): get it again") from error
        try:
            self.members = self._check_members(path.stat().st_size)
            self._check_bytes(path.stat().st_size)
        except BundleError:
            self._zip.close()
            raise

    def _check_members(self, packed: int) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        folded: set[str] = set()
        total = 0
        for info in self._zip.infolist():
            # Shown as it was written: zipfile cuts names at a zero byte.
            name = info.orig_filename
            shown = repr(name[:120])
            if not MEMBER_NAME.fullmatch(name) or name != info.filename or len(name) > 300:
                raise BundleError(f"{self.path}: member {shown}: a name that bundles do not have: nothing is unpacked")
            # On some systems names that differ in case are one file.
            if name.lower() in folded:
                raise BundleError(f"{self.path}: two members are named {shown}: nothing is unpacked")
            if info.flag_bits & 0x1:
                raise BundleError(f"{self.path}: member {shown} is encrypted: bundles are not")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG) or info.is_dir():
                raise BundleError(f"{self.path}: member {shown} is a link, a folder or a device, not a file")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BundleError(f"{self.path}: member {shown} is compressed in a way that bundles are not")
            found[name] = info
            folded.add(name.lower())
            total += info.file_size
        if len(found) > MOST_FILES or total > MOST_BUNDLE or total > max(FREE_BYTES, MOST_RATIO * packed):
            raise BundleError(
                f"{self.path}: {len(found)} files of {total / 1e6:.0f} MB from {packed / 1e6:.1f} MB: more than a bundle has (at most "
                f"{MOST_FILES} files, {MOST_BUNDLE / 1e6:.0f} MB, {MOST_RATIO} times its size): nothing is unpacked"
            )
        return found

    def _check_bytes(self, size: int) -> None:
        """Refuse a zip that is more than its members and their list: zipfile skips bytes that belong to neither."""
        with self.path.open("rb") as file:
            # zipfile searches backwards for this record and accepts what follows; bundles end with it.
            file.seek(size - END_RECORD.size)
            signature, disk, disk_of_list, here, members, length, start, comment = END_RECORD.unpack(file.read())
            if signature != b"PK\5\6" or comment:
                raise BundleError(f"{self.path}: bytes after its list of members, or a comment: bundles have none")
            if disk or disk_of_list or here != members or any(info.volume for info in self.members.values()):
                raise BundleError(f"{self.path}: a part of a zip file of several disks: bundles are one file")
            position = 0
            for info in sorted(self.members.values(), key=lambda info: info.header_offset):
                file.seek(position)
                header = file.read(LOCAL.size)
                # Members follow one another from the first byte: where one does not, two could share bytes (a
                # bomb), or something be hidden.
                if info.header_offset != position or len(header) < LOCAL.size:
                    break
                position += LOCAL.size + sum(LOCAL.unpack(header)[-2:]) + info.compress_size
        if position != start or start + length + END_RECORD.size != size:
            raise BundleError(
                f"{self.path}: bytes before or between its members, or members that overlap: bundles have none"
            )

    def read(self, name: str, most: int) -> bytes:
        """Return a small member.

        Raises:
            BundleError: it is missing, larger than `most` bytes, or damaged.
        """
        info = self.members.get(name)
        if info is None:
            raise BundleError(f"{self.path}: no {name} in it: not a bundle of `repro bundle`")
        if info.file_size > most:
            raise BundleError(f"{self.path}: {name} has {info.file_size} bytes, at most {most} are read")
        try:
            with self._zip.open(info) as source:
                content = source.read(most + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise BundleError(f"{self.path}: {name} is damaged ({state_reason(error)}): get it again") from error
        if len(content) != info.file_size:
            raise BundleError(f"{self.path}: {name} has another size than the zip states: get it again")
        return content

    def unpack(self, name: str, into: Path) -> str:
        """Write a member below `into`; returns its sha256.

        Raises:
            BundleError: it is damaged, or larger than the zip states.
        """
        info, digest, size = self.members[name], hashlib.sha256(), 0
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # "xb" fails if the file exists: no member replaces another.
            with self._zip.open(info) as source, target.open("xb") as file:
                while part := source.read(1 << 20):
                    size += len(part)
                    if size > info.file_size:
                        raise BundleError(f"{self.path}: {name} has more bytes than the zip states: get it again")
                    digest.update(part)
                    file.write(part)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise BundleError(f"{self.path}: {name} is damaged ({state_reason(error)}): get it again") from error
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise BundleError(f"{self.path}: {name} is both a file and a folder in it") from error
        if size != info.file_size:
            raise BundleError(f"{self.path}: {name} has fewer bytes than the zip states: get it again")
        return digest.hexdigest()

    def close(self) -> None:
        self._zip.close()
