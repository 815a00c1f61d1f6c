"""Data sets by name: which adapter reads each, and what its files list.

A listing is parsed once and kept in the workspace under a key of the annotation files' contents, so that a later start
takes no time. It is checked against the counts of configs/datasets, where they are known.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.core.errors import MissingError, UsageError
from repro.core.files import write_bytes
from repro.core.hashing import content_key, file_sha256
from repro.core.workspace import Workspace
from repro.datasets import animal_kingdom, charades_ego, ucf_hmdb
from repro.datasets.annotations import DataError, Listing, check_not_empty
from repro.datasets.config import DatasetConfig, dataset_names, load_dataset
from repro.datasets.split import Clip, Split, SplitName

VERSION = 1
"""Part of a listing's key: raised when the same annotation files would be read otherwise."""


@dataclass(frozen=True, slots=True)
class Adapter:
    files: Callable[[Path], list[Path]]
    """The annotation files of the data set in a folder."""
    read: Callable[[Path, DatasetConfig], Listing]


ADAPTERS = {
    "ucf101": Adapter(ucf_hmdb.ucf_files, ucf_hmdb.read_ucf),
    "hmdb51": Adapter(ucf_hmdb.hmdb_files, ucf_hmdb.read_hmdb),
    "animal_kingdom": Adapter(animal_kingdom.files, animal_kingdom.read),
    "charades_ego": Adapter(charades_ego.files, charades_ego.read),
}


@dataclass(frozen=True, slots=True)
class Dataset:
    config: DatasetConfig
    folder: Path
    splits: Mapping[str, Split]
    """By their names in the config."""
    notes: tuple[str, ...]
    key: str
    """Content key of the annotation files and how they are read."""

    @property
    def name(self) -> str:
        return self.config.name

    def split(self, name: str) -> Split:
        """
        Raises:
            UsageError: there is no such split.
        """
        if name not in self.splits:
            raise UsageError(f"{self.name} has no split '{name}': {', '.join(self.splits)}")
        return self.splits[name]

    @property
    def clips(self) -> tuple[Clip, ...]:
        """Every clip of every split, once."""
        once: dict[str, Clip] = {}
        for split in self.splits.values():
            for clip in split.clips:
                once.setdefault(clip.id, clip)
        return tuple(once.values())

    @property
    def miscounted(self) -> list[str]:
        """A line for each split that lists another number of clips than the config says."""
        return [
            f"{self.name}/{name}: its files list {len(self.splits[name].clips)} clips, expected {facts.clips}"
            for name, facts in self.config.splits.items()
            if facts.clips is not None and len(self.splits[name].clips) != facts.clips
        ]


def brought_names() -> list[str]:
    """Data sets that a user brings."""
    return [name for name in dataset_names() if load_dataset(name).adapter in ADAPTERS]


def open_dataset(config: DatasetConfig, workspace: Workspace) -> Dataset:
    """Read a dataset's annotation files and check the number of clips they list. Whether the clips themselves are present
    is checked by repro/datasets/presence.py.

    Raises:
        UsageError: not a dataset that a user provides.
        MissingError: its annotation files are missing or damaged, or list an unexpected number of clips.
    """
    dataset = list_dataset(config, workspace)
    if dataset.miscounted:
        raise DataError(
            f"{dataset.folder}: {'; '.join(dataset.miscounted)}: annotation files were changed or cut off, or are of another "
            "version: fetch the owners' files again"
        )
    return dataset


def list_dataset(config: DatasetConfig, workspace: Workspace, *, keep: bool = True) -> Dataset:
    """As open_dataset, without checking counts. With keep=False, nothing is written to the workspace."""
    if config.adapter not in ADAPTERS:
        raise UsageError(f"{config.name}: not a data set that a user brings: {', '.join(brought_names())}")
    adapter = ADAPTERS[config.adapter]
    folder = workspace.data / config.folder
    absent = [part for part in config.parts[:-1] if not part.there(folder)]
    if absent:
        raise MissingError(
            f"data {config.name}: no {' and no '.join(map(str, absent))} in {folder} ({config.size}; licence: {config.licence}); "
            f"to bring it: {config.how_to_obtain(workspace)}"
        )
    contents = {str(path.relative_to(folder)): _sha256(path) for path in adapter.files(folder)}
    key = content_key(
        {
            "version": VERSION,
            "adapter": config.adapter,
            "classes": config.classes,
            "videos": config.videos(folder),
            "files": contents,
        }
    )
    kept = workspace.listings / f"{config.name}-{key}.jsonl"
    listing = _read(kept, folder)
    if listing is None:
        listing = adapter.read(folder, config)
        if keep:
            _keep(kept, listing, folder)
    return Dataset(config, folder, listing.splits, listing.notes, key)


def _sha256(path: Path) -> str:
    check_not_empty(path)
    return file_sha256(path)


def _keep(path: Path, listing: Listing, folder: Path) -> None:
    """Two lines: the second's sha256, and the listing with paths below `folder`."""
    start = len(str(folder)) + 1
    body = json.dumps(
        {
            "notes": listing.notes,
            "splits": {
                name: {
                    "name": str(split.name),
                    "classes": split.classes,
                    "clips": [[c.id, str(c.path)[start:], c.target, c.group, c.listed] for c in split.clips],
                }
                for name, split in listing.splits.items()
            },
        },
        ensure_ascii=False,
    ).encode()
    try:
        write_bytes(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body + b"\n")
    except OSError:
        return  # a workspace that cannot be written: the files are parsed again the next time


def _read(path: Path, folder: Path) -> Listing | None:
    """The listing kept at `path`; None where there is none or it is not what was written."""
    try:
        digest, body = path.read_bytes().rstrip(b"\n").split(b"\n", 1)
    except (OSError, ValueError):
        return None
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    raw = json.loads(body)
    base = f"{folder}{os.sep}"
    return Listing(
        {
            name: Split(
                SplitName.parse(split["name"]),
                tuple(split["classes"]),
                tuple(
                    Clip(clip, Path(base + relative), tuple(target), group, listed)
                    for clip, relative, target, group, listed in split["clips"]
                ),
            )
            for name, split in raw["splits"].items()
        },
        tuple(raw["notes"]),
    )
