"""Text from others cannot drive the terminal or forge a line of this tool's."""

import io
import re
import time
from contextlib import AbstractContextManager
from typing import Any

import pytest
from rich.cells import cell_len
from rich.table import Table

from repro.__main__ import run
from repro.cli import app
from repro.cli.options import follow_work
from repro.core.console import LiveView, OutputConsole, Reporter, draw_work, escape_text, print_line
from repro.core.errors import UsageError
from repro.core.progress.stages import Measures, Part, Work
from repro.core.progress.statuses import read_statuses
from repro.core.workspace import Workspace

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


def follow(reporter: Reporter, workspace: Workspace) -> AbstractContextManager[Work]:
    return follow_work(reporter, "run x", workspace, "cpu")


class Screen(OutputConsole):
    """A terminal that keeps what is written to it."""

    def __init__(self, width: int = 80, height: int = 24, **settings: Any) -> None:
        super().__init__(soft_wrap=True)
        self.shown = self.file = io.StringIO()
        self._force_terminal, self.is_interactive = True, True
        self._environ = {"TERM": "xterm", "COLUMNS": str(width), "LINES": str(height)}
        self.width, self.height = width, height


def long_work() -> Work:
    work = Work("run all")
    for number in range(24):
        work.expect(
            [("extract", f"data set {number} {HOSTILE}"), ("readout", f"row {number}, 5 seeds")], f"row{number}"
        )
    for stage in work.stages[:10]:
        stage.state = "done"
    stage = work.start("extract", f"data set 5 {HOSTILE}")
    measured = Measures(1234, 3, {"decoded windows": 0.12, "features": 0.85})
    stage.part = Part(f"compute {HOSTILE}", 4000, "clips", measure=lambda: measured)
    stage.part.done = 1200
    return work


@pytest.mark.parametrize("width", [200, 80, 60, 41, 33, 5])
@pytest.mark.parametrize("plain", [True, False])
def test_a_panel_fits_the_terminal(width: int, plain: bool) -> None:
    lines = [line.plain for line in draw_work(long_work(), width - 1, 12, plain=plain)]
    assert len(lines) <= 12
    assert all(cell_len(line) < width and line.isprintable() for line in lines)
    assert lines[0].startswith("run all: 10 of 48 stages"[: width - 2])
    if width > 40:
        text = " ".join(line.strip() for line in lines)
        for part in (
            "running  extract",
            "1,200 of 4,000",
            "3 failed",
            "12% for decoded",
            "to come",
        ):
            assert part in text
    if width >= 80:
        assert lines[-1].endswith("and 41 other stages")
    assert not plain or all("\u2501" not in line for line in lines)
    assert len(draw_work(long_work(), width - 1, 3, plain=plain)) == 3


def test_a_panel_leaves_the_terminal_as_it_was(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.core.console.REFRESH", 0.01)
    reporter = Reporter()
    reporter.console = screen = Screen()

    def interrupt() -> None:
        with follow(reporter, workspace), reporter.progress("extract", 2):
            reporter.line("between the frames")
            while "running" not in screen.shown.getvalue():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    shown = screen.shown.getvalue()
    assert "\x1b[?25l" not in shown  # a killed process could not show the cursor again
    assert shown.rstrip("\r\n").endswith("\x1b[2K")  # the last frame is erased
    assert LiveView.on_terminal is None
    assert [one.state for one in read_statuses(workspace.status)] == ["interrupted"]


def test_off_a_terminal_lines_have_times(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.core.console.REFRESH", 0.01)
    monkeypatch.setattr("repro.core.console.LOG_INTERVAL", 0.02)
    reporter = Reporter()
    with follow(reporter, workspace) as work:
        reporter.line("a line")
        reporter.warn("careful")
        with reporter.run_stage("extract", HOSTILE), reporter.progress("compute", 5, unit="clips") as advance:
            advance("")
            time.sleep(0.2)
        work.failure = "4 of 5 clips failed"
    reporter.line("a result")
    out, err = capsys.readouterr()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ "
    first, *progress, last = out.splitlines()
    assert re.fullmatch(f"{stamp}a line", first)
    assert re.fullmatch(f"{stamp}warning: careful\n", err)
    assert last == "a result"
    assert 1 <= len(progress) < 12
    assert all(
        re.fullmatch(rf"{stamp}extract     {re.escape(ESCAPED)}; compute 1 of 5 clips", line) for line in progress
    )
    (status,) = read_statuses(workspace.status)
    assert (status.state, status.message, status.warnings) == ("failed", "4 of 5 clips failed", 1)


def test_a_status_that_cannot_be_written_costs_one_warning(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.root.mkdir(parents=True, exist_ok=True)
    workspace.status.write_text("a file")
    with follow(Reporter(), workspace) as work:
        for number in range(3):
            work.start("extract", str(number)).state = "done"
    assert capsys.readouterr().err.count("status file not written") == 1
