"""Which cells of a backbone are meant. Imports no torch."""

from collections.abc import Sequence

from repro.backbones.config import Axes, BackboneConfig, Cell, Layer
from repro.core.errors import UsageError

GRID_TIMESTEPS = (0, 5, 10, 15, 20, 25, 29)
"""The release's, of 30 steps; a schedule with fewer has those of them that it has."""


def choose_cells(
    name: str,
    config: BackboneConfig,
    timesteps: Sequence[int] | None = None,
    layers: Sequence[Layer] | None = None,
    grid: bool = False,
) -> tuple[Cell, ...]:
    """Every pair of the timesteps and layers asked for; where nothing is said of one, the usual one.

    Timesteps say nothing to a backbone without a noise schedule, layers nothing to one without numbered ones: so it can be
    asked for beside one that has them.

    Raises:
        UsageError: a timestep or layer that does not exist; the message says which do.
    """
    axes = config.axes()
    if grid and axes.timesteps is not None:
        timesteps = [t for t in GRID_TIMESTEPS if t < axes.timesteps]
        layers = range(1, (axes.layers or 0) + 1)
    if not axes.words:
        layers = None
    for layer in layers or ():
        if layer in (0, "up_0"):
            raise UsageError(f"layer {layer} does not exist: {name} has {_there(axes)}")
    chosen = tuple(
        Cell(timestep=timestep, layer=layer)
        for timestep in ((axes.usual.timestep,) if axes.timesteps is None else timesteps or (axes.usual.timestep,))
        for layer in layers or (axes.usual.layer,)
    )
    for cell in chosen:
        problem = lacking(name, config, cell)
        if problem:
            raise UsageError(problem)
    return chosen


def _there(axes: Axes) -> str:
    """Which layers, in words."""
    numbered = f"1 to {axes.layers} ({axes.words})" if axes.layers else axes.words
    ups = f"up_1 to up_{axes.ups} (output blocks)" if axes.ups else ""
    return " and ".join(part for part in (numbered, ups, "'final'" if axes.final else "") if part)


def lacking(name: str, config: BackboneConfig, cell: Cell) -> str:
    """ "" where the backbone has `cell`; else what it has instead."""
    axes = config.axes()
    if axes.timesteps is None and cell.timestep is not None:
        return f"timestep {cell.timestep} does not exist: {name} has no timesteps"
    if axes.timesteps is not None and (cell.timestep is None or cell.timestep >= axes.timesteps):
        told = "none is given" if cell.timestep is None else f"timestep {cell.timestep} does not exist"
        return f"{told}: {name} has timesteps 0 (the noisiest) to {axes.timesteps - 1}"
    if isinstance(cell.layer, int):
        known = bool(axes.words) and cell.layer <= (axes.layers or cell.layer)
    else:
        known = axes.final if cell.layer == "final" else int(cell.layer.removeprefix("up_")) <= axes.ups
    return "" if known else f"layer {cell.layer} does not exist: {name} has {_there(axes)}"
