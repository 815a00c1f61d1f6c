"""Packing loses nothing: features are read back from the arrays, even if packing was killed."""

import errno
import shutil
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest
from builders.reporters import RecordingReporter

from repro.core.disk import DiskError
from repro.core.files import try_lock_file
from repro.core.locks import own_partial
from repro.core.workspace import Workspace
from repro.features import pack_collection as packing
from repro.features import packed as pack
from repro.features.pack_collection import pack_collection
from repro.features.packed import DamagedFeaturesError
from repro.features.store import Entry, FeatureStore


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.open(Workspace(tmp_path), "test", {"a": 1}, "clips")


def random_values(seed: int, tokens: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, 6)).astype(np.float32)


def random_entry(seed: int, *cells: str, tokens: int = 4, video: str = "v") -> Entry:
    return Entry({cell: random_values(seed + n, tokens) for n, cell in enumerate(cells)}, video, "pyav", ("o",))


def reads_back(store: FeatureStore, clip: str, expected: Entry) -> bool:
    found = store.read_clip(clip)
    return (
        found is not None
        and found.video_sha256 == expected.video_sha256
        and set(found.features) == set(expected.features)
        and all(np.array_equal(found.features[cell], expected.features[cell]) for cell in expected.features)
    )


def test_packed_features_are_read_back(store: FeatureStore) -> None:
    written = {f"c{n}/x": random_entry(10 * n, "a", "b", tokens=n + 1) for n in range(5)}
    for clip, entry in written.items():
        store.write_clip(clip, entry)
    assert pack_collection(store, print) == 5
    assert store.clip_files() == []
    for clip, entry in written.items():
        assert reads_back(store, clip, entry)
    packed = store.open_pack("a")
    assert packed is not None
    assert packed.array.shape == (15, 6)
    assert isinstance(packed.array.base, mmap)
    assert pack_collection(store, print) == 0


def test_later_clips_and_cells_are_added(store: FeatureStore) -> None:
    first, later = random_entry(1, "a"), random_entry(2, "a")
    store.write_clip("one", first)
    pack_collection(store, print)
    store.write_clip("two", later)
    store.write_clip("one", Entry({"b": random_values(9)}, "v", "pyav", ("p",)))
    pack_collection(store, print)
    assert reads_back(store, "two", later)
    assert reads_back(store, "one", Entry(first.features | {"b": random_values(9)}, "v", "pyav"))
    assert len(list((store.folder / "packed").glob("*.npy"))) == 2


def test_features_of_a_replaced_video_replace_the_old_ones(store: FeatureStore) -> None:
    store.write_clip("one", random_entry(1, "a", tokens=3))
    store.write_clip("two", random_entry(2, "a"))
    pack_collection(store, print)
    changed = random_entry(5, "a", tokens=7, video="w")
    store.write_clip("one", changed)
    assert reads_back(store, "one", changed)
    pack_collection(store, print)
    assert reads_back(store, "one", changed)
    assert reads_back(store, "two", random_entry(2, "a"))


@pytest.mark.parametrize("when", ["arrays", "index", "files"])
def test_killed_while_packing_nothing_is_lost(store: FeatureStore, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    written = {name: random_entry(n, "a", "b") for n, name in enumerate(("one", "two"))}
    store.write_clip("one", written["one"])
    pack_collection(store, print)
    store.write_clip("two", written["two"])

    class Killed(Exception):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if when == "arrays":
            patch.setattr(packing, "read_clip_file", die)
        elif when == "index":
            patch.setattr(pack, "write_index", die)
        else:
            patch.setattr(Path, "unlink", lambda self, missing_ok=False: die() if "clips" in self.parts[-2] else None)
        with pytest.raises(Killed):
            pack_collection(store, print)
    for clip, entry in written.items():
        assert reads_back(store, clip, entry)
    pack_collection(store, print)
    for clip, entry in written.items():
        assert reads_back(store, clip, entry)
    assert store.clip_files() == []


def test_what_a_killed_packing_left_goes_even_if_nothing_is_left_to_pack(store: FeatureStore) -> None:
    store.write_clip("c", random_entry(1, "a"))
    pack_collection(store, print)
    folder = store.folder / "packed"
    kept = set(folder.iterdir())
    with own_partial(folder / "a.npy") as partial:
        partial.write_bytes(b"half")
        assert pack_collection(store, print) == 0
        assert partial.exists()  # its writer lives
        # No process holds the copy's lock, as after a kill.
        shutil.copytree(partial.parent, folder / ".a.npy.000000000000.partial")
    assert pack_collection(store, print) == 0
    assert set(folder.iterdir()) == kept


@pytest.mark.parametrize("damage", ["bit", "cut off", "gone", "index"])
def test_a_damaged_pack_is_reported_and_set_aside(
    store: FeatureStore, reporter: RecordingReporter, damage: str
) -> None:
    store.write_clip("one", random_entry(1, "a"))
    pack_collection(store, print)
    (array,) = (store.folder / "packed").glob("a-*.npy")
    content = array.read_bytes()
    if damage == "bit":
        array.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage == "cut off":
        array.write_bytes(content[:-40])
    elif damage == "gone":
        array.unlink()
    else:
        pack.index_path(store.folder / "packed", "a").write_bytes(b"PAR1")
    with pytest.raises(DamagedFeaturesError):
        store.open_pack("a")
    assert store.open_pack_or_set_aside("a", reporter.warn) is None
    assert "extracting its clips again" in reporter.warnings[0]
    assert "\n" not in reporter.warnings[0]
    assert store.open_pack("a") is None


def test_a_few_more_clips_are_not_packed_again(store: FeatureStore) -> None:
    """The arrays of a large data set are not written again for them; a cell that no array has is packed."""
    for n in range(20):
        store.write_clip(f"c{n:02}", random_entry(n, "a", tokens=60))
    pack_collection(store, print)
    (array,) = (store.folder / "packed").glob("*.npy")
    more = random_entry(99, "a", tokens=5)
    store.write_clip("more", more)
    assert pack_collection(store, print) == 0
    assert list((store.folder / "packed").glob("*.npy")) == [array]
    assert reads_back(store, "more", more)
    assert store.cell_reader("a").read("c07") is not None
    store.write_clip("more", Entry({"b": random_values(9)}, "v", "pyav"))
    assert pack_collection(store, print) == 1
    assert reads_back(store, "more", Entry(more.features | {"b": random_values(9)}, "v", "pyav"))


def test_a_disk_that_is_full_while_packing_costs_nothing(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = random_entry(1, "a")
    store.write_clip("one", entry)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packing, "reserve_space", refuse)
        with pytest.raises(DiskError, match=r"packed/a-[0-9a-f]{16}.npy: no space left on device"):
            pack_collection(store, print)
    assert not list((store.folder / "packed").iterdir())
    assert reads_back(store, "one", entry)
    assert pack_collection(store, print) == 1
    assert reads_back(store, "one", entry)


def test_a_damaged_file_is_set_aside_and_the_others_are_packed(
    store: FeatureStore, reporter: RecordingReporter
) -> None:
    for n in range(3):
        store.write_clip(f"c{n}", random_entry(n, "a"))
    path = store.clip_path("c1")
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert pack_collection(store, reporter.warn) == 2
    assert len(reporter.warnings) == 1
    assert f"{path.name}.damaged1, to be extracted again" in reporter.warnings[0]
    assert store.read_clip("c1") is None
    assert reads_back(store, "c2", random_entry(2, "a"))


@pytest.mark.parametrize("packed_before", [False, True])
def test_a_reader_finds_what_is_packed_meanwhile(store: FeatureStore, packed_before: bool) -> None:
    """Clips' files go when they are packed, and with them the array that a reader has open."""
    written = {f"c{n}": random_entry(n, "a") for n in range(3)}
    store.write_clip("c0", written["c0"])
    if packed_before:
        pack_collection(store, print)
    for clip in ("c1", "c2"):
        store.write_clip(clip, written[clip])
    reader = store.cell_reader("a")
    first = reader.read("c0")
    assert first is not None
    assert pack_collection(store, print) == (2 if packed_before else 3)
    for clip, entry in written.items():
        found, place = reader.read(clip), reader.find(clip)
        assert found is not None
        assert place is not None
        np.testing.assert_array_equal(found.features["a"], entry.features["a"])
        assert (found.reader, found.video_sha256) == (place.reader, place.video_sha256) == ("pyav", "v")
    np.testing.assert_array_equal(first.features["a"], written["c0"].features["a"])
    assert reader.read("c3") is None
    # The array that `first` still shows goes with a later call, whether there is something to pack or not.
    assert len(list((store.folder / "packed").glob("*.npy"))) == (2 if packed_before else 1)
    del first
    store.write_clip("c4", random_entry(4, "a"))
    pack_collection(store, print)
    del reader, found
    assert pack_collection(store, print) == 0
    assert len(list((store.folder / "packed").glob("*.npy"))) == 1


def test_only_one_process_packs(store: FeatureStore) -> None:
    store.write_clip("one", random_entry(1, "a"))
    with try_lock_file(store.folder / ".pack.lock") as alone:
        assert alone
        assert pack_collection(store, print) == 0
    assert pack_collection(store, print) == 1
