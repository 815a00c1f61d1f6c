"""Datasets by name: the adapter that reads each, and the clips that its annotation files list.

A listing is parsed once and cached in the workspace under a key of the annotation files' contents, so that later commands
start without parsing. It is checked against the counts in configs/datasets, if they are known.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.core.errors import MissingError, UsageError
from repro.core.hashing import content_key, file_sha256
from repro.core.locks import remove_partials
from repro.core.reading import parse_json
from repro.core.signed import read_signed_text, write_signed_text
from repro.core.workspace import Workspace
from repro.datasets import animal_kingdom, charades_ego, ucf_hmdb
from repro.datasets.annotations import DataError, Listing, check_not_empty
from repro.datasets.config import DatasetConfig, dataset_names, load_dataset
from repro.datasets.labels import labels_path, read_labels
from repro.datasets.split import Clip, Split, SplitName, name_first_clips

LISTING_VERSION = 1
"""Part of a listing's key. Increase it when the same annotation files would give another listing."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """How one publisher's annotation files are read."""

    list_files: Callable[[Path], list[Path]]
    """Returns the annotation files in the dataset's folder."""
    read_listing: Callable[[Path, DatasetConfig], Listing]
    attributes: Sequence[str]
    """What clips are grouped by beyond their class and source video."""
    read_attribute: Callable[[Path, str, Sequence[str]], dict[str, tuple[str, ...]]]
    """Returns the values of an attribute, by clip id; a clip may have several."""


ADAPTERS = {
    "ucf101": Adapter(ucf_hmdb.list_ucf_files, ucf_hmdb.read_ucf, ucf_hmdb.UCF_ATTRIBUTES, ucf_hmdb.read_ucf_attribute),
    "hmdb51": Adapter(
        ucf_hmdb.list_hmdb_files, ucf_hmdb.read_hmdb, ucf_hmdb.HMDB_ATTRIBUTES, ucf_hmdb.read_hmdb_attribute
    ),
    "animal_kingdom": Adapter(
        animal_kingdom.list_animal_kingdom_files,
        animal_kingdom.read_animal_kingdom,
        tuple(animal_kingdom.ATTRIBUTE_COLUMNS),
        animal_kingdom.read_animal_attribute,
    ),
    "charades_ego": Adapter(
        charades_ego.list_charades_files,
        charades_ego.read_charades,
        charades_ego.ATTRIBUTES,
        charades_ego.read_charades_attribute,
    ),
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset whose annotation files were read."""

    config: DatasetConfig
    folder: Path
    splits: Mapping[str, Split]
    """By their names in the config, such as `train`."""
    notes: tuple[str, ...]
    key: str
    """Content key of the annotation files and how they are read."""

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def boundary(self) -> Path | None:
        """The folder that its clips must be in; None for a user's own table, which may name files anywhere."""
        return self.folder if self.config.own_listing is None else None

    def split(self, name: str) -> Split:
        """Return the split of that name in the config.

        Raises:
            UsageError: there is no such split.
        """
        if name not in self.splits:
            raise UsageError(f"{self.name} has no split '{name}': {', '.join(self.splits)}")
        return self.splits[name]

    @property
    def clips(self) -> tuple[Clip, ...]:
        """Every clip of every split; a clip of several splits is returned once."""
        once: dict[str, Clip] = {}
        for split in self.splits.values():
            for clip in split.clips:
                # By id: several splits may list one clip.
                once.setdefault(clip.id, clip)
        return tuple(once.values())

    @property
    def miscounted(self) -> list[str]:
        """One line for each split whose number of clips differs from the config."""
        return [
            f"{self.name}/{name}: its files list {len(self.splits[name].clips)} clips, expected {facts.clips}"
            for name, facts in self.config.splits.items()
            if facts.clips is not None and len(self.splits[name].clips) != facts.clips
        ]


def user_dataset_names() -> list[str]:
    """Names of the datasets that a user provides, which excludes the generated clips of the smoke test."""
    return [name for name in dataset_names() if load_dataset(name).adapter in ADAPTERS]


def open_dataset(config: DatasetConfig, workspace: Workspace) -> Dataset:
    """Read a dataset's annotation files and check the number of clips they list.

    Whether the clips themselves are present is checked by repro/datasets/presence.py.

    Raises:
        UsageError: not a dataset that a user provides.
        MissingError: its annotation files are missing or damaged, or list an unexpected number of clips.
    """
    dataset = list_dataset(config, workspace)
    if dataset.miscounted:
        raise DataError(
            f"{dataset.folder}: {'; '.join(dataset.miscounted)}: annotation files were changed or cut off, or are of another "
            "version: fetch the publisher's files again"
        )
    return dataset


def list_dataset(config: DatasetConfig, workspace: Workspace, *, keep: bool = True) -> Dataset:
    """Read a dataset's annotation files like `open_dataset`, but do not check the number of clips.

    If they are missing, labels that were imported with features are read. With keep=False, nothing is written to the workspace.
    """
    own = config.own_listing
    if own is not None:
        # Of what was read, not of the file's bytes: a table that is saved by another program has the same key.
        clips = {name: [split.classes, [[c.id, *c.target] for c in split.clips]] for name, split in own.splits.items()}
        return Dataset(config, Path(config.folder), own.splits, own.notes, content_key({"clips": clips}))
    if config.adapter not in ADAPTERS:
        raise UsageError(
            f"{config.name}: not a dataset that a user provides; available: {', '.join(user_dataset_names())}"
        )
    adapter = ADAPTERS[config.adapter]
    folder = workspace.data / config.folder
    # The last part is the folder of videos: listing needs only the annotation files.
    # Annotation files take precedence over labels that came with features: those are only read without them.
    missing = [part for part in config.parts[:-1] if not part.find_name(folder)]
    labels = read_labels(workspace, config.name) if missing else None
    if labels is not None:
        try:
            imported = labels.list_splits(config, folder)
        except ValueError as error:
            raise MissingError(f"{labels_path(workspace, config.name)}: {error}: import the features again") from error
        return Dataset(config, folder, imported.splits, imported.notes, labels.key)
    if missing:
        raise MissingError(
            f"data {config.name}: no {' and no '.join(map(str, missing))} in {folder} ({config.size}; licence: {config.licence}); "
            f"to bring it: {config.how_to_obtain(workspace)}"
        )
    # Contents, not times: a copied or touched file gives the same key.
    contents = {str(path.relative_to(folder)): _hash_annotation_file(path) for path in adapter.list_files(folder)}
    # The folder of videos is part of the key because listings hold paths, and Charades-Ego has two sizes.
    key = content_key(
        {
            "version": LISTING_VERSION,
            "adapter": config.adapter,
            "classes": config.classes,
            "videos": config.videos_folder(folder),
            "files": contents,
        }
    )
    cached = workspace.listings / f"{config.name}-{key}.jsonl"
    listing = _read_listing(cached, folder)
    # Parsed once per contents: a workbook of 30,000 rows takes seconds.
    if listing is None:
        listing = adapter.read_listing(folder, config)
        if keep:
            _write_listing(cached, listing, folder)
    elif keep:
        # Of a writer that was killed between the two steps of its last one. Not every command that lists cleans the workspace.
        remove_partials(cached.parent, cached.name)
    return Dataset(config, folder, listing.splits, listing.notes, key)


def attribute_names(config: DatasetConfig) -> tuple[str, ...]:
    """Return what the clips of a data set can be grouped by, beyond class and source video."""
    return (*ADAPTERS[config.adapter].attributes, "split") if config.adapter in ADAPTERS else ()


def read_attribute(
    config: DatasetConfig, workspace: Workspace, name: str, clips: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the values of an attribute of clips, by clip id.

    Args:
        config: The data set's.
        workspace: Its annotation files are read if the clips' names do not state the attribute.
        name: One of `attribute_names`; "split" is the data set's splits that list the clip.
        clips: Ids.

    Raises:
        MissingError: annotation files are missing or damaged, or do not list all clips.
    """
    folder = workspace.data / config.folder
    if name == "split":
        splits = list_dataset(config, workspace, keep=False).splits
        parts = {part: {clip.id for clip in split.clips} for part, split in splits.items()}
        found = {clip: tuple(part for part, ids in parts.items() if clip in ids) for clip in clips}
    else:
        found = ADAPTERS[config.adapter].read_attribute(folder, name, clips)
    missing = [clip for clip in clips if not found.get(clip)]
    if missing:
        raise MissingError(
            f"data {config.name}: {name}: {len(missing)} of {len(clips)} clips have none in {folder} ({name_first_clips(missing)}): "
            "fetch the publisher's files again"
        )
    return found


def _hash_annotation_file(path: Path) -> str:
    check_not_empty(path)
    return file_sha256(path)


def _write_listing(path: Path, listing: Listing, folder: Path) -> None:
    """Cache `listing` with paths relative to `folder`, so that the data can be mounted elsewhere."""
    # Slicing text is much faster than Path.relative_to for tens of thousands of clips.
    start = len(str(folder)) + 1
    text = json.dumps(
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
        write_signed_text(path, text)
    except OSError:
        return  # The workspace is read-only: the files are parsed again the next time.


def _read_listing(path: Path, folder: Path) -> Listing | None:
    """Read the cached listing at `path`; returns None if it is missing or damaged."""
    # Signed, so that a listing that was cut off or edited is parsed again and not believed.
    text = read_signed_text(path)
    if text is None:
        return None
    # Joining text is much faster than `folder / relative` for tens of thousands of clips.
    base = f"{folder}{os.sep}"
    try:
        raw = parse_json(text)
        splits = {
            name: Split(
                SplitName.parse(split["name"]),
                tuple(split["classes"]),
                tuple(
                    Clip(clip, Path(base + relative), tuple(target), group, listed)
                    for clip, relative, target, group, listed in split["clips"]
                ),
            )
            for name, split in raw["splits"].items()
        }
        return Listing(splits, tuple(raw["notes"]))
    except (ValueError, KeyError, TypeError, AttributeError):  # signed by something else than this code
        return None
