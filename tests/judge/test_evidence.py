"""A record must agree with itself, with its folder and with its predictions, or it is named and not judged."""

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from builders.commands import run_repro
from builders.records import record, write_with_evidence

from repro.core.signed import write_signed_json
from repro.core.workspace import Workspace
from repro.judge.evidence import read_evidence
from repro.records.record import StoredRun, find_runs


@pytest.fixture
def stored(workspace: Workspace) -> StoredRun:
    return write_with_evidence(workspace.runs, record("ucf_hmdb_sdv2", 1, 0.765))


def sign(run: StoredRun, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record and sign it again, as somebody does who forges it."""
    raw = json.loads(run.record_path.read_text())
    del raw["sha256"]
    change(raw)
    write_signed_json(run.record_path, raw)


def set_everywhere(raw: dict[str, Any], name: str, score: float) -> None:
    for part in (*raw["epochs"], raw["best_epoch_on_test"], raw["last_epoch"]):
        part["scores"][name] = score


def copy_as(run: StoredRun, seed: int, sign_again: bool) -> None:
    copy = StoredRun(run.folder.with_name(f"seed{seed}-copied"))
    shutil.copytree(run.folder, copy.folder)
    if sign_again:
        sign(copy, lambda raw: raw.update(seed=seed, run="copied"))


def rename(run: StoredRun, name: str) -> None:
    run.folder.rename(run.folder.with_name(name))


FORGERIES: dict[str, tuple[Callable[[StoredRun], object], str]] = {
    "best in no epoch": (
        lambda run: sign(run, lambda raw: raw["best_epoch_on_test"]["scores"].update(top1=0.9)), "contradicts itself"
    ),
    "best of another epoch": (
        lambda run: sign(run, lambda raw: raw["best_epoch_on_test"].update(epoch=3)), "contradicts itself"
    ),
    "last in no epoch": (
        lambda run: sign(run, lambda raw: raw["last_epoch"]["scores"].update(map_macro=0.1)), "contradicts itself"
    ),
    "a better epoch is hidden": (
        lambda run: sign(run, lambda raw: raw["epochs"][4]["scores"].update(top1=0.99)), "contradicts itself"
    ),
    "epochs left out": (lambda run: sign(run, lambda raw: raw["epochs"].pop(2)), "contradicts itself"),
    "all epochs": (
        lambda run: sign(run, lambda raw: set_everywhere(raw, "top1", 0.9)), "top1 after epoch 1 is 0.765"
    ),
    "a score of nobody's interest": (
        lambda run: sign(run, lambda raw: set_everywhere(raw, "class_accuracy", 0.1)), "class_accuracy after epoch"
    ),
    "chance": (lambda run: sign(run, lambda raw: raw["chance"].update(top1=0.1)), "chance of top1"),
    "constant": (
        lambda run: sign(run, lambda raw: raw["constant"].update(map_macro=0.1)), "constant score of map_macro"
    ),
    "negative seed": (lambda run: sign(run, lambda raw: raw.update(seed=-1)), "seed: Input should be greater"),
    "readers": (
        lambda run: sign(run, lambda raw: raw["features"].update(readers={"pyav": 7})), "7 clips were read"
    ),
    "clips of the test split": (
        lambda run: sign(
            run,
            lambda raw: (raw["test"].update(clips=1199), raw["features"].update(readers={"pyav": 1438 + 1199})),
        ),
        "the record has 1199",
    ),
    "folder of another seed": (lambda run: rename(run, f"seed2-{run.folder.name.split('-')[1]}"), "not the run of"),
    "folder of another row": (
        lambda run: shutil.move(run.folder, run.folder.parent.parent / "ak_full_sdv2" / run.folder.name),
        "not the run of its folder",
    ),
    "predictions of other classes": (lambda run: sign(run, lambda raw: raw.update(classes=["a", "c"])), "classes"),
    "record is a pipe": (lambda run: (run.record_path.unlink(), os.mkfifo(run.record_path)), "cannot be read"),
    "record is a folder": (lambda run: (run.record_path.unlink(), run.record_path.mkdir()), "cannot be read"),
    "predictions are a pipe": (
        lambda run: (run.predictions_path.unlink(), os.mkfifo(run.predictions_path)), "cannot be read"
    ),
}  # fmt: skip


def check(workspace: Workspace) -> tuple[dict[str, Any], str]:
    done = run_repro("check", "--json", "--workspace", workspace.root)
    return json.loads(done.out), done.err


def test_a_record_with_its_evidence_is_judged(stored: StoredRun, workspace: Workspace) -> None:
    report, err = check(workspace)
    assert report["damaged_records"] == []
    assert report["counts"]["WITHIN MARGIN"] == 1
    assert err == ""


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_record_that_does_not_agree_is_named_and_not_judged(
    stored: StoredRun, workspace: Workspace, forgery: str
) -> None:
    forge, reason = FORGERIES[forgery]
    (workspace.runs / "ak_full_sdv2").mkdir()
    forge(stored)
    records, damaged = read_evidence(find_runs(workspace.runs))
    assert records == []
    assert len(damaged) == 1
    assert reason in damaged[0][1]
    assert str(workspace.runs) in damaged[0][1]
    assert "\n" not in damaged[0][1]


def test_check_names_a_forged_record_and_its_remedy(stored: StoredRun, workspace: Workspace) -> None:
    FORGERIES["all epochs"][0](stored)
    report, err = check(workspace)
    assert report["counts"]["NOT RUN"] == 24
    assert len(report["damaged_records"]) == 1
    assert "left out; `repro ucf_hmdb_sdv2` writes it again" in err


@pytest.mark.parametrize("sign_again", [False, True])
def test_a_copied_run_is_no_other_seed(stored: StoredRun, workspace: Workspace, sign_again: bool) -> None:
    copy_as(stored, 2, sign_again)
    records, damaged = read_evidence(find_runs(workspace.runs))
    assert [found.seed for found in records] == [1]
    assert len(damaged) == 1
    assert "seed2-copied" in damaged[0][1]
