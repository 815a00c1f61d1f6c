"""Verdicts as text and as JSON."""

import dataclasses
from collections.abc import Sequence

from repro.core.console import wrap_words
from repro.judge.outcome import Outcome
from repro.judge.verdict import Verdict
from repro.records.record import RunRecord


def format_verdict(verdict: Verdict) -> str:
    """Format a verdict as one line: row, outcome, measured, published, difference, metric and reason."""
    expected = verdict.expected
    details = f"{expected.metric}, margin {verdict.margin:.4g}"
    if verdict.last_epoch is not None:
        details += f", last epoch {verdict.last_epoch:.2f}"
    return f"{_format_head(verdict)}  {details}; {verdict.reason}"


def wrap_verdict(verdict: Verdict, width: int | None) -> list[str]:
    """Format a verdict for a terminal: one line, and below it the reasons, wrapped between words. Without a width, as one line."""
    if width is None:
        return [format_verdict(verdict)]
    head, _, details = format_verdict(verdict).partition("  " + verdict.expected.metric)
    details = verdict.expected.metric + details
    if verdict.outcome is Outcome.NOT_RUN and not verdict.expected.edited and not verdict.refused:
        return [head]
    return [head, *wrap_words(f"  {details}", width)]


def _format_head(verdict: Verdict) -> str:
    """Return what fits in 80 columns of every row: name, outcome, measured, published, difference."""
    expected = verdict.expected
    measured = "" if verdict.measured is None else format_mean(verdict.measured, verdict.spread)
    difference = f"{verdict.difference:+z.2f}" if verdict.difference is not None else ""
    published = f"{expected.published:.{expected.digits}f}"
    return f"{expected.row:<24} {verdict.outcome:<13} {measured:<13} {published:>9} {difference:>10}".rstrip()


def format_mean(mean: float, spread: float | None) -> str:
    """Format a mean in points, with its spread over seeds if there is one."""
    return f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


HEADER = f"{'row':<24} {'verdict':<13} {'measured':<13} {'published':>9} {'difference':>10}"
"""Names of the columns that `format_verdict` begins with."""


def format_counts(verdicts: Sequence[Verdict]) -> str:
    """Format the number of rows per outcome; the numbers add up to all rows."""
    counts = [f"{sum(v.outcome is outcome for v in verdicts)} {outcome.lower()}" for outcome in Outcome]
    return f"{len(verdicts)} rows: {', '.join(counts)}"


def format_left_out(left_out: Sequence[tuple[RunRecord, str]]) -> list[str]:
    """Format the records that were not judged, as `judge_rows` returns them.

    Records of a row that share the reason share a line: a grid leaves out up to 90.
    """
    alike: dict[tuple[str, str], list[RunRecord]] = {}
    for record, why in left_out:
        alike.setdefault((record.row, why), []).append(record)
    return [
        f"{row} seed {runs[0].seed} ({runs[0].run}): not judged: {why}"
        if len(runs) == 1
        else f"{row}: {len(runs)} records not judged: {why}"
        for (row, why), runs in alike.items()
    ]


def verdict_as_json(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as an entry of `repro check --json`; scores in points."""
    expected = verdict.expected
    return {
        "row": expected.row,
        "verdict": str(verdict.outcome),
        "verdict_by_number": verdict.by_number and str(verdict.by_number),
        "verdict_by_spread_ratio": {str(ratio): str(outcome) for ratio, outcome in verdict.by_ratio.items()},
        "at_equal_spread_alone": len(verdict.by_ratio) > 0 and verdict.by_ratio[1] is not verdict.by_ratio[2],
        "reason": verdict.reason,
        "metric": expected.metric,
        "selection": expected.selection,
        "published": expected.published,
        "margin": verdict.margin,
        "interval_widened_by": verdict.widened_by,
        "planned_seeds": [expected.first_seed + n for n in range(expected.planned_seeds)],
        "seeds": list(verdict.seeds),
        "measured": verdict.measured,
        "difference": verdict.difference,
        "spread": verdict.spread,
        "last_epoch": verdict.last_epoch,
        "cells": verdict.cells,
        "best_of_grid": [
            dataclasses.asdict(one) | {name: 100 * getattr(one, name) for name in ("chosen_on", "test", "last_epoch")}
            for one in verdict.best_of_grid
        ],
        "checkpoint_assumed": expected.checkpoint_assumed,
        "precision": verdict.precision or None,
        "targets": verdict.targets or None,
        "selection_recomputed": verdict.selection_recomputed,
        "runs": [run.run for run in verdict.runs],
        "clips": {"train": verdict.runs[0].train.clips, "test": verdict.runs[0].test.clips} if verdict.runs else None,
        "versions": dict(verdict.runs[0].made.by) if verdict.runs else None,
        "devices": dict(verdict.devices),
        "edited_configs": list(expected.edited),
        "refused": [refusal_as_json(record, why) for record, why in verdict.refused],
        "rules": expected.rules,
        "status": expected.status,
        "note": expected.note,
    }


def refusal_as_json(record: RunRecord, why: str) -> dict[str, object]:
    """Return a run that was refused, with the rule, as an entry of `repro check --json`."""
    rule, _, reason = why.partition(" ")
    return {"rule": rule, "row": record.row, "seed": record.seed, "run": record.run, "why": reason}
