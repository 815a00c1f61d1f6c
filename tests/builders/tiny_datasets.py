"""Tiny data sets in each publisher's exact layout: the same folders, file names, sheets, columns and quoting, with clips drawn
here. Counts of the real ones do not apply to them: each comes with a config that carries its own."""

import csv
import dataclasses
import io
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import openpyxl

from repro.core.workspace import Workspace
from repro.datasets import registry
from repro.datasets.config import DatasetConfig, SplitFacts, load_dataset
from repro.datasets.manifest import ClipFacts, Manifest, manifest_path, write_manifest
from repro.datasets.ucf_hmdb import CLASSES
from repro.smoke import clips
from repro.video.synthetic import scenes


def film(path: Path, number: int, frames: int = 9) -> None:
    """A clip of its own for every number: MPEG-4 part 2 in .avi, as UCF101 and HMDB51 have it, else H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encode_film(path.suffix, number, frames))


@cache
def _encode_film(suffix: str, number: int, frames: int) -> bytes:
    # Drawn once a process: many tests make these data sets.
    drawn = scenes.smoke_scenes()
    scene = dataclasses.replace(
        drawn[number % len(drawn)], seed=1000 + number, frames=frames, height=48, width=64, rate=25
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film{suffix}"
        if suffix == ".avi":
            _encode_avi(path, scene)
        else:
            clips.encode_scene(path, scene)
        return path.read_bytes()


def _encode_avi(path: Path, scene: scenes.Scene) -> None:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(scene.rate))
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        for picture in scenes.pictures(scene):
            frame = av.VideoFrame.from_ndarray(clips.convert_to_yuv420(picture), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def config(name: str, **counts: int | None) -> DatasetConfig:
    """The shipped config with other counts."""
    shipped = load_dataset(name)
    return shipped.model_copy(
        update={"splits": {split: SplitFacts(clips=counts.get(split)) for split in shipped.splits}}
    )


# UCF101: a clip of every class of the benchmark in each list, and one class that is not of it.

UCF_CLASSES = sorted(theirs for names in CLASSES.values() for theirs in names)


def ucf101(folder: Path, films: bool = True, val_groups: Sequence[int] = (1, 2)) -> DatasetConfig:
    train = [f"{name}/v_{name}_g08_c01.avi" for name in [*UCF_CLASSES, "YoYo"]]
    val = [f"{name}/v_{name}_g0{group}_c02.avi" for name in [*UCF_CLASSES, "YoYo"] for group in val_groups]
    lists = folder / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    numbers = {name: number for number, name in enumerate([*UCF_CLASSES, "YoYo"], start=1)}
    (lists / "classInd.txt").write_bytes("".join(f"{n} {name}\r\n" for name, n in numbers.items()).encode())
    (lists / "trainlist01.txt").write_bytes("".join(f"{c} {numbers[c.split('/')[0]]}\r\n" for c in train).encode())
    (lists / "testlist01.txt").write_bytes("".join(f"{c}\r\n" for c in val).encode())
    if films:
        for number, clip in enumerate(train + val):
            film(folder / "UCF-101" / clip, number)
    classes, groups = len(UCF_CLASSES), len(val_groups)
    return config("ucf101", train=classes, val=classes * groups, full=classes * (1 + groups))


# HMDB51: names with & ( ) # ! [ ] +, a clip of tag 0 in each class.

HMDB_FILMS = {
    "climb": "(HQ)_Rock_Climbing_-_Free_Solo",
    "kick_ball": "Goal_1_&_2",
    "ride_bike": "#437_How_To_Ride_A_Bike",
    "pushup": "[Demo]_Pushups!",
    "golf": "Swing_+_Putt_np",
}


def hmdb_names(class_name: str) -> list[tuple[str, int]]:
    source = HMDB_FILMS.get(class_name, f"A_Film_of_{class_name}_now")
    return [
        (f"{source}_{class_name}_f_cm_np1_ri_med_0", 1),
        (f"{source}_2_{class_name}_u_nm_np10_fr_goo_3", 2),
        (f"Unused_{class_name}_h_cm_np2_ba_bad_1", 0),
    ]


def hmdb51(folder: Path, films: bool = True) -> DatasetConfig:
    lists = folder / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    for place, class_name in enumerate([*CLASSES, "wave"]):
        names = hmdb_names(class_name)
        text = "".join(f"{name}.avi {tag} \n" for name, tag in names)
        (lists / f"{class_name}_test_split1.txt").write_text(text)
        if films:
            for number, (name, _) in enumerate(names):
                film(folder / "hmdb51_org" / class_name / f"{name}.avi", 3 * place + number)
    return config("hmdb51", train=12, val=12, full=24)


# Animal Kingdom: four sheets; a label given as #N/A, names with apostrophes, a clip that shows no animal.

ACTIONS = {
    2: "Attending",
    40: "Eating",
    68: "Keeping still",
    78: "Moving",
    102: "Sensing",
    120: "Swimming",
    139: "Yawning",
}
AR_HEADER = ("S/N", "video_id", "type", "labels", "list_animal_action")
AR_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("AAACXZTV", "train", "2,40", "[('Common Crane', 'Attending'), ('Common Crane', 'Eating')]"),
    ("BBBCXZTV", "train", "78", "[('Common Crane', 'Moving')]"),
    ("CCCABCDE", "test", "40", "[('Common Quail', 'Eating')]"),
    ("DDDABCDE", "train", "68", "['[(\"Russell\\'S Viper\", \\'Keeping still\\')]']"),
    ("EEEVWXYZ", "test", "102", "[('Green Iguana', 'Sensing')]"),
    ("FFFVWXYZ", "train", "120", "[('Mallard', 'Swimming'), ('Mallard', 'Swimming')]"),
    ("GGGKLMNO", "train", "68,52,133", "[]"),
    ("HHHKLMNO", "test", "139", "[('Mallard', 'Yawning')]"),
    ("IIIPQRST", "train", "2", "[('Bird', 'Attending')]"),
    ("JJJPQRST", "test", "120", "[('Fish', 'Swimming')]"),
)
ANIMALS = {
    "Common Crane": "Bird",
    "Common Quail Bird": "Bird",
    "Bird": "Bird",
    "Fish": "Fish",
    "Russell'S Viper": "Snake / Cobra / Viper / Python",
    "Green Iguana": "Lizard / Gecko / Draco / Iguana / Chamelon",
    "Mallard": "Water bird / Duck / Swan / Goose",
}


def animal_kingdom(
    folder: Path, films: bool = True, rows: Sequence[Sequence[Any]] = AR_ROWS, header: Sequence[str] = AR_HEADER
) -> DatasetConfig:
    folder.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "AR"
    sheet.append(header)
    for number, row in enumerate(rows, start=1):
        sheet.append([number, *row])
    book.create_sheet("CARe").append(
        ("S/N", "train_test", "animal_class", "animal_sub_class", "animal", "video_id", "action")
    )
    sheet = book.create_sheet("Action")
    sheet.append(("Label", "Category", "Action", "Description"))
    for label in reversed(range(140)):
        sheet.append(("#N/A" if label == 139 else label, "General", ACTIONS.get(label, f"Action {label}"), "It does"))
        if label == 139:
            sheet.cell(sheet.max_row, 1).data_type = "e"
    sheet = book.create_sheet("Animal")
    sheet.append(("Animal", "Parent Class", "Class", "Sub-Class", "Young", "Generic name"))
    for animal, sub_class in ANIMALS.items():
        sheet.append((animal, "Animal", sub_class.split(" ")[0], sub_class, None, None))
    book.save(folder / "AR_metadata.xlsx")
    if films:
        for number, row in enumerate(rows):
            film(folder / "video" / f"{row[0]}.mp4", 200 + number)
    return config(
        "animal_kingdom", full_train=6, full_test=4, unseen_species_train=5, unseen_species_test=2,
        unseen_actions_train=1, unseen_actions_test=1,
    )  # fmt: skip


# Charades-Ego: six csv files, fields quoted where they hold commas, line breaks in one, a clip without actions.

CHARADES_HEADER = (
    "id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions", "actions", "length",
    "egocentric", "charades_video",
)  # fmt: skip
CHARADES_CLIPS: dict[str, list[tuple[str, str, str]]] = {
    "train": [
        ("0A8CF", "HR43", "c092 11.90 21.20;c147 0.00 12.60"),
        ("1B7DE", "", "c156 0.00 4.50"),
        ("2C6ED", "QX11", "c000 1 2;c000 3.5 4"),
    ],
    "test": [("46GP8", "HR43", "c003 0.00 9.10"), ("BHP3H", "YM17", "")],
}


def charades_rows(part: str, view: str) -> list[list[str]]:
    rows = []
    for pair, subject, actions in CHARADES_CLIPS[part]:
        name = f"{pair}EGO" if view == "first" else pair
        script = 'A person sits, then says "hello", and\nwalks "away".'
        rows.append(
            [
                name, subject, "Kitchen", "6", "7", "Yes", script, "food;stove", "one, two;three", actions, "24.83",
                "Yes" if view == "first" else "No", f"{pair}.mp4",
            ]
        )  # fmt: skip
    return rows


def charades_csv(rows: Sequence[Sequence[str]], header: Sequence[str] = CHARADES_HEADER) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def charades_ego(folder: Path, films: bool = True, videos: str = "CharadesEgo_v1_480") -> DatasetConfig:
    lists = folder / "CharadesEgo"
    lists.mkdir(parents=True)
    (lists / "Charades_v1_classes.txt").write_text("".join(f"c{n:03} Doing thing {n}\n" for n in range(157)))
    number = 300
    for part in CHARADES_CLIPS:
        first, third = charades_rows(part, "first"), charades_rows(part, "third")
        for name, rows in ((f"{part}_only1st", first), (f"{part}_only3rd", third), (part, first + third)):
            (lists / f"CharadesEgo_v1_{name}.csv").write_text(charades_csv(rows))
        for row in first + third if films else ():
            film(folder / videos / f"{row[0]}.mp4", number)
            number += 1
    return config("charades_ego", first_train=3, first_test=2, third_train=3, third_test=2)


MAKERS = {"ucf101": ucf101, "hmdb51": hmdb51, "animal_kingdom": animal_kingdom, "charades_ego": charades_ego}


def ucf_hmdb_opener(workspace: Workspace) -> Callable[[DatasetConfig, Workspace], registry.Dataset]:
    """Make tiny UCF101 and HMDB51 in `workspace`; return what opens them by their own counts, in place of open_dataset."""
    configs = {"ucf101": ucf101(workspace.data / "ucf101"), "hmdb51": hmdb51(workspace.data / "hmdb51")}
    return lambda config, workspace: registry.open_dataset(configs.get(config.name, config), workspace)


def write_audit(config: DatasetConfig, workspace: Workspace, frames: int) -> None:
    """Write an audit as if every clip of a data set had been looked at and held so many frames."""
    dataset = registry.list_dataset(config, workspace)
    facts = [
        ClipFacts(clip.id, clip.path.name, ("train",), True, 1, frames, 25.0, 64, 48, 1.0, "pyav", "", "0" * 64)
        for clip in dataset.clips
    ]
    write_manifest(manifest_path(workspace, config.name), Manifest(config.name, dataset.key, tuple(facts)))
