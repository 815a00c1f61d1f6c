"""A copied workspace brings somebody else's MLflow database, artifacts and records: nothing outside of it is written or deleted, nothing in
it is executed, and texts in records become lines of no other file."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from builders.commands import run_repro
from builders.records import record, write_with_evidence
from hostile import planted
from mlflow import MlflowClient

from repro.core.signed import write_signed_json
from repro.core.workspace import Workspace
from repro.records.mlflow_artifacts import delete_artifacts
from repro.records.record import RunRecord, StoredRun

ROW = "ucf_hmdb"
HOSTILE = "\x1b[31m<script>x</script>\n../../x\u202e" + "y" * 300


@pytest.fixture
def stored(workspace: Workspace, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> StoredRun:
    workspace.root.mkdir(parents=True, exist_ok=True)
    # What planted code would leave, and a database that mlflow makes wherever it runs, are seen.
    monkeypatch.chdir(workspace.root)
    shutil.copy(mlflow_template, workspace.mlflow_db)
    return write_with_evidence(workspace.runs, record(ROW, 42, 0.776))


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_all(workspace: Workspace, *words: tuple[str, ...]) -> None:
    for command, *options in words:
        done = run_repro(command, *options, "--workspace", workspace.root)
        assert done.code == 0, done.err
        assert not done.err.count("Traceback")


@pytest.mark.slow
def test_addresses_in_a_database_lead_nowhere_else(stored: StoredRun, workspace: Workspace, tmp_path: Path) -> None:
    run_all(workspace, ("track",))
    client = MlflowClient(f"sqlite:///{workspace.mlflow_db}")
    (experiment,) = client.search_experiments(filter_string="name = 'actiondiff-published'")
    (child,) = client.search_runs([experiment.experiment_id], "tags.`repro.run` != ''")
    model = client.create_logged_model(experiment.experiment_id, "readout", child.info.run_id)
    client.set_tag(child.info.run_id, "model", f"models:/{model.model_id}")
    victim = tmp_path / "victim" / "run" / "artifacts"
    (victim / "figures").mkdir(parents=True)
    (victim / "figures" / f"{ROW}-epochs.csv").write_text("mine")
    (victim / "record.json").write_text("mine")
    (workspace.mlflow_artifacts / "link").symlink_to(victim.parent.parent)
    (workspace.mlflow_artifacts / "MLmodel").write_text("flavors: {python_function: {loader_module: this}}")
    (workspace.mlflow_artifacts / "python_model.pkl").write_bytes(planted.pickled())
    before, kept = read_all(victim), read_all(workspace.runs)
    here = workspace.mlflow_artifacts.as_uri()
    copy = shutil.copy(workspace.mlflow_db, tmp_path / "copy.db")
    link, above = f"{here}/link/run/artifacts", f"{here}/../../victim/run/artifacts"
    for address in (link, above, "file://["):
        for command in (("track",), ("track", "--rebuild")) if address == link else (("track", "--rebuild"),):
            shutil.copy(copy, workspace.mlflow_db)
            with closing(sqlite3.connect(workspace.mlflow_db)) as database, database:
                database.execute("update runs set artifact_uri = ?, status = 'RUNNING'", (address,))
                database.execute("update logged_models set artifact_location = ?", (address,))
                database.execute("update experiments set artifact_location = ?", (address,))
                # Its figures are others by now.
                database.execute("update tags set value = 'x' where key = 'repro.figures'")
            run_all(workspace, command)
            assert read_all(victim) == before, address
            assert read_all(workspace.runs) == kept, address
    log = workspace.root / "mlflow-ui.log"
    log.symlink_to(victim / "record.json")
    done = run_repro("ui", "--port", "5999", "--workspace", workspace.root)
    assert (done.code, done.err.count("\n"), "which nothing is written through" in done.err) == (2, 1, True), done.err
    assert read_all(victim) == before
    run_all(workspace, ("report", "-o", str(tmp_path / "report.html")), ("bundle", ROW, "-o", str(tmp_path / "x.zip")))
    assert not list(tmp_path.rglob(planted.RAN))
    assert not list(tmp_path.rglob("mlruns"))


def test_only_folders_below_the_artifacts_are_deleted(tmp_path: Path) -> None:
    within = tmp_path / "w" / "mlartifacts"
    (within / "run" / "artifacts").mkdir(parents=True)
    (within / "run" / "artifacts" / "link").symlink_to(tmp_path / "w")
    for uri in (
        "file:///a%00b",
        "file://[",
        "",
        f"{within.as_uri()}/run/%2e%2e/../run/../x",
        f"http://h{within}/run/artifacts",
        within.as_uri(),
        f"{within.as_uri()}/run",
        f"{within.as_uri()}/run/..",
        tmp_path.as_uri(),
        f"x://{within}/run/artifacts",
    ):
        delete_artifacts(uri, within)
        assert (within / "run" / "artifacts").is_dir()
    delete_artifacts(f"{within.as_uri()}/run/artifacts", within)
    assert [*within.iterdir()] == []


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow.db-wal", "mlartifacts", "mlartifacts/models", ".mlflow.lock"])
def test_links_of_a_workspace_are_not_written_through(
    name: str, stored: StoredRun, workspace: Workspace, tmp_path: Path
) -> None:
    victim, place = tmp_path / "victim", workspace.root / name
    place.parent.mkdir(exist_ok=True)
    if place.name in ("mlartifacts", "models"):
        victim.mkdir()
    else:
        victim.write_bytes(workspace.mlflow_db.read_bytes() if name == "mlflow.db" else b"mine")
    place.unlink(missing_ok=True)
    place.symlink_to(victim)
    before = victim.read_bytes() if victim.is_file() else b""
    for words in (["track"], ["track", "--rebuild"]):
        done = run_repro(*words, "--workspace", workspace.root)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert f"{place}: a link to {victim}, which nothing is written through" in done.err
        assert [*victim.iterdir()] == [] if victim.is_dir() else victim.read_bytes() == before


@pytest.mark.slow
def test_texts_of_a_record_are_texts_in_mlflow(stored: StoredRun, workspace: Workspace, tmp_path: Path) -> None:
    found = stored.load_record()
    assert isinstance(found, RunRecord)
    versions = {"torch": "2\n--index-url http://x", "numpy": "2 @ http://x", "safetensors": "0.5.3"}
    made = found.made.model_copy(
        update={"by": found.made.by | versions, "on": {"device": HOSTILE}, "source": {"image": HOSTILE}}
    )
    changed = found.model_copy(update={"made": made, "classes": (HOSTILE, *found.classes[1:])})
    (stored.folder / "selected_epoch.safetensors").write_bytes(b"x")
    write_signed_json(stored.record_path, changed.model_dump(mode="json"))
    run_all(workspace, ("track",))
    assert all(path.name.isprintable() and len(path.name) < 60 for path in workspace.mlflow_artifacts.rglob("*"))
    (required,) = workspace.mlflow_artifacts.rglob("requirements.txt")
    assert "safetensors==0.5.3" in required.read_text()
    assert "http" not in required.read_text()
    # A link in the place of the weights is not followed to a file that the record does not name.
    (stored.folder / "selected_epoch.safetensors").unlink()
    (tmp_path / "private").write_text("private")
    (stored.folder / "selected_epoch.safetensors").symlink_to(tmp_path / "private")
    run_all(workspace, ("track", "--rebuild"))
    assert not [
        path for path in workspace.mlflow_artifacts.rglob("*") if path.is_file() and path.read_bytes() == b"private"
    ]
