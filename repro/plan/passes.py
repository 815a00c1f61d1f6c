"""The passes over clips that a run of the planned rows makes, and what they take: what backbones share is counted once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from repro.backbones.config import Cell, read_precision
from repro.backbones.registry import group_by_sharing
from repro.features.rates import DeviceKind
from repro.pipeline.assumptions import WindowWork, count_threads, load_assumptions, window_work
from repro.pipeline.passes import UnstoredCell, plan_passes
from repro.plan.amounts import Amount, counted, sum_amounts
from repro.plan.windows import ClipCounter, Portion
from repro.plan.workspace_state import WorkspaceState

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class SharedWork:
    """Backbones that one extractor computes together in a pass; often a single one."""

    backbones: tuple[str, ...]
    """Labels."""
    work: WindowWork | None
    """Of one window; None if it is unknown."""
    apart: float | None
    """TFLOP of one full window of each backbone by itself, added."""
    portion: Portion
    """What is counted once for all of the backbones."""
    tflop: Amount | None
    hours: Amount | None


@dataclass(frozen=True, slots=True)
class PassPlan:
    """A pass over clips whose features are missing (repro/pipeline/passes.py)."""

    dataset: str
    backbones: Mapping[str, tuple[Cell, ...]]
    """Cells to compute, by the backbone's label."""
    groups: tuple[SharedWork, ...]
    decodings: int
    """How often each clip is decoded: once for all backbones that sample it alike."""

    @property
    def clips(self) -> Amount:
        return self.groups[0].portion.clips

    @property
    def windows(self) -> Amount:
        return sum((group.portion.windows for group in self.groups), start=counted(0))

    @property
    def tflop(self) -> Amount | None:
        return sum_amounts(group.tflop for group in self.groups)

    @property
    def hours(self) -> Amount | None:
        return sum_amounts(group.hours for group in self.groups)


def list_passes(
    counter: ClipCounter, kind: DeviceKind, shared: Mapping[tuple[str, str, Cell], Sequence[str]]
) -> Iterator[PassPlan]:
    """Yield the passes of a run, by data set, backbone, cell and splits of what its rows read."""
    state = counter.state
    # By identity: two rows may change one backbone in different ways, under one name.
    labels = {id(state.backbone(label)): label for _, label, _ in shared}
    readings = [
        UnstoredCell(dataset, state.backbone(label), cell, list_missing(counter, dataset, label, cell, splits))
        for (dataset, label, cell), splits in shared.items()
    ]
    for one in plan_passes(readings):
        backbones = {labels[id(config)]: cells for config, cells in one.backbones}
        groups = group_by_sharing(backbones, state.backbone)
        yield PassPlan(
            dataset=one.dataset,
            backbones=backbones,
            groups=tuple(
                estimate_shared_work(
                    state,
                    kind,
                    {label: backbones[label] for label in group},
                    counter.count_portion(one.dataset, one.clips, group[0]),
                )
                for group in groups
            ),
            decodings=len({config.frames.decoding for config, _ in one.backbones}),
        )


def list_missing(
    counter: ClipCounter, dataset: str, backbone: str, cell: Cell, splits: Sequence[str]
) -> tuple[str, ...]:
    """Return the ids of the clips of splits whose features are not stored."""
    stored = counter.state.stored_clips(dataset, backbone, cell)
    clips = dict.fromkeys(clip for split in splits for clip in counter.list_clips(dataset, split))
    return tuple(clip for clip in clips if clip not in stored)


def estimate_shared_work(
    state: WorkspaceState, kind: DeviceKind, backbones: Mapping[str, Sequence[Cell]], portion: Portion
) -> SharedWork:
    """Estimate what computing backbones together takes, by the cells of each backbone's label."""
    configs = {label: state.backbone(label) for label in backbones}
    first = next(iter(configs.values()))
    work = window_work([(configs[label], cells) for label, cells in backbones.items()])
    alone = {label: window_work([(configs[label], cells)]) for label, cells in backbones.items()}
    tflop = None
    if work is not None:
        # A vector a frame: networks that leave padding out are those of SVD.
        tflop = (
            portion.windows.times(work.all)
            + portion.vectors.times((work.real + work.one_black) / first.frames.window)
            + portion.short_windows.times(work.one_black / first.frames.window)
        )
    # A measured speed takes precedence over the assumed one; with others, a backbone does more work a window.
    # Of one cell alone: find_rate knows no speed of several cells at once.
    measured = (
        (label, rate)
        for label, cells in backbones.items()
        if len(cells) == 1 and (rate := state.measured_rate(label, cells[0], kind))
    )
    label, rate = next(measured, ("", None))
    hours: Amount | None = None
    if portion.windows.most == 0:
        hours = counted(0)
    elif rate is not None:
        own = alone[label]
        # Together they take more than the measured one alone, in the ratio of their work.
        more = work.total / own.total if work is not None and own is not None else 1
        hours = portion.windows.times(more / rate.per_second / SECONDS_PER_HOUR)
    elif tflop is not None:
        if kind == "cuda":
            speed = load_assumptions().gpu.find_speed(first.name, read_precision(first))
        else:
            speed = count_threads() * load_assumptions().cpu.thread_tflop_per_second
        hours = tflop.times(1 / speed / SECONDS_PER_HOUR)
    return SharedWork(
        backbones=tuple(backbones),
        work=work,
        apart=sum(one.total for one in alone.values() if one is not None) if work is not None else None,
        portion=portion,
        tflop=tflop,
        hours=hours,
    )
