"""The clips of a row: its splits as they lie here, and what a run record says of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from repro.core.workspace import Workspace
from repro.datasets.manifest import Manifest, stored_manifest
from repro.datasets.presence import without_missing
from repro.datasets.registry import Dataset, open_dataset
from repro.datasets.split import Split
from repro.table.row import Data


@dataclass(frozen=True, slots=True)
class RowData:
    """What repro/pipeline/row.py takes of a row's data."""

    splits: dict[str, Split]
    """train and test, without the clips that are missing."""
    also: tuple[Split, ...]
    """Parts of the test split whose own scores are recorded."""
    missing: dict[str, tuple[str, ...]]
    """Ids by train and test; empty ones unless missing clips were allowed."""
    manifests: dict[str, str]
    """Content hash of each data set's audit."""

    def limited(self, clips: int) -> "RowData":
        """At most so many clips of each split, from its whole length, so that a trial sees many classes."""
        splits = {part: _limited(split, clips) for part, split in self.splits.items()}
        kept = {clip.id for clip in splits["test"].clips}
        also = [Split(s.name, s.classes, tuple(c for c in s.clips if c.id in kept)) for s in self.also]
        return replace(self, splits=splits, also=tuple(split for split in also if split.clips))


def open_row(data: Data, workspace: Workspace, *, allow_missing: bool = False) -> RowData:
    """
    Raises:
        MissingError: a data set is not there or damaged, or clips are missing and that was not allowed.
    """
    datasets = {name: open_dataset(name, workspace) for name in data.datasets}
    audits = {name: audited for name, dataset in datasets.items() if (audited := of_these_files(dataset, workspace))}
    splits, missing = {}, {}
    for part, name in (("train", data.train), ("test", data.test)):
        splits[part], missing[part] = _whole(name, datasets, audits, allow_missing)
    present = {clip.id for clip in splits["test"].clips}
    also = []
    for name in data.also:
        dataset, split = name.split("/")
        whole = datasets[dataset].split(split)
        left = tuple(clip for clip in whole.clips if clip.id in present)
        if left:
            also.append(Split(whole.name, whole.classes, left))
    return RowData(splits, tuple(also), missing, {name: manifest.sha256 for name, manifest in audits.items()})


def _limited(split: Split, clips: int) -> Split:
    whole = split.clips
    if len(whole) <= clips:
        return split
    return Split(split.name, split.classes, tuple(whole[place * len(whole) // clips] for place in range(clips)))


def of_these_files(dataset: Dataset, workspace: Workspace) -> Manifest | None:
    """The manifest of the data set's audit, where there is one and it is of the annotation files that lie here."""
    manifest = stored_manifest(workspace, dataset.name)
    return manifest if manifest is not None and manifest.annotations == dataset.key else None


def _whole(
    name: str, datasets: Mapping[str, Dataset], audits: Mapping[str, Manifest], allow_missing: bool
) -> tuple[Split, tuple[str, ...]]:
    dataset = datasets[name.split("/")[0]]
    split = dataset.split(name.split("/")[1])
    return without_missing(split, dataset.folder, allow_missing=allow_missing, manifest=audits.get(dataset.name))
