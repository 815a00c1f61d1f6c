"""`repro grid ROW`: a row's readout at every timestep and layer."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from repro.cli.options import (
    COMMON,
    TRAINING,
    CommonOptions,
    FlagOption,
    SeedsOption,
    TrainingOptions,
    load_requested_row,
    require_number,
)
from repro.core.errors import Exit
from repro.core.workspace import device_from_environment
from repro.table import requirements


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class GridOptions:
    """Which cells of the grid are trained, and how."""

    timesteps: Annotated[
        str | None, Parameter(help="Some of the grid's timesteps, as 20 or 0,5,10 [default: all].")
    ] = None
    layers: Annotated[str | None, Parameter(help="Some of the grid's layers, as 9, 1,9 or 1-13 [default: all].")] = None
    head: Annotated[
        Literal["transformer", "linear"] | None,
        Parameter(help="Readout; linear is that of the release's linear grids [default: the row's]."),
    ] = None
    stored_as: Annotated[
        Literal["fp16", "fp32"] | None,
        Parameter(
            help="Type of the stored features. fp16 takes half the disk, but its runs are kept apart from the row's own "
            "[default: fp32]."
        ),
    ] = None
    jobs: Annotated[
        int | None,
        Parameter(
            validator=require_number("--jobs", 1),
            help="Readouts trained at the same time; they share the cores and the GPU [default: 1].",
        ),
    ] = None


GRID = GridOptions()


def grid(
    row: str,
    /,
    *,
    seeds: SeedsOption = 1,
    protocol: Literal["published", "honest", "both"] = "published",
    options: GridOptions = GRID,
    allow_missing: FlagOption = False,
    compute: TrainingOptions = TRAINING,
    common: CommonOptions = COMMON,
) -> Exit:
    """Train a row's readout at each of 7 timesteps and 13 layers and report the best.

    Writes a table and a heat map to the workspace's reports folder. `repro ROW --grid` is the same command.

    Example: `repro grid ak_full --protocol both --jobs 4`

    Args:
        row: A name from `repro list`.
        protocol: honest selects cell and epoch on clips held out of the training split; both does either.
        allow_missing: Continue without clips that are missing; recorded, and widens an accuracy row's margin.
    """
    found, workspace = load_requested_row(row), common.open_workspace()

    from repro.pipeline.grid import grid as grids

    wish = grids.wish(options.timesteps, options.layers, options.head, protocol, options.stored_as, options.jobs)
    grids.wished_row(row, wish)
    named = compute.device or device_from_environment()
    requirements.require_all(found, workspace, gpu=named is not None and named != "cpu")
    how = grids.Options(
        seeds,
        requirements.chosen_device(compute.device),
        compute.deterministic,
        compute.workers,
        compute.batch,
        allow_missing,
    )
    return grids.run(row, wish, how, workspace, as_json_=common.as_json)
