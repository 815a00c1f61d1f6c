"""Status files as others read them."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from repro.core.progress.stages import Measures, Snapshot, StageState
from repro.core.progress.status_files import is_lost
from repro.core.reading import read_bytes


class StageStatus(BaseModel):
    """A stage; done and total are of the activity that runs, or of the last one with items."""

    name: str
    about: str
    state: StageState
    activity: str
    unit: str
    done: int
    total: int | None
    failed: int
    windows: int
    windows_per_second: float | None = Field(description="of the last minutes; null before enough is measured")
    waiting: dict[str, float] = Field(
        description="shares of the time that were spent waiting, from 0 to 1, by what for"
    )
    seconds: float
    seconds_left: float | None = Field(
        description="of the activity, at the speed of this run; null before enough is measured"
    )

    def as_snapshot(self) -> Snapshot:
        """Return the stage as it was when the file was written."""
        return Snapshot(
            self.name,
            self.about,
            self.state,
            part=self.activity,
            unit=self.unit,
            done=self.done,
            total=self.total,
            measures=Measures(self.windows, self.failed, self.waiting),
            seconds=self.seconds,
            windows_per_second=self.windows_per_second,
            seconds_left=self.seconds_left,
        )


class Status(BaseModel):
    """What a process does: WORKSPACE/status/*.json, written every 2 seconds while it runs.

    A process that was killed leaves "running" in its file: the lock next to the file is free then, and `updated` is old. `repro status`
    shows it as "lost".
    """

    format: Literal[1]
    made_by: str
    command: str
    state: Literal["running", "done", "failed", "interrupted", "lost"]
    message: str = Field(description="why it failed")
    host: str
    pid: int
    device: str
    job: str = Field(description="the SLURM job, as 1234 or 1234_7; empty if it is part of none")
    started: str = Field(description="UTC, ISO 8601")
    updated: str
    warnings: int
    stages: list[StageStatus]


def read_statuses(folder: Path) -> list[Status]:
    """Read every status file of a workspace, the latest first. A process that ended without saying so has the state "lost"."""
    found = []
    for path in folder.glob("*.json"):
        try:
            status = Status.model_validate_json(read_bytes(path))
        except (OSError, ValidationError):  # removed meanwhile, damaged or of another version: others' are shown
            continue
        if status.state == "running" and is_lost(path, status.host):
            status.state = "lost"
        found.append(status)
    return sorted(found, key=lambda status: status.updated, reverse=True)
