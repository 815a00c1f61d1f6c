"""Measuring on a GPU: rows that are printed and kept in a JSON file, deadlines, timing with events, memory, deviation."""

import json
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class OutOfTimeError(BaseException):
    """A deadline has passed. Not an Exception, so that no library in between catches it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the block once `seconds` have passed."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass
class Report:
    """Prints rows as they come, and keeps them in a JSON file."""

    device: torch.device
    tiny: bool
    json: Path | None
    started: float = field(default_factory=time.monotonic)
    section: str = ""
    rate: float | None = None
    """TFLOP/s of the bf16 matrix product; the column `share` is relative to it."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def row(self, name: str, *, tflop: float | None = None, timed: "Timed | None" = None, **more: Any) -> None:
        """Print and keep one measurement; `more` are further columns, printed by name."""
        row: dict[str, Any] = {"section": self.section, "name": name, "at_s": round(self.elapsed(), 1)}
        if timed is not None:
            row |= {
                "seconds": timed.median,
                "least_s": min(timed.all),
                "most_s": max(timed.all),
                "runs": len(timed.all),
            }
        if tflop is not None:
            row["tflop"] = tflop
            if timed is not None:
                row["tflop_per_s"] = tflop / timed.median
                if self.rate:
                    row["share"] = tflop / timed.median / self.rate
        row |= more
        self.rows.append(row)
        columns = (_short(row.get(key)) for key in ("tflop", "seconds", "tflop_per_s", "share"))
        rest = ", ".join(f"{key} {_short(value)}" for key, value in more.items())
        print(f"| {self.section} | {name} | {' | '.join(columns)} | {rest} |", flush=True)
        self.write()

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Record a failure in the block instead of raising it. Deadlines pass through."""
        try:
            yield
        except Exception as error:
            traceback.print_exc(limit=-4)
            self.row(name, failed=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        finally:
            if self.cuda:
                torch.cuda.empty_cache()

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def write(self) -> None:
        if self.json is not None:
            self.json.write_text(json.dumps({"machine": self.machine, "rows": self.rows}, indent=1) + "\n")


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


@dataclass
class Timed:
    all: list[float]
    """Seconds of each run."""
    first: float
    """Seconds of the warm-up, which selects kernels and compiles."""
    result: Any = None
    """What the warm-up returned."""

    @property
    def median(self) -> float:
        return statistics.median(self.all)


def measure(report: Report, work: Callable[[], object], seconds: float = 2.0, most: int = 9, least: int = 2) -> Timed:
    """Time `work` after a warm-up: at least `least` runs, up to `most` while they fit into `seconds`; one run if `report.tiny`.

    On a GPU with events, which the device itself records, so that launching ahead of it is part of what is measured.
    """
    if report.tiny:
        seconds, most, least = 0.0, 1, 1
    started = time.perf_counter()
    result = work()
    synchronise(report)
    first = time.perf_counter() - started
    runs: list[float] = []
    while len(runs) < least or (sum(runs) + runs[-1] < seconds and len(runs) < most):
        if report.cuda:
            before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            before.record()
            work()
            after.record()
            after.synchronize()
            runs.append(before.elapsed_time(after) / 1000)
        else:
            started = time.perf_counter()
            work()
            runs.append(time.perf_counter() - started)
    return Timed(runs, first, result)


def synchronise(report: Report) -> None:
    if report.cuda:
        torch.cuda.synchronize()


def reset_peak_memory(report: Report) -> None:
    if report.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory(report: Report) -> dict[str, float]:
    """Return the peak of allocated memory since the reset in GB, weights included; empty on a CPU."""
    return {"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if report.cuda else {}


def measure_deviation(values: Tensor, exact: Tensor) -> float:
    """Return the relative L2 distance of `values` to `exact`; inf if a value is not finite."""
    if not torch.isfinite(values).all():
        return float("inf")
    return float((values.double() - exact.double()).norm() / exact.double().norm())


def photographs(count: int, start: int = 0) -> np.ndarray:
    """Return uint8 frames `[count, 240, 320, 3]`, UCF101's size: a window that moves over a photograph."""
    picture = load_sample_images().images[start % 2]
    height, width = (side - size for side, size in zip(picture.shape, (240, 320), strict=False))
    places = [((2 * n + start) % height, (3 * n + 7 * start) % width) for n in range(count)]
    return np.stack([picture[top : top + 240, left : left + 320] for top, left in places])


def randomise(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Fill a weight in place: scales near 1, biases near 0, positions small, others of unit gain."""
    tensor.normal_(generator=generator)
    if name.endswith("bias"):
        tensor.mul_(0.05)
    elif "pos" in name:
        tensor.mul_(0.02)
    elif tensor.ndim == 1 and not name.endswith("mix_factor"):
        tensor.mul_(0.1).add_(1)
    elif tensor.ndim > 1:
        tensor.mul_(tensor[0].numel() ** -0.5)


def count_tflop(work: Callable[[], object]) -> float:
    """Count the TFLOP of `work` on the meta device, 2 FLOP per multiply-add. Attention is counted as the products it consists of."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops() / 1e12
