"""expected/results.csv: the published values and, fixed before any run, how near a measurement must come."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from repro.core.config import expected_folder
from repro.core.errors import UsageError
from repro.readout.recipe import Metric
from repro.table.row import Row
from repro.table.rows import load_row, row_names

Status = Literal["documented", "reconstructed", "unknown checkpoint"]
"""documented: the release states the whole recipe; reconstructed: parts are inferred (the note says which)."""
Rule = Literal["best epoch on test", "best cell and epoch on test"]
COLUMNS = (
    "row", "metric", "selection", "published", "digits", "margin", "planned_seeds", "source", "status", "note",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expected:
    """One line of the table; values in points (percent)."""

    row: str
    metric: Metric
    selection: Rule
    published: float
    digits: int
    """Decimals printed."""
    margin: float
    """A measurement this near is taken to be the same, whatever its spread."""
    planned_seeds: int
    """Runs a verdict beyond WITHIN MARGIN and INCONCLUSIVE needs."""
    source: str
    status: Status
    note: str

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0**-self.digits

    @property
    def best_of_grid(self) -> bool:
        return self.selection == "best cell and epoch on test"


def table_path() -> Path:
    return expected_folder() / "results.csv"


def table_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_expected(path: Path) -> list[Expected]:
    """Read the table, in its order.

    Raises:
        UsageError: not there, other columns, or a value that is not what its column holds; file and line are named.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV file ({error})") from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UsageError(f"{path}:1: expected the columns {','.join(COLUMNS)}")
    rows: dict[str, Expected] = {}
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(COLUMNS):
            raise UsageError(f"{path}:{number}: {len(cells)} values, expected {len(COLUMNS)}")
        row = _row(dict(zip(COLUMNS, cells, strict=True)), f"{path}:{number}")
        if row.row in rows:
            raise UsageError(f"{path}:{number}: row '{row.row}' stands twice")
        rows[row.row] = row
    return list(rows.values())


def rows_with_expected(path: Path) -> dict[str, tuple[Row, Expected]]:
    """Every row of configs/rows with its line of the table at `path`, in the table's order.

    Raises:
        UsageError: the table is not valid, lacks a row, has one too many, or contradicts a row's config.
    """
    table = {line.row: line for line in load_expected(path)}
    names = row_names()
    for name in table:
        if name not in names:
            raise UsageError(f"{path}: row '{name}' is none of configs/rows")
    both = {}
    for name in names:
        if name not in table:
            raise UsageError(f"{path}: row '{name}' of configs/rows has no line")
        row, line = load_row(name), table[name]
        published = row.published
        assert published is not None  # load_row sees to it
        for column, there, here in (
            ("metric", line.metric, row.metric),
            ("published", line.published, published.value),
            ("digits", line.digits, published.digits),
            ("planned_seeds", line.planned_seeds, row.seeds.planned),
        ):
            if there != here:
                raise UsageError(f"{path}: row '{name}': {column} is {there}, but configs/rows/{name}.yaml says {here}")
        both[name] = (row, line)
    return both


def _row(cells: dict[str, str], where: str) -> Expected:
    def whole(column: str, low: int, high: int) -> int:
        if not cells[column].isdecimal() or not low <= int(cells[column]) <= high:
            raise UsageError(f"{where}: {column}: '{cells[column]}': expected a whole number from {low} to {high}")
        return int(cells[column])

    def number(column: str, low: float, high: float) -> float:
        try:
            value = float(cells[column])
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise UsageError(f"{where}: {column}: '{cells[column]}': expected a number from {low:g} to {high:g}")
        return value

    def choice(column: str, allowed: tuple[str, ...]) -> str:
        if cells[column] not in allowed:
            raise UsageError(f"{where}: {column}: '{cells[column]}': expected one of {', '.join(allowed)}")
        return cells[column]

    return Expected(
        row=cells["row"],
        metric=cast(Metric, choice("metric", get_args(Metric))),
        selection=cast(Rule, choice("selection", get_args(Rule))),
        published=number("published", 0, 100),
        digits=whole("digits", 0, 6),
        margin=number("margin", 0, 100),
        planned_seeds=whole("planned_seeds", 2, 1000),
        source=cells["source"],
        status=cast(Status, choice("status", get_args(Status))),
        note=cells["note"],
    )
