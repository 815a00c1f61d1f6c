"""Stored features are read through before they are trained on, and by `repro verify --store`: damage is found and named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders.commands import run_repro

from repro.core import hashing
from repro.core.errors import MissingError
from repro.core.hashing import FileStamp
from repro.core.workspace import Workspace
from repro.datasets.split import Clip, Split, SplitName
from repro.features.pack_collection import pack_collection
from repro.features.store import Entry, FeatureStore
from repro.readout.sequences import load_sequences

CLIPS = ("a", "b", "c")
SPLIT = Split(SplitName("test", "all"), ("x",), tuple(Clip(name, Path("nowhere"), (0,)) for name in CLIPS))


def entry(seed: int) -> Entry:
    return Entry({"final": np.random.default_rng(seed).standard_normal((50, 8)).astype(np.float32)}, "v", "pyav")


@pytest.fixture
def store(workspace: Workspace) -> FeatureStore:
    """Three packed clips, and a collection of one clip that is not packed."""
    hashing._READ_HERE.clear()
    store = FeatureStore.open(workspace, "test", {"a": 1}, "clips")
    for seed, clip in enumerate(CLIPS):
        store.write_clip(clip, entry(seed))
    assert pack_collection(store, print) == 3
    FeatureStore.open(workspace, "test", {"a": 1}, "others").write_clip("d", entry(4))
    return store


def overwrite(path: Path, at: int, count: int = 40) -> None:
    """Flip bytes and restore the times that a program can restore."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[at : at + count] = bytes(byte ^ 255 for byte in content[at : at + count])
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path


def swap_places(store: FeatureStore) -> None:
    """Give two clips of the index each other's features."""
    import pyarrow.parquet as pq

    index = only(store.folder, "*.parquet")
    table = pq.read_table(index)
    rows = table.to_pylist()
    rows[0]["clip"], rows[1]["clip"] = rows[1]["clip"], rows[0]["clip"]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), index)


def copy_index(store: FeatureStore) -> None:
    index = only(store.folder, "*.parquet")
    shutil.copy(index, index.with_name("other.parquet"))


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[FeatureStore], None]] = {
    "array": lambda store: overwrite(only(store.folder, "*.npy"), 300),
    "array cut off": lambda store: os.truncate(only(store.folder, "*.npy"), 1000),
    "array missing": lambda store: only(store.folder, "*.npy").unlink(),
    "array is a pipe": lambda store: replace_by_pipe(only(store.folder, "*.npy")),
    "index": lambda store: overwrite(only(store.folder, "*.parquet"), 4),
    "clips of the index swapped": swap_places,
    "index of another cell": copy_index,
    "file": lambda store: overwrite(only(store.folder.parent, "*.safetensors"), 800),
    "file of another clip": lambda store: shutil.copy(path := only(store.folder.parent, "d.*"), path.with_name("e.safetensors")),
    "file is a pipe": lambda store: replace_by_pipe(only(store.folder.parent, "*.safetensors")),
    "file is a folder": lambda store: (store.folder / "clips" / "z.safetensors").mkdir(),
}  # fmt: skip


def verify_store(workspace: Workspace, *words: object) -> tuple[int, dict[str, object]]:
    done = run_repro("verify", "--store", *words, "--json", "--workspace", workspace.root)
    return done.code, json.loads(done.out)


def test_an_intact_store_passes(store: FeatureStore, workspace: Workspace) -> None:
    for words in ((), (workspace.features,), (store.folder.parent,)):
        code, report = verify_store(workspace, *words)
        assert (code, report["files"], report["damaged"]) == (0, 2, [])
    assert verify_store(workspace, store.folder / "packed")[1]["files"] == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_store_names_each_damaged_file(store: FeatureStore, workspace: Workspace, damage: str) -> None:
    DAMAGES[damage](store)
    code, report = verify_store(workspace)
    assert code == 4
    assert len(report["damaged"]) == 1  # type: ignore[arg-type]
    done = run_repro("verify", "--store", "--workspace", workspace.root)
    assert done.code == 4
    assert report["damaged"][0]["path"] in done.err  # type: ignore[index]
    assert done.err.count("\n") == 1


def test_nothing_to_verify_is_no_success(workspace: Workspace, tmp_path: Path) -> None:
    assert run_repro("verify", "--store", "--workspace", workspace.root).code == 5
    assert run_repro("verify", "--store", tmp_path / "none", "--workspace", workspace.root).code == 4
    assert run_repro("verify", "--workspace", workspace.root).code == 2


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name.startswith(("array", "index", "clips"))][:6])
def test_a_training_refuses_a_damaged_pack_and_renames_it(store: FeatureStore, damage: str) -> None:
    load_sequences(store, SPLIT, "final", 8)
    index = only(store.folder, "*.parquet")
    DAMAGES[damage](store)
    with pytest.raises(MissingError, match=r"damaged.*kept as final.parquet.damaged1.*run the row") as refused:
        load_sequences(store, SPLIT, "final", 8)
    assert str(refused.value).startswith(f"features {store.folder}: damaged: packed/{index.name}: ")
    assert not index.exists()


def test_a_training_reads_arrays_whatever_the_cached_hashes_say(store: FeatureStore, workspace: Workspace) -> None:
    """A failing disk changes bytes and no stamp: as if the hash of the intact array were cached for the damaged one."""
    array = only(store.folder, "*.npy")
    intact = hashing.file_sha256(array)
    overwrite(array, 300)
    workspace.hashes.write_text(json.dumps([*FileStamp.of(array), intact]) + "\n")
    store = FeatureStore.open(workspace, "test", {"a": 1}, "clips")
    assert store.open_pack("final") is not None
    with pytest.raises(MissingError, match="does not match the sha256"):
        load_sequences(store, SPLIT, "final", 8)


def test_a_training_reads_an_array_through_once(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(hashing, "file_sha256", lambda path: read.append(path) or original(path))
    for _ in range(3):
        load_sequences(store, SPLIT, "final", 8)
    assert read == [only(store.folder, "*.npy")]


original = hashing.file_sha256
