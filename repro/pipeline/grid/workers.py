"""The readouts of a grid, cell by cell, here or in worker processes. Each is a run of its own, whole or to be gone on with."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait

from repro.backbones.config import Cell
from repro.core.console import Quiet
from repro.core.errors import ReproError
from repro.core.workspace import Workspace
from repro.pipeline.run_readout import Source
from repro.readout.compute import Compute
from repro.readout.recipe import Protocol
from repro.video.decoders import Worker


@dataclass(frozen=True, slots=True)
class Job:
    """One cell's readouts under one protocol."""

    cell: Cell
    protocol: Protocol
    compute: Compute
    seeds: tuple[int, ...]


def of_cell(source: Source, cell: Cell) -> Source:
    """`source`, read at another cell."""
    return replace(source, row=source.row.model_copy(update={"features": cell}))


def read_out_cells(
    source: Source, jobs: Sequence[Job], workspace: Workspace, workers: int, after: Callable[[Job, str], None]
) -> None:
    """Do every job, in this process or in `workers` others; `after` is told of each, with why it failed or "".

    What ends this process, an interrupt too, ends the workers; what they have finished stays.
    """
    if workers == 1:
        for job in jobs:
            after(job, _do(source, job, workspace))
        return
    waiting, pool = deque(jobs), _Pool(source, workspace)
    try:
        for _ in range(min(workers, len(jobs))):
            pool.start(waiting.popleft())
        while pool.busy:
            for worker in pool.ready():
                job, failure, alive = pool.ended(worker)
                if waiting and alive:
                    pool.give(worker, waiting.popleft())
                else:
                    pool.end(worker)
                    if waiting:
                        pool.start(waiting.popleft())
                after(job, failure)
    finally:
        pool.kill()


class _Pool:
    """Workers, each at one job."""

    def __init__(self, source: Source, workspace: Workspace) -> None:
        self.source, self.workspace = source, workspace
        self.busy: dict[Worker, Job] = {}

    def start(self, job: Job) -> None:
        worker = Worker(_serve)
        self.busy[worker] = job
        with suppress(OSError):  # it has died already: ended() finds that out
            worker.send(self.source, self.workspace)
        self.give(worker, job)

    def give(self, worker: Worker, job: Job) -> None:
        self.busy[worker] = job
        with suppress(OSError):
            worker.send(job)

    def ready(self) -> list[Worker]:
        pipes = wait([worker.pipe for worker in self.busy])
        return [worker for worker in self.busy if worker.pipe in pipes]

    def ended(self, worker: Worker) -> tuple[Job, str, bool]:
        """The job a worker was at, why it failed or "", and whether the worker lives."""
        try:
            return self.busy[worker], worker.pipe.recv(), True
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode
            why = "it was killed: for want of memory?" if code == -9 else f"exit code {code}"
            return self.busy[worker], f"its process died ({why})", False

    def end(self, worker: Worker) -> None:
        del self.busy[worker]
        worker.kill()

    def kill(self) -> None:
        for worker in [*self.busy]:
            self.end(worker)


def _serve(pipe: Connection) -> None:
    """A worker's life: a source, then jobs, until the pipe closes."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)  # killed, the parent closed no pipe, and its successor would do this very job beside us

    threading.Thread(target=end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):
        source, workspace = pipe.recv()
        while True:
            (job,) = pipe.recv()
            pipe.send(_do(source, job, workspace))


def _do(source: Source, job: Job, workspace: Workspace) -> str:
    """ "" where the job's runs are there now; else why not. A defect of this project is raised."""
    import torch

    from repro.pipeline.run_readout import read_out

    try:
        read_out(of_cell(source, job.cell), job.seeds, workspace, Quiet(to_stderr=True), job.protocol, job.compute)
    except ReproError as error:
        return str(error)
    except torch.OutOfMemoryError as error:
        return f"the GPU's memory is full ({str(error).splitlines()[0]}): fewer --jobs leave each more of it"
    return ""
