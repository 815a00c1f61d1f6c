"""What a row keeps of its runs' scores is all that a report takes long to compute."""

from pathlib import Path

import pytest
from builders.records import record, write_with_evidence

from repro.core.workspace import open_workspace
from repro.pipeline.runs.score import keep_scores
from repro.report.contents import gather_contents
from repro.table.rows import load_row

PAIR = ("ucf_hmdb", "ucf_hmdb_sdv2")


def test_the_first_report_computes_nothing_that_rows_have_kept(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)
    for name in PAIR:
        for seed in load_row(name).seeds.first(5):
            write_with_evidence(workspace.runs, record(name, seed, 0.77, name))
        keep_scores(load_row(name), workspace, pytest.fail)
    # Small files take no time.
    assert not workspace.rescored.exists()
    assert not workspace.computed.exists()
    for name in PAIR:
        keep_scores(load_row(name), workspace, pytest.fail, least=0)
    kept = [path.read_text().splitlines() for path in (workspace.rescored, workspace.computed)]
    # Scores of ten runs; scores by class of two rows, and samples of ten runs.
    assert [len(lines) for lines in kept] == [10, 12]
    contents = gather_contents((), workspace)
    assert contents.judge_claims is not None
    judged = {claim.below.row: claim for claim in contents.judge_claims().claims}
    assert judged[PAIR[1]].on_clips is not None
    assert [path.read_text().splitlines() for path in (workspace.rescored, workspace.computed)] == kept


def test_damaged_runs_are_left_to_the_command_that_names_them(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)
    runs = [
        write_with_evidence(workspace.runs, record(PAIR[0], seed, 0.77)) for seed in load_row(PAIR[0]).seeds.first(5)
    ]
    runs[0].record_path.write_text("{}")
    runs[1].predictions_path.write_bytes(b"PAR1")
    runs[2].predictions_path.unlink()
    keep_scores(load_row(PAIR[0]), workspace, pytest.fail, least=0)
    # The scores of the two intact runs, and theirs by class; samples are of as many seeds as planned.
    assert [len(path.read_text().splitlines()) for path in (workspace.rescored, workspace.computed)] == [2, 1]
