"""Time that extractions spent: WORKSPACE/spent/, a JSON file for each, which no key and no feature depends on.

Rates (rates.py) are the newest measured speeds, for plans; these files add up to what the features of a store took.
"""

import datetime
import json
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from repro.core.config import Config
from repro.core.disk import DiskError
from repro.core.files import write_json
from repro.core.reading import read_bytes
from repro.core.workspace import Workspace

SPENT_INTERVAL = 60.0
"""Seconds between writes: what a killed extraction loses of its time at most."""


class Spent(Config):
    """What one extraction took. The fields are the keys in its file."""

    format: Literal[1] = 1
    at: str
    """When it started: UTC, ISO 8601."""
    collection: str
    keys: dict[str, str]
    """Content keys of the stores, by backbone. Backbones that share work share the time."""
    device: str
    """Name of the device as its driver gives it."""
    windows: int = Field(ge=0)
    seconds: float = Field(ge=0)
    """Time spent on decoding and computing, without loading the weights. The device is occupied all of it."""
    waiting_seconds: dict[str, float]
    """Time of it that was spent waiting for the decoder and for the device."""


class SpentLog:
    """Writes what an extraction takes, while it runs and at its end.

    Args:
        folder: The workspace.
        collection: Name of the clips.
        keys: Content keys of the stores, by backbone.
        device: Name of the device.
    """

    def __init__(self, folder: Path, collection: str, keys: Mapping[str, str], device: str) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._about = {"at": at, "collection": collection, "keys": dict(keys), "device": device}
        self._path = folder / "spent" / f"{at[:19].replace(':', '')}-{secrets.token_hex(4)}.json"
        self._last = time.monotonic()

    def save(self, windows: int, seconds: float, waiting: Mapping[str, float], *, at_end: bool = False) -> None:
        """Write what it took so far, if SPENT_INTERVAL has passed or it is at its end."""
        if not windows or not (at_end or time.monotonic() - self._last >= SPENT_INTERVAL):
            return
        self._last = time.monotonic()
        rounded = {what: round(value, 3) for what, value in waiting.items()}
        spent = Spent.model_validate(
            {**self._about, "windows": windows, "seconds": round(seconds, 3), "waiting_seconds": rounded}
        )
        try:
            write_json(self._path, json.loads(spent.model_dump_json()))
        except (DiskError, OSError):  # the features themselves report a full disk
            return


def load_spent(workspace: Workspace, belongs: Callable[[str, str], bool] = lambda key, collection: True) -> list[Spent]:
    """Read what extractions took whose store `belongs` accepts by its key and collection; damaged files are left out."""
    found = []
    for path in sorted((workspace.root / "spent").glob("*.json")):
        try:
            spent = Spent.model_validate_json(read_bytes(path))
        except (OSError, ValidationError):
            continue
        if any(belongs(key, spent.collection) for key in spent.keys.values()):
            found.append(spent)
    return found
