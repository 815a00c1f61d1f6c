"""From Python: a workspace's run records, their predictions, and the verdicts that `repro check` prints.

Re-exported by `repro`; docs/api.md has an example.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from repro.core.errors import MissingError
from repro.core.hashing import file_sha256
from repro.core.workspace import open_workspace
from repro.judge.evidence import explain_predictions, read_evidence
from repro.judge.expected import rows_with_expected, table_path
from repro.judge.rescoring import read_run_predictions, rescore
from repro.judge.verdict import Verdict, judge_rows
from repro.readout.predictions import Predictions
from repro.records.record import RunRecord, find_runs, stored_run

if TYPE_CHECKING:
    from repro.judge.claims.judging import ClaimVerdict


def load_records(workspace: Path | str | None = None) -> list[RunRecord]:
    """Read every complete run record of a workspace, whatever its row and protocol.

    Args:
        workspace: Folder [default: REPRO_WORKSPACE, else ./workspace].

    Raises:
        MissingError: a record is damaged or does not agree with its predictions; `repro check` leaves such a record out with a warning.
    """
    opened = open_workspace(None if workspace is None else Path(workspace))
    records, damaged = read_evidence(find_runs(opened.runs))
    if damaged:
        raise MissingError(damaged[0][1])
    return records


def load_predictions(record: RunRecord, workspace: Path | str | None = None) -> Predictions:
    """Load a run's scores of every test clip, after the epochs that its record selects and after the last one.

    Args:
        record: A run record, as `load_records` returns them.
        workspace: Folder of the run [default: REPRO_WORKSPACE, else ./workspace].

    Returns:
        `clips` (N ids), `classes` (K names), `targets` `[N, K]` of 0 and 1, and `by_epoch`: probabilities `[N, K]` by the
        number of the epoch, such as `record.last_epoch.epoch`; empty in cells of a grid that are neither the row's own nor the best.

    Raises:
        MissingError: the predictions are missing, or not those that the record was written with.
    """
    opened = open_workspace(None if workspace is None else Path(workspace))
    run = stored_run(opened.runs, record.row, record.seed, record.run)
    predictions = read_run_predictions(run)
    if file_sha256(run.predictions_path) != record.predictions_sha256:
        raise MissingError(f"{run.predictions_path}: not the predictions that the record of the run is of")
    if run.scores_path.exists() and (why := explain_predictions(record, rescore(run.scores_path))[1]):
        raise MissingError(f"{run.scores_path}: it does not agree with the record of the run: {why}")
    return predictions


def judge_records(records: Iterable[RunRecord], rules: str = "1") -> list[Verdict]:
    """Judge run records against the published table: one verdict for each of its 24 rows, in the table's order.

    Records that do not match a row's current config are left out, as are those of extras and smoke rows.

    Args:
        records: Run records, as `load_records` returns them.
        rules: Number of a shipped rule set, or the folder of another.

    Raises:
        UsageError: there is no such rule set, or its table is not valid.
    """
    verdicts, _ = judge_rows(rows_with_expected(table_path(rules)), records)
    return verdicts


def judge_claims(workspace: Path | str | None = None, rules: str = "1") -> "list[ClaimVerdict]":
    """Judge the claims of the published table by a workspace's records and their predictions, as `repro check --claims` does.

    Args:
        workspace: Folder [default: REPRO_WORKSPACE, else ./workspace].
        rules: Number of a shipped rule set, or the folder of another.

    Raises:
        MissingError: a record is damaged or does not agree with its predictions.
        UsageError: there is no such rule set, or it is not valid.
    """
    # Imported here: it imports NumPy and pyarrow, which the verdicts on rows can do without.
    from repro.judge.claims.judging import judge_workspace_claims

    opened, table = open_workspace(None if workspace is None else Path(workspace)), table_path(rules)
    return judge_workspace_claims(rows_with_expected(table), load_records(opened.root), opened, table)[0]
