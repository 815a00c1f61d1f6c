"""A grid's result: its runs by protocol, seed and cell, as JSON, CSV and lines of text. Scores in points (percent)."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from repro.backbones.config import Cell
from repro.core.console import format_csv
from repro.features.store import PRECISION_NAMES, StoredAs
from repro.judge.formats import format_mean
from repro.judge.grid_selection import Selected, select_cell, selection_of, selection_score
from repro.judge.outcome import mean_and_spread
from repro.readout.recipe import Protocol
from repro.records.record import RunRecord
from repro.table.row import Row

GRID_RULES: dict[Protocol, str] = {
    "published": "best cell and epoch on the test split",
    "held-out": "cell and epoch picked on held-out training clips",
}
# The columns of the CSV, in order: the keys of list_runs.
GRID_COLUMNS = (
    "row",
    "head",
    "protocol",
    "seed",
    "timestep",
    "layer",
    "cell",
    "epoch",
    "chosen_on",
    "test",
    "last_epoch",
    "run",
)


@dataclass(frozen=True, slots=True)
class GridResult:
    """The recorded runs of a row's grid."""

    row: Row
    """With the head that was trained."""
    cells: tuple[Cell, ...]
    """Of the complete grid, whether they were run or not."""
    seeds: tuple[int, ...]
    runs: Mapping[tuple[Protocol, int, str], RunRecord]
    """By protocol, seed and cell."""
    stored_as: StoredAs
    """Type of the stored features."""
    report: str
    """Name of the report's files."""

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        return tuple(protocol for protocol in GRID_RULES if any(key[0] == protocol for key in self.runs))

    @property
    def optimism(self) -> str:
        """The caveat that goes with the published rule's number."""
        return f"the best of {self.count_cells('published')} cells on the test split is optimistic by construction"

    def runs_of(self, protocol: Protocol, seed: int) -> dict[str, RunRecord]:
        """A seed's runs by cell."""
        return {cell: run for (p, s, cell), run in self.runs.items() if (p, s) == (protocol, seed)}

    def select_cells(self, protocol: Protocol) -> list[Selected]:
        """What the protocol's rule selects for each seed with the most cells.

        Seeds with fewer cells are left out: the best of few and the best of many cells have no common mean.
        """
        # Ties go to the first cell in the grid's order.
        order, most = [cell.name for cell in self.cells], self.count_cells(protocol)
        return [select_cell(runs, order) for seed in self.seeds if len(runs := self.runs_of(protocol, seed)) == most]

    def count_cells(self, protocol: Protocol) -> int:
        """The largest number of cells that a seed has."""
        return max(len(self.runs_of(protocol, seed)) for seed in self.seeds)

    def mean_score(self, protocol: Protocol, cell: Cell) -> float | None:
        """Mean, over the seeds that have the cell, of the score it is selected by, in points; None if no seed has it."""
        scores = [selection_score(run) for seed in self.seeds if (run := self.runs_of(protocol, seed).get(cell.name))]
        return 100 * statistics.fmean(scores) if scores else None


def grid_as_json(result: GridResult) -> dict[str, object]:
    row, published = result.row, result.row.published
    first = next(iter(result.runs.values()))
    return {
        "row": result.row.name,
        "metric": row.metric,
        "published": None if published is None else published.value,
        "train": str(row.data.train),
        "test": str(row.data.test),
        "recipe": row.readout.model_dump(mode="json"),
        "features": {
            "backbone": row.backbone,
            "key": first.features.key,
            "stored_as": PRECISION_NAMES[result.stored_as],
        },
        "seeds": list(result.seeds),
        "timesteps": sorted({cell.timestep for cell in result.cells if cell.timestep is not None}),
        "layers": sorted({cell.layer for cell in result.cells if isinstance(cell.layer, int)}),
        "cells_of_grid": len(result.cells),
        "note": result.optimism if "published" in result.protocols else "",
        "protocols": {protocol: _protocol_json(result, protocol) for protocol in result.protocols},
        "scores": list_runs(result),
    }


def _protocol_json(result: GridResult, protocol: Protocol) -> dict[str, object]:
    chosen = result.select_cells(protocol)
    mean, spread = mean_and_spread([100 * one.test for one in chosen])
    return {
        "rule": GRID_RULES[protocol],
        "cells": result.count_cells(protocol),
        # Partial grids are reported; `repro check` judges only the best cell of a complete one.
        "whole": result.count_cells(protocol) == len(result.cells),
        "selected": [
            asdict(one) | {name: _to_points(getattr(one, name)) for name in ("chosen_on", "test", "last_epoch")}
            for one in chosen
        ],
        "test": round(mean, 4),
        "spread": None if spread is None else round(spread, 4),
    }


def list_runs(result: GridResult) -> list[dict[str, object]]:
    """One entry per run: by protocol and seed, then in the grid's order."""
    found: list[dict[str, object]] = []
    for protocol in result.protocols:
        for seed in result.seeds:
            runs = result.runs_of(protocol, seed)
            for cell in result.cells:
                if cell.name in runs:
                    run = runs[cell.name]
                    found.append(
                        {
                            "row": result.row.name,
                            "head": run.recipe.head,
                            "protocol": protocol,
                            "seed": seed,
                            "timestep": cell.timestep,
                            "layer": cell.layer,
                            "cell": cell.name,
                            "epoch": selection_of(run).epoch,
                            "chosen_on": _to_points(selection_score(run)),
                            "test": _to_points(selection_of(run).scores[run.metric]),
                            "last_epoch": _to_points(run.last_epoch.scores[run.metric]),
                            "run": run.run,
                        }
                    )
    return found


def grid_as_csv(result: GridResult) -> str:
    return format_csv(
        [GRID_COLUMNS, *([run[column] for column in GRID_COLUMNS] for run in list_runs(result))], end="\n"
    )


def format_table(result: GridResult, protocol: Protocol) -> list[str]:
    """Lines of a table with timesteps across and layers down; `*` marks what the rule selects for any seed."""
    timesteps = sorted({cell.timestep for cell in result.cells if cell.timestep is not None})
    layers = sorted({cell.layer for cell in result.cells if isinstance(cell.layer, int)})
    marked = {one.cell for one in result.select_cells(protocol)}
    text = [f"{'layer':>5} " + "".join(f"{f't{t}':>7} " for t in timesteps).rstrip()]
    for layer in layers:
        parts = []
        for timestep in timesteps:
            cell = Cell(timestep=timestep, layer=layer)
            value = result.mean_score(protocol, cell)
            parts.append(f"{'-' if value is None else f'{value:.2f}':>7}" + ("*" if cell.name in marked else " "))
        text.append(f"{layer:>5} " + "".join(parts).rstrip())
    return text


def format_summary(result: GridResult) -> list[str]:
    """Lines that state what each rule selects, seed by seed, and the published value."""
    metric, whole = result.row.metric, len(result.cells)
    text = []
    for protocol in result.protocols:
        chosen = result.select_cells(protocol)
        scores = [100 * one.test for one in chosen]
        over = f" over {len(scores)} seeds" if len(scores) > 1 else ""
        text.append(
            f"{protocol:<10} {metric} {format_mean(*mean_and_spread(scores))}{over} on test: {GRID_RULES[protocol]}, "
            f"{result.count_cells(protocol)} of {whole} cells"
        )
        for one in chosen:
            on = "" if protocol == "published" else f", {100 * one.chosen_on:.2f} on held-out clips"
            text.append(
                f"{'':<10} seed {one.seed}: {one.cell} epoch {one.epoch}, {100 * one.test:.2f} on test{on}; its last epoch "
                f"{100 * one.last_epoch:.2f}{f'; the first of {one.equals} equals' if one.equals > 1 else ''}"
            )
            own = result.runs_of(protocol, one.seed).get(result.row.features.name)
            if own is not None and one.cell != result.row.features.name:
                text.append(
                    f"{'':<10} seed {one.seed}: the row's own cell {own.features.cell}, epoch {selection_of(own).epoch}, "
                    f"{100 * selection_of(own).scores[metric]:.2f} on test"
                )
    published = result.row.published
    if published is not None:
        text.append(f"{'the table':<10} {metric} {published.value:.{published.digits}f}")
    if "published" in result.protocols:
        # Stated with the number, so that neither is quoted without the other.
        text.append(result.optimism)
    return text


def describe_seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of seeds {', '.join(map(str, seeds))}"


def _to_points(share: float) -> float:
    # Two digits are published. Four show a single clip: 1 of 6,096 is 0.0164 points.
    return round(100 * share, 4)
