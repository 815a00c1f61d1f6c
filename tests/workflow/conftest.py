"""Snakemake, clips, and what one process makes of them: shared by the tests of this folder.

Snakemake is no part of the lock. These tests take it from REPRO_TEST_SNAKEMAKE (the program's path) or PATH, and skip without it.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from builders.commands import ROOT, TESTS, run_repro

from repro.core.workspace import Workspace


@pytest.fixture(scope="session")
def programs() -> str:
    """PATH with Snakemake, and with `repro` as `repro submit` puts it there."""
    snakemake = os.environ.get("REPRO_TEST_SNAKEMAKE") or shutil.which("snakemake")
    if snakemake is None:
        pytest.skip("snakemake is neither on PATH nor in REPRO_TEST_SNAKEMAKE")
    return f"{Path(sys.executable).parent}:{Path(snakemake).parent}:{os.environ['PATH']}"


@pytest.fixture(scope="session")
def own_row(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row of 16 clips of a few seconds and a readout of two epochs, on a backbone without weights."""
    example = ROOT / "examples" / "own-videos" / "render_clips.py"
    spec = importlib.util.spec_from_file_location("render_clips", example)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table = module.render_clips(tmp_path_factory.mktemp("own") / "clips")
    assert run_repro("data", "new", table, "--backbone", "mean_colour").code == 0
    row = table.parent / "labels_row.yaml"
    raw = yaml.safe_load(row.read_text())
    row.write_text(yaml.safe_dump(raw | {"readout": raw["readout"] | {"epochs": 2, "layers": 1}}))
    return row


@pytest.fixture(scope="session")
def alone(own_row: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace of `repro run` of the row in one process."""
    workspace = Workspace(tmp_path_factory.mktemp("alone") / "workspace")
    data = own_row.with_name("labels.yaml")
    assert run_repro("data", "audit", data, "--workers", "1", "--workspace", workspace.root).code == 0
    done = run_repro("run", own_row, "--device", "cpu", "--workers", "1", "--workspace", workspace.root)
    assert done.code == 0, done.err
    return workspace


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """The folder through which a test and the jobs speak (builders/fake_gpus)."""
    folder = tmp_path / "control"
    folder.mkdir()
    return folder


@pytest.fixture
def environment(programs: str, control: Path) -> dict[str, str]:
    """Of a coordinator whose jobs use fake GPUs, and the checkout."""
    path = f"{TESTS / 'builders' / 'fake_gpus'}:{ROOT}"
    return {**os.environ, "PATH": programs, "PYTHONPATH": path, "TEST_CONTROL": str(control), "OMP_NUM_THREADS": "1"}
