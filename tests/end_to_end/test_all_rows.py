"""All 24 rows from their publishers' files to a record, on tiny data, weights of all four backbones, and the shipped code."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import tiny_datasets, tiny_project
from builders.repro_rows import read_out_here, run_here
from builders.shipped import use_shipped
from builders.tiny_project import load_records

from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone, load_backbone
from repro.cli.app import dispatch
from repro.core.console import Reporter
from repro.core.workspace import Workspace
from repro.features.store import Entry, FeatureStore
from repro.pipeline.row import RowRequest
from repro.pipeline.several_rows import run_rows
from repro.readout.compute import Compute
from repro.records import mlflow_view
from repro.table.row import Row
from repro.table.rows import load_row, row_names, table_order


def run_all_rows(project: Workspace) -> None:
    """The rows of each setting in one command, which share what SVD's backbones have in common."""
    rows = [load_row(name) for name in row_names()]
    *others, last = ([row for row in rows if row.setting == setting] for setting in table_order().settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_view, "log_runs", lambda *_: None)  # a second a row; the last rows log all of them
        for together in others:
            run_together(together, project)
    run_together(last, project)


def run_together(rows: list[Row], project: Workspace) -> None:
    done = run_rows(rows, RowRequest(), project, Execution(workers=1), Compute(), Reporter(to_stderr=True))
    assert done.failures == {}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_all_24_rows_run_end_to_end_and_then_reuse_everything(
    project: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run_all_rows(project)
    capsys.readouterr()
    made = load_records(project)
    made = {name: made[name] for name in sorted(row_names())}
    for name, record in made.items():
        row = load_row(name)
        assert (record.train.name, record.test.name) == (str(row.data.train), str(row.data.test)), name
        assert record.recipe == row.readout
        assert record.features.cell == row.features.name
        assert record.features.identity["family"] == {"sdv2": "svd", "svd_xt": "svd"}.get(row.backbone, row.backbone)
        assert record.checkpoint_assumed == (row.backbone in ("vjepa", "videomaev2"))
        assert len(record.epochs) == tiny_project.EPOCHS
    # Rows of one backbone share a key, backbones do not; settings that read other clips have other splits.
    keys = {(load_row(name).backbone, record.features.key) for name, record in made.items()}
    assert len(keys) == 4
    assert (
        len({record.test.sha256 for record in made.values()}) == len(table_order().settings) - 1
    )  # charades 1to1 and 3to1 share a test
    assert len({record.run for record in made.values()}) == 24
    with closing(sqlite3.connect(project.mlflow_db)) as database:
        logged = {run for (run,) in database.execute("select value from tags where key = 'repro.run'")}
    assert {record.run for record in made.values()} <= logged

    run_all_rows(project)
    said = capsys.readouterr().err
    assert "extracted" not in said
    assert "trained" not in said
    assert {name: record for name, record in load_records(project).items() if name in made} == made


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_bundle_is_checked_against_annotation_files_and_videos(
    project: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(load_row("ucf_hmdb_vjepa"), project, as_json=True)
    bundle, place = str(tmp_path / "bundle.zip"), ["--workspace", str(project.root), "--json"]
    assert dispatch(["bundle", "ucf_hmdb_vjepa", "-o", bundle, *place]) == 0
    before = {path: path.stat().st_mtime_ns for path in project.root.rglob("*")}
    capsys.readouterr()
    code = dispatch(["check", "--bundle", bundle, "--sample", "2", "--nonce", "mine", *place])
    report = json.loads(capsys.readouterr().out)
    assert report["targets"] == {"hmdb51/full": "the publisher's annotation files"}
    assert [check["dataset"] for check in report["spot_checks"]] == ["ucf101", "hmdb51"]
    assert all(len(check["deviations"]) == 2 and not check["wrong"] for check in report["spot_checks"])
    assert [level["done"] for level in report["levels"]] == [True, True, False, True, False]
    (verdict,) = report["verdicts"]
    assert (code == 1) == (verdict["verdict"] in ("HIGHER", "LOWER"))
    assert {path: path.stat().st_mtime_ns for path in project.root.rglob("*")} == before


EXTRAS = (
    "charades_1to3_vjepa", "ak_unseen_svd", "ak_unseen_fixed", "hmdb_hmdb", "ak_actions_videomaev2", "ak_unseen_linear",
    "ak_full_window10", "ak_full_bce", "ak_full_no_conditioning", "ak_full_action_text", "ak_full_empty_text",
    "ak_unseen_latent_noise", "ucf_hmdb_up_07",
)  # fmt: skip
"""One of each kind."""


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_every_kind_of_extra_runs_end_to_end(
    project: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_view, "log_runs", lambda *_: None)  # a second a row, which the test of 24 rows has
    for name in EXTRAS:
        # The number of clips is no kind of extra.
        run_here(load_row(name), project, RowRequest(limit=2), as_json=True)
    capsys.readouterr()
    made = load_records(project)
    for name in EXTRAS:
        row, record = load_row(name), made[name]
        assert (record.kind, record.train.name, record.test.name) == ("extra", str(row.data.train), str(row.data.test))
        assert record.recipe == row.readout
        assert record.features.cell == row.features.name
    # Another window, conditioning or noise is another set of features.
    changed = [
        "ak_full_window10",
        "ak_full_no_conditioning",
        "ak_full_action_text",
        "ak_full_empty_text",
        "ak_unseen_latent_noise",
    ]
    assert len({made[name].features.key for name in ["ak_unseen_fixed", "ak_unseen_svd", *changed]}) == 7


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_workspace_may_move(
    project: Workspace, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(load_row("ak_full_vjepa"), project, as_json=True)
    capsys.readouterr()
    shutil.copytree(folder / "workspace", tmp_path / "elsewhere", ignore=shutil.ignore_patterns("*.lock"))
    elsewhere = Workspace(tmp_path / "elsewhere")
    run_here(load_row("ak_full_vjepa"), elsewhere, as_json=True)
    said = capsys.readouterr().err
    assert "extracted" not in said
    assert "trained" not in said


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_with_permuted_labels_the_score_falls_to_chance(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted features that say the class: learnt when the publishers' file has the labels in order, not when it has them mixed."""
    shutil.copytree(folder / "configs", tmp_path / "configs")
    use_shipped(monkeypatch, configs=tmp_path / "configs")
    load_row.cache_clear()
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 4, 160)
    names = ["".join(chr(65 + n // 26**k % 26) for k in range(8)) for n in range(160)]
    scores = {}
    for what in ("in order", "permuted"):
        workspace = Workspace(tmp_path / what)
        (workspace.root).mkdir()
        (workspace.root / "checkpoints").symlink_to(folder / "workspace" / "checkpoints")
        given = labels.copy() if what == "in order" else np.concatenate([draws.permutation(labels[:120]), labels[120:]])
        rows = [
            (name, "train" if n < 120 else "test", str(40 + int(given[n])), "[('Mallard', 'Eating')]")
            for n, name in enumerate(names)
        ]
        facts = tiny_datasets.animal_kingdom(workspace.data / "animal_kingdom", films=False, rows=rows).splits
        counts = {name: {} for name in facts} | {"full_train": {"clips": 120}, "full_test": {"clips": 40}}
        config = yaml.safe_load((folder / "configs" / "datasets" / "animal_kingdom.yaml").read_text()) | {
            "splits": counts
        }
        (tmp_path / "configs" / "datasets" / "animal_kingdom.yaml").write_text(yaml.safe_dump(config))
        path = tmp_path / "configs" / "rows" / "ak_full_vjepa.yaml"
        row = yaml.safe_load(path.read_text())
        row["readout"] |= {"epochs": 8, "learning_rate": 1e-3, "mixup": 0.0, "layers": 1}
        path.write_text(yaml.safe_dump(row))
        load_row.cache_clear()
        backbone = describe_backbone(load_backbone("vjepa"), workspace)
        store = FeatureStore.open(workspace, "vjepa", backbone.identity(), "animal_kingdom")
        planted = np.random.default_rng(1).standard_normal((4, 96)).astype(np.float32)
        for n, name in enumerate(names):
            noise = np.random.default_rng(n).standard_normal((6, 96)).astype(np.float32)
            store.write_clip(name, Entry({"final": planted[labels[n]] + noise}, f"{n:064x}", "planted"))
        read_out_here(load_row("ak_full_vjepa"), workspace, as_json=True)
        (record,) = json.loads(capsys.readouterr().out)
        scores[what] = record["last_epoch"]["scores"]["map_macro"]
        prior = record["class_prior"]["map_macro"]
    load_row.cache_clear()
    assert scores["in order"] > 0.95
    assert scores["permuted"] < prior + 0.15
