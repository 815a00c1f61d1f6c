"""Rows for tests: a published one's data, metric and seeds with a backbone that needs no weights; and running them."""

from repro.backbones.config import Cell
from repro.backbones.extractor import Execution
from repro.cli.readout import print_records
from repro.core.console import Reporter
from repro.core.workspace import Workspace
from repro.pipeline.row import RowRequest, run_row, train_readouts
from repro.pipeline.stored_row import open_stored_row
from repro.readout.compute import Compute
from repro.readout.recipe import TrainingPrecision
from repro.table.row import Row
from repro.table.rows import load_row

ONCE = RowRequest()


def colour_row(name: str, epochs: int) -> Row:
    row = load_row(name)
    recipe = load_row("smoke_mean_colour").readout.model_copy(update={"epochs": epochs})
    return row.model_copy(update={"backbone": "mean_colour", "features": Cell(layer="final"), "readout": recipe})


def run_here(
    row: Row,
    workspace: Workspace,
    request: RowRequest = ONCE,
    *,
    as_json: bool = False,
    allow_damaged: bool = False,
) -> None:
    """What `repro ROW` does once nothing is missing, in this process."""
    execution = Execution(workers=1, allow_damaged=allow_damaged)
    records = run_row(row, request, workspace, execution, Compute(), Reporter(to_stderr=as_json))
    print_records(row, records, workspace, as_json=as_json)


def read_out_here(
    row: Row,
    workspace: Workspace,
    request: RowRequest = ONCE,
    *,
    precision: TrainingPrecision = "fp32",
    as_json: bool = False,
) -> None:
    """What `repro readout ROW` does, in this process."""
    inputs = open_stored_row(row, workspace)
    records = train_readouts(inputs, request, workspace, Compute(precision=precision), Reporter(to_stderr=as_json))
    print_records(row, records, workspace, as_json=as_json)
