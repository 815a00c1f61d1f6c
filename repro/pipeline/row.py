"""A row from its clips to its run records: extract, train, record. Each stage is reused where nothing it depends on has
changed."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from repro.backbones.config import Cell
from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.errors import MissingError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip, Split
from repro.features import rates
from repro.features.collection import dataset_collection
from repro.features.extract import Ask, Extraction, extract, pack_if_whole
from repro.features.store import FeatureStore, StoredAs
from repro.pipeline.run_readout import Source, read_out
from repro.readout.compute import ON_CPU, Compute
from repro.readout.metrics import Segments
from repro.readout.recipe import Protocol
from repro.records.record import RunRecord, machine, versions
from repro.table.row import Row, row_backbone


def run_row(
    name: str,
    row: Row,
    splits: Mapping[str, Split],
    seeds: Sequence[int],
    workspace: Workspace,
    reporter: Reporter,
    execution: Execution,
    protocol: Protocol = "published",
    compute: Compute = ON_CPU,
    segments: Segments | None = None,
    *,
    also: Sequence[Split] = (),
    missing: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    manifests: Mapping[str, str] = MappingProxyType({}),
    complete: bool = True,
) -> tuple[FeatureStore, list[RunRecord]]:
    """The test split's features and one record per seed. `splits` holds "train" and "test". `also`, `missing` and
    `manifests` are as in repro/pipeline/row_data.py and go into the records, as does `complete`, False for a trial on fewer
    clips.

    Raises:
        MissingError: a checkpoint is missing or clips could not be read (each is named before).
    """
    stores, extraction = extract_row(name, row, (row.features,), splits, workspace, reporter, execution)
    source = Source(
        name,
        row,
        stores,
        splits,
        extraction.video_sha256,
        segments,
        tuple(also),
        dict(missing),
        dict(manifests),
        complete,
    )
    return stores["test"], read_out(source, seeds, workspace, reporter, protocol, compute)


def extract_row(
    name: str,
    row: Row,
    cells: tuple[Cell, ...],
    splits: Mapping[str, Split],
    workspace: Workspace,
    reporter: Reporter,
    execution: Execution,
    stored_as: StoredAs = "float32",
    before: Callable[[Sequence[Clip]], None] = lambda todo: None,
) -> tuple[dict[str, FeatureStore], Extraction]:
    """Features of all splits, all cells in one pass over a clip: the store of each, and what was extracted. `before` is
    called with the clips of a data set that are to be computed.

    Raises:
        MissingError: a checkpoint is missing or clips could not be read (each is named before).
    """
    backbone = describe_backbone(row_backbone(row), workspace)
    collections: dict[str, list[Clip]] = {}
    for part, split in splits.items():
        collections.setdefault(_dataset(row, part), []).extend(split.clips)
    stores: dict[str, FeatureStore] = {}
    whole = Extraction()
    for dataset, clips in collections.items():
        store = FeatureStore.open(workspace, row.backbone, backbone.identity(), dataset, stored_as)
        asks = [Ask(backbone, cells, store)]
        collection = dataset_collection(dataset, clips)
        on = machine(execution.device)
        done = extract(collection, asks, execution, versions() | on, reporter, before)
        names = tuple(cell.name for cell in cells)
        rates.record(workspace, row.backbone, backbone.identity(), names, on, done.windows, done.seconds)
        reporter.stage(
            "features",
            total=len(collection.clips) - len(done.failed),
            reused=len(done.reused),
            made="extracted",
            why=f"{dataset}, {row.backbone}, {cells[0].name if len(cells) == 1 else f'{len(cells)} cells'}",
            where=store.folder,
        )
        pack_if_whole(collection, asks, done, reporter)
        stores |= {part: store for part in splits if _dataset(row, part) == dataset}
        whole.failed |= done.failed
        whole.video_sha256 |= done.video_sha256
        whole.windows += done.windows
    if whole.failed:
        failed, total = list(whole.failed), sum(len(clips) for clips in collections.values())
        raise MissingError(
            f"row {name}: {len(failed)} of {total} clips could not be read "
            f"({', '.join(failed[:3])}{', ...' if len(failed) > 3 else ''}): mend or fetch them again and run the same "
            "command: the other clips' features are kept"
        )
    return stores, whole


def _dataset(row: Row, part: str) -> str:
    return (row.data.train if part == "train" else row.data.test).split("/")[0]
