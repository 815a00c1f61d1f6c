"""Predictions come back as they were written, and a file that holds something else is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repro.core.errors import MissingError
from repro.readout.metrics import all_scores, count_at_least, map_micro, map_micro_of_counts
from repro.readout.predictions import (
    PREDICTION_COLUMNS,
    Predictions,
    read_predictions,
    to_probabilities,
    write_predictions,
)


def test_scores_from_what_is_kept_of_an_epoch() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        targets = (rng.random((9, 7)) < rng.random()).astype(np.int64)
        scores = np.round(rng.random((9, 7)), 1)  # with many equal ones
        assert map_micro_of_counts(count_at_least(scores, targets)) == pytest.approx(
            map_micro(scores, targets), abs=1e-12
        )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_predictions_come_back_as_they_were(tmp_path: Path, activation: Any) -> None:
    rng = np.random.default_rng(1)
    targets = (rng.random((6, 4)) < 0.3).astype(np.int64)
    targets[0], targets[1] = 0, 1  # a clip without labels, one with all
    logits = {epoch: rng.normal(size=(6, 4)).astype(np.float32) * 40 for epoch in (2, 5)}
    whole = {epoch: to_probabilities(values, activation) for epoch, values in logits.items()}
    others = {epoch: rng.random((6, 4)) for epoch in (1, 3, 4)}
    predicted = {epoch: scores.argmax(1).astype(np.uint16) for epoch, scores in others.items()}
    at_least = {epoch: count_at_least(scores, targets) for epoch, scores in others.items()}
    written = Predictions(
        tuple("abcdef"), tuple("wxyz"), targets, whole, ("g", None, *"hijk"), predicted, at_least
    )  # fmt: skip
    write_predictions(tmp_path / "p.parquet", written, logits, activation)
    found = read_predictions(tmp_path / "p.parquet")
    assert (found.clips, found.classes, found.groups) == (written.clips, written.classes, written.groups)
    np.testing.assert_array_equal(found.targets, targets)
    for ours, theirs in ((found.by_epoch, whole), (found.predicted, predicted), (found.at_least, at_least)):
        assert ours.keys() == theirs.keys()
        for epoch in ours:
            np.testing.assert_array_equal(ours[epoch], theirs[epoch])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_logits_that_are_not_finite_have_no_score(activation: Any, value: float) -> None:
    logits = np.array([[value, 0.0], [1.0, 2.0]], np.float32)
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="NaN or infinite"):
        all_scores(to_probabilities(logits, activation), np.eye(2, dtype=np.int64))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Predictions of three clips after two epochs."""
    logits = {2: np.arange(6, dtype=np.float32).reshape(3, 2)}
    targets = np.array([[0, 1], [1, 0], [1, 1]], np.int64)
    ranks = {1: np.array([2, 6, 3, 1], np.uint32)}
    found = Predictions(tuple("abc"), ("x", "y"), targets, {}, at_least=ranks)
    write_predictions(tmp_path / "p.parquet", found, logits, "sigmoid")
    return tmp_path / "p.parquet"


OTHER_TYPES = {
    "numbers": pa.array(np.arange(6)),
    "texts": pa.array(list("abcabc")),
    "lists of texts": pa.array([["x"]] * 6),
    "lists of one": pa.array([[1]] * 6, pa.list_(pa.int32(), 1)),
    "records": pa.array([{"x": 1}] * 6),
    "nothing": pa.nulls(6),
}


@pytest.mark.parametrize("kind", OTHER_TYPES)
@pytest.mark.parametrize("column", PREDICTION_COLUMNS[2])
def test_columns_of_other_types_are_refused(path: Path, column: str, kind: str) -> None:
    table, made = pq.ParquetFile(path).read(), OTHER_TYPES[kind]
    if PREDICTION_COLUMNS[2][column] == made.type:
        pytest.skip(f"{column} is of {kind}")
    changed = table.set_column(table.column_names.index(column), column, made)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(MissingError, match=f"not the predictions of a readout .*{column}"):
        read_predictions(path)


def test_columns_that_are_missing_or_twice_are_refused(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    missing, twice = table.drop_columns(["group"]), table.append_column("group", table["group"])
    for changed, said in ((missing, "columns that format 2 does not have"), (twice, "two columns of one name")):
        pq.write_table(changed, path)
        with pytest.raises(MissingError, match=said):
            read_predictions(path)


@pytest.mark.parametrize("labels", [[-1], [2], [1, 1], [None]])
def test_labels_that_are_no_classes_are_refused(path: Path, labels: list[int | None]) -> None:
    """-1 would be the last class."""
    table = pq.ParquetFile(path).read()
    made = pa.array([labels, [0], [0, 1]] * 2, PREDICTION_COLUMNS[2]["targets"])
    pq.write_table(table.set_column(2, table.field("targets"), made), path)
    with pytest.raises(MissingError, match="not the predictions of a readout"):
        read_predictions(path)
