"""Per-clip scores on disk (parquet), so that any metric can be computed again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from repro import atomic


def write_predictions(
    path: Path,
    clips: Sequence[str],
    classes: Sequence[str],
    targets: Int64[np.ndarray, "N K"],
    by_epoch: Mapping[int, Float64[np.ndarray, "N K"]],
) -> None:
    """One row per epoch and clip: epoch, clip, targets (label ids), scores (one a class)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [np.flatnonzero(row).tolist() for row in targets]
    table = pa.table(
        {
            "epoch": pa.array(np.repeat(list(by_epoch), len(clips)), pa.int32()),
            "clip": pa.array([clip for _ in by_epoch for clip in clips]),
            "targets": pa.array([row for _ in by_epoch for row in labels], pa.list_(pa.int32())),
            "scores": pa.array(
                [row for scores in by_epoch.values() for row in scores.tolist()], pa.list_(pa.float64())
            ),
        },
        metadata={"classes": "\n".join(classes)},
    )
    with atomic.replacing(path) as partial:
        pq.write_table(table, partial)
