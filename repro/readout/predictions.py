"""Per-clip scores on disk (parquet), from which any metric can be computed again."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64

from repro.core.errors import MissingError
from repro.core.files import replacing_file


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores of the clips of a test split, after some epochs of a training."""

    clips: tuple[str, ...]
    """Clip ids."""
    classes: tuple[str, ...]
    targets: Int64[np.ndarray, "N K"]
    """1 for the classes of a clip, else 0."""
    by_epoch: dict[int, Float64[np.ndarray, "N K"]]
    """Class probabilities by the epoch after which they were computed."""
    groups: tuple[str | None, ...] | None = None
    """Source video of each clip, where it is known."""


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write one line per epoch and clip: epoch, clip, targets (label ids), scores (one per class), group (source video)."""
    clips, by_epoch = predictions.clips, predictions.by_epoch
    labels = [np.flatnonzero(row).tolist() for row in predictions.targets]
    groups = [None] * len(clips) if predictions.groups is None else list(predictions.groups)
    table = pa.table(
        {
            # Epoch by epoch, the clips in the split's order within each. Types are fixed, because Arrow would infer another
            # schema if no clip of a split has a label.
            "epoch": pa.array(np.repeat(list(by_epoch), len(clips)), pa.int32()),
            "clip": pa.array([clip for _ in by_epoch for clip in clips]),
            "targets": pa.array([row for _ in by_epoch for row in labels], pa.list_(pa.int32())),
            # float64, so that metrics computed from the file equal those in the record.
            "scores": pa.array(
                [row for scores in by_epoch.values() for row in scores.tolist()], pa.list_(pa.float64())
            ),
            "group": pa.array([group for _ in by_epoch for group in groups], pa.string()),
        },
        metadata={"classes": "\n".join(predictions.classes)},
    )
    with replacing_file(path) as partial:
        pq.write_table(table, partial)


def read_predictions(path: Path) -> Predictions:
    """Read what write_predictions wrote.

    Raises:
        MissingError: the file is missing or does not hold predictions.
    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        classes = tuple(table.schema.metadata[b"classes"].decode().split("\n"))
        epochs = _as_numpy(table["epoch"].combine_chunks())
        chosen = {int(epoch): np.flatnonzero(epochs == epoch) for epoch in dict.fromkeys(epochs.tolist())}
        # Flat, which is many times faster than lists of Python numbers. A line with another number of scores fits no shape.
        scores = _as_numpy(table["scores"].combine_chunks().flatten()).reshape(len(epochs), len(classes))
        # Every epoch repeats clips, targets and groups, in lines that follow each other: one epoch's are read.
        lines = next(iter(chosen.values())).tolist()
        if lines != list(range(lines[0], lines[-1] + 1)):
            raise ValueError("the lines of its epochs are mixed")
        first = table.slice(lines[0], len(lines))
        groups = tuple(first["group"].to_pylist())
        targets = np.zeros((len(first), len(classes)), np.int64)
        labels = first["targets"].combine_chunks()
        targets[np.repeat(np.arange(len(first)), _as_numpy(labels.value_lengths())), _as_numpy(labels.flatten())] = 1
    except FileNotFoundError as error:
        raise MissingError(f"{path}: no such predictions") from error
    except (OSError, pa.ArrowException, BufferError, LookupError, TypeError, ValueError, StopIteration) as error:
        raise MissingError(f"{path}: not the predictions of a readout ({error})") from error
    return Predictions(
        clips=tuple(first["clip"].to_pylist()),
        classes=classes,
        targets=targets,
        by_epoch={epoch: scores[rows] for epoch, rows in chosen.items()},
        groups=groups if any(group is not None for group in groups) else None,
    )


def _as_numpy(array: pa.Array) -> np.ndarray:
    """Return an array of numbers without a copy.

    `pa.Array.to_numpy`, `pa.Table.take` and `pq.read_table` would do, but import pandas if it is installed, which takes as long as
    reading dozens of files.
    """
    return np.from_dlpack(array) if len(array) else np.empty(0, np.int64)
