"""The readouts of a grid, cell by cell, here or in worker processes. Each is a run of its own, whole or to be gone on with."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from repro.backbones.config import Cell
from repro.core.console import QuietReporter
from repro.core.errors import ReproError
from repro.core.workspace import Workspace
from repro.pipeline.run_readout import ReadoutInputs, run_readouts
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
    """`inputs` of the same row, read at another cell."""
    return replace(inputs, row=inputs.row.model_copy(update={"features": cell}))


def train_cells(
    inputs: ReadoutInputs,
    jobs: Sequence[CellJob],
    workspace: Workspace,
    workers: int,
    after: Callable[[CellJob, str], None],
) -> None:
    """Do every job, in this process or in `workers` others; `after` is told of each, with why it failed or "".

    What ends this process, an interrupt too, ends the workers; what they have finished stays.
    """
    if workers == 1:
        for job in jobs:
            after(job, _train_cell(inputs, job, workspace))
        return
    with WorkerPool[CellJob](
        prepare_readouts, (inputs, workspace), name="readout", size=min(workers, len(jobs))
    ) as pool:
        for job, answer in pool.run(deque(jobs)):
            after(job, str(answer) if isinstance(answer, WorkerLostError) else answer.value)


def prepare_readouts(inputs: ReadoutInputs, workspace: Workspace) -> Work:
    """Run once in each worker process."""
    return lambda job, _: _train_cell(inputs, job, workspace)


def _train_cell(inputs: ReadoutInputs, job: CellJob, workspace: Workspace) -> str:
    """ "" where the job's runs are there now; else why not. A defect of this project is raised."""
    try:
        run_readouts(
            inputs_at(inputs, job.cell), job.seeds, workspace, QuietReporter(to_stderr=True), job.protocol, job.compute
        )
    except ReproError as error:
        return str(error)
    except torch.OutOfMemoryError as error:
        return f"the GPU's memory is full ({str(error).splitlines()[0]}): fewer --jobs leave each more of it"
    return ""
