"""Rule sets: which are refused, and that they judge the configs that they pin."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders.records import record

from repro.core.errors import Exit, UsageError
from repro.judge import verdict as judge
from repro.judge.expected import rows_with_expected, table_path
from repro.judge.outcome import Outcome

ROWS = rows_with_expected(table_path())


@pytest.mark.parametrize(
    "edited", ["rows/ucf_hmdb_sdv2", "backbones/sdv2", "backbones/svd_xt", "datasets/hmdb51", "datasets/ucf101"]
)
def test_an_edited_config_is_not_the_row(edited: str, tmp_path: Path) -> None:
    """Of the row, its backbone, what that extends, or the data: no verdict, and none on rows that do not read it."""
    shutil.copytree(table_path().parent, tmp_path / "rules")
    pins = tmp_path / "rules/configs.sha256"
    pins.write_text(
        re.sub(rf"[0-9a-f]{{64}}  configs/{edited}.yaml", f"{'0' * 64}  configs/{edited}.yaml", pins.read_text())
    )
    rows = rows_with_expected(table_path(str(tmp_path / "rules")))
    runs = [
        *(record("ucf_hmdb_sdv2", 39 + n, 0.5 + 0.001 * n) for n in range(5)),
        *(record("ak_full_vjepa", 52 + n, 0.7) for n in range(5)),
    ]
    verdicts = {v.expected.row: v for v in judge.judge_rows(rows, runs)[0]}
    judged = verdicts["ucf_hmdb_sdv2"]
    assert (judged.outcome, judged.by_number) == (Outcome.EDITED, Outcome.LOWER)
    assert f"R14 not as rules pins it: configs/{edited}.yaml" in judged.reason
    assert judge.exit_code([judged], strict=False) is Exit.OK
    assert judge.exit_code([judged], strict=True) is Exit.JUDGED_DIFFERENT
    assert verdicts["ak_full_vjepa"].outcome is Outcome.OTHER_WEIGHTS
    assert judged.expected.rules.split(" ")[0] == "rules"
    assert judged.expected.rules != ROWS["ucf_hmdb_sdv2"][1].rules


def test_the_pins_are_those_of_the_shipped_configs() -> None:
    written = subprocess.run(
        [sys.executable, "-c", "import pin_configs, sys; sys.stdout.write(pin_configs.format_pins())"],
        cwd=Path(__file__).parents[2] / "scripts", capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ).stdout  # fmt: skip
    assert written == table_path().with_name("configs.sha256").read_text()
    assert all(line.edited == () for _, line in ROWS.values())


@pytest.mark.parametrize("rules", ["2", "/nowhere"])
def test_a_rule_set_that_does_not_exist_is_refused(rules: str) -> None:
    with pytest.raises(UsageError, match=rf"--rules {rules}: no results.csv in .*; shipped rule sets: 1"):
        table_path(rules)


@pytest.mark.parametrize(("pins", "said"), [(None, "cannot be read"), ("abc  configs/x.yaml", ":1: expected a sha256")])
def test_a_rule_set_without_pins_is_refused(tmp_path: Path, pins: str | None, said: str) -> None:
    shutil.copy(table_path(), tmp_path)
    if pins is not None:
        (tmp_path / "configs.sha256").write_text(pins)
    with pytest.raises(UsageError, match=f"configs.sha256.*{said}"):
        rows_with_expected(table_path(str(tmp_path)))


def test_a_table_that_lacks_a_row_is_refused(tmp_path: Path) -> None:
    """Else leaving a line out would hide a verdict."""
    lines = [line for line in table_path().read_text().splitlines() if not line.startswith("ak_full_sdv2,")]
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match="row 'ak_full_sdv2' of configs/rows has no line"):
        rows_with_expected(tmp_path / "results.csv")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",1.0,", ",one,", r"results\.csv:2: margin: 'one'"),
        (",1.0,", ",180,", "expected a number from 0 to 100"),
        (",best cell and epoch on test,", ",best,", "selection: 'best': expected one of best epoch on test"),
        (",reconstructed,", ",guessed,", "status: 'guessed': expected one of documented"),
        (",1.0,", ",-1,", "margin: '-1'"),
        (",1.0,", ",nan,", "margin: 'nan'"),
        (",1.0,", ",", "4 values, expected 5"),
        ("\nak_full_sdv2,", "\nak_full,", "duplicate row 'ak_full'"),
        ("\nak_full,", "\nak_fool,", "row 'ak_fool' is none of configs/rows"),
        ("margin", "margins", "expected the columns"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "results.csv").write_text(table_path().read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=said):
        rows_with_expected(tmp_path / "results.csv")
