"""State of fetched files: what is at a path, what should be there, and FILE.origin.json.

FILE.origin.json is stored alongside each fetched file: where the file came from, its sha256 and whether a publisher gave it or
the first download had it, and the licence that was accepted.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from repro.core.files import read_json_or_none
from repro.core.hashing import FileHashes
from repro.core.remote_file import RemoteFile
from repro.fetch.catalogue import Asset

FileOrigin = Literal["there", "fetched", "linked", "copied", "cut"]
"""How a file came to its path. The values are printed by `repro fetch --json`."""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that is complete and verified. The fields are the keys of `repro fetch --json`."""

    name: str
    """The asset's name."""
    path: Path
    bytes: int
    sha256: str | None
    """None if the file was there already and no sha256 is known to compare it with."""
    published: bool
    """Whether the sha256 was published; else it is the one recorded at the first download."""
    means: FileOrigin


@dataclass(frozen=True, slots=True)
class FileState:
    """What is at a file's path, and what should be."""

    there: bool
    wrong: str = ""
    """What is wrong with the file, as text to follow its path in a message."""
    expected: str | None = None
    """The published sha256, else the one recorded at the first download."""
    published: bool = False

    @property
    def good(self) -> bool:
        return self.there and not self.wrong


def inspect_file(path: Path, file: RemoteFile, hashes: FileHashes) -> FileState:
    """Compare the file at `path` with its expected size and sha256. A file of which nothing is known counts as good."""
    origin = read_origin(path)
    # A config that publishes a sha256 takes precedence over the recorded one: it may have been corrected since.
    expected = file.sha256 or origin.get("sha256")
    published = file.sha256 is not None or origin.get("sha256_is") == "published"
    wrong, there = "", path.is_file()
    # The size first: comparing it costs nothing, while hashing 10 GB takes half a minute or more.
    if there and file.bytes not in (None, path.stat().st_size):
        wrong = f"has {path.stat().st_size} bytes, expected {file.bytes}"
    elif there and expected is not None and (digest := hashes.sha256(path)) != expected:
        wrong = f"has sha256 {digest}, expected {expected}"
    return FileState(there, wrong, expected, published)


def inspect_encoder(asset: Asset, file: RemoteFile, hashes: FileHashes) -> FileState:
    """Compare a kept encoder with the hashes recorded when it was cut from `file`."""
    path = asset.encoder
    if path is None or not path.is_file():
        return FileState(False)
    origin = read_origin(path)
    recorded, original = origin.get("sha256"), origin.get("original", {}).get("sha256")
    if recorded is None:
        return FileState(True, f"has no {origin_path(path).name} that says what it was cut from")
    if (digest := hashes.sha256(path)) != recorded:
        return FileState(True, f"has sha256 {digest}, expected {recorded}", recorded)
    # The encoder can be intact and still be cut from another checkpoint than the config now names.
    if file.sha256 not in (None, original):
        return FileState(True, f"was cut from a file with sha256 {original}, expected {file.sha256}", recorded)
    return FileState(True, "", recorded)


def origin_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.origin.json")


def read_origin(path: Path) -> dict[str, Any]:
    """Read FILE.origin.json of the file at `path`; empty if it is missing or damaged."""
    origin = read_json_or_none(origin_path(path))
    known = isinstance(origin, dict) and re.fullmatch("[0-9a-f]{64}", str(origin.get("sha256")))
    return origin if known else {}
