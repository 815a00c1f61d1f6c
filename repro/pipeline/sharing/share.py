"""Features of a data set to a file, and from such a file into another workspace. Imports no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repro.backbones.config import BackboneConfig, Cell, read_precision
from repro.backbones.registry import backbone_names, likely_identity, load_backbone
from repro.core import __version__
from repro.core.console import Reporter
from repro.core.errors import MissingError, UsageError
from repro.core.files import write_bytes, write_json
from repro.core.workspace import Workspace
from repro.datasets.config import DatasetConfig, load_dataset
from repro.datasets.labels import Labels, SplitLabels, labels_path, read_labels, write_labels
from repro.datasets.registry import Dataset, open_dataset, user_dataset_names
from repro.datasets.split import SplitName, name_first_clips
from repro.features.imported import find_stored_identity
from repro.features.pack_collection import add_to_pack
from repro.features.packed import DamagedFeaturesError, Place
from repro.features.shared import Card, SharedFeatures, hash_index, index_of, read_shared, write_shared
from repro.features.store import IMPORTED, Entry, FeatureStore
from repro.pipeline.row_data import matching_manifest
from repro.pipeline.sharing.own_clips import is_own, place_own_clips
from repro.video.sampling import READER_VERSION

CITE = (
    "the paper: Rogério Guimarães, Frank Xiao, Pietro Perona, Markus Marks, WACV 2026, arXiv:2509.08908",
    f"the artifact: actiondiff-repro {__version__} (CITATION.cff), which extracted the features",
    "the publishers of data set and checkpoint, as they ask",
)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    card: Card
    sha256: str
    store: FeatureStore
    added: int
    """Features (clips times cells) that were written."""
    reused: int
    """Features that were stored already, bit for bit the same."""
    row: Path | None = None
    """Of own clips: a row file that `repro readout` takes."""


def export_features(
    settings: DatasetConfig, part: str, config: BackboneConfig, cells: Sequence[Cell], file: Path, workspace: Workspace
) -> Card:
    """Write stored features of a data set, or of its split `part`, to `file` and a parquet file and a card of the same name.

    Of own clips their ids are written, which are their paths in the table, and no other path.

    Raises:
        UsageError: no such split or cell, or a file of that name exists.
        MissingError: features of some clips are missing or damaged, or annotation files are missing.
    """
    readme = file.with_suffix(".md")
    for path in (index_of(file), file, readme):
        if path.exists():
            raise UsageError(f"{path}: exists: name another file, or delete this one")
    dataset, name = open_dataset(settings, workspace), settings.name
    source = str(SplitName(name, part)) if part else name
    # Messages name own clips by the path of their file; the card must not.
    named = "/".join(filter(None, (settings.argument, part)))
    clips = [clip.id for clip in (dataset.split(part).clips if part else dataset.clips)]
    # What this machine would compute or, without the checkpoint, what was imported.
    identity = find_stored_identity(config, workspace, cells[0], (name,))
    store = FeatureStore.locate(workspace, config.name, identity, name)
    arrays, readers = {}, {}
    places: dict[str, dict[str, Place]] = {}
    for cell in cells:
        entries = _read_entries(store, cell.name, clips, named)
        arrays[cell.name] = np.concatenate([entry.features[cell.name] for entry in entries.values()])
        # Clips one after another in one array; the index says where each begins.
        places[cell.name], first = {}, 0
        for clip, entry in entries.items():
            tokens = len(entry.features[cell.name])
            places[cell.name][clip] = Place(first, tokens, entry.video_sha256, entry.reader, entry.origins)
            first += tokens
        readers = dict(Counter(entry.reader for entry in entries.values()))
    labels = _labels_of(dataset)
    manifest = matching_manifest(dataset, workspace)
    names = {origin for one in places.values() for place in one.values() for origin in place.origins}
    card = Card(
        what=f"features of {source} by {config.title}: one vector per sampled frame or window, without the videos",
        made_by=f"actiondiff-repro {__version__}", dataset=name, source=source, clips=len(clips),
        cells=tuple(arrays), backbone=config.name, precision=read_precision(config), key=store.key, identity=identity,
        stored_as=store.stored_as, checkpoint=_describe_checkpoint(config), readers=readers,
        origins={origin: store.read_origin(origin) for origin in sorted(names)}, annotations=dataset.key,
        manifest=None if manifest is None else manifest.sha256, licence=dataset.config.licence,
        licence_url=dataset.config.licence_url, cite=CITE,
        # The source of own clips is a path on this machine.
        publisher=dataset.config.source if dataset.config.own_listing is None else "the owner of the clips",
        index_sha256=hash_index(places, labels),
    )  # fmt: skip
    write_shared(file, SharedFeatures(card, arrays, places, labels))
    write_bytes(readme, _card_as_markdown(file, card).encode())
    return card


def import_features(file: Path, workspace: Workspace, reporter: Reporter) -> Imported:
    """Verify shared features and add them to the workspace's store, where `repro readout` reads them.

    Features that are stored already are kept if they are the same bit for bit. Every clip that is added names the card as one of its
    origins, so that run records state it. Labels are stored if the data set's annotation files are missing.

    Raises:
        UsageError: the workspace has other features of these clips, or cannot be written.
        MissingError: the files are missing, damaged, or not of this version's data sets, backbones and checkpoints.
    """
    shared = read_shared(file)
    card = shared.card
    _check_card(file, card, workspace)
    store = FeatureStore.locate(workspace, card.backbone, card.identity, card.dataset, card.stored_as)
    # The key is a hash of the identity that the card states: an edited card has another one.
    if store.key != card.key:
        raise MissingError(
            f"{file}: its key is {card.key}, what it states about its features has {store.key}: it was edited, or is of another version "
            "of this project"
        )
    # Not before: a file that is refused leaves no workspace behind.
    workspace.require_writable()
    row = None
    with workspace.lock(f"extract {card.backbone} {card.dataset}"):
        if is_own(card.dataset):
            row = place_own_clips(file, card, shared.labels, workspace)
        else:
            _place_labels(file, shared, workspace)
        new = {cell: _find_new(file, shared, store, cell) for cell in card.cells}
        # An import of what is all there writes nothing, and opens no store.
        added = sum(map(len, new.values()))
        if added:
            store = FeatureStore.open(workspace, card.backbone, card.identity, card.dataset, card.stored_as)
            for name, about in [*card.origins.items(), (IMPORTED + shared.sha256, card.model_dump(mode="json"))]:
                if not (path := store.origin_path(name)).is_file():
                    write_json(path, about)
        with reporter.progress("import", len(card.cells)) as advance:
            for cell, entries in new.items():
                if entries:
                    add_to_pack(store, cell, entries)
                advance(cell)
    return Imported(card, shared.sha256, store, added, len(card.cells) * card.clips - added, row)


def _read_entries(store: FeatureStore, cell: str, clips: list[str], source: str) -> dict[str, Entry]:
    """Read the features of `clips`, in this order.

    Raises:
        MissingError: some are missing or damaged.
    """
    try:
        reader = store.cell_reader(cell)
        found = {clip: reader.read(clip) for clip in clips}
    except DamagedFeaturesError as error:
        raise MissingError(f"features {store.folder}: damaged: {error}: extract them again") from error
    missing = [clip for clip, entry in found.items() if entry is None]
    if missing or not found:
        raise MissingError(
            f"{source}: {len(missing)} of {len(found)} clips have no features {cell} in {store.folder} "
            f"({name_first_clips(missing)}): extract them, name another --backbone or cell, or export a split alone"
        )
    return {clip: entry for clip, entry in found.items() if entry is not None}


def _labels_of(dataset: Dataset) -> Labels:
    splits = {
        name: SplitLabels(classes=split.classes, clips=tuple((c.id, c.target, c.group, c.listed) for c in split.clips))
        for name, split in dataset.splits.items()
    }
    target = None if dataset.config.own_listing is None else dataset.config.target
    return Labels(key=dataset.key, notes=dataset.notes, splits=splits, target=target)


def _describe_checkpoint(config: BackboneConfig) -> dict[str, str | None]:
    checkpoint = config.checkpoint
    if checkpoint is None:
        return {}
    return {
        "file": checkpoint.encoder_file or checkpoint.file, "source": checkpoint.source,
        "licence": checkpoint.licence, "published_sha256": checkpoint.sha256,
    }  # fmt: skip


def _check_card(file: Path, card: Card, workspace: Workspace) -> None:
    """Check that this version would compute the same from the same clips.

    Raises:
        MissingError: unknown data set or backbone, or another version or checkpoint.
    """
    for what, name, known in (
        ("data set", card.dataset, user_dataset_names()), ("backbone", card.backbone, backbone_names())
    ):  # fmt: skip
        if name not in known and not (what == "data set" and is_own(name)):
            raise MissingError(f"{file}: unknown {what} '{name}'; available: {', '.join(known)}")
    config = load_backbone(card.backbone)
    # The config's own sha256, or that of the file that is here.
    known_sha256 = (likely_identity(config, workspace) or {}).get("checkpoint_sha256")
    stated = {"version": config.version, "reader_version": READER_VERSION, "checkpoint_sha256": known_sha256}
    for key, expected in stated.items():
        if expected not in (None, card.identity.get(key)):
            raise MissingError(f"{file}: features of {key} {card.identity.get(key)}, expected {expected}: not imported")


def _place_labels(file: Path, shared: SharedFeatures, workspace: Workspace) -> None:
    """Store the labels, unless the data set's annotation files are present; those must list the clips then.

    Raises:
        MissingError: the labels are not those of the data set, or others were imported before.
    """
    config, labels = load_dataset(shared.card.dataset), shared.labels
    folder = workspace.data / config.folder
    try:
        splits = labels.list_splits(config, folder).splits
    except ValueError as error:
        raise MissingError(f"{file}: its labels are not those of {config.name}: {error}") from error
    if not [part for part in config.parts[:-1] if not part.find_name(folder)]:
        listed = {clip.id for clip in open_dataset(config, workspace).clips}
        unknown = sorted(set(next(iter(shared.places.values()))) - listed)
        if unknown:
            raise MissingError(
                f"{file}: {len(unknown)} of its clips are not listed in {folder} ({name_first_clips(unknown)}): it is of other "
                "annotation files"
            )
        return
    before = read_labels(workspace, config.name)
    if before is not None and before.splits != labels.splits:
        raise MissingError(
            f"{file}: other labels of {config.name} were imported before ({labels_path(workspace, config.name)}): import into another "
            "--workspace"
        )
    if labels.key != shared.card.annotations:
        raise MissingError(f"{file}: its labels are of annotation files {labels.key}, its card states others")
    dataset = Dataset(config, folder, splits, labels.notes, labels.key)
    if before is None:
        if dataset.miscounted:
            raise MissingError(f"{file}: its labels are not all: {'; '.join(dataset.miscounted)}")
        write_labels(workspace, config.name, labels)


def _find_new(file: Path, shared: SharedFeatures, store: FeatureStore, cell: str) -> Mapping[str, Entry]:
    """Return the features of a cell that are not stored yet.

    Raises:
        UsageError: the workspace has others of the same clips.
        MissingError: stored ones are damaged.
    """
    new, other = {}, []
    array, origin = shared.arrays[cell], IMPORTED + shared.sha256
    try:
        reader = store.cell_reader(cell)
        for clip, place in shared.places[cell].items():
            values = array[place.first : place.first + place.tokens]
            stored, own = reader.read(clip), store.read_own_file(clip)
            if (own is not None and own.video_sha256 != place.video_sha256) or (
                stored is not None
                and (stored.video_sha256 != place.video_sha256 or not np.array_equal(stored.features[cell], values))
            ):
                other.append(clip)
            elif stored is None:
                new[clip] = Entry({cell: values}, place.video_sha256, place.reader, (*place.origins, origin))
    except DamagedFeaturesError as error:
        raise MissingError(f"features {store.folder}: damaged: {error}: extract or import them again") from error
    if other:
        raise UsageError(
            f"{file}: {len(other)} of {shared.card.clips} clips have other features {cell}, or are other videos, in {store.folder} "
            f"({name_first_clips(other)}): not mixed: import into another --workspace"
        )
    return new


def _card_as_markdown(file: Path, card: Card) -> str:
    """Return the card as text for people."""
    checkpoint = card.identity.get("checkpoint_sha256", "none")
    rows = {
        "features": f"{', '.join(card.cells)} of {card.backbone} ({card.precision}, stored as {card.stored_as}), key {card.key}",
        "clips": f"{card.clips} of {card.source}",
        "checkpoint": f"{card.checkpoint.get('source', 'none')}, sha256 {checkpoint}",
        "computed by": f"{card.made_by}, {card.identity.get('implementation') or 'its own modules'}",
        "licence of the data": f"{card.licence} {card.licence_url or ''}",
        "audit of the videos": card.manifest or "none",
    }
    cite = "\n".join(f"- {line}" for line in card.cite)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"# {file.stem}\n\n{card.what[0].upper()}{card.what[1:]}.\n\n| | |\n|---|---|\n{table}\n\n"
        f"To read: `repro features import {file.name}`, with {index_of(file).name} next to it.\n\nPlease cite\n\n{cite}\n"
    )
