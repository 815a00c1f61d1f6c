"""The log of a training: true times for MLflow, of which no number depends on any."""

import json
import os
from pathlib import Path

import pytest
from builders.records import record

from repro.core.workspace import build_from_environment
from repro.readout.load import LoadMeter
from repro.records.mlflow_run import list_metrics, matching_log, times_of
from repro.records.record import RunRecord
from repro.records.training_log import StartedRun, TrainingLog, is_training, load_training_log, open_training_log


def start_of(made: RunRecord) -> StartedRun:
    return StartedRun(**{name: getattr(made, name) for name in StartedRun.model_fields})


def write_log(path: Path, made: RunRecord, epochs: int, *, resumes: bool = False) -> TrainingLog:
    with open_training_log(path, start_of(made), resumes=resumes) as writer:
        for epoch in made.epochs[:epochs]:
            writer.write_epoch(epoch, {"cpu_utilization_percentage": 50.0})
        assert is_training(path)
    assert not is_training(path)
    found = load_training_log(path)
    assert found is not None
    assert found.started == start_of(made)
    return found


def test_a_killed_training_resumes_its_log_and_a_new_one_keeps_its_token(tmp_path: Path) -> None:
    path, made = tmp_path / "training.jsonl", record("ucf_hmdb", 42, 0.5)
    first = write_log(path, made, 3)
    with path.open("a") as file:
        file.write('{"at": 12, "epoch": {"epoch": 4, "tra')  # killed while it wrote
    assert matching_log(made, load_training_log(path)) is None
    resumed = write_log(path, made, len(made.epochs), resumes=True)
    assert (resumed.token, resumed.start, len(resumed.epochs)) == (first.token, first.start, len(made.epochs))
    assert matching_log(made, resumed) is resumed
    again = write_log(path, made, 1)
    assert (again.token, set(again.epochs)) == (first.token, {1})


def test_metrics_have_the_times_of_the_log(tmp_path: Path) -> None:
    made = record("ucf_hmdb", 42, 0.5)
    log = write_log(tmp_path / "training.jsonl", made, len(made.epochs))
    log.epochs[2] = type(log.epochs[2])(log.start + 7, made.epochs[1], {"gpu_0_power_usage_watts": 300.0})
    found = {(metric.key, metric.step): metric for metric in list_metrics(made, log)}
    assert found["train/loss", 2].timestamp == found["system/gpu_0_power_usage_watts", 2].timestamp == log.start + 7
    assert found["system/cpu_utilization_percentage", 1].value == 50
    assert times_of(made, log)[0] == log.start


def test_a_log_of_another_training_is_not_believed(tmp_path: Path) -> None:
    made = record("ucf_hmdb", 42, 0.5)
    log = write_log(tmp_path / "training.jsonl", made, len(made.epochs))
    assert matching_log(record("ucf_hmdb", 43, 0.5), log) is None
    epochs = (made.epochs[0].model_copy(update={"train_loss": 9.0}), *made.epochs[1:])
    assert matching_log(made.model_copy(update={"epochs": epochs}), log) is None


@pytest.mark.parametrize(
    "text", [b"", b"\x00" * 99, b'{"at": "now"}\n[]\nnull\n{}', json.dumps({"at": 1, "epoch": 3}).encode(), b"[" * 9999]
)
def test_what_is_no_log_says_nothing(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "training.jsonl"
    path.write_bytes(text)
    assert load_training_log(path) == TrainingLog()
    assert load_training_log(tmp_path / "none") is None
    assert load_training_log(tmp_path) is None


def test_a_disk_that_takes_no_log_does_not_stop_a_training(tmp_path: Path) -> None:
    made = record("ucf_hmdb", 42, 0.5)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", Path("/dev/full")):
        if not path.exists():
            pytest.skip("this system has no /dev/full")
        with open_training_log(path, start_of(made), resumes=False) as writer:
            writer.write_epoch(made.epochs[0], {})


def test_load_is_read_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = LoadMeter("cpu")
    assert meter.read(1) == {}  # too short to say anything
    monkeypatch.setattr("repro.readout.load.SHORTEST_LOAD", 0.0)
    found = meter.read(2)
    assert found.keys() == {"cpu_utilization_percentage", "process_memory_peak_megabytes"}
    assert meter.read(2) is found
    assert 0 <= found["cpu_utilization_percentage"] <= 110
    assert found["process_memory_peak_megabytes"] > 10


def test_an_image_names_itself_and_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"REPRO_IMAGE": "actiondiff:0.1.0", "REPRO_COMMIT": "unknown"})
    assert build_from_environment() == {"image": "actiondiff:0.1.0"}
