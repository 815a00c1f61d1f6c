"""Verdicts as a person reads them."""

import re

from builders.records import record

from repro.judge import verdict as judge
from repro.judge.expected import rows_with_expected, table_path
from repro.judge.formats import format_counts, format_verdict, wrap_verdict
from repro.records.record import RunRecord
from repro.table.rows import load_row

ROWS = rows_with_expected(table_path())


def verdict(row: str, *runs: RunRecord) -> judge.Verdict:
    (found,), _ = judge.judge_rows({row: ROWS[row]}, runs)
    return found


def test_the_sum_adds_up_to_the_rows() -> None:
    verdicts, _ = judge.judge_rows(ROWS, [record("ucf_hmdb_sdv2", 39, 0.765), record("ak_full", 52, 0.5)])
    text = format_counts(verdicts)
    assert text.startswith("24 rows: ")
    assert sum(int(part.split()[0]) for part in text.split(": ")[1].split(", ")) == 24
    assert all("\n" not in format_verdict(v) for v in verdicts)


def test_verdicts_fit_a_terminal() -> None:
    """80 columns, divided between words; what a script reads is one line."""
    for name, (_, line) in ROWS.items():
        runs = [record(name, load_row(name).seeds.published + n, line.published / 100 + 0.001 * n) for n in range(5)]
        judged = verdict(name, *runs)
        lines = wrap_verdict(judged, 80)
        assert all(len(part) <= 80 for part in lines)
        assert " ".join(part.strip() for part in lines).split() == format_verdict(judged).split()
        assert lines[0].split()[0] == name


def test_a_difference_that_rounds_to_zero_has_no_minus() -> None:
    _, line = ROWS["ucf_hmdb_sdv2"]
    below = verdict("ucf_hmdb_sdv2", record("ucf_hmdb_sdv2", 39, line.published / 100 - 1e-6))
    assert wrap_verdict(below, 80)[0].endswith(" +0.00")


def test_a_verdict_says_how_many_more_seeds_would_decide() -> None:
    def reason(row: str, *scores: float) -> str:
        runs = [record(row, seed, score) for seed, score in zip(load_row(row).seeds.first(9), scores, strict=False)]
        return verdict(row, *runs).reason

    wide, wider = (0.757, 0.762, 0.767, 0.772, 0.777), (0.735, 0.75, 0.765, 0.78, 0.795)
    assert re.search(r"; \d+ more seeds? would decide; ", reason("ucf_hmdb_sdv2", *wide))
    assert "no number of seeds can decide" in reason("ucf_hmdb_sdv2", *wider)
    # With fewer runs than planned, at least the planned ones are needed.
    assert "; 3 more seeds would decide" in reason("ucf_hmdb_sdv2", 0.763, 0.767)
    assert "decide" not in reason("ucf_hmdb_sdv2", 0.765)
    assert "decide" not in reason("ucf_hmdb_sdv2", *(0.765 + 0.0001 * n for n in range(5)))
    # More seeds of one cell of a grid decide nothing.
    assert "decide" not in reason("ucf_hmdb", *(score - 0.02 for score in wide))
