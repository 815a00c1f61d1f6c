"""Whether a video file ends where its container says it ends.

A cut-off Matroska, MPEG-TS, GIF or FLV file decodes without any error up to its cut, so decoders cannot tell. The number of
frames in a header and the length of a stream prove nothing: files trimmed without re-encoding hide frames, AVI leaves out
repeated ones, and sound may outlast the pictures. The sizes that containers write about their own parts do.
"""

import struct
from pathlib import Path
from typing import BinaryIO

TS_PACKET = 188
"""Bytes of an MPEG-TS packet; each starts with TS_SYNC."""
TS_SYNC = 0x47
EBML_MAGIC, MATROSKA_SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
BOX_NAMES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp", b"sidx", b"pnot", b"uuid", b"mfra"}
"""Boxes that a QuickTime or MP4 file has at its top level."""


def describe_missing_end(path: Path) -> str:
    """Say how a file ends before its container does; an empty string if it does not, or if its container cannot tell."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        # By content, because FFmpeg too takes a file for what its first bytes say, whatever its name.
        if start[:4] == b"RIFF":
            return _check_riff(file, size)
        if start[:4] == EBML_MAGIC:
            return _check_matroska(file, size)
        if start[4:8] in BOX_NAMES:
            return _check_boxes(file, size)
        if start[:3] == b"FLV":
            return _check_flv(file, size)
        if start[:3] == b"GIF":
            return _check_gif(file, size)
        # Two packets in a row, because one byte of 0x47 may begin any file.
        if start[0] == TS_SYNC and _byte_at(file, TS_PACKET) == TS_SYNC and size % TS_PACKET:
            return f"the file ends {size % TS_PACKET} bytes into a packet"
    return ""


def _missing(end: int, size: int) -> str:
    return f"the file is cut off: {end:,} bytes by its container, {size:,} present" if end > size else ""


def _byte_at(file: BinaryIO, position: int) -> int:
    file.seek(position)
    return (file.read(1) or b"\0")[0]


def _check_riff(file: BinaryIO, size: int) -> str:
    """AVI: one RIFF chunk, and further ones of type AVIX in files over 1 GB."""
    position = 0
    while position + 12 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        # Only the size of a chunk that is there says anything; what follows the last one need not be AVI.
        if name != b"RIFF":
            return ""  # padding or another program's appendix
        if length in (0, 0xFFFFFFFF):
            return ""  # written to a pipe: the size was not known
        if position + 8 + length > size:
            return _missing(position + 8 + length, size)
        position += 8 + length + length % 2  # chunks start at even positions
    return ""


def _check_boxes(file: BinaryIO, size: int) -> str:
    """MP4 and QuickTime: a sequence of boxes, each with its size."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        if length == 1:  # the size is in the 8 bytes that follow
            large = file.read(8)
            if len(large) < 8:
                return "the file is cut off in the header of its last box"
            length = struct.unpack(">Q", large)[0]
        if length < 8 or not name.isascii():
            return ""  # 0: up to the end of the file; else padding or an appendix
        # An unknown name is more likely an appendix read as a box than a box that was cut off.
        if position + length > size:
            return _missing(position + length, size) if name in BOX_NAMES else ""
        position += length
    return ""


def _check_matroska(file: BinaryIO, size: int) -> str:
    """Matroska and WebM: an EBML header, then one Segment."""
    file.seek(4)
    header = _read_ebml_size(file)
    if header is None:
        return ""
    file.seek(header, 1)
    if file.read(4) != MATROSKA_SEGMENT:
        return ""
    # A muxer that could seek has written the Segment's size when it was finished.
    length = _read_ebml_size(file)
    return "" if length is None else _missing(file.tell() + length, size)


def _read_ebml_size(file: BinaryIO) -> int | None:
    """Read a variable-length size (RFC 8794, section 4); None if it is unknown, as in a live stream."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()  # leading zero bits: bytes that follow
    value = first[0] & ((1 << (7 - more)) - 1)
    for byte in file.read(more):
        value = value << 8 | byte
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _check_flv(file: BinaryIO, size: int) -> str:
    """FLV: a header, then tags of 11 bytes and their data, each followed by its size in 4 bytes."""
    file.seek(5)
    # The header states its own length; the size of "the tag before the first one", always 0, takes 4 more bytes.
    position = struct.unpack(">I", file.read(4))[0] + 4
    while position < size:
        file.seek(position)
        header = file.read(4)
        if len(header) == 4 and header[0] & 0x1F not in (8, 9, 18):  # sound, pictures, script
            return ""
        position += 15 + int.from_bytes(header[1:], "big")
        if len(header) < 4 or position > size:
            return _missing(max(position, size + 1), size)
    return ""


def _check_gif(file: BinaryIO, size: int) -> str:
    """GIF: its last block is the byte 0x3B; some programs append zeros."""
    file.seek(max(0, size - 64))
    return "" if file.read().rstrip(b"\0").endswith(b";") else "the file is cut off: it has no trailer"
