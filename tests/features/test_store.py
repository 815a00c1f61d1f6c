"""The feature store: names of files and folders."""

from pathlib import Path

import numpy as np
import pytest

from repro.core.workspace import Workspace
from repro.features.store import Entry, FeatureStore


def open_store(folder: Path, identity: dict[str, int]) -> FeatureStore:
    return FeatureStore.open(Workspace(folder), "test", identity, "clips")


@pytest.mark.parametrize(
    "name", ["plain", "Goal_1_&_2_kick", "#437_How_To [x](y)!", "a/../../b", "ü é", ".hidden", "x" * 300]
)
def test_any_clip_id_has_its_own_file(tmp_path: Path, name: str) -> None:
    place = open_store(tmp_path, {"a": 1})
    place.write_clip(name, Entry({"final": np.ones((2, 3), np.float32)}, "v", "pyav"))
    entry = place.read_clip(name)
    assert entry is not None
    np.testing.assert_array_equal(entry.features["final"], np.ones((2, 3)))
    assert place.clip_path(name).parent == place.folder / "clips"


def test_another_identity_has_another_folder(tmp_path: Path) -> None:
    assert open_store(tmp_path, {"a": 1}).folder == open_store(tmp_path, {"a": 1}).folder
    assert open_store(tmp_path, {"a": 1}).folder != open_store(tmp_path, {"a": 2}).folder
