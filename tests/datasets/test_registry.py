"""Adapters: the publishers' layouts give the published splits, and errors name file and row."""

import re
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
from builders import tiny_datasets as tiny_data

from repro.core.errors import MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets import animal_kingdom, ucf_hmdb
from repro.datasets.annotations import DataError
from repro.datasets.config import load_dataset
from repro.datasets.presence import find_missing, without_missing
from repro.datasets.registry import Dataset, list_dataset, open_dataset, user_dataset_names
from repro.datasets.split import SplitName
from repro.pipeline.row_data import open_row_data
from repro.table.rows import load_row

ROOM = tiny_data.MAKERS


@pytest.fixture
def made(workspace: Workspace) -> Callable[[str], Dataset]:
    """Make a tiny data set without clips, and open it."""

    def make(name: str) -> Dataset:
        config = ROOM[name](workspace.data / name, films=False)
        return open_dataset(config, workspace)

    return make


def ids(dataset: Dataset, split: str) -> list[str]:
    return [clip.id for clip in dataset.split(split).clips]


def test_every_user_dataset_has_a_tiny_version() -> None:
    assert set(user_dataset_names()) == set(ROOM)


@pytest.mark.parametrize("name", list(ROOM))
def test_the_publishers_layout_gives_its_splits(made: Callable[[str], Dataset], name: str) -> None:
    dataset = made(name)
    assert set(dataset.splits) == set(dataset.config.splits)
    for part, split in dataset.splits.items():
        assert split.name == SplitName(name, part)
        assert len(split.clips) == dataset.config.splits[part].clips
        for clip in split.clips:
            assert clip.path.is_relative_to(dataset.folder)
            assert clip.path.stem == clip.id
            assert clip.group
            assert clip.listed
            assert all(0 <= label < len(split.classes) for label in clip.target)
    assert len(dataset.clips) == len({clip.id for clip in dataset.clips})


def test_ucf101(made: Callable[[str], Dataset]) -> None:
    dataset = made("ucf101")
    first = dataset.split("train").clips[0]
    assert (first.id, first.target, first.group) == ("v_RockClimbingIndoor_g08_c01", (0,), "RockClimbingIndoor_g08")
    assert first.path == dataset.folder / "UCF-101/RockClimbingIndoor/v_RockClimbingIndoor_g08_c01.avi"
    assert re.fullmatch(r"ucfTrainTestlist/trainlist01\.txt:\d+", first.listed)
    assert dataset.split("train").positives == tuple(len(theirs) for theirs in ucf_hmdb.CLASSES.values())
    assert not any("YoYo" in name for name in ids(dataset, "full"))
    assert ids(dataset, "full") == ids(dataset, "train") + ids(dataset, "val")


def test_hmdb51_keeps_the_real_file_names(made: Callable[[str], Dataset]) -> None:
    dataset = made("hmdb51")
    names = "".join(ids(dataset, "full"))
    assert all(character in names for character in "()&#![]+")
    clip = next(clip for clip in dataset.split("train").clips if clip.id.startswith("#437"))
    assert clip.path.name == "#437_How_To_Ride_A_Bike_ride_bike_f_cm_np1_ri_med_0.avi"
    assert (clip.target, clip.group) == ((7,), "#437_How_To_Ride_A_Bike")
    assert not any(name.startswith("Unused") for name in ids(dataset, "full"))


def test_animal_kingdom(made: Callable[[str], Dataset]) -> None:
    dataset = made("animal_kingdom")
    assert ids(dataset, "unseen_species_train") == ["BBBCXZTV", "CCCABCDE", "DDDABCDE", "IIIPQRST", "JJJPQRST"]
    assert ids(dataset, "unseen_species_test") == ["EEEVWXYZ", "FFFVWXYZ"]
    classes = dataset.split("full_test").classes
    assert (len(classes), classes[139], classes[78]) == (140, "Yawning", "Moving")
    first = dataset.split("full_train").clips[0]
    assert (first.target, first.group, first.listed) == ((2, 40), "XZTV", "AR_metadata.xlsx sheet AR row 2")
    actions = dataset.split("unseen_actions_test")
    assert (actions.classes[actions.clips[0].target[0]], len(actions.classes)) == ("swimming", 6)
    assert dataset.split("full_test").positives[139] == 1


def test_charades_ego(made: Callable[[str], Dataset]) -> None:
    dataset = made("charades_ego")
    assert ids(dataset, "first_test") == ["46GP8EGO", "BHP3HEGO"]
    assert ids(dataset, "third_train") == ["0A8CF", "1B7DE", "2C6ED"]
    by_id = {clip.id: clip for clip in dataset.clips}
    assert by_id["0A8CFEGO"].target == (92, 147)
    assert by_id["2C6ED"].target == (0,)
    assert by_id["BHP3HEGO"].target == ()
    assert (by_id["0A8CFEGO"].group, by_id["1B7DEEGO"].group) == ("HR43", "1B7DE")
    # Rows of several lines: the number is that of the first.
    assert by_id["1B7DE"].listed == "CharadesEgo/CharadesEgo_v1_train_only3rd.csv:4"
    assert (
        dataset.notes[0]
        == "train: 3 first and 3 third person, together the 6 clips of CharadesEgo/CharadesEgo_v1_train.csv"
    )
    assert by_id["46GP8"].path == dataset.folder / "CharadesEgo_v1_480" / "46GP8.mp4"


def test_charades_ego_at_its_original_size(workspace: Workspace) -> None:
    config = tiny_data.charades_ego(workspace.data / "charades_ego", videos="CharadesEgo_v1")
    dataset = open_dataset(config, workspace)
    assert {clip.path.parent.name for clip in dataset.clips} == {"CharadesEgo_v1"}
    assert find_missing(dataset.split("first_test"), dataset.folder) == {}


def test_views_that_do_not_add_up_are_reported(workspace: Workspace) -> None:
    config = tiny_data.charades_ego(workspace.data / "charades_ego", films=False)
    path = workspace.data / "charades_ego/CharadesEgo/CharadesEgo_v1_test.csv"
    path.write_text(tiny_data.charades_csv(tiny_data.charades_rows("test", "first")))
    notes = open_dataset(config, workspace).notes
    assert notes[1].endswith("CharadesEgo/CharadesEgo_v1_test.csv lists 2: they differ in 2, as 46GP8")


# The real files, if they are next to the checkout.


@pytest.fixture
def real(reference: Path, workspace: Workspace) -> Callable[[str], Dataset]:
    def real_dataset(name: str) -> Dataset:
        folder = workspace.data / name
        folder.mkdir(parents=True)
        data = reference / "data"
        if not data.is_dir():
            pytest.skip("no real annotation files next to the checkout")
        target, source = {
            "ucf101": ("ucfTrainTestlist", data / "ucf_hmdb" / "ucf101_official_split1"),
            "hmdb51": ("testTrainMulti_7030_splits", data / "ucf_hmdb" / "hmdb51_official_split1"),
            "animal_kingdom": ("AR_metadata.xlsx", data / "animal_kingdom" / "AR_metadata.xlsx"),
        }[name]
        (folder / target).symlink_to(source)
        return open_dataset(load_dataset(name), workspace)

    return real_dataset


@pytest.mark.parametrize(
    ("name", "train", "val"),
    [
        ("ucf101", (188, 77, 100, 96, 72, 332, 72, 96, 115, 99, 104, 87), (75, 34, 39, 41, 28, 125, 30, 38, 49, 35, 41, 36)),
        ("hmdb51", (70,) * 12, (30,) * 12),
    ],
)  # fmt: skip
def test_real_lists_of_ucf_and_hmdb(
    real: Callable[[str], Dataset], name: str, train: tuple[int, ...], val: tuple[int, ...]
) -> None:
    dataset = real(name)
    assert dataset.split("train").positives == train
    assert dataset.split("val").positives == val
    groups = [{clip.group for clip in dataset.split(part).clips} for part in ("train", "val")]
    assert groups[0].isdisjoint(groups[1]) or name == "hmdb51"
    assert dataset.split("full").classes == (
        "climb", "fencing", "golf", "kick_ball", "pullup", "punch", "pushup", "ride_bike", "ride_horse", "shoot_ball",
        "shoot_bow", "walk",
    )  # fmt: skip


@pytest.mark.slow
def test_the_real_workbook_of_animal_kingdom(
    real: Callable[[str], Dataset], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = real("animal_kingdom")
    assert {name: len(split.clips) for name, split in dataset.splits.items()} == {
        "full_train": 24_004, "full_test": 6_096, "unseen_species_train": 4_710, "unseen_species_test": 1_039,
        "unseen_actions_train": 102, "unseen_actions_test": 356,
    }  # fmt: skip
    without = [label for label, count in enumerate(dataset.split("full_test").positives) if count == 0]
    assert without == [4, 24, 34, 36, 53, 63, 70, 77, 86, 89, 111, 113, 126]
    assert sum(dataset.split("full_train").positives) == 51_973
    assert sum(dataset.split("full_test").positives) == 12_931
    classes = dataset.split("unseen_species_test").classes
    counts = {classes[label].lower(): n for label, n in enumerate(dataset.split("unseen_species_test").positives) if n}
    assert counts == {
        "keeping still": 327, "moving": 189, "sensing": 189, "eating": 120, "attending": 117, "swimming": 97,
    }  # fmt: skip
    # Parsed once: a later start reads the listing kept in the workspace.
    monkeypatch.delattr(animal_kingdom, "read_workbook")
    assert open_dataset(load_dataset("animal_kingdom"), workspace) == dataset


# What is wrong is one line with file and row.


def refused(name: str, workspace: Workspace, *message: str) -> None:
    config = tiny_data.config(name)
    with pytest.raises(MissingError) as caught:
        open_dataset(config, workspace)
    text = str(caught.value)
    assert "\n" not in text
    for part in message:
        assert part in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Archery/v_Archery_g08_c01.avi 1", "clip 'v_Archery_g08_c01' is listed twice, first at ucfTrainTestlist/trainlist01.txt:"),
        ("v_Archery_g09_c01.avi 1", "trainlist01.txt:17: 'v_Archery_g09_c01.avi 1': expected <Class>/<clip>.avi"),
        ("Archery/v_Archery_g09_c01.mp4 1", "trainlist01.txt:17: 'Archery"),
        ("Archery/v_Archery_g09_c01.avi,1", "trainlist01.txt:17: 'Archery"),
        ("../v_Archery_g09_c01.avi 1", "trainlist01.txt:17: clip '..': expected a plain file name"),
        ("../../etc/v.avi 1", "trainlist01.txt:17: '../../etc/v.avi 1'"),
        ("/etc/v_Archery_g09_c01.avi 1", "trainlist01.txt:17"),
        ("Archery/..\\v_Archery.avi 1", "trainlist01.txt:17"),
        ("Archery/.hidden.avi 1", "trainlist01.txt:17: clip '.hidden'"),
        ("Archery/v\x07.avi 1", "trainlist01.txt:17: clip 'v\\x07'"),
        (f"Archery/{'v' * 250}.avi 1", "trainlist01.txt:17"),
    ],
)  # fmt: skip
def test_a_bad_line_of_ucf101(workspace: Workspace, line: str, message: str) -> None:
    tiny_data.ucf101(workspace.data / "ucf101", films=False)
    path = workspace.data / "ucf101/ucfTrainTestlist/trainlist01.txt"
    with path.open("a", newline="") as file:
        file.write(f"{line}\r\n")
    refused("ucf101", workspace, message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("A_climb_f_cm_np1_ri_med_0.avi 3", "climb_test_split1.txt:4: 'A_climb_f_cm_np1_ri_med_0.avi 3': expected"),
        ("A_climb_f_cm_np1_ri_med_0.avi", "climb_test_split1.txt:4"),
        ("A_climb_f_cm_np1_ri_med_0.mp4 1", "climb_test_split1.txt:4"),
        ("../A_climb.avi 1", "climb_test_split1.txt:4: clip '../A_climb': expected a plain file name"),
        ("/A_climb.avi 1", "climb_test_split1.txt:4"),
        ("(HQ)_Rock_Climbing_-_Free_Solo_climb_f_cm_np1_ri_med_0.avi 2", "is listed twice, first at"),
        ("A_Film_of_walk_now_walk_f_cm_np1_ri_med_0.avi 1", "walk_test_split1.txt:1: clip 'A_Film_of_walk_now_walk_f"),
    ],
)
def test_a_bad_line_of_hmdb51(workspace: Workspace, line: str, message: str) -> None:
    tiny_data.hmdb51(workspace.data / "hmdb51", films=False)
    with (workspace.data / "hmdb51/testTrainMulti_7030_splits/climb_test_split1.txt").open("a") as file:
        file.write(f"{line} \n")
    refused("hmdb51", workspace, message)


@pytest.mark.parametrize("damage", ["absent", "empty", "binary", "folder", "link out"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ucf101", "ucfTrainTestlist/testlist01.txt"),
        ("hmdb51", "testTrainMulti_7030_splits/golf_test_split1.txt"),
        ("charades_ego", "CharadesEgo/CharadesEgo_v1_test_only1st.csv"),
        ("charades_ego", "CharadesEgo/Charades_v1_classes.txt"),
    ],
)
def test_a_missing_or_damaged_file_is_named(
    workspace: Workspace, tmp_path: Path, name: str, file: str, damage: str
) -> None:
    ROOM[name](workspace.data / name, films=False)
    path = workspace.data / name / file
    content = path.read_bytes()
    path.unlink()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "binary":
        path.write_bytes(b"\xff\xfe\x00" + content)
    elif damage == "folder":
        path.mkdir()
    elif damage == "link out":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    refused(name, workspace, str(path))


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "charades_ego"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_other_line_ends_change_nothing(
    made: Callable[[str], Dataset], workspace: Workspace, name: str, ends: bytes
) -> None:
    before = made(name)
    for path in [*before.folder.rglob("*.txt"), *before.folder.rglob("*.csv")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", ends))
    after = open_dataset(before.config, workspace)
    assert after.key != before.key
    assert [(c.id, c.target, c.group) for c in after.clips] == [(c.id, c.target, c.group) for c in before.clips]


def charades(workspace: Workspace, edit: Callable[[str], str]) -> None:
    tiny_data.charades_ego(workspace.data / "charades_ego", films=False)
    path = workspace.data / "charades_ego/CharadesEgo/CharadesEgo_v1_train_only1st.csv"
    path.write_text(edit(path.read_text()))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.replace(",", ";"), "only1st.csv:1: expected columns separated by commas, found 'id;subject"),
        (lambda t: t.replace(",", "\t"), "only1st.csv:1: expected columns separated by commas"),
        (lambda t: t.replace("actions", "action", 1), "only1st.csv:1: no column 'actions', found id, subject"),
        (lambda t: t.replace(",length", "", 1), "only1st.csv:1: no column 'length'"),
        (lambda t: t.replace("script", "id", 1), "only1st.csv:1: two columns 'id'"),
        (lambda t: t.split("\n", 1)[1], "only1st.csv:1: no column 'id'"),
        (lambda t: t.replace("c092", "c157"), "only1st.csv:2: actions of clip 0A8CFEGO: c157, expected c000 to c156"),
        (lambda t: t.replace("c156 0.00", "c156"), "only1st.csv:4: actions of clip 1B7DEEGO: 'c156 4.50'"),
        (lambda t: t.replace("c156", "156"), "only1st.csv:4: actions of clip 1B7DEEGO: '156 0.00 4.50'"),
        (lambda t: t.replace("0A8CFEGO", "0A8CF"), "only1st.csv:2: clip '0A8CF': ids of first-person clips end in EGO"),
        (lambda t: t.replace("1B7DEEGO", "0A8CFEGO"), "only1st.csv:4: clip '0A8CFEGO' is listed twice, first at"),
        (lambda t: t.replace("1B7DEEGO", "../../1B7DEEGO"), "only1st.csv:4: clip '../../1B7DEEGO': expected a plain"),
        (lambda t: t.replace("1B7DEEGO", ""), "only1st.csv:4: clip '': expected a plain"),
        (lambda t: t.replace(",24.83,", ",", 1), "only1st.csv:2: 12 values, expected 13"),
        (lambda t: t.replace('away"".', 'away"'), "only1st.csv:2"),
        (lambda t: t[: len(t) * 2 // 3], "values, expected 13"),
    ],
)  # fmt: skip
def test_a_bad_csv_of_charades_ego(workspace: Workspace, edit: Callable[[str], str], message: str) -> None:
    charades(workspace, edit)
    refused("charades_ego", workspace, message)


def test_a_bad_class_file(workspace: Workspace) -> None:
    tiny_data.charades_ego(workspace.data / "charades_ego", films=False)
    path = workspace.data / "charades_ego/CharadesEgo/Charades_v1_classes.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    refused("charades_ego", workspace, f"{path}: 156 classes, expected 157")
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    refused("charades_ego", workspace, f"{path}:1: 'c001 Doing thing 1', expected 'c000 '")


def rows_with(number: int, **changed: object) -> list[list[object]]:
    rows: list[list[object]] = [list(row) for row in tiny_data.AR_ROWS]
    for column, value in changed.items():
        rows[number][["video_id", "type", "labels", "animals"].index(column)] = value
    return rows


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": 78}, "sheet AR row 3: labels of clip BBBCXZTV: the number 78, expected text: a spreadsheet program"),
        ({"labels": 2.4}, "sheet AR row 3: labels of clip BBBCXZTV: the number 2.4"),
        ({"labels": None}, "sheet AR row 3: labels of clip BBBCXZTV: empty, expected label ids as 2,40"),
        ({"labels": " "}, "sheet AR row 3: labels"),
        ({"labels": "2;40"}, "sheet AR row 3: labels of clip BBBCXZTV: '2;40'"),
        ({"labels": "140"}, "sheet AR row 3: labels of clip BBBCXZTV: label 140, expected 0 to 139"),
        ({"labels": "-1"}, "sheet AR row 3: labels"),
        ({"video_id": "AAACXZTV"}, "sheet AR row 3: clip 'AAACXZTV' is listed twice, first at AR_metadata.xlsx sheet AR row 2"),
        ({"video_id": "../../etc/x"}, "sheet AR row 3: clip '../../etc/x': expected a plain file name"),
        ({"video_id": "/etc/x"}, "sheet AR row 3"),
        ({"video_id": None}, "sheet AR row 3: video_id is empty"),
        ({"video_id": 12345678}, "sheet AR row 3: video_id is 12345678"),
        ({"type": "val"}, "sheet AR row 3: type of clip BBBCXZTV is 'val', expected train or test"),
        ({"animals": "Common Crane, Moving"}, "sheet AR row 3: list_animal_action is 'Common Crane, Moving'"),
        ({"animals": "[" * 5000}, "sheet AR row 3: list_animal_action"),
        ({"animals": "__import__('os').getcwd()"}, "sheet AR row 3: list_animal_action"),
        ({"animals": 7}, "sheet AR row 3: list_animal_action is 7"),
    ],
)  # fmt: skip
def test_a_bad_row_of_animal_kingdom(workspace: Workspace, changed: dict[str, object], message: str) -> None:
    tiny_data.animal_kingdom(workspace.data / "animal_kingdom", films=False, rows=rows_with(1, **changed))
    refused("animal_kingdom", workspace, str(workspace.data / "animal_kingdom" / "AR_metadata.xlsx"), message)


def test_additional_columns_and_sheets_change_nothing(workspace: Workspace) -> None:
    header = (*tiny_data.AR_HEADER[:4], "x", "list_animal", "list_animal_action")
    rows = [[row[0], row[1], row[2], "", "['Common Crane']", row[3]] for row in tiny_data.AR_ROWS]
    config = tiny_data.animal_kingdom(workspace.data / "animal_kingdom", films=False, rows=rows, header=header)
    book = openpyxl.load_workbook(workspace.data / "animal_kingdom" / "AR_metadata.xlsx")
    book.create_sheet("video_url")
    book.save(workspace.data / "animal_kingdom" / "AR_metadata.xlsx")
    assert len(open_dataset(config, workspace).clips) == len(rows)


def workbook(workspace: Workspace, edit: Callable[[openpyxl.Workbook], None]) -> Path:
    tiny_data.animal_kingdom(workspace.data / "animal_kingdom", films=False)
    path = workspace.data / "animal_kingdom" / "AR_metadata.xlsx"
    book = openpyxl.load_workbook(path)
    edit(book)
    book.save(path)
    return path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda b: b.remove(b["Animal"]), "no sheet 'Animal', but AR, CARe, Action"),
        (lambda b: setattr(b["AR"], "title", "Sheet1"), "no sheet 'AR', but Sheet1"),
        (lambda b: b["AR"].cell(1, 4, "label"), "sheet AR row 1: no column 'labels', found S/N, video_id, type, label"),
        (lambda b: b["AR"].cell(1, 5, "labels"), "sheet AR row 1: two columns 'labels'"),
        (lambda b: b["Animal"].cell(1, 4, "Subclass"), "sheet Animal row 1: no column 'Sub-Class'"),
        (lambda b: b["AR"].delete_rows(1, 100), "sheet AR row 1: no column 'video_id', found nothing"),
        (lambda b: b["Animal"].cell(3, 4, 5), "sheet Animal row 3: Animal and Sub-Class are not both text"),
        (lambda b: b["Action"].cell(3, 1, 137), "sheet Action row 4: Label 137 is listed twice"),
        (lambda b: b["Action"].cell(3, 1, 140), "sheet Action row 3: Label of Action 138 is 140, expected 0 to 139"),
        (lambda b: b["Action"].cell(3, 3, ""), "sheet Action row 3: Action is empty"),
        (lambda b: b["Action"].delete_rows(5), "sheet Action: 138 labels and 1 actions without one"),
    ],
)
def test_a_bad_workbook(workspace: Workspace, edit: Callable[[openpyxl.Workbook], None], message: str) -> None:
    path = workbook(workspace, edit)
    refused("animal_kingdom", workspace, str(path), message)


@pytest.mark.parametrize("share", [0, 1, 2, 3])
def test_a_truncated_workbook_is_refused(workspace: Workspace, share: int) -> None:
    tiny_data.animal_kingdom(workspace.data / "animal_kingdom", films=False)
    path = workspace.data / "animal_kingdom" / "AR_metadata.xlsx"
    whole = path.read_bytes()
    path.write_bytes([b"", b"not a workbook", whole[: len(whole) // 2], whole[:-30]][share])
    refused("animal_kingdom", workspace, str(path))


def test_counts_of_clips_are_checked(workspace: Workspace) -> None:
    """The tiny data set does not have the real one's number of clips."""
    tiny_data.hmdb51(workspace.data / "hmdb51", films=False)
    with pytest.raises(DataError, match="hmdb51/train: its files list 12 clips, expected 840; hmdb51/val"):
        open_dataset(load_dataset("hmdb51"), workspace)
    assert list_dataset(load_dataset("hmdb51"), workspace).miscounted[0].endswith("expected 840")


def test_unknown_names_are_refused(workspace: Workspace, made: Callable[[str], Dataset]) -> None:
    with pytest.raises(UsageError, match="unknown dataset 'kinetics'"):
        open_dataset(load_dataset("kinetics"), workspace)
    with pytest.raises(UsageError, match=r"^smoke: .*ucf101"):
        open_dataset(load_dataset("smoke"), workspace)
    with pytest.raises(UsageError, match="hmdb51 has no split 'test': train, val, full"):
        made("hmdb51").split("test")


def test_missing_data_is_an_error_that_names_the_remedy(workspace: Workspace) -> None:
    with pytest.raises(MissingError, match=r"data charades_ego: no CharadesEgo in .*to bring it"):
        open_dataset(load_dataset("charades_ego"), workspace)


# The listing is kept.


def test_a_listing_is_parsed_once(
    workspace: Workspace, made: Callable[[str], Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = made("animal_kingdom")
    monkeypatch.setattr(animal_kingdom, "read_workbook", None)  # would be called
    assert open_dataset(dataset.config, workspace) == dataset


@pytest.mark.parametrize("damage", ["cut off", "edited", "empty"])
def test_a_damaged_listing_is_parsed_again(workspace: Workspace, made: Callable[[str], Dataset], damage: str) -> None:
    dataset = made("hmdb51")
    (kept,) = workspace.listings.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes({"cut off": whole[:-9], "edited": whole.replace(b"[7]", b"[8]"), "empty": b""}[damage])
    assert open_dataset(dataset.config, workspace) == dataset
    assert kept.read_bytes() == whole


def test_what_a_killed_writer_of_a_complete_listing_left_is_deleted(
    workspace: Workspace, made: Callable[[str], Dataset]
) -> None:
    made("hmdb51")
    (kept,) = workspace.listings.iterdir()
    left = kept.with_name(f".{kept.name}.0123456789ab.partial")
    left.mkdir()
    (left / "lock").touch()
    list_dataset(load_dataset("hmdb51"), workspace, keep=False)
    assert left.is_dir()
    list_dataset(load_dataset("hmdb51"), workspace)
    assert [*workspace.listings.iterdir()] == [kept]


def test_changed_files_give_another_listing(workspace: Workspace, made: Callable[[str], Dataset]) -> None:
    dataset = made("charades_ego")
    path = dataset.folder / "CharadesEgo/CharadesEgo_v1_test_only1st.csv"
    path.write_text(path.read_text().replace("c003", "c004"))
    again = open_dataset(dataset.config, workspace)
    assert again.key != dataset.key
    assert again.split("first_test").clips[0].target == (4,)
    (dataset.folder / "CharadesEgo_v1").mkdir()
    assert open_dataset(dataset.config, workspace).key not in (dataset.key, again.key)


def test_a_read_only_workspace_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = Workspace(tmp_path / "file" / "workspace", tmp_path / "data")
    config = tiny_data.hmdb51(tmp_path / "data" / "hmdb51", films=False)
    assert len(open_dataset(config, place).clips) == 24


# What is not there.


@pytest.fixture
def hmdb(workspace: Workspace) -> Dataset:
    config = tiny_data.hmdb51(workspace.data / "hmdb51", films=False)
    dataset = open_dataset(config, workspace)
    for clip in dataset.clips:
        clip.path.parent.mkdir(parents=True, exist_ok=True)
        clip.path.write_bytes(b"video")
    return dataset


def test_missing_clips_are_named_with_the_row_that_lists_them(hmdb: Dataset, tmp_path: Path) -> None:
    split = hmdb.split("full")
    assert find_missing(split, hmdb.folder) == {}
    absent, empty, folder, leaving, within = (split.clips[n] for n in range(5))
    for clip in (absent, folder, leaving, within):
        clip.path.unlink()
    empty.path.write_bytes(b"")
    folder.path.mkdir()
    (tmp_path / "secret.avi").write_bytes(b"video")
    leaving.path.symlink_to(tmp_path / "secret.avi")
    within.path.symlink_to(split.clips[9].path)
    gone = find_missing(split, hmdb.folder)
    assert list(gone) == [absent.id, empty.id, folder.id, leaving.id]
    assert gone[absent.id] == f"{absent.path}: no such file (listed in {absent.listed})"
    assert "is empty (0 bytes)" in gone[empty.id]
    assert "a folder, expected a file" in gone[folder.id]
    assert f"leads out of the data set, to {tmp_path / 'secret.avi'}: not read" in gone[leaving.id]


def test_a_class_folder_linked_outside_is_not_read(hmdb: Dataset, tmp_path: Path) -> None:
    climb = hmdb.folder / "hmdb51_org" / "climb"
    climb.rename(tmp_path / "climb")
    climb.symlink_to(tmp_path / "climb")
    gone = find_missing(hmdb.split("full"), hmdb.folder)
    assert len(gone) == 2
    assert all("a link that leads out of the data set" in why for why in gone.values())


def test_the_folder_of_all_videos_may_be_a_link(hmdb: Dataset, tmp_path: Path) -> None:
    videos = hmdb.folder / "hmdb51_org"
    videos.rename(tmp_path / "mine")
    videos.symlink_to(tmp_path / "mine")
    assert find_missing(hmdb.split("full"), hmdb.folder) == {}


def test_missing_clips_must_be_allowed(hmdb: Dataset) -> None:
    split = hmdb.split("val")
    for clip in split.clips[:2]:
        clip.path.unlink()
    with pytest.raises(MissingError, match=r"hmdb51/val: 2 of 12 clips are missing: .*--allow-missing") as caught:
        without_missing(split, hmdb.folder)
    assert "\n" not in str(caught.value)
    assert split.clips[0].listed in str(caught.value)
    left, gone = without_missing(split, hmdb.folder, allow_missing=True)
    assert gone == tuple(clip.id for clip in split.clips[:2])
    assert left.clips == split.clips[2:]
    for clip in left.clips:
        clip.path.unlink()
    with pytest.raises(MissingError, match="12 of 12 clips are missing"):
        without_missing(split, hmdb.folder, allow_missing=True)


def test_a_rows_data(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, hmdb: Dataset) -> None:
    ucf = tiny_data.ucf101(workspace.data / "ucf101", films=False)
    configs = {"hmdb51": hmdb.config, "ucf101": ucf}
    monkeypatch.setattr("repro.table.row.load_dataset", lambda name: configs[name])
    for clip in open_dataset(ucf, workspace).clips:
        clip.path.parent.mkdir(parents=True, exist_ok=True)
        clip.path.write_bytes(b"video")
    row = load_row("ucf_hmdb")
    data = open_row_data(row, workspace)
    assert [str(split.name) for split in (*data.splits.values(), *data.also)] == [
        "ucf101/train",
        "hmdb51/full",
        "hmdb51/val",
    ]
    assert (data.missing, data.manifests) == ({"train": (), "test": ()}, {})
    hmdb.split("val").clips[0].path.unlink()
    with pytest.raises(MissingError, match="hmdb51/full: 1 of 24"):
        open_row_data(row, workspace)
    data = open_row_data(row, workspace, allow_missing=True)
    assert data.missing["test"] == (hmdb.split("val").clips[0].id,)
    assert (len(data.splits["test"].clips), len(data.also[0].clips)) == (23, 11)


@pytest.mark.parametrize("damage", ["", "outside", "twice", "no column"])
def test_animal_kingdoms_segments_are_the_publishers(tmp_path: Path, damage: str) -> None:
    """Head, middle and tail come from the publishers' table; without it there are no segments."""
    assert animal_kingdom.read_segments(tmp_path, 4) is None
    book = openpyxl.Workbook()
    sheet = book.create_sheet("AR_count")
    sheet.append(["S/N", "action", "index", "part" if damage == "no column" else "segment", "count"])
    ids = {"outside": [0, 1, 2, 4], "twice": [0, 1, 2, 2]}.get(damage, [0, 1, 2, 3])
    for number, (index, segment) in enumerate(zip(ids, ["tail", "head", "Middle ", "tail"], strict=True)):
        sheet.append([number, "an action", index, segment, 7])
    (tmp_path / "annotation").mkdir()
    book.save(tmp_path / "annotation" / "df_action.xlsx")
    if not damage:
        assert animal_kingdom.read_segments(tmp_path, 4) == {"head": (1,), "middle": (2,), "tail": (0, 3)}
        return
    message = {"outside": "row 5: index 4", "twice": "each of 4 classes", "no column": "no column 'segment'"}[damage]
    with pytest.raises(DataError, match=message):
        animal_kingdom.read_segments(tmp_path, 4)
