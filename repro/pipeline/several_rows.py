"""Several rows in one command: each clip is decoded once for all their backbones that sample it alike, and what backbones share
is computed once. Readouts follow row by row."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.disk import DiskError
from repro.core.errors import ReproError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features.collection import dataset_collection
from repro.features.store import FeatureStore
from repro.pipeline.extract import compute_features, name_stage, open_stores, report_costs
from repro.pipeline.passes import UnstoredCell, plan_passes
from repro.pipeline.row import RowRequest, list_stages, open_requested_data, run_row
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
        unstored: list[UnstoredCell] = []
        clips: dict[tuple[str, str], Clip] = {}
        for row, data in ready:
            clips |= {(dataset_of(row, part), c.id): c for part, split in data.splits.items() for c in split.clips}
            # Weights that cannot be used concern their rows alone, which say so below.
            with suppress(ReproError):
                unstored += list_unstored_cells(row, data, workspace)
        # What is computed for one row alone is left to it.
        passes = [one for one in plan_passes(unstored) if one.is_shared]
        reporter.expect(*(name_stage(one.dataset, [config.name for config, _ in one.backbones]) for one in passes))
        for row, data in ready:
            reporter.expect(*list_stages(row, data, request.seeds), group=row.name)
        for shared in passes:
            names = ", ".join(config.name for config, _ in shared.backbones)
            reporter.line(f"{'together':<11} {len(shared.clips)} clips of {shared.dataset} for {names}")
            backbones = [(describe_backbone(config, workspace), cells) for config, cells in shared.backbones]
            requests = open_stores(backbones, shared.dataset, workspace)
            collection = dataset_collection(shared.dataset, [clips[shared.dataset, clip] for clip in shared.clips])
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
            reporter.skip(row.name)
    return result


def list_unstored_cells(row: Row, data: RowData, workspace: Workspace) -> list[UnstoredCell]:
    """Return the clips of a row whose features are not stored.

    Stored ones count whatever their video is now: a clip whose video changed since is left to its row, which compares.

    Raises:
        ReproError: the row's weights cannot be used.
    """
    backbone = describe_backbone(row_backbone(row), workspace)
    clips: dict[str, set[str]] = {}
    for part, split in data.splits.items():
        clips.setdefault(dataset_of(row, part), set()).update(clip.id for clip in split.clips)
    unstored = []
    for dataset, ids in clips.items():
        store = FeatureStore.locate(workspace, backbone.name, backbone.identity(), dataset)
        missing = ids - store.stored_clips(row.features.name)
        unstored.append(UnstoredCell(dataset, backbone.config, row.features, sorted(missing)))
    return unstored
