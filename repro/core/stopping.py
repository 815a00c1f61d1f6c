"""Signals that end a command with a message, as Ctrl-C does: those of schedulers, of a closed terminal and of a CPU limit."""

import signal
from types import FrameType

SCHEDULER_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""What batch systems send before they kill a job: SIGTERM by default, SIGUSR1 or SIGUSR2 if a job asks for a warning. Each
would end the process without a word."""
STOP_SIGNALS = frozenset({signal.SIGINT, *SCHEDULER_SIGNALS})
_arrived: list[KeyboardInterrupt] = []


class StoppedError(KeyboardInterrupt):
    """A scheduler's signal arrived. Handled wherever an interruption is.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


def raise_on_signals() -> None:
    """Raise StoppedError in the main thread when a scheduler's signal arrives. For a process of the command alone."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise_interrupted)
    for number in SCHEDULER_SIGNALS:
        # nohup ignores SIGHUP, on purpose.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise_stopped)


def find_interruption(error: BaseException) -> BaseException:
    """Return the interruption that arrived before `error`, or else `error` itself.

    A library that is being imported may take an interruption for a missing package of its own, as torch does, and fail later of that.
    """
    return _arrived[0] if _arrived else error


def _raise_interrupted(_number: int, _frame: FrameType | None) -> None:
    _arrived.append(KeyboardInterrupt())
    raise _arrived[-1]


def _raise_stopped(number: int, _frame: FrameType | None) -> None:
    # Schedulers may repeat a signal: the first one ends the command, and clearing up takes a moment.
    for other in SCHEDULER_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    _arrived.append(StoppedError(number))
    raise _arrived[-1]
