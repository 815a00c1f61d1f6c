"""Animal Kingdom, action recognition, from the publishers' AR_metadata.xlsx and video folder.

    AR_metadata.xlsx        video/<video_id>.mp4

Label ids are those of the sheet AR. The sheet Action only names them, and for six ids the publishers' other tables have
other names. Groups: the last four letters of an id, which appear to encode the source video.

Unseen species and unseen actions are the release's own splits (its datasets/animalkingdom.py); the publishers' sheet CARe
lists clips that are not in AR, so it cannot be used. Both mix the publishers' train and test clips (docs/deviations.md 15).
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.datasets.annotations import DataError, Listing, check_plain_name, path_inside, refuse_duplicates
from repro.datasets.config import DatasetConfig
from repro.datasets.split import Clip, Split, SplitName
from repro.datasets.workbook import SheetRows, read_workbook

METADATA = "AR_metadata.xlsx"
SHEETS = {
    "AR": ("video_id", "type", "labels", "list_animal_action"),
    "Action": ("Label", "Action"),
    "Animal": ("Animal", "Sub-Class"),
}
BLANK = (None, "", "#N/A")
"""Values of a missing label in the sheet Action."""

# The release's rules (its datasets/animalkingdom.py), in small letters. They are code and not config because a cached listing
# depends on them: a change here is a change of registry.VERSION. Unseen species: clips of six actions, trained on four
# sub-classes of animals and tested on five others.
SPECIES_ACTIONS = ("moving", "eating", "attending", "swimming", "sensing", "keeping still")
TRAIN_SPECIES = ("bird", "fish", "frog / toad", "snake / cobra / viper / python")
TEST_SPECIES = (
    "lizard / gecko / draco / iguana / chamelon",
    "primate / monkey / macaque / baboon / chimpanzee / gorilla / orangutan / langur",
    "spider / tarantula",
    "cricket / grasshopper / praying mantis / leafhopper",
    "water bird / duck / swan / goose",
)
ATTRIBUTE_COLUMNS = {"species": "Animal", "sub-class": "Sub-Class", "parent-class": "Parent Class"}
"""Columns of the sheet Animal by which clips are grouped. The publishers name animals at any level, such as Bird and Mallard."""
OTHER_NAMES = {"common quail": "common quail bird", "cuckoo bird": "common cuckoo bird"}
"""Animals whose name in the sheet AR differs from that in the sheet Animal."""
# Unseen actions: trained on three actions and tested on three others, of the animals in both lists above. An action's index
# in TRAIN_ACTIONS + TEST_ACTIONS is its label id.
TRAIN_ACTIONS = ("eating", "attending", "moving")
TEST_ACTIONS = ("swimming", "sensing", "keeping still")


@dataclass(frozen=True, slots=True)
class _SheetClip:
    clip: Clip
    type: str
    animal: str
    """The first animal listed, in small letters; "" for clips of several labels."""
    action: str
    """The action of that animal; "" for clips of several labels."""


SEGMENTS = ("df_action.xlsx", "annotation/df_action.xlsx")
"""Possible places of the publishers' table of head, middle and tail classes; only some of their archives contain it."""


def read_segments(folder: Path, classes: int) -> dict[str, tuple[int, ...]] | None:
    """Read the label ids of the head, middle and tail classes; returns None if the publishers' table is missing.

    The segments are not recomputed from the sheet AR, because the table's counts of clips differ from that sheet.

    Raises:
        DataError: the table is damaged, or a class is not in exactly one segment.
    """
    # The first place that has the table; not every archive contains it.
    path = next((path_inside(folder, name) for name in SEGMENTS if (folder / name).is_file()), None)
    if path is None:
        return None
    found: dict[str, list[int]] = {}
    for number, (index, segment) in read_workbook(path, {"AR_count": ("index", "segment")})["AR_count"]:
        if not isinstance(index, int) or not 0 <= index < classes or not isinstance(segment, str):
            raise DataError(
                f"{path}: sheet AR_count row {number}: index {_quote_cell(index)}, segment {_quote_cell(segment)}"
            )
        found.setdefault(segment.strip().lower(), []).append(index)
    if sorted(index for ids in found.values() for index in ids) != list(range(classes)):
        raise DataError(f"{path}: sheet AR_count does not put each of {classes} classes into one segment")
    return {name: tuple(sorted(ids)) for name, ids in sorted(found.items())}


def read_animal_attribute(folder: Path, name: str, clips: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return what the sheets state of the animals in each clip: one value for each different one.

    Args:
        folder: The data set's folder.
        name: A key of ATTRIBUTE_COLUMNS.
        clips: Ids; those that the workbook does not list are left out.

    Raises:
        DataError: the workbook is missing or damaged; the message names sheet and row.
    """
    path, wanted = path_inside(folder, METADATA), set(clips)
    sheets = read_workbook(path, {"AR": SHEETS["AR"], "Animal": ("Animal", ATTRIBUTE_COLUMNS[name])})
    values = {str(animal).lower(): str(value) for _, (animal, value) in sheets["Animal"]}
    found = {}
    for number, (clip, _, _, pairs) in sheets["AR"]:
        if clip in wanted:
            animals = [animal for animal, _ in _parse_pairs(pairs, f"{path}: sheet AR row {number}")]
            of_clip = (values.get(OTHER_NAMES.get(animal, animal), "not in the sheet Animal") for animal in animals)
            found[clip] = tuple(dict.fromkeys(of_clip)) or ("no animal",)
    return found


def list_animal_kingdom_files(folder: Path) -> list[Path]:
    return [path_inside(folder, METADATA)]


def read_animal_kingdom(folder: Path, config: DatasetConfig) -> Listing:
    """Read the splits full, unseen species and unseen actions, each with train and test.

    Raises:
        DataError: the workbook is missing or damaged; the message names sheet and row.
    """
    path = path_inside(folder, METADATA)
    sheets = read_workbook(path, SHEETS)
    classes = _read_sheet_classes(sheets["Action"], config.classes, path)
    # Species are defined by sub-class, such as "fish"; the sheet AR names animals.
    sub_class = _read_sub_classes(sheets["Animal"], path)
    rows = list(_read_sheet_clips(sheets["AR"], config.classes, folder))
    # A clip in two rows could be in train and test at once.
    refuse_duplicates((row.clip for row in rows), folder)

    def is_of_species(row: _SheetClip, wanted: tuple[str, ...]) -> bool:
        return row.action in SPECIES_ACTIONS and sub_class.get(row.animal) in wanted

    splits = {
        "full_train": [row.clip for row in rows if row.type == "train"],
        "full_test": [row.clip for row in rows if row.type == "test"],
        "unseen_species_train": [row.clip for row in rows if is_of_species(row, TRAIN_SPECIES)],
        "unseen_species_test": [row.clip for row in rows if is_of_species(row, TEST_SPECIES)],
    }
    actions = TRAIN_ACTIONS + TEST_ACTIONS
    return Listing(
        {name: Split(SplitName(config.name, name), classes, tuple(clips)) for name, clips in splits.items()}
        | {
            f"unseen_actions_{part}": Split(
                SplitName(config.name, f"unseen_actions_{part}"), actions, _select_actions(rows, names)
            )
            for part, names in (("train", TRAIN_ACTIONS), ("test", TEST_ACTIONS))
        }
    )


def _select_actions(rows: list[_SheetClip], names: tuple[str, ...]) -> tuple[Clip, ...]:
    """Select the clips of one label whose first animal does one of `names`.

    Like the release, this compares the animal's own name with names of sub-classes, which few animals share
    (docs/deviations.md 16). Fixing that would change the published split.
    """
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


def _read_sheet_clips(sheet: SheetRows, classes: int, folder: Path) -> Iterator[_SheetClip]:
    for number, (video_id, kind, labels, pairs) in sheet:
        where = f"{folder / METADATA}: sheet AR row {number}"
        if not isinstance(video_id, str):
            raise DataError(f"{where}: video_id is {_quote_cell(video_id)}, expected a clip's name")
        name = check_plain_name(video_id, where)
        if kind not in ("train", "test"):
            raise DataError(f"{where}: type of clip {name} is {_quote_cell(kind)}, expected train or test")
        target = _parse_labels(labels, classes, f"{where}: labels of clip {name}")
        # The id's last four letters appear to encode the source video: the group that a held-out split keeps together.
        # Of clips with several labels nothing but the labels is used.
        first = _parse_pairs(pairs, where)[:1] if len(target) == 1 and "," not in labels else []
        animal, action = first[0] if first else ("", "")
        clip = Clip(name, folder / "video" / f"{name}.mp4", target, name[-4:], f"{METADATA} sheet AR row {number}")
        yield _SheetClip(clip, kind, OTHER_NAMES.get(animal, animal), action)


def _parse_labels(value: Any, classes: int, what: str) -> tuple[int, ...]:
    if isinstance(value, int | float):
        raise DataError(
            f"{what}: the number {value}, expected text: a spreadsheet program saved the file again, which may also have "
            "turned '2,40' into 240: fetch the publisher's file again"
        )
    # ASCII: \d also matches digits of other scripts, which are no label ids.
    if not isinstance(value, str) or not re.fullmatch(r" *\d{1,4} *(, *\d{1,4} *)*", value, re.ASCII):
        raise DataError(f"{what}: {_quote_cell(value)}, expected label ids as 2,40")
    # A label named twice counts once: targets are 0 or 1.
    ids = sorted({int(part) for part in value.split(",")})
    if ids[-1] >= classes:
        raise DataError(f"{what}: label {ids[-1]}, expected 0 to {classes - 1}")
    return tuple(ids)


def _parse_pairs(value: Any, where: str) -> list[tuple[str, str]]:
    """Parse animals and their actions, in small letters; a clip that shows no animal has none.

    The cell is a Python list of pairs or, for names with an apostrophe, of texts that hold such lists.
    """
    try:
        # literal_eval reads values only: a cell of the file cannot run code.
        pairs = ast.literal_eval(value)
        if pairs and isinstance(pairs[0], str):
            pairs = [pair for text in pairs for pair in ast.literal_eval(text)]
        return [(str(animal.lower()), str(action.lower())) for animal, action in pairs]
    except (ValueError, SyntaxError, TypeError, AttributeError, LookupError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{where}: list_animal_action is {_quote_cell(value)}, expected a list as [('Bird', 'Eating')]"
        ) from error


def _read_sheet_classes(sheet: SheetRows, classes: int, path: Path) -> tuple[str, ...]:
    """Read the class names, ordered by label id.

    At most one label may be missing, as Yawning's is: its id is the only one that no other row has.
    """
    names: dict[int, str] = {}
    without: list[str] = []
    for number, (label, action) in sheet:
        where = f"{path}: sheet Action row {number}"
        if not isinstance(action, str) or not action.strip():
            raise DataError(f"{where}: Action is {_quote_cell(action)}, expected a name")
        if label in BLANK:
            without.append(action.strip())
        elif not isinstance(label, int) or not 0 <= label < classes:
            raise DataError(f"{where}: Label of {action} is {_quote_cell(label)}, expected 0 to {classes - 1}")
        elif label in names:
            raise DataError(f"{where}: Label {label} is listed twice, for {names[label]} and {action}")
        else:
            names[label] = action.strip()
    # With two labels missing, which name belongs to which id could not be known.
    left = [label for label in range(classes) if label not in names]
    if len(left) != len(without) or len(left) > 1:
        raise DataError(
            f"{path}: sheet Action: {len(names)} labels and {len(without)} actions without one, expected {classes} actions "
            "with at most one label left out"
        )
    names |= dict(zip(left, without, strict=True))
    return tuple(names[label] for label in range(classes))


def _read_sub_classes(sheet: SheetRows, path: Path) -> dict[str, str]:
    result = {}
    for number, (animal, sub_class) in sheet:
        if not isinstance(animal, str) or not isinstance(sub_class, str):
            raise DataError(f"{path}: sheet Animal row {number}: Animal and Sub-Class are not both text")
        result[animal.lower()] = sub_class.lower()
    return result


def _quote_cell(value: Any) -> str:
    return "empty" if value is None or value == "" else repr(value)[:80]
