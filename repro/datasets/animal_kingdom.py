"""Animal Kingdom, action recognition, from the owners' AR_metadata.xlsx and video folder.

    AR_metadata.xlsx        video/<video_id>.mp4

Labels are the ids of the sheet AR; the sheet Action only names them, and its names differ from those of the owners'
other tables for six ids. Groups: the last four letters of an id, which look like a code of the source video.

Unseen species and unseen actions are the release's own splits (its datasets/animalkingdom.py); the owners' sheet CARe
names clips that are not in AR. Both mix the owners' train and test clips (docs/deviations.md 15).
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.datasets.annotations import DataError, Listing, inside, plain_name, refuse_twice
from repro.datasets.config import DatasetConfig
from repro.datasets.split import Clip, Split, SplitName
from repro.datasets.workbook import Rows, read_workbook

METADATA = "AR_metadata.xlsx"
SHEETS = {
    "AR": ("video_id", "type", "labels", "list_animal_action"),
    "Action": ("Label", "Action"),
    "Animal": ("Animal", "Sub-Class"),
}
BLANK = (None, "", "#N/A")
"""What stands in the sheet Action where the owners left a label out."""

SPECIES_ACTIONS = ("moving", "eating", "attending", "swimming", "sensing", "keeping still")
TRAIN_SPECIES = ("bird", "fish", "frog / toad", "snake / cobra / viper / python")
TEST_SPECIES = (
    "lizard / gecko / draco / iguana / chamelon",
    "primate / monkey / macaque / baboon / chimpanzee / gorilla / orangutan / langur",
    "spider / tarantula",
    "cricket / grasshopper / praying mantis / leafhopper",
    "water bird / duck / swan / goose",
)
OTHER_NAMES = {"common quail": "common quail bird", "cuckoo bird": "common cuckoo bird"}
"""Animals that the sheet AR calls otherwise than the sheet Animal."""
TRAIN_ACTIONS = ("eating", "attending", "moving")
TEST_ACTIONS = ("swimming", "sensing", "keeping still")


@dataclass(frozen=True, slots=True)
class _Row:
    clip: Clip
    type: str
    animal: str
    """The first the clip shows, in small letters; known for clips of one label, "" for others."""
    action: str
    """What the first animal does."""


SEGMENTS = ("df_action.xlsx", "annotation/df_action.xlsx")
"""Where the owners' table of head, middle and tail classes may lie; only some of their archives hold it."""


def segments(folder: Path, classes: int) -> dict[str, tuple[int, ...]] | None:
    """Label ids of each segment, as the owners' table has them (its counts are not the sheet AR's, so they are not made
    anew); None where the table is not there.

    Raises:
        DataError: it is damaged, or a class is in no segment or in two.
    """
    path = next((inside(folder, name) for name in SEGMENTS if (folder / name).is_file()), None)
    if path is None:
        return None
    found: dict[str, list[int]] = {}
    for number, (index, segment) in read_workbook(path, {"AR_count": ("index", "segment")})["AR_count"]:
        if not isinstance(index, int) or not 0 <= index < classes or not isinstance(segment, str):
            raise DataError(f"{path}: sheet AR_count row {number}: index {_shown(index)}, segment {_shown(segment)}")
        found.setdefault(segment.strip().lower(), []).append(index)
    if sorted(index for ids in found.values() for index in ids) != list(range(classes)):
        raise DataError(f"{path}: sheet AR_count does not put each of {classes} classes into one segment")
    return {name: tuple(sorted(ids)) for name, ids in sorted(found.items())}


def files(folder: Path) -> list[Path]:
    return [inside(folder, METADATA)]


def read(folder: Path, config: DatasetConfig) -> Listing:
    """Full, unseen species and unseen actions, each train and test.

    Raises:
        DataError: the workbook is absent or damaged; sheet and row are named.
    """
    path = inside(folder, METADATA)
    sheets = read_workbook(path, SHEETS)
    classes = _class_names(sheets["Action"], config.classes, path)
    sub_class = _sub_classes(sheets["Animal"], path)
    rows = list(_rows(sheets["AR"], config.classes, folder))
    refuse_twice((row.clip for row in rows), folder)

    def species(row: _Row, wanted: tuple[str, ...]) -> bool:
        return row.action in SPECIES_ACTIONS and sub_class.get(row.animal) in wanted

    splits = {
        "full_train": [row.clip for row in rows if row.type == "train"],
        "full_test": [row.clip for row in rows if row.type == "test"],
        "unseen_species_train": [row.clip for row in rows if species(row, TRAIN_SPECIES)],
        "unseen_species_test": [row.clip for row in rows if species(row, TEST_SPECIES)],
    }
    actions = TRAIN_ACTIONS + TEST_ACTIONS
    return Listing(
        {name: Split(SplitName(config.name, name), classes, tuple(clips)) for name, clips in splits.items()}
        | {
            f"unseen_actions_{part}": Split(
                SplitName(config.name, f"unseen_actions_{part}"), actions, _of_actions(rows, names)
            )
            for part, names in (("train", TRAIN_ACTIONS), ("test", TEST_ACTIONS))
        }
    )


def _of_actions(rows: list[_Row], names: tuple[str, ...]) -> tuple[Clip, ...]:
    """Clips of one label whose first animal does one of `names`. The release looks the animal's own name up among names
    of sub-classes, so that few clips remain (docs/deviations.md 16)."""
    return tuple(
        Clip(
            id=row.clip.id,
            path=row.clip.path,
            target=((TRAIN_ACTIONS + TEST_ACTIONS).index(row.action),),
            group=row.clip.group,
            listed=row.clip.listed,
        )
        for row in rows
        if row.animal in TRAIN_SPECIES + TEST_SPECIES and row.action in names
    )


def _rows(sheet: Rows, classes: int, folder: Path) -> Iterator[_Row]:
    for number, (video_id, kind, labels, pairs) in sheet:
        where = f"{folder / METADATA}: sheet AR row {number}"
        if not isinstance(video_id, str):
            raise DataError(f"{where}: video_id is {_shown(video_id)}, expected a clip's name")
        name = plain_name(video_id, where)
        if kind not in ("train", "test"):
            raise DataError(f"{where}: type of clip {name} is {_shown(kind)}, expected train or test")
        target = _labels(labels, classes, f"{where}: labels of clip {name}")
        # Of clips with several labels nothing but the labels is used.
        animal, action = _first_pair(pairs, where) if len(target) == 1 and "," not in labels else ("", "")
        clip = Clip(name, folder / "video" / f"{name}.mp4", target, name[-4:], f"{METADATA} sheet AR row {number}")
        yield _Row(clip, kind, OTHER_NAMES.get(animal, animal), action)


def _labels(value: Any, classes: int, what: str) -> tuple[int, ...]:
    if isinstance(value, int | float):
        raise DataError(
            f"{what}: the number {value}, expected text: a spreadsheet program saved the file anew, which may also have "
            "turned '2,40' into 240: fetch the owners' file again"
        )
    if not isinstance(value, str) or not re.fullmatch(r" *\d{1,4} *(, *\d{1,4} *)*", value, re.ASCII):
        raise DataError(f"{what}: {_shown(value)}, expected label ids as 2,40")
    ids = sorted({int(part) for part in value.split(",")})
    if ids[-1] >= classes:
        raise DataError(f"{what}: label {ids[-1]}, expected 0 to {classes - 1}")
    return tuple(ids)


def _first_pair(value: Any, where: str) -> tuple[str, str]:
    """Animal and action named first, in small letters; two "" where none is named. The cell is a Python list of pairs, or
    of texts that hold such lists (names with an apostrophe): then, as in the release, the first text counts."""
    try:
        pairs = ast.literal_eval(value)
        if pairs and isinstance(pairs[0], str):
            pairs = ast.literal_eval(pairs[0])
        if not pairs:
            return "", ""
        animal, action = pairs[0]
        return str(animal.lower()), str(action.lower())
    except (ValueError, SyntaxError, TypeError, AttributeError, LookupError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{where}: list_animal_action is {_shown(value)}, expected a list as [('Bird', 'Eating')]"
        ) from error


def _class_names(sheet: Rows, classes: int, path: Path) -> tuple[str, ...]:
    """Names by label id. One label may be left out, as Yawning's is: it has the one id that no other row has."""
    names: dict[int, str] = {}
    without: list[str] = []
    for number, (label, action) in sheet:
        where = f"{path}: sheet Action row {number}"
        if not isinstance(action, str) or not action.strip():
            raise DataError(f"{where}: Action is {_shown(action)}, expected a name")
        if label in BLANK:
            without.append(action.strip())
        elif not isinstance(label, int) or not 0 <= label < classes:
            raise DataError(f"{where}: Label of {action} is {_shown(label)}, expected 0 to {classes - 1}")
        elif label in names:
            raise DataError(f"{where}: Label {label} stands twice, for {names[label]} and {action}")
        else:
            names[label] = action.strip()
    left = [label for label in range(classes) if label not in names]
    if len(left) != len(without) or len(left) > 1:
        raise DataError(
            f"{path}: sheet Action: {len(names)} labels and {len(without)} actions without one, expected {classes} actions "
            "with at most one label left out"
        )
    names |= dict(zip(left, without, strict=True))
    return tuple(names[label] for label in range(classes))


def _sub_classes(sheet: Rows, path: Path) -> dict[str, str]:
    result = {}
    for number, (animal, sub_class) in sheet:
        if not isinstance(animal, str) or not isinstance(sub_class, str):
            raise DataError(f"{path}: sheet Animal row {number}: Animal and Sub-Class are not both text")
        result[animal.lower()] = sub_class.lower()
    return result


def _shown(value: Any) -> str:
    return "empty" if value is None or value == "" else repr(value)[:80]
