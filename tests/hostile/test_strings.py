"""Texts of others are shown and not obeyed. Class names in tables of scores: tests/judge/scores; pages:
tests/pipeline/test_show.py and tests/report; what a bundle keeps out: tests/pipeline/bundle/test_make.py."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from builders.commands import ROOT, run_repro

from repro.core.console import escape_text, format_csv, quote_formulas, unquote_formulas
from repro.report.page import _cell

FOREIGN = {
    "colours": "\x1b[31mred\x1b[0m", "link": "\x1b]8;;http://x\x1b\\here\x1b]8;;\x1b\\", "title": "\x1b]0;x\x07", "C1": "\x9b31m",
    "bidi": "\u202egnp.exe", "isolates": "\u2066a\u2069", "line": "a\nrepro: all is well", "return": "a\rb", "tab": "a\tb", "null": "a\0b",
    "separator": "a\u2028b", "surrogate": "a\udc80b", "zero width": "a\u200bb",
}  # fmt: skip
FORMULAS = (
    "=1+1",
    " =1",
    "\u00a0-1",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "＝1",
    '=HYPERLINK("http://x")',
    "=cmd|' /C calc'!A0",
)


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_texts_move_no_cursor_and_begin_no_line(text: str, tmp_path: Path) -> None:
    assert escape_text(text).isprintable()
    assert len(_cell(text).splitlines()) == 1
    if "\0" in text:
        return
    done = run_repro("check", "--workspace", tmp_path, "--bundle", text)
    assert done.code == 2
    assert done.err.removesuffix("\n").isprintable()
    (tmp_path / "my.csv").write_text(f"path,label\n{text},a\n", errors="surrogateescape")
    done = run_repro("data", "new", tmp_path / "my.csv")
    assert done.code == 2
    assert done.err.removesuffix("\n").isprintable()


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_of_a_table_is_no_formula(text: str) -> None:
    ((cell,),) = csv.reader(io.StringIO(format_csv([[text]])))
    assert cell.strip()[0] not in "=+-@＝＋－＠\t\r"
    assert format_csv([[-1, np.float32(-0.5), None]]) == "-1,-0.5,\r\n"
    for name in (text, f"'{text}", f"a;{text}", f'a;" {text}', f"'' ;''{text};{text}"):
        assert unquote_formulas(quote_formulas(name)) == name


def test_no_other_code_writes_tables() -> None:
    # own_clips.py writes the one table that is read again.
    writers = {
        path.name
        for path in (ROOT / "repro").rglob("*.py")
        if re.search(r"csv\.\w*[wW]riter|\.to_csv|write_csv", path.read_text())
    }
    assert writers == {"console.py", "own_clips.py"}


def test_a_semicolon_begins_no_cell() -> None:
    # As a spreadsheet program reads the file where the comma is the decimal sign: there quotes within a cell mean nothing.
    for text in ("a;=1+1", 'b";"=1', "c; @x", 'd",";-1'):
        for cells in ([text], ["1,5", text]):
            assert not re.search(r"(^|;)\s*[=+@-]", format_csv([cells]).replace('"', ""))


def test_a_cell_of_markdown_is_text() -> None:
    for text in ("a|b", "<script>x</script>", "![x](http://x)", "[x](javascript:x)"):
        cell = _cell(text)
        assert cell.count("<") == cell.count("\\<")
        assert cell.replace("\\|", "").count("|") == 0


def test_no_message_is_longer_than_a_path(tmp_path: Path) -> None:
    (tmp_path / "row.yaml").write_text(f"data: {'x' * 100_000}.yaml\nbackbone: mean_colour\n")
    done = run_repro("run", tmp_path / "row.yaml", "--workspace", tmp_path)
    assert (done.code, done.err.count("\n"), len(done.err) < 5000) == (2, 1, True)
