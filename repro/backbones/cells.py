"""Which cells a backbone has. Imports no torch."""

from collections.abc import Sequence

from repro.backbones.config import SVD_LAYERS, BackboneConfig, Cell, DeclaredConfig, MeanColourConfig, SvdConfig
from repro.errors import MissingError, UsageError

GRID_TIMESTEPS = (0, 5, 10, 15, 20, 25, 29)
"""The release's, of 30 steps; a schedule with fewer has those of them that it has."""


def choose_cells(
    name: str, config: BackboneConfig, timesteps: Sequence[int], layers: Sequence[int], grid: bool
) -> tuple[Cell, ...]:
    """Every pair of the timesteps and layers asked for; the one cell of a backbone that has neither.

    Raises:
        UsageError: a timestep or layer that does not exist; the message says which do.
        MissingError: the backbone cannot be computed in this version.
    """
    if isinstance(config, DeclaredConfig):
        raise MissingError(f"backbone {name}: this version has no extraction for it; see CHANGELOG.md")
    if isinstance(config, MeanColourConfig):
        return (Cell(layer="final"),)
    steps = config.schedule.steps
    if grid:
        timesteps, layers = [t for t in GRID_TIMESTEPS if t < steps], range(1, SVD_LAYERS + 1)
    for timestep in timesteps:
        if timestep >= steps:
            raise UsageError(f"timestep {timestep} does not exist: {name} has 0 (the noisiest) to {steps - 1}")
    for layer in layers:
        if not 1 <= layer <= SVD_LAYERS:
            raise UsageError(
                f"layer {layer} does not exist: {name} has 1 to {SVD_LAYERS} (12 input blocks and the middle block)"
            )
    return tuple(Cell(timestep=timestep, layer=layer) for timestep in timesteps for layer in layers)


def channels(config: BackboneConfig, cell: Cell) -> int:
    """Width of a cell's vectors."""
    if isinstance(config, MeanColourConfig):
        return config.width
    assert isinstance(config, SvdConfig)
    assert isinstance(cell.layer, int)
    return config.architecture.unet.channels * (1 if cell.layer <= 4 else 2 if cell.layer <= 7 else 4)
