"""Probe workers that hang or die, for tests of the audit. A module of its own, because each worker process imports it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.video.probe import read_contents
from repro.video.workers import Send, WorkFunction


def hang_on_bad_clips(_: Path) -> WorkFunction:
    # Longer than any time limit: only killing the worker ends it, as with a decoder that hangs in C.
    return _probe_after(lambda: time.sleep(600))


def die_on_bad_clips(_: Path) -> WorkFunction:
    # _exit ends the process at once, as a crash in C does: no exception, no answer.
    return _probe_after(lambda: os._exit(9))


def die_at_start(_: Path) -> WorkFunction:
    os._exit(9)


def _probe_after(act: Callable[[], object]) -> WorkFunction:
    """Return a probe that calls `act` before it reads a clip whose name contains "bad"; it reads others normally."""

    def probe_clip(job: Any, send: Send) -> object:
        if "bad" in job.path.name:
            act()
        return read_contents(job.path, lambda: send(None))

    return probe_clip
