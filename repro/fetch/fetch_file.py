"""Fetch one file: from the Hugging Face Hub, an address, huggingface_hub's cache or a path of this machine."""

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from repro.core.console import Reporter
from repro.core.disk import require_room
from repro.core.errors import MissingError, UsageError
from repro.core.files import lock_file, replacing_file, set_aside, write_json
from repro.core.hashing import FileHashes, file_sha256
from repro.core.locks import remove_partials
from repro.core.reading import describe_absence
from repro.core.remote_file import HubPlace, RemoteFile
from repro.fetch.catalogue import Asset
from repro.fetch.download import download_to_part, move_into_place, retry_dropped
from repro.fetch.file_state import FetchedFile, FileOrigin, FileState, inspect_file, origin_path
from repro.fetch.http_client import DownloadSource, printable_url
from repro.fetch.hub import find_in_cache, is_offline, locate_on_hub


def fetch_file(
    asset: Asset, file: RemoteFile, place: str | None, hashes: FileHashes, reporter: Reporter
) -> FetchedFile:
    """Verify a file that is present; otherwise fetch it.

    Args:
        asset: The checkpoint or data set that the file is part of.
        file: The file, with what is published of it.
        place: The argument of --from: a file, folder or address to use instead of the publisher's.
        hashes: The workspace's cache of sha256s.
        reporter: Where progress and files set aside are reported.

    Raises:
        MissingError: the file cannot be fetched, or is not the expected one.
        UsageError: another process is fetching it; `place` is invalid; the disk is full.
    """
    path = asset.path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{path} is being fetched already"
    # The state is read under the lock: otherwise two calls could both find the file missing and fetch it twice.
    with lock_file(path.with_name(f".{file.file}.lock"), busy, "wait for it to end"):
        # Copies that killed calls left: a checkpoint may be 10 GB.
        remove_partials(path.parent)
        state = inspect_file(path, file, hashes)
        if state.good:
            return FetchedFile(asset.name, path, path.stat().st_size, state.expected, state.published, "there")
        given = resolve_place(asset, file, place)
        if given is None and file.hub is not None:
            cached = find_expected_in_cache(file.hub, state.expected, hashes)
            if cached is not None:
                return _link_or_copy(asset, file, cached, {"hub": file.hub.model_dump()}, state, reporter)
        if isinstance(given, Path):
            return _link_or_copy(asset, file, given, {}, state, reporter)
        return _download(asset, file, given, state, reporter)


def resolve_place(asset: Asset, file: RemoteFile, place: str | None) -> Path | str | None:
    """Return the path or address that --from gives for `file`, or None for the publisher's.

    Raises:
        UsageError, MissingError: it gives none.
    """
    if place is None:
        return None
    if "://" in place:
        return _resolve_address(asset, file, place)
    path = Path(place).expanduser()
    if path.is_dir():
        if not (path / file.file).is_file():
            raise MissingError(f"--from {path}: no {file.file} in that folder")
        return path / file.file
    if not path.is_file():
        raise MissingError(f"--from {path}: {describe_absence(path, 'file or folder')}")
    return path if _is_named_file(asset, file, path.name, place) else None


def _resolve_address(asset: Asset, file: RemoteFile, place: str) -> str | None:
    try:
        parts = urlsplit(place)
    except ValueError as error:
        raise UsageError(f"--from {printable_url(place)}: not an address: {error}") from error
    # A login in an address would be shown in process lists and shell histories, and urllib does not send it.
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        raise UsageError(
            f"--from {printable_url(place)}: expected http:// or https:// and a host, without a name or password"
        )
    if parts.path.endswith("/") and not parts.query:
        return place + quote(file.file)
    name = unquote(parts.path).rpartition("/")[2]
    return place if _is_named_file(asset, file, name, printable_url(place)) else None


def _is_named_file(asset: Asset, file: RemoteFile, name: str, place: str) -> bool:
    """Whether --from with a single file called `name` means `file`. A one-file asset matches any name.

    Raises:
        UsageError: the asset has several files and none of that name.
    """
    names = [f.file for f in asset.files]
    if len(names) > 1 and name not in names:
        raise UsageError(
            f"--from {place}: {asset.name} consists of {' and '.join(names)}: name a folder (an address that ends in /) with "
            "all of them, or one of them by that name"
        )
    return name == file.file or len(names) == 1


def find_expected_in_cache(place: HubPlace, expected: str | None, hashes: FileHashes) -> Path | None:
    """Return the file in huggingface_hub's cache if it is there and has the expected sha256."""
    path = find_in_cache(place)
    return path if path is not None and expected in (None, hashes.sha256(path)) else None


def _link_or_copy(
    asset: Asset, file: RemoteFile, given: Path, origin: dict[str, Any], state: FileState, reporter: Reporter
) -> FetchedFile:
    """Hard-link a file of this machine to its place, or copy it if the file system cannot link it."""
    path = asset.path(file)
    # Before anything is copied: another size is another file.
    size = given.stat().st_size
    if file.bytes not in (None, size):
        raise MissingError(f"{given}: has {size} bytes, expected {file.bytes}: it is another file, or incomplete")
    means: FileOrigin = "copied"
    with replacing_file(path) as partial:
        # A hard link takes no disk, and unlike a symbolic link it survives the removal of the original (of a cache, say).
        with suppress(OSError):  # another file system, or one without links
            os.link(given.resolve(), partial)
            means = "linked"
        if means == "copied":
            require_room(path.parent, size, file.file)
            shutil.copyfile(given, partial)
        # The copy is hashed rather than `given`: an error while copying is found too.
        digest = file_sha256(partial)
        if state.expected not in (None, digest):
            raise MissingError(
                f"{given}: has sha256 {digest}, expected {state.expected}: it is damaged, or another file"
            )
        origin = {"from": str(given.absolute())} | origin
        fetched = _write_origin(asset, file, size, digest, means, origin, published=state.published)
        _set_wrong_file_aside(path, state, reporter)
    return fetched


def _download(asset: Asset, file: RemoteFile, given: str | None, state: FileState, reporter: Reporter) -> FetchedFile:
    """Download a file from the address `given`, or from its publisher if that is None."""
    path = asset.path(file)
    if is_offline():
        raise MissingError(
            f"{asset.name}: no {file.file} at {path}, and HF_HUB_OFFLINE forbids the network: unset it (and "
            "TRANSFORMERS_OFFLINE, which means the same), or name the file with --from FILE"
        )
    origin: dict[str, Any]
    if given is None and file.hub is not None:
        place = file.hub
        located = retry_dropped(lambda: locate_on_hub(place, file), file.file, reporter)
        source = located.source
        origin = {"from": printable_url(source.url), "hub": place.model_dump() | {"revision": located.revision}}
    else:
        assert given or file.url
        source = DownloadSource(given or file.url or "", file.bytes, file.sha256)
        origin = {"from": printable_url(source.url)}
    published = state.published or source.sha256 is not None
    reporter.line(f"{file.file}: from {printable_url(source.url)} to {path.parent}")
    if not published and state.expected:
        reporter.line(f"{file.file}: no checksum is published, {origin_path(path).name} has that of the first download")
    # Without a published checksum the recorded one is expected: a file that its publisher replaced is noticed.
    part, digest = download_to_part(replace(source, sha256=source.sha256 or state.expected), path, reporter)
    # A wrong file at `path` is moved only now: until the right one has come, it is all the user has.
    fetched = _write_origin(asset, file, part.stat().st_size, digest, "fetched", origin, published=published)
    _set_wrong_file_aside(path, state, reporter)
    move_into_place(part, path)
    return fetched


def _set_wrong_file_aside(path: Path, state: FileState, reporter: Reporter) -> None:
    if state.wrong:
        reporter.warn(f"{path} {state.wrong}: set aside as {set_aside(path).name}")


def _write_origin(
    asset: Asset,
    file: RemoteFile,
    size: int,
    digest: str,
    means: FileOrigin,
    origin: dict[str, Any],
    *,
    published: bool,
) -> FetchedFile:
    """Write FILE.origin.json and return what it describes.

    To be called before the file is renamed to its place: a call killed in between leaves no file of unknown origin.
    """
    path = asset.path(file)
    origin |= {
        "file": file.file,
        "bytes": size,
        "sha256": digest,
        "sha256_is": "published" if published else "recorded at first download",
        "licence": asset.licence,
        "licence_url": asset.licence_url,
        "agreed_with": "--accept-license",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(origin_path(path), origin)
    return FetchedFile(asset.name, path, size, digest, published, means)
