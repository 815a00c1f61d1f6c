"""Timing works in turn, and the ratios of neighbouring runs, so that other users of the machine slow all alike."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Rounds = list[tuple[float, ...]]
"""Seconds of each work, by round."""


def time_call(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that a call takes, until a GPU that this process uses has done it.

    time.process_time as the clock counts what the threads of this process compute, whoever else uses the machine.
    """
    started = clock()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - started


def time_in_turn(
    works: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> Rounds:
    """Time each work once a round, after a round that only warms up."""
    return [tuple(time_call(work, clock) for work in works) for _ in range(repeats + 1)][1:]


def median_seconds(rounds: Rounds) -> list[float]:
    """Return the median of each work."""
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def describe_ratio(rounds: Rounds, over: int = 0, under: int = 1, digits: int = 2) -> str:
    """Return the median of the ratios of two works of a round, with the lowest and the highest."""
    ratios = sorted(times[over] / times[under] for times in rounds)
    median, least, most = (f"{value:.{digits}f}" for value in (statistics.median(ratios), ratios[0], ratios[-1]))
    return f"{median} ({least} to {most})"
