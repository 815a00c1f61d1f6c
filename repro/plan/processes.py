"""Several devices of one machine: a process for each, which computes a part of the clips. Imports no torch."""

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, cast

from repro.core.console import Reporter

TIME_TO_END = 30.0
"""Seconds that interrupted processes have to finish what they write."""


@dataclass(frozen=True, slots=True)
class EndedProcess:
    """How a process ended."""

    code: int
    """Its exit code; negative for the signal that killed it."""
    output: str
    """What it printed to stdout."""


def run_processes(commands: Mapping[str, Sequence[str]], reporter: Reporter) -> dict[str, EndedProcess]:
    """Run `repro` with the arguments of every command at the same time, and wait for all.

    If this process is interrupted, so are they; if it is killed, they end at the next line that they print, as nobody reads it.

    Args:
        commands: Arguments by name.
        reporter: Where their lines are reported, each with the name of the process.
    """
    running = {
        name: subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "repro", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        )
        for name, words in commands.items()
    }  # fmt: skip
    output: dict[str, str] = {}

    def report_lines(name: str) -> None:
        with cast(IO[str], running[name].stderr) as stderr:
            for line in stderr:
                reporter.line(f"{name:<11} {line.rstrip()}")

    def keep_output(name: str) -> None:
        with cast(IO[str], running[name].stdout) as stdout:
            output[name] = stdout.read()

    # A thread for each pipe: a process whose pipe is full would wait, and one after the other could not be read.
    readers = [threading.Thread(target=read, args=(name,)) for name in running for read in (report_lines, keep_output)]
    for reader in readers:
        reader.start()
    try:
        for process in running.values():
            process.wait()
    except BaseException:
        for process in running.values():
            # First SIGTERM, on which a process finishes what it is writing.
            process.terminate()
        for process in running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(TIME_TO_END)
            process.kill()
        raise
    finally:
        for reader in readers:
            reader.join()
    return {name: EndedProcess(process.returncode, output[name]) for name, process in running.items()}
