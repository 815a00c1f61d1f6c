"""Extract random clips of a bundle again and compare them with the hashes that it committed to."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.workspace import Workspace
from repro.datasets.presence import find_missing
from repro.datasets.registry import open_dataset
from repro.features.collection import Collection
from repro.pipeline.bundle.archive import BundleError
from repro.pipeline.bundle.features_index import FeaturesIndex, estimate_deviation, fingerprint
from repro.pipeline.sharing.recheck import extract_again, most_missed
from repro.records.record import RunRecord
from repro.table.row import Row, row_backbone, row_datasets

SAME_LIMIT = 1e-2
"""Largest deviation that counts as the same: other devices and precisions give up to 3e-3, and three projections estimate it within
a factor of 3."""


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """Clips of one data set and column of the index that were extracted again."""

    dataset: str
    features: str
    indexed: int
    """Clips that the bundle commits to."""
    present: int
    """Of those, the clips whose video is here: those that were drawn from."""
    deviations: Mapping[str, float]
    """Relative L2 as the fingerprints show it, by clip; 0 for the same bits."""
    failed: Mapping[str, str]
    """Why other drawn clips could not be compared."""

    @property
    def limit(self) -> float:
        return SAME_LIMIT

    @property
    def wrong(self) -> tuple[str, ...]:
        # NaN compares as false, and so counts as wrong.
        return tuple(clip for clip, deviation in self.deviations.items() if not deviation <= SAME_LIMIT)

    @property
    def undetected_share(self) -> float:
        """Upper limit, with 95 % confidence, of the share of clips with wrong features, if all compared clips are right."""
        return most_missed(self.present, len(self.deviations)) / self.present if self.present else 1.0


def draw_clips(clips: Sequence[str], count: int, root: str, nonce: str) -> list[str]:
    """Return `count` of `clips`, which follow from the bundle's root and a nonce that its maker could not know.

    Everybody who knows the nonce draws the same clips.
    """
    ranks = {clip: hashlib.sha256(f"{root} {nonce} {clip}".encode()).digest() for clip in clips}
    return sorted(clips, key=lambda clip: ranks[clip])[:count]


@dataclass(frozen=True, slots=True)
class Draw:
    """Which clips are checked."""

    count: int
    """Of each data set."""
    nonce: str


def check_row_features(
    row: Row,
    record: RunRecord,
    index: FeaturesIndex,
    draw: Draw,
    workspace: Workspace,
    execution: Execution,
    reporter: Reporter,
) -> list[SpotCheck]:
    """Extract random clips of each data set of a row again, into a temporary folder.

    Raises:
        MissingError: the checkpoint or annotation files are missing here.
        BundleError: the record's features are of another checkpoint or config than this machine computes.
    """
    backbone = describe_backbone(row_backbone(row), workspace)
    ours, theirs = backbone.identity(), record.features.identity
    differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if differing:
        raise BundleError(
            f"{row.name}: its features differ from those computed here in {', '.join(differing)}: not extracted again"
        )
    checks = []
    for name, config in row_datasets(row).items():
        collection = index.collections.get(name)
        columns = [
            column
            for column in (collection.features if collection else ())
            if column.endswith(f"-{record.features.key}/{record.features.cell}")
        ]
        if collection is None or not columns:
            continue
        number = collection.features.index(columns[0])
        committed = {clip: values[number] for clip, values in collection.fingerprints.items()}
        dataset = open_dataset(config, workspace)
        gone = {clip for split in dataset.splits.values() for clip in find_missing(split, dataset.boundary)}
        present = {clip.id: clip for clip in dataset.clips if committed.get(clip.id) and clip.id not in gone}
        drawn = [present[clip] for clip in draw_clips(sorted(present), draw.count, index.merkle_root, draw.nonce)]
        deviations: dict[str, float] = {}
        failed: dict[str, str] = {}
        again = Collection(name, tuple(drawn))
        for clip, found in extract_again(backbone, (row.features,), again, execution, reporter).items():
            if isinstance(found, str):
                failed[clip] = found
            elif found.video_sha256 != collection.videos[clip]:
                failed[clip] = f"clip {clip}: another video than the bundle's"
            else:
                deviations[clip] = estimate_deviation(
                    fingerprint(found.features[record.features.cell]), str(committed[clip])
                )
        indexed = sum(value is not None for value in committed.values())
        checks.append(SpotCheck(name, columns[0], indexed, len(present), deviations, failed))
    return checks
