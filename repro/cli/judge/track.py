"""`repro track`: log the workspace's runs to MLflow."""

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from repro.cli.options import FlagOption, WorkspaceOption
from repro.core import LazyModule
from repro.core.console import Reporter, print_sentence
from repro.core.errors import Exit, MissingError, NothingToCheckError, UsageError
from repro.core.hashing import content_key
from repro.core.workspace import Workspace, open_workspace, tracking_from_environment
from repro.records.mlflow_names import parent_key
from repro.records.record import find_runs
from repro.table.rows import load_row

# These import NumPy, pyarrow, mlflow and matplotlib, which help and a workspace without runs do not need.
if TYPE_CHECKING:
    from repro.records import mlflow_database, mlflow_view
    from repro.report import contents, figures
else:
    mlflow_database = LazyModule("repro.records.mlflow_database")
    mlflow_view = LazyModule("repro.records.mlflow_view")
    contents = LazyModule("repro.report.contents")
    figures = LazyModule("repro.report.figures")


def track(*, rebuild: FlagOption = False, workspace: WorkspaceOption = None) -> Exit:
    """Log to MLflow the runs that it does not have yet, with the verdicts of `repro check` as tags.

    The report's figures of a row go to the parent of its runs. Commands that train log their runs themselves. This logs what a server did not take, or what was copied here.

    Runs are logged to the server of MLFLOW_TRACKING_URI [default: mlflow.db in the workspace], one experiment for each table, or
    all to MLFLOW_EXPERIMENT_NAME.

    Example: `repro track --rebuild`

    Args:
        rebuild: Delete the runs that this project logged, and log all again. Other runs and experiments stay.
    """
    opened, reporter = open_workspace(workspace), Reporter()
    if next(find_runs(opened.runs), None) is None:
        raise NothingToCheckError(f"no run record in {opened.runs}: run a row with `repro ROW`, or `repro smoke`")
    opened.require_writable()
    tracking = tracking_from_environment()
    if rebuild:
        name = f"experiment '{tracking.experiment}'" if tracking.experiment else "the experiments actiondiff-*"
        print_sentence(
            f"deleting the runs of this project in {name} of {tracking.shown or opened.mlflow_db}, then logging them again"
        )
    rows = _gather_rows(opened)
    verdicts = {run.run: str(one.verdict.outcome) for one in rows if one.verdict for run in one.verdict.runs}
    complete = mlflow_view.track_runs(opened, reporter, rebuild=rebuild, verdicts=verdicts, figures=_list_figures(rows))
    return Exit.OK if complete else Exit.MISSING


def _gather_rows(workspace: Workspace) -> "tuple[contents.RowContents, ...]":
    """Return what the report has of the rows with runs. Damaged records are reported when they are logged."""
    rows = []
    # A run's folder is in its row's.
    for name in dict.fromkeys(run.folder.parent.name for run in find_runs(workspace.runs)):
        with suppress(UsageError):  # an own row, whose file is elsewhere, or one that no longer exists
            rows.append(load_row(name))
    try:
        return contents.gather_contents(rows, workspace).rows if rows else ()
    except (MissingError, NothingToCheckError):  # none, or none that is intact
        return ()


def _list_figures(rows: "Iterable[contents.RowContents]") -> "dict[str, mlflow_database.RunFigures]":
    """Return the report's figures of each row, for the parent of its runs."""
    # First: it silences what mlflow warns of when it is imported, as the next names of these modules do.
    mlflow_view.import_mlflow()

    def write_files(one: "contents.RowContents", folder: Path) -> None:
        for drawing in figures.list_row_drawings(one):
            (folder / f"{drawing.name}.png").write_bytes(drawing.render_file("png"))
            (folder / f"{drawing.name}.csv").write_bytes(drawing.render_csv().encode())

    found = {}
    for one in rows:
        if one.runs:
            shown = [*one.published, *one.held_out, *(one.grid.runs.values() if one.grid else ())]
            key = content_key(sorted(run.run for run in shown))
            found[parent_key(one.runs[0])] = mlflow_database.RunFigures(key, partial(write_files, one))
    return found
