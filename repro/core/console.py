"""What the user sees: a line per stage, warnings, and on a terminal a panel with the stages of long work.

With --json all of it goes to stderr, so that stdout has the JSON alone.
"""

import csv
import io
import re
import shutil
import sys
import textwrap
import threading
import time
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

from rich.cells import cell_len, chop_cells
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from repro.core.disk import format_size
from repro.core.errors import ReproError, hide_logins
from repro.core.progress.stages import (
    Measures,
    Part,
    Snapshot,
    Stage,
    StageName,
    StageState,
    Work,
    WorkObserver,
    utc_now,
)
from repro.core.stopping import find_interruption

DESCRIPTION = 24
"""Columns of the name of a stage's part in a panel."""
REFRESH = 1.0
"""Seconds between two frames on a terminal."""
PANEL_WIDTH = 80
"""Columns that a panel takes at most: a terminal that is made narrower, but no narrower than this, breaks none of its lines."""
SHOWN_STAGES = 7
"""Stages that a panel lists at most."""
BAR = 20
"""Columns of a bar."""
LEAST_WORDS = 36
"""Columns that words next to a bar take at least."""
INDENT = " " * 11
"""Of the lines below a stage's own, in a panel."""
STYLES: dict[StageState, str] = {
    "to come": "dim",
    "running": "bold",
    "done": "green",
    "failed": "red",
    "interrupted": "red",
    "skipped": "dim",
}
LONGEST_LOG_INTERVAL = 600.0
"""Seconds between progress lines of a stage that takes hours."""
LOG_INTERVAL = 10.0
"""Seconds between progress lines where there is no terminal for a panel, at first."""


def escape_text(text: str, keep: str = "") -> str:
    r"""Make text from others printable: control characters, line breaks and bytes that are not UTF-8 become \x1b, \n, \udc80.

    File names, tensor names, fields of records and answers of servers may hold anything. Printed as they are, they could
    move the cursor, recolour the terminal, or begin a line of their own that reads like one of this tool's.

    Args:
        text: The text.
        keep: Characters that are printed as they are, such as line breaks of this tool's own.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def shorten_middle(text: str, width: int) -> str:
    """Escape text and fit it into `width` columns of a terminal: its middle becomes an ellipsis, and short text is padded.

    The ends of names differ as often as their beginnings.
    """
    text = escape_text(text)
    if cell_len(text) > width:
        # Cut by columns: East Asian characters take two.
        head = chop_cells(text, (width - 1) // 2)[0]
        tail = chop_cells(text[::-1], width - 1 - cell_len(head))[0][::-1]
        text = f"{head}…{tail}"
    return text + " " * (width - cell_len(text))


# The wide forms too, which some spreadsheet programs read as the others; and after a semicolon, which ends a cell where the comma is
# the decimal sign.
_FORMULA = re.compile(r'((?:^|;)["\s]*)(?=\'*[=+\-@＝＋－＠])')
_QUOTED_FORMULA = re.compile(r'((?:^|;)["\s]*)\'(?=\'*[=+\-@＝＋－＠])')


def format_csv(rows: Iterable[Iterable[object]], end: str = "\r\n") -> str:
    """Format a table for spreadsheet programs.

    No cell is taken for a formula, since names of files and classes come from others; numbers stay as they are.

    Args:
        rows: The cells of each line.
        end: What ends a line.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows([_format_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _format_cell(value: object) -> object:
    # Real: NumPy's numbers as well.
    return value if isinstance(value, Real) else quote_formulas(escape_text(str(value or "")))


def quote_formulas(cell: str) -> str:
    """Put a ' before what a spreadsheet program would take for a formula; `unquote_formulas` removes it."""
    return _FORMULA.sub(r"\1'", cell)


def unquote_formulas(cell: str) -> str:
    """Return the cell that `quote_formulas` was given."""
    return _QUOTED_FORMULA.sub(r"\1", cell)


def print_line(text: str = "", *, to_stderr: bool = False, flush: bool = False) -> None:
    """Print one line, escaped (see `escape_text`)."""
    print(escape_text(text), file=sys.stderr if to_stderr else sys.stdout, flush=flush)


def wrap_words(text: str, width: int, indent: int = 0) -> list[str]:
    """Wrap a line at `width` columns. Later lines are indented by `indent` [default: as the first, at least 2]."""
    later = " " * (indent or max(2, len(text) - len(text.lstrip())))
    # Long words stay whole: a path or a content key is copied from the terminal.
    return textwrap.wrap(text, width, subsequent_indent=later, break_long_words=False, break_on_hyphens=False) or [""]


def terminal_width(*, of_stderr: bool = False) -> int | None:
    """Return the width in columns if stdout (or stderr) is a terminal, else None."""
    stream = sys.stderr if of_stderr else sys.stdout
    return shutil.get_terminal_size().columns if stream.isatty() else None


def print_sentence(text: str, *, to_stderr: bool = False, indent: int = 0) -> None:
    """Print one line, on a terminal divided between words."""
    width = terminal_width(of_stderr=to_stderr)
    for line in [text] if width is None else wrap_words(escape_text(text), width, indent):
        print_line(line, to_stderr=to_stderr)


def print_lines(lines: Iterable[str], *, to_stderr: bool = False) -> None:
    """Print several lines, each escaped."""
    for line in lines:
        print_line(line, to_stderr=to_stderr)


class OutputConsole(Console):
    """A console that escapes text and raises BrokenPipeError if the output pipe is closed."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False, width: int | None = None) -> None:
        # Without emoji: rich would replace ":smile:" in a file's name by a picture.
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, width=width, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        # Every printed string and every cell of a table passes here. Line breaks are the caller's: `Reporter` escapes its own.
        return super().render_str(escape_text(text, keep="\n"), **options)

    def show_cursor(self, show: bool = True) -> bool:
        # Never hidden: a killed process could not show it again.
        return False

    def on_broken_pipe(self) -> None:
        # rich would exit with code 1, which `repro check` uses for a row judged different.
        raise BrokenPipeError


def format_columns(rows: Sequence[Sequence[str]], right: Container[str] = ()) -> list[str]:
    """Return a line for each row, with its cells in columns, none cut. `right` names columns, by the first row, to align right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(rows[0], row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


class Reporter:
    """Prints what a run does, one line per stage.

    Args:
        to_stderr: Print to stderr instead of stdout. Warnings always go to stderr.
    """

    def __init__(self, to_stderr: bool = False) -> None:
        self.to_stderr = to_stderr
        self.console = OutputConsole(stderr=to_stderr, soft_wrap=True)
        self._view: LiveView | None = None
        """What is shown of the work that runs."""

    def line(self, text: str) -> None:
        """Print one line of progress, escaped."""
        self._print(self.console, text, indent=12)

    def warn(self, text: str) -> None:
        """Print a warning to stderr, and count it in the summary of the work that runs."""
        if self._view is not None:
            self._view.work.warnings += 1
        # On a terminal with a panel, all that is printed goes through its console, which draws the panel again below.
        shown = LiveView.on_terminal if sys.stderr.isatty() else None
        self._print(OutputConsole(stderr=True, soft_wrap=True) if shown is None else shown, f"warning: {text}")

    def _print(self, console: OutputConsole, text: str, indent: int = 0) -> None:
        text = escape_text(text)
        if self._view is not None and self._view.is_log:
            text = f"{utc_now()} {text}"
        for line in wrap_words(text, console.width, indent) if console.is_terminal else [text]:
            # Without markup: rich would take the brackets of a path or of a list for a style.
            console.print(line, markup=False)

    def stage(
        self,
        name: str,
        *,
        total: int,
        reused: int,
        made: str,
        where: Path | None = None,
        why: str = "",
        failed: int = 0,
    ) -> None:
        """Print whether a stage ran or was reused.

        Args:
            name: The stage.
            total: Number of items.
            reused: How many of them existed already.
            made: What happened to the others, such as "extracted".
            where: Folder or file with the result.
            why: Why any of them were not reused.
            failed: Number of further items that are not part of `total`, because they failed.
        """
        fresh = total - reused
        if total == 0:
            text = f"none {made}"
        elif fresh == 0 and failed:
            text = f"{total} reused"
        elif fresh == 0:
            text = f"reused all {total}, nothing they depend on has changed"
        elif reused:
            text = f"{fresh} {made}, {reused} reused"
        else:
            text = f"{fresh} {made}"
        if failed:
            text += f", {failed} failed"
        if why:
            text += f" ({why})"
        self.line(f"{name:<11} {text}" + (f"  {where}" if where else ""))

    @contextmanager
    def follow(self, work: Work, observer: WorkObserver) -> Iterator[Work]:
        """Show the stages of long work while the block runs, and keep `observer` informed.

        A terminal shows all stages below the printed lines. Elsewhere lines have times, and the stage that runs is printed from time
        to time.

        If the block sets the `failure` of the yielded work, it ends as failed.
        """
        with self._show(LiveView(work, self, observer)) as view:
            state, message = "failed", ""
            try:
                yield work
                state, message = ("failed" if work.failure else "done"), work.failure
            except BaseException as error:
                if isinstance(find_interruption(error), KeyboardInterrupt):
                    state = "interrupted"
                else:
                    message = hide_logins(str(error)) if isinstance(error, ReproError) else type(error).__name__
                raise
            finally:
                observer.end(state, message)
                view.warn_of_status()

    @contextmanager
    def steps(self, total: int) -> Iterator[Callable[[str], None]]:
        """Show the steps of a command in one display. The yielded function announces each step."""
        number, work = 0, Work("")

        def announce(what: str) -> None:
            nonlocal number
            number += 1
            work.what = f"step {number} of {total}"
            self.line(f"[{number}/{total}] {what}")

        with self._show(LiveView(work, self)):
            yield announce

    def expect(self, *stages: StageName, group: str = "") -> None:
        """Announce the stages to come of the work that is followed; `group` names those of one row."""
        if self._view is not None:
            self._view.work.expect(stages, group)

    def skip(self, group: str) -> None:
        """Give up the stages of a group that are still to come."""
        if self._view is not None:
            self._view.work.skip(group)

    @contextmanager
    def run_stage(self, name: str, about: str = "") -> Iterator[Stage]:
        """Show a stage as running while the block runs. Inside another stage, the block is a part of that stage."""
        with self._show(LiveView(Work(""), self)) if self._view is None else nullcontext(self._view) as view:
            running = view.work.running
            if running is not None:
                yield running
                return
            stage = view.work.start(name, about)
            try:
                yield stage
                stage.state = "done"
            except BaseException as error:
                stage.state = "interrupted" if isinstance(find_interruption(error), KeyboardInterrupt) else "failed"
                raise
            finally:
                stage.ended = time.monotonic()
                view.warn_of_status()

    @contextmanager
    def progress(
        self,
        what: str,
        total: int,
        *,
        unit: str = "",
        sizes: Sequence[float] = (),
        measure: Callable[[], Measures] = Measures,
    ) -> Iterator[Callable[[str], None]]:
        """Yield a function to call after each of `total` items, with a note on the work so far.

        Args:
            what: What is done.
            total: Number of items.
            unit: What an item is, in the plural.
            sizes: Relative work of each item, in order, for the time left [default: all are equal].
            measure: Returns what else is counted. Called from another thread, up to once a second.
        """
        with self.run_part(Part(what, total, unit, sizes, measure)) as part:
            yield part.advance

    @contextmanager
    def transfer(self, what: str) -> Iterator[Callable[[int, int | None], None]]:
        """Yield a function to call with the number of bytes transferred so far, and the total or None if it is unknown."""
        with self.run_part(Part(what, None, "bytes")) as part:
            yield part.reach

    @contextmanager
    def run_part(self, part: Part) -> Iterator[Part]:
        """Show a part of the stage that runs, or a stage of one part if none does."""
        alone = self._view is None or self._view.work.running is None
        with self.run_stage(part.what) as stage:
            if alone:
                part.what = ""
            stage.part = part
            try:
                yield part
            finally:
                stage.end_part(part)

    @contextmanager
    def _show(self, view: "LiveView") -> Iterator["LiveView"]:
        outer, self._view = self._view, view
        try:
            with view:
                yield view
        finally:
            self._view = outer


class QuietReporter(Reporter):
    """Prints warnings only: for stages whose progress the caller reports.

    Args:
        to_stderr: As for Reporter.
        step: Called after each item of any progress.
    """

    def __init__(self, to_stderr: bool = False, step: Callable[[], None] = lambda: None) -> None:
        super().__init__(to_stderr)
        self.step = step

    def line(self, text: str) -> None:
        pass

    @contextmanager
    def run_part(self, part: Part) -> Iterator[Part]:
        yield part

    @contextmanager
    def progress(self, what: str, total: int, **about: Any) -> Iterator[Callable[[str], None]]:
        yield lambda note: self.step()


class LiveView:
    """Shows work while a block runs: on a terminal in a panel below the printed lines, elsewhere in a line from time to time.

    A thread refreshes it, so that it also shows work that has stalled. Leaving the block leaves the terminal as it was.

    Args:
        work: The work.
        reporter: Prints the lines.
        observer: Is kept informed.
    """

    on_terminal: ClassVar[OutputConsole | None] = None
    """The console of the panel that this process shows."""

    def __init__(self, work: Work, reporter: Reporter, observer: WorkObserver | None = None) -> None:
        self.work, self.reporter, self.observer = work, reporter, observer
        self._ended, self._warned = threading.Event(), False
        self._printed = time.monotonic()
        self._thread = threading.Thread(target=self._refresh_until_end, daemon=True)
        self._live: Live | None = None
        console = reporter.console
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._draw,
                console=console,
                auto_refresh=False,
                transient=True,
                # A stream that goes to a file or pipe still does.
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
                vertical_overflow="crop",
            )

    @property
    def is_log(self) -> bool:
        """Whether lines have times: those of a long command, without a terminal that shows a panel."""
        return self.observer is not None and self._live is None

    def __enter__(self) -> "LiveView":
        if self._live is not None:
            self._live.start()
            LiveView.on_terminal = self.reporter.console
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._live is not None:
            LiveView.on_terminal = None
            self._live.stop()

    def warn_of_status(self) -> None:
        """Warn once of a status file that could not be written."""
        if self.observer is not None and self.observer.problem and not self._warned:
            self._warned = True
            self.reporter.warn(f"status file not written: {self.observer.problem}")

    def _refresh_until_end(self) -> None:
        # The first frame comes late: what ends within the interval is printed and not shown.
        while not self._ended.wait(REFRESH):
            with suppress(OSError):  # a terminal or pipe that was closed: the next line that is printed reports it
                if self._live is not None:
                    self._live.refresh()
                else:
                    self._print_if_due()
            if self.observer is not None:
                self.observer.write_if_due()

    def _draw(self) -> Group:
        console = self.reporter.console
        width, height = console.size
        plain = not console.encoding.startswith("utf")
        return Group(*draw_work(self.work, min(width - 1, PANEL_WIDTH), max(3, height - 2), plain=plain))

    def _print_if_due(self) -> None:
        """Print how far the running stage is: often at first, and rarely when it takes hours."""
        now = time.monotonic()
        running = self.work.running
        if running is None:
            return
        wait = min(max(LOG_INTERVAL, running.count_seconds(now) / 10), LONGEST_LOG_INTERVAL)
        if now - self._printed >= wait:
            self._printed = now
            one = running.take_snapshot(now)
            text = f"{one.name:<11} " + "; ".join(filter(None, (one.about, *describe_progress(one))))
            self.reporter.line(text)


def describe_progress(snapshot: Snapshot) -> list[str]:
    """Describe how far a running stage is, what it measures, and the time left, as parts of a sentence."""
    amount = ""
    if snapshot.unit == "bytes":
        amount = format_size(snapshot.done) + ("" if snapshot.total is None else f" of {format_size(snapshot.total)}")
        amount += "" if snapshot.rate is None else f" {format_size(round(snapshot.rate))}/s"
    elif snapshot.total is not None:
        amount = " ".join(filter(None, (f"{snapshot.done:,} of {snapshot.total:,}", snapshot.unit)))
    parts = [" ".join(filter(None, (snapshot.part, amount)))]
    if snapshot.measures.failed:
        parts.append(f"{snapshot.measures.failed} failed")
    if snapshot.seconds_left is not None:
        parts.append(f"about {format_duration(snapshot.seconds_left)} left")
    if snapshot.windows_per_second is not None:
        parts.append(f"{snapshot.windows_per_second:.3g} windows/s")
    if snapshot.measures.waiting:
        shares = [f"{share:.0%} for {what}" for what, share in snapshot.measures.waiting.items()]
        parts.append(f"waiting {', '.join(shares)}")
    return [*filter(None, parts), *filter(None, [snapshot.note])]


def draw_work(work: Work, width: int, height: int, *, plain: bool) -> list[Text]:
    """Return the lines of a panel: a summary, then a line for each stage, with its progress if it is running.

    Args:
        work: The work.
        width: Columns of the longest line.
        height: Most lines.
        plain: Use ASCII alone.
    """
    stages = work.take_snapshots()
    lines = []
    if work.what:
        ended = sum(one.state not in ("to come", "running") for one in stages)
        counts = [f"{ended} of {len(stages)} stages done"] if len(stages) > 1 else []
        counts.append(format_duration(time.monotonic() - work.started))
        failed = sum(one.state == "failed" for one in stages)
        counts += [f"{failed} failed"] if failed else []
        counts += [f"{work.warnings} warning{'s' * (work.warnings > 1)}"] if work.warnings else []
        text = ", ".join(counts)
        what = shorten_middle(work.what, max(LEAST_WORDS, width - len(text) - 2)).rstrip()
        lines.append(Text(f"{what}: {text}", style="bold"))
    running = next((number for number, one in enumerate(stages) if one.state == "running"), len(stages))
    # If there are many stages, those next to the running one.
    first = max(0, min(running - 2, len(stages) - SHOWN_STAGES))
    for one in stages[first : first + SHOWN_STAGES]:
        about = f"  {one.about}" if one.about else ""
        lines.append(Text(f"  {one.state:<8} {one.name:<10}{about}", style=STYLES[one.state]))
        if one.state != "running":
            continue
        words = describe_progress(replace(one, part=shorten_middle(one.part, DESCRIPTION).rstrip()))
        bar = ""
        if one.total:
            full = round(BAR * min(1.0, one.done / one.total))
            bar = ("#" if plain else "━") * full + ("." if plain else "╌") * (BAR - full) + "  "
        if bar and width - len(INDENT) - len(bar) < LEAST_WORDS:  # on a narrow terminal, words stand below the bar
            lines.append(Text(INDENT + bar, style="cyan"))
            bar = ""
        for number, text in enumerate(
            wrap_words(", ".join(words), max(20, width - len(INDENT) - len(bar))) if words else []
        ):
            lines.append(Text.assemble(INDENT, (bar if number == 0 else " " * len(bar), "cyan"), text.strip()))
    if len(stages) > SHOWN_STAGES:
        lines.append(Text(f"  and {len(stages) - SHOWN_STAGES} other stages", style="dim"))
    for line in lines:
        # Names of clips and files come from others.
        line.plain = escape_text(line.plain)
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def format_moment(at: str) -> str:
    """Format an ISO 8601 time in UTC to the minute, as in 2026-01-31 12:05 UTC."""
    return f"{at[:16].replace('T', ' ')} UTC"


def format_duration(seconds: float) -> str:
    """Format a duration, as in 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
