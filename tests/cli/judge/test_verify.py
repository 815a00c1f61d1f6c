"""`repro verify BACKBONE`: every precision against fp32, and which of them is recommended."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.commands import schemas

from repro.backbones.config import Precision
from repro.backbones.family import Comparison
from repro.backbones.vit.family import VjepaFamily
from repro.cli import app as cli
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.workspace import Workspace


@pytest.fixture
def words(workspace: Workspace) -> list[str]:
    return ["verify", "vjepa_tiny", "--device", "cpu", "--workspace", str(workspace.root)]


@pytest.mark.slow
def test_each_precision_is_compared_on_the_pictures_of_a_video(
    words: list[str], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for pictures in ([], ["--video", str(clip)]):
        assert cli.dispatch([*words, "--json", *pictures]) in (0, Exit.OK)
        printed = json.loads(capsys.readouterr().out)
        schemas().check_output("verify", printed)
        rows = {row["what"]: row for row in printed["comparisons"]}
        assert "the same as fp32" in rows["tf32"]["skipped"]
        assert 0 < rows["fp16"]["usual_relative_l2"] < 3e-3 < rows["bf16"]["worst_relative_l2"] * 4
        assert rows["fp16"]["usual_relative_l2"] <= rows["fp16"]["worst_relative_l2"]
        assert printed["fastest"] in ("fp32", "fp16", "bf16")
        found[bool(pictures)] = rows["fp16"]["usual_relative_l2"]
    assert found[True] != found[False]


def precision(name: Precision, usual: float, seconds: float) -> Comparison:
    return Comparison(name, "fp32", 2 * usual, "layer01", seconds, None, name, usual, fp32_seconds=4.0)


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ([precision("published", 1e-3, 2.0), precision("fast", 2e-3, 1.0)], "fast (1.00 s, fp32 4.00 s)"),
        ([precision("published", 1e-3, 2.0), precision("fast", 3e-3, 1.0)], "published (2.00 s, fp32 4.00 s)"),
        ([precision("published", 1e-3, 5.0), precision("fast", float("inf"), 1.0)], "fp32 (4.00 s)"),
        ([precision("bf16", float("nan"), 1.0)], "fp32 (4.00 s)"),
    ],
)
def test_the_fastest_precision_that_stays_near_fp32_is_named(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    found: list[Comparison],
    named: str,
) -> None:
    def compare_ways(*_: object) -> Iterator[Comparison]:
        yield from found

    monkeypatch.setattr(VjepaFamily, "compare_ways", compare_ways)
    cli.dispatch(words)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if line.startswith(("what ", "published ", "fast ", "bf16 "))) <= 80
    assert lines[-1] == f"fastest precision within 0.003 of fp32 at final: {named}"


def test_a_mistake_is_named_without_a_table(
    words: list[str], workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"golden folder .*none: no such folder"):
        cli.dispatch([*words, "--golden", str(tmp_path / "none")])
    assert not workspace.smoke.exists()
    with pytest.raises(UsageError, match=r"--video .*none.mp4: no such file"):
        cli.dispatch([*words, "--video", str(tmp_path / "none.mp4")])
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MissingError, match=r"clip .*text.mp4: not a video"):
        cli.dispatch([*words, "--video", str(tmp_path / "text.mp4")])
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(MissingError, match=r"checkpoint .*text.pth: "):
        cli.dispatch([*words, "--checkpoint", str(tmp_path / "text.pth")])
    assert capsys.readouterr().out == ""
    # Random weights are generated when they are needed.
    assert (workspace.smoke / "vjepa_tiny.safetensors").is_file()
