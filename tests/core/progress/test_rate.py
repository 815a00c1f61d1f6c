"""The time left is near the truth on work whose course is known, and absent before enough is measured."""

import random

import pytest

from repro.core.progress.rate import FEWEST_MARKS, HORIZON, SHORTEST_SPAN, RateMeter


def work_off(times: list[float], sizes: list[float] | None = None) -> list[tuple[float, float, float | None]]:
    """Do items that take `times`; returns after each the time, the true time left, and the estimated one."""
    meter, now, done, found = RateMeter(), 100.0, 0.0, []
    sizes = sizes or [1.0] * len(times)
    for number, (seconds, size) in enumerate(zip(times, sizes, strict=True)):
        now, done = now + seconds, done + size
        meter.observe(done, now)
        found.append((now, sum(times[number + 1 :]), meter.estimate_left(sum(sizes), now)))
    return found


def test_equal_items_are_estimated_exactly() -> None:
    for _, truth, estimate in work_off([2.0] * 50)[FEWEST_MARKS:]:
        assert estimate == pytest.approx(truth, abs=0.01)


def test_nothing_is_stated_before_enough_is_measured() -> None:
    found = work_off([30.0] * 10)
    assert [estimate is None for _, _, estimate in found] == [True] * (FEWEST_MARKS - 1) + [False] * 6
    start = found[0][0]
    for now, _, estimate in work_off([0.6] * 40):
        assert (estimate is None) == (now - start < SHORTEST_SPAN + 29.4 - 1e-6) or estimate is not None


def test_the_start_does_not_count() -> None:
    """The first item takes 10 minutes longer: weights are compiled, decoders started."""
    for _, truth, estimate in work_off([600.0] + [3.0] * 60)[FEWEST_MARKS:]:
        assert estimate == pytest.approx(truth, abs=0.1)


def test_sizes_foresee_long_items_at_the_end() -> None:
    """Lists are ordered by class, and the clips of the last classes are four times as long."""
    sizes = [1.0] * 100 + [4.0] * 100
    times = [2 * size for size in sizes]
    _, truth, blind = work_off(times)[50]
    _, _, estimate = work_off(times, sizes)[50]
    assert estimate == pytest.approx(truth, rel=0.02)
    assert blind is not None
    assert blind < truth / 2


def test_uneven_items_are_estimated_within_a_fifth() -> None:
    draw = random.Random(0)
    times = [draw.lognormvariate(0.5, 0.6) for _ in range(400)]
    for _, truth, estimate in work_off(times)[60:340]:
        assert estimate == pytest.approx(truth, rel=0.2)


def test_a_machine_that_slows_down_is_followed() -> None:
    """It halves its speed: after the horizon nothing of the old one is left."""
    times = [2.0] * 400 + [4.0] * 1000
    now = 0.0
    for now, truth, estimate in work_off(times)[:-1]:
        if now > 100 + 800 + HORIZON + 10:
            assert estimate == pytest.approx(truth, rel=0.02)
    assert now > 100 + 800 + 2 * HORIZON


def test_stalled_work_becomes_slower_and_the_time_left_longer() -> None:
    meter = RateMeter()
    for second in range(1, 21):
        meter.observe(second, float(second))
    assert meter.estimate_left(100, 20.0) == pytest.approx(80)
    assert meter.estimate_left(100, 20.5) == pytest.approx(79.5)
    before = meter.measure_rate(21.0)
    for now in (60.0, 600.0, 6000.0):
        rate, left = meter.measure_rate(now), meter.estimate_left(100, now)
        assert before is not None
        assert rate is not None
        assert left is not None
        assert rate < before
        assert left > 80
        before = rate


def test_memory_is_bounded_and_repeats_are_no_observation() -> None:
    meter = RateMeter()
    for number in range(200_000):
        meter.observe(number, number / 100)
    assert len(meter._marks) < 3 * HORIZON
    assert meter.measure_rate(2000.0) == pytest.approx(100, rel=0.01)
    still = RateMeter()
    for second in range(100):
        still.observe(1.0, float(second))
    assert still.measure_rate(100.0) is None
