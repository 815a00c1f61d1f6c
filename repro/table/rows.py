"""Rows by name: the 24 published ones, the smoke job's, and the extras."""

import difflib
from functools import cache
from pathlib import Path

from repro.core.config import configs_folder, load_config
from repro.core.errors import UsageError
from repro.table.extras import extra_row, extras_path, read_extras
from repro.table.row import Row, check_references

SETTINGS = ("ak_full", "ak_unseen", "charades_1to1", "charades_3to1", "ucf_hmdb", "hmdb_ucf")
BASELINES = ("videomaev2", "vjepa", "sdv2")

SMOKE_ROWS = ("smoke", "smoke_mean_colour")
PRETRAINED_SMOKE_ROWS = ("smoke_efficientnet_lite0",)
"""Smoke rows with pretrained weights, which an optional dependency installs. They run on request and are not judged."""


def rows_folder() -> Path:
    return configs_folder() / "rows"


def row_names() -> list[str]:
    """The 24 rows in the order of the published table: by setting, ActionDiff first."""
    return sorted((path.stem for path in rows_folder().glob("*.yaml")), key=_table_order)


def extra_names() -> tuple[str, ...]:
    """Rows of kind extra, in the order of configs/extras.yaml."""
    return tuple(read_extras())


def is_smoke_row(name: str) -> bool:
    """Whether `name` is a row that only the smoke job runs."""
    return name in (*SMOKE_ROWS, *PRETRAINED_SMOKE_ROWS)


@cache
def load_row(name: str) -> Row:
    """Read a row of any kind.

    Raises:
        UsageError: unknown name (the message suggests the nearest one), or a config that is not valid.
    """
    if is_smoke_row(name):
        return _load_file(configs_folder() / "smoke" / f"{name}.yaml")
    if name in row_names():
        return _load_file(rows_folder() / f"{name}.yaml")
    if name in extra_names():
        extra = read_extras()[name]
        if extra.like not in row_names():
            raise UsageError(f"{extras_path()}: {name}: like: '{extra.like}' is none of the 24 rows")
        return extra_row(name, extra, load_row(extra.like))
    near = difflib.get_close_matches(name, [*row_names(), *extra_names()], n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"unknown row '{name}'{hint} (`repro list --all` shows all {len(row_names())} and the extras)")


def _load_file(path: Path) -> Row:
    return check_references(load_config(Row, path), str(path))


def _table_order(name: str) -> tuple[int, int, str]:
    """Sort key: setting, then column of the published table (ActionDiff is column 0)."""
    for place, setting in enumerate(SETTINGS):
        if name == setting:
            return (place, 0, name)
        for column, baseline in enumerate(BASELINES, start=1):
            if name == f"{setting}_{baseline}":
                return (place, column, name)
    return (len(SETTINGS), 0, name)
