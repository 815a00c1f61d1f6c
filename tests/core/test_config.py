"""Configs reject what they do not know, in one line that names file, key and value."""

import os
import re
import shutil
from pathlib import Path

import pytest
from builders.shipped import use_shipped

from repro.core.config import configs_folder, load_config
from repro.core.errors import UsageError
from repro.table.row import Row
from repro.table.rows import load_row


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (configs_folder() / "rows" / "ak_full.yaml").read_text()
    assert old in text
    path = tmp_path / "row.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  epochs: 15", "  epochz: 15", "unknown key 'readout.epochz'; did you mean 'epochs'?"),
        ("  epochs: 15", "  epochs: ten", 'readout.epochs: "ten": input should be a valid integer'),
        ("  epochs: 15", "  epochs: 0", "readout.epochs: 0: input should be greater than or equal to 1"),
        ("  epochs: 15", "  epochs: true", "readout.epochs: true: input should be a valid integer"),
        ("learning_rate: 3.0e-5", "learning_rate: 3e-5", "write 3.0e-5"),
        ("version: 2", "", "key 'version' is missing"),
        ("metric: map_micro", "metric: map", "metric: \"map\": input should be 'map_micro' or 'top1'"),
        ("setting: ak_full", "setting: [", "not valid YAML"),
        ("setting: ak_full", "setting: ak_full\nsetting: twice", "duplicate key 'setting'"),
        ("setting: ak_full", "setting: 2026-01-01", "quote it"),
        ("setting: ak_full", "setting: 2020-13-45", "a value that YAML cannot convert"),
        ("setting: ak_full", "? [a, b]\n: c", "row.yaml"),
        ("setting: ak_full", "setting: &a [*a]", "row.yaml"),
        ("learning_rate: 3.0e-5", "learning_rate: .inf", "readout.learning_rate"),
        ("  value: 80.79", "  value: .nan", "published.value"),
    ],
)
def test_a_wrong_value_is_one_clear_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(UsageError) as caught:
        load_config(Row, path)
    text = str(caught.value)
    assert said in text
    assert str(path) in text
    assert "\n" not in text


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text", "\x00\x01"])
def test_a_file_that_is_no_config(tmp_path: Path, content: str) -> None:
    path = tmp_path / "row.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"row\.yaml"):
        load_config(Row, path)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file: expected a config"):
        load_config(Row, tmp_path / "none.yaml")
    (tmp_path / "row.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as text"):
        load_config(Row, tmp_path / "row.yaml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "timestep: 20",
            "timestep: 99",
            "features: timestep 99 does not exist: svd_xt has timesteps 0 (the noisiest) to 29",
        ),
        ("layer: 9", "layer: 14", "features: layer 14 does not exist: svd_xt has 1 to 13"),
        ("backbone: svd_xt", "backbone: vjepa", "vjepa has no timesteps"),
        ("backbone: svd_xt", "backbone: svd_xxt", "unknown backbone 'svd_xxt'"),
        ("full_train", "half_train", "data.train: animal_kingdom has no split 'half_train'"),
        ("animal_kingdom/full_test", "animals/full_test", "unknown dataset 'animals'"),
        ("kind: published", "kind: smoke", "a row of kind smoke has a published value"),
    ],
)
def test_a_row_that_names_what_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    shutil.copytree(configs_folder(), tmp_path / "configs")
    path = tmp_path / "configs" / "rows" / "ak_full.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    use_shipped(monkeypatch, configs=tmp_path / "configs")
    load_row.cache_clear()
    try:
        with pytest.raises(UsageError, match=re.escape(said)):
            load_row("ak_full")
    finally:
        load_row.cache_clear()


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(BOMB, "more than 100000 values, aliases included", id="alias bomb"),
        pytest.param("a: " + "[" * 150 + "]" * 150, "nested deeper than 100 levels", id="deep flow"),
        pytest.param("".join(" " * n + "a:\n" for n in range(5_000)), "nested deeper than 100 levels", id="deep block"),
        pytest.param("a: &a [*a]\n", "", id="alias of itself"),
    ],
)
def test_a_hostile_config_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "row.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: .*{said}") as error:
        load_config(Row, path)
    assert "\n" not in str(error.value)


def test_a_hostile_change_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "row.yaml"
    path.write_text("a: 1\n")
    for text in (BOMB, "[" * 5_000, "{[1]: 2}"):
        with pytest.raises(UsageError, match="the value is not valid YAML"):
            load_config(Row, path, {"a": text})


def test_a_config_that_is_a_named_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "row.yaml")
    with pytest.raises(UsageError, match="not a regular file"):
        load_config(Row, tmp_path / "row.yaml")
