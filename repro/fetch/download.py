"""Download one file. Received bytes are kept in FILE.part, and the next call resumes there.

FILE.part.json says which address and which version of the file the part is of. Only the rest is requested; if the file has
changed since, or the server ignores ranges, the download starts again. A part is complete when it has the length that the server
named, and good when it has the expected sha256. One process at a time downloads a file: the caller holds a lock.
"""

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TypeVar

from repro.core.console import Reporter
from repro.core.disk import format_size, naming_write, require_room
from repro.core.errors import MissingError
from repro.core.files import rename_synced, set_aside, write_json
from repro.core.hashing import content_key, file_sha256
from repro.core.reading import open_in_place, parse_json, read_text
from repro.fetch.http_client import DownloadSource, DroppedError, describe_lost_connection, printable_url, request_file

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each retry. After an attempt that received something, the waits start again from the first."""
CHUNK = 1 << 18
"""Bytes read at once."""
SLOW_TO_HASH = 10**8
"""Bytes from which hashing is announced, since it takes seconds without other output."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _PartInfo:
    """Which file, and which version of it, a part belongs to. The fields are the keys of FILE.part.json."""

    source: str
    """Hash of the address, since the address may contain a secret."""
    validator: str | None
    """For If-Range: a strong ETag, else the date of the last change."""
    total: int | None
    """Length of the file in bytes, if the server named it."""


def download_to_part(source: DownloadSource, path: Path, reporter: Reporter) -> tuple[Path, str]:
    """Download the file that belongs at `path` to a part alongside it. `path` itself is not touched.

    Returns:
        The complete part, and its sha256.

    Raises:
        MissingError: access denied, not found, not the expected file, or no connection; received bytes are kept.
        UsageError: the address is invalid, or the disk has too little space.
    """
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with reporter.transfer(path.name) as show_progress:
        retry_dropped(
            lambda: _request_rest(source, part, show_progress),
            path.name,
            reporter,
            lambda: _count_received(source, part),
        )
    size = part.stat().st_size
    if size >= SLOW_TO_HASH:
        reporter.line(f"{path.name}: {format_size(size)} received, verifying its sha256")
    digest = file_sha256(part)
    # What the config does not state is not compared: `or` puts what was received in its place.
    if (source.bytes or size) != size or (source.sha256 or digest) != digest:
        # Not resumed from, but kept: the user may want to see what the server sent.
        aside = set_aside(part)
        _info_path(part).unlink(missing_ok=True)
        expected = f"sha256 {source.sha256}" if source.sha256 else f"{source.bytes} bytes"
        raise MissingError(
            f"{printable_url(source.url)}: sent {size} bytes with sha256 {digest}, expected {expected}: set aside as {aside}; "
            "run it again, or name another place with --from"
        )
    return part, digest


def move_into_place(part: Path, path: Path) -> None:
    """Rename a verified part to its final name."""
    rename_synced(part, path)
    _info_path(part).unlink(missing_ok=True)


def retry_dropped(
    attempt: Callable[[], T], what: str, reporter: Reporter, count_received: Callable[[], int] = int
) -> T:
    """Call `attempt` until it is not dropped, with growing waits between the calls, and return what it returns.

    Args:
        attempt: Raises DroppedError for a failure that may be temporary.
        what: Name of the file, for messages.
        reporter: Where each retry is reported.
        count_received: Number of bytes received so far. While it grows, attempts are not counted.

    Raises:
        MissingError: dropped once more than there are waits, and nothing was received meanwhile.
    """
    # Progress is measured against the most that was ever there: a server without ranges, which restarts every attempt
    # from zero and always drops, would otherwise seem to make progress for ever.
    failures, most = 0, count_received()
    while True:
        try:
            return attempt()
        except DroppedError as dropped:
            received = count_received()
            if received > most:
                failures, most = 0, received
            if failures == len(WAITS):
                kept = (
                    f": the {format_size(received)} received are kept; rerun the command to resume" if received else ""
                )
                raise MissingError(
                    f"{what}: {dropped}, {failures + 1} times in a row{kept or ': try again later'}"
                ) from dropped
            reporter.line(f"{what}: {dropped}: trying again in {WAITS[failures]:g} s")
            time.sleep(WAITS[failures])
            failures += 1


def _request_rest(source: DownloadSource, part: Path, show_progress: Callable[[int, int | None], None]) -> None:
    """Request what `part` is missing and append it; `part` is complete when this returns.

    Raises:
        DroppedError: only some of it was received, or nothing.
    """
    info, received = _read_part_info(source, part), _count_received(source, part)
    if info is not None and info.total == received:
        return
    with request_file(source, first=received, validator=info.validator if info else None) as response:
        # A server that honours Range answers 206.
        if response.status == 200:  # the complete file: nothing was there, it has changed, or ranges are ignored
            info, received = _start_part(source, response, part), 0
        elif info is None or not _continues_part(response, info, received):
            part.unlink(missing_ok=True)
            raise DroppedError("the server has another file than the part is of")
        elif response.status == 416:  # nothing follows: the part is complete
            return
        total = info.total
        if total is None and response.length is not None:
            total = received + response.length
        require_room(part.parent, (total or source.bytes or received) - received, part.stem)
        received = _append_received(response, part, received, total, show_progress)
    # A server that closes the connection early looks like the end of the file; only the length tells them apart.
    if total is not None and received < total:
        raise DroppedError(f"the connection dropped at {format_size(received)} of {format_size(total)}")
    # Some servers name no length: only now is it known, and the part complete.
    _write_part_info(part, replace(info, total=received))


def _start_part(source: DownloadSource, response: HTTPResponse, part: Path) -> _PartInfo:
    """Start `part` again, with what the server says of the file.

    Raises:
        MissingError: the response is not the file, or its end could not be recognised.
    """
    where, total = printable_url(source.url), response.length
    # Servers answer with a login or error page and status 200.
    if response.headers.get_content_type() == "text/html" or total == 0:
        raise MissingError(f"{where}: the server sent a web page or nothing, expected the file: {source.remedy}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise MissingError(f"{where}: the server sent the file compressed, expected it as it is: {source.remedy}")
    if None not in (total, source.bytes) and total != source.bytes:
        raise MissingError(
            f"{where}: the server offers {total} bytes, expected {source.bytes}: it is another file: name another place "
            "with --from"
        )
    # Without length, chunks or hash a dropped connection could not be known from the end of the file.
    if total is None and not response.chunked and source.bytes is None and source.sha256 is None:
        raise MissingError(f"{where}: the server does not say how long the file is: {source.remedy}")
    # The old part goes before the new info is written: killed in between, no part is taken for another version's.
    part.unlink(missing_ok=True)
    info = _PartInfo(content_key(source.url), _read_validator(response), total or source.bytes)
    _write_part_info(part, info)
    return info


def _continues_part(response: HTTPResponse, info: _PartInfo, received: int) -> bool:
    """Whether a 206 or 416 is about what follows the first `received` bytes of the same version of the file."""
    # If-Range should ensure the version, but some servers heed Range and ignore If-Range.
    if _read_validator(response) not in (None, info.validator):
        return False
    pattern = r"bytes \*/(\d+)" if response.status == 416 else rf"bytes {received}-\d+/(\d+|\*)"
    match = re.fullmatch(pattern, response.headers.get("Content-Range", ""))
    if match is None or (response.status == 416 and int(match[1]) != received):
        return False
    return match[1] == "*" or info.total in (None, int(match[1]))


def _read_validator(response: HTTPResponse) -> str | None:
    """Return what identifies the version of the file, for If-Range."""
    # A weak ETag (W/"...") promises equal meaning, not equal bytes: RFC 9110 forbids it in If-Range.
    etag = response.headers.get("ETag", "")
    return etag if re.fullmatch('"[^"]*"', etag) else response.headers.get("Last-Modified")


def _append_received(
    response: HTTPResponse,
    part: Path,
    received: int,
    total: int | None,
    show_progress: Callable[[int, int | None], None],
) -> int:
    """Append what is received to `part`; return its length in bytes."""
    with naming_write(part), open(part, "ab", opener=open_in_place) as out:
        show_progress(received, total)
        while True:
            try:
                # read1 returns what has arrived; read would wait for a full chunk, which a lost connection discards.
                chunk = response.read1(CHUNK)
            except (OSError, HTTPException) as error:
                raise DroppedError(describe_lost_connection(error)) from error
            if not chunk:
                return received
            out.write(chunk)
            received += len(chunk)
            show_progress(received, total)


def _count_received(source: DownloadSource, part: Path) -> int:
    """Return the number of received bytes from which a download of `source` can resume."""
    info = _read_part_info(source, part)
    size = part.stat().st_size if info and part.is_file() else 0
    # A part longer than the file is no beginning of it.
    return 0 if info and info.total is not None and size > info.total else size


def _read_part_info(source: DownloadSource, part: Path) -> _PartInfo | None:
    """Read what `part` is of; None if that is unknown, of another address, or not safe to resume."""
    try:
        info = _PartInfo(**parse_json(read_text(_info_path(part))))
    except (OSError, ValueError, TypeError):
        return None
    # Without a validator two versions of the file could be joined; only a known sha256 would reveal it.
    usable = info.source == content_key(source.url) and (info.validator or source.sha256)
    return info if usable else None


def _write_part_info(part: Path, info: _PartInfo) -> None:
    write_json(_info_path(part), asdict(info))


def _info_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
