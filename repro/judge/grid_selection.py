"""The cells of a row's grid, and which of them each rule selects. Imports no torch.

published: the cell and epoch that score best on the test split (docs/deviations.md 2 and 7).
honest: the cell and epoch that score best on held-out training clips, which are the same clips for every cell of a seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.backbones.config import Cell, choose_cells
from repro.core.errors import UsageError
from repro.records.record import RunRecord, Selection
from repro.table.row import Row, row_backbone


def grid_cells(row: Row) -> tuple[Cell, ...]:
    """Every cell of the row's grid: 91 for SVD-XT.

    Raises:
        UsageError: its backbone has no timesteps.
    """
    config = row_backbone(row)
    if config.axes().timesteps is None:
        raise UsageError(
            f"--grid: {row.name} reads {row.backbone}, which has no timesteps; the grid is one of timesteps and layers: run "
            f"`repro {row.name}` alone"
        )
    return choose_cells(config, grid=True)


def has_grid(row: Row) -> bool:
    return row_backbone(row).axes().timesteps is not None


def choose_grid_part(
    cells: Sequence[Cell], timesteps: Sequence[int] | None, layers: Sequence[int] | None
) -> tuple[Cell, ...]:
    """The cells at those timesteps and layers; None: at all.

    Raises:
        UsageError: one that the grid does not have.
    """
    for option, asked, there in (
        ("--timesteps", timesteps, sorted({cell.timestep for cell in cells if cell.timestep is not None})),
        ("--layers", layers, sorted({cell.layer for cell in cells if isinstance(cell.layer, int)})),
    ):
        strange = [number for number in asked or () if number not in there]
        if strange:
            raise UsageError(f"{option} {strange[0]}: the grid has {', '.join(map(str, there))}")
    return tuple(
        cell
        for cell in cells
        if (timesteps is None or cell.timestep in timesteps) and (layers is None or cell.layer in layers)
    )


@dataclass(frozen=True, slots=True)
class Selected:
    """What a rule selects among one seed's runs; scores as fractions of 1, of the row's metric."""

    seed: int
    cell: str
    epoch: int
    chosen_on: float
    """The score that was maximised: on the test split, or on held-out clips."""
    test: float
    """On the test split, at that epoch."""
    last_epoch: float
    """On the test split, after the cell's last epoch."""
    equals: int
    """Number of cells with the same score, this one included."""


def selection_of(run: RunRecord) -> Selection:
    """Return the epoch that the run's protocol selects."""
    return run.best_epoch_on_held_out or run.best_epoch_on_test


def selection_score(run: RunRecord) -> float:
    """Return the score that a run's cell is selected by: at the selected epoch, on the clips that selected it."""
    if run.best_epoch_on_held_out is None:
        return run.best_epoch_on_test.scores[run.metric]
    epoch = next(epoch for epoch in run.epochs if epoch.epoch == run.best_epoch_on_held_out.epoch)
    assert epoch.held_out is not None
    return epoch.held_out[run.metric]


def select_cell(runs: Mapping[str, RunRecord], order: Sequence[str]) -> Selected:
    """Select the best of one seed's `runs` (by cell) under their protocol; ties go to the first in `order`."""
    cell = max((cell for cell in order if cell in runs), key=lambda cell: selection_score(runs[cell]))
    run = runs[cell]
    return Selected(
        run.seed,
        cell,
        selection_of(run).epoch,
        selection_score(run),
        selection_of(run).scores[run.metric],
        run.last_epoch.scores[run.metric],
        sum(selection_score(other) == selection_score(run) for other in runs.values()),
    )
