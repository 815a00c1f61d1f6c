"""The clips of a row: its splits as they are on this machine, and what a run record states about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from repro.core.console import Reporter
from repro.core.errors import MissingError
from repro.core.hashing import content_sha256
from repro.core.workspace import Workspace
from repro.datasets import animal_kingdom
from repro.datasets.config import load_dataset
from repro.datasets.manifest import Manifest, stored_manifest
from repro.datasets.presence import without_missing
from repro.datasets.registry import Dataset, open_dataset
from repro.datasets.split import Clip, Split, SplitName, name_first_clips
from repro.features.store import FeatureStore
from repro.records.record import SplitRecord
from repro.table.imported import explain_imported, has_imported_features
from repro.table.row import Row, row_datasets


@dataclass(frozen=True, slots=True)
class RowData:
    """The splits of a row and what its records state about them."""

    splits: Mapping[str, Split]
    """"train" and "test", without missing clips."""
    also: tuple[Split, ...] = ()
    """Parts of the test split that are also scored on their own."""
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids of missing clips of "train" and "test"; empty unless missing clips were allowed."""
    manifests: Mapping[str, str] = field(default_factory=dict)
    """Content hash of each data set's audit."""
    segments: Mapping[str, Sequence[int]] | None = None
    """Label ids by segment, for scores within each (Animal Kingdom's classes by how common they are)."""
    complete: bool = True
    """False for a trial on fewer clips."""

    def limit_clips(self, clips: int) -> "RowData":
        """Keep at most `clips` clips of each split, spread over its length so that a trial has many classes."""
        splits = {part: _spread_clips(split, clips) for part, split in self.splits.items()}
        complete = splits == self.splits
        if complete:
            return self
        # Parts of the test split are scored on its predictions, so they have no other clips.
        also = [_restrict_split(split, splits["test"].clips) for split in self.also]
        return replace(self, splits=splits, also=tuple(part for part in also if part.clips), complete=False)

    def warn_of_left_out(self, reporter: Reporter) -> None:
        """Warn that a trial reads fewer clips, and name missing clips that are left out."""
        if not self.complete:
            clips = ", ".join(f"{len(split.clips)} of {part}" for part, split in self.splits.items())
            reporter.warn(f"a trial on {clips}: recorded as one, and never judged")
        for part, ids in self.missing.items():
            if ids:
                reporter.warn(f"{part}: {len(ids)} clips are missing and left out, as allowed: {', '.join(ids[:3])}")

    def warn_of_copies(self, video_sha256: Mapping[str, str], reporter: Reporter) -> None:
        """Warn if test clips are byte for byte training clips, which a user's own table may list under two names."""
        # By content: names and labels of copies may differ.
        trained = {video_sha256[clip.id] for clip in self.splits["train"].clips}
        copies = [clip.id for clip in self.splits["test"].clips if video_sha256[clip.id] in trained]
        if copies:
            reporter.warn(
                f"{len(copies)} test clips are copies of training clips ({name_first_clips(copies)}): the score will be too high: "
                "list each once, or give both one group"
            )


@dataclass(frozen=True, slots=True)
class ReadoutInputs:
    """What the readouts of a row are trained on."""

    row: Row
    data: RowData
    stores: Mapping[str, FeatureStore]
    """Of "train" and "test". They have the same key, and are two stores if the row reads two data sets."""
    video_sha256: Mapping[str, str]
    """Of every clip, by its id."""

    @property
    def store(self) -> FeatureStore:
        return self.stores["test"]


def open_row_data(
    row: Row, workspace: Workspace, *, allow_missing: bool = False, allow_damaged: bool = False
) -> RowData:
    """Open a row's splits and check that their videos are present.

    Raises:
        MissingError: a data set is missing or damaged, or clips are missing and that was not allowed. Clips that the audit
            found damaged count as missing unless `allow_damaged`.
    """
    datasets = {name: open_dataset(config, workspace) for name, config in row_datasets(row).items()}
    audits = _matching_manifests(datasets, workspace)
    # The audit names clips that exist and do not decode: they count as missing here, before an extraction meets them.
    splits, missing = {}, {}
    for part, name in (("train", row.data.train), ("test", row.data.test)):
        dataset, split = _open_split(name, datasets)
        try:
            splits[part], missing[part] = without_missing(
                split,
                dataset.boundary,
                allow_missing=allow_missing,
                allow_damaged=allow_damaged,
                manifest=audits.get(dataset.name),
            )
        except MissingError as error:
            if has_imported_features(row, workspace):
                raise MissingError(f"{error}; {explain_imported(row)}") from error
            raise
    also = [_restrict_split(split, splits["test"].clips) for split in _find_also_splits(row, datasets)]
    return RowData(
        splits=splits,
        also=tuple(part for part in also if part.clips),
        missing=missing,
        manifests={name: manifest.sha256 for name, manifest in audits.items()},
        segments=row_segments(row, workspace),
    )


def list_row_data(row: Row, workspace: Workspace) -> RowData:
    """Return a row's splits as its annotation files list them; videos are not looked at.

    Raises:
        MissingError: annotation files of a data set are missing or damaged.
    """
    datasets = {name: open_dataset(config, workspace) for name, config in row_datasets(row).items()}
    names = {"train": row.data.train, "test": row.data.test}
    return RowData(
        splits={part: _open_split(name, datasets)[1] for part, name in names.items()},
        also=tuple(_find_also_splits(row, datasets)),
        manifests={name: manifest.sha256 for name, manifest in _matching_manifests(datasets, workspace).items()},
        segments=row_segments(row, workspace),
    )


def dataset_of(row: Row, part: str) -> str:
    """Return the data set of a row's "train" or "test" split."""
    return (row.data.train if part == "train" else row.data.test).dataset


def row_segments(row: Row, workspace: Workspace) -> Mapping[str, Sequence[int]] | None:
    """Return Animal Kingdom's classes by frequency; None for other rows, or if the publishers' table is missing.

    Segments add scores to a record and are part of its run's key.
    """
    # Only Animal Kingdom's publishers divide their classes.
    if row.data.datasets != ("animal_kingdom",):
        return None
    config = load_dataset("animal_kingdom")
    return animal_kingdom.read_segments(workspace.data / config.folder, config.classes)


def matching_manifest(dataset: Dataset, workspace: Workspace) -> Manifest | None:
    """Return the manifest of the data set's audit; None unless it is of the annotation files now in the workspace."""
    # An audit of other annotation files may have looked at other clips under the same names.
    manifest = stored_manifest(workspace, dataset.name)
    return manifest if manifest is not None and manifest.annotations == dataset.key else None


def _matching_manifests(datasets: Mapping[str, Dataset], workspace: Workspace) -> dict[str, Manifest]:
    return {name: found for name, dataset in datasets.items() if (found := matching_manifest(dataset, workspace))}


def _open_split(name: SplitName, datasets: Mapping[str, Dataset]) -> tuple[Dataset, Split]:
    return datasets[name.dataset], datasets[name.dataset].split(name.split)


def _find_also_splits(row: Row, datasets: Mapping[str, Dataset]) -> list[Split]:
    return [_open_split(name, datasets)[1] for name in row.data.also]


def _restrict_split(split: Split, clips: tuple[Clip, ...]) -> Split:
    """Return `split` with only those of its clips that are among `clips`."""
    # By id: Clip objects of two listings are equal only if every field is.
    ids = {clip.id for clip in clips}
    return Split(split.name, split.classes, tuple(clip for clip in split.clips if clip.id in ids))


def _spread_clips(split: Split, count: int) -> Split:
    """Select at most `count` clips at equal distances. Splits list their clips by class, so the first ones would be of one class."""
    clips = split.clips
    if len(clips) <= count:
        return split
    # Exact integer arithmetic: the same clips on every machine, and no clip twice.
    return Split(split.name, split.classes, tuple(clips[number * len(clips) // count] for number in range(count)))


def split_records(inputs: ReadoutInputs) -> dict[str, SplitRecord]:
    """Describe the splits for run records: the same for every cell, recipe and seed."""
    return {
        part: describe_split(split, inputs.video_sha256, inputs.data.missing.get(part, ()))
        for part, split in inputs.data.splits.items()
    }


def describe_split(split: Split, video_sha256: Mapping[str, str], missing: tuple[str, ...] = ()) -> SplitRecord:
    """Describe a split for run records."""
    # What is learned from a clip, and not where its file is: the data may be moved.
    contents = [[clip.id, list(clip.target), video_sha256[clip.id]] for clip in split.clips]
    digest = content_sha256({"classes": list(split.classes), "clips": contents})
    return SplitRecord(name=str(split.name), clips=len(split.clips), sha256=digest, missing_clips=missing)
