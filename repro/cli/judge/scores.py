"""`repro scores ROW`: a row's score by class or by group of clips, from the recorded predictions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.cells import cell_len

from repro.cli.options import (
    COMMON,
    CommonOptions,
    FlagOption,
    PrecisionOption,
    SeedsOption,
    require_number,
)
from repro.core.console import (
    escape_text,
    format_csv,
    print_line,
    print_lines,
    print_sentence,
    shorten_middle,
    terminal_width,
)
from repro.core.errors import Exit, UsageError
from repro.core.files import write_bytes
from repro.judge.formats import format_mean
from repro.judge.outcome import mean_and_spread
from repro.table.rows import load_any_row

if TYPE_CHECKING:
    from repro.judge.scores.row_scores import RowScores

RULE_TITLES = {"published": "best epoch on test", "held-out": "best epoch on held-out clips", "last epoch": ""}
PIPED_WIDTH = 200
"""Columns of a line that is not printed to a terminal."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresOptions:
    """What is shown, and where it is written."""

    by: Annotated[
        str, Parameter(help="class, source (video), or what the data set states of its clips, as species or viewpoint.")
    ] = "class"
    confusion: Annotated[FlagOption, Parameter(help="Show how often each class is taken for each other one.")] = False
    seeds: Annotated[
        SeedsOption | None, Parameter(help="These alone, as --seed 52 or --seeds 52,54 [default: all].")
    ] = None
    cell: Annotated[str | None, Parameter(help="Another cell of the row's grid, as t20_layer09.")] = None
    top: Annotated[
        int, Parameter(validator=require_number("--top", 1), help="Lines to print; --csv and --json have all.")
    ] = 20
    min_clips: Annotated[
        int, Parameter(validator=require_number("--min-clips", 1), help="Print those of at least so many test clips.")
    ] = 1
    best_first: Annotated[FlagOption, Parameter(help="Print the best first and not the worst.")] = False
    csv: Annotated[Path | None, Parameter(help="New file for a table of all, for a spreadsheet.")] = None


OPTIONS = ScoresOptions()


def scores(
    row: str,
    /,
    *,
    options: ScoresOptions = OPTIONS,
    precision: PrecisionOption = (),
    common: CommonOptions = COMMON,
) -> Exit:
    """Show a row's score by class or by group of clips, and which classes are confused.

    Example: `repro scores ak_full --by species`

    Args:
        row: A row that was run in this workspace, or the path of a row file of own clips.
    """
    found, csv = load_any_row(row, *precision), options.csv
    if csv is not None and csv.exists():
        raise UsageError(f"--csv {csv}: the file exists: name another one")
    if options.confusion and options.by != "class":
        raise UsageError(f"--confusion is of classes: leave out --by {options.by}")
    seeds = () if options.seeds is None else tuple(found.seeds.choose(options.seeds))
    # Imported here: it imports NumPy, SciPy and pyarrow.
    from repro.judge.scores.row_scores import compute_row_scores

    shown = compute_row_scores(found, common.open_workspace(), options.by, cell=options.cell or "", seeds=seeds)
    if csv is not None:
        write_bytes(
            # With a byte order mark, by which spreadsheet programs know UTF-8.
            csv,
            format_csv(_list_csv_rows(shown, confusion=options.confusion)).encode("utf-8-sig"),
            by_user=True,
        )
    for why in shown.left_out:
        print_sentence(f"warning: not shown: {why}", to_stderr=True)
    if common.as_json:
        print(json.dumps(scores_as_json(shown), indent=1))
        return Exit.OK
    width = terminal_width() or PIPED_WIDTH
    for line in _describe_runs(shown):
        print_sentence(line)
    print_line()
    print_lines((_format_confusion if options.confusion else _format_items)(shown, options, width))
    return Exit.OK


def _describe_runs(shown: "RowScores") -> Iterator[str]:
    """Yield what is shown: of which runs, under which rule, and how closely the test clips pin the score."""
    yield f"{shown.row.name}: {shown.score} by {shown.by}, {shown.clips} test clips of {shown.test}"
    for reading in shown.readings:
        scores, seeds = reading.scores, [run.seed for run in reading.runs]
        rule = f", {RULE_TITLES[reading.rule]}" if RULE_TITLES[reading.rule] else ""
        listed = f"{seeds[0]}-{seeds[-1]}" if seeds[-1] - seeds[0] == len(seeds) - 1 > 1 else ", ".join(map(str, seeds))
        yield (
            f"{reading.rule:<11} {shown.row.metric} {format_mean(*mean_and_spread(scores))}{rule}; "
            f"{reading.runs[0].features.cell}, seed{'s' if scores[1:] else ''} {listed}"
        )
    if shown.interval is not None:
        yield f"{'interval':<11} {shown.interval}"


def _format_items(shown: "RowScores", options: ScoresOptions, width: int) -> Iterator[str]:
    ranked = shown.rank_items(best_first=options.best_first, least_clips=options.min_clips)
    readings, by_class = shown.readings, shown.by == "class"
    precisions = shown.precision_means if by_class and shown.single_label else None
    widths = [
        max(len(reading.rule), 12 if not n and reading.spreads is not None else 5) for n, reading in enumerate(readings)
    ]
    head = f"clips {' '.join(f'{reading.rule:>{width}}' for reading, width in zip(readings, widths, strict=True))}"
    if precisions is not None:
        head += " precision"
    room = width - len(head) - 1
    # Three fifths are the name's where both are long.
    name_width = min(
        room * 3 // 5 if by_class else room, max((cell_len(escape_text(shown.items[n])) for n in ranked), default=0)
    )
    other_width = room - name_width - 2
    other_head = "  taken for" if shown.single_label else "  scored above"
    yield f"{shown.by:<{name_width}} {head}{other_head[: other_width + 2] if by_class else ''}"
    for n in ranked[: options.top]:
        cells = [f"{reading.means[n]:{wide}.1f}" for reading, wide in zip(readings, widths, strict=True)]
        if readings[0].spreads is not None:
            cells[0] = f"{readings[0].means[n]:5.1f} ± {readings[0].spreads[n]:4.1f}".rjust(widths[0])
        if precisions is not None:
            cells.append("     none" if precisions[n] is None else f"{precisions[n]:9.1f}")
        other = shown.confused_with(n) if by_class else None
        if other is not None:
            cells.append(f" {shorten_middle(other[0], other_width - 5).rstrip()} {other[1]:.0%}")
        yield f"{shorten_middle(shown.items[n], name_width)} {shown.counts[n]:5} {' '.join(cells)}"
    if len(ranked) > options.top:
        yield f"{len(ranked) - options.top} more: --top {len(ranked)}"
    if not shown.counts.all():
        yield f"{(shown.counts == 0).sum()} without test clips"
    if shown.counts.sum() > shown.clips:
        yield "a clip of several counts in each"


def _format_confusion(shown: "RowScores", options: ScoresOptions, width: int) -> Iterator[str]:
    """Yield the matrix of a row with one label a clip if it fits, else the most frequent pairs of classes."""
    matrix, runs = shown.confusion, len(shown.readings[0].runs)
    ids = [label for label in range(len(shown.classes)) if matrix[label].any() or matrix[:, label].any()]
    cell = max(len(str(matrix.max())), len(str(max(ids, default=0)))) + 1
    room = width - cell * (len(ids) + 1) - 1
    summed = f", summed over {runs} runs" if runs > 1 else ""
    if shown.single_label and room >= 12:
        yield f"by line the class, by column what its clips are taken for{summed}"
        name_width = min(room, max(cell_len(escape_text(shown.classes[label])) for label in ids))
        yield f"{'':{name_width}} {'':{cell}}" + "".join(f"{label:{cell}}" for label in ids)
        for label in ids:
            counts = "".join(f"{matrix[label, other]:{cell}}" for other in ids)
            yield f"{shorten_middle(shown.classes[label], name_width)} {label:{cell}}{counts}"
        return
    word, what = ("taken for", "taken for another") if shown.single_label else ("not above", "not scored above another")
    pairs = sorted(
        ((int(matrix[a, b]), a, b) for a in ids for b in ids if a != b and matrix[a, b]),
        key=lambda pair: (-pair[0], pair),
    )
    name_width = (width - len(word) - 10) // 2
    yield f"clips of a class that are {what}{summed}"
    for count, of, other in pairs[: options.top]:
        names = [shorten_middle(shown.classes[label], name_width) for label in (of, other)]
        yield f"{count:6}  {names[0].rstrip()} {word} {names[1].rstrip()}"
    if len(pairs) > options.top:
        yield f"{len(pairs) - options.top} more pairs: --top {len(pairs)}, or the matrix in --csv FILE"


def _list_csv_rows(shown: "RowScores", *, confusion: bool) -> list[list[object]]:
    if confusion:
        lines = zip(shown.classes, shown.confusion.tolist(), strict=True)
        return [["class", *shown.classes], *([name, *counts] for name, counts in lines)]
    records = shown.as_records()
    return [list(records[0]), *(["" if value is None else value for value in record.values()] for record in records)]


def scores_as_json(shown: "RowScores") -> dict[str, Any]:
    """Return the report of `repro scores --json`; scores in points."""
    return {
        "row": shown.row.name,
        "metric": shown.row.metric,
        "by": shown.by,
        "score": shown.score,
        "test": shown.test,
        "clips": shown.clips,
        "rules": {
            reading.rule: [
                {"seed": run.seed, "run": run.run, "cell": run.features.cell, "epoch": epoch, shown.row.metric: score}
                for run, epoch, score in zip(reading.runs, reading.epochs, reading.scores, strict=True)
            ]
            for reading in shown.readings
        },
        "interval_over_clips": None
        if shown.interval is None
        else {"low": shown.interval.low, "high": shown.interval.high, "method": shown.interval.method},
        "items": shown.as_records(),
        "confusion": {
            "counts": "predicted" if shown.single_label else "scored at least as high",
            "runs": len(shown.readings[0].runs),
            "classes": list(shown.classes),
            "matrix": shown.confusion.tolist(),
        },
        "not_shown": list(shown.left_out),
    }
