"""The log of a training: when it started, when each epoch ended, and what it took of the machine. No number depends on it.

runs/<row>/seed<seed>-<run>/training.jsonl   a line when a training starts or resumes, after each epoch, and if it fails

It is written while the training runs, and kept: MLflow shows a training by it before there is a record, and its true times
afterwards. Without it, as next to a record that was copied here alone, MLflow's times are estimates.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from repro.core.locks import NoLocksError, take_lock
from repro.core.reading import open_in_place, read_bytes
from repro.readout.recipe import Metric, Protocol, Recipe, TrainingPrecision
from repro.records.record import EpochRecord, FeaturesRecord, Provenance, Record, Share, SplitRecord
from repro.table.row import RowKind

MOST = 64_000_000
"""Bytes. A log has some hundred a line, and a line an epoch: a larger file is none."""


class StartedRun(Record):
    """What of a run record is known when its training starts. The fields are the record's."""

    run: str
    group: str
    grid: str
    row: str
    row_version: int
    kind: RowKind
    seed: int
    protocol: Protocol
    complete: bool
    metric: Metric
    recipe: Recipe
    features: FeaturesRecord
    train: SplitRecord
    test: SplitRecord
    held_out: SplitRecord | None
    manifests: dict[str, str]
    chance: dict[str, float]
    class_prior: dict[str, Share]
    constant: dict[str, Share]
    precision: TrainingPrecision
    made: Provenance
    """`at` is the time of the start."""


def _is_empty(value: object) -> bool:
    return not value


class _Line(Record):
    """A line of the log: what happened, at `at` milliseconds since 1970."""

    at: int
    token: str = Field(default="", exclude_if=_is_empty, pattern="^[0-9a-f]*$")
    started: StartedRun | None = Field(default=None, exclude_if=_is_empty)
    epoch: EpochRecord | None = Field(default=None, exclude_if=_is_empty)
    system: dict[str, float] = Field(default={}, exclude_if=_is_empty)
    failed: str = Field(default="", exclude_if=_is_empty)


@dataclass(frozen=True, slots=True)
class LoggedEpoch:
    """An epoch as the log has it."""

    at: int
    """When it was scored, in milliseconds since 1970."""
    result: EpochRecord
    system: Mapping[str, float]


@dataclass(slots=True)
class TrainingLog:
    """What a log says."""

    token: str = ""
    """Tells this training from others of the same run, in other workspaces."""
    start: int = 0
    """When the training first started, in milliseconds since 1970."""
    started: StartedRun | None = None
    """What it was started as, the last time."""
    epochs: dict[int, LoggedEpoch] = field(default_factory=dict)
    """By number. Of an epoch that was trained again after a kill, the last."""
    failed: str = ""
    """Why it failed; empty if it did not."""


class TrainingLogWriter:
    """Appends to a log. A disk that is full or gone costs its lines and not the training.

    Args:
        descriptor: Of the open file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_epoch(self, epoch: EpochRecord, system: Mapping[str, float]) -> None:
        """Log that an epoch is done."""
        self._write(_Line(at=now(), epoch=epoch, system=dict(system)))

    def write_failure(self, why: str) -> None:
        """Log that the training failed."""
        self._write(_Line(at=now(), failed=why))

    def write_start(self, token: str, started: StartedRun) -> None:
        """Log that the training starts or resumes."""
        self._write(_Line(at=now(), token=token, started=started))

    def _write(self, line: _Line) -> None:
        with suppress(OSError):
            # One call a line, so that a reader sees lines; after a new line, since a killed process may have left half of one.
            os.write(self._descriptor, f"\n{line.model_dump_json()}\n".encode())


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return round(1000 * time.time())


@contextmanager
def open_training_log(path: Path, started: StartedRun, *, resumes: bool) -> Iterator[TrainingLogWriter]:
    """Log a training and hold the log's lock: who finds it free knows that nobody trains.

    Args:
        path: The log; its folder exists.
        started: What the training is started as.
        resumes: Whether it resumes another process's training, whose log it continues.
    """
    found = load_training_log(path)
    try:
        descriptor = open_in_place(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    except OSError:  # the training says what is wrong with the disk when it writes what counts
        # Written to nowhere, so that the training need not know.
        descriptor = os.open(os.devnull, os.O_WRONLY)
    try:
        _take_log_lock(descriptor, path)
        if not resumes:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
        writer = TrainingLogWriter(descriptor)
        writer.write_start(found.token if found and found.token else secrets.token_hex(8), started)
        yield writer
    finally:
        # Not left to closing the file: a child process that was forked meanwhile holds it open too.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _take_log_lock(descriptor: int, path: Path) -> None:
    # The run's seed is locked, so that nobody holds this lock but a reader that tries it for a moment (is_training).
    with suppress(NoLocksError):
        for _ in range(100):
            if take_lock(descriptor, path):
                return
            time.sleep(0.01)


def load_training_log(path: Path) -> TrainingLog | None:
    """Read a log; None if there is none. Lines that are none, as the last one of a killed process, are left out."""
    try:
        if path.stat().st_size > MOST:
            return None
        text = read_bytes(path)
    except OSError:
        return None
    log = TrainingLog()
    for raw in text.splitlines():
        try:
            line = _Line.model_validate_json(raw)
        except ValidationError:
            continue
        if line.started is not None:
            log.token, log.started, log.failed = line.token, line.started, ""
            log.start = log.start or line.at
        elif line.epoch is not None:
            log.epochs[line.epoch.epoch] = LoggedEpoch(line.at, line.epoch, line.system)
        elif line.failed:
            log.failed = line.failed
    return log


def find_ended_logs(runs: Path) -> Iterator[TrainingLog]:
    """Yield the logs of trainings that ended without a record: killed or failed ones."""
    for path in sorted(runs.glob("*/seed*/training.jsonl")):
        # In this order: who trains writes the record first and frees the log then.
        if not is_training(path) and not path.with_name("record.json").exists():
            log = load_training_log(path)
            if log is not None and log.started is not None and log.token:
                yield log


def is_training(path: Path) -> bool:
    """Whether a process holds the log's lock, which it does while it trains."""
    try:
        # Opened for writing: NFS needs that for a lock.
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not take_lock(descriptor, path)
    except NoLocksError:
        return False
    finally:
        os.close(descriptor)
