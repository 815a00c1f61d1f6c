"""Stages are announced, started in order, given up, and state what they counted."""

import pytest

from repro.core.progress.stages import Measures, Part, Stage, Work


def states(work: Work) -> list[tuple[str, str, str]]:
    return [(one.name, one.about, one.state) for one in work.take_snapshots()]


def test_an_announced_stage_is_started_and_another_goes_before_those_to_come() -> None:
    work = Work("run")
    work.expect([("extract", "a"), ("readout", "a")], "a")
    work.expect(
        [("extract", "a"), ("readout", "a")], "a"
    )  # a row that is announced by `repro run all`, and then by itself
    work.expect([("extract", "b"), ("readout", "b")], "b")
    first = work.start("extract", "a")
    first.state = "done"
    work.start("fetch", "x")
    assert states(work) == [
        ("extract", "a", "done"),
        ("fetch", "x", "running"),
        ("readout", "a", "to come"),
        ("extract", "b", "to come"),
        ("readout", "b", "to come"),
    ]
    work.skip("a")
    assert [state for _, _, state in states(work)] == ["done", "running", "skipped", "to come", "to come"]


def test_a_stage_keeps_what_its_last_part_counted() -> None:
    stage = Stage("extract", state="running", started=0.0)
    part = Part("compute", 3, "clips", measure=lambda: Measures(windows=7, failed=1))
    stage.part = part
    part.advance()
    part.advance("note")
    shown = stage.take_snapshot(1.0)
    assert (shown.part, shown.done, shown.total, shown.note, shown.measures.windows) == ("compute", 2, 3, "note", 7)
    stage.end_part(part)
    stage.end_part(Part("pack", None, ""))
    assert (stage.take_snapshot(1.0).done, stage.take_snapshot(1.0).part) == (0, "")  # between two parts
    stage.state, stage.ended = "done", 5.0
    ended = stage.take_snapshot(100.0)
    assert (ended.done, ended.total, ended.unit, ended.measures.failed, ended.seconds) == (2, 3, "clips", 1, 5.0)


def test_sizes_may_be_fewer_than_items() -> None:
    part = Part("compute", 3, "clips", sizes=[2.0, 1.0])
    for _ in range(3):
        part.advance()
    assert part.take_snapshot(Stage("x"), 1.0).done == 3


def test_a_transfer_that_starts_again_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    part, stage = Part("file", None, "bytes"), Stage("file")
    for _ in range(10):
        now += 1
        part.reach(part.done + 1000, 20_000)
    shown = part.take_snapshot(stage, now)
    assert (shown.rate, shown.seconds_left) == (1000.0, 10.0)
    part.reach(0, 20_000)
    assert part.take_snapshot(stage, now).rate is None
