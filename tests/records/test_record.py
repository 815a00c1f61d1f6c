"""Run records are the truth: whole, or refused."""

import json

import pytest
from builders.records import record, write

from repro.core.signed import write_signed_json
from repro.core.workspace import Workspace
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs


@pytest.fixture
def stored(workspace: Workspace) -> StoredRun:
    return write(workspace.runs, record("ak_full", 1, 0.8))


def test_a_record_is_read_as_it_was_written(stored: StoredRun, workspace: Workspace) -> None:
    assert stored.load_record() == record("ak_full", 1, 0.8)
    assert [run.folder for run in find_runs(workspace.runs)] == [stored.folder]
    assert StoredRun(workspace.runs / "none").load_record() is None


def test_the_former_name_of_the_held_out_protocol_is_still_read() -> None:
    made = record("ak_full", 1, 0.8)
    chosen = {"held_out": made.train, "best_epoch_on_held_out": made.last_epoch}
    former = made.model_copy(update={"protocol": "honest", **chosen}).model_dump(warnings=False)
    assert RunRecord.model_validate(former).protocol == "held-out"


@pytest.mark.parametrize(
    "damage",
    [
        "cut off",
        "empty",
        "list",
        "binary",
        "edited",
        "unknown key",
        "no hash",
        "wrong type",
        "other format",
        "nan",
        "huge",
        "share",
        "no metric",
        "folder",
        "predictions",
        "no predictions",
    ],
)
def test_a_damaged_record_is_refused_in_one_line(stored: StoredRun, damage: str) -> None:
    text = stored.record_path.read_text()
    raw = json.loads(text)
    changed = {
        "cut off": text[: len(text) // 2],
        "empty": "",
        "list": "[1, 2]",
        "edited": text.replace("0.8", "0.9"),
        "unknown key": json.dumps(raw | {"verdict": "good"}),
        "no hash": json.dumps({k: v for k, v in raw.items() if k != "sha256"}),
        "wrong type": json.dumps(raw | {"seed": "one"}),
        "other format": json.dumps(raw | {"format": 2}),
        "nan": text.replace("0.5", "NaN", 1),
        "huge": text.replace("0.5", "1e999", 1),
        "share": text.replace("0.8", "78.66"),
        "no metric": text.replace('"map_micro": 0.8', '"top1": 0.8'),
    }
    if damage == "folder":
        stored.record_path.unlink()
        stored.record_path.mkdir()
    elif damage == "predictions":
        stored.predictions_path.write_bytes(b"others")
    elif damage == "no predictions":
        stored.predictions_path.unlink()
    else:
        stored.record_path.write_bytes(b"\xff\x00" if damage == "binary" else changed[damage].encode())
    with pytest.raises(DamagedRecordError) as caught:
        stored.load_record()
    named = stored.predictions_path if "predictions" in damage else stored.record_path
    assert str(named) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("made.at", "x"), ("made.seconds", 1e300), ("made.on", {"../x": "cpu"}), ("made.by", {"a\n": "1"}), ("test.name", "../x" * 999), ("features.cell", "x" * 999),
        ("chance", {"<b>": 0.5}), ("recipe.loss", {"name": "\n" * 999 + "x" * 999}),
    ],
)  # fmt: skip
def test_a_record_that_no_command_could_read_is_refused_in_one_line(
    stored: StoredRun, path: str, value: object
) -> None:
    # Signed, as whoever makes one can.
    found = record("ak_full", 1, 0.8).model_dump(mode="json")
    *folders, last = path.split(".")
    place = found
    for folder in folders:
        place = place[folder]
    place[last] = value
    write_signed_json(stored.record_path, found)
    with pytest.raises(DamagedRecordError, match=path.replace(".", r"\.")) as refused:
        stored.load_record()
    message = str(refused.value).removeprefix(str(stored.record_path))
    assert (message.count("\n"), len(message) < 400) == (0, True)
