"""`repro run ROW...`, or `repro ROW`: rows end to end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from repro.cli.options import (
    COMMON,
    TRAINING,
    CommonOptions,
    FlagOption,
    ProtocolOption,
    RowName,
    SeedsOption,
    TrainingOptions,
    follow_work,
    load_requested_rows,
    open_compute,
    require_number,
)
from repro.cli.plan import print_plan
from repro.cli.readout import ReadoutOptions, print_records, train_stored_row
from repro.core import LazyModule
from repro.core.console import Reporter, print_line, print_lines, print_sentence, terminal_width
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.workspace import Workspace, device_from_environment
from repro.datasets.registry import open_dataset
from repro.table import requirements
from repro.table.imported import explain_imported, has_imported_features
from repro.table.requirements import missing_of_rows
from repro.table.row import Row

# These import torch, which takes seconds: what is missing is reported before.
if TYPE_CHECKING:
    from repro.pipeline import row as pipeline_row
    from repro.pipeline import several_rows
else:
    pipeline_row = LazyModule("repro.pipeline.row")
    several_rows = LazyModule("repro.pipeline.several_rows")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
    """Which readouts of a row are trained, and on which clips."""

    seeds: SeedsOption = 1
    protocol: ProtocolOption = None
    allow_missing: Annotated[
        FlagOption,
        Parameter(help="Continue without missing clips; recorded, and widens the interval."),
    ] = False
    limit: Annotated[
        int | None,
        Parameter(
            validator=require_number("--limit", 1),
            help="Trial on at most so many clips of each split; never judged.",
        ),
    ] = None


ROW = RowOptions()


def run(
    row: RowName,
    /,
    *more: RowName,
    options: RowOptions = ROW,
    from_: Annotated[Literal["features", "readout"], Parameter(name="--from")] = "features",
    dry_run: FlagOption = False,
    compute: TrainingOptions = TRAINING,
    common: CommonOptions = COMMON,
) -> Exit:
    """Run a row end to end: extract features, train the readout, write a run record.

    `repro ROW` is short for `repro run ROW`. Several rows decode each clip once for all their backbones that sample it alike, and
    svd_xt and sdv2 share all networks but the UNet. Rows whose data or weights are missing are named at the end, and the others run.

    Example: `repro ak_full --seeds 5`, or `repro run ak_full ak_full_sdv2`

    Args:
        row: A name from `repro list`, the path of a row file of own clips, or all.
        more: Further rows.
        from_: First stage; readout uses stored features.
        dry_run: Print the plan (as `repro plan ROW`) and stop.
    """
    rows, workspace = load_requested_rows((row, *more), compute.precision), common.open_workspace()
    if compute.profile and (dry_run or from_ == "readout"):
        raise UsageError("--profile traces the extraction of features: not with --dry-run or --from readout")
    if dry_run:
        if options.limit:
            raise UsageError("--dry-run plans the complete row: not with --limit")
        return print_plan(
            rows,
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
        if len(rows) > 1:
            raise UsageError("--from readout takes one row: run `repro readout ROW` for each")
        return train_stored_row(
            rows[0],
            workspace,
            seeds=options.seeds,
            protocol=options.protocol,
            training=ReadoutOptions(
                device=compute.device, deterministic=compute.deterministic, together=compute.together
            ),
            allow_damaged=compute.allow_damaged,
            as_json=common.as_json,
        )
    # Rows that have all they need run, and what the others are missing is listed at the end.
    blocked = [] if len(rows) == 1 else [found for found in rows if missing_of_rows([found], workspace)]
    rows = [found for found in rows if found not in blocked]
    if not rows:
        refuse_missing(blocked, workspace)
    device = require_ready(rows[0], workspace, compute.device)
    training = open_compute(device, deterministic=compute.deterministic, together=compute.together)
    reporter = Reporter(to_stderr=common.as_json)
    for found in rows:
        for config in found.own_datasets.values():
            for note in open_dataset(config, workspace).notes:
                reporter.line(f"{'data':<11} {note}")
    request = pipeline_row.RowRequest(options.seeds, options.protocol, options.limit, options.allow_missing)
    execution = compute.execution(device, reporter.line)
    if len(rows) == 1 and not blocked:
        with follow_work(reporter, f"run {rows[0].name}", workspace, device):
            records = pipeline_row.run_row(rows[0], request, workspace, execution, training, reporter)
        print_records(rows[0], records, workspace, as_json=common.as_json)
        return Exit.OK
    more_rows = "" if len(rows) <= 3 else f" and {len(rows) - 3} more rows"
    names = "all" if (row, *more) == ("all",) else " ".join(found.name for found in rows[:3]) + more_rows
    with follow_work(reporter, f"run {names}", workspace, device) as work:
        result = several_rows.run_rows(rows, request, workspace, execution, training, reporter)
        if result.failures:
            work.failure = f"{len(result.failures)} of {len(rows)} rows failed: {', '.join(result.failures)}"
    if common.as_json:
        runs = [record.model_dump(mode="json") for records in result.records.values() for record in records]
        print(json.dumps(runs, indent=1))
    else:
        for found in rows:
            if found.name in result.records:
                print_records(found, result.records[found.name], workspace, as_json=False)
    for name, reason in result.failures.items():
        print_sentence(f"{name}: {reason}", to_stderr=True)
    if blocked:
        refuse_missing(blocked, workspace, as_objects=False)  # stdout has the runs already
    if result.failures:
        raise MissingError(
            f"{len(result.failures)} of {len(rows)} rows failed, for the reasons above; the same command runs them and reuses "
            "the others"
        )
    return Exit.OK


def require_ready(row: Row, workspace: Workspace, device: str | None) -> str:
    """Return the device to compute on, after checking that nothing the row needs is missing.

    Raises:
        UsageError: no such kind of device.
        MissingError: data, weights or a GPU are missing.
    """
    # Missing files are reported before torch is imported, which takes seconds.
    named = device or device_from_environment()
    if any(requirements.missing_items(row, workspace)) and has_imported_features(row, workspace):
        print_sentence(explain_imported(row), to_stderr=True)
    refuse_missing([row], workspace, gpu=named is not None and named != "cpu")
    return requirements.chosen_device(device)


def refuse_missing(rows: Sequence[Row], workspace: Workspace, *, gpu: bool = False, as_objects: bool = True) -> None:
    """Print what `rows` are missing, one thing a line.

    Raises:
        MissingError: something is missing; with `gpu` also a GPU. The message has the command that gets all of it. Without
            `as_objects`, --json prints no object for it.
    """
    items = missing_of_rows(rows, workspace)
    no_gpu = [requirements.NO_GPU] if gpu and not requirements.gpu_visible() else []
    if not items:
        if no_gpu:
            raise MissingError(requirements.NO_GPU.remedy, [requirements.NO_GPU.as_json()])
        return
    print_missing(items)
    if no_gpu:
        print_sentence(f"  GPU: {requirements.NO_GPU.remedy}", to_stderr=True, indent=2)
    names = [row.argument for row in rows]
    subject = (
        f"row {names[0]}"
        if len(names) == 1
        else f"{len(names)} rows ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
    )
    command = requirements.command_for_missing(rows, items, workspace)
    raise MissingError(
        f"{subject} cannot run" + (f"; to get these: {command}" if command else " without these"),
        [item.as_json() for item in (*no_gpu, *items) if as_objects],
    )


def print_missing(items: Sequence[requirements.MissingItem]) -> None:
    """Print where things are missing, and then one thing a line, to stderr, so that lines fit a terminal."""
    places = dict.fromkeys(str(Path(item.path).parent) for item in items)
    print_line(f"missing in {' and '.join(places)}:", to_stderr=True)
    print_lines(requirements.format_missing(items, terminal_width(of_stderr=True)), to_stderr=True)
