"""Features to a file and into a workspace without videos: bit for bit, the same readout, and nothing that was tampered with."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import tiny_datasets
from builders.commands import run_repro
from builders.reporters import RecordingReporter
from builders.repro_rows import colour_row

from repro.backbones.extractor import Backbone, OtherInputs
from repro.backbones.registry import describe_backbone, load_backbone
from repro.cli import plan as plan_verb
from repro.cli.list_rows import is_imported
from repro.cli.readout import print_records
from repro.cli.run import require_ready
from repro.core import disk
from repro.core.errors import MissingError, UsageError
from repro.core.signed import read_arrays, write_arrays
from repro.core.workspace import Workspace
from repro.datasets import own, registry
from repro.datasets.config import ClipLengths, DatasetConfig, load_dataset
from repro.datasets.own import find_split
from repro.features import pack_collection
from repro.features.imported import find_stored_identity
from repro.features.pack_collection import add_to_pack
from repro.features.store import NUMPY_ARRAYS, Entry, FeatureStore
from repro.pipeline.runs.train import run_readouts
from repro.pipeline.sharing import share
from repro.pipeline.sharing.share import export_features, import_features
from repro.pipeline.stored_row import open_stored_row
from repro.plan import workspace_state
from repro.plan.plan import RowPlan, make_plan
from repro.records.record import RunRecord
from repro.table import row as table_row
from repro.table.imported import has_imported_features
from repro.table.row import Row

CELL, WIDTH = "final", 16


@dataclass(frozen=True)
class Place:
    """A workspace with annotation files and features, and the folder where files are shared."""

    workspace: Workspace
    folder: Path
    configs: dict[str, DatasetConfig]

    def export(self, source: str, file: Path | None = None, workspace: Workspace | None = None) -> Path:
        file = file or self.folder / f"{source.replace('/', '-')}.safetensors"
        config = load_backbone("mean_colour")
        export_features(*find_split(source), config, [config.axes().usual], file, workspace or self.workspace)
        return file

    def store(self, dataset: str, workspace: Workspace | None = None) -> FeatureStore:
        identity = describe_backbone(load_backbone("mean_colour"), self.workspace).identity()
        return FeatureStore.open(workspace or self.workspace, "mean_colour", identity, dataset)

    def fill(self, dataset: str, seed: int = 0) -> dict[str, Entry]:
        """Random features of every clip, which no video is needed for."""
        entries, generator = {}, np.random.default_rng(seed)
        for clip in registry.open_dataset(self.configs[dataset], self.workspace).clips:
            values = generator.standard_normal((int(generator.integers(1, 9)), WIDTH), np.float32)
            entries[clip.id] = Entry({CELL: values}, generator.bytes(32).hex(), "pyav", ())
        store = self.store(dataset)
        origin = store.add_origin({"machine": "a"})
        entries = {clip: Entry(e.features, e.video_sha256, e.reader, (origin,)) for clip, e in entries.items()}
        add_to_pack(store, CELL, entries)
        return entries


@pytest.fixture
def place(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    configs = {name: tiny_datasets.MAKERS[name](workspace.data / name, films=False) for name in ("ucf101", "hmdb51")}
    for module in (table_row, share, own):
        monkeypatch.setattr(module, "load_dataset", lambda name: configs.get(name) or load_dataset(name))
    (tmp_path / "shared").mkdir()
    return Place(workspace, tmp_path / "shared", configs)


@pytest.fixture
def other(tmp_path: Path) -> Workspace:
    """A workspace with nothing in it."""
    return Workspace(tmp_path / "laptop")


def bring(file: Path, workspace: Workspace) -> share.Imported:
    return import_features(file, workspace, RecordingReporter())


def read_out(row: Row, workspace: Workspace) -> RunRecord:
    (record,) = run_readouts(open_stored_row(row, workspace), [42], workspace, RecordingReporter())
    return record


def test_what_is_imported_is_read_out_as_where_it_was_extracted(
    place: Place, other: Workspace, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    row = colour_row("ucf_hmdb", epochs=1)
    kept = {name: place.fill(name) for name in place.configs}
    files = {name: place.export(name) for name in place.configs}
    brought = {name: bring(file, other) for name, file in files.items()}
    for name, entries in kept.items():
        reader = place.store(name, other).cell_reader(CELL)
        for clip, entry in entries.items():
            found = reader.read(clip)
            assert found is not None
            assert found.features[CELL].tobytes() == entry.features[CELL].tobytes()
            assert (found.video_sha256, found.reader) == (entry.video_sha256, entry.reader)
    assert bring(files["ucf101"], other).added == 0
    assert not list(other.root.rglob("*.avi"))
    first, second = read_out(row, place.workspace), read_out(row, other)
    print_records(row, [first], place.workspace, as_json=False)
    assert "imported" not in capsys.readouterr().out
    print_records(row, [second], other, as_json=False)
    assert "features of 24 clips were imported" in capsys.readouterr().out
    assert second.features.imported == {brought["ucf101"].sha256: 15, brought["hmdb51"].sha256: 24}
    # Run keys, scores, losses, splits and predictions: all but who trained it, and that it was imported.
    unequal = {"made": None, "features": None, "checkpoints": None}
    assert first.model_copy(update=unequal) == second.model_copy(update=unequal)
    assert "imported" not in first.model_dump(mode="json")["features"]
    dumped = second.model_dump(mode="json")["features"]
    assert dumped.pop("imported")
    assert dumped == first.model_dump(mode="json")["features"]
    # What was imported can be passed on, and names both.
    again = place.export("hmdb51", other.root / "again.safetensors", other)
    _, about = read_arrays(again, NUMPY_ARRAYS)
    assert f"imported-{brought['hmdb51'].sha256}" in about["origins"]


def test_lists_and_plans_know_what_was_imported(
    place: Place, other: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = colour_row("ucf_hmdb", epochs=1)
    lengths = ClipLengths(mean=(50.0, 60.0), source="these tests")
    for name, config in place.configs.items():
        splits = {part: facts.model_copy(update={"frames": lengths}) for part, facts in config.splits.items()}
        place.configs[name] = config.model_copy(update={"splits": splits})
    monkeypatch.setattr(workspace_state, "load_dataset", place.configs.__getitem__)

    def plan() -> RowPlan:
        (planned,) = make_plan([row], other, "cpu", 1, None).rows
        assert planned.imported == has_imported_features(row, other)
        return planned

    assert {item.what for item in plan().missing} == {"data ucf101", "data hmdb51"}
    for name in place.configs:
        place.fill(name)
    bring(place.export("ucf101"), other)
    bring(place.export("hmdb51/val"), other)  # not all clips of the test split
    assert not plan().imported
    with pytest.raises(MissingError):
        require_ready(row, other, "cpu")
    assert "were imported" not in capsys.readouterr().err
    bring(place.export("hmdb51"), other)
    planned = plan()
    assert (planned.imported, planned.missing, planned.downloads) == (True, (), ())
    assert [job.remaining.clips.most for job in planned.jobs] == [0, 0]
    assert is_imported(row, other)
    with pytest.raises(MissingError):
        require_ready(row, other, "cpu")
    assert "`repro readout ucf_hmdb` needs no videos, checkpoint or GPU" in capsys.readouterr().err
    plan_verb.print_plan([row], other, seeds=1, protocol=None, device="cpu", as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "imported features of 39 clips" in said
    assert "features of ucf_hmdb were imported: `repro readout ucf_hmdb` needs no videos, checkpoint or GPU" in said


def rewrite(file: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """Write the file again with what `change` does to its card and arrays, and a sha256 that is right."""
    arrays, about = read_arrays(file, NUMPY_ARRAYS)
    change(about, arrays)
    write_arrays(file, arrays, about, NUMPY_ARRAYS)


def card(**changes: object) -> Callable[[Path], None]:
    return lambda file: rewrite(file, lambda about, arrays: about.update(changes))


def values(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda file: rewrite(file, lambda about, arrays: arrays.update({CELL: change(arrays[CELL])}))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def edit_index(file: Path) -> None:
    index = file.with_suffix(".parquet")
    table = pq.read_table(index)
    ids = [f"../../{name}" for name in table["clip"].to_pylist()]
    place = table.column_names.index("clip")
    pq.write_table(table.set_column(place, "clip", [ids]).replace_schema_metadata(table.schema.metadata), index)


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (cut, "damaged"),
        (flip, "do not match the sha256"),
        (lambda file: file.write_bytes(b""), "damaged"),
        (lambda file: file.unlink(), "no such file"),
        (lambda file: file.with_suffix(".parquet").unlink(), "pair of files"),
        (lambda file: file.with_suffix(".parquet").write_bytes(b"PAR1 no"), "damaged"),
        (edit_index, "not the one it was written with"),
        (card(index_sha256="0" * 64), "not the one it was written with"),
        (card(dataset="../../etc"), "dataset: String should match"),
        (card(dataset="charades"), "unknown data set 'charades'"),
        (card(dataset="animal_kingdom"), "its labels are not those of animal_kingdom"),
        (card(backbone="nothing"), "unknown backbone"),
        (card(backbone="../x"), "backbone: String should match"),
        (card(key="0" * 16), "its key is 0000000000000000"),
        (card(cells=["../../../evil"]), "cells.0: String should match"),
        (card(cells=["t20_layer09"]), "different cells"),
        (card(stored_as="float16"), "expected 2 of float16"),
        (card(format=2), "not shared features of this version: format"),
        (card(clips=3), "its card has 3"),
        (card(surprise=1), "surprise"),
        (card(annotations="0" * 16), "its card states others"),
        (card(identity={"family": "mean_colour", "version": 1, "reader_version": -1}), "reader_version -1, expected"),
        (values(lambda array: array * np.float32(np.nan)), "not finite"),
        (values(lambda array: array[:-1]), "vectors, its clips have|not finite"),
        (values(lambda array: array.astype(np.float64)), "float64"),
        (values(lambda array: array[:, 0].copy()), "1 dimensions"),
    ],
)  # fmt: skip
def test_what_was_tampered_with_is_refused_in_one_line(
    place: Place, other: Workspace, tamper: Callable[[Path], None], reason: str
) -> None:
    place.fill("hmdb51")
    file = place.export("hmdb51")
    tamper(file)
    with pytest.raises(MissingError, match=reason) as raised:
        bring(file, other)
    assert "\n" not in str(raised.value)
    assert not list(other.features.rglob("*.npy"))
    assert not list(other.root.rglob("*evil*"))


def test_a_file_that_is_refused_leaves_no_workspace(other: Workspace) -> None:
    with pytest.raises(MissingError, match="no such file"):
        bring(other.root.with_name("nothing.safetensors"), other)
    assert not other.root.exists()


def test_labels_of_another_data_set_or_outside_its_folder_are_refused(place: Place, other: Workspace) -> None:
    place.fill("hmdb51")
    labels = share._labels_of(registry.open_dataset(place.configs["hmdb51"], place.workspace))
    listed = labels.splits["train"].clips[0]
    for clip, reason in (
        (("../../../x", *listed[1:]), ""),
        (("line\nbreak", *listed[1:]), "not a printable name"),
        ((listed[0], (12,), *listed[2:]), "label outside 0 to 11"),
        (labels.splits["train"].clips[1], "listed twice"),
    ):
        split = labels.splits["train"]
        forged = labels.model_copy(
            update={"splits": labels.splits | {"train": split.model_copy(update={"clips": (clip, *split.clips[1:])})}}
        )
        folder = other.data / "hmdb51"
        if reason:
            with pytest.raises(ValueError, match=reason):
                forged.list_splits(place.configs["hmdb51"], folder)
        else:
            path = forged.list_splits(place.configs["hmdb51"], folder).splits["train"].clips[0].path
            assert path.resolve().is_relative_to(folder.resolve())
    with pytest.raises(ValueError, match="has the splits train, val, full, expected full_train"):
        labels.list_splits(tiny_datasets.config("animal_kingdom"), other.data / "x")


def test_a_full_disk_leaves_nothing_half_imported(
    place: Place, other: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.fill("hmdb51")
    file = place.export("hmdb51")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(pack_collection, "reserve_space", refuse)
        with pytest.raises(disk.DiskError, match="no space left on device: free space"):
            bring(file, other)
    assert place.store("hmdb51", other).stored_clips(CELL) == set()
    assert bring(file, other).added == 24


def test_other_features_of_the_same_clips_are_not_mixed(place: Place, other: Workspace) -> None:
    place.fill("hmdb51")
    file = place.export("hmdb51")
    bring(file, other)
    part = place.export("hmdb51/val")
    assert bring(part, other).reused == 12
    # The same machine again: its own features stay its own.
    assert bring(file, place.workspace).added == 0
    assert place.store("hmdb51").is_imported is False
    place.fill("hmdb51", seed=1)
    with pytest.raises(UsageError, match=r"24 of 24 clips have other features final.*not mixed"):
        bring(file, place.workspace)
    # Clips that are missing are added to those that are there.
    third = Workspace(other.root.parent / "third")
    assert bring(part, third).added == 12
    assert bring(file, third).added == 12


def test_an_export_is_of_all_clips_or_of_none(place: Place) -> None:
    entries = place.fill("hmdb51")
    file = place.folder / "part.safetensors"
    for index in (place.store("hmdb51").folder / "packed").iterdir():
        index.unlink()
    add_to_pack(place.store("hmdb51"), CELL, dict(list(entries.items())[:-2]))
    with pytest.raises(MissingError, match=r"hmdb51: 2 of 24 clips have no features final.*or export a split"):
        place.export("hmdb51", file)
    assert not list(place.folder.iterdir())
    place.fill("hmdb51")
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        place.export("hmdb51", file.with_suffix(".zip"))
    place.export("hmdb51", file)
    with pytest.raises(UsageError, match="exists"):
        place.export("hmdb51", file)
    with pytest.raises(UsageError, match="not a data set that users bring"):
        place.export("smoke")
    text = file.with_suffix(".md").read_text()
    assert all(word in text for word in ("CC BY 4.0", "arXiv:2509.08908", "24 of hmdb51", "mean_colour"))


def test_imported_features_stand_in_for_a_missing_checkpoint_and_for_no_other(other: Workspace) -> None:
    """VideoMAEv2's checkpoint is an encoder cut here, whose sha256 no config pins; SVD-XT's is pinned."""

    def put(backbone: str, sha256: str, implementation: str | None = None, imported: bool = True) -> dict[str, Any]:
        config = load_backbone(backbone)
        identity = Backbone(config, Path(), sha256, implementation, OtherInputs()).identity()
        store = FeatureStore.open(other, backbone, identity, "hmdb51")
        cell = config.axes().usual.name
        add_to_pack(store, cell, {"a": Entry({cell: np.ones((1, 2), np.float32)}, "0" * 64, "pyav")})
        if imported:
            store.origin_path(f"imported-{'0' * 64}").parent.mkdir(exist_ok=True)
            store.origin_path(f"imported-{'0' * 64}").write_text("{}")
        return identity

    def find(backbone: str, **changes: str) -> dict[str, Any]:
        config = load_backbone(backbone, changes)
        return find_stored_identity(config, other, config.axes().usual, ("hmdb51",))

    with pytest.raises(MissingError, match="checkpoint videomaev2"):
        find("videomaev2")
    put("videomaev2", "c" * 64, imported=False)
    with pytest.raises(MissingError, match="checkpoint videomaev2"):
        find("videomaev2")
    mine = put("videomaev2", "a" * 64)
    assert find("videomaev2") == mine
    put("videomaev2", "b" * 64)
    with pytest.raises(MissingError, match="2 sets of imported features fit"):
        find("videomaev2")
    pinned = load_backbone("svd_xt").checkpoint
    assert pinned is not None
    put("svd_xt", "d" * 64, "sgm")
    with pytest.raises(MissingError, match=f"imported features are of checkpoint {'d' * 64}, expected {pinned.sha256}"):
        find("svd_xt")
    theirs = put("svd_xt", str(pinned.sha256), "sgm")
    assert find("svd_xt") == theirs
    with pytest.raises(MissingError, match="another config: precision"):
        find("svd_xt", precision="fp32")


def test_the_commands(place: Place, other: Workspace) -> None:
    place.fill("hmdb51")
    file = place.folder / "h.safetensors"
    words = ["features", "export", "hmdb51", file, "--backbone", "mean_colour", "--workspace", place.workspace.root]
    done = run_repro(*words)
    assert (done.code, done.err) == (0, "")
    assert "24 clips of hmdb51, final of mean_colour" in done.out
    assert run_repro(*words, "--json").code == 2
    words[3] = place.folder / "again.safetensors"
    assert json.loads(run_repro(*words, "--json").out)["clips"] == 24
    brought = run_repro("features", "import", file, "--workspace", other.root, "--json")
    assert brought.code == 0
    assert json.loads(brought.out)["added"] == 24
    file.write_bytes(file.read_bytes()[:-1])
    refused = run_repro("features", "import", file, "--workspace", other.root)
    assert refused.code == 4
    assert refused.err.count("\n") == 1
    more = [*words[:3], place.folder / "other.safetensors", *words[4:]]
    assert "mean_colour has no timesteps" in run_repro(*more, "--timesteps", "20").err
    assert "hmdb51 has no split 'x'" in run_repro("features", "export", "hmdb51/x", *more[3:]).err
