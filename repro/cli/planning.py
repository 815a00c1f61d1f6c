"""`repro plan` and `repro ROW --dry-run`: the plan of rows as tables or as JSON."""

import json
import re
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from repro.core.console import Terminal, sized
from repro.core.errors import Exit, UsageError
from repro.core.workspace import Workspace, device_from_environment
from repro.features.rates import kind_of
from repro.plan.amounts import Amount, total
from repro.plan.assumptions import reckoning
from repro.plan.figures import as_json as plan_as_json
from repro.plan.figures import here_in_words, portion, stages
from repro.plan.plan import Plan, make
from repro.readout.recipe import Protocol
from repro.table import rows


def show(
    names: Sequence[str], workspace: Workspace, *, seeds: int, protocol: Protocol, device: str | None, as_json: bool
) -> Exit:
    """Print the plan of rows; of all 24 where none, or `all`, is named. Exits 0 whatever is missing.

    Raises:
        UsageError: no such row or kind of device.
    """
    for name in names:
        if name in (*rows.SMOKE_ROWS, *rows.PRETRAINED_SMOKE_ROWS):
            raise UsageError(f"{name} is part of the smoke job, which takes no planning: run `repro smoke`")
        if name != "all":
            rows.load_row(name)
    if device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device}: expected cpu, cuda or cuda:N")
    chosen = rows.row_names() if not names or "all" in names else list(dict.fromkeys(names))
    # A plan is made for the machine that will compute, which need not be this one.
    kind = kind_of(device or device_from_environment() or "cuda")
    plan = make({name: rows.load_row(name) for name in chosen}, workspace, kind, seeds, protocol)
    if as_json:
        print(json.dumps(plan_as_json(plan), indent=1))
    else:
        _print(plan)
    return Exit.OK


def _print(plan: Plan) -> None:
    console = Terminal(highlight=False)
    if not console.is_terminal:
        console = Terminal(highlight=False, width=120)  # a pipe has no width to fit into
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
            _bytes(total(one.left for one in row.downloads)),
            count(whole.clips),
            count(whole.windows),
            hours(total(job.hours for job in row.jobs)),
            hours(row.readouts.hours),
            _bytes(total([*(job.disk for job in row.jobs), row.readouts.disk])),
            here_in_words(row),
        )
    if len(plan.rows) > 1:
        figures = stages(plan)
        made = [figures[stage] for stage in ("extract", "readout")]
        table.add_row(
            f"all {len(plan.rows)}, shared once", _bytes(figures["fetch"][1]), count(plan.clips),
            count(portion(plan.jobs).windows),
            *(hours(amount) for amount, _ in made), _bytes(total(disk for _, disk in made)), "",
            style="bold",
        )  # fmt: skip
    return table


def _downloads(plan: Plan) -> Table:
    table = _table("name", "what it is", "size", "to download", "here", left=2)
    for one in plan.downloads:
        here = "ready" if one.ready else "fetched, to be prepared" if one.left and not one.left.most else "no"
        table.add_row(one.name, one.kind, one.size, _bytes(one.left), here)
    return table


def _jobs(plan: Plan) -> Table:
    device = plan.kind.replace("cuda", "gpu").upper()
    table = _table("data set", "backbone", "clips", "windows", "there", f"{device} time", "disk", left=2)
    for job in plan.jobs:
        table.add_row(
            job.dataset, f"{job.backbone} {job.cell}", count(job.whole.clips), spread(job.whole.windows),
            f"{job.held:,}" if job.held else "none", hours(job.hours), _bytes(job.disk),
        )  # fmt: skip
    return table


def _stages(plan: Plan) -> Table:
    table = _table("stage", f"{plan.kind.replace('cuda', 'gpu').upper()} time", "from", "to", "disk")
    for name, (time, disk) in stages(plan).items():
        known = time is not None
        table.add_row(
            name,
            hours(time) if known else "unknown" if name in ("extract", "readout") else "",
            *((_hours(time.least), _hours(time.most)) if time is not None and time.least < time.most else ("", "")),
            _bytes(disk),
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
            f"{'' if not cuda else f': {_hours(thread / rates.cpu_thread_tflop_per_second / 3600)} in all'})"
        )
        assumed = f"ASSUMED {rates.gpu_tflop_per_second:g} TFLOP/s on {reckoning().gpu.device}"
        lines.append(f"readouts: epochs x clips x parameters, {f'{assumed}; {on_a_thread}' if cuda else on_a_thread}")
    seeds = plan.rows[0].readouts.seeds
    planned = max(row.row.seeds.planned for row in plan.rows)
    lines.append(
        f"readouts a row: {seeds}" + (f"; a verdict needs {planned} (--seeds {planned})" if seeds < planned else "")
    )
    return lines


def count(amount: Amount) -> str:
    """6,496 where it was counted, ~59,200 where it is estimated."""
    if amount.exact:
        return f"{round(amount.likely):,}"
    return f"~{_three_digits(amount.likely):,}"


def spread(amount: Amount) -> str:
    """With the least and the most where they differ."""
    if amount.exact or amount.least == amount.most:
        return count(amount)
    return f"{count(amount)} ({_three_digits(amount.least):,} to {_three_digits(amount.most):,})"


def _three_digits(value: float) -> int:
    whole = round(value)
    return round(whole, min(0, 3 - len(str(abs(whole)))))


def hours(amount: Amount | None) -> str:
    return "unknown" if amount is None else _hours(amount.likely)


def _hours(value: float) -> str:
    if value == 0:
        return "0"
    minutes = value * 60
    if minutes < 90:
        return f"{minutes:.0f} min" if minutes >= 1 else "< 1 min"
    return f"{value:.1f} h" if value < 20 else f"{value:,.0f} h"


def _bytes(amount: Amount | None) -> str:
    if amount is None:
        return "unknown"
    return "0" if amount.likely == 0 else ("" if amount.exact else "~") + sized(round(amount.likely))
