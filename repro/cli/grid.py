"""`repro grid ROW`: a row's readout at every timestep and layer."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from repro.cli.options import (
    COMMON,
    STORED_AS,
    TRAINING,
    CommonOptions,
    FlagOption,
    RowName,
    SeedsOption,
    TrainingOptions,
    follow_work,
    load_requested_row,
    open_compute,
    parse_numbers,
    read_protocol,
    require_number,
)
from repro.cli.run import require_ready
from repro.core import LazyModule
from repro.core.console import Reporter, print_line, print_lines, print_sentence
from repro.core.errors import Exit, MissingError
from repro.core.workspace import Workspace
from repro.pipeline.grid import report
from repro.pipeline.grid.report import GridResult
from repro.readout.recipe import PROTOCOLS

# Imports torch, which takes seconds: mistakes in the options are reported before.
if TYPE_CHECKING:
    from repro.pipeline.grid import grid as grids
else:
    grids = LazyModule("repro.pipeline.grid.grid")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class GridOptions:
    """Which cells of the grid are trained, and how."""

    timesteps: Annotated[
        str | None, Parameter(help="Some of the grid's timesteps, as 20 or 0,5,10 [default: all].")
    ] = None
    layers: Annotated[str | None, Parameter(help="Some of the grid's layers: 9; 1,9; or 1-13 [default: all].")] = None
    head: Annotated[
        Literal["transformer", "linear"] | None,
        Parameter(help="Kind of readout; the release has linear grids [default: the row's]."),
    ] = None
    stored_as: Annotated[
        Literal["fp16", "fp32"] | None,
        Parameter(help="Type on disk; runs on fp16 are kept apart from the row's own [default: fp32]."),
    ] = None
    jobs: Annotated[
        int | None,
        Parameter(
            validator=require_number("--jobs", 1),
            help="Readouts trained at the same time [default: 1].",
        ),
    ] = None
    all_predictions: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Keep scores of every clip in all cells, not only in the row's own and the best.",
        ),
    ] = False


GRID = GridOptions()


def grid(
    row: RowName,
    /,
    *,
    seeds: SeedsOption = 1,
    protocol: Annotated[
        Literal["published", "held-out", "both"] | None,
        Parameter(converter=read_protocol, show_choices=False, metavar="RULE"),
    ] = None,
    options: GridOptions = GRID,
    allow_missing: FlagOption = False,
    compute: TrainingOptions = TRAINING,
    common: CommonOptions = COMMON,
) -> Exit:
    """Train a row's readout at each of 7 timesteps and 13 layers and report the best.

    Writes a table and a heat map to the workspace's reports folder.

    Example: `repro grid ak_full --protocol both --jobs 4`

    Args:
        row: A name from `repro list`, or the path of a row file of own clips.
        protocol: Selects cell and epoch: published, held-out or both [default: published, for own clips held-out].
        allow_missing: Continue without missing clips; recorded, and widens the interval.
    """
    found, workspace = load_requested_row(row, compute.precision), common.open_workspace()
    timesteps = parse_numbers("--timesteps", options.timesteps)
    layers = parse_numbers("--layers", options.layers)

    request = grids.GridRequest(
        timesteps=timesteps,
        layers=layers,
        head=options.head,
        protocols=PROTOCOLS if protocol == "both" else (protocol or found.default_protocol,),
        seeds=seeds,
        stored_as=STORED_AS[options.stored_as or "fp32"],
        jobs=options.jobs or 1,
        allow_missing=allow_missing,
        all_predictions=options.all_predictions,
    )
    # Planned before files are checked: a row whose features are no cell of the grid is refused whatever is missing.
    cells = grids.plan_grid(found, request).cells
    device = require_ready(found, workspace, compute.device)
    training = open_compute(device, deterministic=compute.deterministic, together=compute.together)
    reporter = Reporter(to_stderr=common.as_json)
    execution = compute.execution(device, reporter.line)
    with follow_work(reporter, f"grid {found.name}", workspace, device) as work:
        result, failures = grids.run_grid(found, request, workspace, execution, training, reporter)
        if failures:
            work.failure = f"{len(failures)} of {len(cells) * len(request.protocols)} cells failed"
    print_grid(result, workspace, as_json=common.as_json)
    if failures:
        raise MissingError(
            f"row {row}: {work.failure}, {next(iter(failures))} first: "
            "each is named above; fix it and run the same command: what is finished is kept"
        )
    return Exit.OK


def print_grid(result: GridResult, workspace: Workspace, *, as_json: bool) -> None:
    """Print a table for each protocol, what its rule selects, and where the report is."""
    if as_json:
        print(json.dumps(report.grid_as_json(result) if result.runs else {}, indent=1))
        return
    if not result.runs:
        return
    for protocol in result.protocols:
        rule = "best epoch on test" if protocol == "published" else "best epoch on held-out clips"
        seeds = report.describe_seeds(result.seeds)
        print_line()
        print_sentence(f"{result.row.name}, {protocol} protocol: {result.row.metric}, {rule}, {seeds}")
        print_lines(report.format_table(result, protocol))
    print_line()
    for line in report.format_summary(result):
        print_sentence(line, indent=11)
    for other in PROTOCOLS:
        if other not in result.protocols:
            option = "both" if other == "held-out" else other
            print_sentence(f"for the {other} selection too: the same command with --protocol {option}")
    print_sentence("written " + ", ".join(str(path) for path in grids.report_paths(result, workspace)))
    if result.row.published:
        print_line("`repro check` judges")
