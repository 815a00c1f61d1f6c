"""Small files that become gigabytes are refused by the sizes that they state, before memory or disk is used. Archives of videos:
tests/datasets/test_unpack.py; bundles: tests/pipeline/bundle/test_read.py; pictures: tests/features/test_large_pictures.py; aliases of YAML:
tests/core/test_config.py; nesting of JSON: tests/properties."""

import base64
import gzip
import io
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile import planted
from properties.formats import FORMATS, NOTHING, Format

from repro.judge.kept import parse_arrays

SECONDS, MEGABYTES = 6.0, 700
BY_NAME = {form.name: form for form in FORMATS}
CASES: list[tuple[str, Callable[[], bytes]]] = [
    ("own parquet", planted.repeated_text), ("own parquet", planted.many_rows), ("predictions", planted.repeated_text),
    ("predictions", planted.many_rows), ("index of packed features", planted.repeated_text), ("audit manifest", planted.repeated_text),
    ("packed features", planted.huge_array), ("features of a clip", planted.huge_tensor),
    ("features of a clip", lambda: planted.safetensors(2**63)), ("trained readout", planted.huge_tensor),
    ("header of a clip's features", lambda: planted.safetensors(99_999_999, b"{" * 1000)),
    ("diffusion checkpoint", planted.huge_tensor), ("encoder", lambda: planted.safetensors(2**40)),
    ("Animal Kingdom workbook", lambda: planted.workbook(planted.WORKBOOKS["text of gigabytes"])),
    ("Animal Kingdom workbook", lambda: planted.workbook(planted.WORKBOOKS["values in the last column"])),
]  # fmt: skip


@pytest.fixture
def bounded() -> Iterator[None]:
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


@pytest.mark.parametrize(("name", "make"), CASES, ids=[f"{name} {n}" for n, (name, _) in enumerate(CASES)])
def test_a_bomb_is_refused(
    name: str,
    make: Callable[[], bytes],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("repro.core.reading.MOST_TABLE", 1 << 28)
    monkeypatch.setattr("repro.datasets.workbook.MOST_WORKBOOK", 20_000_000)
    form: Format = BY_NAME[name]
    path, content = form.make(tmp_path), make()
    assert len(content) < 5_000_000
    path.write_bytes(content)
    del content
    request.getfixturevalue("bounded")
    with pytest.raises(form.refused) as refused:
        assert form.read(path) == NOTHING
    assert len(str(refused.value).splitlines()) == 1


def test_kept_arrays_are_not_unpacked_beyond_their_bound(bounded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.judge.kept.MOST_ARRAYS", 1_000_000)
    target = io.BytesIO()
    np.savez_compressed(target, a=np.zeros(1_000_000))
    with pytest.raises(ValueError, match="not arrays"):
        parse_arrays(base64.b64encode(target.getvalue()).decode())
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.npy", planted.huge_array())
    with pytest.raises(ValueError, match="not arrays"):
        parse_arrays(base64.b64encode(target.getvalue()).decode())


@pytest.mark.slow
def test_merges_are_not_unpacked_beyond_their_bound(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from builders import tiny_text_tower

    from repro.backbones.svd.text import load_tokenizer
    from repro.core.errors import MissingError

    (tmp_path / "merges.txt.gz").write_bytes(gzip.compress(bytes(1_000_000)) * 1500)
    request.getfixturevalue("bounded")
    with pytest.raises(MissingError, match="merges"):
        load_tokenizer(tmp_path / "merges.txt.gz", tiny_text_tower.TOWER.vocabulary)
