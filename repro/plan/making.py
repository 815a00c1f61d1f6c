"""The plan of one or more rows: what each takes by itself, and all of them together, shared work counted once."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro import requirements
from repro.backbones.config import Cell
from repro.datasets.config import DatasetConfig
from repro.errors import UsageError
from repro.plan.amounts import Amount, counted, estimated
from repro.plan.downloads import Download, downloads
from repro.plan.here import Here
from repro.plan.lengths import NOTHING, Portion, from_audit, from_config
from repro.plan.reckoning import Together, parameters, readout_tflop, reckoning
from repro.rates import Kind, Rate, kind_of
from repro.requirements import Missing
from repro.rows import Precision, Protocol, Row
from repro.workspace import Workspace

HOUR = 3600
BYTES = 4
"""Of a value of features and weights, fp32."""


@dataclass(frozen=True, slots=True)
class Job:
    """Features of some splits of one data set by one backbone."""

    dataset: str
    backbone: str
    cell: str
    splits: tuple[str, ...]
    whole: Portion
    left: Portion
    """What is not there yet."""
    held: int
    """Clips whose features are there."""
    precision: Precision
    rate: Rate | None
    """Measured in this workspace."""
    hours: Amount | None
    """Of what is left; None where there is nothing to reckon with."""
    disk: Amount | None
    """Bytes of what is left."""
    basis: str
    """What the counts rest on."""


@dataclass(frozen=True, slots=True)
class Readouts:
    seeds: int
    recorded: int
    """Runs that are there and would be reused."""
    epochs: int
    """Of one run."""
    clips: Amount
    """Of the training split: an epoch's."""
    tflop: float
    """Of one run."""
    measured_on: str
    """The device this row's own runs took their time on; "" where it is reckoned."""
    hours: Amount | None
    """Of the runs that are left."""
    disk: Amount
    """Bytes of the runs that are left."""


@dataclass(frozen=True, slots=True)
class RowPlan:
    name: str
    row: Row
    missing: tuple[Missing, ...]
    downloads: tuple[Download, ...]
    jobs: tuple[Job, ...]
    readouts: Readouts


@dataclass(frozen=True, slots=True)
class Saving:
    """Jobs that `repro extract` would do together."""

    dataset: str
    together: Together
    tflop_apart: float
    """Of a window."""


@dataclass(frozen=True, slots=True)
class Plan:
    workspace: Workspace
    kind: Kind
    """Of device the hours are of."""
    rows: tuple[RowPlan, ...]
    downloads: tuple[Download, ...]
    clips: Amount
    """Of all rows, each once."""
    jobs: tuple[Job, ...]
    """Of all rows, each data set, backbone and cell once."""
    savings: tuple[Saving, ...]
    problems: tuple[str, ...]


def make(rows: Mapping[str, Row], workspace: Workspace, kind: Kind, seeds: int, protocol: Protocol) -> Plan:
    """
    Raises:
        UsageError: a config does not say how long a split's clips are, and no audit does.
    """
    here = Here(workspace)
    plans = []
    wanted: dict[tuple[str, str, Cell], list[str]] = {}
    for name, row in rows.items():
        own: dict[str, list[str]] = {}
        for place in (row.data.train, row.data.test):
            dataset, split = place.split("/")
            own.setdefault(dataset, []).append(split)
            wanted.setdefault((dataset, row.backbone, row.features), []).append(split)
        jobs = tuple(_job(here, kind, dataset, row.backbone, row.features, splits) for dataset, splits in own.items())
        plans.append(
            RowPlan(
                name,
                row,
                (*requirements.missing(row, workspace), *_lacking(here, row)),
                tuple(downloads({name: row}, here)),
                jobs,
                _readouts(here, kind, name, row, seeds, protocol),
            )
        )
    together = tuple(_job(here, kind, *key, splits) for key, splits in wanted.items())
    return Plan(
        workspace, kind, tuple(plans), tuple(downloads(rows, here)), _clips(here, together), together,
        _savings(together),
        tuple(dict.fromkeys(here.problems)),
    )  # fmt: skip


def _clips(here: Here, jobs: Sequence[Job]) -> Amount:
    """Of all jobs, each once whatever the backbones."""
    once = counted(0)
    for dataset in dict.fromkeys(job.dataset for job in jobs):
        splits = [split for job in jobs if job.dataset == dataset for split in job.splits]
        for split in uncovered(here.config(dataset), splits):
            once += _clips_of(here, dataset, split)
    return once


def _clips_of(here: Here, dataset: str, split: str) -> Amount:
    listed, facts = here.dataset(dataset), here.config(dataset).splits[split]
    if listed is not None:
        return counted(len(listed.split(split).clips))
    if facts.clips is not None:
        return counted(facts.clips)
    if facts.estimated_clips is None:
        raise UsageError(
            f"configs/datasets/{dataset}.yaml: splits.{split} has neither clips nor estimated_clips, which a plan counts from "
            f"where the data set's files have not been read (`repro data status {dataset}` reads them)"
        )
    return estimated(facts.estimated_clips)


def _lacking(here: Here, row: Row) -> list[Missing]:
    return [found for place in (row.data.train, row.data.test) if (found := here.lacking(place))]


def uncovered(config: DatasetConfig, splits: Sequence[str]) -> tuple[str, ...]:
    """The splits that hold all clips of `splits`, none of them twice."""
    wanted = tuple(dict.fromkeys(splits))
    return tuple(s for s in wanted if not (within := config.splits[s].within) or not set(within) <= set(wanted))


def _portions(here: Here, dataset: str, split: str, backbone: str, cell: Cell) -> tuple[Portion, Portion, int, str]:
    """A split's whole, what is left of it, how many clips are held, and what that rests on."""
    facts, config = here.config(dataset).splits[split], here.backbone(backbone)
    listed, audit, held = here.dataset(dataset), here.audit(dataset), here.held(dataset, backbone, cell)
    ids = [] if listed is None else [clip.id for clip in listed.split(split).clips]
    left = [clip for clip in ids if clip not in held]
    if audit:
        whole, rest = (from_audit((audit[i] for i in some if i in audit), config) for some in (ids, left))
        return whole, rest, len(ids) - len(left), "frames counted by `repro data audit`"
    if facts.frames is None:
        raise UsageError(
            f"configs/datasets/{dataset}.yaml: splits.{split} does not say how long its clips are (frames): "
            f"`repro data audit {dataset}` counts them, once the data are there"
        )
    clips, count = _clips_of(here, dataset, split), len(ids) - len(left)
    portion = from_config(clips, facts.frames, config)
    number = round(clips.likely)
    how = "counted from" if portion.windows.exact else "estimated from"
    return portion, portion.share(number - count, number), count, f"{how} {facts.frames.source}"


def _job(here: Here, kind: Kind, dataset: str, backbone: str, cell: Cell, splits: Sequence[str]) -> Job:
    config = here.backbone(backbone)
    chosen = uncovered(here.config(dataset), splits)
    whole, left, held, bases = NOTHING, NOTHING, 0, []
    for split in chosen:
        all_of_it, rest, count, basis = _portions(here, dataset, split, backbone, cell)
        whole, left, held = whole + all_of_it, left + rest, held + count
        bases.append(basis)
    precision: Precision = getattr(config, "precision", "fp32")
    rate = here.rate(backbone, cell, kind)
    tflop = reckoning().tflop_per_window.get(backbone)
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
        dataset, backbone, cell.name, chosen, whole, left, held, precision, rate, hours, disk,
        "; ".join(dict.fromkeys(bases)),
    )  # fmt: skip


def _readouts(here: Here, kind: Kind, name: str, row: Row, seeds: int, protocol: Protocol) -> Readouts:
    recipe, rates = row.readout, reckoning().readout
    width = here.backbone(row.backbone).channels(row.features) or 0
    classes = here.config(row.data.test.split("/")[0]).classes
    tokens, clips = [], []
    for place in (row.data.train, row.data.test):
        dataset, split = place.split("/")
        whole = _portions(here, dataset, split, row.backbone, row.features)[0]
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
    """What computing backbones together would save, where there is something to compute of each."""
    work = reckoning().tflop_per_window
    found = []
    for shared in reckoning().together:
        for dataset in dict.fromkeys(job.dataset for job in jobs):
            own = [j for j in jobs if j.dataset == dataset and j.backbone in shared.backbones and j.left.windows.most]
            if {job.backbone for job in own} == set(shared.backbones) and len({job.cell for job in own}) == 1:
                found.append(Saving(dataset, shared, sum(work[name] for name in shared.backbones)))
    return tuple(found)
