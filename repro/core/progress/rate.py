"""Measured speed of work, and the time left at that speed."""

import threading
from collections import deque

FEWEST_MARKS = 5
"""Observations before a speed is stated. The first is of work that was done while decoders started and first kernels were chosen."""
SHORTEST_SPAN = 5.0
"""Seconds that they must span."""
HORIZON = 600.0
"""Seconds of the past that count: a machine that others use as well changes its speed."""
SPACING = 0.5
"""Seconds between observations that are kept."""
STALLED_AFTER = 2.0
"""Usual times between observations after which work counts as stalled, and its speed falls."""


class RateMeter:
    """Speed of work in the last minutes, observed as it is done. Another thread may read while one observes."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()
        """Times, and the amount that was done by then; both increase."""
        self._lock = threading.Lock()

    def observe(self, amount: float, at: float) -> None:
        """Note that `amount` in total is done at the time `at` (seconds). A repeated amount is not an observation."""
        with self._lock:
            marks = self._marks
            if marks and amount <= marks[-1][1]:
                return
            # The first one is the start of what is measured.
            if len(marks) > 1 and at - marks[-2][0] < SPACING:
                marks.pop()
            marks.append((at, amount))
            while len(marks) > FEWEST_MARKS and at - marks[1][0] > HORIZON:
                marks.popleft()

    def measure_rate(self, now: float) -> float | None:
        """Return the amount per second; None before enough is observed."""
        with self._lock:
            found = self._measure(now)
        return None if found is None else found[0]

    def estimate_left(self, total: float, now: float) -> float | None:
        """Return the seconds until `total` is done, at the measured speed; None before enough is observed."""
        with self._lock:
            found = self._measure(now)
            if found is None:
                return None
            rate, gap = found
            at, amount = self._marks[-1]
            # What runs now has been running for a while, and is assumed to be no longer than usual.
            return max(0.0, (total - amount) / rate - min(now - at, gap))

    def _measure(self, now: float) -> tuple[float, float] | None:
        """Return the speed, and the mean time between observations."""
        if len(self._marks) < FEWEST_MARKS:
            return None
        (start, before), (end, done) = self._marks[0], self._marks[-1]
        if end - start < SHORTEST_SPAN:
            return None
        gap = (end - start) / (len(self._marks) - 1)
        # Waiting counts as time once it is longer than usual, so that the speed of stalled work falls.
        stalled = max(0.0, now - end - STALLED_AFTER * gap)
        return (done - before) / (end - start + stalled), gap
