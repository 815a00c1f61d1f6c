"""`repro track`: log the workspace's runs to MLflow."""

from repro.cli.options import FlagOption, WorkspaceOption
from repro.core.console import Reporter, print_sentence
from repro.core.errors import Exit, NothingToCheckError
from repro.core.workspace import Workspace, open_workspace, tracking_from_environment
from repro.judge.expected import rows_with_expected, table_path
from repro.judge.verdict import judge_rows
from repro.records.record import find_runs
from repro.table.rows import row_names


def track(*, rebuild: FlagOption = False, workspace: WorkspaceOption = None) -> Exit:
    """Log to MLflow the runs that it does not have yet, with the verdicts of `repro check` as tags.

    Commands that train log their runs themselves. This logs what a server did not take, or what was copied here.

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
    # Imported here: `repro --help` needs none of what it imports.
    from repro.records.mlflow_view import track_runs

    complete = track_runs(opened, reporter, rebuild=rebuild, verdicts=_judge_runs(opened))
    return Exit.OK if complete else Exit.MISSING


def _judge_runs(workspace: Workspace) -> dict[str, str]:
    """Return what `repro check` says of a row, by the key of each run that it judged. Damaged records are reported when they are logged."""
    names = set(row_names())
    runs = [run for run in find_runs(workspace.runs) if run.folder.parent.name in names]
    if not runs:
        return {}
    # Imported here: it imports NumPy and pyarrow.
    from repro.judge.evidence import Annotations, read_evidence

    annotations = Annotations(workspace)
    records, _ = read_evidence(runs, annotations)
    verdicts, _ = judge_rows(rows_with_expected(table_path()), records, annotations.compared)
    return {run.run: str(verdict.outcome) for verdict in verdicts for run in verdict.runs}
