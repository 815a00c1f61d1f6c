"""Features of own clips, given to somebody who has no video: the same table, the same readout, and no path of another machine."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import tiny_datasets
from builders.commands import run_repro
from builders.reporters import RecordingReporter

import repro
from repro.backbones.registry import describe_backbone, load_backbone
from repro.core.signed import read_arrays, write_arrays
from repro.core.workspace import Workspace
from repro.datasets.own import load_own_dataset
from repro.features.pack_collection import add_to_pack
from repro.features.store import NUMPY_ARRAYS, Entry, FeatureStore
from repro.pipeline.runs.train import run_readouts
from repro.pipeline.stored_row import open_stored_row
from repro.records.record import RunRecord
from repro.table.own import OwnRow, load_own_row, write_own_row

CELL = load_backbone("mean_colour").axes().usual
TABLE = "path,label,group\n" + "".join(
    f'"+{label}, ü {animal}-{take}.mp4",{label};=day,\'-animal {animal}\n'
    for label in ("walk", "eat") for animal in range(5) for take in range(2)
)  # fmt: skip


@pytest.fixture
def owner(tmp_path: Path) -> Path:
    """A folder of own clips: a table, its YAML and row file, and a workspace with random features of every clip."""
    folder = tmp_path / "owner"
    folder.mkdir()
    (folder / "my.csv").write_text(TABLE)
    (folder / "my.yaml").write_text("clips: my.csv\n")
    write_own_row(folder / "row.yaml", "my.yaml", "mean_colour", CELL)
    shorten_training(folder / "row.yaml")
    dataset, workspace = load_own_dataset(folder / "my.yaml"), Workspace(folder / "workspace")
    identity = describe_backbone(load_backbone("mean_colour"), workspace).identity()
    store, draw = FeatureStore.open(workspace, "mean_colour", identity, dataset.name), np.random.default_rng(0)
    clips = {clip.id: clip for split in dataset.own_listing.splits.values() for clip in split.clips}
    entries = {
        clip: Entry({CELL.name: draw.standard_normal((3, 16), np.float32)}, draw.bytes(32).hex(), "pyav", ())
        for clip in clips
    }
    add_to_pack(store, CELL.name, entries)
    return folder


def shorten_training(row: Path) -> None:
    raw = yaml.safe_load(row.read_text())
    row.write_text(yaml.safe_dump(raw | {"readout": raw["readout"] | {"epochs": 1, "layers": 1}}))


def export(owner: Path, source: str = "my.yaml", name: str = "f.safetensors") -> Path:
    words = ["features", "export", f"{owner}/{source}", owner / name, "--backbone", "mean_colour"]
    done = run_repro(*words, "--workspace", owner / "workspace")
    assert (done.code, done.err) == (0, "")
    return owner / name


def read_out(row: OwnRow, workspace: Workspace) -> RunRecord:
    (record,) = run_readouts(
        open_stored_row(row, workspace), [42], workspace, RecordingReporter(), row.default_protocol
    )
    return record


@pytest.mark.usefixtures("one_thread")
def test_another_workspace_reads_them_without_videos(owner: Path, tmp_path: Path) -> None:
    file, laptop = export(owner), tmp_path / "laptop"
    for one in owner.glob("f.*"):
        assert str(tmp_path).encode() not in one.read_bytes()
    text = file.with_suffix(".md").read_text()
    assert "| licence of the data | not stated " in text
    done = run_repro("features", "import", file, "--workspace", laptop, "--json")
    report = json.loads(done.out)
    assert (done.code, report["added"]) == (0, 20)
    row = Path(report["row"])
    assert f"`repro readout {row}` trains" in run_repro("features", "import", file, "--workspace", laptop).out
    assert load_own_row(row).readout == load_own_row(owner / "row.yaml").readout.model_copy(
        update={"epochs": 30, "layers": 2}
    )
    shorten_training(row)
    first, second = (
        read_out(load_own_row(path), Workspace(place))
        for path, place in ((owner / "row.yaml", owner / "workspace"), (row, laptop))
    )
    for key in ("epochs", "classes", "train", "test", "held_out", "recipe", "protocol", "metric", "predictions_sha256"):
        assert getattr(first, key) == getattr(second, key), key
    assert list(second.features.imported.values()) == [20]
    # A run needs the videos, and says what does not.
    done = run_repro("run", row, "--workspace", laptop)
    assert (done.code, f"`repro readout {row}` needs no videos" in done.err) == (4, True), done.err
    # Edited row files stay, and what was imported can be passed on under the original name.
    before, data = row.read_bytes(), row.with_name(row.name.replace("_row", ""))
    # A spreadsheet program takes no cell of the table for a formula; the table of an earlier version, which had them, is replaced.
    listed, table = data.with_suffix(".csv"), data.with_suffix(".csv").read_text()
    assert not [cell for line in csv.reader(table.splitlines()) for cell in line if cell[0] in "=+-@"]
    listed.write_text(table.replace("'+", "+").replace("'=", "=").replace("''-", "'-"))
    assert run_repro("features", "import", file, "--workspace", laptop).code == 0
    assert (row.read_bytes(), listed.read_text()) == (before, table)
    found = repro.load_features(f"{data}/train", "mean_colour", workspace=laptop)
    assert (
        found.clips == repro.load_features(f"{owner}/my.yaml/train", "mean_colour", workspace=owner / "workspace").clips
    )
    words = ["features", "export", f"{data}/test", tmp_path / "again.safetensors", "--backbone", "mean_colour"]
    assert run_repro(*words, "--workspace", laptop).code == 0


def test_own_clips_are_planned_without_an_audit(owner: Path, tmp_path: Path) -> None:
    """Imported ones have no video that could be audited."""
    laptop = tmp_path / "laptop"
    done = run_repro("features", "import", export(owner), "--workspace", laptop, "--json")
    row = json.loads(done.out)["row"]
    for place, path, imported in ((owner / "workspace", owner / "row.yaml", False), (laptop, row, True)):
        done = run_repro("plan", path, "--workspace", place, "--device", "cpu", "--json")
        (found,) = json.loads(done.out)["rows"]
        assert found["features_imported"] == imported
        assert "an assumed length" in done.out


def test_own_clips_are_extracted_again_by_their_row_file(owner: Path) -> None:
    place, row = ("--workspace", owner / "workspace", "--device", "cpu"), owner / "row.yaml"
    name = load_own_row(row).dataset.name
    done = run_repro("verify", "--sample", "2", *place)
    assert (done.code, f"{name}: own clips, not compared: name their row file" in done.err) == (5, True)
    done = run_repro("verify", row, "--sample", "2", *place)
    assert (done.code, f"{name}: none of 20 clips with features has its video here" in done.err) == (5, True)
    # Another video than the one that the random features are said to be of.
    first = next(iter(load_own_row(row).dataset.own_listing.splits["train"].clips))
    tiny_datasets.film(first.path, 0)
    done = run_repro("verify", row, "--sample", "2", *place)
    assert (done.code, f"clip {first.id}: another video" in done.err) == (4, True), done.err
    assert run_repro("verify", row, "--sample", "2", "--precision", "bf16", *place).code == 2
    assert run_repro("verify", owner / "my.yaml", "--sample", "2", *place).code == 2


def test_the_licence_is_as_stated_and_other_labels_are_refused(owner: Path, tmp_path: Path) -> None:
    first = export(owner)
    (owner / "my.yaml").write_text("clips: my.csv\nlicence: CC BY-NC 4.0, ask Jane first\n")
    export(owner, "my.yaml/test", "test.safetensors")
    assert "| licence of the data | CC BY-NC 4.0, ask Jane first " in (owner / "test.md").read_text()
    assert run_repro("features", "import", first, "--workspace", tmp_path / "laptop").code == 0
    (owner / "my.csv").write_text(TABLE.replace("eat;=day", "sleep;=day"))
    second = export(owner, name="second.safetensors")
    refused = run_repro("features", "import", second, "--workspace", tmp_path / "laptop")
    assert refused.code == 4
    assert "other labels of own_my_" in refused.err
    assert "has no split 'x'" in run_repro(
        "features", "export", f"{owner}/my.yaml/x", owner / "x.safetensors", "--backbone", "mean_colour"
    ).err  # fmt: skip


def test_a_card_of_other_clips_is_refused_and_leaves_nothing(owner: Path, tmp_path: Path) -> None:
    file = export(owner)
    arrays, about = read_arrays(file, NUMPY_ARRAYS)
    for change, reason in (
        ({"dataset": "own_other/../x"}, "dataset: String should match"),
        ({"annotations": "0" * 16}, "they are of other clips"),
        ({"precision": "fp8"}, "unknown key 'precision'"),
    ):
        write_arrays(file, arrays, about | change, NUMPY_ARRAYS)
        done = run_repro("features", "import", file, "--workspace", tmp_path / "laptop")
        assert (done.code, done.err.count("\n")) == (4, 1)
        assert reason in done.err
        assert not list((tmp_path / "laptop").rglob("own_*"))
