"""expected/results.csv: how each published value was selected, and how near a measurement must be (fixed before any run).

The published value with its digits, metric and source, and the number of planned runs, are in the row's config only.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from repro.core.config import expected_folder
from repro.core.errors import UsageError
from repro.core.reading import open_regular, read_bytes
from repro.readout.recipe import Metric
from repro.table.row import Row
from repro.table.rows import load_row, row_names

Status = Literal[
    "documented",
    "reconstructed",
    "documented by the author's fork (inferred from names)",
    "inferred",
    "unknown checkpoint",
]
"""How much is known of a row's recipe (expected/README.md). Of the first two, the release states the checkpoint."""
Rule = Literal["best epoch on test", "best cell and epoch on test"]
COLUMNS = ("row", "selection", "margin", "status", "note")


@dataclass(frozen=True, slots=True)
class Expected:
    """The published value of a row, and how a measurement of it is judged; values in points (percent)."""

    row: str
    metric: Metric
    selection: Rule
    published: float
    digits: int
    """Number of decimals printed in the paper."""
    margin: float
    """A measurement within this distance counts as the same, whatever its spread."""
    planned_seeds: int
    """Runs that a verdict other than WITHIN MARGIN and INCONCLUSIVE needs."""
    source: str
    status: Status
    note: str

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0**-self.digits

    @property
    def checkpoint_assumed(self) -> bool:
        """Whether the release does not state which checkpoint was used."""
        return self.status not in ("documented", "reconstructed")

    @property
    def best_of_grid(self) -> bool:
        return self.selection == "best cell and epoch on test"


def table_path() -> Path:
    """Return the path of the shipped table."""
    return expected_folder() / "results.csv"


def table_sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


def load_expected(path: Path) -> list[Expected]:
    """Read the table, in its order, together with the published values from the rows' configs.

    Raises:
        UsageError: the file cannot be read, has other columns, an unknown row, or a value that its column cannot hold; the
            message names file and line.
    """
    try:
        with open(path, newline="", encoding="utf-8", opener=open_regular) as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV file ({error})") from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UsageError(f"{path}:1: expected the columns {','.join(COLUMNS)}")
    found: dict[str, Expected] = {}
    for number, cells in enumerate(lines[1:], start=2):
        where = f"{path}:{number}"
        if len(cells) != len(COLUMNS):
            raise UsageError(f"{where}: {len(cells)} values, expected {len(COLUMNS)}")
        line = _parse_line(dict(zip(COLUMNS, cells, strict=True)), where)
        if line.row in found:
            raise UsageError(f"{where}: duplicate row '{line.row}'")
        found[line.row] = line
    return list(found.values())


def rows_with_expected(path: Path) -> dict[str, tuple[Row, Expected]]:
    """Return every row of configs/rows with its line of the table at `path`, in the order of configs/rows.

    Raises:
        UsageError: the table is not valid, or a row is missing from it.
    """
    table = {line.row: line for line in load_expected(path)}
    missing = [name for name in row_names() if name not in table]
    if missing:  # a missing line would hide a verdict
        raise UsageError(f"{path}: row '{missing[0]}' of configs/rows has no line")
    return {name: (load_row(name), table[name]) for name in row_names()}


def _parse_line(cells: dict[str, str], where: str) -> Expected:
    def choice(column: str, allowed: tuple[str, ...]) -> str:
        if cells[column] not in allowed:
            raise UsageError(f"{where}: {column}: '{cells[column]}': expected one of {', '.join(allowed)}")
        return cells[column]

    if cells["row"] not in row_names():
        raise UsageError(f"{where}: row '{cells['row']}' is none of configs/rows")
    try:
        margin = float(cells["margin"])
    except ValueError:
        margin = float("nan")
    if not 0 <= margin <= 100:  # also refuses NaN, which compares as false
        raise UsageError(f"{where}: margin: '{cells['margin']}': expected a number from 0 to 100")
    row = load_row(cells["row"])
    assert row.published is not None  # rows of configs/rows are of kind published, which load_row checks
    return Expected(
        row=row.name,
        metric=row.metric,
        selection=cast(Rule, choice("selection", get_args(Rule))),
        published=row.published.value,
        digits=row.published.digits,
        margin=margin,
        planned_seeds=row.seeds.planned,
        source=row.published.source,
        status=cast(Status, choice("status", get_args(Status))),
        note=cells["note"],
    )
