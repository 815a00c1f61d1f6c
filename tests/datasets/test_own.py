"""Tables of own clips: as spreadsheet programs of several systems write them, and every mistake in one line."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repro.core.errors import UsageError
from repro.datasets.own import OwnDataFile, OwnDataset, build_own_dataset, load_own_dataset, own_name

ROWS = [("walk", f"w{n}.mp4") for n in range(6)] + [("eat", f"e{n}.mp4") for n in range(6)]
PLAIN = "path,label\n" + "".join(f"{path},{label}\n" for label, path in ROWS)


def build(folder: Path, table: str | bytes, **options: object) -> OwnDataset:
    (folder / "my.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    return build_own_dataset(folder / "my.yaml", OwnDataFile(clips="my.csv", **options))  # type: ignore[arg-type]


def listed(dataset: OwnDataset) -> set[tuple[str, str, tuple[str, ...], str]]:
    return {
        (part, clip.id, tuple(split.classes[label] for label in clip.target), clip.group)
        for part, split in dataset.own_listing.splits.items()
        for clip in split.clips
    }


def test_a_seeded_split_has_a_share_of_every_class_and_ignores_the_order_of_rows(tmp_path: Path) -> None:
    dataset = build(tmp_path, PLAIN)
    assert (dataset.target, dataset.classes, dataset.official_metric) == ("single", 2, "top1")
    assert dataset.own_listing.splits["train"].classes == ("eat", "walk")
    assert Counter((part, labels) for part, _, labels, _ in listed(dataset)) == {
        ("train", ("walk",)): 4, ("train", ("eat",)): 4, ("test", ("walk",)): 2, ("test", ("eat",)): 2,
    }  # fmt: skip
    header, *lines = PLAIN.splitlines()
    again = build(tmp_path, "\n".join([header, *reversed(lines)]))
    assert listed(again) == listed(dataset)
    assert listed(build(tmp_path, PLAIN, split_seed=1)) != listed(dataset)


def test_no_group_is_divided(tmp_path: Path) -> None:
    table = "path,label,group\n" + "".join(
        f"{label}{animal}{take}.mp4,{label},animal {animal}\n"
        for label in ("walk", "eat") for animal in range(8) for take in range(3)
    )  # fmt: skip
    parts = {
        part: {group for p, _, _, group in listed(build(tmp_path, table)) if p == part} for part in ("train", "test")
    }
    assert parts["train"] | parts["test"] == {f"animal {n}" for n in range(8)}
    assert not parts["train"] & parts["test"]


def test_a_column_splits_and_labels_may_be_several(tmp_path: Path) -> None:
    table = "path,label,split,group,remark\n" + "".join(
        f"{n}.mp4,{label},{split},,x\n" for n, (label, split) in enumerate(
            [("walk;eat", "Train"), ("walk", "train"), ("walk;sleep", "train"), ("eat;sleep", "training"), ("eat", "train"),
             ("sleep", "train"), ("walk;eat", "test"), ("sleep", "TEST")]
        )
    ) + "0.mp4,sleep,train,,again\n"  # fmt: skip
    dataset = build(tmp_path, table)
    assert (dataset.target, dataset.official_metric) == ("multi", "map_macro")
    assert ("train", "0.mp4", ("eat", "sleep", "walk"), "") in listed(dataset)
    assert {clip for part, clip, _, _ in listed(dataset) if part == "test"} == {"6.mp4", "7.mp4"}
    assert "any number of labels (4 have several)" in dataset.own_listing.notes[0]
    with pytest.raises(
        UsageError, match=r"several labels for 4 clips \(0\.mp4: walk, eat, sleep; .*; 1 more\): correct"
    ):
        build(tmp_path, table, labels="single")


@pytest.mark.parametrize("written", ["bom", "semicolons", "tabs", "windows", "old mac", "utf-16", "latin", "parquet"])
def test_tables_as_programs_write_them(tmp_path: Path, written: str) -> None:
    plain = PLAIN.replace("walk", "gehen (müde)").replace("w0.mp4", "Größe 1/w 0.mp4")
    expected = listed(build(tmp_path, plain))
    ways = {
        "bom": plain.encode("utf-8-sig"), "semicolons": plain.replace(",", ";").encode(),
        "tabs": plain.replace(",", "\t").encode(), "windows": plain.replace("\n", "\r\n").encode(),
        "old mac": plain.replace("\n", "\r").encode(), "utf-16": plain.encode("utf-16"), "latin": plain.encode("latin-1"),
    }  # fmt: skip
    if written == "parquet":
        lines = [line.split(",") for line in plain.splitlines()[1:]]
        table = pa.table({"path": [path for path, _ in lines], "label": [[label] for _, label in lines]})
        pq.write_table(table, tmp_path / "my.parquet")
        dataset = build_own_dataset(tmp_path / "my.yaml", OwnDataFile(clips="my.parquet"))
    else:
        dataset = build(tmp_path, ways[written])
    assert listed(dataset) == expected
    assert any("not UTF-8: read as Windows-1252" in note for note in dataset.own_listing.notes) == (written == "latin")


def test_paths_may_lead_anywhere_and_name_a_file_once(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    changed = PLAIN.replace("w0.mp4", f"{tmp_path}/far away/w.mp4").replace("w1.mp4", "../up.mp4")
    changed = changed.replace("w2.mp4", "sub\\w.mp4").replace("w3.mp4", f"{folder}/inside.mp4")
    paths = {clip.id: clip.path for split in build(folder, changed).own_listing.splits.values() for clip in split.clips}
    assert paths[f"{tmp_path}/far away/w.mp4"] == tmp_path / "far away" / "w.mp4"
    assert paths["../up.mp4"] == tmp_path / "up.mp4"
    assert paths["sub/w.mp4"] == folder / "sub" / "w.mp4"
    assert paths["inside.mp4"] == folder / "inside.mp4"
    # One file by two spellings is one clip, with both labels.
    twice = build(folder, PLAIN + "./x/../w0.mp4,eat\n")
    assert ("eat", "walk") in {labels for _, clip, labels, _ in listed(twice) if clip == "w0.mp4"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\na,b\n", r"no column 'path' \(columns found: file, label\)"),
        ("path\na\n", "no column 'label'"),
        ("", r"no column 'path' \(columns found: none\)"),
        ("path,label\n", "no clips: it has a header and no rows"),
        ("path,label,label\na,b,c\n", ":1: a column is there twice"),
        (PLAIN + "a,b,c\n", ":14: 3 cells, the header has 2: a cell with a comma needs double quotes"),
        (PLAIN + 'a,"b"c\n', ":14: not a csv"),
        (PLAIN + "a.mp4,\nb.mp4, ; \n", r"no label \(.*\) in 2 rows \(line 14; line 15\): correct the table"),
        (PLAIN + ",walk\n", r"no path in 1 row \(line 14\)"),
        (PLAIN + '"a\nb.mp4",walk\n', "control character"),
        (PLAIN.replace(",eat", ",walk"), "the only label is 'walk'"),
        (PLAIN + "x.mp4,rare\n", "to train on and to test on in 1 class: 'rare' 1 and 0; a class needs 3 and 1"),
        (
            "path,label,split\n" + "".join(f"{path},{label},val\n" for label, path in ROWS),
            r"another split than train or test in 12 rows \(line 2: 'val'; line 3: 'val'; line 4: 'val'; 9 more\)",
        ),
        (
            "path,label,split\n" + "".join(f"{path},{label},train\n" for label, path in ROWS),
            r"in 2 classes: 'eat' 6 and 0; 'walk' 6 and 0;",
        ),
        (
            "path,label,group\n" + "".join(f"{path},{label},g\n" for label, path in ROWS) + "w0.mp4,eat,h\n",
            r"another split or group than in an earlier row of the same clip in 1 row \(line 14: w0.mp4, first in line 2\)",
        ),
        (b"PK\x03\x04\0\0\0", "not a text table: save it as CSV"),
        (b"path,label\na\x81,b\n", "not a text table"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_where(tmp_path: Path, table: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        build(tmp_path, table)
    assert str(tmp_path / "my.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_probably_a_mistake_is_noted(tmp_path: Path) -> None:
    table = "path,label,split,group\n" + "".join(
        f"{label}{n}.mp4,{label},{'train' if n < 3 else 'test'},{'a' if n in (0, 3) else ''}\n"
        for label in ("walk", "Walk", "eat") for n in range(4)
    )  # fmt: skip
    notes = build(tmp_path, table).own_listing.notes
    assert "1 group both in train and in test (a): scores will be too high" in notes
    assert "labels that differ in capitals alone are different classes: Walk, walk" in notes


def test_missing_files_and_parquet_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"my\.csv: no such table of clips"):
        build_own_dataset(tmp_path / "my.yaml", OwnDataFile(clips="my.csv"))
    with pytest.raises(UsageError, match=r"gone\.yaml: no such file: expected a config"):
        load_own_dataset(tmp_path / "gone.yaml")
    pq.write_table(pa.table({"path": ["a"], "labels": ["b"]}), tmp_path / "my.parquet")
    with pytest.raises(UsageError, match=r"no column 'label' \(columns found: labels, path\)"):
        build_own_dataset(tmp_path / "my.yaml", OwnDataFile(clips="my.parquet"))
    (tmp_path / "my.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="not a complete parquet file"):
        build_own_dataset(tmp_path / "my.yaml", OwnDataFile(clips="my.parquet"))


def test_a_name_is_safe_and_no_other_files(tmp_path: Path) -> None:
    names = [
        own_name(tmp_path / name) for name in ("a/ak_full.yaml", "b/ak_full.yaml", "a/../../Füße & 1.yaml", "a/猫.yaml")
    ]
    assert len(set(names)) == 4
    for name in names:
        assert name.startswith("own_")
        assert name.replace("_", "").isalnum()
        assert name.isascii()
        assert name == name.lower()
