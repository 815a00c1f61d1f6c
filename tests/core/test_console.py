"""Text from others cannot drive the terminal or forge a line of this tool's."""

import io

import pytest
from rich.table import Table

from repro.__main__ import run
from repro.cli import app
from repro.core.console import OutputConsole, Reporter, escape_text, print_line
from repro.core.errors import UsageError

HOSTILE = "nl_\nwarning: clip x: fine\x1b[31m\x9b2J\r\u202e\udc80.mp4"
ESCAPED = r"nl_\nwarning: clip x: fine\x1b[31m\x9b2J\r\u202e\udc80.mp4"


def test_control_characters_become_visible() -> None:
    assert escape_text(HOSTILE) == ESCAPED
    for text in ("caf\u00e9 \u6f22\u5b57\u3000\U0001f600 [bold] :smile: \\n", ""):
        assert escape_text(text) == text


def test_the_reporter_escapes_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.line(f"clip {HOSTILE} [bold] :smile:")
    reporter.warn(HOSTILE)
    reporter.stage("features", total=1, reused=0, made="extracted", why=HOSTILE)
    with reporter.progress("extract", 1) as advance:
        advance(HOSTILE)
    print_line(HOSTILE)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"clip {ESCAPED} [bold] :smile:",
        f"features    1 extracted ({ESCAPED})",
        ESCAPED,
    ]
    assert err.splitlines() == [f"warning: {ESCAPED}"]


def test_a_progress_bar_escapes_its_note() -> None:
    reporter = Reporter()
    terminal = OutputConsole()
    terminal.file, terminal._force_terminal = io.StringIO(), True
    reporter.console = terminal
    with reporter.progress("extract", 2) as advance:
        advance(f"{HOSTILE} [/not markup]")
    assert "\x9b" not in terminal.file.getvalue()


def test_a_table_escapes_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(box=None)
    table.add_column("name")
    table.add_row("a\x1b[31m\x9b.mp4")
    OutputConsole(width=80).print(table)
    assert r"a\x1b[31m\x9b.mp4" in capsys.readouterr().out


def test_a_traceback_is_escaped_and_indented(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        raise LookupError(HOSTILE)

    monkeypatch.setattr(app, "dispatch", fail)
    assert run(["list"]) == 3
    *trace, last = capsys.readouterr().err.splitlines()
    assert last == "repro: internal error (see above): this is a bug, please report it"
    assert trace[0] == "  Traceback (most recent call last):"
    assert trace[-2:] == ["  LookupError: nl_", "  " + ESCAPED.partition(r"\n")[2]]
    assert all(line.startswith("  ") for line in trace)


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(arguments: list[str]) -> int:
        raise UsageError(HOSTILE)

    monkeypatch.setattr(app, "dispatch", fail)
    assert run(["list"]) == 2
    assert capsys.readouterr().err == f"repro: {ESCAPED}\n"


@pytest.mark.parametrize(
    ("total", "reused", "failed", "said"),
    [
        (0, 0, 3, "none extracted, 3 failed"),
        (2, 2, 1, "2 reused, 1 failed"),
        (2, 0, 1, "2 extracted, 1 failed"),
        (2, 2, 0, "reused all 2, nothing they depend on has changed"),
    ],
)
def test_a_stage_with_failures_does_not_claim_that_all_is_well(
    total: int, reused: int, failed: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Reporter().stage("features", total=total, reused=reused, made="extracted", failed=failed)
    assert capsys.readouterr().out == f"features    {said}\n"
