"""The public Python API: what docs/api.md shows works, and importing it costs nothing."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import tiny_datasets
from builders.commands import ROOT
from builders.records import record, write_with_evidence
from builders.repro_rows import colour_row, run_here

import repro
from repro.core.workspace import Workspace
from repro.judge.verdict import Outcome
from repro.pipeline import api, row_data
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
    for module, loader in ((rows, "load_row"), (api, "load_any_row")):
        monkeypatch.setattr(module, loader, lambda name: row if name == "ucf_hmdb" else load_row(name))
    monkeypatch.setenv("REPRO_WORKSPACE", str(workspace.root))
    return workspace


@pytest.mark.slow
def test_the_example_of_the_docs_runs(
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
    texts = [
        re.search(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL) for page in ("docs/api.md", "README.md")
    ]
    assert texts[0] is not None
    assert texts[1] is not None
    assert texts[0][1] == texts[1][1]
    exec(compile(texts[0][1].replace("svd_xt", "mean_colour"), "docs/api.md", "exec"), {})
    said = capsys.readouterr().out
    assert "ak_full_sdv2 REPRODUCED" in said
    assert "'climb': 0." in said


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
        (lambda: repro.load_features("ucf101", "mean_colour"), "expected <dataset>/<split>"),
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
