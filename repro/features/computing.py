"""Batches of windows computed in order; a GPU is given the next batch before the one before it is read."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from torch.profiler import profile

from repro.backbones.extractor import Launches, Noise, WatchesOverflow, WindowFeatures
from repro.features.windows import ClipEnd, Event, WindowBatch

PROFILED_BATCHES = 4
"""Batches of windows that a profile is of."""


@dataclass(slots=True)
class Waits:
    """Seconds that an extraction spent waiting."""

    decoder: float = 0.0
    """For windows: their decoding and, on a CPU, their noise."""
    device: float = 0.0
    """For features; on a CPU, computing them."""

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            setattr(self, what, getattr(self, what) + perf_counter() - started)


@dataclass(frozen=True, slots=True)
class Computed:
    """A batch of windows with its features."""

    batch: WindowBatch
    noises: Sequence[Noise]
    how: str
    """The extractor's `batch` when they were computed."""
    features: list[WindowFeatures]
    """Of each window; of an extractor that does not launch, whose windows are of one clip, those of all windows together."""
    recomputed: int
    """Pictures that were computed again because they overflowed."""


def compute_batches(
    events: Iterator[tuple[Event, list[Noise]]], ahead: int, waits: Waits
) -> Iterator[Computed | ClipEnd]:
    """Yield batches with their features, and ends of clips, in the order of `events`.

    Args:
        events: What add_noise yields.
        ahead: Number of batches that are launched before the one before them is read.
        waits: The time spent waiting is added to it.
    """
    queue: deque[ClipEnd | Callable[[], Computed]] = deque()
    unread = 0
    while True:
        with waits.measure("decoder"):
            event, noises = next(events, (None, []))
        if isinstance(event, WindowBatch):
            with waits.measure("device"):
                queue.append(_launch(event, noises))
            unread += 1
        elif event is not None:
            queue.append(event)
        while queue and (unread > ahead or event is None or isinstance(queue[0], ClipEnd)):
            first = queue.popleft()
            if isinstance(first, ClipEnd):
                yield first
                continue
            unread -= 1
            with waits.measure("device"):
                computed = first()
            yield computed
            del computed, first  # their frames would stay in memory while the next window is decoded
        if event is None:
            return
        del event, noises


def _launch(batch: WindowBatch, noises: Sequence[Noise]) -> Callable[[], Computed]:
    """Start computing a batch; returns a function that waits for it."""
    extractor, frames = batch.extractor, [window.frames for window in batch.windows]

    def count_recomputed() -> int:
        return extractor.recomputed_frames if isinstance(extractor, WatchesOverflow) else 0

    before = count_recomputed()
    if isinstance(extractor, Launches):
        wait = extractor.launch(frames, noises)
    else:
        found = [extractor.features(frames, noises)]
        wait = lambda: found  # noqa: E731
    # Counted in both steps: without a GPU everything is computed at the launch, else when it is read.
    launched, how = count_recomputed() - before, extractor.batch

    def finish() -> Computed:
        before = count_recomputed()
        features = wait()
        return Computed(batch, noises, how, features, launched + count_recomputed() - before)

    return finish


def profile_first(computed: Iterator[Computed | ClipEnd], file: Path | None) -> Iterator[Computed | ClipEnd]:
    """Yield what `computed` yields; write a trace of the first PROFILED_BATCHES batches to `file`, if there is none yet.

    The trace is for chrome://tracing and Perfetto. It begins with what happens once: first kernels and their selection.
    """
    if file is None or file.exists():
        yield from computed
        return
    batches = 0
    with profile() as profiler:
        for event in computed:
            yield event
            batches += isinstance(event, Computed)
            # A trace of every batch would be larger than the features.
            if batches == PROFILED_BATCHES:
                break
    profiler.export_chrome_trace(str(file))
    yield from computed
