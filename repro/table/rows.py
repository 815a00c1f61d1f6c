"""Rows by name: the 24 published ones, the smoke job's, and the extras; rows of own clips by their file."""

from functools import cache
from pathlib import Path

from repro.backbones.config import Precision
from repro.core.config import Config, config_names, configs_folder, is_config_path, load_config
from repro.core.errors import UsageError, find_nearest
from repro.table.extras import extra_row, extras_path, read_extras
from repro.table.row import Row, check_references, with_precision


class TableOrder(Config):
    """configs/table.yaml: how the 24 rows are ordered."""

    settings: tuple[str, ...]
    baselines: tuple[str, ...]
    """Columns of the published table after ActionDiff's."""

    def sort_key(self, row: str) -> tuple[int, int, str]:
        """Return setting and column of a row, by its name. Rows that the table does not have come last."""
        # Names are compared completely: one setting may be another's prefix.
        for index, setting in enumerate(self.settings):
            names = (setting, *(f"{setting}_{baseline}" for baseline in self.baselines))
            if row in names:
                return index, names.index(row), row
        return len(self.settings), 0, row


class SmokeRow(Config):
    """What configs/smoke.yaml states of a row that only the smoke job runs."""

    label: str
    """Printed next to its scores."""
    pretrained: bool = False
    """True if its backbone has pretrained weights, which an optional dependency installs. Runs on request, is not judged."""


class _SmokeRows(Config):
    rows: dict[str, SmokeRow]


@cache
def table_order() -> TableOrder:
    """Read configs/table.yaml."""
    return load_config(TableOrder, configs_folder() / "table.yaml")


@cache
def smoke_rows() -> dict[str, SmokeRow]:
    """Read configs/smoke.yaml: every row of the smoke job by name, in the order in which it runs them."""
    return load_config(_SmokeRows, configs_folder() / "smoke.yaml").rows


def smoke_row_names(*, pretrained: bool = False) -> tuple[str, ...]:
    """Return the names of the smoke job's rows; with `pretrained` also those with pretrained weights."""
    return tuple(name for name, row in smoke_rows().items() if pretrained or not row.pretrained)


def row_names() -> list[str]:
    """The 24 rows in the order of the published table: by setting, ActionDiff first."""
    return sorted(config_names("rows"), key=table_order().sort_key)


def extra_names() -> tuple[str, ...]:
    """Rows of kind extra, in the order of configs/extras.yaml."""
    return tuple(read_extras())


def is_smoke_row(name: str) -> bool:
    """Return True if `name` is a row that only the smoke job runs."""
    return name in smoke_rows()


def command_for_row(name: str) -> str:
    """Return the command that runs a row: rows of the smoke job cannot be run alone."""
    if not is_smoke_row(name):
        return f"repro {name}"
    return "repro smoke --pretrained" if smoke_rows()[name].pretrained else "repro smoke"


@cache
def load_row(name: str) -> Row:
    """Read a shipped row of any kind.

    Raises:
        UsageError: unknown name (the message suggests the nearest one), or a config that is not valid.
    """
    if is_smoke_row(name):
        return _load_file(configs_folder() / "smoke" / f"{name}.yaml")
    if name in row_names():
        return _load_file(configs_folder() / "rows" / f"{name}.yaml")
    if name in extra_names():
        extra = read_extras()[name]
        if extra.like not in row_names():
            raise UsageError(f"{extras_path()}: {name}: like: '{extra.like}' is none of the 24 rows")
        return extra_row(name, extra, load_row(extra.like))
    # Extras are suggested too, although `repro list` shows them only with --all.
    near = find_nearest(name, [*row_names(), *extra_names()])
    raise UsageError(f"unknown row '{name}'{near} (`repro list --all` shows all {len(row_names())} and the extras)")


def load_any_row(name: str | Path, *precisions: Precision | None) -> Row:
    """Return a row by its name or by the path of a user's row file, with features in the first of `precisions` that it has.

    Raises:
        UsageError: no such row, a file, clips or recipe that are not valid, or a precision that the row does not have.
    """
    if Path(name).suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise UsageError(f"{name}: a table of clips, expected a row: `repro data new {name}` writes a row file")
    if not is_config_path(str(name)):
        return with_precision(load_row(str(name)), *precisions)
    # Imported here: it imports NumPy and pyarrow, which a table of clips takes and no shipped row.
    from repro.table.own import load_own_row

    return with_precision(load_own_row(Path(name)), *precisions)


def _load_file(path: Path) -> Row:
    return check_references(load_config(Row, path), str(path))
