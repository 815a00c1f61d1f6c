"""From a table of labelled clips to an answer in two commands: the example, as its README runs it, and what may go wrong."""

import csv
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from builders.commands import ROOT, run_repro

from repro.core.console import format_csv
from repro.core.workspace import Workspace
from repro.records.record import find_runs
from repro.table.own import load_own_row

EXAMPLE = ROOT / "examples" / "own-videos"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's clips, and its table."""
    spec = importlib.util.spec_from_file_location("render_clips", EXAMPLE / "render_clips.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table: Path = module.render_clips(tmp_path_factory.mktemp("example") / "my clips")
    return table.parent


@pytest.mark.usefixtures("one_thread")
def test_the_example(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clips.parent)
    commands = re.findall(r"^    repro (.*)$", (EXAMPLE / "README.md").read_text().replace("clips/", "my clips/"), re.M)
    new, run, predict = [re.split(r" (?!clips)", command) for command in commands]
    place = {"REPRO_WORKSPACE": str(tmp_path / "workspace"), "REPRO_DEVICE": "cpu"}
    done = run_repro(*new, env=place)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("16 clips of 2 classes, one label; 30% to test on, by group, seed 0: 12 train, 4 test\n")
    row = clips / "labels_row.yaml"
    raw = yaml.safe_load(row.read_text())
    row.write_text(yaml.safe_dump(raw | {"readout": raw["readout"] | {"epochs": 2, "layers": 1}}))

    done = run_repro(*run, env=place)
    assert (done.code, done.err) == (0, "")
    assert "best epoch on held-out clips" in done.out
    assert re.search(r"[0-4] of 4 test clips are right; 95 % interval of so few clips: \d+ to \d+ %\n", done.out)
    assert re.search(r"  walk +[0-2] of 2 test clips\n", done.out)
    (stored,) = find_runs(Workspace(tmp_path / "workspace").runs)
    record = stored.load_record()
    assert record is not None
    assert (record.kind, record.protocol, record.classes) == ("own", "held-out", ("jump", "walk"))
    assert (record.train.clips, record.test.clips, record.recipe.epochs) == (12, 4, 2)

    done = run_repro("scores", row, env=place)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{record.row}: recall by class, 4 test clips of ")
    assert re.search(r"^held-out +top1 \d+\.\d\d, best epoch on held-out clips; .*\nlast epoch ", done.out, re.M)
    assert "--by viewpoint: own_" in run_repro("scores", row, "--by", "viewpoint", env=place).err

    (tmp_path / "broken.mp4").write_bytes(b"no video")
    videos = [clips / "walk 0-0.mp4", clips / "jump 1-1.mp4", tmp_path / "broken.mp4"]
    table = tmp_path / "scores.csv"
    assert predict[0] == "predict"
    words = ["predict", row, *videos, "--csv", table, "--per-window"]
    done = run_repro(*words, env=place)
    assert done.code == 4
    assert done.err.endswith("1 of 3 videos could not be scored: each is named above\n")
    lines = list(csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines()))
    assert [line["path"] for line in lines] == [str(v) for v in (videos[0], videos[0], videos[1], videos[1], videos[2])]
    assert (lines[1]["start_s"], lines[1]["end_s"]) == ("0.00", "4.00")  # 40 frames at 10 a second are one window
    for line in lines[:4]:
        assert float(line["jump"]) + float(line["walk"]) == pytest.approx(1, abs=1e-5)
        assert line["predicted"] == max(("jump", "walk"), key=lambda name: float(line[name]))
    assert "not a video" in lines[4]["error"]
    assert "the file exists: name another one" in run_repro(*words, env=place).err
    done = run_repro("predict", row, clips, "--json", env=place)
    assert done.code == 0
    assert sum(str(path) in done.out for path in clips.glob("*.mp4")) == 16
    assert ", as their suffix (.csv, .yaml)" in done.err

    done = run_repro("check", "--json", env=place)
    assert done.code == 5
    assert [one["row"] for one in json.loads(done.out)["own_rows_not_judged"]] == [record.row]
    done = run_repro("report", env=place)
    assert (done.code, f"{record.row}: own clips: name its row file" in done.err) == (5, True)
    done = run_repro("data", "audit", clips / "labels.yaml", "--workers", "1", env=place)
    assert "16 of 16 clips decode" in done.out
    assert run_repro("plan", row, env=place).code == 0
    done = run_repro("extract", clips / "labels.yaml", "--backbone", "mean_colour", env=place)
    assert "reused all 16" in done.out
    done = run_repro("extract", clips / "labels.yaml" / "test", "--backbone", "mean_colour", env=place)
    assert re.search(r"reused all [1-9]\b", done.out)
    done = run_repro("extract", clips / "labels.yaml" / "tset", "--backbone", "mean_colour", env=place)
    assert (done.code, "tset" in done.err, done.err.count("\n")) == (2, True, 1)


def test_clips_that_cannot_be_read_are_counted_and_named(clips: Path, tmp_path: Path) -> None:
    lines = (clips / "labels.csv").read_text().splitlines()
    text = "\n".join([lines[0], *(f"{clips}/{line}" for line in lines[1:])])
    (tmp_path / "my.csv").write_text(text.replace("walk 0-", "gone 0-"))
    place = {"REPRO_WORKSPACE": str(tmp_path / "workspace"), "REPRO_DEVICE": "cpu"}
    done = run_repro("data", "new", tmp_path / "my.csv", "--backbone", "mean_colour", env=place)
    assert done.code == 0
    assert re.search(r"2 of 16 videos cannot be read: .*gone 0-0.mp4: no such file .*my.csv:2\), and 1 more", done.out)
    done = run_repro(tmp_path / "my_row.yaml", env=place)
    assert done.code == 4
    assert re.search(
        r"2 of \d+ clips are missing: .*gone 0-0.mp4: no such file \(listed in my.csv:2\); .*csv:3\): correct", done.err
    )
    (tmp_path / "gone.mp4").write_bytes(b"no video")
    (tmp_path / "my.csv").write_text(text.replace(f"{clips}/walk 0-0.mp4", "gone.mp4"))
    done = run_repro("run", tmp_path / "my_row.yaml", env=place)
    assert done.code == 4
    assert "1 of 16 clips could not be read (gone.mp4)" in done.err
    # Other groups hold out other clips: the run gets another key.
    before = load_own_row(tmp_path / "my_row.yaml")
    (tmp_path / "my.csv").write_text(text.replace("individual 0", "individual zero"))
    after = load_own_row(tmp_path / "my_row.yaml")
    assert (before.name, before.dataset.splits) == (after.name, after.dataset.splits)
    assert before.own_identity != after.own_identity


def test_files_are_not_overwritten_and_rows_are_checked(clips: Path, tmp_path: Path) -> None:
    table = clips / "labels.csv"
    out = tmp_path / "mine.yaml"
    done = run_repro("data", "new", table, "-o", out, "--json", "--backbone", "vjepa_tiny")
    assert json.loads(done.out)["row"] == str(tmp_path / "mine_row.yaml")
    assert f"{out} exists: edit it, or name another file" in run_repro("data", "new", table, "-o", out).err
    assert "expected a name that ends in .yaml" in run_repro("data", "new", table, "-o", tmp_path / "x.csv").err
    row = tmp_path / "mine_row.yaml"
    raw = yaml.safe_load(row.read_text())
    for change, message in (
        ({"readout": {"heads": 7}}, "readout.heads: 7: vjepa_tiny has features of 96 channels, which 7 heads do not divide"),
        ({"readout": {"epoch": 3}}, "unknown key 'readout.epoch'; did you mean 'epochs'?"),
        ({"data": "other.yaml"}, "other.yaml: no such file: expected a config"),
        ({"features": {"layer": 99}}, "layer 99 does not exist"),
        ({"backbone": "svdxt"}, "unknown backbone 'svdxt'"),
    ):  # fmt: skip
        row.write_text(yaml.safe_dump(raw | change))
        done = run_repro("plan", row)
        assert done.code == 2
        assert message in done.err
        assert done.err.count("\n") == 1
    assert "no such file: expected a config" in run_repro("run", tmp_path / "nothing.yaml").err
    # The three files of own clips are easily confused: each command names the one that it expects.
    row.write_text(yaml.safe_dump(raw))
    for words, message in (
        (("run", out), "mine.yaml: the file of the clips; expected the row file"),
        (("data", "status", row), "mine_row.yaml: a row file; expected the file of the clips, which it names as data: mine.yaml"),
        (("plan", table), f"{table}: a table of clips, expected a row: `repro data new {table}` writes a row file"),
    ):  # fmt: skip
        done = run_repro(*words)
        assert (done.code, message in done.err, done.err.count("\n")) == (2, True, 1)


def test_a_cell_is_no_formula() -> None:
    cells = ["=1+1", "+1", "-1", "@x", "＝1", "walk", "0.5", -0.5, "\x1b[0m", "\t=1"]
    assert format_csv([cells]) == "'=1+1,'+1,'-1,'@x,'＝1,walk,0.5,-0.5,\\x1b[0m,\\t=1\r\n"
