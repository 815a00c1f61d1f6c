"""`repro data` as a person types it: lines, JSON, exit codes; a mistake is one line."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from builders import tiny_datasets as tiny_data
from builders.commands import require_described, run_repro
from builders.shipped import use_shipped
from builders.videos import write_with_picture

from repro.__main__ import run
from repro.core.config import configs_folder
from repro.core.workspace import Workspace


@pytest.fixture
def repro(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run a command line on configs that carry the tiny data sets' counts."""
    configs = tmp_path / "configs"
    shutil.copytree(configs_folder(), configs)
    for name, make in tiny_data.MAKERS.items():
        counts = make(tmp_path / "elsewhere" / name, films=name == "hmdb51").splits
        path = configs / "datasets" / f"{name}.yaml"
        raw = yaml.safe_load(path.read_text())
        raw["splits"] = {split: {"clips": facts.clips} for split, facts in counts.items()}
        path.write_text(yaml.safe_dump(raw))
    use_shipped(monkeypatch, configs=configs)
    monkeypatch.setenv("REPRO_WORKSPACE", str(workspace.root))

    def command(*words: object) -> SimpleNamespace:
        capsys.readouterr()
        code = run([str(word) for word in words])
        printed = capsys.readouterr()
        require_described([str(word) for word in words], printed.out)
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return command


def test_from_nothing_to_an_audit(repro, workspace: Workspace, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = repro("data", "status")
    assert done.code == 0
    assert [line.split(":")[0] for line in done.out.splitlines() if line and not line.startswith(" ")] == sorted(
        tiny_data.MAKERS
    )
    assert repro("data", "prepare", "hmdb51", "--json").code == 4

    done = repro("data", "prepare", "hmdb51", "--from", tmp_path / "elsewhere" / "hmdb51")
    assert done.code == 0
    assert f"hmdb51_org                   link to {tmp_path}/elsewhere/hmdb51/hmdb51_org" in done.out
    assert "full                         24       24       24" in done.out

    done = repro("data", "audit", "hmdb51", "--workers", "2", "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert (report["clips"], report["frames"], report["faults"]) == (24, 216, {})
    assert report["splits"]["full"] == {"listed": 24, "expected": 24, "decode": 24}
    assert report["still_pictures"] == []
    status = json.loads(repro("data", "status", "hmdb51", "--json").out)
    assert status[0]["audit"] == {"sha256": report["sha256"], "clips": 24, "faults": 0, "of_these_files": True}
    assert status[0]["ready"] is True
    assert status[0]["official_metric"] == "top1"
    assert "24 of 24 clips decode, 216 frames; 0 decoded now, 24 reused" in repro("data", "audit", "hmdb51").out


def test_a_fault_ends_in_4_and_is_found_by_diff(repro, workspace: Workspace, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    repro("data", "prepare", "hmdb51", "--from", tmp_path / "elsewhere" / "hmdb51")
    repro("data", "audit", "hmdb51", "--workers", "1")
    manifest = workspace.audits / "hmdb51" / "manifest.parquet"
    theirs = shutil.copy(manifest, tmp_path / "theirs.parquet")
    clip = next((tmp_path / "elsewhere" / "hmdb51" / "hmdb51_org" / "golf").glob("Swing*_0.avi"))
    clip.write_bytes(b"broken")
    done = repro("data", "audit", "hmdb51")
    assert done.code == 4
    assert f"{clip.stem}: " in done.out
    assert "23 of 24 clips decode" in done.out
    done = repro("data", "diff", theirs, manifest)
    assert done.code == 1
    assert done.out.splitlines()[-1] == "hmdb51: 24 and 24 clips, 1 differ"
    assert f"{clip.stem}: frames 9 -> 0" in done.out
    report = json.loads(repro("data", "diff", theirs, manifest, "--json").out)
    assert {one["clip"] for one in report["differences"]} == {clip.stem}
    done = repro("data", "diff", manifest, manifest)
    assert (done.code, done.out) == (0, "hmdb51: 24 and 24 clips, 0 differ\n")
    clip.unlink()
    status = repro("data", "status", "hmdb51")
    assert status.code == 0
    assert f"missing: {workspace.data}/hmdb51/hmdb51_org/golf/{clip.name}: no such file" in status.out
    assert repro("data", "prepare", "hmdb51", "--json").code == 4


def test_a_still_picture_in_place_of_the_video_is_named_and_no_fault(  # type: ignore[no-untyped-def]
    repro, workspace: Workspace
) -> None:
    tiny_data.hmdb51(workspace.data / "hmdb51")
    clip = next((workspace.data / "hmdb51" / "hmdb51_org").rglob("*.avi"))
    # FFmpeg goes by a file's contents, not by its suffix.
    write_with_picture(clip.with_suffix(".mov"), attached=False).rename(clip)
    done = repro("data", "audit", "hmdb51", "--workers", "1")
    assert done.code == 0
    assert f"{clip.stem}: a still picture is read in place of a video" in done.out
    report = json.loads(repro("data", "audit", "hmdb51", "--workers", "1", "--json").out)
    assert (report["faults"], report["decoded"]) == ({}, 0)  # from the journal
    assert [name.rpartition("/")[2] for name in report["still_pictures"]] == [clip.stem]


def test_status_says_what_is_wrong_and_goes_on(repro, workspace: Workspace, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(tmp_path / "elsewhere", workspace.data)
    (workspace.data / "ucf101" / "ucfTrainTestlist" / "testlist01.txt").write_text("nonsense\n")
    path = workspace.data / "charades_ego" / "CharadesEgo" / "CharadesEgo_v1_test_only1st.csv"
    path.write_text(tiny_data.charades_csv(tiny_data.charades_rows("test", "first")[:1]))
    done = repro("data", "status")
    assert done.code == 0
    assert "problem: " in done.out
    assert "testlist01.txt:1: 'nonsense'" in done.out
    assert "problem: charades_ego/first_test: its files list 1 clips, expected 2" in done.out
    assert "missing: all 10 clips (run `repro data prepare animal_kingdom`" in done.out
    statuses = {one["dataset"]: one for one in json.loads(repro("data", "status", "--json").out)}
    assert len(statuses["animal_kingdom"]["missing"]) == 10
    assert statuses["animal_kingdom"]["splits"]["full_test"]["classes_without_clips"][:3] == [0, 1, 2]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["data", "status", "kinetics"], 2, "unknown dataset 'kinetics'"),
        (
            ["data", "status", "smoke"],
            2,
            "smoke: generated, not a data set that users bring; those are: animal_kingdom, ",
        ),
        (["data", "prepare", "smoke"], 2, "smoke: generated, not a data set that users bring"),
        (["data", "prepare", "ucf101", "--from", "/no/such"], 2, "--from /no/such: no such file or folder"),
        (["data", "prepare", "ucf101"], 4, "pass the archive or folder with --from"),
        (["data", "audit", "ucf101"], 4, "data ucf101: no ucfTrainTestlist in"),
        (["data", "audit", "ucf101", "--workers", "0"], 2, "--workers 0: expected a number from 1 to 1024"),
        (["data", "diff", "/no/a", "/no/b"], 2, "/no/a: no such file"),
        (["data", "diff", "/no/a"], 2, "B is missing (see `repro data diff --help`)"),
        (["data", "bring"], 2, "bring"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    done = run_repro(*words, env={"REPRO_WORKSPACE": str(tmp_path / "workspace")}, cwd=tmp_path)
    assert done.code == code
    assert said in done.err
    assert done.err.startswith("repro: ")
    assert done.err.count("\n") == 1


def test_a_tiny_data_set_is_not_taken_for_the_real_one(tmp_path: Path) -> None:
    """The shipped configs' counts hold for everybody who runs the command."""
    tiny_data.hmdb51(tmp_path / "data" / "hmdb51", films=False)
    done = run_repro("data", "status", "hmdb51", "--workspace", tmp_path)
    assert "problem: hmdb51/train: its files list 12 clips, expected 840" in done.out
    assert run_repro("data", "audit", "hmdb51", "--workspace", tmp_path).code == 4
