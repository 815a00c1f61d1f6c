"""`repro fetch ROW` from nothing to a data set that is ready, on small files in the publishers' formats."""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from builders import tiny_datasets as tiny_data
from builders.commands import run_repro
from builders.fileserver import FileServer, serve_file
from builders.rars import install_stand_in, write_rar
from builders.shipped import use_shipped

from repro.core.config import configs_folder
from repro.core.workspace import Workspace
from repro.fetch import download as downloads

Run = Callable[..., SimpleNamespace]
WEIGHTS = b"weights" * 1000


@pytest.fixture(scope="module")
def publishers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs with the tiny data sets' counts in configs/, their folders in data/, and the published files in mirror/."""
    folder = tmp_path_factory.mktemp("publishers")
    shutil.copytree(configs_folder(), folder / "configs")
    for name in ("ucf101", "hmdb51", "animal_kingdom"):
        counts = tiny_data.MAKERS[name](folder / "data" / name).splits
        path = folder / "configs" / "datasets" / f"{name}.yaml"
        raw = yaml.safe_load(path.read_text())
        raw["splits"] = {split: {"clips": facts.clips} for split, facts in counts.items()}
        raw["files"] = [_small(file) for file in raw.get("files", [])]
        path.write_text(yaml.safe_dump({key: value for key, value in raw.items() if value != []}))
    path = folder / "configs" / "backbones" / "svd_xt.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["checkpoint"] |= _small(raw["checkpoint"])
    raw["checkpoint"] = {
        key: raw["checkpoint"][key] for key in raw["checkpoint"] if key not in ("hub", "bytes", "sha256")
    }
    path.write_text(yaml.safe_dump(raw))
    mirror, data = folder / "mirror", folder / "data"
    mirror.mkdir()
    (mirror / "svd_xt.safetensors").write_bytes(WEIGHTS)
    write_rar(mirror / "UCF101.rar", _contents(data / "ucf101" / "UCF-101"))
    _write_zip(mirror / "UCF101TrainTestSplits-RecognitionTask.zip", data / "ucf101" / "ucfTrainTestlist")
    _write_zip(mirror / "hmdb51_org.zip", data / "hmdb51" / "hmdb51_org")
    _write_zip(mirror / "test_train_splits.zip", data / "hmdb51" / "testTrainMulti_7030_splits")
    return folder


def _small(file: dict[str, str]) -> dict[str, str]:
    return {"file": file["file"], "url": f"https://localhost/{file['file']}", "size": "60 kB"}


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder.parent)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _write_zip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in _contents(folder).items():
            archive.writestr(name, content)


@pytest.fixture
def fetch(publishers: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `repro` with the small configs, in an empty folder, with a program that unpacks rar."""
    use_shipped(monkeypatch, configs=publishers / "configs")
    install_stand_in(tmp_path / "programs")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(downloads, "WAITS", (0.0, 0.0))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def run(*words: str | Path) -> SimpleNamespace:
        done = run_repro(*words, env={"REPRO_WORKSPACE": str(workspace.root)}, cwd=tmp_path)
        assert "Traceback" not in done.err, done.err
        return done

    return run


@pytest.fixture
def server(publishers: Path) -> Iterator[FileServer]:
    contents = {f"/{path.name}": path.read_bytes() for path in (publishers / "mirror").iterdir()}
    with serve_file(contents=contents) as state:
        yield state


def test_a_row_from_nothing_to_audited_data(fetch: Run, workspace: Workspace, server: FileServer) -> None:
    words = ("fetch", "ucf_hmdb", "--from", f"{server.url}/")
    done = fetch(*words)
    assert done.code == 4
    assert (
        "ucf101: UCF101.rar (60 kB), UCF101TrainTestSplits-RecognitionTask.zip (60 kB)\n  licence: not stated"
        in done.out
    )
    assert "\n  https://creativecommons.org/licenses/by/4.0/\n" in done.out
    assert done.err.count("\n") == 1
    assert f"to accept these licences and fetch: repro fetch ucf_hmdb --accept-license --from {server.url}/" in done.err
    assert server.requests == []
    assert not workspace.root.exists()

    # The first call is dropped within the largest file; the next resumes there and repeats nothing.
    server.faults = [{"drop": 500}, {"status": 404}]
    done = fetch(*words, "--accept-license")
    assert done.code == 4
    assert "1 of 3 things are not ready, for the reasons above; the same command resumes" in done.err
    assert "hmdb51: 24 of 24 clips decode; 24 decoded now, 0 reused" in done.out
    assert (workspace.data / "ucf101" / "archives" / "UCF101.rar.part").stat().st_size == 500
    server.requests.clear()
    done = fetch(*words, "--accept-license")
    assert done.code == 0, done.err
    assert server.requested_ranges == ["bytes=500-", None]
    assert "ucf101: 45 of 45 clips decode; 45 decoded now, 0 reused" in done.out
    assert "hmdb51: 24 of 24 clips decode; 0 decoded now, 24 reused" in done.out
    assert done.out.splitlines()[-1] == "next: repro ucf_hmdb"
    assert (workspace.checkpoints / "svd_xt.safetensors").read_bytes() == WEIGHTS

    server.requests.clear()
    report = json.loads(fetch("fetch", "ucf_hmdb", "--json").out)
    assert server.requests == []
    assert [file["means"] for file in report["files"]] == ["there"]
    assert report["prepared"] == {}
    assert {name: audit["decoded_now"] for name, audit in report["audits"].items()} == {"ucf101": 0, "hmdb51": 0}


def test_what_must_be_requested_does_not_keep_the_rest_from_being_fetched(
    fetch: Run, workspace: Workspace, publishers: Path
) -> None:
    mirror = publishers / "mirror"
    done = fetch("fetch", "ak_full", "--from", mirror)
    assert "animal_kingdom cannot be fetched" in done.out
    done = fetch("fetch", "ak_full", "--accept-license", "--from", mirror)
    assert done.code == 4
    assert (workspace.checkpoints / "svd_xt.safetensors").is_file()
    assert "with the form at https://forms.gle/NipvmReDKaD5zUEw6; " in done.err
    archives = workspace.data / "animal_kingdom" / "archives"
    assert f"put the archives as they are sent into {archives} and run this command again" in done.err
    missing = json.loads(fetch("fetch", "ak_full", "--json").out)["error"]["missing"]
    assert [(one["what"], one["asset"]) for one in missing] == [("data animal_kingdom", "animal_kingdom")]
    # Put where the message says, they are unpacked and audited by the same command.
    archives.mkdir(parents=True)
    shutil.copy(publishers / "data" / "animal_kingdom" / "AR_metadata.xlsx", archives)
    _write_zip(archives / "video.zip", publishers / "data" / "animal_kingdom" / "video")
    done = fetch("fetch", "ak_full", "--accept-license")
    assert done.code == 0, done.err
    assert "animal_kingdom: 10 of 10 clips decode" in done.out


def test_without_a_program_for_rar_nothing_is_downloaded(
    fetch: Run, workspace: Workspace, server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "programs" / "bsdtar").unlink()
    words = ("fetch", "ucf_hmdb", "--accept-license", "--from", f"{server.url}/")
    done = fetch(*words)
    assert done.code == 4
    assert "UCF101.rar: a rar archive, and neither unar nor bsdtar is installed: install one" in done.err
    assert server.requests == []
    assert not workspace.root.exists()
    # Files alone need no program.
    assert fetch(*words, "--no-prepare").code == 0
    assert (workspace.data / "ucf101" / "archives" / "UCF101.rar").is_file()
    assert not (workspace.data / "ucf101" / "UCF-101").exists()


def test_without_room_nothing_is_downloaded(
    fetch: Run, workspace: Workspace, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two data sets of two archives each, once packed and once unpacked, and a checkpoint, of 60 kB each.
    words = ("fetch", "ucf_hmdb", "--accept-license", "--from", f"{server.url}/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=539_999))
    done = fetch(*words)
    assert done.code == 2
    assert "540.0 kB free, 540.0 kB needed for ucf101, hmdb51, svd_xt: free space, or choose another disk" in done.err
    assert server.requests == []
    assert not workspace.root.exists()
    # Before the licences are accepted, it is a warning.
    words = ("fetch", "ucf_hmdb", "--from", f"{server.url}/")
    assert "warning: " in fetch(*words).err
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=540_000))
    assert "warning: " not in fetch(*words).err


def test_an_archive_of_what_is_in_place_is_not_downloaded(
    fetch: Run, workspace: Workspace, publishers: Path, server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "programs" / "bsdtar").unlink()
    assert fetch("data", "prepare", "ucf101", "--from", publishers / "data" / "ucf101" / "UCF-101").code == 4
    done = fetch("fetch", "ucf101", "--accept-license", "--from", f"{server.url}/")
    assert done.code == 0, done.err
    assert [where for _, where, _ in server.requests] == ["/UCF101TrainTestSplits-RecognitionTask.zip"]
    assert (workspace.data / "ucf101" / "UCF-101").is_symlink()


def test_a_damaged_clip_is_left_and_named(fetch: Run, workspace: Workspace, publishers: Path) -> None:
    shutil.copytree(publishers / "data" / "hmdb51", workspace.data / "hmdb51")
    clip = next((workspace.data / "hmdb51" / "hmdb51_org" / "golf").glob("Swing*_0.avi"))
    clip.write_bytes(b"broken")
    done = fetch("fetch", "hmdb51")
    assert done.code == 4
    assert f"1 of 24 clips are missing or do not decode, such as hmdb51_org/golf/{clip.name}" in done.err
    assert "repro data audit hmdb51" in done.err


def test_an_own_row_needs_its_backbone_alone(fetch: Run, publishers: Path, tmp_path: Path) -> None:
    clips = publishers / "data" / "hmdb51" / "hmdb51_org"
    lines = [f"{path},{number % 2}" for number, path in enumerate(sorted(clips.rglob("*.avi")))]
    (tmp_path / "my clips.csv").write_text("\n".join(["path,label", *lines]))
    assert fetch("data", "new", "my clips.csv").code == 0
    done = fetch("fetch", "my clips_row.yaml")
    assert done.code == 4
    assert "svd_xt: svd_xt.safetensors (60 kB)" in done.out
    assert "repro fetch 'my clips_row.yaml' --accept-license" in done.err
    done = fetch("run", "my clips_row.yaml")
    assert done.code == 4
    assert done.err.splitlines()[1].split("  ")[1:3] == ["checkpoint svd_xt", "60 kB"]


def test_a_row_that_cannot_run_lists_what_it_is_missing(fetch: Run, workspace: Workspace) -> None:
    done = fetch("ak_full")
    lines = done.err.splitlines()
    assert done.code == 4
    assert [line.split()[:2] for line in lines] == [
        ["missing", "in"], ["data", "animal_kingdom"], ["checkpoint", "svd_xt"], ["repro:", "row"],
    ]  # fmt: skip
    assert lines[0] == f"missing in {workspace.data} and {workspace.checkpoints}:"
    assert "about 15.6 GB  on request from the owners; not redistributable" in lines[1]
    assert lines[1].endswith("  repro fetch animal_kingdom")
    assert lines[-1] == "repro: row ak_full cannot run; to get these: repro fetch ak_full --accept-license"
    found = json.loads(fetch("ak_full", "--json").out)["error"]
    assert found["exit_code"] == 4
    assert [one["what"] for one in found["missing"]] == ["data animal_kingdom", "checkpoint svd_xt"]
    assert f"no AR_metadata.xlsx and no video in {workspace.data}/animal_kingdom" in found["missing"][0]["remedy"]
    assert all(one["size"] and one["licence"] and one["licence_url"] and one["command"] for one in found["missing"])
    # Rows that share a file list it once, and many rows are fetched by what they need.
    done = fetch("run", "all")
    assert len(done.err.splitlines()) == 9
    assert "repro: 24 rows (ak_full, ak_full_videomaev2, ak_full_vjepa, ...) cannot run; to get these: " in done.err
    assert "repro fetch animal_kingdom svd_xt videomaev2 vjepa charades_ego ucf101 hmdb51 --accept-license" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ak_ful"], "unknown row or asset 'ak_ful'; did you mean 'ak_full'?"),
        (["nonsense"], "unknown row or asset 'nonsense' (`repro fetch` lists the assets"),
        (["smoke"], "smoke is part of the smoke job: run `repro smoke`"),
        (["no_such.yaml"], "no_such.yaml: no such file"),
        (["ucf_hmdb", "--from", "file.rar"], "3 things are to be fetched: name a folder that has all their files"),
        (["--no-prepare"], "--from and --no-prepare need the name"),
    ],
)
def test_a_mistake_is_one_line(fetch: Run, words: list[str], said: str) -> None:
    done = fetch("fetch", *words)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
