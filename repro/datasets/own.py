"""A user's own labelled clips: a table with the columns path, label and, if wanted, split and group.

    my.yaml    names the table and states how it is divided; `repro data new my.csv` writes it
    my.csv     path,label[,split][,group], or the same columns in a parquet file; paths are relative to the table's folder

A clip with several labels has several rows, or a label cell such as `walk;eat`. The table is read again by every command,
so that a corrected one counts at once; features are stored by a clip's path and stay.
"""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PrivateAttr, model_validator

from repro.core.config import Config, is_config_path, load_config
from repro.core.console import unquote_formulas
from repro.core.errors import UsageError, state_reason
from repro.core.reading import check_regular, read_bytes, read_table
from repro.core.stratified import select_held_out
from repro.datasets.annotations import Listing, to_one_line
from repro.datasets.config import DatasetConfig, SplitFacts, load_dataset
from repro.datasets.registry import user_dataset_names
from repro.datasets.split import Clip, Split, SplitName

REQUIRED, OPTIONAL = ("path", "label"), ("split", "group")
SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
LEAST_TRAIN = 3
"""Independent clips (groups) of a class that training needs: of fewer, none can be held out (repro/core/stratified.py)."""
NOT_STATED = "not stated"
"""Licence of clips whose owner names none."""
OWN_NAME = "^own_[a-z0-9_]{1,80}$"
"""Names of own data sets and rows; those of published ones do not begin so."""
SHOWN = 3
"""Rows or clips that a message names."""


class OwnDataFile(Config):
    """The YAML file that describes a table of clips."""

    clips: str
    """The table, relative to this file."""
    labels: Literal["single", "multi"] | None = None
    """Whether a clip has one label or any number [default: as found in the table]."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the clips to test on, if the table has no column split."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Decides which groups those are."""
    licence: str = NOT_STATED
    """Of the clips, for those whom their features are given to."""
    name: Annotated[str, Field(pattern=OWN_NAME)] | None = None
    """Name in the workspace [default: by the file's path], which imported features bring with them."""
    quoted: bool = False
    """Whether a ' before =, +, - and @ keeps spreadsheet programs from computing a cell and is not part of it, as in tables that
    imported features bring."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_row_file(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "data" in raw and "clips" not in raw:
            raise ValueError(f"a row file; expected the file of the clips, which it names as data: {raw['data']}")
        return raw


class OwnDataset(DatasetConfig):
    """The data set that a table of own clips is: its config with what it lists."""

    file: Path
    """The YAML file."""
    has_split_column: bool
    _listing: Listing = PrivateAttr()

    @property
    def argument(self) -> str:
        return str(self.file)

    @property
    def own_listing(self) -> Listing:
        return self._listing

    def videos_folder(self, folder: Path) -> str:
        return ""


@dataclass(slots=True)
class _Row:
    """A clip of the table, with the lines that list it."""

    id: str
    path: Path
    split: str
    group: str
    lines: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Cells:
    """The cells of a table by column, and what was assumed to read them."""

    rows: list[tuple[int, dict[str, str]]]
    """With the line of each, from 1."""
    columns: frozenset[str]
    notes: list[str]


def own_name(path: Path) -> str:
    """Return the name of a user's data set or row: its file's stem in plain letters, and a hash of the file's real path.

    It is part of folders' names. Published names do not begin with own_.
    """
    stem = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")[:40]
    # The path keeps files of one name in different folders apart; contents would orphan all features at every correction.
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
    return "_".join(part for part in ("own", stem, digest) if part)


def load_own_dataset(path: Path) -> OwnDataset:
    """Read a YAML file that describes a table of clips, and the table.

    Raises:
        UsageError: either is missing or not valid, or the clips are too few to train and test on.
    """
    return build_own_dataset(path, load_config(OwnDataFile, path))


def find_dataset(name: str) -> DatasetConfig:
    """Return the config of a data set that a user brings, by its name or by the path of the YAML file of own clips.

    Raises:
        UsageError: there is none, or own clips are not valid.
    """
    if is_config_path(name):
        return load_own_dataset(Path(name))
    config = load_dataset(name)
    if name not in user_dataset_names():
        raise UsageError(
            f"{name}: generated, not a data set that users bring; those are: {', '.join(user_dataset_names())}"
        )
    return config


def find_split(source: str) -> tuple[DatasetConfig, str]:
    """Return the data set that `source` names, and which split of it; "" for the data set.

    Args:
        source: A data set, or `<data set>/<split>`; a data set is named as in find_dataset.

    Raises:
        UsageError: there is no such data set, or own clips are not valid.
    """
    name, _, split = source.rpartition("/")
    return (find_dataset(name), split) if name and not is_config_path(source) else (find_dataset(source), "")


def build_own_dataset(path: Path, file: OwnDataFile) -> OwnDataset:
    """Read the table that `file`, to be stored at `path`, describes.

    Raises:
        UsageError: as load_own_dataset.
    """
    # Without `..`, so that a clip has one id whichever way the table is named.
    path = Path(os.path.normpath(path.absolute()))
    table = Path(os.path.normpath(path.parent / file.clips))
    cells = _read_cells(table)
    if file.quoted:
        cells.rows = [(n, {key: unquote_formulas(cell) for key, cell in row.items()}) for n, row in cells.rows]
    rows = _merge_rows(table, cells)
    several = [row for row in rows if len(row.labels) > 1]
    target = file.labels or ("multi" if several else "single")
    if target == "single" and several:
        shown = _name_first(f"{row.id}: {', '.join(row.labels)}" for row in several)
        raise UsageError(
            f"{table}: several labels for {_count(several, 'clip')} ({shown}): correct the table, or write labels: multi in {path}"
        )
    # Sorted, so that the order of the table's rows does not number the classes.
    classes = tuple(sorted({label for row in rows for label in row.labels}))
    if len(classes) < 2:
        raise UsageError(
            f"{table}: the only label is '{classes[0]}': a readout needs at least two classes to tell apart"
        )
    name = file.name or own_name(path)
    clips = {
        row.id: Clip(
            row.id, row.path, tuple(sorted(map(classes.index, row.labels))), row.group, f"{table.name}:{row.lines[0]}"
        )
        for row in rows
    }
    if "split" in cells.columns:
        tested, how = {row.id for row in rows if row.split == "test"}, "split by the table's column"
    else:
        tested = _draw_test_clips(list(clips.values()), len(classes), file)
        unit = "group" if "group" in cells.columns else "clip"
        how = f"{file.test_share:.0%} to test on, by {unit}, seed {file.split_seed}"
    # By label, as the published splits; and so independent of the order of the rows, which is part of a run's key.
    ordered = sorted(clips.values(), key=lambda clip: (clip.target, clip.id))
    splits = {
        part: Split(SplitName(name, part), classes, tuple(c for c in ordered if (c.id in tested) == (part == "test")))
        for part in ("train", "test")
    }
    _require_enough(table, splits)
    labelled = "one label" if target == "single" else f"any number of labels ({len(several)} have several)"
    sizes = ", ".join(f"{len(split.clips)} {part}" for part, split in splits.items())
    summary = f"{_count(rows, 'clip')} of {len(classes)} classes, {labelled}; {how}: {sizes}"
    notes = (summary, *cells.notes, *_find_doubtful(splits))
    dataset = OwnDataset(
        name=name, title=f"{_count(rows, 'clip')} of {table.name}", version=1, source=str(table), size="your own files",
        licence=to_one_line(file.licence) or NOT_STATED, folder=str(table.parent), parts=(), obtain=f"correct {table}", adapter="own",
        classes=len(classes), target="single" if target == "single" else "multi",
        official_metric="top1" if target == "single" else "map_macro",
        splits={part: SplitFacts(clips=len(split.clips)) for part, split in splits.items()}, file=path, has_split_column="split" in cells.columns,
    )  # fmt: skip
    dataset._listing = Listing(splits, notes)
    return dataset


def _read_cells(table: Path) -> _Cells:
    """Read the table's columns that matter.

    Raises:
        UsageError: it cannot be read, has no rows, or not the columns.
    """
    try:
        read = _read_parquet if table.suffix.lower() == ".parquet" else _read_csv
        cells = read(table)
    except FileNotFoundError as error:
        raise UsageError(f"{table}: no such table of clips: expected a csv with the columns path,label") from error
    except OSError as error:
        raise UsageError(f"{table}: cannot be read ({state_reason(error.strerror or error)})") from error
    for required in REQUIRED:
        if required not in cells.columns:
            found = ", ".join(sorted(map(to_one_line, cells.columns))) or "none"
            raise UsageError(
                f"{table}: no column '{required}' (columns found: {found[:200]}): expected path,label[,split][,group] in the "
                "first line"
            )
    if not cells.rows:
        raise UsageError(f"{table}: no clips: it has a header and no rows")
    return cells


def _read_parquet(table: Path) -> _Cells:
    try:
        check_regular(table)
        columns = pq.read_schema(table).names
        rows = read_table(table, [name for name in columns if name in (*REQUIRED, *OPTIONAL)]).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise UsageError(f"{table}: not a complete parquet file ({state_reason(error)})") from error

    def as_text(value: object) -> str:
        return ";".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)

    numbered = [
        (line, {name: as_text(value).strip() for name, value in row.items()}) for line, row in enumerate(rows, 1)
    ]
    return _Cells(numbered, frozenset(columns), [])


def _read_csv(table: Path) -> _Cells:
    text, notes = _decode(table, read_bytes(table))
    # Line ends of any system.
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    header = next((line for line in lines.split("\n") if line.strip()), "")
    # The delimiter is in the header, because labels may hold any of the others. A header of one column has none.
    delimiter = max(",;\t", key=header.count)
    rows: list[tuple[int, dict[str, str]]] = []
    columns: list[str] = []
    reader = csv.reader(io.StringIO(lines), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{table}:{reader.line_num}"
            if not columns:
                columns = [cell.strip().lower() for cell in cells]
                known = [name for name in columns if name in (*REQUIRED, *OPTIONAL)]
                if len(set(known)) < len(known):
                    raise UsageError(f"{where}: a column is there twice ({', '.join(known)}): remove one")
            elif len(cells) != len(columns):
                name = {",": "comma", ";": "semicolon", "\t": "tab"}[delimiter]
                raise UsageError(
                    f"{where}: {len(cells)} cells, the header has {len(columns)}: a cell with a {name} needs double quotes"
                )
            else:
                rows.append((reader.line_num, dict(zip(columns, map(str.strip, cells), strict=True))))
    except csv.Error as error:
        raise UsageError(f"{table}:{reader.line_num}: not a csv ({error}): check the double quotes") from error
    return _Cells(rows, frozenset(columns), notes)


def _decode(table: Path, content: bytes) -> tuple[str, list[str]]:
    """Return a csv's text, and a note if its encoding was assumed."""
    # UTF-16 is what spreadsheet programs call Unicode text.
    encodings = ["utf-16"] if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        assumed = f"{table.name} is not UTF-8: read as Windows-1252 (Latin-1); check names with accents"
        return text, [assumed] if encoding == "cp1252" else []
    raise UsageError(f"{table}: not a text table: save it as CSV (UTF-8), or name it .parquet if it is that")


def _merge_rows(table: Path, cells: _Cells) -> list[_Row]:
    """Return one row a clip, with all its labels, in the table's order.

    Raises:
        UsageError: an empty path or label, an unknown split, or rows of a clip that contradict each other.
    """
    problems: dict[str, list[str]] = {}
    found: dict[Path, _Row] = {}
    for line, row in cells.rows:
        labels = [label.strip() for label in row["label"].split(";") if label.strip()]
        split, group = row.get("split", ""), row.get("group", "")
        word = SPLIT_WORDS.get(split.lower(), "")
        if not row["path"]:
            # Collected, so that one message counts all rows with a problem.
            problems.setdefault("no path", []).append(f"line {line}")
        elif not labels:
            problems.setdefault("no label (write one, such as none, for clips of no class)", []).append(f"line {line}")
        elif not all(text.isprintable() for text in (row["path"], group, *labels)):
            problems.setdefault("a line break or another control character", []).append(f"line {line}")
        elif "split" in row and not word:
            # The held-out part is chosen by the held-out protocol, so there is no third word.
            problems.setdefault("another split than train or test", []).append(f"line {line}: '{split[:40]}'")
        else:
            clip = _locate_clip(table.parent, row["path"])
            first = found.setdefault(clip[1], _Row(*clip, word, group))
            if (first.split, first.group) != (word, group):
                problems.setdefault("another split or group than in an earlier row of the same clip", []).append(
                    f"line {line}: {first.id}, first in line {first.lines[0]}"
                )
            first.lines.append(line)
            first.labels += [label for label in labels if label not in first.labels]
    for problem, lines in problems.items():
        others = f" (and {len(problems) - 1} other problems)" if len(problems) > 1 else ""
        raise UsageError(
            f"{table}: {problem} in {_count(lines, 'row')} ({_name_first(lines)}): correct the table{others}"
        )
    return list(found.values())


def _locate_clip(folder: Path, text: str) -> tuple[str, Path]:
    """Return a clip's id and its path. The file need not exist, and may be anywhere: the table is the user's own."""
    if "\\" in text and not (folder / text).exists():
        text = text.replace("\\", "/")  # written on Windows
    path = Path(os.path.normpath(folder / text))
    inside = path.is_relative_to(folder)
    return os.path.relpath(path, folder) if inside or not Path(text).is_absolute() else str(path), path


def _draw_test_clips(clips: Sequence[Clip], classes: int, file: OwnDataFile) -> set[str]:
    """Return the ids of clips to test on: about `test_share` of each class, no group divided."""
    clips = sorted(clips, key=lambda clip: clip.id)
    # By id, not in the table's order, on which the choice would depend otherwise.
    targets = np.zeros((len(clips), classes))
    for number, clip in enumerate(clips):
        targets[number, list(clip.target)] = 1
    # The same division as of the held-out protocol: by class, and no group in both parts.
    chosen = select_held_out(targets, [clip.group or None for clip in clips], file.split_seed, file.test_share)
    return {clips[number].id for number in chosen}


def _require_enough(table: Path, splits: dict[str, Split]) -> None:
    """Raise UsageError if a class has too few independent clips, or none in a split."""
    # Clips of a group are nearly alike and count as one.
    counts = {part: _count_groups(split) for part, split in splits.items()}
    short = []
    for label, name in enumerate(splits["train"].classes):
        train, test = counts["train"][label], counts["test"][label]
        if train < LEAST_TRAIN or not test:
            short.append(f"'{name}' {train} and {test}")
    if short:
        raise UsageError(
            f"{table}: too few clips to train on and to test on in {_count(short, 'class')}: {_name_first(short)}; a class needs "
            f"{LEAST_TRAIN} and 1, so that one can be held out (clips of a group count as one): add clips, or merge or remove the class"
        )


def _count_groups(split: Split) -> list[int]:
    groups: list[set[str]] = [set() for _ in split.classes]
    for clip in split.clips:
        for label in clip.target:
            groups[label].add(f"group {clip.group}" if clip.group else f"clip {clip.id}")
    return [len(names) for names in groups]


def _find_doubtful(splits: dict[str, Split]) -> list[str]:
    """Return a note on each thing that is allowed and probably a mistake."""
    notes = []
    groups = {part: {clip.group for clip in split.clips if clip.group} for part, split in splits.items()}
    if shared := sorted(groups["train"] & groups["test"]):
        notes.append(
            f"{_count(shared, 'group')} both in train and in test ({_name_first(shared)}): scores will be too high"
        )
    alike: dict[str, list[str]] = {}
    for label in splits["train"].classes:
        # A warning and no correction: "Walk" and "walk" may be meant.
        alike.setdefault(label.casefold(), []).append(label)
    notes += [
        f"labels that differ in capitals alone are different classes: {', '.join(a)}" for a in alike.values() if a[1:]
    ]
    return notes


def _count(things: Sequence[object], noun: str) -> str:
    plural = {"class": "classes"}.get(noun, f"{noun}s")
    return f"{len(things)} {noun if len(things) == 1 else plural}"


def _name_first(texts: Iterable[str]) -> str:
    listed = list(texts)
    return "; ".join(listed[:SHOWN]) + (f"; {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
