"""The steps of a plan: the commands that run its rows on several machines, and what each needs. `workflow/` runs them."""

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from repro.backbones.config import BackboneConfig, Cell
from repro.core.hashing import content_key
from repro.datasets.config import DatasetConfig
from repro.pipeline.assumptions import load_assumptions
from repro.plan.amounts import Amount, sum_amounts
from repro.plan.plan import BYTES_PER_VALUE, ExtractionJob, Plan, RowPlan
from repro.plan.windows import distinct_splits
from repro.readout.recipe import Protocol
from repro.table.row import Row, SeedChoice, row_backbone, row_datasets


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what it needs. Hours and memory are upper estimates."""

    rule: Literal["fetch", "prepare", "audit", "extract", "readout", "grid", "check", "report"]
    name: str
    """Unique among the steps of its rule, and part of file names."""
    command: tuple[str, ...]
    """Words after `repro`, without --workspace and --device."""
    after: tuple[str, ...] = ()
    """Names of the data sets (of extract) or extractions (of readout and grid) that come before."""
    gpus: int = 0
    cpus: int = 1
    memory_gb: float = 4.0
    """Of the machine, not of its GPU."""
    clips: int = 0
    """Number of clips of an extraction, at least: into more parts it cannot be divided."""
    hours: float | None = None
    """Of all parts together, if it can be divided; None if it is not known."""

    def as_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule, "name": self.name, "command": list(self.command), "after": list(self.after), "gpus": self.gpus,
            "cpus": self.cpus, "memory_gb": self.memory_gb, "clips": self.clips, "hours": self.hours,
        }  # fmt: skip


@dataclass(slots=True)
class _Features:
    """What rows read of a backbone's features of a data set."""

    dataset: DatasetConfig
    backbone: BackboneConfig
    changes: dict[str, str]
    cells: set[Cell]
    splits: list[str]
    rows: set[str]
    jobs: list[ExtractionJob]

    @property
    def options(self) -> tuple[str, ...]:
        """Timesteps and layers as options; empty for the cell that is the default."""
        axes = self.backbone.axes()
        if self.cells == {axes.usual}:
            return ()
        layers = sorted({str(cell.layer) for cell in self.cells}, key=lambda name: (len(name), name))
        timesteps = sorted({cell.timestep for cell in self.cells if cell.timestep is not None})
        return (*(("--timesteps", ",".join(map(str, timesteps))) if timesteps else ()), "--layers", ",".join(layers))


def list_steps(plan: Plan, seeds: SeedChoice, protocol: Protocol | None) -> list[Step]:
    """Return the steps that run the rows of a plan, those that come first before the others."""
    new = [one.row for one in plan.rows if not one.imported]
    datasets = {name: config for row in new for name, config in row_datasets(row).items()}
    machine = load_assumptions().machine
    steps = [Step("fetch", "all", ("fetch", *map(_name_row, new), "--no-prepare"))] if new else []
    for name, config in datasets.items():
        if config.own_listing is None:
            steps.append(Step("prepare", name, ("data", "prepare", name)))
        # Decodes every clip.
        memory = machine.base_gigabytes + machine.decoder_gigabytes * machine.cores
        steps.append(Step("audit", name, ("data", "audit", config.argument), cpus=machine.cores, memory_gb=memory))
    made_by: dict[str, list[str]] = {row.name: [] for row in new}
    extractions: dict[str, tuple[Step, set[str]]] = {}
    for members in _group_features(plan):
        # Extractions with one backbone write the same files: one after the other.
        backbones = {one.backbone.name for one in members}
        earlier = tuple(
            name
            for name, (step, names) in extractions.items()
            if names & backbones and step.after[0] == members[0].dataset.name
        )
        step = _make_extraction_step(plan, members, earlier)
        extractions[step.name] = step, backbones
        for row in {row for one in members for row in one.rows}:
            made_by[row].append(step.name)
    steps += [step for step, _ in extractions.values()]
    for one in plan.rows:
        steps += _make_readout_steps(one, plan, seeds, protocol, tuple(made_by.get(one.row.name, ())))
    if any(one.row.published for one in plan.rows):
        steps.append(Step("check", "all", ("check",)))
    # The page is about the rows that somebody else can run, too.
    if any(one.row.kind != "own" for one in plan.rows):
        steps.append(Step("report", "all", ("report",)))
    return steps


def _group_features(plan: Plan) -> list[list[_Features]]:
    """Return what is extracted by one command each: backbones of which the same splits and cells are read."""
    found: dict[tuple[str, str, str], _Features] = {}
    for one in plan.rows:
        if one.imported:
            continue
        row = one.row
        for name, dataset in row_datasets(row).items():
            key = (name, row.backbone, content_key(dict(row.changes)))
            own = found.setdefault(key, _Features(dataset, row_backbone(row), dict(row.changes), set(), [], set(), []))
            own.cells.add(row.features)
            own.splits += [part.split for part in (row.data.train, row.data.test) if part.dataset == name]
            own.rows.add(row.name)
            labels = {(job.dataset, job.backbone, job.cell) for job in one.jobs if job.dataset == name}
            own.jobs += [
                job for job in plan.jobs if (job.dataset, job.backbone, job.cell) in labels and job not in own.jobs
            ]
    groups: list[list[_Features]] = []
    for own in found.values():
        for group in groups:
            first = group[0]
            # Changes are options of a command, for all of its backbones.
            # Backbones of one command are decoded for and computed together.
            if not (own.changes or first.changes) and (own.dataset, _join_splits(own), own.options) == (
                first.dataset,
                _join_splits(first),
                first.options,
            ):
                group.append(own)
                break
        else:
            groups.append([own])
    return groups


def _join_splits(features: _Features) -> tuple[str, ...]:
    return distinct_splits(features.dataset, features.splits)


def _make_extraction_step(plan: Plan, members: Sequence[_Features], earlier: tuple[str, ...]) -> Step:
    first, machine = members[0], load_assumptions().machine
    name = first.dataset.name
    own = first.dataset.own_listing is not None
    # Own clips are extracted whole: their file states the splits, and the command takes the file.
    words = [first.dataset.argument] if own else [f"{name}/{split}" for split in _join_splits(first)]
    words += ["--backbone", ",".join(one.backbone.name for one in members), *first.options]
    for key, value in first.changes.items():
        words += ["--precision", value] if key == "precision" else ["--set", f"{key}={value}"]
    jobs = [job for one in members for job in one.jobs]
    backbones = {one.backbone.name for one in members}
    weights = sum(
        one.total_bytes.most for one in plan.downloads if one.name in backbones and one.total_bytes is not None
    )
    return Step(
        "extract",
        f"{name}-{content_key(words)[:8]}",
        ("extract", *words),
        # The data set, then extractions.
        (name, *earlier),
        gpus=int(plan.kind == "cuda"),
        cpus=machine.cores,
        # Weights are read into memory before they are on the device.
        memory_gb=_round_up(machine.base_gigabytes + machine.decoder_gigabytes * machine.cores + weights / 1e9),
        clips=int(min(job.total.clips.least for job in jobs)),
        hours=_sum_hours(job.hours for job in jobs),
    )


def _make_readout_steps(
    one: RowPlan, plan: Plan, seeds: SeedChoice, protocol: Protocol | None, after: tuple[str, ...]
) -> Iterator[Step]:
    """Yield a step for each seed of a row, and one for its grid."""
    row, machine = one.row, load_assumptions().machine
    chosen = row.seeds.choose(seeds)
    words = ["--protocol", protocol] if protocol else []
    words += ["--precision", row.changes["precision"]] if "precision" in row.changes else []
    channels = row_backbone(row).channels(row.features) or 0
    features = sum(job.total.vectors.most for job in one.jobs) * channels * BYTES_PER_VALUE / 1e9
    hours = one.readouts.hours
    remaining = len(chosen) - one.readouts.recorded
    readout = Step(
        "readout",
        "",
        (),
        after,
        gpus=int(plan.kind == "cuda"),
        cpus=machine.readout_cores,
        # Features as stored and as tensors.
        memory_gb=_round_up(machine.base_gigabytes + 2 * features),
        # A step is one seed: the plan's hours are those of all that remain.
        hours=hours.most / remaining if hours is not None and remaining else 0.0,
    )
    for seed in chosen:
        command = ("readout", _name_row(row), "--seed", str(seed), *words)
        yield replace(readout, name=f"{row.name}-seed{seed}", command=command)
    # A comma after a single number: `52` would be 52 seeds, `52,` is the seed 52.
    numbers = ",".join(map(str, chosen)) + "," * (len(chosen) == 1)
    yield replace(readout, rule="grid", name=row.name, command=("grid", _name_row(row), "--seeds", numbers, *words))


def _name_row(row: Row) -> str:
    """Return what a command takes to name a row, not quoted."""
    return shlex.split(row.argument)[0]


def _sum_hours(amounts: Iterable[Amount | None]) -> float | None:
    total = sum_amounts(amounts)
    return None if total is None else round(total.most, 3)


def _round_up(gigabytes: float) -> float:
    return float(math.ceil(gigabytes))
