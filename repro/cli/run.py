"""`repro run ROW`, or `repro ROW`: a row end to end."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from repro.cli.options import (
    COMMON,
    TRAINING,
    CommonOptions,
    FlagOption,
    ProtocolOption,
    SeedsOption,
    TrainingOptions,
    load_requested_row,
    open_compute,
    require_number,
)
from repro.cli.plan import print_plan
from repro.cli.readout import print_records, readout
from repro.core.console import Reporter
from repro.core.errors import Exit, UsageError
from repro.core.workspace import Workspace, device_from_environment
from repro.table import requirements
from repro.table.row import Row


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
    """Which readouts of a row are trained, and on which clips."""

    seeds: SeedsOption = 1
    protocol: ProtocolOption = "published"
    allow_missing: Annotated[
        FlagOption,
        Parameter(help="Continue without clips that are missing; recorded, and widens an accuracy row's margin."),
    ] = False
    limit: Annotated[
        int | None,
        Parameter(
            validator=require_number("--limit", 1),
            help="For a trial: use at most this many clips of each split; recorded, and never judged.",
        ),
    ] = None


ROW = RowOptions()


def run(
    row: str,
    /,
    *,
    options: RowOptions = ROW,
    from_: Annotated[Literal["features", "readout"], Parameter(name="--from")] = "features",
    dry_run: FlagOption = False,
    compute: TrainingOptions = TRAINING,
    common: CommonOptions = COMMON,
) -> Exit:
    """Run a row end to end: extract features, train the readout, write a run record.

    `repro ROW` is short for `repro run ROW`.

    Example: `repro ak_full --seeds 5`

    Args:
        row: A name from `repro list`.
        from_: First stage to run; readout skips extraction and uses stored features.
        dry_run: Print the plan (as `repro plan ROW`) and stop.
    """
    found, workspace = load_requested_row(row, compute.precision), common.open_workspace()
    if dry_run:
        if options.limit:
            raise UsageError("--dry-run plans the complete row: not with --limit")
        return print_plan(
            [row],
            workspace,
            seeds=options.seeds,
            protocol=options.protocol,
            device=compute.device,
            precision=compute.precision,
            as_json=common.as_json,
        )
    if from_ == "readout":
        if options.allow_missing or options.limit:
            raise UsageError(
                "--from readout uses the stored features of all clips: not with --limit or --allow-missing"
            )
        return readout(
            row,
            seeds=options.seeds,
            protocol=options.protocol,
            precision=compute.precision,
            device=compute.device,
            deterministic=compute.deterministic,
            allow_damaged=compute.allow_damaged,
            common=common,
        )
    device = require_ready(found, workspace, compute.device)
    training = open_compute(device, deterministic=compute.deterministic)

    from repro.pipeline.row import RowRequest, run_row  # imports torch, which takes seconds

    reporter = Reporter(to_stderr=common.as_json)
    records = run_row(
        found,
        RowRequest(options.seeds, options.protocol, options.limit, options.allow_missing),
        workspace,
        compute.execution(device, reporter.line),
        training,
        reporter,
    )
    print_records(found, records, as_json=common.as_json)
    return Exit.OK


def require_ready(row: Row, workspace: Workspace, device: str | None) -> str:
    """Return the device to compute on, after checking that nothing the row needs is missing.

    Raises:
        UsageError: no such kind of device.
        MissingError: data, weights or a GPU are missing.
    """
    # Missing files are reported before torch is imported, which takes seconds.
    named = device or device_from_environment()
    requirements.require_all(row, workspace, gpu=named is not None and named != "cpu")
    return requirements.chosen_device(device)
