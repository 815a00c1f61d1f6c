"""What earlier versions wrote is read: a workspace of version 0.1.0, written by it (7 clips of the smoke job, mean colours), without
its videos and weights, and what it called files and fields that have other names now."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from builders.commands import TESTS, run_repro

from repro.core.hashing import file_sha256
from repro.core.workspace import Workspace
from repro.features.rates import load_rates
from repro.features.store import FeatureStore
from repro.readout.metrics import all_scores
from repro.readout.predictions import read_predictions
from repro.records.record import StoredRun, find_runs

STORED = Path(__file__).parent / "version_0_1_0"
OTHER = TESTS / "builders" / "version_0_1_0"
"""Runs of another workspace of that version."""
BUNDLE = Path(__file__).parent / "version_0_1_0.zip"
"""The smoke job's evidence, as that version bundled it."""


@pytest.fixture
def earlier(tmp_path: Path) -> Workspace:
    """A copy, as reading a workspace may write to it."""
    shutil.copytree(STORED, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def run(earlier: Workspace) -> StoredRun:
    (found,) = find_runs(earlier.runs)
    return found


def test_a_record_and_its_predictions_are_read(run: StoredRun) -> None:
    record = run.load_record()
    assert record is not None
    assert (record.row, record.seed, record.made.by["actiondiff-repro"]) == ("smoke_mean_colour", 1, "0.1.0")
    assert file_sha256(run.predictions_path) == record.predictions_sha256
    predictions = read_predictions(run.predictions_path)
    assert predictions.format == 1
    for selected in (record.best_epoch_on_test, record.last_epoch):
        scores = all_scores(predictions.by_epoch[selected.epoch], predictions.targets)
        assert scores == pytest.approx(dict(selected.scores))


def test_features_are_found_under_their_key(earlier: Workspace, run: StoredRun) -> None:
    """Another key would have every clip of a workspace extracted again."""
    record = run.load_record()
    assert record is not None
    identity = dict(record.features.identity)
    store = FeatureStore.locate(earlier, "mean_colour", identity, "smoke")
    assert store.folder.is_dir()
    pack = store.open_verified_pack("final")
    assert pack is not None
    assert len(pack.places) == 7
    assert all(np.isfinite(pack.clip_values(clip)).all() for clip in pack.places)
    assert len(load_rates(earlier)) == 1


def test_commands_read_the_workspace(earlier: Workspace) -> None:
    before = {path.relative_to(earlier.root) for path in earlier.root.rglob("*") if path.is_file()}
    for words in (["check"], ["list"]):
        done = run_repro(*words, "--workspace", earlier.root)
        assert (done.code in (0, 4, 5), done.err.count("Traceback")) == (True, 0), (words, done.err)
    assert before <= {path.relative_to(earlier.root) for path in earlier.root.rglob("*") if path.is_file()}


def test_two_workspaces_of_that_version_are_merged_by_copying_their_runs(earlier: Workspace) -> None:
    shutil.copytree(OTHER, earlier.runs, dirs_exist_ok=True)
    runs = [run.load_record() for run in find_runs(earlier.runs)]
    assert sorted((run.row, run.seed) for run in runs if run) == [("smoke_mean_colour", 1), ("smoke_mean_colour", 52)]
    done = run_repro("check", "--workspace", earlier.root)
    assert done.code in (0, 4, 5)
    assert "Traceback" not in done.err


def test_a_bundle_is_judged(tmp_path: Path) -> None:
    done = run_repro("check", "--bundle", BUNDLE, "--json", "--workspace", tmp_path / "none")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["made_by"] == "actiondiff-repro 0.1.0"
    assert len(found["lines"]) == 8
    assert all("REPEATED" in line for line in found["lines"])
    assert [level["done"] for level in found["levels"][:2]] == [True, True]


def test_the_stored_files_are_those_that_were_written() -> None:
    """A record carries its own sha256, and names that of its predictions: an edit would show above."""
    (path,) = STORED.rglob("record.json")
    assert "predictions_format" not in json.loads(path.read_text())
    assert sum(file.stat().st_size for file in STORED.rglob("*") if file.is_file()) < 300_000
