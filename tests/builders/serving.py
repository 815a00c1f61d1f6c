"""Workers that hang or die where decord reads, for tests of the audit. In a module of its own, as each process imports it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.video.probe import read_contents
from repro.video.workers import Send, Work


def _prepare_with(act: Callable[[], object]) -> Work:
    def probe(job: Any, send: Send) -> object:
        if job.reader == "decord":
            act()
        return read_contents(job.path, job.reader, lambda: send(None))

    return probe


def hang_in_decord(_: Path) -> Work:
    return _prepare_with(lambda: time.sleep(600))


def die_in_decord(_: Path) -> Work:
    return _prepare_with(lambda: os._exit(9))


def die(_: Path) -> Work:
    os._exit(9)
