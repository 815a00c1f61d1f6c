"""Download one file. Received bytes are kept in FILE.part, and the next call resumes there.

FILE.part.json says which address and which version of the file the part is of: only the rest is asked for, and a file that
has changed meanwhile, or a server that sends no ranges, begins anew. A part is whole when it has the length the server named,
and good when its sha256 is the one expected. For one process at a time (repro/core/files.py).
"""

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TypeVar

from repro.core.console import Reporter, format_size
from repro.core.errors import MissingError, UsageError
from repro.core.files import rename_synced, set_aside, write_json
from repro.core.hashing import content_key, file_sha256
from repro.fetch.http_client import DroppedError, Source, ask, failure, shown

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further try; a try that brought something begins the row anew."""
CHUNK = 1 << 18

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Memory:
    """Which file, and which version of it, a part belongs to."""

    source: str
    """Hash of the address, since the address may contain a secret."""
    validator: str | None
    """For If-Range: a strong ETag, else the date of the last change."""
    total: int | None


def download(source: Source, path: Path, reporter: Reporter) -> tuple[Path, str]:
    """Bring the file for `path` to a part beside it; the finished part and its sha256. `path` itself is not touched.

    Raises:
        MissingError: refused, absent, not the file expected, or out of reach; what came is kept.
        UsageError: the address makes no sense, or the disk has too little room.
    """
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with reporter.transfer(path.name) as at:
        retrying(lambda: _attempt(source, part, at), path.name, reporter, lambda: _come(source, part))
    size = part.stat().st_size
    if size >= 10**8:
        reporter.line(f"{path.name}: {format_size(size)} came, checking its sha256")
    digest = file_sha256(part)
    if (source.bytes or size) != size or (source.sha256 or digest) != digest:
        aside = set_aside(part)
        _memory_path(part).unlink(missing_ok=True)
        expected = f"sha256 {source.sha256}" if source.sha256 else f"{source.bytes} bytes"
        raise MissingError(
            f"{shown(source.url)}: sent {size} bytes with sha256 {digest}, expected {expected}: set aside as {aside}; run "
            "it again, or name another place with --from"
        )
    return part, digest


def finish(part: Path, path: Path) -> None:
    """Rename a finished part to its final name."""
    rename_synced(part, path)
    _memory_path(part).unlink(missing_ok=True)


def retrying(attempt: Callable[[], T], what: str, reporter: Reporter, come: Callable[[], int] = int) -> T:
    """What `attempt` returns; where it is dropped, it is tried again after a wait, for as long as `come` bytes grow.

    Raises:
        MissingError: dropped as often as there are waits, and once more, with nothing new having come.
    """
    failures, most = 0, come()
    while True:
        try:
            return attempt()
        except DroppedError as dropped:
            have = come()
            if have > most:
                failures, most = 0, have
            if failures == len(WAITS):
                kept = (
                    f": the {format_size(have)} that came are kept, the same command goes on from there" if have else ""
                )
                raise MissingError(
                    f"{what}: {dropped}, {failures + 1} times in a row{kept or ': try again later'}"
                ) from dropped
            reporter.line(f"{what}: {dropped}: trying again in {WAITS[failures]:g} s")
            time.sleep(WAITS[failures])
            failures += 1


def _attempt(source: Source, part: Path, at: Callable[[int, int | None], None]) -> None:
    """Get what is missing of `part`; it is whole when this returns.

    Raises:
        DroppedError: only some of it came, or nothing.
    """
    memory, have = _remembered(source, part), _come(source, part)
    if memory is not None and memory.total == have:
        return
    with ask(source, begin=have, validator=memory.validator if memory else None) as response:
        if response.status == 200:
            memory, have = _begin(source, response, part), 0
        elif memory is None or not _goes_on(response, memory, have):
            part.unlink(missing_ok=True)
            raise DroppedError("the server has another file than the part is of")
        elif response.status == 416:  # nothing follows: the part is whole
            return
        total = memory.total
        if total is None and response.length is not None:
            total = have + response.length
        require_room(part.parent, (total or source.bytes or have) - have, part.stem)
        have = _receive(response, part, have, total, at)
    if total is not None and have < total:
        raise DroppedError(f"the connection dropped at {format_size(have)} of {format_size(total)}")
    _remember(part, replace(memory, total=have))


def _begin(source: Source, response: HTTPResponse, part: Path) -> _Memory:
    """Begin `part` anew, with what the server says of the file."""
    where, total = shown(source.url), response.length
    if response.headers.get_content_type() == "text/html" or total == 0:
        raise MissingError(f"{where}: the server sent a web page or nothing, expected the file: {source.remedy}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise MissingError(f"{where}: the server sent the file compressed, expected it as it is: {source.remedy}")
    if None not in (total, source.bytes) and total != source.bytes:
        raise MissingError(
            f"{where}: the server offers {total} bytes, expected {source.bytes}: it is another file: name another place "
            "with --from"
        )
    if total is None and not response.chunked and source.bytes is None and source.sha256 is None:
        raise MissingError(f"{where}: the server does not say how long the file is: {source.remedy}")
    part.unlink(missing_ok=True)
    memory = _Memory(content_key(source.url), _validator(response), total or source.bytes)
    _remember(part, memory)
    return memory


def _goes_on(response: HTTPResponse, memory: _Memory, have: int) -> bool:
    """Whether a 206 or 416 speaks of what follows the first `have` bytes of the same file."""
    if _validator(response) not in (None, memory.validator):
        return False
    form = r"bytes \*/(\d+)" if response.status == 416 else rf"bytes {have}-\d+/(\d+|\*)"
    told = re.fullmatch(form, response.headers.get("Content-Range", ""))
    if told is None or (response.status == 416 and int(told[1]) != have):
        return False
    return told[1] == "*" or memory.total in (None, int(told[1]))


def _validator(response: HTTPResponse) -> str | None:
    etag = response.headers.get("ETag", "")
    return etag if re.fullmatch('"[^"]*"', etag) else response.headers.get("Last-Modified")


def _receive(
    response: HTTPResponse, part: Path, have: int, total: int | None, at: Callable[[int, int | None], None]
) -> int:
    """Append the received bytes to `part`; return its length."""
    with part.open("ab") as out:
        at(have, total)
        while True:
            try:
                chunk = response.read1(CHUNK)
            except (OSError, HTTPException) as error:
                raise DroppedError(failure(error)) from error
            if not chunk:
                return have
            out.write(chunk)
            have += len(chunk)
            at(have, total)


def require_room(folder: Path, more: int, what: str) -> None:
    """Raises UsageError if the disk of `folder` has less free space than `more` bytes."""
    free = shutil.disk_usage(folder).free
    if free < more:
        raise UsageError(
            f"{folder}: {format_size(free)} free, {format_size(more)} needed for {what}: make room, or choose another disk with "
            "--workspace, REPRO_DATA or REPRO_CHECKPOINTS"
        )


def _come(source: Source, part: Path) -> int:
    """Return the number of received bytes from which a download of `source` can resume."""
    memory = _remembered(source, part)
    size = part.stat().st_size if memory and part.is_file() else 0
    return 0 if memory and memory.total is not None and size > memory.total else size


def _remembered(source: Source, part: Path) -> _Memory | None:
    """What `part` is of; None where that is not known, is another address, or could not be told from another version."""
    try:
        memory = _Memory(**json.loads(_memory_path(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    usable = memory.source == content_key(source.url) and (memory.validator or source.sha256)
    return memory if usable else None


def _remember(part: Path, memory: _Memory) -> None:
    write_json(_memory_path(part), asdict(memory))


def _memory_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
