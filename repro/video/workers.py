"""Worker processes: one pool for decoding, for probing clips and for the cells of a grid.

If a worker dies or hangs, only its job is lost: the worker is replaced, and the caller learns why. Workers end with their
parent, however that ends.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from types import ModuleType
from typing import Any, Generic, TypeVar

from repro.core.stopping import STOP_SIGNALS

JobT = TypeVar("JobT")
Send = Callable[[object], None]
"""Sends a part of the answer, or None as a sign of life, while the job is still running."""
WorkFunction = Callable[[Any, Send], object]
"""Does one job in the worker and returns the last part of the answer."""

CONTEXT: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
"""Workers are spawned: a forked process would inherit the locks of threads that do not exist in it (torch, CUDA, FFmpeg)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of a worker's answer to one job."""

    value: Any
    is_last: bool


class WorkerLostError(Exception):
    """A worker died or took too long. The message says which, without naming the job."""


class _Worker:
    """One process that takes jobs from its pipe until it is killed."""

    def __init__(self, prepare: Callable[..., WorkFunction], arguments: tuple[object, ...], name: str) -> None:
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, prepare), daemon=True, name=name)
        # If the first start() launched the tracker, it would unblock the interrupts that are blocked below.
        resource_tracker.ensure_running()
        # A child inherits the mask. Ctrl-C reaches all processes of a terminal, a scheduler's signal all of a job: with
        # these blocked, a worker finishes no half-interrupted write, and no clip is blamed; the parent kills it.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            with nullcontext() if prepare.__module__ == "__main__" else _hidden_main_module():
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        # Only the child may hold this end: otherwise its death would not close the pipe.
        theirs.close()
        self.send(arguments)

    def send(self, message: object) -> None:
        with suppress(OSError):  # it has died: receive() reports that
            self.pipe.send(message)

    def receive(self) -> Answer:
        try:
            return Answer(*self.pipe.recv())
        except (EOFError, OSError) as error:
            self.process.join()
            code = self.process.exitcode
            reason = "killed, possibly for lack of memory" if code == -signal.SIGKILL else f"exit code {code}"
            raise WorkerLostError(f"its process died ({reason})") from error

    def kill(self) -> None:
        # Not terminate(): decord can hang while it holds the interpreter's lock, and then no signal handler runs.
        self.process.kill()
        self.process.join()
        self.pipe.close()


class WorkerPool(Generic[JobT]):
    """A fixed number of places for worker processes; use it in a `with`. Processes are started when they get a job.

    Args:
        prepare: Called once in each worker with `arguments`; returns the function that does its jobs. A function of a
            module, as it is passed by name.
        arguments: Sent to each worker once.
        name: What the workers do; the name of their processes.
        size: How many jobs run at once.
    """

    def __init__(
        self, prepare: Callable[..., WorkFunction], arguments: tuple[object, ...], *, name: str, size: int
    ) -> None:
        self.size = size
        self._prepare, self._arguments, self._name = prepare, arguments, name
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> "WorkerPool[JobT]":
        return self

    def __exit__(self, *_: object) -> None:
        for place in [*self._workers]:
            self._end(place)

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the workers that have been started."""
        return [worker.process.pid or 0 for worker in self._workers.values()]

    def send(self, place: int, job: JobT) -> None:
        """Give a job to the worker at `place` (0 to size - 1)."""
        if place in self._workers and not self._workers[place].process.is_alive():
            self._end(place)  # it died between two jobs, which concerns neither
        if place not in self._workers:
            self._workers[place] = _Worker(self._prepare, self._arguments, self._name)
        self._workers[place].send(job)

    def receive(self, place: int, time_limit: float) -> Answer:
        """Wait for the next part of the answer of the worker at `place`.

        Raises:
            WorkerLostError: it died, or sent nothing for `time_limit` seconds. The next job starts another process.
        """
        worker = self._workers[place]
        try:
            if not worker.pipe.poll(time_limit):
                raise WorkerLostError(f"no frame within {time_limit:g} s")
            return worker.receive()
        except WorkerLostError:
            self._end(place)
            raise

    def run(
        self, jobs: deque[JobT], time_limit: float | None = None
    ) -> Iterator[tuple[JobT, Answer | WorkerLostError]]:
        """Do all jobs, each by the next free worker. Jobs added to `jobs` meanwhile are done as well.

        Args:
            jobs: Emptied from the left.
            time_limit: Seconds without a sign of life after which a worker is killed.

        Yields:
            A job and a part of its answer; or a job and why its worker was lost. Signs of life are not yielded.
        """
        # The first places first, from the end of the list: few jobs start few processes.
        free = list(range(self.size))[::-1]
        running: dict[int, JobT] = {}
        heard: dict[int, float] = {}
        while jobs or running:
            while jobs and free:
                place = free.pop()
                running[place], heard[place] = jobs.popleft(), time.monotonic()
                self.send(place, running[place])
            # Without a limit there is nothing to do until a worker sends something or dies, which closes its pipe.
            wait([self._workers[place].pipe for place in running], None if time_limit is None else 1.0)
            for place, job in [*running.items()]:
                answer: Answer | WorkerLostError
                try:
                    # Polled again: the caller may have taken long over the previous answer, and this worker sent one since.
                    if self._workers[place].pipe.poll():
                        answer = self._workers[place].receive()
                        heard[place] = time.monotonic()
                    elif time_limit is not None and time.monotonic() - heard[place] > time_limit:
                        raise WorkerLostError(f"no frame within {time_limit:g} s")
                    else:
                        continue
                except WorkerLostError as error:
                    answer = error
                    self._end(place)
                if isinstance(answer, Answer) and not answer.is_last:
                    if answer.value is not None:
                        yield job, answer
                    continue
                del running[place]
                yield job, answer
                free.append(place)
                if not jobs and place in self._workers:
                    self._end(place)  # so that the others have its memory

    def _end(self, place: int) -> None:
        self._workers.pop(place).kill()


@contextmanager
def _hidden_main_module() -> Iterator[None]:
    """Keep a process that is started from importing the caller's script.

    Spawned processes do, and would run a script of two lines, without `if __name__ == "__main__"`, once more.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(pipe: Connection, prepare: Callable[..., WorkFunction]) -> None:
    """Do jobs until the pipe closes, which means that the parent is ending this process."""
    _end_with_parent()
    try:
        work = prepare(*pipe.recv())
        while True:
            job = pipe.recv()
            pipe.send((work(job, lambda value: pipe.send((value, False))), True))
    except (EOFError, ConnectionError):
        return


def _end_with_parent() -> None:
    """End this process when its parent ends, also when that is killed.

    A killed parent sends its workers nothing, and a worker in the middle of a long job does not read its pipe. It would continue
    and write the same files as the worker of a resumed run, at the same time.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)  # from a thread: sys.exit would end the thread alone

    threading.Thread(target=wait_for_parent, daemon=True).start()
