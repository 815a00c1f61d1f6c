"""Verdicts on claims as lines of text, and as JSON; and what chance does to the table as a whole."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repro.core.workspace import Workspace
from repro.judge.claims.comparison import LEVEL, Source, adjust_holm, combine_sources
from repro.judge.claims.judging import ClaimFamily, ClaimOutcome, ClaimVerdict, Rows, judge_workspace_claims
from repro.judge.outcome import ALPHA
from repro.judge.verdict import Verdict
from repro.records.record import RunRecord


@dataclass(frozen=True, slots=True)
class ClaimsReport:
    """All claims of the table, and the table as a family of rows."""

    claims: Sequence[ClaimVerdict]
    families: Mapping[str, ClaimFamily]
    table: "TableFamily"

    @property
    def any_reversed(self) -> bool:
        return any(claim.outcome is ClaimOutcome.REVERSED for claim in self.claims)

    def format(self) -> list[str]:
        """Return the lines that `repro check --claims` prints; a terminal wraps them."""
        return [*format_claims(self.claims, self.families), "", format_table_family(self.table)]

    def as_json(self) -> dict[str, object]:
        """Return the keys that --claims adds to `repro check --json`."""
        return {"claims": [claim_as_json(claim) for claim in self.claims], "table": dataclasses.asdict(self.table)}


def report_claims(
    rows: Rows,
    records: Sequence[RunRecord],
    verdicts: Sequence[Verdict],
    workspace: Workspace,
    table: Path,
    warn: Callable[[str], None] = lambda line: None,
) -> ClaimsReport:
    """Judge the claims of the rule set at `table` by records whose predictions are in a workspace.

    What takes long is kept there. `warn` is called with a message if something that was kept is wrong.

    Raises:
        UsageError: the claims are missing or not valid.
        MissingError: the predictions of a record are missing.
    """
    claims, families = judge_workspace_claims(rows, records, workspace, table, warn)
    return ClaimsReport(claims, families, summarise_table(verdicts))


def format_claims(claims: Sequence[ClaimVerdict], families: Mapping[str, ClaimFamily]) -> list[str]:
    """Format every family: a heading, and per claim its verdict and what it rests on."""
    lines = []
    for name, family in families.items():
        found = [claim for claim in claims if claim.family == name]
        tally = Counter(claim.outcome for claim in found)
        counts = ", ".join(f"{tally[outcome]} {outcome.lower()}" for outcome in ClaimOutcome if tally[outcome])
        lines += ["", f"{name}: {family.statement}", f"{len(found)} claims: {counts}"]
        for claim in found:
            lines += _format_claim(claim)
    return lines


def _format_claim(claim: ClaimVerdict) -> list[str]:
    digits = max(claim.above.digits, claim.below.digits)
    head = f"{claim.outcome:<17}  {claim.above.row} over {claim.below.row}"
    facts = []
    if claim.difference is not None:
        facts.append(f"{claim.difference:+.2f}, published {claim.published:+.{digits}f}")
    else:
        facts.append(f"published {claim.published:+.{digits}f}")
    if claim.on_seeds is not None and claim.on_clips is not None and claim.difference is not None:
        both = combine_sources(claim.on_seeds, claim.on_clips)
        facts.append(
            f"95 % intervals: {_interval(claim.difference, both)}; on seeds alone {_interval(claim.difference, claim.on_seeds)}"
            f", on clips alone {_interval(claim.difference, claim.on_clips)}"
        )
        if claim.in_pairs is not None:
            facts.append(f"on seeds in pairs {_interval(claim.difference, claim.in_pairs)}")
        facts.append(f"p {claim.adjusted:.2g} after Holm ({claim.p_value:.2g} before)")
    facts += [text for text in (claim.reason, claim.more_seeds) if text]
    facts += [f"not judged: {name} {difference:+.2f}" for name, difference in claim.not_judged]
    facts += [f"published: {claim.near_tie}"] if claim.near_tie else []
    return [head, f"    {'; '.join(facts)}"]


def _interval(difference: float, source: Source) -> str:
    half = float(source.half_width())
    return f"{difference - half:+.2f} to {difference + half:+.2f}"


def claim_as_json(claim: ClaimVerdict) -> dict[str, object]:
    """Return a claim's verdict as an entry of `repro check --claims --json`; differences in points."""

    def interval(source: Source | None) -> list[float] | None:
        if source is None or claim.difference is None:
            return None
        half = float(source.half_width())
        return [claim.difference - half, claim.difference + half]

    both = None if claim.on_seeds is None or claim.on_clips is None else combine_sources(claim.on_seeds, claim.on_clips)
    return {
        "family": claim.family,
        "above": claim.above.row,
        "below": claim.below.row,
        "verdict": str(claim.outcome),
        "reason": claim.reason,
        "published": claim.published,
        "near_tie": claim.near_tie,
        "compared_at": claim.basis,
        "seeds": [list(seeds) for seeds in claim.seeds],
        "difference": claim.difference,
        "interval": interval(both),
        "interval_on_seeds": interval(claim.on_seeds),
        "interval_on_clips": interval(claim.on_clips),
        "interval_on_seeds_in_pairs": interval(claim.in_pairs),
        "p": claim.p_value,
        "p_holm": claim.adjusted,
        "seeds_needed": claim.more_seeds,
        "not_judged": dict(claim.not_judged),
    }


@dataclass(frozen=True, slots=True)
class TableFamily:
    """The verdicts of all rows as one family."""

    rows: int
    expected_by_chance: float
    """Rows outside their interval, if every published value is true and every row is judged."""
    judged: int
    """Rows that have the planned seeds and are judged as published: not edited, nor with weights that are our guess."""
    outside: tuple[str, ...]
    outside_after_holm: tuple[str, ...]


def summarise_table(verdicts: Sequence[Verdict]) -> TableFamily:
    """Return which rows are outside their 95 % prediction interval, singly and after Holm's adjustment over all rows.

    Rows that are not judged count with a p-value of 1.
    """
    values = np.ones(len(verdicts))
    judged = [
        place
        for place, verdict in enumerate(verdicts)
        if verdict.measured is not None and verdict.spread is not None
        if len(verdict.seeds) >= verdict.expected.planned_seeds
        if not verdict.expected.checkpoint_assumed and not verdict.expected.edited
    ]
    for place in judged:
        verdict, k = verdicts[place], len(verdicts[place].seeds)
        assert verdict.measured is not None
        assert verdict.spread is not None
        excess = abs(verdict.measured - verdict.expected.published) - verdict.expected.rounding - verdict.widened_by
        error = Source(verdict.spread * math.sqrt(1 + 1 / k), k - 1)
        values[place] = float(error.p_value(excess)) if excess > 1e-9 else 1.0
    adjusted = adjust_holm(values)
    names = [verdict.expected.row for verdict in verdicts]
    return TableFamily(
        len(verdicts),
        ALPHA * len(verdicts),
        len(judged),
        tuple(name for name, value in zip(names, values, strict=True) if value < ALPHA),
        tuple(name for name, value in zip(names, adjusted, strict=True) if value < LEVEL),
    )


def format_table_family(family: TableFamily) -> str:
    """Format what chance does to the table as a whole, as one line."""
    return (
        f"The table as a whole: of {family.rows} rows, about {family.expected_by_chance:.1f} are outside their 95 % interval by "
        f"chance if every published value is true. {family.judged} rows are judged, with the planned seeds and the weights that the "
        f"release states; outside: {', '.join(family.outside) or 'none'}; after Holm over {family.rows}: "
        f"{', '.join(family.outside_after_holm) or 'none'}."
    )
