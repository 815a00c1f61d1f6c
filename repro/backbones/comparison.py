"""How far computed features lie from others: what families of backbones share of `repro verify`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from repro.core.errors import MissingError, UsageError

LIMIT = 1e-5
"""Relative L2 in fp32 on a CPU."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """Of one stored tensor from golden values."""

    file: str
    tensor: str
    relative_l2: float
    """Norm of the difference over the golden tensor's norm; infinite where ours is not finite."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far one way of computing lies from another, over all cells compared."""

    what: str
    against: str
    worst: float
    """Relative L2 of the worst cell."""
    cell: str
    seconds: float
    """A window, once, as it came: no measurement."""
    expected: float | None
    """The bound it must keep; None where nothing is promised."""


@dataclass(frozen=True, slots=True)
class Note:
    """Worth knowing beside the comparisons."""

    text: str


@dataclass(frozen=True, slots=True)
class Skipped:
    what: str
    why: str


def relative_l2(ours: np.ndarray, golden: np.ndarray) -> float:
    """||ours - golden|| / ||golden||, in float64."""
    difference = float(np.linalg.norm(ours.astype(np.float64) - golden.astype(np.float64)))
    scale = float(np.linalg.norm(golden.astype(np.float64)))
    if not np.isfinite(difference):
        return float("inf")
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def compared(
    what: str,
    against: str,
    ours: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
    seconds: float,
    expected: float | None,
) -> Comparison:
    """`ours` against `theirs`, by cell; the worst counts."""
    deviations = {cell: relative_l2(values, theirs[cell]) for cell, values in ours.items()}
    cell = max(deviations, key=lambda c: deviations[c])
    return Comparison(what, against, deviations[cell], cell, seconds, expected)


def read_golden(folder: Path) -> Sequence[tuple[Path, dict[str, np.ndarray]]]:
    """Every safetensors file of a folder of golden values.

    Raises:
        UsageError: no such folder, or no golden files in it.
        MissingError: one is damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"golden folder {folder}: no such folder")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"golden folder {folder}: no .safetensors files in it: expected one per window")
    found = []
    for path in files:
        try:
            found.append((path, load_file(path)))
        except (SafetensorError, OSError) as error:
            raise MissingError(f"golden file {path}: not a whole safetensors file ({error})") from error
    return found
