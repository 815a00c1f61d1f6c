"""The short form of the fault suite: a few of each kind of fault, over the stages. `make faults` is the long form."""

import random
from dataclasses import replace

import pytest
from faults import kinds as known
from faults.report import make_table
from faults.stages import Lab
from faults.trials import Fault, Outcome, compare_contents, try_eight_processes, try_fault

pytestmark = pytest.mark.timeout(1800)  # the first trial makes the laboratory
PARENT, GROUP, AT_OPERATION, PARENT_AT_OPERATION = known.KILLS
SHORT_FORM: tuple[tuple[str, Fault], ...] = (
    ("prepare", AT_OPERATION), ("audit", GROUP), ("extract", PARENT), ("shards", AT_OPERATION), ("pack", AT_OPERATION),
    ("row", AT_OPERATION), ("row", known.SIGNALS[0]), ("train", GROUP), ("train", AT_OPERATION), ("record", AT_OPERATION),
    ("bundle", AT_OPERATION), ("report", PARENT_AT_OPERATION), ("extract", known.HANGING_WORKER),
    ("train", known.PRELOADED_DISKS[0]), ("row", known.PRELOADED_DISKS[3]), ("pack", known.PRELOADED_DISKS[5]),
    ("train", known.CLOCK), ("extract", known.WORKER_MEMORY), ("train", known.DISKS[0]), ("extract", known.DISKS[1]),
    ("record", known.MLFLOW[0]),
)  # fmt: skip


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize(("stage", "fault"), SHORT_FORM, ids=[f"{stage}: {fault.name}" for stage, fault in SHORT_FORM])
def test_disturbed_a_stage_says_so_and_ends_equal_when_run_again(lab: Lab, stage: str, fault: Fault) -> None:
    available = known.list_available(lab.machine)
    if fault.name in available.skipped:
        pytest.skip(f"{fault.name}: {available.skipped[fault.name]}")
    # The second kill strikes a command that resumes; the long form has two more.
    short = replace(fault, times=min(fault.times, 2))
    outcome = try_fault(lab, stage, short, random.Random(f"{stage} {fault.name}"))
    assert not outcome.problems, outcome


@pytest.mark.faults
@pytest.mark.slow
def test_eight_processes_on_one_workspace(lab: Lab) -> None:
    outcome = try_eight_processes(lab)
    assert not outcome.problems, outcome


def test_what_differs_is_found() -> None:
    undisturbed = {"features/a": "1", "runs/record.json": "2", "mlflow.db": "3"}
    found = {"features/a": "9", "runs/record.json": "2", ".x.partial/content": "4"}
    assert compare_contents(undisturbed, undisturbed) == []
    assert compare_contents(undisturbed, found) == [
        "missing: mlflow.db", "orphan file: .x.partial/content", "other contents: features/a",
    ]  # fmt: skip


def test_the_table_counts_trials_kills_and_what_went_wrong() -> None:
    killed = Outcome("train", PARENT.name, True, (-9, -9), "", ())
    late = Outcome("train", PARENT.name, False, (0,), "", ())
    wrong = Outcome("pack", GROUP.name, True, (-9,), "", ("orphan file: x",))
    lines = [{**{name: getattr(one, name) for name in Outcome.__slots__}} for one in (killed, late, wrong)]
    table = make_table(lines, {"a power cut": "only root mounts"})
    assert table.startswith("3 trials, 3 SIGKILLs.\n")
    assert f"| {PARENT.name} | 2 | 1 | 1 | 1 | 0 |" in table
    assert f"| {GROUP.name} | 1 | 1 | 0 | 0 | 1 |" in table
    assert "| pack | 1 | 0 | 1 |" in table
    assert "a power cut (only root mounts)" in table
