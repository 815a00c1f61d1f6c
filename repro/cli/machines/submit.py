"""`repro submit ROW...`: rows on several machines, by Snakemake."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from repro.cli.options import (
    COMMON,
    CommonOptions,
    DamagedOption,
    FlagOption,
    PrecisionOption,
    ProtocolOption,
    RowName,
    SeedsOption,
    load_requested_rows,
    require_number,
)
from repro.cli.plan import format_hours, print_plan
from repro.core.config import is_config_path
from repro.core.console import format_columns, print_line, print_lines, print_sentence
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.workspace import device_from_environment
from repro.features.rates import kind_of
from repro.judge.grid_selection import grid_cells
from repro.plan.amounts import estimated
from repro.plan.plan import make_plan
from repro.plan.steps import Step, list_steps
from repro.plan.submission import (
    Cluster,
    WorkflowConfig,
    build_command,
    cancel_leftover_jobs,
    find_profile,
    require_image,
    require_slurm,
    run_workflow,
    write_workflow_config,
)
from repro.table.requirements import chosen_device
from repro.table.row import Row, SeedChoice, row_backbone


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Which jobs run, and where."""

    profile: Annotated[str, Parameter(help="local, slurm, kubernetes, or the folder of a Snakemake profile.")] = "local"
    shards: Annotated[
        int, Parameter(validator=require_number("--shards", 1, 10_000), help="Parts of an extraction.")
    ] = 8
    devices: Annotated[
        str | None, Parameter(help="GPUs of this machine, as 0,1,2,3, in place of shards; --profile local.")
    ] = None
    device: Annotated[str | None, Parameter(help="cuda or cpu [default: REPRO_DEVICE, else cuda].")] = None
    image: Annotated[str | None, Parameter(help="Apptainer image that every job runs in.")] = None
    partition: Annotated[str | None, Parameter(help="SLURM's partition [default: the cluster's].")] = None
    account: Annotated[str | None, Parameter(help="SLURM's account [default: the cluster's].")] = None
    jobs: Annotated[int | None, Parameter(validator=require_number("--jobs", 1), help="Jobs at the same time.")] = None


JOBS = JobOptions()


def submit(
    row: RowName,
    /,
    *more: RowName,
    seeds: SeedsOption = 5,
    grid: FlagOption = False,
    protocol: ProtocolOption = None,
    precision: PrecisionOption = (),
    accept_license: FlagOption = False,
    allow_damaged: DamagedOption = False,
    options: JobOptions = JOBS,
    dry_run: FlagOption = False,
    common: CommonOptions = COMMON,
) -> Exit:
    """Run rows as jobs on several GPUs or machines, with Snakemake.

    Fetches, audits, extracts in parts, packs, trains a readout a seed, checks and writes the report. Coordinates until all jobs have
    ended; rerun the command to resume.

    Example: `repro submit ucf_hmdb hmdb_ucf --profile slurm --partition gpu`

    Args:
        row: A name from `repro list`, the path of a row file of own clips, or all.
        more: Further rows.
        grid: Train also the grids of the rows that have one.
        accept_license: Confirm that you have read and accept the licences (`repro fetch ROW` prints them).
        dry_run: Print the jobs and the plan, and stop.
    """
    # Paths as jobs find them, which start in another folder.
    words = [str(Path(name).absolute()) if is_config_path(name) else name for name in (row, *more)]
    rows, workspace = load_requested_rows(words, precision), common.open_workspace()
    device = options.device or device_from_environment() or "cuda"
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device {device}: expected cpu or cuda: SLURM or --devices say which GPU")
    cluster = Cluster(find_profile(options.profile), options.partition, options.account, options.jobs)
    if options.devices and cluster.executor != "local":
        raise UsageError("--devices names GPUs of this machine: only with --profile local")
    config = WorkflowConfig(
        rows=_list_names(rows),
        seeds=_format_seeds(seeds),
        grid=[one.name for one in rows if _has_grid(one)] if grid else [],
        protocol=protocol,
        precision=list(precision),
        workspace=str(workspace.root),
        shards=options.shards,
        device=device,
        devices=options.devices,
        image=require_image(options.image) if options.image else "actiondiff.sif",
        accept_license=accept_license,
        allow_damaged=allow_damaged,
    )
    made = make_plan(rows, workspace, kind_of(device), seeds, protocol)
    steps = list_steps(made, seeds, protocol)
    if dry_run:
        if common.as_json:
            jobs = [step.as_json() for step in steps if step.rule != "grid" or step.name in config.grid]
            print(json.dumps({"config": asdict(config), "jobs": jobs}, indent=1))
            return Exit.OK
        print_lines(format_jobs(steps, config))
        print_line()
        return print_plan(
            rows, workspace, seeds=seeds, protocol=protocol, device=device, precision=precision, as_json=False
        )
    if cluster.executor == "slurm":
        require_slurm(options.partition, gpus=device == "cuda")
    elif cluster.executor == "local":
        for number in options.devices.split(",") if options.devices else ("",):
            chosen_device(f"cuda:{number}" if number.isdecimal() else device)
    workspace.require_writable()
    with workspace.lock("submit"):
        file = write_workflow_config(config, workspace)
        command = build_command(config, file, cluster, workspace, image=options.image is not None)
        if cluster.executor == "slurm" and (left := cancel_leftover_jobs(workspace)):
            print_sentence(
                f"cancelled {left} job{'s' * (left > 1)} of an earlier coordinator: what {'they' if left > 1 else 'it'} finished is stored",
                to_stderr=True,
            )
        print_sentence(f"running {shlex.join(command)}", to_stderr=True)
        code = run_workflow(command, workspace)
    folder = workspace.root / "workflow"
    if code:
        raise MissingError(
            f"the workflow ended early (Snakemake's exit code {code}): the jobs that failed are named above, with their logs in "
            f"{folder / 'logs'}; run the same command again to resume"
        )
    written = folder / ("report.html" if any(step.rule == "report" for step in steps) else "readouts")
    if common.as_json:
        print(json.dumps({"config": asdict(config), "written": str(written)}, indent=1))
    else:
        print_sentence(f"written {written}")
    return Exit.OK


def _list_names(rows: Sequence[Row]) -> list[str]:
    return [shlex.split(one.argument)[0] for one in rows]


def _has_grid(row: Row) -> bool:
    return row_backbone(row).axes().timesteps is not None and row.features in grid_cells(row)


def _format_seeds(seeds: SeedChoice) -> str:
    """Return a choice of seeds as --seeds takes it."""
    if isinstance(seeds, int):
        return str(seeds)
    return ",".join(map(str, seeds)) + "," * (len(seeds) == 1)


def format_jobs(steps: Sequence[Step], config: WorkflowConfig) -> list[str]:
    """Return a table of the jobs: each step with what comes before it and what one of its jobs needs."""
    table: list[tuple[str, ...]] = [("job", "number", "GPUs", "cores", "memory", "each up to", "after")]
    for step in steps:
        if step.rule == "grid" and step.name not in config.grid:
            continue
        parts = min(config.shards, max(1, step.clips)) if step.rule == "extract" and not config.devices else 1
        hours = None if step.hours is None else estimated(step.hours / parts)
        table.append(
            (
                f"{step.rule} {step.name}", str(parts), str(step.gpus), str(step.cpus), f"{step.memory_gb:g} GB",
                "" if hours is None else format_hours(hours), ", ".join(step.after),
            )
        )  # fmt: skip
        if step.rule == "extract":
            table.append(
                (f"pack {step.name}", "1", "0", "1", f"{step.memory_gb:g} GB", "", f"all parts of {step.name}")
            )
    return format_columns(table, right=table[0][1:6])
