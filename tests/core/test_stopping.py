"""A scheduler's signal and refused memory end a command with a message, not without a word or with a traceback."""

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from repro import __main__
from repro.core import stopping
from repro.core.console import Reporter
from repro.core.progress.stages import Stage
from repro.core.stopping import STOP_SIGNALS, StoppedError, raise_on_signals


@pytest.fixture(autouse=True)
def handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    stopping._arrived.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_command_ends_with_a_message(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise_on_signals()

    def work(arguments: list[str]) -> int:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # sent again while the command clears up
        return 0

    monkeypatch.setattr(__main__, "_dispatch", work)
    assert __main__.run([]) == 128 + number
    said = f"repro: interrupted by {number.name}: finished work is kept; run the same command again to resume\n"
    assert capsys.readouterr().err == said
    # Stopped work is stopped as by Ctrl-C, wherever that is handled.
    assert issubclass(StoppedError, KeyboardInterrupt)


def test_an_interruption_that_a_library_hid_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise_on_signals()

    def work(arguments: list[str]) -> int:
        with Reporter(to_stderr=True).run_stage("train") as stage:
            stages.append(stage)
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            raise AttributeError("module 'sympy' has no attribute 'core'")

    stages: list[Stage] = []
    monkeypatch.setattr(__main__, "_dispatch", work)
    assert __main__.run([]) == 130
    assert capsys.readouterr().err.startswith("repro: interrupted: ")
    assert stages[0].state == "interrupted"


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    raise_on_signals()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        RuntimeError("unable to mmap 1985744 bytes from file <x.safetensors>: Cannot allocate memory (12)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
    ],
)
def test_refused_memory_is_no_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(__main__, "_dispatch", work)
    assert __main__.run([]) == 4
    said = capsys.readouterr().err
    assert said.startswith("repro: out of memory: ")
    assert said.count("\n") == 1
