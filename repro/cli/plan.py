"""`repro plan` and `repro ROW --dry-run`: what rows would take, as tables or as JSON."""

import json
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from repro.cli.options import (
    COMMON,
    CommonOptions,
    DeviceOption,
    ProtocolOption,
    SeedsOption,
    load_requested_row,
)
from repro.core.console import format_size, open_table_console
from repro.core.errors import Exit
from repro.core.workspace import Workspace, device_from_environment
from repro.features.rates import kind_of
from repro.plan.amounts import Amount, total
from repro.plan.assumptions import reckoning
from repro.plan.figures import as_json as plan_as_json
from repro.plan.figures import here_in_words, portion, stages
from repro.plan.plan import Plan, make
from repro.readout.recipe import Protocol
from repro.table.rows import row_names


def plan(
    *rows: str,
    seeds: SeedsOption = 1,
    protocol: Annotated[ProtocolOption, Parameter(help="Protocol of the runs that count as present.")] = "published",
    device: Annotated[
        DeviceOption,
        Parameter(
            help="cuda: assumed GPU speed if none was measured; cpu: measured speeds only "
            "[default: REPRO_DEVICE, else cuda]."
        ),
    ] = None,
    common: CommonOptions = COMMON,
) -> Exit:
    """Estimate download, disk and GPU time of rows, and list what is missing.

    Changes nothing. Downloads and features that rows share are counted once; assumptions are listed.

    Example: `repro plan ak_full ucf_hmdb --seeds 5`

    Args:
        rows: Names from `repro list`, or all [default: all].
    """
    return print_plan(
        rows, common.open_workspace(), seeds=seeds, protocol=protocol, device=device, as_json=common.as_json
    )


def print_plan(
    names: Sequence[str], workspace: Workspace, *, seeds: int, protocol: Protocol, device: str | None, as_json: bool
) -> Exit:
    """Print the plan of the rows `names`; of all 24 if `names` is empty or has `all`. Exits 0 whatever is missing.

    Raises:
        UsageError: no such row, or a row of the smoke job.
    """
    requested = {name: load_requested_row(name) for name in names if name != "all"}
    if not names or "all" in names:
        requested = {name: load_requested_row(name) for name in row_names()}
    # The plan is for the machine that will compute, which need not be this one: a GPU unless told otherwise.
    kind = kind_of(device or device_from_environment() or "cuda")
    made = make(requested, workspace, kind, seeds, protocol)
    if as_json:
        print(json.dumps(plan_as_json(made), indent=1))
    else:
        _print_tables(made)
    return Exit.OK


def _print_tables(plan: Plan) -> None:
    console = open_table_console(piped_width=120)
    console.print(_rows(plan))
    _heading(console, "data sets and checkpoints, each once, and the licences to agree to")
    console.print(_downloads(plan))
    for one in plan.downloads:
        console.print(f"{one.name}: {one.licence} ({one.licence_url})", markup=False, soft_wrap=True)
    _heading(console, "features to extract, each once")
    console.print(_jobs(plan))
    _heading(console, "by stage")
    console.print(_stages(plan))
    _heading(console, "what this rests on")
    for line in (*_assumptions(plan), *plan.problems):
        console.print(f"- {line}", markup=False, soft_wrap=True)
    missing = _missing(plan)
    if missing:
        _heading(console, f"missing in {plan.workspace.root}, and what brings it")
        for line in missing:
            console.print(f"- {line}", markup=False, soft_wrap=True)


def _missing(plan: Plan) -> list[str]:
    """Whole data sets and checkpoints, licences being said above, and single clips."""
    clips = [one.sentence for row in plan.rows for one in row.missing if one.what.startswith("clips ")]
    whole = [f"{one.kind} {one.name}: {one.brings}" for one in plan.downloads if not one.ready]
    return list(dict.fromkeys([*whole, *clips]))


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{escape(text)}[/bold]")


def _table(*columns: str, left: int = 1) -> Table:
    """The first `left` columns are words, the others numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        words = place < left or column in ("here already", "here", "what it is")
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=place < left)
    return table


def _rows(plan: Plan) -> Table:
    device = plan.kind.replace("cuda", "gpu").upper()
    table = _table("row", "download", "clips", "windows", f"{device} extract", "readout", "disk", "here already")
    for row in plan.rows:
        whole = portion(row.jobs)
        table.add_row(
            row.name,
            format_bytes(total(one.left for one in row.downloads)),
            format_count(whole.clips),
            format_count(whole.windows),
            format_hours(total(job.hours for job in row.jobs)),
            format_hours(row.readouts.hours),
            format_bytes(total([*(job.disk for job in row.jobs), row.readouts.disk])),
            here_in_words(row),
        )
    if len(plan.rows) > 1:
        figures = stages(plan)
        made = [figures[stage] for stage in ("extract", "readout")]
        table.add_row(
            f"all {len(plan.rows)}, shared once", format_bytes(figures["fetch"][1]), format_count(plan.clips),
            format_count(portion(plan.jobs).windows),
            *(format_hours(amount) for amount, _ in made), format_bytes(total(disk for _, disk in made)), "",
            style="bold",
        )  # fmt: skip
    return table


def _downloads(plan: Plan) -> Table:
    table = _table("name", "what it is", "size", "to download", "here", left=2)
    for one in plan.downloads:
        here = "ready" if one.ready else "fetched, to be prepared" if one.left and not one.left.most else "no"
        table.add_row(one.name, one.kind, one.size, format_bytes(one.left), here)
    return table


def _jobs(plan: Plan) -> Table:
    device = plan.kind.replace("cuda", "gpu").upper()
    table = _table("data set", "backbone", "clips", "windows", "there", f"{device} time", "disk", left=2)
    for job in plan.jobs:
        table.add_row(
            job.dataset, f"{job.backbone} {job.cell}", format_count(job.whole.clips), format_spread(job.whole.windows),
            f"{job.held:,}" if job.held else "none", format_hours(job.hours), format_bytes(job.disk),
        )  # fmt: skip
    return table


def _stages(plan: Plan) -> Table:
    table = _table("stage", f"{plan.kind.replace('cuda', 'gpu').upper()} time", "from", "to", "disk")
    for name, (time, disk) in stages(plan).items():
        known = time is not None
        table.add_row(
            name,
            format_hours(time) if known else "unknown" if name in ("extract", "readout") else "",
            *(
                (format_length(time.least), format_length(time.most))
                if time is not None and time.least < time.most
                else ("", "")
            ),
            format_bytes(disk),
        )
    return table


def _assumptions(plan: Plan) -> list[str]:
    """A line for each thing that is not known but taken to be so."""
    known = reckoning()
    bases: dict[str, dict[str, list[str]]] = {}
    for job in plan.jobs:
        bases.setdefault(job.basis, {}).setdefault(job.backbone, []).append(job.dataset)
    lines = []
    for basis, backbones in bases.items():
        datasets = dict.fromkeys(name for names in backbones.values() for name in names)
        lines.append(f"windows of {' and '.join(datasets)} with {', '.join(backbones)}: {basis}")
    for job in plan.jobs:
        if job.rate is not None:
            lines.append(
                f"{job.backbone} {job.cell}: {job.rate.per_second:.3g} windows/s, measured here on {job.rate.device}, "
                f"{job.rate.at}"
            )
    reckoned = {job.backbone: job for job in plan.jobs if job.rate is None and job.left.windows.most}
    if reckoned and plan.kind == "cuda":
        speeds = sorted({(job.precision, known.gpu.tflop_per_second[job.precision]) for job in reckoned.values()})
        work = ", ".join(
            f"{name} {tflop:g} ({known.gpu.tflop_per_second[job.precision] / tflop:.2g} windows/s)"
            for name, job in reckoned.items()
            if (tflop := reckoned[name].tflop)
        )
        lines.append(
            "GPU hours of extraction are ASSUMED, no GPU was measured: "
            + ", ".join(f"{speed:g} TFLOP/s sustained in {precision}" for precision, speed in speeds)
            + f" on {known.gpu.device}, decoding keeping up; TFLOP a window: {work or 'not known'} (configs/plan.yaml)"
        )
    elif reckoned:
        lines.append(
            "hours of extraction on a CPU are not known: none was measured here (`repro extract` remembers its rate); "
            "--device cuda reckons with a GPU"
        )
    lines += _about_readouts(plan)
    shared: dict[tuple[str, float, float], list[str]] = {}
    for saving in plan.savings:
        key = ",".join(saving.together.backbones), saving.together.tflop, saving.tflop_apart
        shared.setdefault(key, []).append(saving.dataset)
    for (names, tflop, apart), sets in shared.items():
        lines.append(
            f"not counted: `repro extract DATASET --backbone {names}` computes both in one pass, {tflop:g} TFLOP a window "
            f"instead of {apart:g}, for {', '.join(sets)}"
        )
    lines.append(
        "disk: features in fp32, as much again while they are packed, and weights of the readouts; unpacked videos take what "
        "their archives do"
    )
    return lines


def _about_readouts(plan: Plan) -> list[str]:
    rates, cuda = reckoning().readout, plan.kind == "cuda"
    lines = []
    for row in plan.rows:
        if row.readouts.measured_on:
            lines.append(f"readouts of {row.name}: as long as its runs here took on {row.readouts.measured_on}")
    reckoned = [row for row in plan.rows if not row.readouts.measured_on and row.readouts.recorded < row.readouts.seeds]
    if reckoned:
        thread = sum(r.readouts.tflop * (r.readouts.seeds - r.readouts.recorded) for r in reckoned)
        on_a_thread = (
            f"{rates.cpu_thread_tflop_per_second:g} TFLOP/s on one CPU thread (measured, benchmarks/README.md"
            f"{'' if not cuda else f': {format_length(thread / rates.cpu_thread_tflop_per_second / 3600)} in all'})"
        )
        assumed = f"ASSUMED {rates.gpu_tflop_per_second:g} TFLOP/s on {reckoning().gpu.device}"
        lines.append(f"readouts: epochs x clips x parameters, {f'{assumed}; {on_a_thread}' if cuda else on_a_thread}")
    seeds = plan.rows[0].readouts.seeds
    planned = max(row.row.seeds.planned for row in plan.rows)
    lines.append(
        f"readouts a row: {seeds}" + (f"; a verdict needs {planned} (--seeds {planned})" if seeds < planned else "")
    )
    return lines


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
