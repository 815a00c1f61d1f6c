"""Checkpoints and archives of data sets, brought to where the rest of the project looks for them, and verified.

Beside each file lies FILE.origin.json: where it came from, its sha256 and whether that was published or is what the first
download had, and the licence that was agreed to.
"""

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

from repro.core.console import Reporter
from repro.core.errors import MissingError, UsageError
from repro.core.files import lock_file, read_json_or_none, replacing_file, set_aside, write_json
from repro.core.hashing import FileHashes, file_sha256
from repro.core.remote_file import HubPlace, RemoteFile
from repro.fetch import download as downloads
from repro.fetch import hub
from repro.fetch.catalogue import Asset
from repro.fetch.http_client import Source, shown

Means = Literal["there", "fetched", "linked", "copied", "cut"]


@dataclass(frozen=True, slots=True)
class Brought:
    name: str
    path: Path
    bytes: int
    sha256: str | None
    """None where the file was there and nothing says what it should be."""
    published: bool
    """Whether the sha256 was published; else it is what the first download had."""
    means: Means


@dataclass(frozen=True, slots=True)
class Standing:
    """What is at a file's place, and what should be."""

    there: bool
    wrong: str = ""
    """What is wrong with it, in words."""
    expected: str | None = None
    """The published sha256, else the one recorded at the first download."""
    published: bool = False

    @property
    def good(self) -> bool:
        return self.there and not self.wrong


def standing(path: Path, file: RemoteFile, hashes: FileHashes) -> Standing:
    """Hold a file against its sha256; one that nothing is known of counts as good."""
    origin = read_origin(path)
    expected = file.sha256 or origin.get("sha256")
    published = file.sha256 is not None or origin.get("sha256_is") == "published"
    wrong, there = "", path.is_file()
    if there and file.bytes not in (None, path.stat().st_size):
        wrong = f"has {path.stat().st_size} bytes, expected {file.bytes}"
    elif there and expected is not None and (digest := hashes.sha256(path)) != expected:
        wrong = f"has sha256 {digest}, expected {expected}"
    return Standing(there, wrong, expected, published)


def bring(asset: Asset, file: RemoteFile, place: str | None, hashes: FileHashes, reporter: Reporter) -> Brought:
    """Make sure of one file: verify what is there, else bring it from `place` (--from) or from its owners.

    Raises:
        MissingError: it cannot be had, or is not the file expected.
        UsageError: another process is at it; `place` makes no sense; no room.
    """
    path = asset.path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{path} is being fetched already"
    with lock_file(path.with_name(f".{file.file}.lock"), busy, "wait for it to end"):
        found = standing(path, file, hashes)
        if found.good:
            return Brought(asset.name, path, path.stat().st_size, found.expected, found.published, "there")
        given = _given(asset, file, place)
        if given is None and file.hub is not None:
            cached = _from_cache(file.hub, found.expected, hashes)
            if cached is not None:
                return _take(asset, file, cached, {"hub": file.hub.model_dump()}, found, reporter)
        if isinstance(given, Path):
            return _take(asset, file, given, {}, found, reporter)
        return _download(asset, file, given, found, reporter)


def _given(asset: Asset, file: RemoteFile, place: str | None) -> Path | str | None:
    """What --from says of a file: a path, an address, or None for the owners' own.

    Raises:
        UsageError, MissingError: it says nothing of this file.
    """
    if place is None:
        return None
    if "://" in place:
        return _given_address(asset, file, place)
    path = Path(place).expanduser()
    if path.is_dir():
        if not (path / file.file).is_file():
            raise MissingError(f"--from {path}: no {file.file} in that folder")
        return path / file.file
    if not path.is_file():
        raise MissingError(f"--from {path}: no such file or folder")
    return path if _is_meant(asset, file, path.name, place) else None


def _given_address(asset: Asset, file: RemoteFile, place: str) -> str | None:
    try:
        parts = urlsplit(place)
    except ValueError as error:
        raise UsageError(f"--from {shown(place)}: not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        raise UsageError(f"--from {shown(place)}: expected http:// or https:// and a host, without a name or password")
    if parts.path.endswith("/") and not parts.query:
        return place + quote(file.file)
    return place if _is_meant(asset, file, unquote(parts.path).rpartition("/")[2], shown(place)) else None


def _is_meant(asset: Asset, file: RemoteFile, name: str, place: str) -> bool:
    """Whether a single file is the one that is sought; of several, its name says so."""
    names = [f.file for f in asset.files]
    if len(names) > 1 and name not in names:
        raise UsageError(
            f"--from {place}: {asset.name} is {' and '.join(names)}: name a folder (an address that ends in /) that has "
            "them, or one of them by that name"
        )
    return name == file.file or len(names) == 1


def _from_cache(place: HubPlace, expected: str | None, hashes: FileHashes) -> Path | None:
    """The file in huggingface_hub's cache, where it is the one expected."""
    path = hub.cached(place)
    return path if path is not None and expected in (None, hashes.sha256(path)) else None


def _take(
    asset: Asset, file: RemoteFile, given: Path, origin: dict[str, Any], found: Standing, reporter: Reporter
) -> Brought:
    """Link a file of this machine in place, or copy it where that cannot be."""
    path = asset.path(file)
    size = given.stat().st_size
    if file.bytes not in (None, size):
        raise MissingError(
            f"{given}: has {size} bytes, expected {file.bytes}: it is another file, or only a part of one"
        )
    means: Means = "copied"
    with replacing_file(path) as partial:
        with suppress(OSError):  # another file system, or one without links
            os.link(given.resolve(), partial)
            means = "linked"
        if means == "copied":
            downloads.require_room(path.parent, size, file.file)
            shutil.copyfile(given, partial)
        digest = file_sha256(partial)
        if found.expected not in (None, digest):
            raise MissingError(
                f"{given}: has sha256 {digest}, expected {found.expected}: it is damaged, or another file"
            )
        origin = {"from": str(given.absolute())} | origin
        brought = _record(asset, file, size, digest, means, origin, published=found.published)
        _make_way(path, found, reporter)
    return brought


def _download(asset: Asset, file: RemoteFile, given: str | None, found: Standing, reporter: Reporter) -> Brought:
    path = asset.path(file)
    if hub.is_offline():
        raise MissingError(
            f"{asset.name}: no {file.file} at {path}, and HF_HUB_OFFLINE forbids the network: unset it, or name the file "
            "with --from FILE"
        )
    origin: dict[str, Any]
    if given is None and file.hub is not None:
        place = file.hub
        located = downloads.retrying(lambda: hub.locate(place, file), file.file, reporter)
        source = located.source
        origin = {"from": shown(source.url), "hub": place.model_dump() | {"revision": located.revision}}
    else:
        assert given or file.url
        source = Source(given or file.url or "", file.bytes, file.sha256)
        origin = {"from": shown(source.url)}
    published = found.published or source.sha256 is not None
    reporter.line(f"{file.file}: from {shown(source.url)} to {path.parent}")
    if not published and found.expected:
        reporter.line(f"{file.file}: no checksum is published, {origin_path(path).name} has that of the first download")
    part, digest = downloads.download(replace(source, sha256=source.sha256 or found.expected), path, reporter)
    brought = _record(asset, file, part.stat().st_size, digest, "fetched", origin, published=published)
    _make_way(path, found, reporter)
    downloads.finish(part, path)
    return brought


def _make_way(path: Path, found: Standing, reporter: Reporter) -> None:
    if found.wrong:
        reporter.warn(f"{path} {found.wrong}: set aside as {set_aside(path).name}")


def _record(
    asset: Asset, file: RemoteFile, size: int, digest: str, means: Means, origin: dict[str, Any], *, published: bool
) -> Brought:
    """Write FILE.origin.json, before the file is put in place: a killed call leaves no file that nothing is known of."""
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
    return Brought(asset.name, path, size, digest, published, means)


def origin_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.origin.json")


def read_origin(path: Path) -> dict[str, Any]:
    """Read FILE.origin.json; empty if it is missing or is not what `_record` wrote."""
    origin = read_json_or_none(origin_path(path))
    known = isinstance(origin, dict) and re.fullmatch("[0-9a-f]{64}", str(origin.get("sha256")))
    return origin if known else {}
