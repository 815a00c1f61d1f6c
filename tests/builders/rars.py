"""A writer of rar archives that store without compressing (format 4, as WinRAR's technical note has it), and a stand-in for
bsdtar that reads them: there is no free packer, and bsdtar is not installed everywhere."""

import struct
import sys
import textwrap
import zlib
from collections.abc import Mapping
from pathlib import Path

LINK = 0o120777
FILE = 0o100644


def write_rar(path: Path, members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> None:
    """An archive of `members`, and of symbolic `links` by name to what they point at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = [b"Rar!\x1a\x07\x00", _block(0x73, 0, b"\0" * 6)]
    for name, content in members.items():
        blocks.append(_file(name, content, FILE))
    for name, target in (links or {}).items():
        blocks.append(_file(name, target.encode(), LINK))
    path.write_bytes(b"".join([*blocks, _block(0x7B, 0x4000, b"")]))


def _block(kind: int, flags: int, body: bytes) -> bytes:
    head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head


def _file(name: str, content: bytes, mode: int) -> bytes:
    raw = name.replace("/", "\\").encode()  # the format's separator
    head = struct.pack(
        "<IIBIIBBHI", len(content), len(content), 3, zlib.crc32(content), 0x4A210000, 20, 0x30, len(raw), mode
    )
    return _block(0x74, 0x8000, head + raw) + content


STAND_IN = '''
"""Lists (-t, -t -v) and extracts (-x -C) stored rar archives; does what it is asked, whatever the names."""
import os, struct, sys, zlib
words = sys.argv[1:]
data = open(words[words.index("-f") + 1], "rb").read()
at = 7
while at + 7 <= len(data):
    kind, flags, size = struct.unpack_from("<BHH", data, at + 2)
    packed = 0
    if kind == 0x74:
        packed, _, _, crc, _, _, _, length, mode = struct.unpack_from("<IIBIIBBHI", data, at + 7)
        name = data[at + 32 : at + 32 + length].decode().replace(chr(92), "/")
        content = data[at + size : at + size + packed]
        if len(content) < packed or zlib.crc32(content) != crc:
            sys.exit("bsdtar: Truncated RAR file data")
        letter = "l" if mode >> 12 == 0o12 else "-"
        if "-v" in words:
            print(f"{letter}rw-r--r--  0 0 0 {packed} Jan 1 2020 {name}")
        elif "-t" in words:
            print(name)
        else:
            target = os.path.join(words[words.index("-C") + 1], name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if letter == "l":
                os.symlink(content.decode(), target)
            else:
                open(target, "wb").write(content)
    elif kind == 0x7B:
        sys.exit(0)
    at += size + packed
sys.exit("bsdtar: Truncated RAR file data")
'''


def install_stand_in(folder: Path) -> None:
    """Put a `bsdtar` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "bsdtar"
    program.write_text(f"#!{sys.executable}\n{textwrap.dedent(STAND_IN)}")
    program.chmod(0o755)
