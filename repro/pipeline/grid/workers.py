"""Train the readouts of a grid cell by cell, in this process or in worker processes.

Each readout is its own run: a killed grid keeps the finished runs and resumes the unfinished ones.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from repro.backbones.config import Cell
from repro.core.console import QuietReporter
from repro.core.errors import ReproError
from repro.core.workspace import Workspace
from repro.pipeline.row_data import ReadoutInputs
from repro.pipeline.runs.plan import PlannedRun, plan_runs
from repro.pipeline.runs.train import train_runs
from repro.readout.compute import Compute
from repro.readout.recipe import Protocol
from repro.video.workers import WorkerLostError, WorkerPool, WorkFunction


@dataclass(frozen=True, slots=True)
class CellsJob:
    """Readouts of some cells under one protocol, which are loaded at once and can be trained together."""

    seeds: Mapping[Cell, tuple[int, ...]]
    """Of each cell, those to train."""
    protocol: Protocol
    compute: Compute
    all_predictions: bool = False
    """Whether cells keep scores of every clip also if others are better."""


def inputs_at(inputs: ReadoutInputs, cell: Cell) -> ReadoutInputs:
    """Return `inputs` of the same row, read at another cell."""
    return replace(inputs, row=inputs.row.model_copy(update={"features": cell}))


MOST_RUNS_ON_GPU = 8
"""Runs of one job on a GPU, unless asked: the timesteps of a layer; the features of all their cells are in memory."""


def group_cells(
    missing: Mapping[Cell, tuple[int, ...]], protocol: Protocol, compute: Compute, *, all_predictions: bool = False
) -> list[CellsJob]:
    """Divide the cells with missing runs into jobs; cells of a layer have one width, so they can be trained together."""
    most = compute.together or (MOST_RUNS_ON_GPU if compute.device.startswith("cuda") else 1)
    jobs: list[CellsJob] = []
    for layer in dict.fromkeys(cell.layer for cell in missing):
        # Layers have different widths, and heads of one stack have one.
        cells = [cell for cell in missing if cell.layer == layer and missing[cell]]
        while cells:
            # At least one cell, with all its seeds: its features are loaded once.
            some = max(1, most // len(missing[cells[0]]))
            jobs.append(CellsJob({cell: missing[cell] for cell in cells[:some]}, protocol, compute, all_predictions))
            cells = cells[some:]
    return jobs


def train_cells(
    inputs: ReadoutInputs,
    jobs: Sequence[CellsJob],
    workspace: Workspace,
    workers: int,
    after: Callable[[CellsJob, Mapping[Cell, str]], None],
    step: Callable[[CellsJob], None],
) -> None:
    """Train the readouts of every job. If this process ends, so do its workers; runs that they finished are kept.

    Args:
        inputs: Features of all cells.
        jobs: From group_cells.
        workspace: Where runs are stored.
        workers: Number of worker processes; with 1, everything runs in this process.
        after: Called after each job with the reason why each cell failed that did.
        step: Called after each epoch of a job.
    """
    if workers == 1:
        for job in jobs:
            after(job, _train_job(inputs, job, workspace, lambda job=job: step(job)))  # type: ignore[misc]
        return
    # Workers open the features themselves from these inputs; sending them would copy gigabytes through a pipe.
    with WorkerPool[CellsJob](
        prepare_readouts, (inputs, workspace), name="readout", size=min(workers, len(jobs))
    ) as pool:
        for job, answer in pool.run(deque(jobs)):
            # A worker that dies, as one killed for its memory does, costs its job alone.
            if isinstance(answer, WorkerLostError):
                after(job, dict.fromkeys(job.seeds, str(answer)))
            elif not answer.is_last:
                step(job)
            else:
                after(job, answer.value)


def prepare_readouts(inputs: ReadoutInputs, workspace: Workspace) -> WorkFunction:
    """Return what a worker process does with a job. Called once in each."""
    return lambda job, send: _train_job(inputs, job, workspace, lambda: send(True))


def _train_job(inputs: ReadoutInputs, job: CellsJob, workspace: Workspace, step: Callable[[], None]) -> dict[Cell, str]:
    """Run one job, and call `step` after each epoch; returns why each cell failed that did."""
    # Errors of a user's data or settings concern one cell, and the others continue. Other exceptions are bugs: they end the grid.
    runs = [
        # The row's own cell is the run that `repro ROW` makes, and the one that claims and scores by class are of.
        PlannedRun(plan, seed, workspace, cell != inputs.row.features, job.all_predictions)
        for cell, seeds in job.seeds.items()
        for plan in [plan_runs(inputs_at(inputs, cell), job.protocol, job.compute)]
        for seed in seeds
    ]
    # Quiet: several workers would write over each other's lines; the caller reports cells.
    outcomes = train_runs(runs, QuietReporter(to_stderr=True, step=step))
    pairs = zip(runs, outcomes, strict=True)
    return {run.plan.inputs.row.features: str(why) for run, why in pairs if isinstance(why, ReproError)}
