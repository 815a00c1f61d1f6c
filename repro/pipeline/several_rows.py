"""Several rows in one command: each clip is decoded once for all their backbones that sample it alike, and what backbones share
is computed once. Readouts follow row by row."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from repro.backbones.config import Cell
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.disk import DiskError
from repro.core.errors import ReproError
from repro.core.hashing import content_key
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features.collection import dataset_collection
from repro.pipeline.extract import compute_features, open_stores, report_costs
from repro.pipeline.row import RowRequest, open_requested_data, run_row
from repro.pipeline.row_data import RowData, dataset_of
from repro.readout.compute import Compute
from repro.records.record import RunRecord
from repro.table.row import Row, row_backbone


@dataclass(frozen=True, slots=True)
class RowsResult:
    """What became of each row."""

    records: dict[str, list[RunRecord]]
    """By row."""
    failures: dict[str, str]
    """Why a row was not run, by row."""


@dataclass(frozen=True, slots=True)
class SharedPass:
    """Clips of a data set of which several backbones are missing features."""

    dataset: str
    backbones: tuple[tuple[Backbone, tuple[Cell, ...]], ...]
    """Each with the cells that rows read."""
    clips: tuple[Clip, ...]


@dataclass(slots=True)
class _Need:
    """What the rows of one backbone read of a data set."""

    backbone: Backbone
    cells: dict[str, Cell] = field(default_factory=dict)
    clips: dict[str, Clip] = field(default_factory=dict)


def run_rows(
    rows: Sequence[Row],
    request: RowRequest,
    workspace: Workspace,
    execution: Execution,
    compute: Compute,
    reporter: Reporter,
) -> RowsResult:
    """Run rows end to end. A row that cannot run does not keep the others from running.

    Raises:
        DiskError: a file cannot be written; no other row could be, either.
    """
    workspace.require_writable()
    result = RowsResult({}, {})
    ready: list[tuple[Row, RowData]] = []
    # Held while their features are computed; then each row takes its own again, as it does when it runs alone.
    with ExitStack() as locks:
        for row in rows:
            try:
                locks.enter_context(workspace.lock(f"run {row.name}"))
                ready.append((row, open_requested_data(row, request, workspace, execution)))
            except ReproError as error:
                result.failures[row.name] = str(error)
        usable = []
        for row, data in ready:
            # Weights that cannot be used concern their rows alone, which say so below.
            with suppress(ReproError):
                describe_backbone(row_backbone(row), workspace)
                usable.append((row, data))
        for shared in plan_passes(usable, workspace):
            names = ", ".join(backbone.name for backbone, _ in shared.backbones)
            reporter.line(f"{'together':<11} {len(shared.clips)} clips of {shared.dataset} for {names}")
            requests = open_stores(shared.backbones, shared.dataset, workspace)
            collection = dataset_collection(shared.dataset, shared.clips)
            # Packed by the rows, when all clips of one are there. A clip that fails is named again by the rows that read it.
            try:
                compute_features(
                    requests,
                    collection,
                    execution,
                    reporter,
                    lambda clips, requests=requests: report_costs(clips, requests, workspace, execution, reporter),  # type: ignore[misc]
                )
            except DiskError:
                raise
            except ReproError as error:
                reporter.warn(f"{names} together: {error}; each row continues by itself")
    for row, _ in ready:
        try:
            result.records[row.name] = run_row(row, request, workspace, execution, compute, reporter)
        except DiskError:
            raise
        except ReproError as error:
            result.failures[row.name] = str(error)
    return result


def plan_passes(rows: Sequence[tuple[Row, RowData]], workspace: Workspace) -> Iterator[SharedPass]:
    """Yield the passes over clips that several backbones need; clips that one backbone needs are left to its rows.

    Clips are grouped by the backbones that need them, so that no backbone computes a clip that no row of it reads.
    """
    needs: dict[str, dict[str, _Need]] = {}
    for row, data in rows:
        backbone = describe_backbone(row_backbone(row), workspace)
        # Rows may change a backbone's config: what has another identity is another backbone, whatever its name.
        key = content_key(backbone.identity())
        for part, split in data.splits.items():
            need = needs.setdefault(dataset_of(row, part), {}).setdefault(key, _Need(backbone))
            need.cells[row.features.name] = row.features
            need.clips |= {clip.id: clip for clip in split.clips}
    for dataset, by_key in needs.items():
        groups: dict[tuple[str, ...], list[Clip]] = {}
        clips_of_all = {clip.id: clip for need in by_key.values() for clip in need.clips.values()}
        for clip in clips_of_all.values():
            groups.setdefault(tuple(key for key, need in by_key.items() if clip.id in need.clips), []).append(clip)
        for keys, clips in groups.items():
            # One extraction knows backbones by name, so of several with one name the first takes part.
            named = {by_key[key].backbone.name: by_key[key] for key in reversed(keys)}
            if len(named) > 1:
                backbones = tuple((need.backbone, tuple(need.cells.values())) for need in named.values())
                yield SharedPass(dataset, backbones, tuple(clips))
