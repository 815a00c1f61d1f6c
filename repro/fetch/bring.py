"""Make assets ready to use: check what can be checked before the first byte, then download and verify, unpack, audit.

Every stage keeps what it has finished, so that a killed call is resumed by the same call.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.core.console import Reporter
from repro.core.disk import format_size, require_room
from repro.core.errors import MissingError
from repro.core.hashing import FileHashes
from repro.core.remote_file import RemoteFile, parse_bytes
from repro.core.workspace import Workspace
from repro.datasets.config import DatasetConfig
from repro.datasets.prepare import Placed, is_in_place, is_named_for, prepare_dataset
from repro.datasets.registry import list_dataset
from repro.datasets.unpack import SUFFIXES, archive_suffix, require_rar_program
from repro.fetch.catalogue import Asset
from repro.fetch.encoder import fetch_encoder
from repro.fetch.fetch_file import fetch_file, find_expected_in_cache, resolve_place
from repro.fetch.file_state import FetchedFile, inspect_encoder, inspect_file


@dataclass(frozen=True, slots=True)
class Need:
    """What an asset needs before it can be used."""

    asset: Asset
    wanted: tuple[RemoteFile, ...]
    """Its files without archives of what is in place already."""
    files: dict[str, str]
    """Its files that are missing or wrong, by name: what is wrong, or an empty string."""
    archives: tuple[Path, ...]
    """What is unpacked, present or not: published archives, and what the user put into their folder."""
    dataset: DatasetConfig | None
    """The data set to prepare and audit; None for a checkpoint, or if only files are requested."""

    @property
    def is_requested(self) -> bool:
        """True if its publisher must be asked, and the files have not been put where they belong."""
        return bool(self.asset.on_request and not self.asset.unpacked and not self.archives)

    @property
    def missing(self) -> list[RemoteFile]:
        return [file for file in self.wanted if file.file in self.files]


@dataclass(slots=True)
class Brought:
    """What `bring_assets` did."""

    files: list[FetchedFile] = field(default_factory=list)
    placed: dict[str, list[Placed]] = field(default_factory=dict)
    """By data set."""
    audits: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By data set: clips, how many decode, how many of them were decoded now, and the manifest."""
    left: dict[str, str] = field(default_factory=dict)
    """By asset: why it is not ready, and what to do."""


def list_needs(assets: Sequence[Asset], place: str | None, hashes: FileHashes, *, prepare: bool) -> list[Need]:
    """Return what each of `assets` needs. A file of several of them is listed once.

    Args:
        assets: What is requested.
        place: The argument of --from.
        hashes: The workspace's cache of sha256s.
        prepare: Whether data sets are unpacked too.
    """
    needs: list[Need] = []
    seen: set[Path] = set()
    for asset in assets:
        paths = {asset.path(file) for file in asset.files}
        # Two backbones of one checkpoint are two assets with one file.
        if paths and paths <= seen:
            continue
        seen |= paths
        wanted = () if asset.unpacked else tuple(
            file
            for file in asset.files
            if not (asset.dataset and is_in_place(asset.dataset, asset.folder.parent, file.file))
        )  # fmt: skip
        files = {file.file: state for file in wanted if (state := _inspect(asset, file, hashes)) is not None}
        archives: list[Path] = []
        if prepare and asset.dataset and not asset.unpacked:
            # An archive that is to be downloaded, or was put there, or is in the folder that the user names.
            own = Path(place).expanduser() if place and asset.on_request else asset.folder
            found = sorted(own.iterdir()) if own.is_dir() else [own] if place and asset.on_request else []
            if own != asset.folder and own.is_dir():
                parts = [name for part in asset.dataset.parts for name in part.names]
                found = [
                    path for path in found if path.name in parts or path.is_dir() or is_named_for(asset.dataset, path)
                ]
            archives = list(dict.fromkeys([*(asset.path(file) for file in wanted), *found]))
        needs.append(Need(asset, wanted, files, tuple(archives), asset.dataset if prepare else None))
    return needs


def _inspect(asset: Asset, file: RemoteFile, hashes: FileHashes) -> str | None:
    """Return what is wrong with a file, an empty string if it is missing, None if it is as expected."""
    if asset.encoder is not None and inspect_encoder(asset, file, hashes).good:
        return None
    state = inspect_file(asset.path(file), file, hashes)
    return None if state.good else state.wrong


def count_remaining(asset: Asset, file: RemoteFile) -> int:
    """Return the bytes of a missing file that are still to download; 0 if its size is unknown."""
    part = asset.path(file).with_name(f"{file.file}.part")
    received = part.stat().st_size if part.is_file() else 0
    return max(0, (file.expected_bytes or 0) - received)


def count_unpacked(need: Need) -> int:
    """Return about how many bytes are written besides the downloads: unpacked videos, or a checkpoint's encoder."""
    asset = need.asset
    if asset.encoder is not None and need.files:
        return parse_bytes(asset.size.partition("of which ")[2]) or sum(
            file.expected_bytes or 0 for file in asset.files
        )
    # Videos are compressed already: unpacked, they take about as much as their archives.
    published = {asset.path(file): file.expected_bytes for file in asset.files}
    sizes = [
        path.stat().st_size if path.is_file() else published.get(path) or 0
        for path in need.archives
        if archive_suffix(path)
    ]
    return sum(sizes)


def require_possible(needs: Sequence[Need], place: str | None, hashes: FileHashes) -> None:
    """Check what can be checked before the first byte: --from, programs that unpack, and free space of the disks.

    Raises:
        MissingError: a file is not at `place`, or a rar archive is to be unpacked and no program for it is installed.
        UsageError: `place` is invalid, or a disk has too little space.
    """
    room: dict[int, tuple[Path, list[str], int]] = {}
    for need in needs:
        for path in need.archives:
            if SUFFIXES.get(archive_suffix(path)) == "rar":
                require_rar_program(path)
        folder = next(path for path in (need.asset.folder, *need.asset.folder.parents) if path.is_dir())
        # Free space is a property of a disk: needs on one disk are added up.
        device = folder.stat().st_dev
        more = count_unpacked(need)
        for file in need.missing:
            given = resolve_place(need.asset, file, place)
            if given is None and file.hub is not None:
                given = find_expected_in_cache(file.hub, file.sha256, hashes)
            # A file of this machine is linked, or copied from another disk.
            if not isinstance(given, Path):
                more += count_remaining(need.asset, file)
            elif given.stat().st_dev != device:
                more += given.stat().st_size
        if more > 0:
            first, names, total = room.get(device, (folder, [], 0))
            room[device] = (first, [*names, need.asset.name], total + more)
    for folder, names, total in room.values():
        require_room(folder, total, ", ".join(names))


def bring_assets(
    needs: Sequence[Need], place: str | None, workspace: Workspace, hashes: FileHashes, reporter: Reporter
) -> Brought:
    """Download and verify, unpack and audit. What fails for one asset does not keep the others from being brought.

    Args:
        needs: From `list_needs`.
        place: The argument of --from: a file, folder or address to use instead of the publishers'.
        workspace: Where data sets belong.
        hashes: The workspace's cache of sha256s.
        reporter: Where every step is announced, in one display.

    Raises:
        UsageError: another process does the same; the disk is full.
    """
    brought = Brought()
    # A data set that is in place is audited all the same: the call that unpacked it may have been killed.
    datasets = [need for need in needs if need.dataset and not need.is_requested]
    total = sum(len(need.files) for need in needs) + sum(2 - bool(need.asset.unpacked) for need in datasets)
    with reporter.steps(total) as announce:
        for need in needs:
            if need.is_requested:
                brought.left[need.asset.name] = explain_request(need.asset)
                continue
            try:
                _fetch_files(need, place, hashes, reporter, announce, brought.files)
            except MissingError as error:
                brought.left[need.asset.name] = str(error)
        for need in datasets:
            config = need.dataset
            if config is None or need.asset.name in brought.left:
                continue
            given = [Path(place).expanduser()] if place and need.asset.on_request else []
            try:
                if not need.asset.unpacked:
                    announce(f"unpack {config.name}")
                    brought.placed[config.name] = prepare_dataset(config, workspace, given, reporter)
                announce(f"decode every clip of {config.name}, to find missing and damaged ones")
                brought.audits[config.name] = _audit(config, workspace, reporter, brought.left)
            except MissingError as error:
                brought.left[config.name] = str(error)
    return brought


def explain_request(asset: Asset) -> str:
    """Return where an asset that cannot be downloaded is requested, and where its files belong."""
    return (
        f"{asset.name} cannot be fetched ({asset.licence}): {asset.on_request}; or put the archives as they are sent into "
        f"{asset.folder} and run this command again"
    )


def _fetch_files(
    need: Need,
    place: str | None,
    hashes: FileHashes,
    reporter: Reporter,
    announce: Callable[[str], None],
    fetched: list[FetchedFile],
) -> None:
    asset = need.asset
    if asset.unpacked:
        reporter.line(f"{asset.name}: already unpacked in {asset.unpacked}")
        return
    fetch_one = fetch_file if asset.encoder is None else fetch_encoder
    for file in need.wanted:
        if file.file in need.files:
            announce(f"fetch {file.file} ({file.size})")
        fetched.append(fetch_one(asset, file, place, hashes, reporter))
        reporter.line(_describe_fetched(fetched[-1]))


def _describe_fetched(fetched: FetchedFile) -> str:
    """Return one line on a file: how it came, its size, and what its sha256 was compared with."""
    if fetched.sha256 is None:
        judged = "not verified: no checksum is published and none was recorded"
    else:
        known = "recorded: it was cut here" if fetched.means == "cut" else "recorded: none is published"
        judged = f"sha256 {fetched.sha256}, " + ("as published" if fetched.published else known)
    return f"{fetched.path}: {fetched.means}, {format_size(fetched.bytes)}, {judged}"


def _audit(config: DatasetConfig, workspace: Workspace, reporter: Reporter, left: dict[str, str]) -> dict[str, Any]:
    """Audit a data set; faults are added to `left`."""
    # Imported here, because it imports what decodes videos.
    from repro.datasets.audit import audit_dataset

    dataset = list_dataset(config, workspace)
    done = audit_dataset(dataset, workspace, len(os.sched_getaffinity(0)), reporter)
    clips = done.manifest.clips
    faults = [clip for clip in clips if clip.error]
    reporter.line(
        f"{config.name}: {len(clips) - len(faults)} of {len(clips)} clips decode; {done.decoded} decoded now, "
        f"{done.reused} reused"
    )
    problems = list(dataset.miscounted)
    if faults:
        problems.append(f"{len(faults)} of {len(clips)} clips are missing or do not decode, such as {faults[0].path}")
    if problems:
        left[config.name] = (
            f"{config.name}: {'; '.join(problems)} (`repro data audit {config.name}{workspace.command_option}` lists them)"
        )
    return {
        "clips": len(clips), "decode": len(clips) - len(faults), "decoded_now": done.decoded,
        "manifest": str(done.path), "sha256": done.manifest.sha256,
    }  # fmt: skip
