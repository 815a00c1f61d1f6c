"""Whatever becomes of a file, it is read as what it is or refused in one line that names it: no other exception, no long wait, no
memory that it does not need."""

import resource
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import corpus
from properties.formats import FORMATS, NOTHING, Format
from properties.mutations import BYTE_CHANGES, TABLE_CHANGES, TREE_CHANGES, ByteChange, TreeChange, change_bytes

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of what long runs try
SECONDS, MEGABYTES = 4.0, 400
"""That reading one file may take, of processor and memory: far more than any does, and far less than a bomb."""
EXAMPLES = settings.default.max_examples if settings.default else 20


@dataclass
class Sample:
    path: Path
    content: bytes
    value: Any


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """An intact file of each format, made when it is first needed."""
    return {}


def prepare(form: Format, samples: dict[str, Sample], factory: pytest.TempPathFactory) -> Sample:
    if form.is_slow and EXAMPLES < 100:
        pytest.skip(f"{form.name}: in long runs alone")
    if form.name not in samples:
        path = form.make(factory.mktemp("format"))
        content = path.read_bytes()
        samples[form.name] = Sample(path, content, form.read(path))
    return samples[form.name]


def read_changed(form: Format, sample: Sample, content: bytes, *, is_forged: bool = False) -> None:
    sample.path.write_bytes(content)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = form.read(sample.path)
    except form.refused as error:
        # Control characters are escaped where a message is printed. What array types do not fit is only found in tests.
        message = str(error)
        assert "\n" not in message.replace("a\nb", "") or "Type-check" in message, message
        assert len(message) < 1500, message
        assert not form.is_named or sample.path.name in message or sample.path.parent.name in message, message
    else:
        # Of a signed file, nothing is read but what was written, unless somebody signed something else.
        if form.is_signed and not is_forged and content != sample.content:
            assert found == sample.value or found == NOTHING
    finally:
        sample.path.unlink(missing_ok=True)
        sample.path.write_bytes(sample.content)
    assert time.process_time() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


CHANGED = [(form, name) for form in FORMATS for name in form.changers]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_changed_bytes(form: Format, samples: dict[str, Sample], tmp_path_factory: pytest.TempPathFactory) -> None:
    sample = prepare(form, samples, tmp_path_factory)

    @settings(max_examples=max(2, round(EXAMPLES * form.examples)))
    @given(st.lists(BYTE_CHANGES, min_size=1, max_size=3))
    def check(changes: list[ByteChange]) -> None:
        read_changed(form, sample, change_bytes(sample.content, changes))

    for changes in corpus.BYTES.get(form.name, []):
        read_changed(form, sample, change_bytes(sample.content, changes))
    check()


@pytest.mark.parametrize(("form", "name"), CHANGED, ids=[f"{form.name}, {name}" for form, name in CHANGED])
def test_changed_values(
    form: Format, name: str, samples: dict[str, Sample], tmp_path_factory: pytest.TempPathFactory
) -> None:
    sample = prepare(form, samples, tmp_path_factory)
    changer = form.changers[name]
    drawn = TABLE_CHANGES if "table" in getattr(changer, "__name__", str(changer)) else TREE_CHANGES

    @settings(max_examples=max(2, round(EXAMPLES * form.examples)))
    @given(st.lists(drawn, min_size=1, max_size=3))
    def check(changes: list[TreeChange]) -> None:
        read_changed(form, sample, changer(sample.content, changes), is_forged=True)

    for changes in corpus.VALUES.get(f"{form.name}, {name}", []):
        read_changed(form, sample, changer(sample.content, changes), is_forged=True)
    check()
