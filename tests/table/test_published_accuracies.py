"""A published accuracy is m of n clips, rounded: which test lists can have given it (docs/deviations.md 9)."""

import pytest

from repro.datasets.config import load_dataset
from repro.table.row import Row
from repro.table.rows import load_row, row_names

ROWS = [row for row in map(load_row, row_names()) if row.metric == "top1"]


def possible_counts(row: Row, clips: int) -> list[int]:
    """Return of how many right clips among `clips` the published value is the rounded share."""
    assert row.published is not None
    half = 0.5 * 10.0**-row.published.digits + 1e-9
    near = round(row.published.value * clips / 100)
    return [m for m in range(near - 2, near + 3) if abs(100 * m / clips - row.published.value) <= half]


def clips_of(split: str) -> int:
    dataset, _, name = split.partition("/")
    clips = load_dataset(dataset).splits[name].clips
    assert clips is not None
    return clips


def test_every_published_accuracy_is_possible_with_our_test_lists() -> None:
    assert len(ROWS) == 12
    assert all(possible_counts(row, clips_of(str(row.data.test))) for row in ROWS)


@pytest.mark.parametrize(("split", "clips", "fitting"), [("hmdb51/val", 360, 0), ("ucf101/val", 571, 1)])
def test_the_validation_lists_cannot_have_given_them(split: str, clips: int, fitting: int) -> None:
    rows = [row for row in ROWS if row.data.test.dataset == split.split("/")[0]]
    assert clips_of(split) == clips
    assert len(rows) == 4
    assert sum(bool(possible_counts(row, clips)) for row in rows) == fitting


def test_the_nearest_rows_are_one_clip_apart() -> None:
    ours, theirs = (possible_counts(load_row(name), 1039) for name in ("ak_unseen", "ak_unseen_vjepa"))
    assert (ours, theirs) == ([535], [534])
