"""A published row from the publishers' files to a record, on tiny data sets and the backbone that needs no weights;
and what its data add to records: missing clips, manifests, scores of parts of the test split."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import tiny_datasets
from builders.commands import schemas
from builders.reporters import RecordingReporter
from builders.repro_rows import colour_row, read_out_here, run_here

from repro.backbones.extractor import Execution
from repro.cli import app as cli
from repro.core.console import Reporter
from repro.core.errors import MissingError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip, Split, SplitName
from repro.pipeline import row_data
from repro.pipeline.predict import ScoredVideos, predict_videos
from repro.pipeline.row import RowRequest, extract_row
from repro.pipeline.row_data import RowData
from repro.pipeline.runs.train import run_readouts
from repro.pipeline.show.page import render_clip_page
from repro.pipeline.show.view import ShowRequest, view_clip
from repro.readout import checkpoints
from repro.readout.metrics import all_scores
from repro.readout.predictions import read_predictions
from repro.records.record import RunRecord, find_runs
from repro.table.row import Row, row_backbone
from repro.table.rows import load_row
from repro.video.synthetic import scenes
from repro.video.synthetic.figures import ACTIONS

ROW = "ucf_hmdb"


@pytest.fixture
def place(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with tiny UCF101 and HMDB51 and their numbers of clips; rows read mean colour."""
    monkeypatch.setattr(row_data, "open_dataset", tiny_datasets.ucf_hmdb_opener(workspace))
    return workspace


def colour() -> Row:
    return colour_row(ROW, epochs=2)


def predict(workspace: Workspace, *videos: Path, seed: int | None = None) -> ScoredVideos:
    return predict_videos(colour(), videos, seed, workspace, Execution(), Reporter(to_stderr=True))


def records(workspace: Workspace) -> list[RunRecord]:
    return [record for run in find_runs(workspace.runs) if (record := run.load_record())]


@pytest.mark.slow
def test_a_row_runs_is_reused_and_predicts(
    place: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(colour(), place, RowRequest(seeds=2))
    message = capsys.readouterr().out
    assert "ucf_hmdb seed 42: top1 best epoch on test" in message
    assert "published 77.6" in message
    first, second = records(place)
    assert (first.seed, second.seed) == (42, 43)
    assert first.features.identity["family"] == "mean_colour"
    assert [subset.name for subset in first.subsets] == ["hmdb51/val"]
    run_here(colour(), place, RowRequest(seeds=2), as_json=True)
    captured = capsys.readouterr()
    printed_records = json.loads(captured.out)
    assert len(printed_records) == 2
    schemas().check_output("readout", printed_records)
    assert captured.err.count("reused all") >= 3  # features of both data sets, readouts
    read_out_here(colour(), place)
    assert "reused all 1" in capsys.readouterr().out
    assert records(place) == [first, second]
    video = next((place.data / "hmdb51" / "hmdb51_org").rglob("*.avi"))
    broken = place.root / "broken.mp4"
    broken.write_bytes(b"no video")
    found = predict(place, broken, video, seed=43)
    assert list(found.failed) == [str(broken)]
    assert found.readout.seed == 43
    assert list(found.scores) == [video]
    assert len(found.scores[video]) == len(found.readout.classes) == 12
    assert all(0 <= score <= 1 for score in found.scores[video])
    request = ShowRequest(video, row_backbone(colour()), (colour().features,), colour())
    view = view_clip(request, place, Execution(), Reporter(to_stderr=True))
    assert view.scores is not None
    assert view.scores.scores[-1].tolist() == predict(place, video).scores[video].tolist()
    assert "Class scores over time" in render_clip_page(view, "repro show")
    command = ["predict", ROW, str(broken), str(video), "--seed", "43", "--top", "3", "--workspace", str(place.root)]
    monkeypatch.setattr("repro.table.rows.load_row", lambda name: colour())
    with pytest.raises(MissingError, match="1 of 2 videos could not be scored"):
        cli.dispatch(command)
    assert capsys.readouterr().out.count(" %  ") == 3
    with pytest.raises(MissingError, match="1 of 2 videos could not be scored"):
        cli.dispatch([*command, "--json"])
    printed = json.loads(capsys.readouterr().out)
    schemas().check_output("predict", printed)
    assert (list(printed["failed"]), printed["seed"], printed["videos"][0]["path"]) == (
        [str(broken)],
        43,
        str(video),
    )
    assert list(printed["videos"][0]["scores"].values()) == pytest.approx(found.scores[video], abs=1e-6)

    # As on a read-only file system, which stops root too.
    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("repro.core.workspace.own_partial", refuse)
    before = {path: path.stat().st_mtime_ns for path in place.root.rglob("*")}
    assert predict(place, video, seed=43).scores[video].tolist() == found.scores[video].tolist()
    assert "cannot be written: the features of these videos are not kept" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in place.root.rglob("*")} == before


@pytest.mark.slow
def test_damaged_clips_are_refused_unless_allowed_and_recorded(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((place.data / "hmdb51" / "hmdb51_org").rglob("*.avi"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    with pytest.raises(MissingError, match=r"1 of .* clips could not be read"):
        run_here(colour(), place)
    assert "--allow-damaged" in capsys.readouterr().err
    run_here(colour(), place, allow_damaged=True)
    (record,) = records(place)
    assert record.features.readers["pyav, damaged clip"] == 1
    with pytest.raises(MissingError, match=r"1 of .* clips of hmdb51/full are damaged.*--allow-damaged"):
        read_out_here(colour(), place)


@pytest.mark.slow
def test_missing_clips_are_refused_unless_allowed_and_recorded(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = next((place.data / "hmdb51" / "hmdb51_org").rglob("*.avi"))
    gone.unlink()
    with pytest.raises(MissingError, match=r"1 of .* clips are missing.*--allow-missing"):
        run_here(colour(), place)
    run_here(colour(), place, RowRequest(allow_missing=True))
    assert "left out, as allowed" in capsys.readouterr().err
    (record,) = records(place)
    assert len(record.test.missing_clips) == 1


def test_the_readout_alone_reports_missing_features(place: Workspace) -> None:
    with pytest.raises(MissingError, match=r"clips of ucf101/train have no features final .*`repro extract ucf101"):
        read_out_here(colour(), place)


@pytest.mark.slow
def test_the_held_out_protocol_is_a_separate_run(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(colour(), place)
    capsys.readouterr()
    read_out_here(colour(), place, RowRequest(protocol="held-out"))
    assert "best epoch on held-out clips" in capsys.readouterr().out
    read_out_here(colour(), place, precision="bf16")
    made = {(record.protocol, record.precision) for record in records(place)}
    assert made == {("published", "fp32"), ("held-out", "fp32"), ("published", "bf16")}


def test_a_row_without_a_trained_readout(place: Workspace) -> None:
    with pytest.raises(MissingError, match=r"no trained readout in .*: `repro ucf_hmdb` trains one"):
        predict(place, Path("x.mp4"))


@pytest.mark.slow
def test_a_readout_of_other_features_is_not_used(place: Workspace) -> None:
    run_here(colour(), place)
    (path,) = place.runs.glob(f"{ROW}/*/{checkpoints.SELECTED}")
    tensors, about = checkpoints.read_tensors(path)
    checkpoints.write_tensors(path, tensors, about | {"features": "0" * 16})
    with pytest.raises(MissingError, match="was trained on features 0000000000000000, this machine would make"):
        predict(place, Path("x.mp4"))


def test_a_record_lists_missing_clips_and_scores_of_subsets(
    rendered: dict[str, Path], workspace: Workspace, reporter: RecordingReporter
) -> None:
    actions = {scene.id: ACTIONS.index(scene.action) for scene in scenes.smoke_scenes()}
    clips = tuple(Clip(name, path, (actions[name],)) for name, path in rendered.items())
    splits = {part: Split(SplitName("smoke", part), ACTIONS, clips) for part in ("train", "test")}
    row = load_row("smoke_mean_colour")
    row = row.model_copy(update={"readout": row.readout.model_copy(update={"epochs": 3})})
    part = Split(SplitName("smoke", "part"), ACTIONS, clips[:2])
    data = RowData(splits, also=(part,), missing={"test": ("gone",)}, manifests={"smoke": "0" * 64})

    def recorded(data: RowData) -> RunRecord:
        (record,) = run_readouts(extract_row(row, data, workspace, Execution(), reporter), [1], workspace, reporter)
        return record

    plain, record = recorded(RowData(splits)), recorded(data)
    assert (plain.subsets, plain.manifests, plain.test.missing_clips) == ((), {}, ())
    assert record.group != plain.group
    assert record.last_epoch == plain.last_epoch
    assert record.manifests == {"smoke": "0" * 64}
    assert (record.train.missing_clips, record.test.missing_clips) == ((), ("gone",))
    (subset,) = record.subsets
    assert (subset.name, subset.clips, subset.last_epoch.epoch) == ("smoke/part", 2, 3)
    folder = next(workspace.runs.glob(f"smoke_mean_colour/*{record.run}"))
    found = read_predictions(folder / "predictions.parquet")
    kept = np.isin(found.clips, [clip.id for clip in part.clips])
    expected = all_scores(found.by_epoch[3][kept], found.targets[kept])
    assert subset.last_epoch.scores == pytest.approx(expected)
    best = subset.best_epoch_on_test.scores[row.metric]
    assert best >= subset.last_epoch.scores[row.metric]
    # A manifest is no input of a number: another one trains nothing again.
    assert recorded(replace(data, manifests={})) == record


def test_copies_of_training_clips_among_the_test_clips_are_named(reporter: RecordingReporter) -> None:
    def split(part: str, *ids: str) -> Split:
        return Split(SplitName("own_x", part), ("a", "b"), tuple(Clip(i, Path(i), (0,)) for i in ids))

    data = RowData({"train": split("train", "a", "b"), "test": split("test", "c", "d")})
    data.warn_of_copies({"a": "1", "b": "2", "c": "3", "d": "4"}, reporter)
    assert reporter.warnings == []
    data.warn_of_copies({"a": "1", "b": "2", "c": "1", "d": "4"}, reporter)
    assert [line.split(":")[0] for line in reporter.warnings] == ["1 test clips are copies of training clips (c)"]
