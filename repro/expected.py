"""expected/results.csv: the published values and, fixed before any run, how near a measurement must come."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from repro import shipped
from repro.errors import UsageError
from repro.rows import Metric

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
    return shipped.expected() / "results.csv"


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


def _row(cells: dict[str, str], where: str) -> Expected:
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
        digits=int(number("digits", 0, 6)),
        margin=number("margin", 0, 100),
        planned_seeds=int(number("planned_seeds", 2, 1000)),
        source=cells["source"],
        status=cast(Status, choice("status", get_args(Status))),
        note=cells["note"],
    )
