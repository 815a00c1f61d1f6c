"""Rule sets, expected/rules-N: how each published value was selected, and how near a measurement must be (fixed before any run).

    results.csv     one line per row
    configs.sha256  the configs that it judges (scripts/pin_configs.py), as sha256sum writes and checks them

The published value with its digits, metric and source, and the planned seeds, are in the row's config only.
"""

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from repro.core.config import configs_folder, expected_folder
from repro.core.errors import UsageError
from repro.core.hashing import content_sha256, file_sha256
from repro.core.reading import read_text
from repro.readout.recipe import Metric
from repro.table.row import Row
from repro.table.rows import load_row, row_names

RecipeStatus = Literal[
    "documented",
    "reconstructed",
    "documented by the author's fork (inferred from names)",
    "inferred",
    "unknown checkpoint",
]
"""How much is known of a row's recipe (expected/README.md). Of the first two, the release states the checkpoint."""
Rule = Literal["best epoch on test", "best cell and epoch on test"]
RESULT_COLUMNS = ("row", "selection", "margin", "status", "note")


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
    first_seed: int
    """The published seed, which the planned ones start with."""
    source: str
    status: RecipeStatus
    note: str
    edited: tuple[str, ...] = ()
    """Configs of the row that are not those that the rule set pins."""
    rules: str = ""
    """Name of the rule set, and its sha256."""

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


def table_path(rules: str = "1") -> Path:
    """Return the table of a rule set.

    Args:
        rules: The number of one that is shipped, or the folder of another.

    Raises:
        UsageError: there is no such rule set.
    """
    folder = expected_folder() / f"rules-{rules}" if re.fullmatch(r"\d+", rules) else Path(rules)
    path = folder / "results.csv"
    if not path.is_file():
        shipped = sorted(found.name.removeprefix("rules-") for found in expected_folder().glob("rules-*"))
        raise UsageError(f"--rules {rules}: no results.csv in {folder}; shipped rule sets: {', '.join(shipped)}")
    return path


def name_rule_set(path: Path) -> tuple[str, str]:
    """Return name and sha256 of the rule set whose table is at `path`. The sha256 is of all its files."""
    folder = path.resolve().parent
    # Of all files: claims and pins can be edited as well as margins.
    files = {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}
    return folder.name, content_sha256(files)


def read_pins(path: Path) -> dict[str, str]:
    """Return the sha256 of every config that the rule set of the table at `path` judges, as configs/rows/NAME.yaml.

    Raises:
        UsageError: the file is missing, or is not as sha256sum writes it.
    """
    pins = path.parent / "configs.sha256"
    try:
        lines = read_text(pins).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{pins}: cannot be read: a rule set states which configs it judges") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (configs/\S+)", line)
        if match is None:
            raise UsageError(f"{pins}:{number}: expected a sha256, two spaces and a config's path")
        found[match[2]] = match[1]
    return found


def row_configs(row: Row) -> list[str]:
    """Return the configs that decide what a row measures, with those they extend, as configs/rows/NAME.yaml."""
    names = [f"rows/{row.name}", f"backbones/{row.backbone}", *(f"datasets/{name}" for name in row.data.datasets)]
    for name in names:
        base = re.search(r"^extends: *(\w+)", read_text(configs_folder() / f"{name}.yaml"), re.MULTILINE)
        if base:  # also walked, as it is appended
            names.append(f"{name.split('/')[0]}/{base[1]}")
    return [f"configs/{name}.yaml" for name in names]


def find_edited(row: Row, pins: dict[str, str]) -> tuple[str, ...]:
    """Return the configs of a row that are not those that `pins` states."""
    return tuple(
        name
        for name in row_configs(row)
        if pins.get(name) != file_sha256(configs_folder() / name.removeprefix("configs/"))
    )


def load_expected(path: Path) -> list[Expected]:
    """Read the table, in its order, together with the published values from the rows' configs.

    Raises:
        UsageError: the file cannot be read, has other columns, an unknown row, or a value that its column cannot hold; the
            message names file and line.
    """
    try:
        lines = list(csv.reader(read_text(path).splitlines(keepends=True)))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV file ({error})") from error
    if not lines or tuple(lines[0]) != RESULT_COLUMNS:
        raise UsageError(f"{path}:1: expected the columns {','.join(RESULT_COLUMNS)}")
    found: dict[str, Expected] = {}
    for number, cells in enumerate(lines[1:], start=2):
        where = f"{path}:{number}"
        if len(cells) != len(RESULT_COLUMNS):
            raise UsageError(f"{where}: {len(cells)} values, expected {len(RESULT_COLUMNS)}")
        line = _parse_line(dict(zip(RESULT_COLUMNS, cells, strict=True)), where)
        if line.row in found:
            raise UsageError(f"{where}: duplicate row '{line.row}'")
        found[line.row] = line
    return list(found.values())


def rows_with_expected(path: Path) -> dict[str, tuple[Row, Expected]]:
    """Return every row of configs/rows with its line of the table at `path`, in the order of configs/rows.

    Raises:
        UsageError: the table or the pins alongside it are not valid, or a row is missing from it.
    """
    table = {line.row: line for line in load_expected(path)}
    missing = [name for name in row_names() if name not in table]
    if missing:  # a missing line would hide a verdict
        raise UsageError(f"{path}: row '{missing[0]}' of configs/rows has no line")
    pins, (rules, sha256) = read_pins(path), name_rule_set(path)
    rows = {name: load_row(name) for name in row_names()}
    return {
        name: (row, replace(table[name], edited=find_edited(row, pins), rules=f"{rules} {sha256}"))
        for name, row in rows.items()
    }


def _parse_line(cells: dict[str, str], where: str) -> Expected:
    def choice(column: str, allowed: tuple[str, ...]) -> str:
        if cells[column] not in allowed:
            raise UsageError(f"{where}: {column}: '{cells[column][:80]}': expected one of {', '.join(allowed)}")
        return cells[column]

    if cells["row"] not in row_names():
        raise UsageError(f"{where}: row '{cells['row'][:80]}' is none of configs/rows")
    try:
        margin = float(cells["margin"])
    except ValueError:
        margin = float("nan")
    if not 0 <= margin <= 100:  # also refuses NaN, which compares as false
        raise UsageError(f"{where}: margin: '{cells['margin'][:80]}': expected a number from 0 to 100")
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
        first_seed=row.seeds.published,
        source=row.published.source,
        status=cast(RecipeStatus, choice("status", get_args(RecipeStatus))),
        note=cells["note"],
    )
