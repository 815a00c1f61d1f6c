"""`repro extract`: what is wanted, what it will take, doing it, and saying what came of it."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from repro.backbones.config import BackboneConfig, Cell, Layer, choose_cells
from repro.backbones.registry import describe_backbone, load_backbone
from repro.core.console import Reporter, sized, spoken
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features.collection import Collection, dataset_collection, folder_collection

SAMPLE = 200
"""Clips whose length is looked up to say how much disk all of them will take."""


@dataclass(frozen=True, slots=True)
class Wanted:
    source: str
    backbones: tuple[str, ...]
    timesteps: tuple[int, ...] | None
    layers: tuple[Layer, ...] | None
    """None: the backbone's usual ones, which rows read."""
    grid: bool
    stored_as: str
    """fp32 or fp16."""
    shard: tuple[int, int] | None
    """Which of how many, 1 the first."""
    changes: Mapping[str, str]
    """Of the backbones' configs."""


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """20, 0,5,10 or 1-13 as numbers, ascending, each once; None where nothing is said.

    Raises:
        UsageError: it is none of these.
    """
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if (
            not first.isdecimal()
            or len(part) > 7
            or (dash and not last.isdecimal())
            or (dash and int(last) < int(first))
        ):
            raise UsageError(f"{option} {text}: expected numbers, as 20, 0,5,10 or 1-13")
        found |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def layers(text: str | None) -> tuple[Layer, ...] | None:
    """As numbers, and behind them up_1 or up_1-up_12 for layers of a decoder, and final.

    Raises:
        UsageError: it is none of these.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    ups = [part.replace("up_", "") for part in parts if part.startswith("up_")]
    others = [part for part in parts if not part.startswith("up_") and part != "final"]
    try:
        found: tuple[Layer, ...] = (numbers("--layers", ",".join(others)) or ()) if others else ()
        raised = (numbers("--layers", ",".join(ups)) or ()) if ups else ()
    except UsageError as error:
        raise UsageError(f"--layers {text}: expected layers, as 9, 1,9, 1-13, up_1, up_1-up_12 or final") from error
    return (*found, *(f"up_{n}" for n in raised), *(("final",) if "final" in parts else ()))


def shard(text: str | None) -> tuple[int, int] | None:
    """i/n as two numbers.

    Raises:
        UsageError: not 1 <= i <= n.
    """
    if text is None:
        return None
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UsageError(f"--shard {text}: expected i/n with i from 1 to n, as 1/4")
    return int(number), int(of)


def run(
    wanted: Wanted, workspace: Workspace, *, workers: int | None, device: str, batch: int | None, as_json: bool
) -> Exit:
    """Extract, and pack what is whole.

    Raises:
        UsageError: a source, backbone, timestep or layer that does not exist.
        MissingError: a checkpoint or data are not there, or disk or memory do not hold it.
    """
    if len(set(wanted.backbones)) < len(wanted.backbones):
        raise UsageError(f"--backbone {','.join(wanted.backbones)}: each stands once")
    if wanted.grid and (wanted.timesteps or wanted.layers):
        raise UsageError("--grid is 7 timesteps by 13 layers: it takes no --timesteps or --layers")
    configs = {name: load_backbone(name, wanted.changes) for name in wanted.backbones}
    if (wanted.grid or wanted.timesteps) and all(c.axes().timesteps is None for c in configs.values()):
        option = "--grid" if wanted.grid else "--timesteps"
        raise UsageError(f"{option}: {' and '.join(configs)} {'have' if len(configs) > 1 else 'has'} no timesteps")
    cells = {name: choose_cells(c, wanted.timesteps, wanted.layers, wanted.grid) for name, c in configs.items()}
    whole = _collection(wanted.source, workspace)
    part = whole.shard(*wanted.shard) if wanted.shard else whole
    if not part.clips:
        raise UsageError(
            f"--shard {wanted.shard[0]}/{wanted.shard[1]}: no clips are left for it" if wanted.shard else ""
        )
    workspace.require_writable()
    reporter = Reporter(to_stderr=as_json)
    with ExitStack() as held:
        for name in wanted.backbones:
            held.enter_context(workspace.lock(f"extract {name} {whole.name}{part.part}"))
        return _run(wanted, configs, cells, whole, part, workspace, reporter, workers, device, batch, as_json=as_json)


def _run(
    wanted: Wanted, configs: Mapping[str, BackboneConfig], cells: Mapping[str, tuple[Cell, ...]], whole: Collection,
    part: Collection, workspace: Workspace, reporter: Reporter, workers: int | None, device: str, batch: int | None,
    *, as_json: bool,
) -> Exit:  # fmt: skip
    from repro.backbones.extractor import Execution
    from repro.features import rates
    from repro.features.extract import Ask, extract, pack_if_whole
    from repro.features.store import FeatureStore, StoredAs
    from repro.records.record import machine, versions
    from repro.video.decoders import spare_cores

    stored_as: StoredAs = "float16" if wanted.stored_as == "fp16" else "float32"
    asks = []
    for name, config in configs.items():
        backbone = describe_backbone(config, workspace)
        store = FeatureStore.open(workspace, name, backbone.identity(), whole.name, stored_as)
        asks.append(Ask(backbone, cells[name], store))
    execution = Execution(device, batch, workers or spare_cores(), reporter.line)
    on = machine(device)
    done = extract(
        part, asks, execution, versions() | on, reporter,
        before=lambda todo: say_disk(todo, configs, cells, wanted.stored_as, workspace.features, reporter),
    )  # fmt: skip
    for ask in asks:
        reporter.stage(
            "features",
            total=len(part.clips) - len(done.failed),
            reused=len(part.clips) - len(done.failed) - done.made_of(ask.backbone.name),
            made="extracted",
            why=f"{ask.backbone.name}, {len(ask.cells)} cell{'s' if len(ask.cells) > 1 else ''}",
            where=ask.store.folder,
        )
    if done.windows:
        reporter.line(
            f"{'':<11} {done.windows} windows in {spoken(done.seconds)}: {done.windows / done.seconds:.2f} windows/s"
        )
    if len(asks) == 1:  # of two that share work, neither has a rate of its own
        (ask,) = asks
        names = tuple(cell.name for cell in ask.cells)
        rates.record(workspace, ask.backbone.name, ask.backbone.identity(), names, on, done.windows, done.seconds)
    pack_if_whole(whole, asks, done, reporter)
    if as_json:
        found = {
            "collection": whole.name,
            "stores": {ask.backbone.name: str(ask.store.folder) for ask in asks},
            "cells": {name: [cell.name for cell in chosen] for name, chosen in cells.items()},
            "clips": len(part.clips),
            "extracted": len(done.extracted),
            "reused": len(done.reused),
            "failed": done.failed,
            "windows": done.windows,
            "seconds": round(done.seconds, 3),
        }
        print(json.dumps(found, indent=1))
    if done.failed:
        raise MissingError(
            f"{len(done.failed)} of {len(part.clips)} clips failed and are named in "
            f"{asks[0].store.folder / f'failed{part.part}.json'}: mend them and run the same command: it tries them again"
        )
    return Exit.OK


def _collection(source: str, workspace: Workspace) -> Collection:
    from repro.datasets.registry import brought_names, open_dataset

    name, _, split = source.partition("/")
    folder = Path(source)
    if name in brought_names() and (not split or not folder.exists()):
        dataset = open_dataset(name, workspace)
        return dataset_collection(name, dataset.split(split).clips if split else dataset.clips)
    if not source or not folder.exists():
        raise UsageError(
            f"'{source}' is neither a data set ({', '.join(brought_names())}), nor a split of one (ucf101/train), nor a folder "
            "of videos: name one of them"
        )
    return folder_collection(folder, skip=workspace.root if workspace.root.exists() else None)


def say_disk(
    todo: Sequence[Clip], configs: Mapping[str, BackboneConfig], cells: Mapping[str, tuple[Cell, ...]], stored_as: str,
    place: Path, reporter: Reporter,
) -> None:  # fmt: skip
    """Say how much disk the features of `todo` take at most, before anything is computed.

    Raises:
        MissingError: there is not as much.
    """
    from repro.video.readers import declared_frames

    chosen = todo[:: max(1, len(todo) // SAMPLE)]
    known, values = 0, 0
    for clip in chosen:
        for name, config in configs.items():
            native = declared_frames(clip.path, config.frames.max_seconds)
            if not native:
                break
            vectors = config.vectors(-(-native // config.frames.stride))
            values += vectors * sum(config.channels(cell) or 0 for cell in cells[name])
        else:
            known += 1
    if not known:
        return
    size = round(len(todo) * values / known * (2 if stored_as == "fp16" else 4))
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    reporter.line(
        f"{'disk':<11} about {sized(size)} for {len(todo)} clips ({values / known:,.0f} values a clip, {stored_as}), as "
        f"much again while they are packed; {sized(free)} free in {place}"
    )
    if 2 * size > free:
        raise MissingError(
            f"features in {place}: about {sized(2 * size)} needed, {sized(free)} free: make room, name another --workspace, "
            "or take fewer --timesteps and --layers"
        )
