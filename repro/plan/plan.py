"""The plan of one or more rows: what each takes by itself, and all of them together, shared work counted once."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.backbones.config import Cell, FrameSampling, Precision, read_precision
from repro.core.workspace import Workspace
from repro.features.rates import DeviceKind, Rate, kind_of
from repro.pipeline.assumptions import (
    count_parameters,
    estimate_readout_tflop,
    gpu_gigabytes,
    load_assumptions,
)
from repro.plan.amounts import Amount, counted, estimated
from repro.plan.downloads import Download, list_downloads
from repro.plan.passes import SECONDS_PER_HOUR, PassPlan, estimate_shared_work, list_missing, list_passes
from repro.plan.windows import ClipCounter, Portion, distinct_splits
from repro.plan.workspace_state import WorkspaceState
from repro.readout.recipe import Protocol
from repro.table import requirements
from repro.table.imported import has_imported_features
from repro.table.requirements import MissingItem
from repro.table.row import Row, SeedChoice

BYTES_PER_VALUE = 4
"""Of features and weights (fp32)."""


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """Extraction of some splits of one data set with one backbone."""

    dataset: str
    backbone: str
    cell: str
    splits: tuple[str, ...]
    total: Portion
    remaining: Portion
    """The part that remains to be computed."""
    stored_clips: int
    """Number of clips whose features are stored."""
    precision: Precision
    tflop: float | None
    """Work of one window without padding from configs/plan.yaml, scaled if the row's windows have another length."""
    speed: float
    """TFLOP per second of the assumed GPU, for this backbone and precision."""
    frames: FrameSampling
    """How clips are sampled and cut into windows."""
    gpu_gigabytes: Mapping[int, float]
    """GPU memory by --batch, the default batch first; empty if it is unknown."""
    rate: Rate | None
    """Speed measured in this workspace."""
    hours: Amount | None
    """Time for the remaining part, computed by itself; None if no speed is known or assumed."""
    disk: Amount | None
    """Bytes of the remaining part."""
    basis: str
    """Source of the counts."""


@dataclass(frozen=True, slots=True)
class ReadoutJob:
    """Training of a row's readouts."""

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
    """What one row takes by itself."""

    row: Row
    missing: tuple[MissingItem, ...]
    imported: bool
    """Whether features of all its clips are stored that were imported: nothing is missing then, and nothing downloaded."""
    downloads: tuple[Download, ...]
    jobs: tuple[ExtractionJob, ...]
    readouts: ReadoutJob


@dataclass(frozen=True, slots=True)
class Plan:
    """What all rows take together, and each by itself."""

    workspace: Workspace
    kind: DeviceKind
    """Kind of device that the hours are for."""
    rows: tuple[RowPlan, ...]
    downloads: tuple[Download, ...]
    clips: Amount
    """Clips of all rows, each counted once."""
    jobs: tuple[ExtractionJob, ...]
    """Jobs of all rows; each data set, backbone and cell once."""
    passes: tuple[PassPlan, ...]
    """What `repro run` of all rows computes."""
    problems: tuple[str, ...]
    """Files of the workspace that count as missing because they are damaged or were not read."""


def make_plan(
    rows: Sequence[Row], workspace: Workspace, kind: DeviceKind, seeds: SeedChoice, protocol: Protocol | None
) -> Plan:
    """Plan rows in a workspace, of which nothing is changed.

    Args:
        rows: The rows, each once.
        workspace: The workspace; what it has already is subtracted.
        kind: Kind of device to plan for.
        seeds: Readouts of each row.
        protocol: Protocol of the runs that count as present [default: the row's].

    Raises:
        UsageError: a config does not say how long a split's clips are, and no audit does.
    """
    state = WorkspaceState(workspace, rows)
    counter = ClipCounter(state)
    plans = []
    # Splits by what is extracted of them: rows that read the same cell of a data set share the features.
    shared: dict[tuple[str, str, Cell], list[str]] = {}
    for row in rows:
        # Train and test may be splits of one data set, which is then walked once.
        own: dict[str, list[str]] = {}
        backbone = state.label_backbone(row)
        for name in (row.data.train, row.data.test):
            own.setdefault(name.dataset, []).append(name.split)
            shared.setdefault((name.dataset, backbone, row.features), []).append(name.split)
        jobs = [_plan_extraction(counter, kind, dataset, backbone, row.features, own[dataset]) for dataset in own]
        missing_clips = [found for name in (row.data.train, row.data.test) if (found := state.missing_clips(name))]
        imported = has_imported_features(row, workspace)
        plans.append(
            RowPlan(
                row,
                () if imported else (*requirements.missing_items(row, workspace), *missing_clips),
                imported,
                () if imported else tuple(list_downloads([row], state)),
                tuple(jobs),
                _plan_readouts(counter, kind, row, seeds, protocol or row.default_protocol),
            )
        )
    all_jobs = tuple(_plan_extraction(counter, kind, *key, splits) for key, splits in shared.items())
    return Plan(
        workspace=workspace,
        kind=kind,
        rows=tuple(plans),
        # Of all rows together: a data set that several rows read is downloaded once.
        downloads=tuple(list_downloads([one.row for one in plans if not one.imported], state)),
        clips=_count_distinct_clips(counter, all_jobs),
        jobs=all_jobs,
        passes=tuple(list_passes(counter, kind, shared)),
        problems=tuple(dict.fromkeys(state.problems)),
    )


def _count_distinct_clips(counter: ClipCounter, jobs: Sequence[ExtractionJob]) -> Amount:
    """Count the clips of all jobs, each once whatever the backbones."""
    total = counted(0)
    for dataset in dict.fromkeys(job.dataset for job in jobs):
        splits = [split for job in jobs if job.dataset == dataset for split in job.splits]
        for split in distinct_splits(counter.state.dataset_config(dataset), splits):
            total += counter.count_clips(dataset, split)
    return total


def _plan_extraction(
    counter: ClipCounter, kind: DeviceKind, dataset: str, backbone: str, cell: Cell, splits: Sequence[str]
) -> ExtractionJob:
    state = counter.state
    config = state.backbone(backbone)
    own_splits = distinct_splits(state.dataset_config(dataset), splits)
    clips = dict.fromkeys(clip for split in own_splits for clip in counter.list_clips(dataset, split))
    missing = list_missing(counter, dataset, backbone, cell, splits)
    remaining = counter.count_portion(dataset, missing, backbone)
    precision = read_precision(config)
    alone = estimate_shared_work(state, kind, {backbone: (cell,)}, remaining)
    channels = config.channels(cell)
    return ExtractionJob(
        dataset=dataset,
        backbone=backbone,
        cell=cell.name,
        splits=own_splits,
        total=counter.count_portion(dataset, clips, backbone),
        remaining=remaining,
        stored_clips=len(clips) - len(missing),
        precision=precision,
        # By itself, so that rows can be compared; what rows share is counted in `passes`.
        tflop=None if alone.work is None else alone.work.total,
        speed=load_assumptions().gpu.find_speed(config.name, precision),
        frames=config.frames,
        gpu_gigabytes=gpu_gigabytes(config.name, precision),
        rate=state.measured_rate(backbone, cell, kind),
        hours=alone.hours,
        disk=None if channels is None else remaining.vectors.times(channels * BYTES_PER_VALUE),
        basis="; ".join(dict.fromkeys(counter.describe_basis(dataset, split, backbone) for split in own_splits)),
    )


def _plan_readouts(
    counter: ClipCounter, kind: DeviceKind, row: Row, choice: SeedChoice, protocol: Protocol
) -> ReadoutJob:
    state, recipe, rates = counter.state, row.readout, load_assumptions().readout
    backbone = state.label_backbone(row)
    width = state.backbone(backbone).channels(row.features) or 0
    classes = state.dataset_config(row.data.test.dataset).classes
    tokens, clips = [], []
    for name in (row.data.train, row.data.test):
        total = counter.count_split(name.dataset, name.split, backbone)
        # Clips are cut at max_length one by one, which their mean length only approximates.
        mean = total.vectors.likely / max(1, total.clips.likely)
        # The readout reads at most max_length vectors of a clip, and the CLS token.
        tokens.append(total.clips.likely * (min(mean, recipe.max_length) + 1))
        clips.append(total.clips)
    tflop = estimate_readout_tflop(recipe, width, classes, *tokens)
    records = state.matching_records(row, protocol)
    seeds = row.seeds.choose(choice)
    recorded = {record.seed for record in records} & set(seeds)
    remaining = len(seeds) - len(recorded)
    # A row's own runs say more than any assumption; those on another kind of device say nothing.
    timed = [record for record in records if kind_of(record.made.on.get("device", "cpu")) == kind]
    if timed:
        # The median, so that one run on a busy machine does not count.
        seconds = statistics.median(record.made.seconds for record in timed)
    else:
        seconds = tflop / (rates.gpu_tflop_per_second if kind == "cuda" else rates.cpu_thread_tflop_per_second)
    return ReadoutJob(
        seeds=len(seeds),
        recorded=len(recorded),
        epochs=recipe.epochs,
        clips=clips[0],
        tflop=tflop,
        measured_on=timed[0].made.on.get("device", "cpu") if timed else "",
        hours=estimated(remaining * seconds / SECONDS_PER_HOUR) if remaining else counted(0),
        # The weights of the selected and of the last epoch.
        disk=estimated(remaining * 2 * BYTES_PER_VALUE * count_parameters(recipe, width, classes)),
    )
