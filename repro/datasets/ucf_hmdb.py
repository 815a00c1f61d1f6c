"""The 12 classes that UCF101 and HMDB51 share, from the publishers' files for split 1.

The clips of the UCF-HMDB benchmark follow from these files, so its own lists are not needed.

    UCF-101/<Class>/v_<Class>_gNN_cNN.avi       ucfTrainTestlist/{trainlist01,testlist01}.txt
    hmdb51_org/<class>/<clip>.avi               testTrainMulti_7030_splits/<class>_test_split1.txt

Groups: in UCF101 class and gNN, which is one source video; in HMDB51 the film that the clip's name begins with.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from repro.datasets.annotations import (
    DataError,
    Listing,
    check_plain_name,
    path_inside,
    read_text_lines,
    refuse_duplicates,
    to_one_line,
)
from repro.datasets.config import DatasetConfig
from repro.datasets.split import Clip, Split, SplitName

CLASSES = {
    "climb": ("RockClimbingIndoor", "RopeClimbing"),
    "fencing": ("Fencing",),
    "golf": ("GolfSwing",),
    "kick_ball": ("SoccerPenalty",),
    "pullup": ("PullUps",),
    "punch": ("BoxingPunchingBag", "BoxingSpeedBag", "Punch"),
    "pushup": ("PushUps",),
    "ride_bike": ("Biking",),
    "ride_horse": ("HorseRiding",),
    "shoot_ball": ("Basketball",),
    "shoot_bow": ("Archery",),
    "walk": ("WalkingWithDog",),
}
"""UCF101's classes by HMDB51's class, in the order of the label ids (TA3N's mapping, which the release's class lists follow)."""
UCF_LISTS = {"train": "ucfTrainTestlist/trainlist01.txt", "val": "ucfTrainTestlist/testlist01.txt"}
HMDB_TAGS = {"0": "", "1": "train", "2": "val"}
"""Part of the split by tag. Tag 0: the clip is in neither part, as split 1 takes 70 + 30 clips a class."""


HMDB_CODES = {
    "body": {"h": "head", "u": "upper body", "l": "lower body", "f": "full body"},
    "camera": {"cm": "moving", "nm": "static"},
    "people": {},
    "viewpoint": {"fr": "front", "ba": "back", "le": "left", "ri": "right"},
    "quality": {"goo": "good", "med": "medium", "bad": "bad"},
}
"""What the end of a clip's name in HMDB51 states, in the order of the codes, and the meaning of each (publishers' description)."""
UCF_ATTRIBUTES, HMDB_ATTRIBUTES = ("original-class",), tuple(HMDB_CODES)


def list_ucf_files(folder: Path) -> list[Path]:
    return [path_inside(folder, name) for name in UCF_LISTS.values()]


def list_hmdb_files(folder: Path) -> list[Path]:
    return [path_inside(folder, _hmdb_list_path(name)) for name in CLASSES]


def read_ucf(folder: Path, config: DatasetConfig) -> Listing:
    """Read UCF101's clips of the 12 classes: train, val, and both as full.

    Raises:
        DataError: a list is missing or damaged; the message names file and row.
    """
    # Several classes of UCF101 may share a label: both kinds of climbing are one class of HMDB51.
    labels = {theirs: number for number, names in enumerate(CLASSES.values()) for theirs in names}
    parts = {part: list(_read_ucf_list(folder, name, labels)) for part, name in UCF_LISTS.items()}
    return _build_listing(config.name, parts, folder)


def _read_ucf_list(folder: Path, relative: str, labels: dict[str, int]) -> Iterator[Clip]:
    path = path_inside(folder, relative)
    for number, line in read_text_lines(path):
        # In trainlist01.txt a class number follows the path, in testlist01.txt nothing.
        match = re.fullmatch(r"([^/\\]+)/([^/\\]+)\.avi(?: +\d+)?", line.strip())
        where = f"{path}:{number}"
        if match is None:
            raise DataError(f"{where}: '{to_one_line(line)}': expected <Class>/<clip>.avi")
        class_name, name = check_plain_name(match[1], where), check_plain_name(match[2], where)
        # The other 86 classes of UCF101 have no counterpart in HMDB51.
        if class_name in labels:
            yield Clip(
                id=name,
                path=folder / "UCF-101" / class_name / f"{name}.avi",
                target=(labels[class_name],),
                # v_Biking_g08_c03 is clip 3 of source video g08. The official lists keep the clips of a source video on one
                # side.
                group=re.sub(r"_c\d+$", "", name).removeprefix("v_"),
                listed=f"{relative}:{number}",
            )


def read_hmdb(folder: Path, config: DatasetConfig) -> Listing:
    """Read HMDB51's clips of the 12 classes: train, val, and both as full.

    Raises:
        DataError: a list is missing or damaged; the message names file and row.
    """
    parts: dict[str, list[Clip]] = {"": [], "train": [], "val": []}
    for label, class_name in enumerate(CLASSES):
        relative = _hmdb_list_path(class_name)
        path = path_inside(folder, relative)
        for number, line in read_text_lines(path):
            where = f"{path}:{number}"
            # The tag is the last word of a line.
            name, _, tag = line.strip().rpartition(" ")
            name = name.rstrip()
            if tag not in HMDB_TAGS or not name.endswith(".avi"):
                raise DataError(f"{where}: '{to_one_line(line)}': expected <clip>.avi and 0, 1 or 2")
            clip = check_plain_name(name.removesuffix(".avi"), where)
            parts[HMDB_TAGS[tag]].append(
                Clip(
                    id=clip,
                    path=folder / "hmdb51_org" / class_name / name,
                    target=(label,),
                    # A name ends in the class and the annotators' codes: visible body part, camera motion, number of
                    # people, camera angle, quality, number of the clip. What comes before them is the film.
                    group=re.sub(rf"_{class_name}(_[a-z]+){{2}}_np\d+(_[a-z]+){{2}}_\d+$", "", clip),
                    listed=f"{relative}:{number}",
                )
            )
    refuse_duplicates((clip for clips in parts.values() for clip in clips), folder)
    return _build_listing(config.name, {part: parts[part] for part in ("train", "val")}, folder)


def read_ucf_attribute(folder: Path, name: str, clips: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the class in UCF101 of each clip: several of them may be one class here."""
    return {clip: (clip.removeprefix("v_").split("_")[0],) for clip in clips}


def read_hmdb_attribute(folder: Path, name: str, clips: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return what the clips' names state of `name`, a key of HMDB_CODES."""
    found: dict[str, tuple[str, ...]] = {}
    for clip in clips:
        match = re.search(r"_([a-z]+)_([a-z]+)_np(\d+)_([a-z]+)_([a-z]+)_\d+$", clip)
        if match:
            code = match[1 + HMDB_ATTRIBUTES.index(name)]
            found[clip] = (HMDB_CODES[name].get(code, code),)
    return found


def _hmdb_list_path(class_name: str) -> str:
    return f"testTrainMulti_7030_splits/{class_name}_test_split1.txt"


def _build_listing(name: str, parts: dict[str, list[Clip]], folder: Path) -> Listing:
    """Build the splits, ordered by label and then as listed; `full` is train and val together (docs/deviations.md 9)."""
    parts = {part: sorted(clips, key=lambda clip: clip.target) for part, clips in parts.items()}
    # The release's lists are not available; the order of clips is part of a run's key.
    parts["full"] = parts["train"] + parts["val"]
    refuse_duplicates(parts["full"], folder)
    return Listing({part: Split(SplitName(name, part), tuple(CLASSES), tuple(clips)) for part, clips in parts.items()})
