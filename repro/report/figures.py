"""The report's figures. Scores are in points."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from repro.core.console import shorten_middle
from repro.judge.grid_selection import select_cell, selection_of, selection_score
from repro.judge.scores.row_scores import RowScores
from repro.pipeline.grid.figure import COLOURS, METRIC_TITLES, SERIES, draw_figure, write_caption
from repro.pipeline.grid.report import GRID_COLUMNS, GridResult, list_runs
from repro.readout.recipe import PROTOCOLS
from repro.report.contents import RowContents
from repro.report.drawing import (
    INK,
    Drawing,
    draw_bars,
    label_columns,
    label_numbers,
    label_rows,
    measure_longest,
    name_axis,
)

METHODS = {"svd_xt": "ActionDiff", "videomaev2": "VideoMAEv2", "vjepa": "V-JEPA", "sdv2": "SDv2"}
"""Backbones as the paper calls their rows."""
MOST_CLASSES = 40
"""Bars in the figure of classes; of more classes, the worst and the best are drawn. The data has all."""


def draw_setting(setting: str, rows: Sequence[RowContents]) -> Drawing:
    """Draw each row of a setting on one line: margin, published value, own runs, and the interval of their mean."""
    lines: list[list[object]] = []
    for one in rows:
        assert one.verdict is not None
        verdict, expected = one.verdict, one.verdict.expected
        seeds = dict(zip(verdict.seeds, verdict.values, strict=True))
        first = [one.name, expected.published, expected.margin, *(verdict.interval or ("", ""))]
        lines += [[*first, seed, value] for seed, value in seeds.items()] or [[*first, "", ""]]

    def draw() -> Figure:
        backbones = [one.row.backbone for one in reversed(rows)]
        figure, axes = _open_figure((5.2, 0.8 + 0.42 * len(rows)), _measure_labels(backbones, 9))
        for place, one in enumerate(reversed(rows)):
            assert one.verdict is not None
            verdict, expected = one.verdict, one.verdict.expected
            low, high = expected.published - expected.margin, expected.published + expected.margin
            axes.plot([low, high], [place, place], color=SERIES[4], lw=9, alpha=0.35, solid_capstyle="butt")
            axes.plot(expected.published, place, marker="D", color=SERIES[1], ms=7, zorder=3)
            if verdict.interval is not None:
                axes.plot(verdict.interval, [place - 0.22] * 2, color=SERIES[0], lw=1.5)
            # Below the published value's line, so that neither hides the other.
            axes.plot(verdict.values, [place - 0.22] * len(verdict.values), "o", color=SERIES[0], ms=5, alpha=0.8)
        axes.set_ylim(-0.6, len(rows) - 0.6)
        label_rows(axes, range(len(rows)), backbones, 9)
        axes.set_xlabel(f"{METRIC_TITLES[rows[0].row.metric]} in points")
        axes.grid(axis="x", color=INK, alpha=0.15)
        return figure

    caption = (
        "Diamonds: published values, on a band of the margin. Dots: own runs, one per seed, on their 95 % prediction interval "
        "for one further run."
    )
    columns = ("row", "published", "margin", "interval_low", "interval_high", "seed", "measured")
    return Drawing(f"{setting}-strip", caption, draw, columns, lines)


def draw_table(rows: Sequence[RowContents]) -> Drawing:
    """Draw the whole table: one panel a setting, published values on their margins, and the mean of own runs where there are any."""
    settings: dict[str, list[RowContents]] = {}
    for one in rows:
        settings.setdefault(one.row.setting, []).append(one)
    lines: list[list[object]] = []
    for one in rows:
        assert one.verdict is not None
        expected, measured = one.verdict.expected, one.verdict.measured
        lines.append([one.name, expected.published, expected.margin, "" if measured is None else measured])

    def draw() -> Figure:
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        panels = figure.subplots(2, 3).ravel()
        for panel, found in zip(panels, settings.values(), strict=True):
            names = [METHODS.get(one.row.backbone, one.row.backbone) for one in reversed(found)]
            for place, one in enumerate(reversed(found)):
                assert one.verdict is not None
                expected, measured = one.verdict.expected, one.verdict.measured
                ends = expected.published - expected.margin, expected.published + expected.margin
                panel.plot(ends, [place, place], color=SERIES[4], lw=8, alpha=0.35, solid_capstyle="butt")
                panel.plot(expected.published, place, marker="D", color=SERIES[1], ms=6, zorder=3)
                panel.annotate(
                    f"{expected.published:.{expected.digits}f}", (expected.published, place), (0, 6), textcoords="offset points",
                    ha="center", fontsize=7,
                )  # fmt: skip
                if measured is not None:
                    panel.plot(measured, place - 0.25, "o", color=SERIES[0], ms=5)
            panel.set_yticks(range(len(names)), names)
            panel.set_ylim(-0.6, len(names) - 0.2)
            panel.margins(x=0.12)
            panel.set_title(found[0].row.title.split(":")[0], fontsize=8, loc="left")
            panel.set_xlabel(METRIC_TITLES[found[0].row.metric], fontsize=8)
        return figure

    caption = (
        "The results table: diamonds are the published values, on a band of the margin; dots the means of own runs."
    )
    return Drawing("table", caption, draw, ("row", "published", "margin", "measured"), lines)


def draw_curves(one: RowContents) -> Drawing:
    """Draw the test score of each seed by epoch, with the selected and the last epoch."""
    metric, runs = one.row.metric, one.runs
    lines = [
        [run.seed, epoch.epoch, 100 * epoch.scores[metric], epoch.train_loss] for run in runs for epoch in run.epochs
    ]

    def draw() -> Figure:
        figure, axes = _open_figure((4.6, 2.9))
        for run, colour in zip(runs, _colours(len(runs)), strict=True):
            values = [100 * epoch.scores[metric] for epoch in run.epochs]
            axes.plot(range(1, len(values) + 1), values, color=colour, lw=1.5, label=f"seed {run.seed}")
            chosen = selection_of(run)
            axes.plot(chosen.epoch, 100 * chosen.scores[metric], "o", color=colour, ms=7, mfc="none", mew=1.8)
            axes.plot(len(values), values[-1], "s", color=colour, ms=4)
        if one.row.published is not None:
            axes.axhline(one.row.published.value, color=SERIES[1], lw=1, ls=(0, (4, 3)))
        label_numbers(axes.xaxis, "epoch")
        label_numbers(axes.yaxis, "points")
        if len(runs) <= len(SERIES):
            axes.legend(fontsize=8)
        return figure

    dashed = " Dashed: the published value." if one.row.published is not None else ""
    protocol, cells = runs[0].protocol, ", ".join(dict.fromkeys(run.features.cell for run in runs))
    caption = (
        f"{METRIC_TITLES[metric]} on the test split by epoch, {protocol} protocol, cell {cells}. Circles: the epoch "
        f"that the rule selects. Squares: the last.{dashed}"
    )
    return Drawing(f"{one.name}-epochs", caption, draw, ("seed", "epoch", "test", "train_loss"), lines)


def draw_grid(grid: GridResult) -> Drawing:
    """Draw the mean over seeds of every cell, with what each protocol selects and the published value on the scale."""
    runs = list_runs(grid)
    lines = [[run[column] for column in GRID_COLUMNS] for run in runs]
    caption = write_caption(grid)
    return Drawing(
        f"{grid.row.name}-grid", caption, lambda: draw_figure(grid, captioned=False), GRID_COLUMNS, lines, wide=True
    )


def draw_seed_grids(grid: GridResult) -> Drawing:
    """Draw one small map per protocol and seed, with that seed's selected cell marked."""
    timesteps = sorted({cell.timestep for cell in grid.cells if cell.timestep is not None})
    layers = sorted({cell.layer for cell in grid.cells if isinstance(cell.layer, int)})
    order = [cell.name for cell in grid.cells]
    maps = [(p, seed, runs) for p in PROTOCOLS for seed in grid.seeds if (runs := grid.runs_of(p, seed))]
    lines: list[list[object]] = []
    for protocol, seed, runs in maps:
        chosen = select_cell(runs, order)
        lines.append([protocol, seed, chosen.cell, chosen.epoch, 100 * chosen.chosen_on, 100 * chosen.test, len(runs)])

    def draw() -> Figure:
        across = min(len(maps), 5)
        # Rounded up.
        down = -(-len(maps) // across)
        figure = Figure(figsize=(1.9 * across, 1.45 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel in panels[len(maps) :]:
            panel.set_axis_off()
        for panel, (protocol, seed, runs) in zip(panels, maps, strict=False):
            values = np.full((len(timesteps), len(layers)), np.nan)
            for cell in grid.cells:
                if cell.name in runs and cell.timestep is not None and isinstance(cell.layer, int):
                    place = timesteps.index(cell.timestep), layers.index(cell.layer)
                    values[place] = 100 * selection_score(runs[cell.name])
            panel.imshow(np.ma.masked_invalid(values), cmap=COLOURS, aspect="auto")
            picked = next(cell for cell in grid.cells if cell.name == select_cell(runs, order).cell)
            assert picked.timestep is not None
            assert isinstance(picked.layer, int)
            # Pixels of an image are centred on whole numbers.
            corner = layers.index(picked.layer) - 0.5, timesteps.index(picked.timestep) - 0.5
            # A white line on a black one shows on any colour of the map.
            for colour, width in (("black", 3.5), ("white", 1.8)):
                panel.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, lw=width))
            panel.set_title(f"{protocol}, seed {seed}", fontsize=8)
            panel.set_xticks([])
            panel.set_yticks([])
        return figure

    caption = (
        "Each seed's map, timesteps down and layers across as above, on a scale of its own. Boxed: the cell it selects."
    )
    columns = ("protocol", "seed", "cell", "epoch", "chosen_on", "test", "cells")
    return Drawing(f"{grid.row.name}-seeds", caption, draw, columns, lines)


def draw_classes(scores: RowScores, name: str) -> Drawing:
    """Draw each class's score, worst first, with the spread over seeds."""
    reading, ranked = scores.readings[0], scores.rank_items()
    shown = ranked
    if len(ranked) > MOST_CLASSES:
        # The worst and the best: the middle of a long list says least.
        shown = [*ranked[: MOST_CLASSES // 2], *ranked[-MOST_CLASSES // 2 :]]
    spreads = reading.spreads
    lines = [
        [scores.items[n], int(scores.counts[n]), float(reading.means[n]), "" if spreads is None else float(spreads[n])]
        for n in ranked
    ]

    def draw() -> Figure:
        labels = [f"{_shorten(scores.items[n])} ({scores.counts[n]})" for n in shown]
        figure, axes = _open_figure((4.6, 0.9 + 0.17 * len(shown)), _measure_labels(labels, 7))
        places = range(len(shown) - 1, -1, -1)
        draw_bars(axes, places, reading.means[shown].tolist(), SERIES[0])
        if spreads is not None:
            ends = reading.means[shown] - spreads[shown], reading.means[shown] + spreads[shown]
            axes.hlines(places, *ends, color=INK, lw=1.5)
        label_rows(axes, places, labels, 7)
        axes.set_ylim(-0.8, len(shown) - 0.2)
        axes.set_xlim(0, 100)
        label_numbers(axes.xaxis, f"{scores.score} in points")
        return figure

    part = f" The {MOST_CLASSES // 2} worst and best of {len(ranked)} classes." if len(shown) < len(ranked) else ""
    runs = (
        f"mean of {len(reading.runs)} runs; lines: standard deviation over seeds" if reading.runs[1:] else "of one run"
    )
    caption = f"{scores.score.capitalize()} by class with its test clips, {reading.rule}, {runs}.{part}"
    return Drawing(f"{name}-classes", caption, draw, ("class", "clips", "mean", "spread"), lines)


def draw_confusion(scores: RowScores, name: str) -> Drawing:
    """Draw the confusion matrix as shares of each class's clips."""
    counts = scores.confusion
    lines = [[scores.classes[n], *map(int, line)] for n, line in enumerate(counts)]

    def draw() -> Figure:
        few = len(scores.classes) <= MOST_CLASSES
        side = 1.2 + (0.19 * len(scores.classes) if few else 3.2)
        labels = [_shorten(text, 18) for text in scores.classes] if few else []
        room = 0.4 + _measure_labels(labels, 7)
        width, height = side + room + 0.9, side + room + 0.1
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((room / width, room / height, side / width, side / height))
        bar = figure.add_axes(
            ((room + side + 0.15) / width, (room + side / 6) / height, 0.12 / width, side / 1.5 / height)
        )
        # A class without test clips has a row of zeros, not one of NaN.
        clips = np.maximum(scores.class_counts[:, None] * len(scores.readings[0].runs), 1)
        image = axes.imshow(100 * counts / clips, cmap=COLOURS, vmin=0, vmax=100)
        names = "predicted" if scores.single_label else "scored at least as high", "class of the clip"
        if few:
            label_columns(axes, range(len(labels)), labels, 7)
            label_rows(axes, range(len(labels)), labels, 7)
        for axis, axis_name in zip((axes.xaxis, axes.yaxis), names, strict=True):
            if few:
                name_axis(axis, axis_name, measure_longest(labels, 7))
            else:
                label_numbers(axis, axis_name)
        figure.colorbar(image, cax=bar).set_label("percent of the class's clips", fontsize=8)
        return figure

    what = (
        "clips of a class (down) that are predicted as another (across)"
        if scores.single_label
        else "clips of one class alone (down) that score another class (across) at least as high"
    )
    together = ", all seeds together" if scores.readings[0].runs[1:] else ""
    caption = f"Confusion: {what}, in percent{together}."
    return Drawing(f"{name}-confusion", caption, draw, ("class", *scores.classes), lines)


def list_row_drawings(one: RowContents) -> list[Drawing]:
    """Return the figures of one row that has runs."""
    drawings = [draw_curves(one)]
    if one.grid is not None:
        # The wide one first, so that the others are in pairs below it.
        drawings = [draw_grid(one.grid), *drawings, draw_seed_grids(one.grid)]
    if one.scores is not None:
        drawings += [draw_classes(one.scores, one.name), draw_confusion(one.scores, one.name)]
    return drawings


def _open_figure(size: tuple[float, float], left: float = 0.75, right: float = 0.2) -> tuple[Figure, Axes]:
    """Open a figure with margins in inches: matplotlib's layouts measure every text, and take half of a report's time."""
    width, height = size
    return (figure := Figure(figsize=size)), figure.add_axes(
        (left / width, 0.5 / height, 1 - (left + right) / width, 1 - 0.65 / height)
    )


def _measure_labels(labels: Sequence[str], points: float) -> float:
    """Return the room for labels in inches."""
    return 0.25 + 0.0082 * points * max(map(len, labels), default=0)


def _colours(count: int) -> list[object]:
    if count <= len(SERIES):
        return list(SERIES[:count])
    return [mpl.colormaps["viridis"](n / (count - 1)) for n in range(count)]


def _shorten(text: str, most: int = 28) -> str:
    return shorten_middle(text, most).rstrip()
