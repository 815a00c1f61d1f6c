"""Measured speeds of extraction in this workspace, for `repro plan`: WORKSPACE/rates.json.

A rate belongs to one backbone (all that its features depend on), the cells computed and the device. A newer rate replaces an
older one, unless it covers far fewer windows: one repaired clip says less than the data set before it.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from repro.core.config import Config
from repro.core.errors import state_reason
from repro.core.files import set_aside, write_json
from repro.core.hashing import content_key
from repro.core.reading import read_bytes
from repro.core.workspace import Workspace

FEWEST_WINDOWS = 8
"""With fewer windows, one-time costs (first kernels, filling the decoders) would dominate the rate."""
FAR_FEWER = 10
"""A rate of this many times fewer windows than the stored one does not replace it."""

DeviceKind = Literal["cpu", "cuda"]


class Rate(Config):
    """One measured speed. The fields are the keys in rates.json."""

    backbone: str
    """The backbone's name, for readers of the file."""
    key: str
    """Content key of the backbone's identity, which includes its frame sampling and window length."""
    cells: tuple[str, ...]
    """Cells computed at once: the deepest layer decides how much of the network runs."""
    kind: DeviceKind
    device: str
    """Name of the device as its driver gives it."""
    compiled: bool = False
    """Whether networks were compiled, as those of extractions with many clips on a GPU are."""
    windows: int = Field(ge=1)
    """Without those of the first batch."""
    seconds: float = Field(gt=0)
    """Time spent on decoding and computing, from when the first batch was computed."""
    at: str
    """UTC, ISO 8601."""

    @property
    def per_second(self) -> float:
        return self.windows / self.seconds


class _Rates(Config):
    format: Literal[1]
    rates: tuple[Rate, ...]


class DamagedRatesError(Exception):
    """The file is not as it was written; the message is one line."""


def rates_path(workspace: Workspace) -> Path:
    return workspace.root / "rates.json"


def kind_of(device: str) -> DeviceKind:
    return "cpu" if device == "cpu" else "cuda"


def load_rates(workspace: Workspace) -> tuple[Rate, ...]:
    """Read every stored rate.

    Raises:
        DamagedRatesError: the file is damaged; the message gives the reason.
    """
    path = rates_path(workspace)
    try:
        return _Rates.model_validate_json(read_bytes(path)).rates
    except FileNotFoundError:
        return ()
    except (ValidationError, OSError) as error:
        raise DamagedRatesError(f"{path}: not what `repro extract` wrote ({state_reason(error)})") from error


def find_rate(rates: Sequence[Rate], identity: Mapping[str, Any], cell: str, kind: DeviceKind) -> Rate | None:
    """Return the newest rate at which only `cell` was extracted on this kind of device, of compiled networks if there is one."""
    key = content_key(dict(identity))
    # Only rates of this cell alone: other cells, or more, run other parts of the network.
    matching = [r for r in rates if (r.key, r.cells, r.kind) == (key, (cell,), kind)]
    return max(matching, key=lambda rate: (rate.compiled, rate.at), default=None)


def record_rate(
    workspace: Workspace,
    backbone: str,
    identity: Mapping[str, Any],
    cells: Sequence[str],
    machine: Mapping[str, str],
    windows: int,
    seconds: float,
    *,
    compiled: bool = False,
) -> None:
    """Store the speed of an extraction of one backbone, if it had enough windows.

    Args:
        workspace: Where it is stored.
        backbone: The backbone's name.
        identity: All that the backbone's features depend on.
        cells: Names of the cells computed.
        machine: What repro/records/record.py records of this machine.
        windows: Number of windows computed.
        seconds: Time spent on decoding and computing them.
        compiled: Whether networks were compiled.
    """
    if windows < FEWEST_WINDOWS or seconds <= 0:
        return
    try:
        # A damaged file costs the rates in it, and never an extraction that has succeeded.
        before = load_rates(workspace)
    except DamagedRatesError:
        set_aside(rates_path(workspace))
        before = ()
    new = Rate(
        backbone=backbone,
        key=content_key(dict(identity)),
        cells=tuple(cells),
        kind=kind_of(machine["device"]),
        device=machine["device"],
        compiled=compiled,
        windows=windows,
        seconds=round(seconds, 3),
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    # Of another device of the same kind, rates are kept side by side: workspaces are shared by machines.
    # So are those with and without compiled networks.
    same = [r for r in before if all(getattr(r, k) == getattr(new, k) for k in ("key", "cells", "device", "compiled"))]
    if any(FAR_FEWER * new.windows < r.windows for r in same):
        return
    others = [r for r in before if r not in same]
    # Without a lock: if two processes end at once, one rate is lost, and the other one is as good for an estimate.
    kept = _Rates(format=1, rates=(*others, new))
    write_json(rates_path(workspace), json.loads(kept.model_dump_json()))
