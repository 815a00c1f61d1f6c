"""Fixtures shared by the tests. Everything they need is made here or by the project; `reference` is a folder of golden
values and real clips next to the checkout, and tests that need it say that they skipped where it is not there."""

import gc
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import builders.shapes  # noqa: F401  # first, so that the shapes of all that is imported of repro are checked
import pytest
import torch
from builders.commands import ROOT
from builders.reporters import RecordingReporter
from safetensors.numpy import save_file

from repro.backbones.registry import load_backbone
from repro.backbones.svd.checkpoint import write_random_checkpoint
from repro.backbones.svd.config import SvdConfig
from repro.core.files import replacing_file
from repro.core.locks import wait_for_lock
from repro.core.workspace import Workspace
from repro.records import mlflow_view
from repro.smoke import clips
from repro.video import workers
from repro.video.synthetic import scenes

# Collecting the tests imports millions of objects that all stay: the collector would look through them eight times.
gc.disable()

REFERENCE = Path(os.environ.get("REPRO_TEST_REFERENCE", ROOT.parent / "shared"))


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background jobs; commands that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long end-to-end modules first: processes that share the tests then end at about the same time."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _workers_start_quickly() -> Iterator[None]:
    """Workers of this process are forked from one that has imported what they need, which takes each a third of a second. Those of
    commands in a process of their own, and in tests/video/test_workers.py, are spawned, as users' are."""
    multiprocessing.set_forkserver_preload(["repro.video.decoders", "repro.video.probe"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "CONTEXT", multiprocessing.get_context("forkserver"))
        yield


@pytest.fixture(scope="session")
def reference() -> Path:
    if not (REFERENCE / "parity").is_dir():
        pytest.skip("no folder of golden values and real clips next to the checkout")
    return REFERENCE


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs, which MLflow takes seconds to create: one for all processes that share the tests."""
    mlflow, base = mlflow_view.import_mlflow(), tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "template.db"
    with wait_for_lock(path.with_suffix(".lock"), lambda: None):
        if not path.is_file():
            with replacing_file(path) as partial:
                mlflow.MlflowClient(f"sqlite:///{partial}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def _databases_are_copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace's mlflow.db is made of `mlflow_template`. Commands that run in a process of their own create it."""
    import_mlflow = mlflow_view.import_mlflow

    def import_and_replace() -> ModuleType:
        database = import_mlflow()

        def copy_tables(path: Path) -> None:
            shutil.copyfile(request.getfixturevalue("mlflow_template"), path)

        monkeypatch.setattr(database, "create_tables", copy_tables)
        return database

    monkeypatch.setattr(mlflow_view, "import_mlflow", import_and_replace)


@pytest.fixture(scope="session")
def tiny() -> SvdConfig:
    config = load_backbone("svd_xt_tiny")
    assert isinstance(config, SvdConfig)
    return config


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny: SvdConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    from repro.backbones.svd.with_diffusers import published_shapes  # diffusers takes seconds to import

    write_random_checkpoint(path, published_shapes(tiny.architecture), seed=5)
    return path


@pytest.fixture(scope="session")
def kit_checkpoint(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights the golden values were made with."""
    spec = importlib.util.spec_from_file_location("make_checkpoint", reference / "parity" / "make_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    path = tmp_path_factory.mktemp("kit") / "kit.safetensors"
    save_file(kit.state(json.loads((reference / "parity" / "keys.json").read_text()), 7), path)
    return path


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four short clips of the smoke job, the shortest first: of one window, of several, and of two sizes."""
    folder = tmp_path_factory.mktemp("rendered")
    chosen = {s.frames: s for s in scenes.smoke_scenes() if s.frames in (11, 40, 104, 212)}
    paths = {}
    for scene in sorted(chosen.values(), key=lambda scene: scene.frames):
        paths[scene.id] = folder / f"{scene.id}.mp4"
        clips.encode_scene(paths[scene.id], scene)
    return paths


@pytest.fixture
def clip(rendered: dict[str, Path]) -> Path:
    """A clip of 40 native frames, 10 sampled ones."""
    frames = {s.id: s.frames for s in scenes.smoke_scenes()}
    return next(path for name, path in rendered.items() if frames[name] == 40)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Training this small is quickest on one thread, above all on a machine that others use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def reporter() -> RecordingReporter:
    return RecordingReporter()
