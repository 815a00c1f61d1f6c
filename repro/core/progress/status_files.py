"""Status files: what each command does in a workspace, for others to read. One file per process, in WORKSPACE/status/.

Processes of several machines may share the folder: each writes its own file under a new name, replaces it every few
seconds, and holds a lock next to it until it ends, so that a killed one is recognised.
"""

import json
import os
import re
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from repro.core import __version__
from repro.core.files import read_json_or_none
from repro.core.locks import NoLocksError, take_lock
from repro.core.progress.stages import Snapshot, Work, utc_now
from repro.core.reading import open_in_place

STATUS_FORMAT = 1
STATUS_INTERVAL = 2.0
"""Seconds between writes."""
LOST_AFTER = 120.0
"""Seconds without a write after which a process of another machine counts as lost: its lock may not be seen from here, and network
disks show changes late."""
KEPT_STATUSES = 50
"""Files of ended processes that are kept."""


class StatusFile:
    """The status file of this process, which begins with the first stage: a mistake in a command leaves no files.

    Writing never raises: a disk that is full must not end the work that is described.

    Args:
        folder: The workspace's folder of status files.
        work: What is described.
        device: Where networks compute.
        job: The scheduler's name of this process.
    """

    def __init__(self, folder: Path, work: Work, device: str = "", job: str = "") -> None:
        self.work, self.device, self.job, self.problem = work, device, job, ""
        self._host, self._started = os.uname().nodename, utc_now()
        self._is_open, self._last, self._lock = False, 0.0, -1
        # A display writes from a thread of its own, which may be writing when the work ends.
        self._writing, self._has_ended = threading.Lock(), False
        # Not the process id: containers on one machine may have the same.
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{work.what[:60]}-{self._host[:60]}").strip("-.")
        self.path = folder / f"{name}-{secrets.token_hex(4)}.json"

    def write_if_due(self) -> None:
        """Write how far the work is, unless it was written less than STATUS_INTERVAL ago."""
        with self._writing:
            if not self._has_ended and time.monotonic() - self._last >= STATUS_INTERVAL and self._is_started():
                self._write("running", "")

    def end(self, state: str, message: str) -> None:
        """Write the last state, "done", "failed" or "interrupted", and free the lock."""
        with self._writing:
            self._has_ended = True
            if self._is_started():
                self._write(state, message)
            with suppress(OSError):
                lock_path(self.path).unlink(missing_ok=True)
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _is_started(self) -> bool:
        """Whether a stage has started; makes the folder and takes the lock when the first one has."""
        if not self._is_open and any(one.started is not None for one in self.work.stages):
            self._is_open = True
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._take_lock()
                remove_old_statuses(self.path.parent)
            except OSError as error:
                self._note_problem(error)
        return self._is_open

    def _take_lock(self) -> None:
        self._lock = open_in_place(lock_path(self.path), os.O_RDWR | os.O_CREAT)
        try:
            take_lock(self._lock, lock_path(self.path))
        except NoLocksError:  # others go by the time of the last write
            os.close(self._lock)
            self._lock = -1
            lock_path(self.path).unlink(missing_ok=True)

    def _write(self, state: str, message: str) -> None:
        self._last = time.monotonic()
        content = json.dumps(self._describe(state, message), indent=1, ensure_ascii=True)
        # Without fsync, which takes long on network disks: what a power cut leaves of it is of no use.
        partial = self.path.with_suffix(".partial")
        try:
            partial.write_text(content + "\n")
            partial.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            self._note_problem(error)

    def _note_problem(self, error: OSError) -> None:
        self.problem = self.problem or f"{self.path.parent}: {(error.strerror or str(error)).lower()}"

    def _describe(self, state: str, message: str) -> dict[str, Any]:
        return {
            "format": STATUS_FORMAT,
            "made_by": f"actiondiff-repro {__version__}",
            "command": _as_unicode(self.work.what),
            "state": state,
            "message": _as_unicode(message),
            "host": self._host,
            "pid": os.getpid(),
            "device": self.device,
            "job": self.job,
            "started": self._started,
            "updated": utc_now(),
            "warnings": self.work.warnings,
            "stages": [describe_stage(one) for one in self.work.take_snapshots()],
        }


def describe_stage(one: Snapshot) -> dict[str, Any]:
    """Return a stage as status files state it."""
    return {
        "name": one.name,
        "about": _as_unicode(one.about),
        "state": one.state,
        "activity": _as_unicode(one.part),
        "unit": one.unit,
        "done": one.done,
        "total": one.total,
        "failed": one.measures.failed,
        "windows": one.measures.windows,
        "windows_per_second": _rounded(one.windows_per_second, 3),
        "waiting": {what: round(share, 3) for what, share in one.measures.waiting.items()},
        "seconds": round(one.seconds, 1),
        "seconds_left": _rounded(one.seconds_left, 0),
    }


def _as_unicode(text: str) -> str:
    """Escape what a file's name may have and JSON may not: bytes that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def lock_path(path: Path) -> Path:
    """Return the lock that the writer of a status file holds."""
    return path.with_name(f".{path.name}.lock")


def remove_old_statuses(folder: Path) -> None:
    """Delete the status files of processes that have ended, except the latest KEPT_STATUSES, and what killed ones had not finished writing."""
    for partial in folder.glob("*.partial"):
        path = partial.with_suffix(".json")
        if time.time() - _modified(partial) > LOST_AFTER and is_lost(path, host=""):
            with suppress(OSError):
                partial.unlink(missing_ok=True)
                if not path.exists():
                    lock_path(path).unlink(missing_ok=True)
    # The latest first; what runs is kept, however old its file.
    files = sorted(folder.glob("*.json"), key=_modified, reverse=True)
    for path in files[KEPT_STATUSES:]:
        status = read_json_or_none(path)
        if not isinstance(status, dict) or status.get("state") != "running" or is_lost(path, str(status.get("host"))):
            with suppress(OSError):
                path.unlink(missing_ok=True)
                lock_path(path).unlink(missing_ok=True)
                path.with_suffix(".partial").unlink(missing_ok=True)


def _modified(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def is_lost(path: Path, host: str) -> bool:
    """Whether the process that wrote `path` on `host`, as running, has ended without saying so."""
    try:
        # Opened for writing: NFS needs that for a lock.
        lock = os.open(lock_path(path), os.O_RDWR)
        try:
            if not take_lock(lock, path):
                return False
            if host == os.uname().nodename:
                return True
        finally:
            os.close(lock)
    except (OSError, NoLocksError):
        pass
    return time.time() - _modified(path) > LOST_AFTER
