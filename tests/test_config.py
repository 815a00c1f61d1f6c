"""Configs reject what they do not know, in one line that names file, key and value."""

from pathlib import Path

import pytest

from repro.config import load_config
from repro.errors import UsageError
from repro.rows import Row, rows_folder


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (rows_folder() / "ak_full.yaml").read_text()
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
        ("version: 1", "", "key 'version' is missing"),
        ("metric: map_micro", "metric: map", "metric: \"map\": input should be 'map_micro' or 'top1'"),
        ("setting: ak_full", "setting: [", "not valid YAML"),
        ("setting: ak_full", "setting: ak_full\nsetting: twice", "key 'setting' stands twice"),
        ("setting: ak_full", "setting: 2026-01-01", "quote it"),
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
    with pytest.raises(UsageError, match="no such config"):
        load_config(Row, tmp_path / "none.yaml")
    (tmp_path / "row.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as text"):
        load_config(Row, tmp_path / "row.yaml")
