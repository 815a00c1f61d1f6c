"""A row from its clips to its run records: extract, train, record. Each stage is reused where nothing it depends on has
changed."""

from collections.abc import Mapping, Sequence

from repro.backbones.extractor import open_backbone
from repro.datasets import Split
from repro.errors import MissingError
from repro.features.extract import Extraction, extract
from repro.features.store import FeatureStore
from repro.readout.scores import Segments
from repro.readout.stage import PUBLISHED, How, Source, read_out
from repro.rows import Row, row_backbone
from repro.runs import RunRecord, machine, versions
from repro.terminal import Reporter
from repro.workspace import Workspace


def run_row(
    name: str,
    row: Row,
    splits: Mapping[str, Split],
    seeds: Sequence[int],
    workspace: Workspace,
    reporter: Reporter,
    workers: int = 1,
    how: How = PUBLISHED,
    segments: Segments | None = None,
) -> tuple[FeatureStore, list[RunRecord]]:
    """Features and one record per seed. `splits` holds "train" and "test"; `workers` decode.

    Raises:
        MissingError: a checkpoint is missing or clips could not be read (each is named before).
    """
    store, extraction = _extract(name, row, splits, workspace, reporter, workers)
    source = Source(name, row, store, splits, extraction.video_sha256, segments)
    return store, read_out(source, seeds, workspace, reporter, how)


def _extract(
    name: str, row: Row, splits: Mapping[str, Split], workspace: Workspace, reporter: Reporter, workers: int
) -> tuple[FeatureStore, Extraction]:
    extractor = open_backbone(row.backbone, row_backbone(row), [row.features], workspace)
    store = FeatureStore.open(workspace.features, row.backbone, extractor.identity(), versions() | machine())
    clips = [clip for split in splits.values() for clip in split.clips]
    extraction = extract(clips, extractor, store, reporter, workers)
    failed = list(extraction.failed)
    reporter.stage(
        "features",
        total=len(clips) - len(failed),
        reused=len(extraction.reused),
        made="extracted",
        why=f"{row.backbone}, {row.features.name}",
        where=store.folder,
    )
    if failed:
        raise MissingError(
            f"row {name}: {len(failed)} of {len(clips)} clips could not be read "
            f"({', '.join(failed[:3])}{', ...' if len(failed) > 3 else ''}): mend or fetch them again and run the same "
            "command: the other clips' features are kept"
        )
    return store, extraction
