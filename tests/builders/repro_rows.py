"""Rows for tests: a published one's data, metric and seeds with a backbone that needs no weights."""

from repro.backbones.config import Cell
from repro.table.row import Row
from repro.table.rows import load_row


def colour_row(name: str, epochs: int) -> Row:
    row = load_row(name)
    recipe = load_row("smoke_mean_colour").readout.model_copy(update={"epochs": epochs})
    return row.model_copy(update={"backbone": "mean_colour", "features": Cell(layer="final"), "readout": recipe})
