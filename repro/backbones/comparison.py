"""How far computed features are from others: what all families share of `repro verify`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from repro.backbones.family import Comparison
from repro.core.errors import MissingError, UsageError
from repro.core.reading import describe_absence

# The smallest known mistake, diffusers' eps in group norms, costs 1.4e-5, which the limit must catch.
LIMIT = 1e-5
"""Default bound on the relative L2, for fp32 on a CPU."""


def relative_l2(ours: np.ndarray, golden: np.ndarray) -> float:
    """Compute ||ours - golden|| / ||golden||, in float64."""
    difference = float(np.linalg.norm(ours.astype(np.float64) - golden.astype(np.float64)))
    scale = float(np.linalg.norm(golden.astype(np.float64)))
    # NaN would compare as neither above nor below a limit.
    if not np.isfinite(difference):
        return float("inf")
    # Golden zeros (a backbone without conditioning) are matched only by zeros.
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def compare_cells(
    what: str,
    against: str,
    ours: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
    seconds: float,
    expected: float | None,
) -> Comparison:
    """Compare `ours` with `theirs` cell by cell; the result is that of the worst cell."""
    deviations = {cell: relative_l2(values, theirs[cell]) for cell, values in ours.items()}
    cell = max(deviations, key=lambda c: deviations[c])
    return Comparison(what, against, deviations[cell], cell, seconds, expected)


def read_golden(folder: Path) -> Sequence[tuple[Path, dict[str, np.ndarray]]]:
    """Read every safetensors file of a folder of golden values.

    Raises:
        UsageError: there is no such folder, or it has no golden files.
        MissingError: a file is damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"golden folder {folder}: {describe_absence(folder, 'folder')}")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"golden folder {folder}: no .safetensors files in it: expected one per window")
    found = []
    for path in files:
        try:
            found.append((path, load_file(path)))
        except (SafetensorError, OSError) as error:
            raise MissingError(f"golden file {path}: not a complete safetensors file ({error})") from error
    return found
