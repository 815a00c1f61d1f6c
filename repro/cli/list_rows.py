"""`repro list`: the rows as a table or as JSON."""

import json

from rich.table import Table

from repro.core.console import Terminal
from repro.core.workspace import Workspace
from repro.judge.expected import Expected, rows_with_expected, table_path
from repro.table import requirements
from repro.table.row import Row
from repro.table.rows import extra_names, load_row

METRICS = {"map_micro": "mAP", "top1": "acc"}


def show(workspace: Workspace, *, extras: bool, as_json: bool) -> None:
    """Print every row: what it is, what was published, and what is missing here to run it."""
    rows: dict[str, tuple[Row, Expected | None]] = dict(rows_with_expected(table_path()))
    published = len(rows)
    if extras:
        rows |= {name: (load_row(name), None) for name in extra_names()}
    if as_json:
        print(json.dumps([_entry(name, row, line, workspace) for name, (row, line) in rows.items()], indent=1))
        return
    console = Terminal(highlight=False)
    if not console.is_terminal:
        console = Terminal(highlight=False, width=200)  # a pipe has no width to fit into
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("row", "setting", "backbone", "metric", "published", "status", "missing to run it"):
        table.add_column(column, justify="right" if column == "published" else "left", overflow="fold")
    for name, (row, line) in rows.items():
        lacking = ", ".join(m.what for m in requirements.missing_items(row, workspace)) or "nothing"
        table.add_row(
            name, row.title.split(":")[0] if line else row.title, row.backbone, METRICS[row.metric],
            f"{line.published:.{line.digits}f}" if line else "", line.status if line else "extra", lacking,
        )  # fmt: skip
    more = f" and {len(rows) - published} extras" if extras else ""
    console.print(table)
    console.print(f"{published} rows{more}; workspace {workspace.root}. `repro smoke` runs without data or downloads.")


def _entry(name: str, row: Row, line: Expected | None, workspace: Workspace) -> dict[str, object]:
    entry: dict[str, object] = {
        "row": name,
        "kind": row.kind,
        "title": row.title,
        "setting": row.setting,
        "backbone": row.backbone,
        "metric": row.metric,
        "version": row.version,
        "missing": [{"what": m.what, "remedy": m.sentence} for m in requirements.missing_items(row, workspace)],
    }
    if line is None:
        told = {"cell": row.features.name, "changes": dict(row.changes), "source": row.source, "note": row.note}
        return entry | {"published": None, **told}
    return entry | {
        "published": line.published,
        "digits": line.digits,
        "selection": line.selection,
        "source": line.source,
        "status": line.status,
        "note": line.note,
    }
