"""Per-clip predictions on disk (parquet), from which the scores of every epoch can be computed again.

One line per epoch and clip, epoch by epoch, the clips in the split's order within each:

    epoch      number, from 1
    clip       clip id
    targets    label ids, ascending
    logits     float32, one per class: after the selected epochs and the last; in most cells of a grid after none
    predicted  after the others, if the metric is top1: label id of the highest score
    at_least   after the others, if it is map_micro: for each label, how many (clip, class) pairs of the epoch score at least as high
    group      source video, where it is known

The file's metadata has `format`, `classes` (one a line) and `activation`, which makes probabilities of logits. Files without
`format`, of versions up to 0.1.0, have the selected epochs alone, as probabilities in a column `scores`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Float64, Int64, UInt16, UInt32

from repro.core.errors import MissingError, state_reason
from repro.core.files import replacing_file
from repro.core.reading import check_regular, read_table
from repro.readout.metrics import find_ends_of_equals
from repro.readout.recipe import Activation

PREDICTIONS_FORMAT = 2
PREDICTION_COLUMNS = {
    1: {
        "epoch": pa.int32(),
        "clip": pa.string(),
        "targets": pa.list_(pa.int32()),
        "scores": pa.list_(pa.float64()),
        "group": pa.string(),
    },
    PREDICTIONS_FORMAT: {
        "epoch": pa.int32(),
        "clip": pa.string(),
        "targets": pa.list_(pa.int32()),
        "logits": pa.list_(pa.float32()),
        "predicted": pa.uint16(),
        "at_least": pa.list_(pa.uint32()),
        "group": pa.string(),
    },
}
"""Types of the columns by format."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores of the clips of a test split after the epochs of a training."""

    clips: tuple[str, ...]
    """Clip ids."""
    classes: tuple[str, ...]
    targets: Int64[np.ndarray, "N K"]
    """1 for the classes of a clip, else 0."""
    by_epoch: Mapping[int, Float64[np.ndarray, "N K"]]
    """Class probabilities by epoch, of the epochs that are kept whole: of none in most cells of a grid."""
    groups: tuple[str | None, ...] | None = None
    """Source video of each clip, where it is known."""
    predicted: Mapping[int, UInt16[np.ndarray, " N"]] = field(default_factory=dict)
    """Predicted class of each clip, by epoch, of the others; empty if the metric is map_micro."""
    at_least: Mapping[int, UInt32[np.ndarray, " P"]] = field(default_factory=dict)
    """`count_at_least` by epoch, of the others; empty if the metric is top1."""
    format: int = PREDICTIONS_FORMAT

    def scores_after(self, epoch: int) -> Float64[np.ndarray, "N K"]:
        """Return the class probabilities after an epoch.

        Raises:
            MissingError: they were not kept.
        """
        if epoch not in self.by_epoch:
            raise MissingError(
                f"no scores of every clip after epoch {epoch}: of a grid, only the row's own cell and the best ones keep them; `repro grid "
                "ROW --timesteps T --layers L --all-predictions` trains a cell again and keeps them"
            )
        return self.by_epoch[epoch]


def to_probabilities(logits: Float32[np.ndarray, "N K"], activation: Activation) -> Float64[np.ndarray, "N K"]:
    """Return class probabilities in float64, as repro/readout/train.py does, up to the last bit."""
    exact = logits.astype(np.float64)
    # An infinite logit would pass for a probability of 0 or 1; NaN is refused by every score.
    exact[~np.isfinite(exact)] = np.nan
    # In place: fresh memory for every step takes longer than the steps.
    if activation == "softmax":
        # The largest becomes exp(0): softmax does not change, and no exponential overflows.
        exact -= exact.max(axis=1, keepdims=True)
        np.exp(exact, out=exact)
        exact /= exact.sum(axis=1, keepdims=True)
        return exact
    with np.errstate(over="ignore"):  # 1 / inf is the 0 that it should be
        np.exp(np.negative(exact, out=exact), out=exact)
    exact += 1
    return np.divide(1, exact, out=exact)


def write_predictions(
    path: Path, predictions: Predictions, logits: Mapping[int, Float32[np.ndarray, "N K"]], activation: Activation
) -> None:
    """Write predictions. In place of the probabilities in `by_epoch`, the logits that they are made of are written."""
    clips, labels = predictions.clips, [np.flatnonzero(row) for row in predictions.targets]
    epochs = sorted({*logits, *predictions.predicted, *predictions.at_least})
    positives = np.array([len(row) for row in labels])

    def lists(found: Mapping[int, np.ndarray], lengths: np.ndarray, dtype: type) -> pa.Array:
        """A list for each line, of `lengths` by clip; null in epochs that `found` does not have."""
        # A line for each epoch and clip; those of other epochs are null.
        given = np.repeat([epoch in found for epoch in epochs], len(clips))
        ends = np.cumsum(np.where(given, np.tile(lengths, len(epochs)), 0))
        values: list[np.ndarray] = [
            np.empty(0, dtype),
            *(found[epoch].astype(dtype).ravel() for epoch in epochs if epoch in found),
        ]
        flat = pa.array(np.concatenate(values))
        return pa.ListArray.from_arrays(pa.array(np.append(0, ends).astype(np.int32)), flat, mask=pa.array(~given))

    groups = pa.array(predictions.groups or [None] * len(clips), pa.string())
    empty = pa.nulls(len(clips), pa.uint16())
    table = pa.table(
        {
            "epoch": pa.array(np.repeat(epochs, len(clips)), pa.int32()),
            "clip": pa.chunked_array([pa.array(clips, pa.string())] * len(epochs)),
            "targets": lists(dict.fromkeys(epochs, np.concatenate([*labels, np.empty(0)])), positives, np.int32),
            "logits": lists(logits, np.full(len(clips), len(predictions.classes)), np.float32),
            "predicted": pa.chunked_array(
                [
                    pa.array(predictions.predicted[epoch], pa.uint16()) if epoch in predictions.predicted else empty
                    for epoch in epochs
                ]
            ),
            "at_least": lists(predictions.at_least, positives, np.uint32),
            "group": pa.chunked_array([groups] * len(epochs)),
        },
        metadata={
            "format": str(PREDICTIONS_FORMAT),
            "classes": "\n".join(predictions.classes),
            "activation": activation,
        },
    )
    with replacing_file(path) as partial:
        # By the bytes of the floats: 20 % smaller, and read three times as fast.
        pq.write_table(
            table,
            partial,
            compression="zstd",
            use_dictionary=["epoch", "clip", "targets.list.element", "predicted", "group"],
            use_byte_stream_split=["logits.list.element", "at_least.list.element"],
        )


def read_predictions(path: Path) -> Predictions:
    """Read what write_predictions wrote, in this version or an earlier one.

    Raises:
        MissingError: the file is missing or does not hold predictions.
    """
    try:
        check_regular(path)
        table = read_table(path, dictionaries=["clip"])
        metadata = table.schema.metadata or {}
        number = int(metadata.get(b"format", b"1"))
        _require_columns(table.schema, number)
        return (_read_format_1 if number == 1 else _read_lines)(table, metadata)
    except FileNotFoundError as error:
        raise MissingError(f"{path}: no such predictions") from error
    except (OSError, pa.ArrowException, BufferError, LookupError, TypeError, ValueError, StopIteration) as error:
        raise MissingError(f"{path}: not the predictions of a readout ({state_reason(error)})") from error


def _require_columns(schema: pa.Schema, number: int) -> None:
    if number not in PREDICTION_COLUMNS:
        raise ValueError(f"format {number}, this version reads {' and '.join(map(str, PREDICTION_COLUMNS))}")
    found = [(one.name, one.type.value_type if pa.types.is_dictionary(one.type) else one.type) for one in schema]
    if found != list(PREDICTION_COLUMNS[number].items()):
        wrong = next(
            (f"{name} {kind}" for name, kind in found if PREDICTION_COLUMNS[number].get(name) != kind), "one is missing"
        )
        raise ValueError(f"columns that format {number} does not have: {wrong}")


def _read_lines(table: pa.Table, metadata: Mapping[bytes, bytes]) -> Predictions:
    classes = tuple(metadata[b"classes"].decode().split("\n"))
    activation = metadata[b"activation"].decode()
    if activation not in get_args(Activation):
        raise ValueError(f"activation '{activation}'")
    lines = _as_numpy(table["epoch"].combine_chunks())
    ends = find_ends_of_equals(lines)
    # Epochs follow one another: where the number changes, the next one begins.
    epochs = lines[ends - 1].tolist() if len(lines) else []
    clips = len(lines) // max(1, len(epochs))
    if not clips or len(set(epochs)) < len(epochs) or not np.array_equal(lines, np.repeat(epochs, clips)):
        raise ValueError("the lines of its epochs are mixed")
    first = table.slice(0, clips)
    names = table["clip"].combine_chunks()
    # Compared as the dictionary's numbers: texts of thousands of clips and epochs would take seconds.
    ids = _as_numpy(names.indices).reshape(len(epochs), clips)
    labels, counts = _read_lists(table, "targets", (len(epochs), clips))
    ends = np.cumsum(counts.sum(axis=1))
    by_epoch = np.split(labels, ends[:-1])
    if (ids != ids[0]).any() or (counts != counts[0]).any() or any((of != by_epoch[0]).any() for of in by_epoch):
        raise ValueError("its epochs have other clips or targets")
    targets = _read_targets(by_epoch[0], counts[0], len(classes))
    logits = _read_epochs(table, "logits", epochs, np.full(clips, len(classes)))
    chosen = table["predicted"].combine_chunks()
    # An epoch has either logits or, of the others, this.
    predicted = {
        epoch: _as_numpy(part)
        for place, epoch in enumerate(epochs)
        if not (part := chosen.slice(place * clips, clips)).null_count
    }
    if any((part >= len(classes)).any() for part in predicted.values()):
        raise ValueError("a predicted class that does not exist")
    at_least = _read_epochs(table, "at_least", epochs, counts[0])
    for part in at_least.values():
        ranks = np.sort(part)
        if part.size and not 0 < ranks[0] <= ranks[-1] <= targets.size:
            raise ValueError(f"a rank that is none of {targets.size}")
        # More positives at a rank or above than there are pairs: no scores have such ranks.
        ends = find_ends_of_equals(ranks)
        if part.size and (ends > ranks[ends - 1]).any():
            raise ValueError("ranks that no scores have")
    return Predictions(
        clips=tuple(map(names.dictionary.to_pylist().__getitem__, ids[0].tolist())),
        classes=classes,
        targets=targets,
        by_epoch={
            epoch: to_probabilities(values.reshape(clips, -1), cast(Activation, activation))
            for epoch, values in logits.items()
        },
        groups=_read_groups(first),
        predicted=predicted,
        at_least=at_least,
    )


def _read_lists(table: pa.Table, column: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a column of lists, and their number by epoch and clip: 0 of a null."""
    lists = table[column].combine_chunks()
    # A null takes no place. Compute functions that return it as 0 import pandas, too.
    return _as_numpy(lists.flatten()), np.diff(_as_numpy(lists.offsets)).reshape(shape)


def _read_targets(labels: np.ndarray, counts: np.ndarray, classes: int) -> Int64[np.ndarray, "N K"]:
    targets = np.zeros((len(counts), classes), np.int64)
    targets[np.repeat(np.arange(len(counts)), counts), labels] = 1
    # A negative index is none that NumPy refuses.
    if (labels < 0).any() or targets.sum() != len(labels):
        raise ValueError("a label that is no class, or twice that of a clip")
    return targets


def _read_epochs(table: pa.Table, column: str, epochs: list[int], expected: np.ndarray) -> dict[int, Any]:
    """Return the values of a column by epoch, of the epochs whose lines have as many as expected."""
    values, counts = _read_lists(table, column, (len(epochs), len(expected)))
    lists = table[column].combine_chunks()
    parts = np.split(values, np.cumsum(counts.sum(axis=1))[:-1])
    found = {}
    for place, epoch in enumerate(epochs):
        valid = len(expected) - lists.slice(place * len(expected), len(expected)).null_count
        if valid:
            if valid != len(expected) or (counts[place] != expected).any():
                raise ValueError(f"{column} of epoch {epoch} are not those of every clip")
            found[epoch] = parts[place]
    return found


def _read_format_1(table: pa.Table, metadata: Mapping[bytes, bytes]) -> Predictions:
    classes = tuple(metadata[b"classes"].decode().split("\n"))
    epochs = _as_numpy(table["epoch"].combine_chunks())
    chosen = {int(epoch): np.flatnonzero(epochs == epoch) for epoch in dict.fromkeys(epochs.tolist())}
    # Flat, which is many times faster than lists of Python numbers. A line with another number of scores fits no shape.
    scores = _as_numpy(table["scores"].combine_chunks().flatten()).reshape(len(epochs), len(classes))
    # Every epoch repeats clips, targets and groups, in lines that follow each other: one epoch's are read.
    lines = next(iter(chosen.values())).tolist()
    if lines != list(range(lines[0], lines[-1] + 1)):
        raise ValueError("the lines of its epochs are mixed")
    first = table.slice(lines[0], len(lines))
    labels, counts = _read_lists(first, "targets", (1, len(first)))
    return Predictions(
        clips=tuple(first["clip"].to_pylist()),
        classes=classes,
        targets=_read_targets(labels, counts[0], len(classes)),
        by_epoch={epoch: scores[rows] for epoch, rows in chosen.items()},
        groups=_read_groups(first),
        format=1,
    )


def _read_groups(lines: pa.Table) -> tuple[str | None, ...] | None:
    groups = lines["group"]
    return None if groups.null_count == len(groups) else tuple(groups.to_pylist())


def _as_numpy(array: pa.Array) -> np.ndarray:
    """Return an array of numbers without a copy.

    `pa.Array.to_numpy`, `pa.Table.take`, `pq.read_table` and a type's `to_pandas_dtype` would do, but import pandas if it is installed,
    which takes as long as reading dozens of files.
    """
    if len(array) == 0:  # of which there is no memory to share
        array = pa.Array.from_buffers(array.type, 1, [None, pa.py_buffer(bytes(8))])
        return np.from_dlpack(array)[:0]
    return np.from_dlpack(array)
