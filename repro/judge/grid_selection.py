"""The cells of a row's grid, and which of them each protocol selects. Imports no torch.

published: the cell and epoch with the best score on the test split (docs/deviations.md 2 and 7).
held-out: the cell and epoch with the best score on held-out training clips, the same clips for every cell of a seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.backbones.config import Cell, choose_cells
from repro.core.errors import UsageError
from repro.records.record import RunRecord, Selection
from repro.table.row import Row, row_backbone


def grid_cells(row: Row) -> tuple[Cell, ...]:
    """Return every cell of the row's grid: 91 for SVD-XT, 7 timesteps by 13 layers.

    Raises:
        UsageError: its backbone has no timesteps.
    """
    config = row_backbone(row)
    if config.axes().timesteps is None:
        raise UsageError(
            f"--grid: {row.name} reads {row.backbone}, which has no timesteps; the grid is one of timesteps and layers: run "
            f"`{row.command}` alone"
        )
    return choose_cells(config, grid=True)


def has_grid(row: Row) -> bool:
    """Whether the row's backbone has timesteps, and so a grid."""
    return row_backbone(row).axes().timesteps is not None


def choose_grid_part(
    cells: Sequence[Cell], timesteps: Sequence[int] | None, layers: Sequence[int] | None
) -> tuple[Cell, ...]:
    """Return the cells at the given timesteps and layers; None means all of them.

    Raises:
        UsageError: the grid has no such timestep or layer.
    """
    for option, requested, available in (
        ("--timesteps", timesteps, sorted({cell.timestep for cell in cells if cell.timestep is not None})),
        ("--layers", layers, sorted({cell.layer for cell in cells if isinstance(cell.layer, int)})),
    ):
        unknown = [number for number in requested or () if number not in available]
        if unknown:
            raise UsageError(f"{option} {unknown[0]}: the grid has {', '.join(map(str, available))}")
    return tuple(
        cell
        for cell in cells
        if (timesteps is None or cell.timestep in timesteps) and (layers is None or cell.layer in layers)
    )


@dataclass(frozen=True, slots=True)
class Selected:
    """What a protocol selects among one seed's runs; scores of the row's metric, as fractions of 1."""

    seed: int
    cell: str
    epoch: int
    chosen_on: float
    """The score that was maximised: on the test split, or on held-out clips."""
    test: float
    """Score on the test split at that epoch."""
    last_epoch: float
    """Score on the test split after the cell's last epoch."""
    equals: int
    """Number of cells with the same score, this one included."""


def selection_of(run: RunRecord) -> Selection:
    """Return the epoch, with its test scores, that the run's protocol selects."""
    return run.best_epoch_on_held_out or run.best_epoch_on_test


def selection_score(run: RunRecord) -> float:
    """Return the score that a run's cell is selected by: at the selected epoch, on the clips that selected it."""
    if run.best_epoch_on_held_out is None:
        return run.best_epoch_on_test.scores[run.metric]
    # `best_epoch_on_held_out` has the test scores of its epoch; the held-out score that selected it is in `epochs`.
    epoch = next(epoch for epoch in run.epochs if epoch.epoch == run.best_epoch_on_held_out.epoch)
    assert epoch.held_out is not None
    return epoch.held_out[run.metric]


def select_cell(runs: Mapping[str, RunRecord], order: Sequence[str]) -> Selected:
    """Select the best of one seed's runs under their protocol; ties go to the first in `order`.

    Args:
        runs: By cell.
        order: Names of the grid's cells, including any that were not run.
    """
    # max() returns the first of equal items, so the order decides ties the same way on every machine.
    cell = max((cell for cell in order if cell in runs), key=lambda cell: selection_score(runs[cell]))
    run = runs[cell]
    return Selected(
        run.seed,
        cell,
        selection_of(run).epoch,
        selection_score(run),
        selection_of(run).scores[run.metric],
        run.last_epoch.scores[run.metric],
        # Scores of few test clips take few values: the report says when the choice was between equals.
        sum(selection_score(other) == selection_score(run) for other in runs.values()),
    )
