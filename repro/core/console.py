"""What a person sees: stage lines and warnings always, progress bars on a terminal only. All of it on stderr or the
console given, so that --json leaves stdout to the JSON alone."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console


class OutputConsole(Console):
    """A console whose closed pipe is an error like any other, not an exit code of its own."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def open_table_console(piped_width: int) -> OutputConsole:
    """Return a console for tables on stdout. A pipe has no width to fit into: its lines get `piped_width` columns."""
    console = OutputConsole(highlight=False)
    return console if console.is_terminal else OutputConsole(highlight=False, width=piped_width)


def format_size(count: int) -> str:
    """Bytes to read, as 9.56 GB."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{count} bytes"


class Reporter:
    """Prints what a run does, a line a stage."""

    def __init__(self, to_stderr: bool = False) -> None:
        self.to_stderr = to_stderr
        self.console = OutputConsole(stderr=to_stderr, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        OutputConsole(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {text}", markup=False)

    def stage(self, name: str, *, total: int, reused: int, made: str, where: Path | None = None, why: str = "") -> None:
        """One line that says whether a stage ran or was reused, and why."""
        fresh = total - reused
        if fresh == 0:
            text = f"reused all {total}, nothing they depend on has changed"
        elif reused:
            text = f"{fresh} {made}, {reused} reused"
        else:
            text = f"{fresh} {made}"
        if why:
            text += f" ({why})"
        self.line(f"{name:<11} {text}" + (f"  {where}" if where else ""))

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[str], None]]:
        """Yield a function to call after each of `total` steps, with what is to be said of the work so far."""
        if self.console.is_terminal and total:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            with Progress(
                TextColumn("{task.description:<11}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            ) as bar:
                task = bar.add_task(what, total=total, note="")
                yield lambda note: bar.update(task, advance=1, note=note)
        else:
            yield self._logged(what, total)

    @contextmanager
    def transfer(self, what: str) -> Iterator[Callable[[int, int | None], None]]:
        """Yield a function to tell how many bytes have come so far, and of how many where that is known."""
        if self.console.is_terminal:
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            with Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            ) as bar:
                task = bar.add_task(what, total=None)
                yield lambda done, total: bar.update(task, completed=done, total=total)
        else:
            yield self._logged_transfer(what)

    def _logged_transfer(self, what: str) -> Callable[[int, int | None], None]:
        last = time.monotonic()

        def at(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last > 10:
                last = time.monotonic()
                self.line(f"{what}: {format_size(done)}" + (f" of {format_size(total)}" if total else ""))

        return at

    def _logged(self, what: str, total: int) -> Callable[[str], None]:
        """Where there is no terminal: a plain line every ten seconds."""
        done = 0
        begun = last = time.monotonic()

        def advance(note: str) -> None:
            nonlocal done, last
            done += 1
            now = time.monotonic()
            if now - last > 10:
                last = now
                left = (now - begun) / done * (total - done)
                self.line(f"{what:<11} {done} of {total}, {format_duration(left)} left" + (f", {note}" if note else ""))

        return advance


class QuietReporter(Reporter):
    """Passes on warnings alone: for one of many stages, whose progress is another's to tell."""

    def line(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[str], None]]:
        yield lambda note: None


def format_duration(seconds: float) -> str:
    """A length of time as a person says it: 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
