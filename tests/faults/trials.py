"""A trial: a stage, a fault at a random moment, the same command again, and what must be true afterwards."""

import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from faults.machine import Process, Settings
from faults.stages import LIMIT, STAGES, Lab, describe_contents

ORPHANS_END = 10.0
"""Seconds that workers have to notice that their parent is gone."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the table's file."""

    stage: str
    fault: str
    struck: bool
    """False if the command ended before."""
    codes: tuple[int | None, ...]
    """Of the disturbed processes; minus the signal that ended one."""
    message: str
    """The last line that the disturbed command printed to stderr."""
    problems: tuple[str, ...]
    """What was wrong; empty if all was well."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, when, and what the command may do then."""

    name: str
    settings: Callable[[Lab, str, random.Random], Settings] = field(default=lambda lab, stage, draws: Settings())
    """How the disturbed processes are started."""
    strike: Callable[[Lab, str, list[Process], random.Random], bool] = field(default=lambda *_: True)
    """Does harm while they run; returns whether it met them running."""
    lift: Callable[[Lab], None] = field(default=lambda lab: None)
    """Ends what would also disturb the next command."""
    place: Callable[[Lab, str, random.Random], AbstractContextManager[object]] = field(default=lambda *_: nullcontext())
    """What the workspace is on, from its beginning to its comparison."""
    codes: frozenset[int] = frozenset({0})
    """Allowed exit codes of the disturbed processes."""
    says: tuple[str, ...] = ()
    """One of these is printed by a process that failed with a code above 1."""
    warns: str = ""
    """Printed by a process that ended well nevertheless."""
    times: int = 1
    """How often the stage is started and disturbed, each time where the one before left it, until it runs to its end."""
    stages: tuple[str, ...] = ()
    """Stages that it concerns; empty: all."""


def try_fault(lab: Lab, stage: str, fault: Fault, draws: random.Random) -> Outcome:
    """Disturb a stage once; then run it again and compare."""
    lab.undisturbed(stage)
    problems: list[str] = []
    with fault.place(lab, stage, draws):
        lab.begin(stage)
        started: list[Process] = []
        struck = False
        for _ in range(fault.times):
            now = lab.start(stage, fault.settings(lab, stage, draws))
            struck = fault.strike(lab, stage, now, draws) or struck
            for process in now:
                if process.wait(LIMIT) is None:
                    problems.append(f"hangs for {LIMIT:g} s")
                    process.signal(signal.SIGKILL, group=True)
                    process.wait(LIMIT)
            fault.lift(lab)
            done = STAGES[stage].done
            problems += [
                problem
                for process in now
                if not (done and done in process.errors)
                for problem in _judge_end(process, fault)
            ]
            problems += _find_orphans(now)
            started += now
        again = lab.run(stage)
        for process in again:
            if STAGES[stage].done and process.code == 2 and STAGES[stage].done in process.errors:
                continue
            if process.code not in (0, *([1] if STAGES[stage].commands == (("check",),) else [])):
                problems.append(f"run again: exit code {process.code}: {process.errors[-300:].strip()}")
            elif "Traceback" in process.errors:
                problems.append(f"run again: a traceback: {process.errors[-300:].strip()}")
        problems += _find_orphans(again)
        if not problems:
            problems += compare_contents(lab.expected[stage], describe_contents(lab.place))
    printed = [line for p in started for line in (p.errors or p.output).strip().splitlines()[-1:] if p.code]
    message = (printed or [""])[0].replace(str(lab.folder), "")
    return Outcome(stage, fault.name, struck, tuple(p.code for p in started), message, tuple(problems))


def try_eight_processes(lab: Lab) -> Outcome:
    """Run a row twice at once, with six other commands on the same workspace; then all of it one after the other, and compare."""
    lab.undisturbed("row, all clips")
    lab.begin("row")
    words = (
        *STAGES["row"].commands, *STAGES["row"].commands, *STAGES["shards"].commands, *STAGES["audit"].commands,
        ("check",), ("report",), ("verify", "--store"),
    )  # fmt: skip
    started = [lab.start_command(command) for command in words]
    problems = []
    for command, process in zip(words, started, strict=True):
        # The second of two rows is refused; nothing may be recorded or stored yet when the others look.
        if process.wait(LIMIT) not in (0, 1, 2, 4, 5) or "Traceback" in process.errors:
            problems.append(f"{' '.join(command)}: exit code {process.code}: {process.errors[-300:].strip()}")
    problems += [
        f"run again: exit code {p.code}: {p.errors[-300:]}"
        for p in (*lab.run("row"), *lab.run("row, all clips"))
        if p.code
    ]
    if not problems:
        found = compare_contents(lab.expected["row, all clips"], describe_contents(lab.place))
        problems += [
            one for one in found if one not in ("orphan file: reports/report.html", "orphan file: report.html")
        ]
    return Outcome("row", "eight processes on one workspace", True, tuple(p.code for p in started), "", tuple(problems))


def _judge_end(process: Process, fault: Fault) -> Iterable[str]:
    if process.code not in fault.codes:
        yield f"exit code {process.code}: {process.errors[-400:].strip()}"
    elif process.code == 0 and fault.warns not in process.errors:
        yield f"no warning: {process.errors[-300:].strip()}"
    elif process.code is not None and process.code > 1:
        lines = process.errors.strip().splitlines()
        # An audit prints its findings, of a clip that could not be read too, as its result.
        said = (process.errors + process.output).lower()
        if "Traceback" in process.errors:
            yield f"a traceback: {process.errors[-300:].strip()}"
        elif not process.output and not (lines and lines[-1].startswith("repro: ")):
            yield f"its last line is no message: {lines[-1:]}"
        elif fault.says and not any(word in said for word in fault.says):
            yield f"the message does not say what happened: {said[-300:]}"


def _find_orphans(started: Iterable[Process]) -> list[str]:
    end = time.monotonic() + ORPHANS_END
    members = [pid for process in started for pid in process.members()]
    while members and time.monotonic() < end:
        time.sleep(0.05)
        members = [pid for process in started for pid in process.members()]
    return [f"{len(members)} processes are left"] if members else []


def compare_contents(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return what differs between an undisturbed workspace and a disturbed one that was finished."""
    return [
        *(f"missing: {name}" for name in sorted({*expected} - {*found})),
        *(f"orphan file: {name}" for name in sorted({*found} - {*expected})),
        *(f"other contents: {name}" for name in sorted(expected) if found.get(name, expected[name]) != expected[name]),
    ]
