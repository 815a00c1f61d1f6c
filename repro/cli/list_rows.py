"""`repro list`: the rows as a table or as JSON."""

import json
from typing import Annotated

from cyclopts import Parameter

from repro.cli.options import COMMON, CommonOptions
from repro.core.console import format_columns, print_line, print_lines, print_sentence
from repro.core.errors import Exit
from repro.core.workspace import Workspace
from repro.judge.expected import Expected, rows_with_expected, table_path
from repro.table import requirements
from repro.table.row import Row
from repro.table.rows import extra_names, load_row

LIST_COLUMNS = ("row", "published", "method", "missing to run it")
METRIC_NAMES = {"map_micro": "mAP", "top1": "acc"}


def list_rows(
    *,
    all_: Annotated[bool, Parameter(name="--all", negative="", show_default=False)] = False,
    common: CommonOptions = COMMON,
) -> Exit:
    """List the 24 rows: published value, and what is missing to run each.

    Example: `repro list --all`

    Args:
        all_: Also list the extras: the release's other experiments, which have no published value.
    """
    workspace = common.open_workspace()
    # The expected table is the list of published rows; extras are none of its lines.
    rows: dict[str, tuple[Row, Expected | None]] = dict(rows_with_expected(table_path()))
    published = len(rows)
    if all_:
        rows |= {name: (load_row(name), None) for name in extra_names()}
    if common.as_json:
        print(json.dumps([_row_as_json(name, row, line, workspace) for name, (row, line) in rows.items()], indent=1))
        return Exit.OK
    lines = [_format_row(name, row, line, workspace) for name, (row, line) in rows.items()]
    print_lines(format_columns([LIST_COLUMNS, *lines[:published]], right=("published",)))
    if all_:
        print_line()
        extras = [("extra", "metric", LIST_COLUMNS[-1]), *(line[:2] + line[3:] for line in lines[published:])]
        print_lines(format_columns(extras))
    print_line()
    more = f" and {len(rows) - published} extras" if all_ else ""
    print_sentence(f"{published} rows{more}; what is missing is looked for in {workspace.root}")
    print_sentence(
        "method: how exactly it is known; unknown: which checkpoint was used is not (details: `repro list --json`)"
    )
    if all_:
        print_sentence("docs/extras.md says what each extra is, `repro list --all --json` how it differs from its row")
    print_sentence("`repro plan ROW` estimates what a row takes; `repro smoke` needs no data")
    return Exit.OK


def is_imported(row: Row, workspace: Workspace) -> bool:
    """Whether `repro readout` can run the row on imported features alone."""
    if not any(workspace.features.glob("*/origins/imported-*.json")):
        return False
    # Imports NumPy and pyarrow, which takes as long as the list does.
    from repro.table.imported import has_imported_features

    return has_imported_features(row, workspace)


def _format_row(name: str, row: Row, line: Expected | None, workspace: Workspace) -> tuple[str, ...]:
    # The names alone, so that a line fits 80 columns: a data set's and a checkpoint's are never the same.
    missing = " ".join(item.what.partition(" ")[2] or item.what for item in requirements.missing_items(row, workspace))
    if missing and is_imported(row, workspace):
        missing = "nothing for `repro readout`"
    return (
        name, f"{METRIC_NAMES[row.metric]} {line.published:.{line.digits}f}" if line else METRIC_NAMES[row.metric],
        line.status.partition(" ")[0] if line else "extra", missing or "nothing",
    )  # fmt: skip


def _row_as_json(name: str, row: Row, line: Expected | None, workspace: Workspace) -> dict[str, object]:
    entry: dict[str, object] = {
        "row": name,
        "kind": row.kind,
        "title": row.title,
        "setting": row.setting,
        "backbone": row.backbone,
        "metric": row.metric,
        "version": row.version,
        "missing": [item.as_json() for item in requirements.missing_items(row, workspace)],
        "features_imported": is_imported(row, workspace),
    }
    if line is None:
        settings = {"cell": row.features.name, "changes": dict(row.changes), "source": row.source, "note": row.note}
        return entry | {"published": None, **settings}
    return entry | {
        "published": line.published,
        "digits": line.digits,
        "selection": line.selection,
        "source": line.source,
        "status": line.status,
        "note": line.note,
    }
