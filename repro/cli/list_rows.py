"""`repro list`: the rows as a table or as JSON."""

import json
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from repro.cli.options import COMMON, CommonOptions
from repro.core.console import open_table_console
from repro.core.errors import Exit
from repro.core.workspace import Workspace
from repro.judge.expected import Expected, rows_with_expected, table_path
from repro.table import requirements
from repro.table.row import Row
from repro.table.rows import extra_names, load_row

METRICS = {"map_micro": "mAP", "top1": "acc"}


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
    console = open_table_console(piped_width=200)
    console.print(_build_table(rows, workspace))
    more = f" and {len(rows) - published} extras" if all_ else ""
    console.print(
        f"{published} rows{more}; workspace {workspace.root}. `repro smoke` runs without data or downloads.",
        markup=False,
    )
    return Exit.OK


def is_imported(row: Row, workspace: Workspace) -> bool:
    """Whether `repro readout` can run the row on imported features alone."""
    if not any(workspace.features.glob("*/origins/imported-*.json")):
        return False
    # Imports NumPy and pyarrow, which takes as long as the list does.
    from repro.table.imported import has_imported_features

    return has_imported_features(row, workspace)


def _build_table(rows: dict[str, tuple[Row, Expected | None]], workspace: Workspace) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("row", "setting", "backbone", "metric", "published", "status", "missing to run it"):
        table.add_column(column, justify="right" if column == "published" else "left", overflow="fold")
    for name, (row, line) in rows.items():
        missing = ", ".join(m.what for m in requirements.missing_items(row, workspace)) or "nothing"
        if missing != "nothing" and is_imported(row, workspace):
            missing = "nothing for `repro readout`: features were imported"
        table.add_row(
            name, row.title.split(":")[0] if line else row.title, row.backbone, METRICS[row.metric],
            f"{line.published:.{line.digits}f}" if line else "", line.status if line else "extra", missing,
        )  # fmt: skip
    return table


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
