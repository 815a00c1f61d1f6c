"""A row's readout at every timestep and layer of its backbone.

One pass over a clip extracts the features of all cells. The readout of each cell is a run of its own in runs/<row>/, with the
key that it has anywhere: a killed grid resumes with the missing cells, and the row's own cell is the run that `repro ROW`
makes, if features are stored as float32 as the row's are. Stored as float16 they take half the disk and are those of
`repro extract --grid`, and their runs are other runs.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from repro.backbones.config import Cell
from repro.backbones.extractor import Execution
from repro.core.console import Reporter
from repro.core.errors import UsageError
from repro.core.files import write_bytes, write_json
from repro.core.locks import remove_partials
from repro.core.progress.stages import Measures, Part, StageName
from repro.core.workspace import Workspace
from repro.features.store import StoredAs
from repro.judge.grid_selection import choose_grid_part, grid_cells
from repro.judge.rescoring import read_run_predictions
from repro.pipeline.grid.report import GridResult, describe_seeds, grid_as_csv, grid_as_json
from repro.pipeline.grid.workers import CellsJob, group_cells, inputs_at, train_cells
from repro.pipeline.row import RowFeatures, extract_row, list_stages
from repro.pipeline.row_data import ReadoutInputs, open_row_data, split_records
from repro.pipeline.runs.plan import plan_runs
from repro.pipeline.runs.score import keep_scores
from repro.pipeline.runs.train import lock_seeds, read_record
from repro.readout.compute import Compute
from repro.readout.recipe import PROTOCOLS, Protocol
from repro.records import mlflow_view
from repro.records.record import RunRecord
from repro.table.extras import with_head
from repro.table.row import Row, SeedChoice


@dataclass(frozen=True, slots=True)
class GridRequest:
    """Which cells of a row's grid to run, and how."""

    timesteps: tuple[int, ...] | None = None
    layers: tuple[int, ...] | None = None
    """None: all of the grid's."""
    head: Literal["transformer", "linear"] | None = None
    """None: the row's."""
    protocols: tuple[Protocol, ...] = ("published",)
    seeds: SeedChoice = 1
    """Readouts of each cell."""
    stored_as: StoredAs = "float32"
    """Type of the stored features."""
    jobs: int = 1
    """Readouts trained at the same time, each in a process."""
    allow_missing: bool = False
    """Continue without missing clips; recorded."""
    all_predictions: bool = False
    """Keep scores of every clip in every requested cell, not in the row's own and the best so far alone."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of a row, and its requested cells."""

    row: Row
    """With the head that is trained."""
    complete: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    """The requested ones."""
    report: str
    """Name of its report files, which grids of another head or of other features do not overwrite."""


def plan_grid(row: Row, request: GridRequest) -> Grid:
    """Resolve a request to cells.

    Raises:
        UsageError: a backbone without a grid, a cell outside it, or a head without a recipe.
    """
    complete = grid_cells(row)
    if row.features not in complete:
        raise UsageError(
            f"row {row.name}: a grid has layers 1 to 13, and the row reads {row.features.name}: run `{row.command}` instead"
        )
    trained = row if request.head is None else with_head(row, request.head)
    head = "" if trained.readout.head == row.readout.head else f"-{trained.readout.head}"
    # A precision that was requested is among the row's changes; an extra's own config may have one as well.
    changed = row.changes.get("precision", "")
    computed = f"-in-{changed}" if changed else ""
    report = f"{row.name}-grid{head}{computed}{'-fp16' if request.stored_as == 'float16' else ''}"
    return Grid(trained, complete, choose_grid_part(complete, request.timesteps, request.layers), report)


def run_grid(
    row: Row, request: GridRequest, workspace: Workspace, execution: Execution, compute: Compute, reporter: Reporter
) -> tuple[GridResult, dict[str, str]]:
    """Extract features of all cells, train the cells that have no record, and write the report.

    Args:
        row: the row.
        request: cells, head, protocols, seeds and processes.
        workspace: where features, runs and reports are stored.
        execution: device, batch and decoding processes.
        compute: how readouts compute; without a thread count, the cores are divided among the processes.
        reporter: where progress is reported.

    Returns:
        The result, of this and earlier runs of the grid; and why each cell failed that did.

    Raises:
        MissingError: data, a checkpoint or clips are missing or damaged.
        UsageError: no such cell or head; another process runs the row.
    """
    grid = plan_grid(row, request)
    if compute.threads is None and request.jobs > 1:
        # Otherwise every process would start a thread per core, and they would wait for each other.
        compute = replace(compute, threads=max(1, len(os.sched_getaffinity(0)) // request.jobs))
    workspace.require_writable()
    # The lock of `repro ROW`: a grid trains that run too.
    with workspace.lock(f"run {row.name}"):
        data = open_row_data(
            grid.row, workspace, allow_missing=request.allow_missing, allow_damaged=execution.allow_damaged
        )
        data.warn_of_left_out(reporter)
        features = RowFeatures(grid.cells, request.stored_as)
        stages = list_stages(grid.row, data, request.seeds)[:-1]
        reporter.expect(*stages, _name_cell_readouts(grid))
        inputs = extract_row(grid.row, data, workspace, execution, reporter, features)
        cells = _CellReadouts(grid, request, inputs, compute, workspace, reporter)
        with (
            lock_seeds(row.name, grid.row.seeds.choose(request.seeds), workspace),
            reporter.run_stage(*_name_cell_readouts(grid)),
        ):
            failures = cells.train_missing()
            with reporter.run_part(Part("log to MLflow", None, "")):
                mlflow_view.log_runs(workspace, reporter)
            with reporter.run_part(Part("score runs", None, "")):
                keep_scores(row, workspace, reporter.warn)
        seeds = tuple(row.seeds.choose(request.seeds))
        result = GridResult(grid.row, grid.complete, seeds, cells.runs, request.stored_as, grid.report)
        # Also if cells failed: the report shows what is there, and the next run completes it.
        if result.runs:
            _write_report(result, workspace)
    return result, failures


@dataclass(slots=True)
class _CellReadouts:
    """The readouts of a grid's cells: which have records, and training those that do not."""

    grid: Grid
    request: GridRequest
    inputs: ReadoutInputs
    compute: Compute
    workspace: Workspace
    reporter: Reporter
    runs: dict[tuple[Protocol, int, str], RunRecord] = field(default_factory=dict)
    """Records by protocol, seed and cell."""

    def train_missing(self) -> dict[str, str]:
        """Train the requested cells that have no record; returns why each failed that did."""
        grid, request, reporter = self.grid, self.request, self.reporter
        seeds, splits = grid.row.seeds.choose(request.seeds), split_records(self.inputs)

        def find_records(protocol: Protocol, cell: Cell) -> tuple[int, ...]:
            """Read a cell's records into `runs`; returns the seeds without one, or without the predictions that are requested."""
            keep_scores = request.all_predictions and cell in grid.cells and protocol in request.protocols
            # The splits are the same for all cells: hashed once for up to 91 of them.
            plan = plan_runs(inputs_at(self.inputs, cell), protocol, self.compute, splits)
            missing = []
            for seed in seeds:
                record = self.runs.get((protocol, seed, cell.name))
                stored = plan.stored_run(seed, self.workspace)
                record = record or read_record(stored, reporter)
                if record is None or (keep_scores and not read_run_predictions(stored).by_epoch):
                    missing.append(seed)
                else:
                    self.runs[protocol, seed, cell.name] = record
                    remove_partials(stored.folder)
            return tuple(missing)

        # Also cells and protocols that are not requested: the report shows what earlier runs left.
        missing = {(p, cell.name): find_records(p, cell) for p in PROTOCOLS for cell in grid.complete}
        jobs = [
            job
            for protocol in request.protocols
            for job in group_cells(
                {cell: missing[protocol, cell.name] for cell in grid.cells},
                protocol,
                self.compute,
                all_predictions=request.all_predictions,
            )
        ]
        # The row's own cell first: published as good, it spares most others from being the best so far.
        jobs.sort(key=lambda job: grid.row.features not in job.seeds)
        failures: dict[str, str] = {}
        epochs = {id(job): grid.row.readout.epochs * sum(map(len, job.seeds.values())) for job in jobs}
        done: Counter[int] = Counter()
        part = Part("train", sum(epochs.values()), "epochs", measure=lambda: Measures(failed=len(failures)))
        with reporter.run_part(part):

            def count_epochs(job: CellsJob, number: int) -> None:
                done[id(job)] += number
                part.reach(done.total(), part.total)

            def finish_job(job: CellsJob, failed: Mapping[Cell, str]) -> None:
                for cell in job.seeds:
                    if cell in failed:
                        failures[f"{cell.name} ({job.protocol})"] = failed[cell]
                        reporter.warn(f"cell {cell.name}, {job.protocol} protocol: {failed[cell]}")
                    # Read back from disk, since a worker process may have written it.
                    find_records(job.protocol, cell)
                # Epochs of an earlier process, or of a cell that failed, were not counted.
                count_epochs(job, epochs[id(job)] - done[id(job)])

            train_cells(self.inputs, jobs, self.workspace, request.jobs, finish_job, lambda job: count_epochs(job, 1))
        requested = [(p, s, cell.name) for p in request.protocols for s in seeds for cell in grid.cells]
        reporter.stage(
            "readout",
            total=sum(run in self.runs for run in requested),
            reused=len(requested) - sum(len(some) for job in jobs for some in job.seeds.values()),
            made="trained",
            why=f"{grid.row.name}, {len(grid.cells)} of {len(grid.complete)} cells, {describe_seeds(seeds)}, "
            f"{' and '.join(request.protocols)} protocol",
            where=self.workspace.runs / grid.row.name,
        )
        return failures


def _name_cell_readouts(grid: Grid) -> StageName:
    return "readout", f"{grid.row.name}, {len(grid.cells)} cells"


def report_paths(result: GridResult, workspace: Workspace) -> list[Path]:
    """The report's JSON, CSV and heat map."""
    return [workspace.reports / f"{result.report}.{kind}" for kind in ("json", "csv", "svg")]


def _write_report(result: GridResult, workspace: Workspace) -> None:
    table, lines, figure = report_paths(result, workspace)
    write_json(table, grid_as_json(result))
    write_bytes(lines, grid_as_csv(result).encode())
    # Imported here: matplotlib creates its cache as it is imported, and a mistake in a command creates nothing.
    from repro.pipeline.grid.figure import render_svg

    write_bytes(figure, render_svg(result))
