"""What the user sees: a line per stage, warnings, and progress bars on a terminal.

With --json all of it goes to stderr, so that stdout has the JSON alone.
"""

import csv
import io
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

DESCRIPTION = 24
"""Characters of a bar's description that are shown."""
LOG_INTERVAL = 10.0
"""Seconds between progress lines where there is no terminal for a bar."""


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


def format_csv(rows: Iterable[Iterable[object]]) -> str:
    """Format a table for spreadsheet programs.

    No cell is taken for a formula: names of files and classes come from others.
    """
    text = io.StringIO()
    lines = csv.writer(text)
    for row in rows:
        cells = [value if isinstance(value, int | float) else escape_text(str(value or "")) for value in row]
        # The wide forms too, which some spreadsheet programs read as the others.
        risky = tuple("=+-@＝＋－＠")
        lines.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(risky) else cell for cell in cells])
    return text.getvalue()


def print_line(text: str = "", *, to_stderr: bool = False, flush: bool = False) -> None:
    """Print one line, escaped (see `escape_text`)."""
    print(escape_text(text), file=sys.stderr if to_stderr else sys.stdout, flush=flush)


def wrap_words(text: str, width: int, indent: int = 0) -> list[str]:
    """Divide a line between words, at most `width` columns wide; later lines are indented by `indent`, as the first, or by two."""
    later = " " * (indent or max(2, len(text) - len(text.lstrip())))
    # Long words stay whole: a path or a content key is copied from the terminal.
    return textwrap.wrap(text, width, subsequent_indent=later, break_long_words=False, break_on_hyphens=False) or [""]


def terminal_width(*, of_stderr: bool = False) -> int | None:
    """Return the columns of the terminal that stdout or stderr is; None if it is none."""
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


def format_size(count: int) -> str:
    """Format a number of bytes, as in 9.56 GB (decimal units)."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{count} bytes"


class _AmountColumn(ProgressColumn):
    """How much of a task is done: bytes and their speed, or a number of items."""

    def render(self, task: Task) -> Text:
        if task.fields["unit"] != "bytes":
            return Text(f"{task.completed:.0f}/{task.total:.0f}")
        total = "?" if task.total is None else format_size(round(task.total))
        speed = f" {format_size(round(task.speed))}/s" if task.speed else ""
        return Text(f"{format_size(round(task.completed))} of {total}{speed}")


class _RemainingColumn(TimeRemainingColumn):
    """Time left of a bar; nothing for the steps of a command, which take unequal times."""

    def render(self, task: Task) -> Text:
        return Text() if task.fields["unit"] == "steps" else super().render(task)


class Reporter:
    """Prints what a run does, one line per stage.

    Args:
        to_stderr: Print to stderr instead of stdout. Warnings always go to stderr.
    """

    def __init__(self, to_stderr: bool = False) -> None:
        self.to_stderr = to_stderr
        self.console = OutputConsole(stderr=to_stderr, soft_wrap=True)
        self._bars: Progress | None = None
        """The display of `steps`, while its block runs."""

    def line(self, text: str) -> None:
        self._print(self.console, text, indent=12)

    def warn(self, text: str) -> None:
        self._print(OutputConsole(stderr=True, soft_wrap=True), f"warning: {text}")

    @staticmethod
    def _print(console: OutputConsole, text: str, indent: int = 0) -> None:
        text = escape_text(text)
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
    def steps(self, total: int) -> Iterator[Callable[[str], None]]:
        """Show the bars of a command of `total` steps in one display. The yielded function announces each step."""
        number = 0

        def announce(what: str) -> None:
            nonlocal number
            number += 1
            self.line(f"[{number}/{total}] {what}")
            if self._bars is not None:
                self._bars.update(overall, description=f"step {number} of {total}", completed=number - 1)

        with self._open_bars() if self.console.is_terminal and total else nullcontext() as self._bars:
            overall = TaskID(0) if self._bars is None else self._bars.add_task("", total=total, note="", unit="steps")
            try:
                yield announce
            finally:
                self._bars = None

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[str], None]]:
        """Yield a function to call after each of `total` steps, with a note on the work so far."""
        if self.console.is_terminal and total:
            with self._open_bar(what, total, "items") as (bars, task):
                yield lambda note: bars.update(task, advance=1, note=escape_text(note))
        else:
            yield self._log_steps(what, total)

    @contextmanager
    def transfer(self, what: str) -> Iterator[Callable[[int, int | None], None]]:
        """Yield a function to call with the number of bytes transferred so far, and the total or None if it is unknown."""
        if self.console.is_terminal:
            with self._open_bar(what, None, "bytes") as (bars, task):
                yield lambda done, total: bars.update(task, completed=done, total=total)
        else:
            yield self._log_transfer(what)

    @contextmanager
    def _open_bar(self, what: str, total: int | None, unit: str) -> Iterator[tuple[Progress, TaskID]]:
        """Show a bar while the block runs, in the display of `steps` if there is one."""
        with self._open_bars() if self._bars is None else nullcontext(self._bars) as bars:
            # A long name would leave no room for the rest of the line.
            task = bars.add_task(escape_text(what)[:DESCRIPTION].ljust(11), total=total, note="", unit=unit)
            try:
                yield bars, task
            finally:
                bars.remove_task(task)

    def _open_bars(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            _AmountColumn(),
            _RemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
        )

    def _log_transfer(self, what: str) -> Callable[[int, int | None], None]:
        last = time.monotonic()

        def update(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last > LOG_INTERVAL:
                last = time.monotonic()
                self.line(f"{what}: {format_size(done)}" + (f" of {format_size(total)}" if total else ""))

        return update

    def _log_steps(self, what: str, total: int) -> Callable[[str], None]:
        done = 0
        started = last = time.monotonic()

        def advance(note: str) -> None:
            nonlocal done, last
            done += 1
            now = time.monotonic()
            if now - last > LOG_INTERVAL:
                last = now
                left = (now - started) / done * (total - done)
                self.line(f"{what:<11} {done} of {total}, {format_duration(left)} left" + (f", {note}" if note else ""))

        return advance


class QuietReporter(Reporter):
    """Prints warnings only: for stages whose progress the caller reports."""

    def line(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[str], None]]:
        yield lambda note: None


def format_duration(seconds: float) -> str:
    """Format a duration, as in 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
