"""A row from its clips to its run records: extract, train, record. Each stage reuses what is stored if nothing it depends on
has changed."""

from dataclasses import dataclass

from repro.backbones.config import Cell
from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.errors import MissingError
from repro.core.progress.stages import Part, StageName
from repro.core.workspace import Workspace
from repro.datasets.split import Clip, name_first_clips
from repro.features.collection import dataset_collection
from repro.features.store import FeatureStore, StoredAs
from repro.pipeline.extract import extract_features, name_stage, open_stores
from repro.pipeline.row_data import ReadoutInputs, RowData, dataset_of, open_row_data
from repro.pipeline.runs.score import keep_scores
from repro.pipeline.runs.train import run_readouts
from repro.readout.compute import Compute
from repro.readout.recipe import Protocol
from repro.records import mlflow_view
from repro.records.record import RunRecord
from repro.table.row import Row, SeedChoice, row_backbone


@dataclass(frozen=True, slots=True)
class RowRequest:
    """Which readouts of a row to run, and on which clips."""

    seeds: SeedChoice = 1
    protocol: Protocol | None = None
    """None: the row's default."""
    limit: int | None = None
    """For a trial: at most this many clips of each split; recorded, and never judged."""
    allow_missing: bool = False
    """Continue without missing clips; recorded."""


@dataclass(frozen=True, slots=True)
class RowFeatures:
    """Which of a backbone's features a row or a grid of it reads, and how they are stored."""

    cells: tuple[Cell, ...]
    stored_as: StoredAs = "float32"


def run_row(
    row: Row, request: RowRequest, workspace: Workspace, execution: Execution, compute: Compute, reporter: Reporter
) -> list[RunRecord]:
    """Run a row end to end: features, readouts, one record a seed.

    Raises:
        MissingError: data, a checkpoint or clips are missing or damaged.
        UsageError: another process runs the row, or a training of it was started with another recipe.
    """
    workspace.require_writable()
    # One process a row extracts its features.
    with workspace.lock(f"run {row.name}"):
        # Every clip is looked for before any is decoded: an extraction of days must not end on a missing file.
        data = open_requested_data(row, request, workspace, execution)
        data.warn_of_left_out(reporter)
        reporter.expect(*list_stages(row, data, request.seeds), group=row.name)
        inputs = extract_row(row, data, workspace, execution, reporter)
        if row.own_datasets:
            data.warn_of_copies(inputs.video_sha256, reporter)
        return _train_seeds(inputs, request, workspace, compute, reporter)


def open_requested_data(row: Row, request: RowRequest, workspace: Workspace, execution: Execution) -> RowData:
    """Open the clips that `request` is about.

    Raises:
        MissingError: data or clips are missing.
    """
    data = open_row_data(row, workspace, allow_missing=request.allow_missing, allow_damaged=execution.allow_damaged)
    return data if request.limit is None else data.limit_clips(request.limit)


def train_readouts(
    inputs: ReadoutInputs, request: RowRequest, workspace: Workspace, compute: Compute, reporter: Reporter
) -> list[RunRecord]:
    """Train a row's readouts on stored features (`open_stored_row`). The runs are those that run_row would make.

    Raises:
        MissingError: features are damaged or not finite, or the device's memory is full.
        UsageError: another process trains one of the seeds, or a training of it was started with another recipe.
    """
    return _train_seeds(inputs, request, workspace, compute, reporter)


def _train_seeds(
    inputs: ReadoutInputs, request: RowRequest, workspace: Workspace, compute: Compute, reporter: Reporter
) -> list[RunRecord]:
    seeds = inputs.row.seeds.choose(request.seeds)
    protocol = request.protocol or inputs.row.default_protocol
    # By the name under which list_stages announced it.
    with reporter.run_stage(*_name_readouts(inputs.row, request.seeds)):
        records = run_readouts(inputs, seeds, workspace, reporter, protocol, compute)
        # A view of the records, made last: by now the records are on disk.
        with reporter.run_part(Part("log to MLflow", None, "")):
            mlflow_view.log_runs(workspace, reporter)
        with reporter.run_part(Part("score runs", None, "")):
            keep_scores(inputs.row, workspace, reporter.warn)
    return records


def list_stages(row: Row, data: RowData, seeds: SeedChoice) -> list[StageName]:
    """Return the stages of running a row, in order."""
    datasets = dict.fromkeys(dataset_of(row, part) for part in data.splits)
    return [*(name_stage(dataset, [row.backbone]) for dataset in datasets), _name_readouts(row, seeds)]


def _name_readouts(row: Row, seeds: SeedChoice) -> StageName:
    chosen = row.seeds.choose(seeds)
    return "readout", f"{row.name}, {f'{len(chosen)} seeds' if len(chosen) > 1 else f'seed {chosen[0]}'}"


def extract_row(
    row: Row,
    data: RowData,
    workspace: Workspace,
    execution: Execution,
    reporter: Reporter,
    features: RowFeatures | None = None,
) -> ReadoutInputs:
    """Extract the features of a row's splits and return what its readouts train on. One pass over a clip computes all cells.

    Args:
        row: the row.
        data: its splits.
        workspace: where features are stored.
        execution: device, batch and decoding processes.
        reporter: where progress is reported.
        features: other features than the row's own cell in float32: a grid's.

    Raises:
        MissingError: a checkpoint is missing, or clips could not be read (each is reported before).
    """
    features = features or RowFeatures((row.features,))
    backbone = describe_backbone(row_backbone(row), workspace)
    # Splits of one data set share a store and one pass over their clips.
    collections: dict[str, list[Clip]] = {}
    for part, split in data.splits.items():
        collections.setdefault(dataset_of(row, part), []).extend(split.clips)
    stores: dict[str, FeatureStore] = {}
    failed: list[str] = []
    video_sha256: dict[str, str] = {}
    for dataset, clips in collections.items():
        requests = open_stores([(backbone, features.cells)], dataset, workspace, features.stored_as)
        collection = dataset_collection(dataset, clips)
        done = extract_features(requests, collection, workspace, execution, reporter)
        # Train and test of one data set read one store.
        stores |= {part: requests[0].store for part in data.splits if dataset_of(row, part) == dataset}
        failed += done.failed
        video_sha256 |= done.video_sha256
    # Only now, so that one run reports the unreadable clips of all data sets, and the others' features are stored.
    if failed:
        total = sum(len(clips) for clips in collections.values())
        raise MissingError(
            f"row {row.name}: {len(failed)} of {total} clips could not be read ({name_first_clips(failed)}): fix or fetch them again "
            "and run the same command: the other clips' features are kept"
        )
    return ReadoutInputs(row, data, stores, video_sha256)
