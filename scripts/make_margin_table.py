"""Write the table of margins in expected/README.md: `python scripts/make_margin_table.py`. A test checks some of its lines.

For each margin, spread over seeds and number of runs it simulates how often each verdict is given.
"""

from pathlib import Path

from repro.judge.seeds import Limits, rate_outcomes, seeds_needed
from repro.judge.verdict import Outcome

README = Path(__file__).resolve().parent.parent / "expected" / "README.md"
BEGIN, END = "<!-- margins -->\n", "<!-- end of margins -->\n"
MARGINS, SPREADS, RUNS, DRAWS = (1.0, 1.5, 2.0), (0.25, 0.5, 1.0, 2.0), (1, 3, 5, 10), 100_000
NEEDED_SPREADS = (0.25, 0.4, 0.5, 0.6, 1.0)
ROUNDING = 0.005
"""Half a unit of the last place, in points: published values have two decimals."""


def rates(margin: float, spread: float, runs: int, *, off: bool, ratio: float = 1.0, draws: int = DRAWS) -> list[float]:
    """Return the percentages of REPRODUCED, CONSISTENT, WITHIN MARGIN, INCONCLUSIVE and of HIGHER or LOWER.

    Args:
        margin: Points.
        spread: Standard deviation of our runs, in points.
        runs: Number of runs, all of which were planned.
        off: Our mean is the margin above the authors', instead of equal.
        ratio: The authors' standard deviation over ours.
        draws: Number of simulated measurements.
    """
    found = rate_outcomes(
        runs, spread, Limits(margin, ROUNDING), difference=margin if off else 0, ratio=ratio, draws=draws
    )
    single = [Outcome.REPRODUCED, Outcome.CONSISTENT, Outcome.WITHIN_MARGIN, Outcome.INCONCLUSIVE]
    return [100 * found[o] for o in single] + [100 * (found[Outcome.HIGHER] + found[Outcome.LOWER])]


def line(margin: float, spread: float, runs: int, draws: int = DRAWS) -> str:
    """Format one line of the table: outcomes without a difference and off by the margin, then the rates of two errors."""

    def cell(percentages: list[float]) -> str:
        return " · ".join(f"{value:.0f}" for value in percentages)

    equal, off = (rates(margin, spread, runs, off=differs, draws=draws) for differs in (False, True))
    wider = [rates(margin, spread, runs, off=differs, ratio=2, draws=draws) for differs in (False, True)]
    return (
        f"| {margin} | {spread} | {runs} | {cell(equal)} | {cell(off)} | {equal[4]:.1f} | {off[0]:.1f} "
        f"| {wider[0][4]:.1f} | {wider[1][0]:.1f} |"
    )


def table() -> str:
    columns = (
        "| margin | spread | *k* | no difference: R · C · W · I · H/L | off by the margin: R · C · W · I · H/L "
        "| false H/L | false R | false H/L at twice | false R at twice |"
    )
    lines = [
        columns,
        "|---|---|---|---|---|---|---|---|---|",
        *(line(margin, spread, runs) for margin in MARGINS for spread in SPREADS for runs in RUNS),
    ]
    return "\n".join(lines) + "\n\n" + needed_table()


def needed_table() -> str:
    lines = [
        "| margin | " + " | ".join(f"spread {spread}" for spread in NEEDED_SPREADS) + " |",
        "|---" * (1 + len(NEEDED_SPREADS)) + "|",
    ]
    return "\n".join([*lines, *map(needed_line, MARGINS)]) + "\n"


def needed_line(margin: float) -> str:
    """Format the number of seeds that REPRODUCED takes, with a probability of 80 %, if there is no difference."""
    found = [seeds_needed(spread, Limits(margin, ROUNDING), published_varies=True) for spread in NEEDED_SPREADS]
    return f"| {margin} | " + " | ".join(str(seeds or "none") for seeds in found) + " |"


def with_table(text: str) -> str:
    """Return `text` with what is between the two markers replaced."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
