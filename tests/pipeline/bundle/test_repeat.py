"""`repro check --bundle --repeat-readout`: outputs that the features do not give are found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.commands import run_repro
from builders.reporters import RecordingReporter

from repro.backbones.registry import describe_backbone
from repro.cli.judge import bundle as bundling
from repro.core.workspace import Workspace
from repro.features.store import Entry, FeatureStore
from repro.pipeline.row_data import RowData
from repro.pipeline.runs.train import run_readouts
from repro.pipeline.stored_row import open_stored_row
from repro.readout.compute import Compute
from repro.smoke.clips import rendered_splits
from repro.table.row import row_backbone
from repro.table.rows import load_row

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = "smoke_mean_colour"
SEED = 7
"""Of which there is no golden value."""


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundling, "_render_page", lambda *_: "a page")  # takes seconds


def put_features(workspace: Workspace, seed: int, spread: float) -> None:
    """Store features of the smoke job's clips; with a small spread the classes are far apart."""
    row = load_row(ROW)
    config, cell = row_backbone(row), row.features
    store = FeatureStore.open(workspace, config.name, describe_backbone(config, workspace).identity(), "smoke")
    draws = np.random.default_rng(seed)
    for split in rendered_splits(workspace.smoke).values():
        for clip in split.clips:
            features = spread * draws.normal(size=(4, config.channels(cell) or 0)).astype(np.float32)
            features[:, clip.target[0]] += 1
            store.write_clip(clip.id, Entry({cell.name: features.astype(np.float32)}, "0" * 64, "pyav"))


def train(workspace: Workspace) -> None:
    data = RowData(rendered_splits(workspace.smoke))
    inputs = open_stored_row(load_row(ROW), workspace, data=data)
    run_readouts(inputs, [SEED], workspace, RecordingReporter(), compute=Compute(threads=1))


def bundle(workspace: Workspace, path: Path) -> None:
    done = run_repro("bundle", ROW, "-o", path, "--workspace", workspace.root)
    assert done.code == 0, done.err


def check(path: Path, workspace: Workspace, *words: str) -> tuple[int, dict[str, Any]]:
    done = run_repro("check", "--bundle", path, "--repeat-readout", "--json", "--workspace", workspace.root, *words)
    return done.code, json.loads(done.out)


@pytest.mark.slow
def test_a_readout_is_repeated_from_features(workspace: Workspace, tmp_path: Path) -> None:
    put_features(workspace, 0, 0.1)
    train(workspace)
    path = tmp_path / "bundle.zip"
    bundle(workspace, path)
    before = {file: file.stat().st_mtime_ns for file in workspace.root.rglob("*")}
    code, found = check(path, workspace)
    assert code == 0
    (run,) = found["readouts"]["runs"]
    assert (run["deviation"], run["equal_losses"], run["wrong"]) == (0, True, False)
    assert found["readouts"]["features_of_the_index"] == 40
    assert [level["done"] for level in found["levels"]] == [True, True, True, False, False]
    done = run_repro("check", "--bundle", path, "--repeat-readout", "--workspace", workspace.root)
    assert "level: readout repeated from features" in done.out
    assert {file: file.stat().st_mtime_ns for file in workspace.root.rglob("*")} == before
    # Without features here, nothing is repeated, and that is no success.
    code, found = check(path, Workspace(tmp_path / "none"))
    assert (code, found["readouts"]["runs"]) == (4, [])
    assert "features" in next(iter(found["readouts"]["failed"].values()))
    # Other features here are not those that the bundle commits to.
    put_features(workspace, 1, 0.1)
    code, found = check(path, workspace)
    assert code == 4
    assert "features.index" in next(iter(found["readouts"]["failed"].values()))


@pytest.mark.slow
def test_scores_that_the_features_do_not_give_are_found(workspace: Workspace, tmp_path: Path) -> None:
    """Trained on features of other videos, which the bundle's index does not have."""
    put_features(workspace, 0, 0.01)
    train(workspace)
    put_features(workspace, 1, 5.0)
    path = tmp_path / "bundle.zip"
    bundle(workspace, path)
    assert run_repro("check", "--bundle", path, "--workspace", tmp_path / "none").code == 0
    code, found = check(path, workspace)
    assert code == 1
    (run,) = found["readouts"]["runs"]
    assert run["wrong"]
    assert run["deviation"] > run["tolerance"]
    assert not found["levels"][2]["done"]


@pytest.mark.parametrize("words", [["--repeat-readout"], ["--features", "x.safetensors"], ["--device", "cpu"]])
def test_options_of_bundles_need_one(words: list[str], tmp_path: Path) -> None:
    done = run_repro("check", *words, "--workspace", tmp_path / "none")
    assert (done.code, done.out) == (2, "")
    assert "--bundle" in done.err
