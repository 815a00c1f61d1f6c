"""Read a bundle that somebody else made: everything in it is verified against what else is in it, and nothing is believed.

What disagrees is refused as a whole, with one line: a bundle of which a part is wrong is not evidence for the rest.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from repro.core.console import escape_text
from repro.core.errors import UsageError, state_reason
from repro.core.reading import read_bytes
from repro.core.workspace import Workspace
from repro.datasets.config import load_dataset
from repro.datasets.manifest import read_manifest
from repro.datasets.registry import list_dataset, user_dataset_names
from repro.datasets.split import Split, SplitName, name_first_clips
from repro.judge.evidence import read_evidence
from repro.judge.rescoring import hash_test_split
from repro.pipeline.bundle.archive import Archive, BundleError
from repro.pipeline.bundle.contents import FEATURES_INDEX, MANIFEST, BundleManifest, parse_manifest
from repro.pipeline.bundle.features_index import FeaturesIndex, parse_index
from repro.readout.predictions import Predictions, read_predictions
from repro.records.record import RunRecord, StoredRun, find_runs
from repro.table.rows import extra_names, is_smoke_row, load_row, row_names

ANNOTATIONS = "the publisher's annotation files"
MOST_MANIFEST = 64 << 20
"""Bytes of bundle.json."""


@dataclass(frozen=True, slots=True)
class OpenedBundle:
    """A bundle whose files, records and predictions agree."""

    path: Path
    manifest: BundleManifest
    records: list[RunRecord]
    index: FeaturesIndex | None
    targets: dict[str, str]
    """With what the targets of each test split were compared."""

    @property
    def annotated(self) -> set[str]:
        """Names of the test splits whose targets were compared with annotation files."""
        return {name for name, how in self.targets.items() if how == ANNOTATIONS}


@contextmanager
def open_bundle(path: Path, find_split: Callable[[SplitName], Split | None]) -> Iterator[OpenedBundle]:
    """Unpack a bundle into a temporary folder, verify it, and yield it; the folder is removed afterwards.

    Args:
        path: The zip file.
        find_split: Returns a split as its publisher's annotation files on this machine list it, or None without them.

    Raises:
        BundleError: it is refused; the message is one line and names what disagrees.
    """
    with TemporaryDirectory(prefix="repro-bundle-") as name:
        folder = Path(name)
        archive = Archive(path)
        try:
            manifest = parse_manifest(archive.read(MANIFEST, MOST_MANIFEST), path)
            _check_listed(archive, manifest)
            for member, facts in manifest.files.items():
                if archive.unpack(member, folder) != facts.sha256:
                    raise BundleError(f"{path}: {member} does not match its sha256 in {MANIFEST}: damaged or replaced")
        finally:
            archive.close()
        try:
            records = _read_bundled_records(path, folder, manifest)
            index = _read_index(path, folder, manifest)
            targets = _check_targets(path, records, folder, index, find_split)
            _check_audits(path, folder, records)
        except BundleError:
            raise
        # What the readers of single files say of a damaged one.
        except UsageError as error:
            raise BundleError(f"{path}: {str(error).replace(f'{folder}/', '')}") from error
        yield OpenedBundle(path, manifest, records, index, targets)


def _check_listed(archive: Archive, manifest: BundleManifest) -> None:
    path = archive.path
    # A second manifest in a folder could be the one that another program reads.
    twice = [name for name in archive.members if name != MANIFEST and name.rsplit("/", 1)[-1] == MANIFEST]
    if twice:
        raise BundleError(f"{path}: two manifests, {MANIFEST} and {twice[0]}: nothing is unpacked")
    unlisted = sorted(archive.members.keys() - manifest.files.keys() - {MANIFEST})
    if unlisted:
        raise BundleError(f"{path}: {unlisted[0]} is not listed in {MANIFEST}: nothing is unpacked")
    missing = sorted(manifest.files.keys() - archive.members.keys())
    if missing:
        raise BundleError(
            f"{path}: {escape_text(missing[0])[:200]} is listed in {MANIFEST} and not in the file: get it again"
        )
    # Sizes are compared before anything is unpacked, so that a bomb never is.
    for name, facts in manifest.files.items():
        if archive.members[name].file_size != facts.bytes:
            raise BundleError(
                f"{path}: {name} has {archive.members[name].file_size} bytes, {MANIFEST} states {facts.bytes}"
            )


def _read_bundled_records(path: Path, folder: Path, manifest: BundleManifest) -> list[RunRecord]:
    # The same checks as of a workspace's records: scores are computed again from the predictions.
    records, damaged = read_evidence(find_runs(folder / "runs"))
    if damaged:
        raise BundleError(f"{path}: {damaged[0][1].replace(f'{folder}/', '')}")
    if not records:
        raise BundleError(f"{path}: no run record in it: nothing to judge")
    if len(records) != manifest.records or {record.row for record in records} != set(manifest.rows):
        raise BundleError(f"{path}: {len(records)} run records, {MANIFEST} states {manifest.records}, or of other rows")
    for record in records:
        known = is_smoke_row(record.row) or record.row in (*row_names(), *extra_names())
        if known == (record.kind == "own") or (known and load_row(record.row).kind != record.kind):
            raise BundleError(
                f"{path}: {record.row} seed {record.seed}: a record of kind {record.kind}: there is no such row"
            )
        if known and load_row(record.row).version != record.row_version:
            raise BundleError(
                f"{path}: {record.row} seed {record.seed}: a record of version {record.row_version} of the row, this project has "
                f"{load_row(record.row).version}: judge it with the version that made it ({manifest.made_by})"
            )
    return records


def _read_index(path: Path, folder: Path, manifest: BundleManifest) -> FeaturesIndex | None:
    file = folder / FEATURES_INDEX
    if (manifest.features_root is None) == (FEATURES_INDEX in manifest.files):
        raise BundleError(f"{path}: {FEATURES_INDEX} and its root in {MANIFEST}: one without the other")
    if manifest.features_root is None:
        return None
    try:
        index = parse_index(read_bytes(file))
    except ValueError as error:
        raise BundleError(f"{path}: {FEATURES_INDEX}: {state_reason(error)}") from error
    if index.merkle_root != manifest.features_root:
        raise BundleError(f"{path}: {FEATURES_INDEX} has another Merkle root than {MANIFEST} states")
    return index


def _check_targets(
    path: Path,
    records: list[RunRecord],
    folder: Path,
    index: FeaturesIndex | None,
    find_split: Callable[[SplitName], Split | None],
) -> dict[str, str]:
    """Compare clips and targets of all predictions with the annotation files, the index of features and each other.

    Returns:
        What they were compared with, by test split.
    """
    found: dict[str, str] = {}
    splits: dict[str, Split | None] = {}
    first: dict[str, Predictions] = {}
    for record in records:
        name = record.test.name
        stored = StoredRun(folder / "runs" / record.row / f"seed{record.seed}-{record.run}")
        predictions = read_predictions(stored.predictions_path)
        where = f"{path}: {record.row} seed {record.seed}: predictions"
        if name not in splits:
            splits[name] = find_split(SplitName.parse(name))
        split = splits[name]
        if split is not None:
            _compare_with_split(where, record, predictions, split)
            generated = split.name.dataset == "smoke"
            found[name] = "the scenes that the smoke job renders" if generated else ANNOTATIONS
        # Also of splits that nobody here has: runs of one split cannot disagree on what it is.
        before = first.setdefault(f"{name} {record.test.sha256}", predictions)
        if before.clips != predictions.clips or not np.array_equal(before.targets, predictions.targets):
            raise BundleError(f"{where} of {name} have other clips or targets than another run's of the same split")
        collection = None if index is None else index.collections.get(SplitName.parse(name).dataset)
        videos = {} if collection is None else collection.videos
        # The index has the sha256 of every video, which with clips and targets gives the split's: edited targets give another.
        if set(predictions.clips) <= videos.keys() and hash_test_split(predictions, videos) != record.test.sha256:
            raise BundleError(f"{where} are of other clips, targets or videos than the sha256 of {name} in the record")
        found.setdefault(
            name, "as recorded" if collection is None else "as recorded, and as the sha256 of the split's clips"
        )
    return found


def _compare_with_split(where: str, record: RunRecord, predictions: Predictions, split: Split) -> None:
    listed = {clip.id: clip for clip in split.clips}
    unknown = [clip for clip in predictions.clips if clip not in listed]
    expected = len(listed) - len(record.test.missing_clips)
    if unknown or (record.complete and len(predictions.clips) != expected):
        named = f" ({name_first_clips([escape_text(clip)[:60] for clip in unknown])})" if unknown else ""
        raise BundleError(
            f"{where} of {len(predictions.clips)} clips, {len(unknown)} of them not in {split.name}{named}, which lists {expected}"
        )
    if predictions.classes != split.classes:
        raise BundleError(f"{where} have other classes than {split.name}")
    wrong = [
        clip
        for clip, row in zip(predictions.clips, predictions.targets, strict=True)
        if tuple(np.flatnonzero(row).tolist()) != tuple(sorted(set(listed[clip].target)))
    ]
    if wrong:
        raise BundleError(
            f"{where}: the recorded targets of {len(wrong)} clips ({name_first_clips(wrong)}) are not those of {split.name}'s annotation "
            "files"
        )


def _check_audits(path: Path, folder: Path, records: list[RunRecord]) -> None:
    """Check that the audits in a bundle are those that its records state."""
    stated = {pair for record in records for pair in record.manifests.items()}
    for file in sorted((folder / "audits").glob("*/manifest.parquet")):
        audit = read_manifest(file)
        if (file.parent.name, audit.sha256) not in stated or audit.dataset != file.parent.name:
            raise BundleError(f"{path}: {file.relative_to(folder)} is not the audit that the records state")


def find_annotated_split(name: SplitName, workspace: Workspace) -> Split | None:
    """Return a split as the annotation files in a workspace list it; None if they are missing. Nothing is written.

    Labels that were imported with features do not count: they are somebody's too.

    Raises:
        MissingError: the annotation files are damaged.
    """
    if name.dataset not in user_dataset_names():
        return None
    config = load_dataset(name.dataset)
    folder = workspace.data / config.folder
    if [part for part in config.parts[:-1] if not part.find_name(folder)]:
        return None
    return list_dataset(config, workspace, keep=False).splits.get(name.split)
