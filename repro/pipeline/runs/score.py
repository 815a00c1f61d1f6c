"""What `repro check` and `repro report` compute of a row's runs, computed when these are recorded: it takes long, and is kept."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from repro.core import LazyModule
from repro.core.errors import ReproError
from repro.core.workspace import Workspace
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs
from repro.table.row import Row

# Small rows, which need none of it, would wait for their imports.
if TYPE_CHECKING:
    from repro.judge import evidence, expected
    from repro.judge.claims import judging
    from repro.judge.scores import numbers, row_scores
else:
    evidence = LazyModule("repro.judge.evidence")
    expected = LazyModule("repro.judge.expected")
    judging = LazyModule("repro.judge.claims.judging")
    numbers = LazyModule("repro.judge.scores.numbers")
    row_scores = LazyModule("repro.judge.scores.row_scores")

SMALL = 1 << 20
"""Bytes of predictions that are scored within a second: whoever needs these scores computes them."""


def keep_scores(row: Row, workspace: Workspace, warn: Callable[[str], None], least: int = SMALL) -> None:
    """Compute the scores of a row's runs, by class and on samples of source videos, and keep them in the workspace.

    Nothing depends on it: what is missing, or damaged, is named by the command that reads it.

    Args:
        row: The row.
        workspace: Where its runs are.
        warn: Called with a message if something that was kept is wrong.
        least: Bytes of predictions below which nothing is kept.
    """
    runs: list[tuple[StoredRun, RunRecord]] = []
    size = 0
    for run in find_runs(workspace.runs, row.name):
        with suppress(DamagedRecordError, OSError):
            record = run.load_record()
            if record is not None:
                size += run.predictions_path.stat().st_size
                runs.append((run, record))
    if size < least:
        return
    records, memory = [record for _, record in runs], numbers.remember_numbers(workspace.computed, warn)
    # The runs are complete without it, also on a disk that fails.
    with suppress(ReproError, OSError):
        evidence.rescore_runs(runs, workspace, warn)
        row_scores.compute_row_scores(row, workspace, records=records, memory=memory)
        table = expected.rows_with_expected(expected.table_path())
        if row.name in table:
            judging.keep_samples(*table[row.name], records, workspace, warn)
