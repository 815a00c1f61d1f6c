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
    require_number,
)
from repro.core.errors import Exit, UsageError
from repro.core.workspace import device_from_environment
from repro.table import requirements


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
    found, workspace = load_requested_row(row), common.open_workspace()
    if dry_run:
        if options.limit:
            raise UsageError("--dry-run plans the complete row: not with --limit")
        from repro.cli.plan import print_plan

        return print_plan(
            [row],
            workspace,
            seeds=options.seeds,
            protocol=options.protocol,
            device=compute.device,
            as_json=common.as_json,
        )
    if from_ == "readout":
        if options.allow_missing or options.limit:
            raise UsageError(
                "--from readout uses the stored features of all clips: not with --limit or --allow-missing"
            )
        from repro.cli.readout import readout

        return readout(
            row,
            seeds=options.seeds,
            protocol=options.protocol,
            device=compute.device,
            deterministic=compute.deterministic,
            common=common,
        )
    # Missing files are reported before torch is imported, which takes seconds.
    named = compute.device or device_from_environment()
    requirements.require_all(found, workspace, gpu=named is not None and named != "cpu")
    device = requirements.chosen_device(compute.device)

    from repro.pipeline import running

    wanted = running.Options(
        options.seeds,
        options.protocol,
        device,
        compute.deterministic,
        workers=compute.workers,
        batch=compute.batch,
        allow_missing=options.allow_missing,
        limit=options.limit,
    )
    return running.run(row, wanted, workspace, as_json=common.as_json)
