"""How far computed features are from others: what all families share of `repro verify`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file

from repro.backbones.config import FrameSampling, Precision
from repro.backbones.family import Comparison
from repro.core.errors import MissingError, UsageError, state_reason
from repro.core.reading import check_regular, describe_absence
from repro.video.readers import open_clip, read_frames
from repro.video.sampling import Sampling

# The smallest known mistake, diffusers' eps in group norms, costs 1.4e-5, which the limit must catch.
DEVIATION_LIMIT = 1e-5
"""Default bound on the relative L2, for fp32 on a CPU."""
USUAL_LIMIT = 3e-3
"""Relative L2 to fp32, at the cell that rows read, up to which a precision is recommended: what the published one and TF32
cost (benchmarks/README.md), about doubled."""


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
    # All cells, as a fault in one block shows in the layers after it alone.
    deviations = {cell: relative_l2(values, theirs[cell]) for cell, values in ours.items()}
    cell = max(deviations, key=lambda c: deviations[c])
    return Comparison(what, against, deviations[cell], cell, seconds, expected)


@dataclass(frozen=True, slots=True)
class Timed:
    """Features of a window by cell, and the seconds that the row's own cell took, after a first window."""

    cells: dict[str, np.ndarray]
    seconds: float


def compare_precision(what: str, precision: Precision, ours: Timed, exact: Timed, usual: str) -> Comparison:
    """Compare a precision with fp32, cell by cell; `usual` is the cell that rows read. It is reported, not judged."""
    worst = compare_cells(what, "fp32", ours.cells, exact.cells, ours.seconds, None)
    at_usual = relative_l2(ours.cells[usual], exact.cells[usual]) if usual in ours.cells else None
    return replace(worst, precision=precision, usual=at_usual, fp32_seconds=exact.seconds)


def read_first_frames(video: Path, sampling: FrameSampling, count: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Return the first `count` sampled frames of a video; fewer if it is shorter.

    Raises:
        VideoError: it cannot be decoded.
    """
    wanted = Sampling(sampling.stride, sampling.last_second, count, sampling.reader)
    return next(iter(read_frames(open_clip(video, wanted), wanted)))[:count]


def list_golden(folder: Path) -> list[Path]:
    """Return the files of a folder of golden values.

    Raises:
        UsageError: there is no such folder, or it has no golden files.
    """
    if not folder.is_dir():
        raise UsageError(f"golden folder {folder}: {describe_absence(folder, 'folder')}")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"golden folder {folder}: no .safetensors files in it: expected one per window")
    return files


def read_golden(folder: Path) -> Sequence[tuple[Path, dict[str, np.ndarray]]]:
    """Read every safetensors file of a folder of golden values.

    Raises:
        UsageError: there is no such folder, or it has no golden files.
        MissingError: a file is damaged.
    """
    found = []
    for path in list_golden(folder):
        try:
            check_regular(path)
            found.append((path, load_file(path)))
        except (SafetensorError, OSError) as error:
            raise MissingError(
                f"golden file {path}: not a complete safetensors file ({state_reason(error)})"
            ) from error
    return found
