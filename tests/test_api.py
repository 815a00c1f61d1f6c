"""The public Python API: what docs/api.md shows works, and importing it costs nothing."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import tiny_datasets
from builders.commands import ROOT
from builders.records import record, write_with_evidence
from builders.repro_rows import colour_row, run_here

import repro
from repro.core.workspace import Workspace
from repro.judge.verdict import Outcome
from repro.pipeline import api, row_data
from repro.records import mlflow_view
from repro.table import rows
from repro.table.rows import load_row


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, repro; assert not {'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules); repro.load_row"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_public_name_is_there_and_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for name in repro.__all__:
        assert getattr(repro, name) is not None
        assert name in dir(repro)
        assert name == "__version__" or f"`{name}" in text
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = repro.nothing


@pytest.fixture
def ready(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Tiny UCF101 and HMDB51, and the row on mean colour, which needs no weights."""
    opened = tiny_datasets.ucf_hmdb_opener(workspace)
    row = colour_row("ucf_hmdb", epochs=2)
    for module in (row_data, api):
        monkeypatch.setattr(module, "open_dataset", opened)
    monkeypatch.setattr(mlflow_view, "log_runs", lambda *_: None)  # takes seconds; other tests have it
    monkeypatch.setenv("REPRO_DEVICE", "cpu")
    monkeypatch.setattr(rows, "load_row", lambda name: row if name == "ucf_hmdb" else load_row(name))
    monkeypatch.setenv("REPRO_WORKSPACE", str(workspace.root))
    return workspace


def read_examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run_example(text: str) -> dict[str, Any]:
    """Run an example with backbones that need no download."""
    text = text.replace('"svd_xt", [8, 9, 10], timestep=20', '"vjepa_tiny", [1, 2, 3]').replace("svd_xt", "mean_colour")
    names: dict[str, Any] = {}
    exec(compile(text, "docs/api.md", "exec"), names)
    return names


def write_own_clips(folder: Path) -> None:
    """Write my.yaml and my_row.yaml of eight clips, which are copies of clip.mp4."""
    lines = ["path,label,split"]
    for label in ("walk", "eat"):
        for number in range(4):
            shutil.copy(folder / "clip.mp4", folder / f"{label}{number}.mp4")
            lines.append(f"{label}{number}.mp4,{label},{'train' if number else 'test'}")
    (folder / "my.csv").write_text("\n".join(lines))
    (folder / "my.yaml").write_text("clips: my.csv")
    (folder / "my_row.yaml").write_text("data: my.yaml\nbackbone: mean_colour\nreadout: {epochs: 1, layers: 1}")


@pytest.mark.slow
def test_the_examples_of_the_docs_run(
    ready: Workspace, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(rows.load_row("ucf_hmdb"), ready)
    for seed in range(5):
        write_with_evidence(
            ready.runs, record("ak_full_sdv2", repro.load_row("ak_full_sdv2").seeds.published + seed, 0.7866)
        )
    monkeypatch.chdir(ready.root)
    shutil.copy(clip, "clip.mp4")
    capsys.readouterr()
    write_own_clips(ready.root)
    first, *others = read_examples("docs/api.md")
    assert read_examples("README.md") == [first]
    run_example(first)
    said = capsys.readouterr().out
    assert "ak_full_sdv2 REPRODUCED" in said
    assert "'climb': 0." in said
    found = [run_example(example) for example in others]
    assert found[0]["stacked"].shape == (5, 3, 96)
    assert (found[1]["first_clip"].ndim, found[1]["labels"].shape, found[1]["scores"].ndim) == (2, (24, 12), 2)
    assert len(found[2]["train"].clips) == 6
    assert set(found[2]["probabilities"]) == {"eat", "walk"}


@pytest.mark.slow
def test_features_are_those_of_the_command_and_readouts_those_of_the_row(ready: Workspace, clip: Path) -> None:
    run_here(rows.load_row("ucf_hmdb"), ready)
    train, test = (repro.load_features(name, "mean_colour") for name in ("ucf101/train", "hmdb51/full"))
    assert len(train.features) == len(train.clips) == len(train.targets)
    assert train.targets.sum() == len(train.clips)
    recipe = rows.load_row("ucf_hmdb").readout
    trained = repro.train_readout(train, test, recipe, seed=42, metric="top1")
    (stored,) = [found for found in repro.load_records() if found.row == "ucf_hmdb"]
    assert [epoch.scores for epoch in trained.result.epochs] == [epoch.scores for epoch in stored.epochs]
    folder = next(ready.runs.glob("ucf_hmdb/seed42-*"))
    last = repro.load_readout(folder / "last_epoch.safetensors")
    features = repro.extract_features(clip, "mean_colour")
    assert trained.readout.score(features).tolist() == last.score(features).tolist()
    scores = repro.score_video("ucf_hmdb", clip)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert set(scores) == set(train.classes)


def test_what_cannot_be_had_is_an_error_of_one_line(ready: Workspace, clip: Path, tmp_path: Path) -> None:
    for mistake, reporter in (
        (lambda: repro.load_features("ucf101", "mean_colour"), "expected <data set>/<split>"),
        (lambda: repro.load_features("none.yaml/train", "mean_colour"), "no such file"),
        (lambda: repro.extract_layers(clip, "vjepa_tiny", [1, 1]), "each once"),
        (lambda: repro.extract_layers(clip, "vjepa_tiny", [4]), "layer 4 does not exist"),
        (lambda: repro.extract_layers(clip, "mean_colour", [1]), "mean_colour has 'final' alone"),
        (lambda: repro.run_row("ak_full"), "row ak_full cannot run"),
        (lambda: repro.load_features("ucf101/train", "mean_colour"), "have no features"),
        (lambda: repro.extract_features(tmp_path / "none.mp4", "mean_colour"), "no such file"),
        (lambda: repro.extract_features(clip, "svd_xt_tiny", timestep=99), "timestep 99 does not exist"),
        (lambda: repro.score_video("ucf_hmdb", clip), "no trained readout"),
        (lambda: repro.load_readout(tmp_path / "none.safetensors"), "no trained readout there"),
    ):
        with pytest.raises(repro.ReproError, match=reporter) as refused:
            mistake()
        assert "\n" not in str(refused.value)


def test_verdicts_are_those_of_the_command(workspace: Workspace) -> None:
    write_with_evidence(workspace.runs, record("ak_full_sdv2", repro.load_row("ak_full_sdv2").seeds.published, 0.7866))
    verdicts = {verdict.expected.row: verdict for verdict in repro.judge_records(repro.load_records(workspace.root))}
    assert list(verdicts) == repro.row_names()
    assert verdicts["ak_full_sdv2"].outcome is Outcome.WITHIN_MARGIN
    assert verdicts["ak_full"].outcome is Outcome.NOT_RUN


def test_predictions_are_those_of_the_record(workspace: Workspace) -> None:
    first, second = (write_with_evidence(workspace.runs, record("ak_full_sdv2", seed, 0.7866)) for seed in (0, 1))
    found = repro.load_records(workspace.root)[0]
    predictions = repro.load_predictions(found, workspace.root)
    assert predictions.by_epoch[found.last_epoch.epoch].shape == predictions.targets.shape
    shutil.copy(second.predictions_path, first.predictions_path)
    with pytest.raises(repro.MissingError, match="not the predictions that the record"):
        repro.load_predictions(found, workspace.root)
    first.predictions_path.unlink()
    with pytest.raises(repro.MissingError, match="no such predictions"):
        repro.load_predictions(found, workspace.root)


def test_a_damaged_record_is_named(workspace: Workspace) -> None:
    path = write_with_evidence(
        workspace.runs, record("ak_full_sdv2", repro.load_row("ak_full_sdv2").seeds.published, 0.7866)
    ).record_path
    path.write_text(path.read_text()[:-20])
    with pytest.raises(repro.MissingError, match=re.escape(str(path))):
        repro.load_records(workspace.root)


def test_a_mistake_is_an_error_of_one_line() -> None:
    with pytest.raises(repro.ReproError, match="unknown row 'ak_ful'; did you mean 'ak_full'") as refused:
        repro.load_row("ak_ful")
    assert "\n" not in str(refused.value)
