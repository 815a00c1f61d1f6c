"""`repro plan` and `repro ROW --dry-run`: estimates of what rows would take, as tables or as JSON."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from repro.backbones.config import UNCOMPILED, Precision
from repro.cli.options import (
    COMMON,
    CommonOptions,
    DeviceOption,
    PrecisionOption,
    ProtocolOption,
    RowName,
    SeedsOption,
    load_requested_rows,
)
from repro.core.console import format_columns, format_moment, print_line, print_lines, print_sentence, terminal_width
from repro.core.disk import format_size
from repro.core.errors import Exit
from repro.core.workspace import Workspace, device_from_environment
from repro.features.rates import kind_of
from repro.pipeline.assumptions import count_threads, load_assumptions
from repro.plan.amounts import Amount, estimated, sum_amounts
from repro.plan.figures import describe_existing, plan_as_json, sum_stages
from repro.plan.passes import SECONDS_PER_HOUR
from repro.plan.plan import Plan, make_plan
from repro.plan.steps import list_steps
from repro.readout.recipe import Protocol
from repro.table.imported import explain_imported
from repro.table.requirements import command_for_missing, distinct_items, format_missing
from repro.table.row import Row, SeedChoice, row_backbone, with_precision

DISK_ASSUMPTION = (
    "results on disk: features in fp32, as much again while they are packed, and weights of the readouts; unpacked videos "
    "take as much as their archives"
)
QUICKEST: tuple[Precision, ...] = ("fast", "fp16")
"""The quickest precision of each family whose features are as near fp32's as those of the published precision (benchmarks/README.md)."""


def plan(
    *rows: RowName,
    seeds: SeedsOption = 1,
    protocol: Annotated[
        ProtocolOption, Parameter(help="Protocol of the runs that count as present [default: the row's].")
    ] = None,
    device: Annotated[
        DeviceOption,
        Parameter(
            help="Kind of device to plan for; its speed is assumed if none was measured [default: REPRO_DEVICE, else cuda]."
        ),
    ] = None,
    precision: PrecisionOption = (),
    common: CommonOptions = COMMON,
) -> Exit:
    """Estimate download, disk and GPU time of rows, and list what is missing.

    Changes nothing. Downloads and features that rows share are counted once; assumptions are listed.

    Example: `repro plan ak_full ucf_hmdb --seeds 5`

    Args:
        rows: Names from `repro list`, paths of row files of own clips, or all [default: all].
    """
    return print_plan(
        load_requested_rows(rows or ("all",), precision),
        common.open_workspace(),
        seeds=seeds,
        protocol=protocol,
        device=device,
        precision=precision,
        as_json=common.as_json,
    )


def print_plan(
    rows: Sequence[Row],
    workspace: Workspace,
    *,
    seeds: SeedChoice,
    protocol: Protocol | None,
    device: str | None,
    precision: Sequence[Precision] = (),
    as_json: bool,
) -> Exit:
    """Print the plan of rows. Exits 0 whatever is missing.

    Args:
        rows: The rows, with their features in `precision`, if it is given: the plan is of the features that such a run computes.
        workspace: What it has already is not counted.
        seeds: Seeds of the readouts.
        protocol: As of `repro run`.
        device: Device of the machine that will compute [default: REPRO_DEVICE, else cuda].
        precision: The words of --precision.
        as_json: Print JSON only.
    """
    # The plan is for the machine that will compute, which need not be this one: a GPU unless another device is named.
    kind = kind_of(device or device_from_environment() or "cuda")
    made = make_plan(rows, workspace, kind, seeds, protocol)
    if as_json:
        print(json.dumps(plan_as_json(made, seeds, protocol), indent=1))
    else:
        _print_tables(made, "" if precision or kind != "cuda" else _describe_quickest(made, protocol))
    return Exit.OK


def _describe_quickest(made: Plan, protocol: Protocol | None) -> str:
    """Return a sentence on the hours of extraction in the quickest precisions; an empty string unless they are a tenth less."""
    words = dict.fromkeys(filter(None, (_find_quickest(one.row) for one in made.rows)))
    hours, _ = sum_stages(made)["extract"]
    if not words or hours is None or not hours.likely:
        return ""
    # Nothing but the hours is taken of this plan, to which the number of readouts is the same.
    rows = [with_precision(one.row, _find_quickest(one.row)) for one in made.rows]
    quick, _ = sum_stages(make_plan(rows, made.workspace, made.kind, 1, protocol))["extract"]
    if quick is None or quick.likely > 0.9 * hours.likely:
        return ""
    options = " ".join(f"--precision {word}" for word in words)
    return (
        f"with {options}: {format_hours(quick)} of extraction in place of {format_hours(hours)}; these features are other ones, which "
        "records and verdicts name, and `repro verify BACKBONE` compares them with fp32"
    )


def _find_quickest(row: Row) -> Precision | None:
    known = row_backbone(row).precisions()
    return next((precision for precision in QUICKEST if precision in known), None)


def _print_tables(plan: Plan, quickest: str) -> None:
    print_lines(_rows_table(plan))
    _print_heading("data sets and checkpoints, each once, and their licences")
    print_lines(_downloads_table(plan))
    for download in plan.downloads:
        print_sentence(f"{download.name}: {download.licence} ({download.licence_url})")
    _print_heading("features to extract, each once")
    print_lines(_extractions_table(plan))
    if any(len(one.backbones) > 1 for one in plan.passes):
        _print_heading("passes over the clips, as `repro run` of these rows makes them")
        print_lines(_passes_table(plan))
    _print_heading("by stage")
    print_lines(_stages_table(plan))
    if quickest:
        print_sentence(quickest)
    _print_heading("assumptions")
    assumptions = (
        *_about_extraction(plan),
        *_about_ranges(plan),
        *_about_overlaps(plan),
        *_about_memory(plan),
        *_about_machine(plan),
        *_about_readouts(plan),
        *_about_sharing(plan),
        DISK_ASSUMPTION,
        *(explain_imported(one.row) for one in plan.rows if one.imported),
    )
    for line in (*assumptions, *plan.problems):
        print_sentence(f"- {line}")
    missing = distinct_items(item for row in plan.rows for item in row.missing)
    if missing:
        _print_heading(f"missing in {plan.workspace.root}, and how to get it")
        # What can be fetched is a table, whose licences are printed above; missing clips of a data set in place are sentences.
        things = [replace(item, licence="") for item in missing if item.command]
        print_lines(format_missing(things, terminal_width()) if things else [])
        for item in missing:
            if not item.command:
                print_sentence(f"- {item.remedy}")
        command = command_for_missing([row.row for row in plan.rows], things, plan.workspace)
        if command:
            print_sentence(f"to get these: {command}")


def _print_heading(text: str) -> None:
    print_line()
    print_sentence(text)


# The last column of a table has no limit; the others fit 80 columns.
def _rows_table(plan: Plan) -> list[str]:
    header = ("row", "download", _device_label(plan), "readout", "results", "present already")
    rows: list[tuple[str, ...]] = [
        (
            row.row.name,
            format_bytes(sum_amounts(download.bytes_to_download for download in row.downloads)),
            format_hours(sum_amounts(job.hours for job in row.jobs)),
            format_hours(row.readouts.hours),
            format_bytes(sum_amounts([*(job.disk for job in row.jobs), row.readouts.disk])),
            describe_existing(row),
        )
        for row in plan.rows
    ]
    if len(plan.rows) > 1:
        # Not the sum of the lines above: rows share data sets, checkpoints and features.
        figures = sum_stages(plan)
        computed = [figures[stage] for stage in ("extract", "readout")]
        rows.append(
            (
                f"all {len(plan.rows)}, shared once",
                format_bytes(figures["fetch"][1]),
                *(format_hours(hours) for hours, _ in computed),
                format_bytes(sum_amounts(disk for _, disk in computed)),
                f"{format_count(plan.clips)} clips",
            )
        )
    return format_columns([header, *rows], right=header[1:5])


def _downloads_table(plan: Plan) -> list[str]:
    header = ("name", "kind", "to download", "present")
    rows = []
    for one in plan.downloads:
        # Nothing left to download of an archive that is not ready: it must be unpacked.
        to_prepare = one.bytes_to_download is not None and not one.bytes_to_download.most
        state = "ready" if one.ready else "fetched, to be prepared" if to_prepare else "no"
        rows.append((one.name, one.kind, format_bytes(one.bytes_to_download), state))
    return format_columns([header, *rows], right=("to download",))


def _extractions_table(plan: Plan) -> list[str]:
    header = ("data set", "clips", "windows", "stored", _device_label(plan), "backbone and cell")
    rows = [
        (
            job.dataset,
            format_count(job.total.clips),
            format_count(job.total.windows),
            f"{job.stored_clips:,}" if job.stored_clips else "none",
            format_hours(job.hours),
            # It names the row's changes and may be long.
            f"{job.backbone} {job.cell}",
        )
        for job in plan.jobs
    ]
    return format_columns([header, *rows], right=header[1:5])


def _passes_table(plan: Plan) -> list[str]:
    """Backbones joined by `+` are computed together."""
    header = ("data set", "clips", "decoded", "windows", "TFLOP each", _device_label(plan), "backbones")
    rows = []
    for one in plan.passes:
        for number, group in enumerate(one.groups):
            mean = (
                "unknown" if group.tflop is None else f"{group.tflop.likely / max(1, group.portion.windows.likely):.4g}"
            )
            times = "once" if one.decodings == 1 else f"{one.decodings} times"
            rows.append(
                (
                    one.dataset,
                    *((format_count(one.clips), times) if not number else ("", "")),
                    format_count(group.portion.windows),
                    mean,
                    format_hours(group.hours),
                    " + ".join(group.backbones),
                )
            )
    return format_columns([header, *rows], right=header[1:6])


def _stages_table(plan: Plan) -> list[str]:
    header = ("stage", f"{_device_label(plan)} time", "from", "to", "disk")
    rows, figures = [], sum_stages(plan)
    spent = sum_amounts(figures[stage][0] for stage in ("extract", "readout"))
    total = spent, sum_amounts(disk for _, disk in figures.values())
    for stage, (hours, disk) in (*figures.items(), ("total", total)):
        # Fetching and preparing have no hours: they depend on the network and the disk.
        time = "" if hours is None and stage in ("fetch", "prepare") else format_hours(hours)
        limits = ("", "")
        if hours is not None and hours.least < hours.most:
            limits = (format_length(hours.least), format_length(hours.most))
        rows.append((stage, time, *limits, format_bytes(disk)))
    return format_columns([header, *rows], right=header[1:])


def _device_label(plan: Plan) -> str:
    return "GPU" if plan.kind == "cuda" else "CPU"


def _about_extraction(plan: Plan) -> list[str]:
    """Return a line for each source of windows and hours: counted, measured or assumed."""
    known = load_assumptions()
    bases: dict[str, dict[str, list[str]]] = {}
    for job in plan.jobs:
        bases.setdefault(job.basis, {}).setdefault(job.backbone, []).append(job.dataset)
    lines = []
    for basis, backbones in bases.items():
        datasets = dict.fromkeys(name for names in backbones.values() for name in names)
        lines.append(f"windows of {' and '.join(datasets)} with {', '.join(backbones)}: {basis}")
    for job in plan.jobs:
        if job.rate is not None:
            slower = job.rate.kind == "cuda" and not job.rate.compiled and job.precision not in UNCOMPILED
            lines.append(
                f"{job.backbone} {job.cell}: {job.rate.per_second:.3g} windows/s, measured in this workspace on {job.rate.device}, "
                f"{format_moment(job.rate.at)}{', uncompiled; an extraction of many clips compiles and is faster' * slower}"
            )
    unmeasured = {job.backbone: job for job in plan.jobs if job.rate is None and job.remaining.windows.most}
    if unmeasured and plan.kind == "cuda":
        work = ", ".join(
            f"{name} {job.tflop:g} at {job.speed:g} TFLOP/s in {job.precision}{', compiled' * (job.precision in known.gpu.compiled)} "
            f"({job.speed / job.tflop:.3g} windows/s)"
            for name, job in unmeasured.items()
            if job.tflop
        )
        lines.append(
            f"GPU hours of extraction are ASSUMED, no GPU was measured: sustained on {known.gpu.device}, if decoding keeps up; "
            f"TFLOP per window without padding: {work or 'unknown'} (configs/plan.yaml)"
        )
    elif unmeasured:
        speed = known.cpu.thread_tflop_per_second
        work = ", ".join(f"{name} {job.tflop:g}" for name, job in unmeasured.items() if job.tflop)
        lines.append(
            f"CPU hours of extraction are ASSUMED: {speed:g} TFLOP/s on each of {count_threads()} threads of this machine; TFLOP "
            f"per window without padding: {work or 'unknown'} (configs/plan.yaml); `repro extract` saves measured speeds"
        )
    return lines


def _about_ranges(plan: Plan) -> list[str]:
    """Return a line for each estimated number of windows: its least and most."""
    return [
        f"windows of {job.dataset} with {job.backbone} {job.cell}: {format_spread(job.total.windows)}"
        for job in plan.jobs
        if not job.total.windows.exact
    ]


def _about_overlaps(plan: Plan) -> list[str]:
    """Return a line for each job with overlapping windows: what sharing frames saves, and what batches do."""
    lines = []
    for job in plan.jobs:
        frames, total = job.frames, job.total
        if not frames.overlap:
            continue
        in_windows = total.windows.likely * frames.hop + total.clips.likely * frames.overlap
        once, apart = (format_count(estimated(n)) for n in (in_windows, total.windows.likely * frames.window))
        gain = load_assumptions().gpu.batch_gain.get(job.backbone.split()[0])
        batches = (
            f"; batches share no work of the network, and are {gain:g} times as fast as windows one by one "
            "(fp32, measured on one H100, benchmarks/README.md)"
        )
        lines.append(
            f"overlapping windows of {job.dataset} with {job.backbone}: {format_count(total.windows)} of {frames.window} frames, "
            f"one every {frames.hop}: {once} frames are decoded and resized once each, instead of {apart} window by window"
            + (batches if gain and plan.kind == "cuda" else "")
        )
    return lines


def _about_memory(plan: Plan) -> list[str]:
    """Return a line for each backbone and precision on the GPU memory that it takes, by batch."""
    if plan.kind != "cuda":
        return []
    lines = []
    for job in {(job.backbone, job.precision): job for job in plan.jobs}.values():
        by_batch = [f"{size:g} GB with --batch {batch}" for batch, size in job.gpu_gigabytes.items()]
        found = f"{by_batch[0]} (the default)" + "".join(f", {one}" for one in by_batch[1:]) if by_batch else "unknown"
        name = job.backbone.removesuffix(f" precision={job.precision}")
        lines.append(f"GPU memory of {name} in {job.precision}: {found} (configs/plan.yaml says how measured)")
    return lines


def _about_machine(plan: Plan) -> list[str]:
    """Return a line on the machine's own memory, for which jobs of `repro submit` ask."""
    steps, cores = list_steps(plan, 1, None), load_assumptions().machine.cores
    found = [
        f"{max(sizes):g} GB to {what}"
        for rule, what in (("extract", f"extract features with {cores} cores"), ("readout", "train a readout"))
        if (sizes := [step.memory_gb for step in steps if step.rule == rule])
    ]
    return [f"memory of the machine, at most: {'; '.join(found)} (configs/plan.yaml)"] if found else []


def _about_readouts(plan: Plan) -> list[str]:
    """Return the lines on the readouts' hours and on the number of runs."""
    assumptions = load_assumptions()
    rates, cuda = assumptions.readout, plan.kind == "cuda"
    lines = [
        f"readouts of {row.row.name}: as long as its runs in this workspace took on {row.readouts.measured_on}"
        for row in plan.rows
        if row.readouts.measured_on
    ]
    estimated = [
        row.readouts for row in plan.rows if not row.readouts.measured_on and row.readouts.recorded < row.readouts.seeds
    ]
    if estimated:
        tflop = sum(readouts.tflop * (readouts.seeds - readouts.recorded) for readouts in estimated)
        hours = format_length(tflop / rates.cpu_thread_tflop_per_second / SECONDS_PER_HOUR)
        cpu = (
            f"{rates.cpu_thread_tflop_per_second:g} TFLOP/s on one CPU thread{f', {hours} in total' if cuda else ''} (measured, "
            "benchmarks/README.md)"
        )
        gpu = f"ASSUMED {rates.gpu_tflop_per_second:g} TFLOP/s on {assumptions.gpu.device}; " if cuda else ""
        lines.append(f"readouts: epochs x clips x parameters, {gpu}{cpu}")
    seeds = plan.rows[0].readouts.seeds
    planned = max(row.row.seeds.planned for row in plan.rows)
    verdict = f"; a verdict needs {planned} (--seeds {planned})" if seeds < planned else ""
    return [*lines, f"readouts a row: {seeds}{verdict}"]


def _about_sharing(plan: Plan) -> list[str]:
    """Return a line for each group of backbones that are computed together, with its data sets."""
    datasets: dict[tuple[str, float, float], list[str]] = {}
    for one in plan.passes:
        for group in one.groups:
            if len(group.backbones) > 1 and group.work is not None and group.apart is not None:
                key = " and ".join(group.backbones), group.work.total, group.apart
                datasets.setdefault(key, []).append(one.dataset)
    return [
        f"{backbones} share all networks but the UNet: {tflop:.4g} TFLOP per window without padding instead of {apart:.4g}, for "
        f"{', '.join(dict.fromkeys(names))}; counted in the passes, not in the rows by themselves"
        for (backbones, tflop, apart), names in datasets.items()
    ]


def format_count(amount: Amount) -> str:
    """Return 6,496 for a counted amount, ~59,200 for an estimate."""
    if amount.exact:
        return f"{round(amount.likely):,}"
    return f"~{_three_digits(amount.likely):,}"


def format_spread(amount: Amount) -> str:
    """Return the amount, with its least and most if they differ."""
    if amount.exact or amount.least == amount.most:
        return format_count(amount)
    return f"{format_count(amount)} ({_three_digits(amount.least):,} to {_three_digits(amount.most):,})"


def _three_digits(value: float) -> int:
    """Round to three significant digits: an estimate has no more."""
    whole = round(value)
    return round(whole, min(0, 3 - len(str(abs(whole)))))


def format_hours(amount: Amount | None) -> str:
    """Return the likely hours, or `unknown` if nothing was measured or assumed."""
    return "unknown" if amount is None else format_length(amount.likely)


def format_length(value: float) -> str:
    """Return a time given in hours as a person writes it: < 1 min, 45 min, 3.2 h."""
    if value == 0:
        return "0"
    minutes = value * 60
    if minutes < 90:
        return f"{minutes:.0f} min" if minutes >= 1 else "< 1 min"
    return f"{value:.1f} h" if value < 20 else f"{value:,.0f} h"


def format_bytes(amount: Amount | None) -> str:
    """Return the likely size, with ~ for an estimate."""
    if amount is None:
        return "unknown"
    return "0" if amount.likely == 0 else ("" if amount.exact else "~") + format_size(round(amount.likely))
