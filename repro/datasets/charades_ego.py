"""Charades-Ego v1, from the publishers' six csv files, class file and videos.

    CharadesEgo/CharadesEgo_v1_{train,test}{,_only1st,_only3rd}.csv     CharadesEgo/Charades_v1_classes.txt
    CharadesEgo_v1_480/<id>.mp4, or CharadesEgo_v1/<id>.mp4 at the original size

A clip's target is every action in it, whenever it happens; a clip may have none.

Groups: the person filmed, since clips of one person are not independent. If the file does not name the person, the pair
of first- and third-person clips of one script, whose ids differ only in the suffix EGO.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.datasets.annotations import (
    DataError,
    Listing,
    check_not_empty,
    check_plain_name,
    path_inside,
    read_text_lines,
    refuse_duplicates,
    to_one_line,
)
from repro.datasets.config import DatasetConfig
from repro.datasets.split import Clip, Split, SplitName

FOLDER = "CharadesEgo"
CLASSES_FILE = f"{FOLDER}/Charades_v1_classes.txt"
CSV_COLUMNS = (
    "id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions", "actions", "length",
)  # fmt: skip
"""Required columns. More may follow: v1 adds egocentric and charades_video."""
SPLITS = {
    "first_train": "train_only1st",
    "first_test": "test_only1st",
    "third_train": "train_only3rd",
    "third_test": "test_only3rd",
}


ATTRIBUTES = ("viewpoint", "scene")


@dataclass(frozen=True, slots=True)
class _CsvRow:
    number: int
    """Line of the file on which the row starts: quoted fields may hold line breaks."""
    values: dict[str, str]


def _csv_path(part: str) -> str:
    return f"{FOLDER}/CharadesEgo_v1_{part}.csv"


def list_charades_files(folder: Path) -> list[Path]:
    return [
        path_inside(folder, name)
        for name in (CLASSES_FILE, *(_csv_path(p) for p in (*SPLITS.values(), "train", "test")))
    ]


def read_charades(folder: Path, config: DatasetConfig) -> Listing:
    """Read the splits of first and third person, each with train and test.

    Raises:
        DataError: a file is missing or damaged; the message names file and row.
    """
    classes = _read_class_file(path_inside(folder, CLASSES_FILE), config.classes)
    videos = config.videos_folder(folder)
    splits = {}
    for name, part in SPLITS.items():
        relative = _csv_path(part)
        clips = tuple(_read_clips(folder, relative, videos, config.classes, first_person=part.endswith("1st")))
        splits[name] = Split(SplitName(config.name, name), classes, clips)
    refuse_duplicates((clip for split in splits.values() for clip in split.clips), folder)
    return Listing(splits, tuple(_compare_with_all(folder, splits)))


def read_charades_attribute(folder: Path, name: str, clips: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the viewpoint of each clip, which its id states, or the scene, from the csv files.

    Raises:
        DataError: a csv file is missing or damaged.
    """
    if name == "viewpoint":
        return {clip: ("first person" if clip.endswith("EGO") else "third person",) for clip in clips}
    rows = (row.values for part in SPLITS.values() for row in _read_csv_rows(path_inside(folder, _csv_path(part))))
    return {row["id"].strip(): (row["scene"].strip() or "not stated",) for row in rows}


def _read_clips(folder: Path, relative: str, videos: str, classes: int, first_person: bool) -> Iterator[Clip]:
    path = path_inside(folder, relative)
    for row in _read_csv_rows(path):
        where = f"{path}:{row.number}"
        name = check_plain_name(row.values["id"].strip(), where)
        # The two views have the same columns and similar numbers of rows: only the ids show that files were swapped.
        if name.endswith("EGO") != first_person:
            raise DataError(f"{where}: clip '{name}': ids of first-person clips end in EGO, and no others do")
        yield Clip(
            id=name,
            path=folder / videos / f"{name}.mp4",
            target=_parse_actions(row.values["actions"], classes, f"{where}: actions of clip {name}"),
            # Both views of a script show the same person and action, so without a subject they share a group.
            group=row.values["subject"].strip() or name.removesuffix("EGO"),
            listed=f"{relative}:{row.number}",
        )


def _read_csv_rows(path: Path) -> Iterator[_CsvRow]:
    """Read the rows of one csv file.

    Raises:
        DataError: not a csv file with the columns, or a row with more or fewer values than there are columns.
    """
    check_not_empty(path)
    header: list[str] = []
    number = 1
    try:
        # newline="" as the csv module requires: quoted fields hold line breaks.
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = [column.strip() for column in next(lines, [])]
            _check_header(header, path)
            # line_num is the last line read; the next row starts after it.
            number = lines.line_num + 1
            for values in lines:
                if values:
                    if len(values) != len(header):
                        raise DataError(
                            f"{path}:{number}: {len(values)} values, expected {len(header)} as in the header"
                        )
                    yield _CsvRow(number, dict(zip(header, values, strict=True)))
                number = lines.line_num + 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}:{number}: not a csv file ({error}): fetch the publisher's file again") from error


def _check_header(header: list[str], path: Path) -> None:
    if len(header) == 1:
        raise DataError(f"{path}:1: expected columns separated by commas, found '{to_one_line(header[0], 80)}'")
    for column in CSV_COLUMNS:
        if header.count(column) != 1:
            problem = "two columns" if column in header else "no column"
            raise DataError(f"{path}:1: {problem} '{column}', found {to_one_line(', '.join(header))}")


def _parse_actions(text: str, classes: int, what: str) -> tuple[int, ...]:
    """Parse the label ids of `c092 11.90 21.20;c147 0.00 12.60`; an empty field has none."""
    found = set()
    for part in filter(None, (part.strip() for part in text.split(";"))):
        # Start and end are checked for form and then ignored: a clip's target is every action in it.
        match = re.fullmatch(r"c(\d{3}) +\d+(?:\.\d*)? +\d+(?:\.\d*)?", part, re.ASCII)
        if match is None:
            raise DataError(
                f"{what}: '{to_one_line(part, 60)}', expected an action with start and end, as c092 11.90 21.20"
            )
        if int(match[1]) >= classes:
            raise DataError(f"{what}: c{match[1]}, expected c000 to c{classes - 1:03}")
        found.add(int(match[1]))
    return tuple(sorted(found))


def _read_class_file(path: Path, classes: int) -> tuple[str, ...]:
    names: list[str] = []
    for number, line in read_text_lines(path):
        match = re.fullmatch(r"c(\d{3}) +(\S.*)", line.strip(), re.ASCII)
        # Ids must be consecutive, because a class's index is its label id.
        if match is None or int(match[1]) != len(names):
            raise DataError(
                f"{path}:{number}: '{to_one_line(line, 60)}', expected 'c{len(names):03} ' and the action's name"
            )
        names.append(match[2])
    if len(names) != classes:
        raise DataError(f"{path}: {len(names)} classes, expected {classes}: fetch the publisher's file again")
    return tuple(names)


def _compare_with_all(folder: Path, splits: dict[str, Split]) -> Iterator[str]:
    """Report whether the files of both views together list the clips of the publishers' file of all clips.

    The number of third-person clips is not published, so this is the only check of those files.
    """
    for part in ("train", "test"):
        both = {clip.id for view in ("first", "third") for clip in splits[f"{view}_{part}"].clips}
        every = {row.values["id"].strip() for row in _read_csv_rows(path_inside(folder, _csv_path(part)))}
        counts = f"{len(splits[f'first_{part}'].clips)} first and {len(splits[f'third_{part}'].clips)} third person"
        if both == every:
            yield f"{part}: {counts}, together the {len(every)} clips of {_csv_path(part)}"
        else:
            odd = sorted(both ^ every)
            yield f"{part}: {counts}, but {_csv_path(part)} lists {len(every)}: they differ in {len(odd)}, as {odd[0]}"
