"""The plan of one or more rows: what each takes by itself, and all of them together, shared work counted once."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.backbones.config import Cell, Precision
from repro.core.workspace import Workspace
from repro.features.rates import Kind, Rate, kind_of
from repro.plan.amounts import Amount, counted, estimated
from repro.plan.assumptions import Together, parameters, readout_tflop, reckoning
from repro.plan.downloads import Download, downloads
from repro.plan.lengths import NOTHING, Portion
from repro.plan.windows import Counts, uncovered
from repro.plan.workspace_state import Here
from repro.readout.recipe import Protocol
from repro.table import requirements
from repro.table.requirements import MissingItem
from repro.table.row import Row

HOUR = 3600
BYTES = 4
"""Bytes per value of features and weights (fp32)."""


@dataclass(frozen=True, slots=True)
class Job:
    """Extraction of some splits of one data set with one backbone."""

    dataset: str
    backbone: str
    cell: str
    splits: tuple[str, ...]
    whole: Portion
    left: Portion
    """The part that remains to be computed."""
    held: int
    """Number of clips whose features are stored."""
    precision: Precision
    tflop: float | None
    """Work of one window from configs/plan.yaml, scaled if the row's windows have another length."""
    rate: Rate | None
    """Speed measured in this workspace."""
    hours: Amount | None
    """Time for the remaining part; None if no speed is known or assumed."""
    disk: Amount | None
    """Bytes of the remaining part."""
    basis: str
    """Source of the counts."""


@dataclass(frozen=True, slots=True)
class Readouts:
    seeds: int
    recorded: int
    """Number of runs that exist and would be reused."""
    epochs: int
    """Epochs of one run."""
    clips: Amount
    """Clips of the training split, which an epoch reads once."""
    tflop: float
    """Work of one run."""
    measured_on: str
    """The device on which this row's own runs were timed; empty if the time is an estimate."""
    hours: Amount | None
    """Time for the remaining runs."""
    disk: Amount
    """Bytes of the remaining runs."""


@dataclass(frozen=True, slots=True)
class RowPlan:
    name: str
    row: Row
    missing: tuple[MissingItem, ...]
    downloads: tuple[Download, ...]
    jobs: tuple[Job, ...]
    readouts: Readouts


@dataclass(frozen=True, slots=True)
class Saving:
    """Jobs that one `repro extract` would compute together."""

    dataset: str
    together: Together
    tflop_apart: float
    """Work of one window if computed apart."""


@dataclass(frozen=True, slots=True)
class Plan:
    workspace: Workspace
    kind: Kind
    """Kind of device that the hours are for."""
    rows: tuple[RowPlan, ...]
    downloads: tuple[Download, ...]
    clips: Amount
    """Clips of all rows, each counted once."""
    jobs: tuple[Job, ...]
    """Jobs of all rows; each data set, backbone and cell once."""
    savings: tuple[Saving, ...]
    problems: tuple[str, ...]


def make(rows: Mapping[str, Row], workspace: Workspace, kind: Kind, seeds: int, protocol: Protocol) -> Plan:
    """
    Raises:
        UsageError: a config does not say how long a split's clips are, and no audit does.
    """
    here = Here(workspace)
    counts = Counts(here)
    plans = []
    wanted: dict[tuple[str, str, Cell], list[str]] = {}
    for name, row in rows.items():
        own: dict[str, list[str]] = {}
        asked = here.asks(row)
        for place in (row.data.train, row.data.test):
            own.setdefault(place.dataset, []).append(place.split)
            wanted.setdefault((place.dataset, asked, row.features), []).append(place.split)
        jobs = tuple(_job(counts, kind, dataset, asked, row.features, splits) for dataset, splits in own.items())
        plans.append(
            RowPlan(
                name,
                row,
                (*requirements.missing_items(row, workspace), *_lacking(here, row)),
                tuple(downloads({name: row}, here)),
                jobs,
                _readouts(counts, kind, name, row, seeds, protocol),
            )
        )
    together = tuple(_job(counts, kind, *key, splits) for key, splits in wanted.items())
    return Plan(
        workspace, kind, tuple(plans), tuple(downloads(rows, here)), _clips(counts, together), together,
        _savings(together),
        tuple(dict.fromkeys(here.problems)),
    )  # fmt: skip


def _clips(counts: Counts, jobs: Sequence[Job]) -> Amount:
    """Count the clips of all jobs, each once whatever the backbones."""
    once = counted(0)
    for dataset in dict.fromkeys(job.dataset for job in jobs):
        splits = [split for job in jobs if job.dataset == dataset for split in job.splits]
        for split in uncovered(counts.here.config(dataset), splits):
            once += counts.clips(dataset, split)
    return once


def _lacking(here: Here, row: Row) -> list[MissingItem]:
    return [found for place in (row.data.train, row.data.test) if (found := here.lacking(place))]


def _job(counts: Counts, kind: Kind, dataset: str, backbone: str, cell: Cell, splits: Sequence[str]) -> Job:
    here = counts.here
    config = here.backbone(backbone)
    chosen = uncovered(here.config(dataset), splits)
    whole, left, held, bases = NOTHING, NOTHING, 0, []
    for split in chosen:
        own = counts.split(dataset, split, backbone, cell)
        whole, left, held = whole + own.whole, left + own.left, held + own.held
        bases.append(own.basis)
    precision: Precision = getattr(config, "precision", "fp32")
    rate = here.rate(backbone, cell, kind)
    tflop = reckoning().tflop_per_window.get(here.name(backbone))
    if tflop is not None and config.frames.window != here.backbone(here.name(backbone)).frames.window:
        tflop *= config.frames.window / here.backbone(here.name(backbone)).frames.window
    if left.windows.most == 0:
        hours: Amount | None = counted(0)
    elif rate is not None:
        hours = estimated(*(windows / rate.per_second / HOUR for windows in left.windows.ends))
    elif kind == "cuda" and tflop is not None:
        per_second = reckoning().gpu.tflop_per_second[precision]
        hours = estimated(*(windows * tflop / per_second / HOUR for windows in left.windows.ends))
    else:
        hours = None
    channels = config.channels(cell)
    disk = None if channels is None else left.vectors.times(channels * BYTES)
    return Job(
        dataset, backbone, cell.name, chosen, whole, left, held, precision, tflop, rate, hours, disk,
        "; ".join(dict.fromkeys(bases)),
    )  # fmt: skip


def _readouts(counts: Counts, kind: Kind, name: str, row: Row, seeds: int, protocol: Protocol) -> Readouts:
    here, recipe, rates = counts.here, row.readout, reckoning().readout
    asked = here.asks(row)
    width = here.backbone(asked).channels(row.features) or 0
    classes = here.config(row.data.test.dataset).classes
    tokens, clips = [], []
    for place in (row.data.train, row.data.test):
        whole = counts.split(place.dataset, place.split, asked, row.features).whole
        mean = whole.vectors.likely / max(1, whole.clips.likely)
        tokens.append(whole.clips.likely * (min(mean, recipe.max_length) + 1))  # and the CLS token
        clips.append(whole.clips)
    tflop = readout_tflop(recipe, width, classes, *tokens)
    records = here.records(name, row, protocol)
    recorded = {record.seed for record in records} & set(row.seeds.first(seeds))
    left = seeds - len(recorded)
    own = [record for record in records if kind_of(record.made.on.get("device", "cpu")) == kind]
    if own:
        each = statistics.median(record.made.seconds for record in own)
    else:
        each = tflop / (rates.gpu_tflop_per_second if kind == "cuda" else rates.cpu_thread_tflop_per_second)
    return Readouts(
        seeds, len(recorded), recipe.epochs, clips[0], tflop, own[0].made.on.get("device", "cpu") if own else "",
        estimated(left * each / HOUR) if left else counted(0),
        # The weights of the selected and of the last epoch.
        estimated(left * 2 * BYTES * parameters(recipe, width, classes)),
    )  # fmt: skip


def _savings(jobs: Sequence[Job]) -> tuple[Saving, ...]:
    """Return what computing backbones together would save, if each has something left to compute."""
    work = reckoning().tflop_per_window
    found = []
    for shared in reckoning().together:
        for dataset in dict.fromkeys(job.dataset for job in jobs):
            own = [j for j in jobs if j.dataset == dataset and j.backbone in shared.backbones and j.left.windows.most]
            if {job.backbone for job in own} == set(shared.backbones) and len({job.cell for job in own}) == 1:
                found.append(Saving(dataset, shared, sum(work[name] for name in shared.backbones)))
    return tuple(found)
