"""A file that carries its own sha256 is read back as written, or refused; the bytes of each layout stay what they were."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from repro.core.signed import (
    ArrayLibrary,
    DamagedFileError,
    parse_signed_json,
    read_arrays,
    read_signed_text,
    write_arrays,
    write_signed_json,
    write_signed_text,
)

NUMPY: ArrayLibrary[np.ndarray] = ArrayLibrary("np", save_file, np.ndarray.tobytes)


def test_arrays_are_read_back_and_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((0, 2), np.float16)}
    write_arrays(path, arrays, {"clip": "ü"}, NUMPY)
    found, about = read_arrays(path, NUMPY)
    assert about == {"clip": "ü"}
    assert {name: values.tolist() for name, values in found.items()} == {"b": [[0, 1, 2], [3, 4, 5]], "a": []}
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        # A flipped bit in JSON's white space or in padding may leave the contents as they were.
        try:
            again, header = read_arrays(path, NUMPY)
        except DamagedFileError:
            continue
        assert header == about
        assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    path.write_bytes(content[:-1])
    with pytest.raises(DamagedFileError, match="not a complete safetensors file"):
        read_arrays(path, NUMPY)
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none", NUMPY)


def test_a_json_object_is_read_back_and_an_edit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_signed_json(path, {"b": 1, "a": [0.5, None, "ü"]})
    digest = hashlib.sha256('{"a":[0.5,null,"ü"],"b":1}'.encode()).hexdigest()
    text = path.read_bytes()
    assert text.decode() == (f'{{\n "b": 1,\n "a": [\n  0.5,\n  null,\n  "ü"\n ],\n "sha256": "{digest}"\n}}\n')
    assert parse_signed_json(text) == ({"b": 1, "a": [0.5, None, "ü"]}, True)
    assert parse_signed_json(text.replace(b"0.5", b"0.6"))[1] is False
    for wrong in (b"[]", b"{}", b'{"sha256": NaN}', text[:-5]):
        with pytest.raises(ValueError, match=r"."):
            parse_signed_json(wrong)


def test_text_is_read_back_or_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    write_signed_text(path, b'{"a": 1}')
    assert path.read_bytes().count(b"\n") == 2
    assert read_signed_text(path) == b'{"a": 1}'
    path.write_bytes(path.read_bytes().replace(b"1}", b"2}"))
    assert read_signed_text(path) is None
    assert read_signed_text(tmp_path / "none") is None
