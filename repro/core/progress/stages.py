"""Stages of long work: which are done, which runs and how far it is, and which are to come. Prints and writes nothing."""

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, Protocol, runtime_checkable

from repro.core.progress.rate import RateMeter

StageState = Literal["to come", "running", "done", "failed", "interrupted", "skipped"]
StageName = tuple[str, str]
"""What is done and of what, as ("extract", "hmdb51, svd_xt")."""


@runtime_checkable
class WorkObserver(Protocol):
    """Keeps others informed of work (status_files.py)."""

    problem: str
    """Why it cannot; empty if it can."""

    def write_if_due(self) -> None: ...

    def end(self, state: str, message: str) -> None: ...


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Measures:
    """What a stage counts next to its items."""

    windows: int = 0
    failed: int = 0
    """Items that failed."""
    waiting: Mapping[str, float] = field(default_factory=dict)
    """Shares of the time that were spent waiting, from 0 to 1, by what for."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stage at one moment."""

    name: str
    about: str
    state: StageState
    part: str
    """What of it runs, if it has several parts; done and total are of this part."""
    unit: str
    """Of done and total; "bytes" are bytes."""
    done: int
    total: int | None
    """None: not known."""
    measures: Measures
    seconds: float
    """Since it started."""
    rate: float | None = None
    """Items per second; None before enough is measured, as for the next two."""
    windows_per_second: float | None = None
    seconds_left: float | None = None
    """Of the part that runs."""
    note: str = ""


class Part:
    """A part of a stage with a number of items, which are done one after the other.

    Args:
        what: What is done.
        total: Number of items; None if it is not known.
        unit: What an item is.
        sizes: Relative work of each item, in the order in which they are done [default: all are equal].
        measure: Returns what is counted next to items. Called from another thread, up to once a second.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        sizes: Sequence[float] = (),
        measure: Callable[[], Measures] = Measures,
    ) -> None:
        self.what, self.total, self.unit, self.measure = what, total, unit, measure
        self.done, self.note = 0, ""
        # Sums of sizes, so that a long clip counts for more than a short one in the time left.
        self._work = [0.0, *accumulate(sizes)]
        self._items, self._windows = RateMeter(), RateMeter()

    def advance(self, note: str = "") -> None:
        """Note that an item is done."""
        self.done, self.note = self.done + 1, note
        self._items.observe(self._sum_work(self.done), time.monotonic())

    def reach(self, done: int, total: int | None) -> None:
        """Note that `done` of `total` items are done; fewer than before if the work starts again."""
        if done < self.done:
            self._items = RateMeter()
        self.done, self.total = done, total
        self._items.observe(done, time.monotonic())

    def take_snapshot(self, stage: "Stage", now: float) -> Snapshot:
        measures = self.measure()
        self._windows.observe(measures.windows, now)
        left = None if self.total is None else self._items.estimate_left(self._sum_work(self.total), now)
        return Snapshot(
            stage.name,
            stage.about,
            stage.state,
            part=self.what,
            unit=self.unit,
            done=self.done,
            total=self.total,
            measures=measures,
            seconds=stage.count_seconds(now),
            rate=self._items.measure_rate(now) if len(self._work) == 1 else None,
            windows_per_second=self._windows.measure_rate(now),
            seconds_left=left,
            note=self.note,
        )

    def _sum_work(self, items: int) -> float:
        return float(items) if len(self._work) == 1 else self._work[min(items, len(self._work) - 1)]


@dataclass(eq=False)
class Stage:
    """A stage. Its parts follow one another; the last one is shown."""

    name: str
    about: str = ""
    group: str = ""
    """Stages of one row."""
    state: StageState = "to come"
    part: Part | None = None
    last: Snapshot | None = None
    """Of the last part that had items."""
    started: float | None = None
    """Monotonic."""
    ended: float | None = None

    def count_seconds(self, now: float) -> float:
        """Return how long it has been running, or ran."""
        return 0.0 if self.started is None else (self.ended or now) - self.started

    def take_snapshot(self, now: float) -> Snapshot:
        """Return how far it is."""
        if self.part is not None:
            return self.part.take_snapshot(self, now)
        counted = self.last if self.state not in ("to come", "running") else None
        return Snapshot(
            self.name,
            self.about,
            self.state,
            part="",
            unit=counted.unit if counted else "",
            done=counted.done if counted else 0,
            total=counted.total if counted else None,
            measures=counted.measures if counted else Measures(),
            seconds=self.count_seconds(now),
        )

    def end_part(self, part: Part) -> None:
        """Note that a part has ended, and what it counted."""
        self.part = None
        if part.total is not None:
            self.last = part.take_snapshot(self, time.monotonic())


@dataclass
class Work:
    """The work of one command."""

    what: str
    stages: list[Stage] = field(default_factory=list)
    failure: str = ""
    """Why it is not done, of a command that ends with some of its work failed."""
    warnings: int = 0
    started: float = field(default_factory=time.monotonic)

    def expect(self, names: Sequence[StageName], group: str = "") -> None:
        """Announce stages to come, in order. Those of a group that was announced before are not announced again."""
        if not group or all(stage.group != group for stage in self.stages):
            self.stages += [Stage(*name, group=group) for name in names]

    def skip(self, group: str) -> None:
        """Give up the stages of a group that are still to come."""
        for stage in self.stages:
            if stage.group == group and stage.state == "to come":
                stage.state = "skipped"

    def start(self, name: str, about: str) -> Stage:
        """Start a stage: the first of this name that is to come, else one that was not announced."""
        matching = (s for s in self.stages if (s.name, s.about, s.state) == (name, about, "to come"))
        # By name and subject: two data sets have extractions of one name.
        stage = next(matching, None)
        if stage is None:
            stage = Stage(name, about)
            to_come = (index for index, one in enumerate(self.stages) if one.state == "to come")
            self.stages.insert(next(to_come, len(self.stages)), stage)
        stage.state, stage.started = "running", time.monotonic()
        return stage

    @property
    def running(self) -> Stage | None:
        """The stage that runs; None between two."""
        return next((stage for stage in self.stages if stage.state == "running"), None)

    def take_snapshots(self) -> list[Snapshot]:
        """Return how far every stage is."""
        now = time.monotonic()
        return [stage.take_snapshot(now) for stage in tuple(self.stages)]
