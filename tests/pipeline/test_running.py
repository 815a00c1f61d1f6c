"""A published row's way from the owners' files to a record, on tiny data sets and the one backbone that needs no weights."""

import json
from pathlib import Path

import pytest
from builders import tiny_datasets
from builders.repro_rows import colour_row

from repro.backbones.extractor import Execution
from repro.core.errors import MissingError
from repro.core.workspace import Workspace
from repro.datasets import registry
from repro.datasets.config import DatasetConfig
from repro.pipeline import predict as predicting
from repro.pipeline import row_data as opening
from repro.pipeline import running
from repro.readout import checkpoints
from repro.records.record import RunRecord, all_runs
from repro.table import requirements

ROW = "ucf_hmdb"


@pytest.fixture
def place(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with tiny UCF101 and HMDB51 and their own counts, and the row on mean colour."""
    configs = {
        "ucf101": tiny_datasets.ucf101(workspace.data / "ucf101"),
        "hmdb51": tiny_datasets.hmdb51(workspace.data / "hmdb51"),
    }

    def opened(name: str, workspace: Workspace, config: DatasetConfig | None = None) -> registry.Dataset:
        return registry.open_dataset(name, workspace, configs[name])

    row = colour_row(ROW, epochs=2)
    for module in (running, opening):
        monkeypatch.setattr(module, "open_dataset", opened)
    for module in (running, predicting):
        monkeypatch.setattr(module, "load_row", lambda name: row)
    monkeypatch.setattr(requirements, "require_all", lambda *_, **__: None)
    return workspace


def records(workspace: Workspace) -> list[RunRecord]:
    return [record for run in all_runs(workspace.runs) if (record := run.read())]


def test_a_row_runs_is_reused_and_predicts(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    running.run(ROW, running.Options(seeds=2, workers=1), place, as_json=False)
    said = capsys.readouterr().out
    assert "ucf_hmdb seed 42: top1 best epoch on test" in said
    assert "published 77.6" in said
    first, second = records(place)
    assert (first.seed, second.seed) == (42, 43)
    assert first.features.identity["family"] == "mean_colour"
    assert [subset.name for subset in first.subsets] == ["hmdb51/val"]
    running.run(ROW, running.Options(seeds=2), place, as_json=True)
    told = capsys.readouterr()
    assert len(json.loads(told.out)) == 2
    assert told.err.count("reused all") >= 3  # features of both data sets, readouts
    running.read_out_alone(ROW, running.Options(), place, as_json=False)
    assert "reused all 1" in capsys.readouterr().out
    assert records(place) == [first, second]
    video = next((place.data / "hmdb51" / "hmdb51_org").rglob("*.avi"))
    broken = place.root / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(MissingError, match="1 of 2 videos could not be scored"):
        predicting.show(ROW, [broken, video], 43, 3, place, Execution(), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert list(found["failed"]) == [str(broken)]
    assert found["seed"] == 43
    assert found["videos"][0]["path"] == str(video)
    assert len(found["videos"][0]["scores"]) == 12
    assert all(0 <= score <= 1 for score in found["videos"][0]["scores"].values())
    predicting.show(ROW, [video], None, 3, place, Execution(), as_json=False)
    assert capsys.readouterr().out.count(" %  ") == 3


def test_missing_clips_are_refused_unless_allowed_and_recorded(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = next((place.data / "hmdb51" / "hmdb51_org").rglob("*.avi"))
    gone.unlink()
    with pytest.raises(MissingError, match=r"1 of .* clips are missing.*--allow-missing"):
        running.run(ROW, running.Options(workers=1), place, as_json=False)
    running.run(ROW, running.Options(workers=1, allow_missing=True), place, as_json=False)
    assert "left out, as allowed" in capsys.readouterr().err
    (record,) = records(place)
    assert len(record.test.missing_clips) == 1


def test_the_readout_alone_says_what_features_are_lacking(place: Workspace) -> None:
    with pytest.raises(MissingError, match=r"clips of ucf101/train have no features final .*`repro extract ucf101"):
        running.read_out_alone(ROW, running.Options(), place, as_json=False)


def test_the_honest_protocol_is_a_run_of_its_own(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    running.run(ROW, running.Options(workers=1), place, as_json=False)
    capsys.readouterr()
    running.read_out_alone(ROW, running.Options(protocol="honest"), place, as_json=False)
    assert "best epoch on held-out clips" in capsys.readouterr().out
    running.read_out_alone(ROW, running.Options(precision="bf16"), place, as_json=False)
    made = {(record.protocol, record.precision) for record in records(place)}
    assert made == {("published", "fp32"), ("honest", "fp32"), ("published", "bf16")}


def test_a_row_without_a_trained_readout(place: Workspace) -> None:
    with pytest.raises(MissingError, match=r"no trained readout in .*: `repro ucf_hmdb` trains one"):
        predicting.show(ROW, [Path("x.mp4")], None, 3, place, Execution(), as_json=False)


def test_a_readout_of_other_features_is_not_used(place: Workspace) -> None:
    running.run(ROW, running.Options(workers=1), place, as_json=False)
    (path,) = place.runs.glob(f"{ROW}/*/{checkpoints.SELECTED}")
    tensors, about = checkpoints.read_tensors(path)
    checkpoints.write_tensors(path, tensors, about | {"features": "0" * 16})
    with pytest.raises(MissingError, match="was trained on features 0000000000000000, this machine would make"):
        predicting.show(ROW, [Path("x.mp4")], None, 3, place, Execution(), as_json=False)
