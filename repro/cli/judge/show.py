"""`repro show VIDEO`: a page that shows what a backbone makes of a clip."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from repro.backbones.config import choose_cells
from repro.backbones.extractor import Execution
from repro.backbones.registry import DEFAULT_BACKBONE, load_backbone
from repro.cli.options import (
    BACKBONE,
    COMMON,
    ON_DEVICE,
    BackboneName,
    BackboneOptions,
    CommonOptions,
    DamagedOption,
    DeviceOptions,
    LayersOption,
    PrecisionOption,
    RowName,
    TimestepsOption,
    parse_layers,
    parse_numbers,
    require_output,
)
from repro.core import LazyModule
from repro.core.console import Reporter
from repro.core.errors import Exit, UsageError
from repro.core.files import write_bytes
from repro.table.requirements import chosen_device
from repro.table.row import row_backbone
from repro.table.rows import extra_names, load_any_row, row_names

# These import torch, which takes seconds: mistakes are reported before.
if TYPE_CHECKING:
    from repro.pipeline.show import page as clip_page
    from repro.pipeline.show import view as clip_view
else:
    clip_page = LazyModule("repro.pipeline.show.page")
    clip_view = LazyModule("repro.pipeline.show.view")

MOST_CELLS = 12
"""Cells on one page: the maps of each take memory and a part of the page."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ShowOptions:
    """What is shown, and where the page is written."""

    backbone: Annotated[
        BackboneName | None, Parameter(help="A name from configs/backbones [default: the row's, else svd_xt].")
    ] = None
    timesteps: TimestepsOption = None
    layers: LayersOption = None
    row: Annotated[
        RowName | None,
        Parameter(help="A row that was run in this workspace: its cell, and its readout's scores over time."),
    ] = None
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="HTML file [default: VIDEO-BACKBONE.html in this folder].")
    ] = None


OPTIONS = ShowOptions()


def show(
    video: Path,
    /,
    *,
    options: ShowOptions = OPTIONS,
    config: BackboneOptions = BACKBONE,
    allow_damaged: DamagedOption = False,
    precision: PrecisionOption = (),
    compute: DeviceOptions = ON_DEVICE,
    common: CommonOptions = COMMON,
) -> Exit:
    """Show what a backbone makes of a video: frames, feature maps and vectors over time, as one HTML page.

    The page needs no network and loads nothing. Features and maps are computed for it alone and not stored.

    Example: `repro show clip.mp4 --backbone svd_xt --layers 5,9 -o clip.html`

    Args:
        video: A video file.
    """
    if str(video) in [*row_names(), *extra_names()] and not video.exists():
        raise UsageError(
            f"show {video}: a row, expected a video: `repro plan {video}` and `repro scores {video}` show rows"
        )
    row = None if options.row is None else load_any_row(options.row, *precision)
    if row is None:
        backbone = load_backbone(options.backbone or DEFAULT_BACKBONE, config.changes(), *precision)
    else:
        if options.backbone not in (None, row.backbone):
            raise UsageError(
                f"--backbone {options.backbone}: {row.name} reads {row.backbone}: leave out one of the two"
            )
        if config.changes():
            raise UsageError(f"--set and --implementation: {row.name} has its own settings: leave out --row or these")
        backbone = row_backbone(row)
    timesteps, layers = parse_numbers("--timesteps", options.timesteps), parse_layers(options.layers)
    cells = choose_cells(backbone, timesteps, layers) if row is None or timesteps or layers else (row.features,)
    cells = cells if row is None or row.features in cells else (row.features, *cells)
    if len(cells) > MOST_CELLS:
        raise UsageError(f"show: {len(cells)} cells: a page has at most {MOST_CELLS}: fewer --timesteps or --layers")
    output = options.output or Path(f"{video.stem}-{backbone.name}.html")
    # A name of another kind may be the video's: it would be overwritten.
    if output.suffix.lower() not in (".html", ".htm") or output.is_dir():
        raise UsageError(f"--output {output}: expected the name of an HTML file, as {video.stem}.html")
    require_output("--output", output)

    execution = Execution(chosen_device(compute.device), compute.batch, 1, allow_damaged, compile=compute.compiled)
    reporter = Reporter(to_stderr=common.as_json)
    view = clip_view.view_clip(
        clip_view.ShowRequest(video, backbone, cells, row), common.open_workspace(), execution, reporter
    )
    given = {
        "--backbone": options.backbone,
        "--row": options.row,
        "--timesteps": options.timesteps,
        "--layers": options.layers,
        "--implementation": config.implementation,
    }
    words = ["repro", "show", str(video), *(word for name, value in given.items() if value for word in (name, value))]
    repeated = {"--precision": precision, "--set": config.set_}
    words += [word for name, values in repeated.items() for value in values for word in (name, value)]
    words += ["--allow-damaged"] * allow_damaged
    page = clip_page.render_clip_page(view, shlex.join(words)).encode(errors="backslashreplace")
    write_bytes(output, page, by_user=True)
    if common.as_json:
        cells_found = {cell.cell: list(cell.vectors.shape) for cell in view.cells}
        print(json.dumps({"page": str(output), "bytes": len(page), "vectors": cells_found}, indent=1))
    else:
        reporter.line(f"{'page':<11} {clip_page.count_vectors(view)}, {len(page) / 1e6:.1f} MB  {output}")
    return Exit.OK
