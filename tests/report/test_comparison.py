"""Two workspaces or bundles side by side: each input that was changed is named, and before what follows from it."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.commands import ROOT
from builders.records import record, write_with_evidence

from repro.core.errors import MissingError, UsageError
from repro.pipeline.bundle.archive import BundleError
from repro.records.record import RunRecord
from repro.report.comparison import INPUTS, compare_places, format_comparison

ROW = "ucf_hmdb_sdv2"
EXAMPLE = ROOT / "examples" / "evidence" / "smoke.zip"


def change_identity(made: RunRecord, **changes: Any) -> RunRecord:
    return made.model_copy(
        update={"features": made.features.model_copy(update={"identity": made.features.identity | changes})}
    )


def change_device(made: RunRecord, device: str) -> RunRecord:
    return made.model_copy(update={"made": made.made.model_copy(update={"on": {"device": device}})})


def change_by(made: RunRecord, **versions: str) -> RunRecord:
    return made.model_copy(update={"made": made.made.model_copy(update={"by": versions})})


def test_the_first_input_that_differs_is_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    frames = record(ROW, 52, 0.5).features.identity["frames"]

    def change_test_split(made: RunRecord) -> RunRecord:
        return made.model_copy(update={"test": made.test.model_copy(update={"sha256": "1" * 64})})

    def change_recipe(made: RunRecord) -> RunRecord:
        return made.model_copy(update={"recipe": made.recipe.model_copy(update={"learning_rate": 0.5})})

    changes: dict[str, Callable[[RunRecord], RunRecord]] = {
        "data": change_test_split,
        "backbone": lambda made: change_identity(made, size=[1, 2]),
        "checkpoint": lambda made: change_identity(made, checkpoint_sha256="1" * 64),
        "precision": lambda made: change_identity(made, precision="other"),
        "reader": lambda made: change_identity(made, frames=frames | {"reader": "other"}),
        "software": lambda made: change_by(made, torch="9.9"),
        "device": lambda made: change_device(made, "gpu"),
        "recipe": change_recipe,
        "none": lambda made: made,
    }
    assert tuple(changes)[:-1] == INPUTS
    for seed, name in enumerate(changes, 52):
        made = change_by(change_device(record(ROW, seed, 0.5), "cpu"), torch="1.0")
        write_with_evidence(a / "runs", made)
        # Each with every change after it in the order: the first alone is named as the cause.
        other = change_by(change_device(record(ROW, seed, 0.6), "cpu"), torch="1.0")
        for later in list(changes)[list(changes).index(name) :]:
            other = changes[later](other)
        write_with_evidence(b / "runs", other)
    found = compare_places(a, b)
    assert [pair.first_input for pair in found.different] == list(changes)
    assert all(
        list(dict.fromkeys(one.input for one in pair.inputs)) == list(INPUTS[n:]) for n, pair in enumerate(found.pairs)
    )
    lines = format_comparison(found)
    assert max(map(len, lines[3:13])) <= 80
    assert lines[2] == "9 runs in both: 9 with other scores, 0 with equal ones"
    assert "ucf_hmdb_sdv2    54  top1 best  50.00  60.00  +10.00  checkpoint" in lines
    assert (
        f"checkpoint: checkpoint_sha256: {'0' * 16} against {'1' * 16} (1 run of {ROW}); after it also precision, reader, "
        "software, device, recipe"
    ) in lines
    assert f"recipe: learning_rate: {record(ROW, 52, 0.5).recipe.learning_rate} against 0.5 (1 run of {ROW})" in lines
    assert f"none: same inputs, other numbers: rounding of another run, or a fault (1 run of {ROW})" in lines
    report = json.loads(json.dumps(found.as_json()))
    assert report["pairs"][2]["first_input"] == "checkpoint"
    assert report["pairs"][2]["scores"]["best_epoch_on_test.top1"] == pytest.approx([50, 60])


def test_runs_are_paired(tmp_path: Path) -> None:
    """By seed and cell; the same run before a later one, and what one place alone has is counted."""
    a, b = tmp_path / "a", tmp_path / "b"
    for seed in (52, 53, 54):
        write_with_evidence(a / "runs", record(ROW, seed, 0.5))
    write_with_evidence(b / "runs", record(ROW, 52, 0.5))
    later = record(ROW, 52, 0.7, group="later", at="2026-02-01T00:00:00+00:00")
    write_with_evidence(b / "runs", change_identity(later, size=[1, 2]))
    write_with_evidence(b / "runs", change_identity(record(ROW, 53, 0.5), size=[1, 2]))
    write_with_evidence(b / "runs", record("ak_full_sdv2", 52, 0.5))
    found = compare_places(a, b)
    assert [(pair.seed, bool(pair.scores), bool(pair.inputs)) for pair in found.pairs] == [
        (52, False, False),
        (53, False, True),
    ]
    cells = {name: record(name, 52, 0.5).features.cell for name in (ROW, "ak_full_sdv2")}
    assert list(found.a.alone) == [f"{ROW} seed 54 {cells[ROW]} published"]
    assert list(found.b.alone) == [f"ak_full_sdv2 seed 52 {cells['ak_full_sdv2']} published"]
    assert format_comparison(found) == [
        f"A: {a}: 3 runs, 1 in A alone",
        f"B: {b}: 4 runs, 1 in B alone, 1 superseded by later ones",
        "2 runs in both: 0 with other scores, 2 with equal ones (1 of them from other inputs)",
        f"backbone: size: [576, 1024] against [1, 2] (1 run of {ROW}, with equal scores)",
    ]


def test_a_bundle_is_compared_with_a_workspace(tmp_path: Path) -> None:
    """A bundle leaves out private text, which is no difference."""
    with zipfile.ZipFile(EXAMPLE) as archive:
        archive.extractall(tmp_path / "w", [name for name in archive.namelist() if name.startswith("runs/")])
    found = compare_places(EXAMPLE, tmp_path / "w")
    assert len(found.pairs) == 4
    assert not any(pair.scores or pair.inputs for pair in found.pairs)
    # One digit of a prediction: the run is left out, and named.
    damaged = next((tmp_path / "w").glob("runs/smoke/*/predictions.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"0")
    found = compare_places(tmp_path / "w", EXAMPLE)
    assert (len(found.pairs), len(found.b.alone), len(found.a.refused)) == (3, 1, 1)
    assert "1 refused, left out" in format_comparison(found)[0]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    copy, empty, text = tmp_path / "copy.zip", tmp_path / "empty", tmp_path / "text.zip"
    shutil.copy(EXAMPLE, copy)
    empty.mkdir()
    text.write_text("no zip")
    for b, error, message in (
        (EXAMPLE, UsageError, "are the same file"),
        (tmp_path / "missing", MissingError, "no such file or folder: expected a workspace or a bundle"),
        (empty, MissingError, f"no run record in {empty}/runs: expected a workspace with runs"),
        (text, BundleError, "not a zip file"),
    ):
        with pytest.raises(error, match=message) as raised:
            compare_places(EXAMPLE, b)
        assert "\n" not in str(raised.value)
    (tmp_path / "link").symlink_to(empty)
    with pytest.raises(UsageError, match="are the same folder"):
        compare_places(tmp_path / "link", empty)
    assert not compare_places(EXAMPLE, copy).different
