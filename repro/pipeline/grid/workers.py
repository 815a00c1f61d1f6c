"""Train the readouts of a grid cell by cell, in this process or in worker processes.

Each readout is its own run: a killed grid keeps the finished runs and resumes the unfinished ones.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from repro.backbones.config import Cell
from repro.core.console import QuietReporter
from repro.core.errors import ReproError
from repro.core.workspace import Workspace
from repro.pipeline.row_data import ReadoutInputs
from repro.pipeline.run_readout import run_readouts
from repro.readout.compute import Compute
from repro.readout.recipe import Protocol
from repro.video.workers import Work, WorkerLostError, WorkerPool


@dataclass(frozen=True, slots=True)
class CellJob:
    """One cell's readouts under one protocol."""

    cell: Cell
    protocol: Protocol
    compute: Compute
    seeds: tuple[int, ...]


def inputs_at(inputs: ReadoutInputs, cell: Cell) -> ReadoutInputs:
    """Return `inputs` of the same row, read at another cell."""
    return replace(inputs, row=inputs.row.model_copy(update={"features": cell}))


def train_cells(
    inputs: ReadoutInputs,
    jobs: Sequence[CellJob],
    workspace: Workspace,
    workers: int,
    after: Callable[[CellJob, str], None],
) -> None:
    """Train the readouts of every job. If this process ends, so do its workers; runs that they finished are kept.

    Args:
        inputs: Features of all cells.
        jobs: One per cell and protocol.
        workspace: Where runs are stored.
        workers: Number of worker processes; with 1, everything runs in this process.
        after: Called after each job with the reason why it failed, or an empty string.
    """
    if workers == 1:
        for job in jobs:
            after(job, _train_cell(inputs, job, workspace))
        return
    # Workers open the features themselves from these inputs; sending them would copy gigabytes through a pipe.
    with WorkerPool[CellJob](
        prepare_readouts, (inputs, workspace), name="readout", size=min(workers, len(jobs))
    ) as pool:
        for job, answer in pool.run(deque(jobs)):
            # A worker that dies, as one killed for its memory does, costs its job alone.
            after(job, str(answer) if isinstance(answer, WorkerLostError) else answer.value)


def prepare_readouts(inputs: ReadoutInputs, workspace: Workspace) -> Work:
    """Return what a worker process does with a job. Called once in each."""
    return lambda job, _: _train_cell(inputs, job, workspace)


def _train_cell(inputs: ReadoutInputs, job: CellJob, workspace: Workspace) -> str:
    """Run one job; returns why it failed, or an empty string."""
    # Errors of a user's data or settings concern one cell, and the others continue. Other exceptions are bugs: they end the grid.
    try:
        run_readouts(
            inputs_at(inputs, job.cell), job.seeds, workspace, QuietReporter(to_stderr=True), job.protocol, job.compute
        )
    except ReproError as error:
        return str(error)
    except torch.OutOfMemoryError as error:
        return f"the GPU's memory is full ({str(error).splitlines()[0]}): use fewer --jobs"
    return ""
