"""What is written is read back as it was, whatever it holds."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import records
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from properties.formats import make_predictions

from repro.core.config import load_config
from repro.core.errors import UsageError
from repro.core.hashing import FileHashes, FileStamp, content_sha256
from repro.core.signed import (
    parse_signed_json,
    read_arrays,
    read_signed_text,
    write_arrays,
    write_signed_json,
    write_signed_text,
)
from repro.core.workspace import Workspace
from repro.datasets.audit import Journal
from repro.datasets.labels import Labels, SplitLabels, read_labels, write_labels
from repro.datasets.manifest import ClipFacts, Manifest, read_manifest, write_manifest
from repro.datasets.own import OwnDataFile, load_own_dataset
from repro.features.pack_collection import add_to_pack
from repro.features.rates import load_rates, record_rate
from repro.features.store import NUMPY_ARRAYS, Entry, FeatureStore, read_clip_file
from repro.judge.kept import dump_arrays, parse_arrays
from repro.pipeline.bundle.archive import MEMBER_NAME, Archive, write_zip
from repro.readout.metrics import count_at_least
from repro.readout.predictions import Predictions, read_predictions, to_probabilities, write_predictions
from repro.records.record import EpochRecord, Selection
from repro.records.training_log import load_training_log
from repro.table.own import write_config
from repro.video.probe import ClipContents, Probe

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)
LINES = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1, max_size=9
)
PRINTED = TEXT.filter(lambda text: text.isprintable() and text == text.strip() and text != "")
SHA256 = st.integers(0, 2**256 - 1).map(lambda n: f"{n:064x}")
SHARES = st.floats(0, 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT.filter(lambda key: key != "sha256"), JSON, max_size=4)
FLOATS = arrays_of.arrays(
    st.sampled_from([np.float32, np.float16]),
    arrays_of.array_shapes(min_dims=2, max_dims=2, max_side=5),
    elements=st.floats(-1, 1, width=16),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round")


@given(OBJECTS)
def test_signed_json(folder: Path, value: dict[str, Any]) -> None:
    write_signed_json(folder / "a.json", value)
    assert parse_signed_json((folder / "a.json").read_bytes()) == (value, True)


@given(st.binary(max_size=99))
def test_signed_text(folder: Path, text: bytes) -> None:
    write_signed_text(folder / "a.txt", text)
    assert read_signed_text(folder / "a.txt") == text


@given(st.dictionaries(TEXT.filter(lambda name: name != "__metadata__"), FLOATS, max_size=3), OBJECTS)
def test_signed_arrays(folder: Path, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    write_arrays(folder / "a.safetensors", arrays, about, NUMPY_ARRAYS)
    found, described = read_arrays(folder / "a.safetensors", NUMPY_ARRAYS)
    assert described == about
    assert {n: (v.dtype, v.shape, v.tobytes()) for n, v in found.items()} == {
        n: (v.dtype, v.shape, v.tobytes()) for n, v in arrays.items()
    }


@given(
    st.dictionaries(NAMES, st.tuples(FLOATS, SHA256, st.lists(LINES, max_size=2)), min_size=1, max_size=3),
    st.integers(0, 2**40),
)
def test_features_of_clips_alone_and_packed(folder: Path, clips: dict[str, Any], number: int) -> None:
    store = FeatureStore.open(Workspace(folder / "features"), "b", {"n": number}, "c")
    entries = {
        clip: Entry({"final": np.resize(values.astype(np.float32), (len(values), 4))}, video, "pyav", tuple(origins))
        for clip, (values, video, origins) in clips.items()
    }
    names = {store.file_name(clip) for clip in clips}
    assert len(names) == len(clips)
    assert all("/" not in name and len(name.encode()) < 255 for name in names)

    def content(entry: Entry) -> Any:
        return {n: (v.shape, v.tobytes()) for n, v in entry.features.items()}, entry.video_sha256, entry.origins

    for clip, entry in entries.items():
        store.write_clip(clip, entry)
        found = read_clip_file(store.clip_path(clip))
        assert found is not None
        assert (found[0], content(found[1])) == (clip, content(entry))
        store.clip_path(clip).unlink()
    add_to_pack(store, "final", entries)
    reader = store.cell_reader("final")
    for clip, entry in entries.items():
        packed = reader.read(clip)
        assert packed is not None
        assert content(packed) == content(entry)
    assert store.stored_clips("final") >= set(clips)


@given(
    st.lists(NAMES, min_size=1, max_size=6, unique=True),
    st.lists(LINES, min_size=2, max_size=4, unique=True),
    st.integers(0, 2**32),
    st.sampled_from(["softmax", "sigmoid"]),
    st.booleans(),
)
def test_predictions(
    folder: Path, clips: list[str], classes: list[str], seed: int, activation: Any, grouped: bool
) -> None:
    draw = np.random.default_rng(seed)
    logits = {n: draw.standard_normal((len(clips), len(classes))).astype(np.float32) for n in (1, 4)}
    targets = (draw.random((len(clips), len(classes))) < 0.5).astype(np.int64)
    scores = {n: to_probabilities(values, activation) for n, values in logits.items()}
    groups = tuple(draw.choice(["g", "h"], len(clips)).tolist()) if grouped else None
    predicted = {2: draw.integers(0, len(classes), len(clips)).astype(np.uint16)}
    at_least = {3: count_at_least(scores[1], targets)}
    written = Predictions(tuple(clips), tuple(classes), targets, scores, groups, predicted, at_least)
    write_predictions(folder / "p.parquet", written, logits, activation)
    found = read_predictions(folder / "p.parquet")
    assert (found.clips, found.classes, found.groups, found.format) == (written.clips, written.classes, groups, 2)
    assert np.array_equal(found.targets, targets)
    for one, other in ((found.by_epoch, scores), (found.predicted, predicted), (found.at_least, at_least)):
        assert set(one) == set(other)
        assert all(one[n].tobytes() == other[n].tobytes() for n in other)


def test_predictions_of_earlier_versions(folder: Path) -> None:
    written, _ = make_predictions()
    records.write_earlier_predictions(folder / "e.parquet", written)
    found = read_predictions(folder / "e.parquet")
    assert (found.clips, found.classes, found.groups) == (written.clips, written.classes, None)
    assert all(np.array_equal(found.by_epoch[n], written.by_epoch[n]) for n in written.by_epoch)


@given(st.integers(0, 2**31), st.lists(SHARES, min_size=2, max_size=2), st.lists(NAMES, max_size=3), OBJECTS)
def test_records(folder: Path, seed: int, scores: list[float], missing: list[str], rest: dict[str, Any]) -> None:
    made = records.record("ucf_hmdb", seed, 0.5)
    epochs = tuple(
        EpochRecord(epoch=n, train_loss=0.5, scores={made.metric: scores[n % 2]})
        for n in range(1, made.recipe.epochs + 1)
    )
    best = max(epochs, key=lambda epoch: epoch.scores[made.metric])
    made = made.model_copy(
        update={
            "epochs": epochs,
            "best_epoch_on_test": Selection(epoch=best.epoch, scores=best.scores),
            "last_epoch": Selection(epoch=epochs[-1].epoch, scores=epochs[-1].scores),
            "test": made.test.model_copy(update={"missing_clips": tuple(missing)}),
            "key_rest": rest,
            "made": made.made.model_copy(update={"seconds": scores[0] * 1e6}),
        }
    )
    stored = records.write(folder / "runs", made)
    assert stored.load_record() == made
    # The same contents are the same bytes.
    before = stored.record_path.read_bytes()
    stored.write_record(made)
    assert stored.record_path.read_bytes() == before


FACTS = st.tuples(
    NAMES, TEXT, st.lists(TEXT, max_size=2).map(tuple), st.booleans(), st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1), st.floats(0, 1e6), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.floats(0, 1e9), TEXT, TEXT,
    SHA256,
)  # fmt: skip


@given(TEXT, TEXT, st.lists(FACTS, max_size=4, unique_by=lambda facts: facts[0]))
def test_manifests(folder: Path, dataset: str, key: str, facts: list[tuple[Any, ...]]) -> None:
    written = Manifest(dataset, key, tuple(ClipFacts(*one) for one in facts))
    write_manifest(folder / "m.parquet", written)
    assert read_manifest(folder / "m.parquet") == written


@given(st.lists(st.tuples(NAMES, st.lists(st.integers(0, 2)), TEXT, TEXT), max_size=4), st.lists(TEXT, max_size=2))
def test_labels(folder: Path, clips: list[Any], notes: list[str]) -> None:
    parts = tuple((clip, tuple(target), group, listed) for clip, target, group, listed in clips)
    written = Labels(key="k", notes=tuple(notes), splits={"train": SplitLabels(classes=("a", "b", "c"), clips=parts)})
    write_labels(Workspace(folder), "d", written)
    assert read_labels(Workspace(folder), "d") == written


PATHS = (
    st.binary(min_size=1, max_size=20)
    .filter(lambda name: b"\0" not in name)
    .map(lambda name: name.decode("utf-8", "surrogateescape"))
)


@given(st.dictionaries(st.tuples(PATHS, st.integers(0, 2**63)), SHA256, max_size=4))
def test_hashes(tmp_path_factory: pytest.TempPathFactory, found: dict[tuple[str, int], str]) -> None:
    path = tmp_path_factory.mktemp("hashes") / "hashes.jsonl"
    hashes = FileHashes(path)
    for (name, size), digest in found.items():
        hashes._add(FileStamp(f"/{name}", size, 1, 2, 3), digest)
    assert FileHashes(path)._known == hashes._known


@given(st.dictionaries(PATHS, st.tuples(SHA256, TEXT, TEXT, st.none() | st.integers(0, 999)), max_size=4))
def test_journals(tmp_path_factory: pytest.TempPathFactory, found: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    journal, written = Journal(path), {}
    for name, (sha256, reader, error, frames) in found.items():
        contents = None if frames is None else ClipContents(frames, 25.0, 64, 48, 0.5, still=False)
        stamp = FileStamp(f"/{name}", 1, 2, 3, 4)
        written[stamp] = Probe(Path(stamp.path), sha256, reader, contents, error)
        journal.append_result(stamp, written[stamp])
    again = Journal(path)
    assert {stamp: again._known[stamp] for stamp in written} == written


@given(st.dictionaries(st.from_regex(r"[a-z]\w{0,9}", fullmatch=True), FLOATS, max_size=3))
def test_kept_arrays(arrays: dict[str, np.ndarray]) -> None:
    found = parse_arrays(json.loads(json.dumps(dump_arrays(arrays))))
    assert {n: (v.dtype, v.tobytes()) for n, v in found.items()} == {
        n: (v.dtype, v.tobytes()) for n, v in arrays.items()
    }


@given(st.integers(8, 2**40), st.floats(0.01, 1e9), st.lists(TEXT, min_size=1, max_size=2), TEXT)
def test_rates(
    tmp_path_factory: pytest.TempPathFactory, windows: int, seconds: float, cells: list[str], device: str
) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("rates"))
    record_rate(workspace, "b", {"a": 1}, cells, {"device": device}, windows, seconds)
    (rate,) = load_rates(workspace)
    assert (rate.windows, rate.seconds, rate.cells, rate.device) == (windows, round(seconds, 3), tuple(cells), device)


@given(
    st.dictionaries(
        st.from_regex(MEMBER_NAME, fullmatch=True).filter(lambda name: len(name) < 99),
        st.binary(max_size=999),
        max_size=4,
    )
)
def test_archives(folder: Path, members: dict[str, bytes]) -> None:
    assume(len({name.lower() for name in members}) == len(members))
    write_zip(folder / "a.zip", members)
    archive = Archive(folder / "a.zip")
    assert {name: archive.read(name, 1000) for name in archive.members} == members
    archive.close()
    before = (folder / "a.zip").read_bytes()
    write_zip(folder / "a.zip", members)
    assert (folder / "a.zip").read_bytes() == before


@given(
    st.dictionaries(st.sampled_from(["labels", "licence", "test_share", "split_seed"]), st.none(), max_size=4),
    PRINTED,
    st.floats(0.01, 0.99),
)
def test_config_files(folder: Path, keys: dict[str, None], text: str, share: float) -> None:
    every: dict[str, Any] = {"labels": "multi", "licence": text, "test_share": share, "split_seed": 7}
    values = {"clips": f"{text}.csv"} | {key: every[key] for key in keys}
    write_config(folder / "c.yaml", "A title", values)
    found = load_config(OwnDataFile, folder / "c.yaml")
    assert {key: getattr(found, key) for key in values} == values


CELL = PRINTED.filter(lambda text: ";" not in text and "\0" not in text)


@given(st.lists(st.tuples(CELL, CELL), min_size=12, max_size=16, unique_by=lambda row: row[0]), st.sampled_from(",;\t"))
def test_own_tables(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str) -> None:
    """Any names and labels that can be printed, in quotes where they need them, are the clips and classes of the data set."""
    place = tmp_path_factory.mktemp("own")
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["path", "label", "split"])
    for n, (path, label) in enumerate(rows):
        writer.writerow([f"{n}/{path}", ("a", "b")[n % 2] if n < 12 else label, "test" if n in (10, 11) else "train"])
    (place / "my.csv").write_bytes(text.getvalue().encode())
    (place / "my.yaml").write_text("clips: my.csv\n")
    try:
        splits = load_own_dataset(place / "my.yaml").own_listing.splits
    except UsageError as error:
        # Too few clips of a class, or two names of one file; never a row that is read as something else.
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert any(word in refused for word in ("class", "several labels", "path")), refused
        return
    found = {clip.id: split.classes[clip.target[0]] for split in splits.values() for clip in split.clips}
    labels = [("a", "b")[n % 2] if n < 12 else label for n, (_, label) in enumerate(rows)]
    assert sorted(found.values()) == sorted(labels)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_what_follows_a_torn_line_of_a_training_log_is_read(folder: Path, torn: list[bytes]) -> None:
    made = records.record("ucf_hmdb", 1, 0.5)
    line = json.dumps({"at": 5, "epoch": made.epochs[0].model_dump(mode="json")}).encode()
    (folder / "t.jsonl").write_bytes(b"\n".join([*torn, line, *torn]))
    log = load_training_log(folder / "t.jsonl")
    assert log is not None
    assert log.epochs[1].result == made.epochs[0]


@given(JSON)
def test_equal_values_have_equal_keys(value: Any) -> None:
    again = json.loads(json.dumps(value))
    assert content_sha256(value) == content_sha256(again)
    assert dataclasses.is_dataclass(ClipFacts)
