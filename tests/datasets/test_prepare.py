"""From the publishers' archives or a user's folders to the layout that adapters read; killed anywhere, it resumes."""

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from builders import tiny_datasets as tiny_data
from builders.commands import TESTS
from builders.rars import install_stand_in, write_rar
from builders.reporters import RecordingReporter

from repro.core.errors import MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets import unpack
from repro.datasets.annotations import DataError
from repro.datasets.prepare import Placed, prepare_dataset
from repro.datasets.presence import find_missing
from repro.datasets.registry import open_dataset


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tiny data set, as a user may have stored it."""
    folder = tmp_path_factory.mktemp("owners")
    for name, make in tiny_data.MAKERS.items():
        make(folder / name)
    return folder


@pytest.fixture
def rar_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_in(tmp_path / "programs")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))


def contents(folder: Path, below: str = "") -> dict[str, bytes]:
    return {
        f"{below}{path.relative_to(folder)}": path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tar_of(path: Path, folder: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        archive.add(folder, name)
    return path


def whole(name: str, workspace: Workspace) -> None:
    """Check that the data set is complete and no temporary files are left."""
    counts = {"ucf101": 45, "hmdb51": 24, "animal_kingdom": 10, "charades_ego": 10}
    config = tiny_data.config(name)
    dataset = open_dataset(config, workspace)
    assert len(dataset.clips) == counts[name]
    for split in dataset.splits.values():
        assert find_missing(split, dataset.folder) == {}
    assert not (dataset.folder / ".unpacking").exists()


def run(name: str, workspace: Workspace, reporter: RecordingReporter, *given: Path) -> list[Placed]:
    return prepare_dataset(tiny_data.config(name), workspace, given, reporter)


@pytest.mark.parametrize("name", list(tiny_data.MAKERS))
def test_a_users_folders_are_linked(name: str, owners: Path, workspace: Workspace, reporter: RecordingReporter) -> None:
    placed = run(name, workspace, reporter, owners / name)
    assert {one.how for one in placed} == {"linked"}
    whole(name, workspace)
    for one in placed:
        assert (workspace.data / name / one.part).is_symlink()
    assert {one.how for one in run(name, workspace, reporter)} == {"there"}
    assert contents(owners / name)  # the user's own is untouched


def test_parts_may_be_passed_separately(owners: Path, workspace: Workspace, reporter: RecordingReporter) -> None:
    source = owners / "animal_kingdom"
    with pytest.raises(MissingError, match="data animal_kingdom: no video in"):
        run("animal_kingdom", workspace, reporter, source / "AR_metadata.xlsx")
    assert (workspace.data / "animal_kingdom" / "AR_metadata.xlsx").is_symlink()
    run("animal_kingdom", workspace, reporter, source / "video")
    whole("animal_kingdom", workspace)


def test_ucf101_from_its_rar_and_zip(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, rar_reader: None
) -> None:
    archives = workspace.data / "ucf101" / "archives"
    write_rar(archives / "UCF101.rar", contents(owners / "ucf101" / "UCF-101", "UCF-101/"))
    zip_of(
        archives / "UCF101TrainTestSplits-RecognitionTask.zip",
        contents(owners / "ucf101" / "ucfTrainTestlist", "ucfTrainTestlist/"),
    )
    placed = run("ucf101", workspace, reporter)
    assert {(one.part, one.how, one.source) for one in placed} == {
        ("UCF-101", "unpacked", "UCF101.rar"),
        ("ucfTrainTestlist", "unpacked", "UCF101TrainTestSplits-RecognitionTask.zip"),
    }
    whole("ucf101", workspace)
    assert len(list(archives.iterdir())) == 2


@pytest.mark.parametrize("form", ["rar of rars", "zip of folders", "rars", "rars without folders"])
def test_hmdb51_from_each_form_of_its_archives(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, rar_reader: None, tmp_path: Path, form: str
) -> None:
    archives = workspace.data / "hmdb51" / "archives"
    videos = owners / "hmdb51" / "hmdb51_org"
    if form == "zip of folders":
        zip_of(archives / "hmdb51_org.zip", contents(videos, "hmdb51_org/"))
    else:
        rars = archives if form == "rars" else tmp_path / "rars"
        for class_name in sorted(path.name for path in videos.iterdir()):
            below = "" if form == "rars without folders" else f"{class_name}/"
            write_rar(rars / f"{class_name}.rar", contents(videos / class_name, below))
        if form != "rars":
            write_rar(archives / "hmdb51_org.rar", contents(rars))
    write_rar(
        archives / "test_train_splits.rar",
        contents(owners / "hmdb51" / "testTrainMulti_7030_splits", "testTrainMulti_7030_splits/"),
    )
    run("hmdb51", workspace, reporter)
    whole("hmdb51", workspace)
    assert contents(workspace.data / "hmdb51" / "hmdb51_org") == contents(videos)


def test_animal_kingdom_from_its_tar(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    given = tmp_path / "Animal_Kingdom" / "action_recognition"
    tar_of(given / "dataset" / "video.tar.gz", owners / "animal_kingdom" / "video", "action_recognition/dataset/video")
    given.mkdir(exist_ok=True)
    shutil.copy(owners / "animal_kingdom" / "AR_metadata.xlsx", given)
    placed = run("animal_kingdom", workspace, reporter, given, given / "dataset" / "video.tar.gz")
    assert {one.how for one in placed} == {"linked", "unpacked"}
    whole("animal_kingdom", workspace)


@pytest.mark.parametrize("size", ["CharadesEgo_v1_480", "CharadesEgo_v1"])
def test_charades_ego_at_the_size_its_archive_names(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, size: str
) -> None:
    source, archives = owners / "charades_ego", workspace.data / "charades_ego" / "archives"
    tar_of(archives / f"{size}.tar", source / "CharadesEgo_v1_480", size)
    zip_of(archives / "CharadesEgo.zip", contents(source / "CharadesEgo", "CharadesEgo/"))
    run("charades_ego", workspace, reporter)
    whole("charades_ego", workspace)
    assert (workspace.data / "charades_ego" / size).is_dir()


def test_a_folder_that_could_be_either_size_is_refused(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    (tmp_path / "videos").symlink_to(owners / "charades_ego" / "CharadesEgo_v1_480")
    with pytest.raises(UsageError, match="cannot tell which of CharadesEgo_v1_480, CharadesEgo_v1 it is"):
        run("charades_ego", workspace, reporter, owners / "charades_ego" / "CharadesEgo", tmp_path / "videos")


def test_two_folders_for_one_part_are_refused(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "ucfTrainTestlist").mkdir(parents=True)
        (tmp_path / place / "ucfTrainTestlist" / "trainlist01.txt").write_text("x")
    with pytest.raises(UsageError, match="ucfTrainTestlist could be any of"):
        run("ucf101", workspace, reporter, tmp_path / "a", tmp_path / "b")
    with pytest.raises(UsageError, match="--from /no/such: no such file"):
        run("ucf101", workspace, reporter, Path("/no/such"))


def test_without_a_source_the_error_names_the_folder(workspace: Workspace, reporter: RecordingReporter) -> None:
    with pytest.raises(
        MissingError, match=r"no ucfTrainTestlist and no UCF-101 in .*archives, which is empty"
    ) as caught:
        run("ucf101", workspace, reporter)
    assert "\n" not in str(caught.value)


def test_a_broken_link_is_replaced(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    folder = workspace.data / "hmdb51"
    folder.mkdir(parents=True)
    (folder / "hmdb51_org").symlink_to(tmp_path / "gone")
    run("hmdb51", workspace, reporter, owners / "hmdb51")
    whole("hmdb51", workspace)


@pytest.mark.parametrize("name", ["../escape.avi", "/tmp/actiondiff-escape.avi"])
def test_a_hostile_archive_leaves_nothing(
    workspace: Workspace, reporter: RecordingReporter, tmp_path: Path, name: str
) -> None:
    archive = zip_of(tmp_path / "UCF101.zip", {"UCF-101/Archery/v_Archery_g01_c01.avi": b"1", name: b"2"})
    with pytest.raises(DataError, match=r"UCF101\.zip: member '.*escape\.avi' leads out"):
        run("ucf101", workspace, reporter, archive)
    folder = workspace.data / "ucf101"
    assert sorted(path.name for path in folder.iterdir()) == [".prepare.lock"]
    assert not list(tmp_path.rglob("escape.avi"))


@pytest.mark.parametrize(
    ("name", "content"), [("text.zip", b"hello"), ("empty.zip", b""), ("gzip.tar", b"\x1f\x8b\x08\x00rest")]
)
def test_an_archive_of_another_type_is_refused_by_name(
    name: str, content: bytes, tmp_path: Path, workspace: Workspace, reporter: RecordingReporter
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: (by its name|the file is empty)"):
        run("ucf101", workspace, reporter, tmp_path / name)
    assert not (workspace.data / "ucf101/.unpacking").exists()


def test_a_damaged_archive_within_leaves_nothing(
    workspace: Workspace, reporter: RecordingReporter, tmp_path: Path, rar_reader: None
) -> None:
    write_rar(tmp_path / "in" / "climb.rar", {"climb/a_climb_f_cm_np1_ri_med_0.avi": b"1" * 500})
    whole_rar = (tmp_path / "in" / "climb.rar").read_bytes()
    write_rar(tmp_path / "hmdb51_org.rar", {"climb.rar": whole_rar[:300]})
    with pytest.raises(DataError, match=r"climb\.rar: bsdtar cannot unpack it"):
        run("hmdb51", workspace, reporter, tmp_path / "hmdb51_org.rar")
    assert contents(workspace.data / "hmdb51" / ".unpacking") == {}
    assert not (workspace.data / "hmdb51" / "hmdb51_org").exists()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_archives_within_may_not_multiply(
    kind: str, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of six unpacks to nearly what one archive may."""
    monkeypatch.setattr(unpack, "MOST_UNPACKED", 200_000)
    inner = tmp_path / f"climb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("climb/film.avi", bytes(150_000))
    else:
        with tarfile.open(inner, "w:gz") as tar:
            info = tarfile.TarInfo("climb/film.avi")
            info.size = 150_000
            tar.addfile(info, io.BytesIO(bytes(150_000)))
    with zipfile.ZipFile(tmp_path / "hmdb51.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(6):
            archive.write(inner, f"{n}.{kind}")
    with pytest.raises(DataError, match=rf"1\.{kind}: unpacks to more than"):
        run("hmdb51", workspace, reporter, tmp_path / "hmdb51.zip")
    assert not list((workspace.data / "hmdb51").rglob("*.avi"))


def test_an_archive_without_a_missing_part_is_not_unpacked_again(
    owners: Path, workspace: Workspace, reporter: RecordingReporter
) -> None:
    folder = workspace.data / "ucf101"
    zip_of(folder / "archives" / "videos.zip", contents(owners / "ucf101" / "UCF-101", "UCF-101/"))
    for _ in range(2):
        with pytest.raises(MissingError, match="no ucfTrainTestlist in"):
            run("ucf101", workspace, reporter)
    assert sum("unpacking" in line for line in reporter.lines) == 1
    shutil.rmtree(folder / "UCF-101")
    run("ucf101", workspace, reporter, owners / "ucf101" / "ucfTrainTestlist", folder / "archives" / "videos.zip")
    whole("ucf101", workspace)


KILL = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import repro.datasets.unpack as archives, repro.datasets.prepare as prepare
from builders import tiny_datasets
from repro.core.console import Reporter
from repro.core.workspace import Workspace

left = int(sys.argv[1])
def or_die(step):
    def stepped(*words):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return step(*words)
    return stepped

archives._write_member = or_die(archives._write_member)
prepare._move_to_place = or_die(prepare._move_to_place)
Path.rename = or_die(Path.rename)
prepare.prepare_dataset(tiny_datasets.config("hmdb51"), Workspace(Path(sys.argv[2])), [], Reporter())
"""


@pytest.mark.slow
def test_killed_anywhere_it_resumes(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, rar_reader: None
) -> None:
    """Killed before every few steps; each run resumes from what the previous one left."""
    archives = workspace.data / "hmdb51" / "archives"
    videos = owners / "hmdb51" / "hmdb51_org"
    for class_name in sorted(path.name for path in videos.iterdir())[:6]:
        zip_of(archives / f"{class_name}.zip", contents(videos / class_name, f"{class_name}/"))
    rest = {
        name: data for name, data in contents(videos).items() if not (archives / f"{name.split('/')[0]}.zip").exists()
    }
    zip_of(archives / "rest.zip", {f"hmdb51_org/{name}": data for name, data in rest.items()})
    zip_of(archives / "splits.zip", contents(owners / "hmdb51" / "testTrainMulti_7030_splits", "splits/"))
    kills = 0
    for attempt in range(40):
        words = [sys.executable, "-c", KILL, str(3 + 5 * attempt), str(workspace.root), str(TESTS)]
        done = subprocess.run(words, capture_output=True, check=False)
        assert done.returncode in (0, 9), done.stderr.decode()
        folder = workspace.data / "hmdb51" / "hmdb51_org"
        assert not folder.exists() or contents(folder) == contents(videos)
        if done.returncode == 0:
            break
        kills += 1
    assert kills >= 4
    whole("hmdb51", workspace)
    assert contents(workspace.data / "hmdb51" / "hmdb51_org") == contents(videos)


def test_a_wrong_folder_that_was_linked_is_replaced(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong" / "UCF-101"
    shutil.copytree(owners / "ucf101" / "UCF-101" / "Archery", wrong / "Archery")
    folder = workspace.data / "ucf101"
    run("ucf101", workspace, reporter, wrong.parent, owners / "ucf101" / "ucfTrainTestlist")
    assert (folder / "UCF-101").resolve() == wrong
    # Without naming a source, what is in place is kept; nothing is left to do twice.
    assert {one.how for one in run("ucf101", workspace, reporter)} == {"there"}
    placed = run("ucf101", workspace, reporter, owners / "ucf101")
    assert {one.part: one.how for one in placed} == {"ucfTrainTestlist": "there", "UCF-101": "linked"}
    assert f"UCF-101: no longer linked to {wrong}" in reporter.lines
    whole("ucf101", workspace)
    assert contents(wrong)  # the user's own folder is untouched
    assert {one.how for one in run("ucf101", workspace, reporter, owners / "ucf101")} == {"there"}
    assert reporter.lines[-1] == f"ucf101: nothing in {owners / 'ucf101'} that is not in place already"


def test_what_was_unpacked_is_replaced_and_kept(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    folder, lists = workspace.data / "ucf101", owners / "ucf101" / "ucfTrainTestlist"
    wrong = zip_of(tmp_path / "wrong.zip", contents(owners / "ucf101" / "UCF-101" / "Archery", "UCF-101/Archery/"))
    right = zip_of(tmp_path / "UCF101.zip", contents(owners / "ucf101" / "UCF-101", "UCF-101/"))
    run("ucf101", workspace, reporter, wrong, lists)
    run("ucf101", workspace, reporter, right)
    whole("ucf101", workspace)
    assert len(list((folder / "UCF-101.replaced1").rglob("*.avi"))) == 3
    # The same archive again does nothing; the wrong one, which the record no longer has, replaces it again.
    count = sum("unpacking" in line for line in reporter.lines)
    run("ucf101", workspace, reporter, right)
    assert sum("unpacking" in line for line in reporter.lines) == count
    run("ucf101", workspace, reporter, wrong)
    assert len(list((folder / "UCF-101").rglob("*.avi"))) == 3
    run("ucf101", workspace, reporter, right)
    whole("ucf101", workspace)


def test_the_other_size_of_charades_ego_replaces_the_one_in_place(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    source, folder = owners / "charades_ego", workspace.data / "charades_ego"
    run("charades_ego", workspace, reporter, source)
    copied = shutil.copytree(source / "CharadesEgo_v1_480", tmp_path / "copy" / "CharadesEgo_v1")
    run("charades_ego", workspace, reporter, copied)
    assert (folder / "CharadesEgo_v1").resolve() == copied
    assert not (folder / "CharadesEgo_v1_480").is_symlink()
    whole("charades_ego", workspace)


def test_archives_of_other_things_in_a_users_folder_are_left_alone(
    owners: Path, workspace: Workspace, reporter: RecordingReporter, tmp_path: Path
) -> None:
    downloads = tmp_path / "Downloads"
    zip_of(downloads / "UCF101.zip", contents(owners / "ucf101" / "UCF-101", "UCF-101/"))
    zip_of(downloads / "hmdb51_org.zip", contents(owners / "hmdb51" / "hmdb51_org", "hmdb51_org/"))
    (downloads / "thesis.zip").write_bytes(b"not an archive")
    with pytest.raises(MissingError, match=r"\(not unpacked, because of their names: hmdb51_org\.zip, thesis\.zip\)"):
        run("ucf101", workspace, reporter, downloads)
    assert sum("unpacking" in line for line in reporter.lines) == 1
    lists = contents(owners / "ucf101" / "ucfTrainTestlist", "ucfTrainTestlist/")
    zip_of(downloads / "UCF101TrainTestSplits-RecognitionTask.zip", lists)
    run("ucf101", workspace, reporter, downloads)
    whole("ucf101", workspace)
    assert sum("unpacking" in line for line in reporter.lines) == 2
