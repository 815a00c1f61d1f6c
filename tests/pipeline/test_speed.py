"""The line that says how fast an extraction was, and `--profile`."""

import json
from pathlib import Path

import pytest
from builders.reporters import RecordingReporter

from repro.backbones.config import Cell
from repro.backbones.extractor import Backbone
from repro.backbones.registry import load_backbone
from repro.cli import app as cli
from repro.core.errors import UsageError
from repro.core.workspace import Workspace
from repro.features.computing import Waits
from repro.features.extract import FeatureRequest
from repro.features.gathering import Extraction
from repro.features.store import FeatureStore
from repro.pipeline.costs import report_speed

H200 = "NVIDIA H200"


def request(name: str, folder: Path, cell: Cell | None = None, **changes: str) -> FeatureRequest:
    config = load_backbone(name, changes)
    store = FeatureStore.open(Workspace(folder), name, {"a": 1}, "clips", "float32")
    return FeatureRequest(Backbone(config, None, None, None), (cell or config.axes().usual,), store)


@pytest.mark.parametrize(
    ("names", "device", "expected"),
    [
        ((("svd_xt",),), H200, "1.00 windows/s, 166 TFLOP/s (17% of the fp16 peak of NVIDIA H200), 3% of"),
        ((("svd_xt",),), "cpu", "1.00 windows/s, 166 TFLOP/s, 3% of"),
        ((("svd_xt", "sdv2"),), H200, "1.00 windows/s, 183 TFLOP/s (18% of the fp16 peak"),
        ((("svd_xt",), ("vjepa",)), "NVIDIA A100", "2.00 windows/s, 168 TFLOP/s, 3% of"),
        ((("mean_colour",),), H200, "1.00 windows/s, 3% of"),
        ((("vjepa", "mean_colour"),), H200, "1.00 windows/s, 3% of"),
    ],
)
def test_speed_is_counted_work_over_time(
    tmp_path: Path, reporter: RecordingReporter, names: tuple[tuple[str, ...], ...], device: str, expected: str
) -> None:
    done = Extraction(windows_by=dict.fromkeys(names, 200), seconds=200.0, waits=Waits(6.0, 190.0))
    report_speed(done, [request(name, tmp_path) for group in names for name in group], device, reporter)
    assert expected in reporter.lines[-1]
    assert reporter.lines[-1].endswith("3% of the time waiting for decoded windows, 95% for their features")


@pytest.mark.parametrize(("cell", "changes"), [(Cell(timestep=20, layer=3), {}), (None, {"size": "[64, 128]"})])
def test_work_that_was_not_counted_is_not_guessed(
    tmp_path: Path, reporter: RecordingReporter, cell: Cell | None, changes: dict[str, str]
) -> None:
    done = Extraction(windows_by={("svd_xt",): 200}, seconds=200.0)
    report_speed(done, [request("svd_xt", tmp_path, cell, **changes)], H200, reporter)
    assert "TFLOP" not in reporter.lines[-1]
    report_speed(Extraction(), [request("svd_xt", tmp_path)], H200, reporter)
    assert len(reporter.lines) == 1  # nothing was computed


def test_extract_reports_its_speed_and_writes_a_profile(
    rendered: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, file = tmp_path / "videos", tmp_path / "trace.json"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(next(iter(rendered.values())).read_bytes())
    words = ["extract", str(videos), "--backbone", "mean_colour", "--device", "cpu", "--workspace", str(tmp_path / "w")]
    assert cli.dispatch([*words, "--profile", str(file), "--json"]) == 0
    found = capsys.readouterr()
    assert set(json.loads(found.out)["waiting_seconds"]) == {"decoder", "device"}
    assert "waiting for decoded windows" in found.err
    assert json.loads(file.read_text())["traceEvents"]
    assert cli.dispatch([*words, "--profile", str(tmp_path / "other.json")]) == 0
    assert "profile     not written: no features were missing" in capsys.readouterr().out
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("extract", "ucf101", "--profile", "{here}"), "exists already: name a new file"),
        (("extract", "ucf101", "--profile", "{here}/no/trace.json"), "is not a folder that can be written to"),
        (("run", "ak_full", "--dry-run", "--profile", "{here}/trace.json"), "not with --dry-run"),
        (
            ("run", "ak_full", "--from", "readout", "--profile", "{here}/trace.json"),
            "not with --dry-run or --from readout",
        ),
    ],
)
def test_a_profile_that_could_not_be_written_is_refused_first(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        cli.dispatch([word.format(here=tmp_path) for word in words])
