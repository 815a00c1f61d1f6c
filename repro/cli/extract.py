"""`repro extract SOURCE`: features of a data set or of a folder of videos."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from repro.backbones.config import BackboneConfig, Cell, Precision, choose_cells
from repro.backbones.registry import DEFAULT_BACKBONE, load_backbone
from repro.cli.options import (
    BACKBONE,
    COMMON,
    COMPUTE,
    STORED_AS,
    BackboneName,
    BackboneOptions,
    CommonOptions,
    ComputeOptions,
    DatasetName,
    FlagOption,
    LayersOption,
    TimestepsOption,
    follow_work,
    parse_layers,
    parse_numbers,
    parse_shards,
)
from repro.core import LazyModule
from repro.core.config import is_config_path
from repro.core.console import QuietReporter, Reporter
from repro.core.errors import Exit, MissingError, UsageError, find_nearest
from repro.core.workspace import Workspace
from repro.datasets.own import find_split
from repro.datasets.registry import open_dataset, user_dataset_names
from repro.features.collection import Collection, dataset_collection, file_collection, folder_collection
from repro.table.requirements import chosen_device

# These import torch and PyAV, which takes seconds: mistakes in the options are reported before.
if TYPE_CHECKING:
    from repro.pipeline import extract as extraction
    from repro.plan import processes
    from repro.video import decoders
else:
    extraction = LazyModule("repro.pipeline.extract")
    processes = LazyModule("repro.plan.processes")
    decoders = LazyModule("repro.video.decoders")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureOptions:
    """Which features are extracted of which clips, and how they are stored."""

    timesteps: TimestepsOption = None
    layers: LayersOption = None
    grid: Annotated[FlagOption, Parameter(help="All 7 timesteps and 13 layers in one pass, stored as fp16.")] = False
    stored_as: Annotated[
        Literal["fp16", "fp32"] | None, Parameter(help="Type on disk [default: fp32; fp16 with --grid].")
    ] = None
    shard: Annotated[
        str | None,
        Parameter(help="i/n: only part i of n, also at the same time; slurm: by the task of a SLURM job array."),
    ] = None
    devices: Annotated[
        str | None,
        Parameter(help="0,1,2,3: a process on each of these GPUs; cpu,cpu: two on the CPU."),
    ] = None


FEATURES = FeatureOptions()


def extract(
    source: DatasetName,
    /,
    *more: DatasetName,
    backbone: BackboneName = DEFAULT_BACKBONE,
    options: FeatureOptions = FEATURES,
    config: BackboneOptions = BACKBONE,
    compute: ComputeOptions = COMPUTE,
    common: CommonOptions = COMMON,
) -> Exit:
    """Extract features of data sets, of folders of videos, or of single videos.

    Defaults follow the release's quick start (SVD-XT, timestep 20, layer 9). Features that are stored already are kept.
    Each clip is decoded once for all backbones that sample it alike. A clip that fails is reported and the others continue;
    the next run tries it again.

    Example: `repro extract my_videos/ --backbone svd_xt,sdv2`

    Args:
        source: A data set or the YAML file of own clips, one of its splits (ucf101/train), a folder of videos, or a video.
        more: Further ones.
        backbone: Names from configs/backbones, separated by commas; svd_xt,sdv2 share all networks but the UNet.
    """
    devices = _parse_devices(options.devices, compute)
    workspace = common.open_workspace()
    request = _build_request((source, *more), backbone, options, config, compute, workspace)
    if devices:
        commands = _write_commands((source, *more), devices, backbone, options, config, compute, workspace)
        return _extract_on_devices(request, commands, compute, common, as_list=bool(more))
    # With --json, stdout has the JSON alone.
    reporter = Reporter(to_stderr=common.as_json)
    execution = compute.execution(chosen_device(compute.device), reporter.line)
    with follow_work(reporter, f"extract {' '.join((source, *more))}", workspace, execution.device) as work:
        # Decodes and computes on this machine, for hours or days; interrupted, it keeps every finished clip.
        extracted = extraction.extract_collections(request, workspace, execution, reporter)
        failed = [one for one in extracted if one.done.failed]
        if failed:
            work.failure = (
                f"{sum(len(one.done.failed) for one in failed)} of {sum(one.clips for one in extracted)} clips failed"
            )
    if common.as_json:
        found = [_extraction_as_json(one) for one in extracted]
        print(json.dumps(found if more else found[0], indent=1))
    # Printed results first: the other clips' features are stored and complete.
    if failed:
        raise MissingError(
            f"{work.failure} and are named in "
            f"{', '.join(str(one.failed_list) for one in failed)}: fix them and run the same command: it tries them again"
        )
    if request.shards and not common.as_json:
        reporter.line("when all parts are extracted, the same command without --shard packs their features")
    return Exit.OK


def _build_request(
    sources: Sequence[str],
    backbone: str,
    options: FeatureOptions,
    config: BackboneOptions,
    compute: ComputeOptions,
    workspace: Workspace,
) -> "extraction.ExtractRequest":
    """Resolve everything that the command line names.

    Raises:
        UsageError: a source, backbone, timestep, layer or shard that does not exist.
        MissingError: annotation files are missing.
    """
    shards = parse_shards(options.shard)
    wanted = _choose_backbones(backbone.split(","), options, config.changes(), compute.precision)
    collections: dict[str, Collection] = {}
    for source in sources:
        found = _open_collection(source, workspace)
        if not found.clips:
            raise UsageError(f"{source}: its annotation files list no clips: fetch the publishers' files again")
        before = collections.get(found.name, found)
        # Splits of a data set are one collection: clips in both are extracted once, and the store is packed once.
        both = dataset_collection(found.name, (*before.clips, *found.clips))
        collections[found.name] = replace(found, clips=both.clips)
    stored_as = STORED_AS[options.stored_as or ("fp16" if options.grid else "fp32")]
    return extraction.ExtractRequest(tuple(collections.values()), wanted, stored_as, shards)


def _choose_backbones(
    names: Sequence[str], options: FeatureOptions, changes: Mapping[str, str], precisions: Sequence[Precision]
) -> tuple[tuple[BackboneConfig, tuple[Cell, ...]], ...]:
    """Return the backbones with the cells that are requested of each.

    Raises:
        UsageError: an unknown or repeated backbone, or options that it does not have.
    """
    timesteps, layers = parse_numbers("--timesteps", options.timesteps), parse_layers(options.layers)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"--backbone {','.join(names)}: duplicate backbone '{twice}'")
    if options.grid and (timesteps or layers):
        raise UsageError("--grid is 7 timesteps by 13 layers: it takes no --timesteps or --layers")
    configs = [load_backbone(name, changes, *precisions) for name in names]
    if (options.grid or timesteps) and all(one.axes().timesteps is None for one in configs):
        option = "--grid" if options.grid else "--timesteps"
        raise UsageError(f"{option}: {' and '.join(names)} {'have' if len(configs) > 1 else 'has'} no timesteps")
    return tuple((one, choose_cells(one, timesteps, layers, options.grid)) for one in configs)


def _open_collection(source: str, workspace: Workspace) -> Collection:
    name, _, split = source.partition("/")
    folder = Path(source)
    named = name in user_dataset_names() or is_config_path(source.rpartition("/")[0])
    # A folder named as a data set is only meant if the path continues below it.
    if is_config_path(source) or (named and not (split and folder.exists())):
        settings, part = find_split(source)
        dataset = open_dataset(settings, workspace)
        return dataset_collection(dataset.name, dataset.split(part).clips if part else dataset.clips)
    if not source or not folder.exists():
        raise UsageError(
            f"'{source}' is neither a data set ({', '.join(user_dataset_names())}), nor a split of one (ucf101/train), nor a folder "
            f"of videos or a video{find_nearest(name, user_dataset_names()) or ': name one of them'}"
        )
    if folder.is_file():
        return file_collection(folder)
    return folder_collection(folder, skip=workspace.root if workspace.root.exists() else None)


def _parse_devices(text: str | None, compute: ComputeOptions) -> tuple[str, ...]:
    """Return the devices of --devices; empty if it is not given.

    Raises:
        UsageError: no such devices, or options that belong to one process.
        MissingError: one of the GPUs is not visible.
    """
    if text is None:
        return ()
    if compute.device or compute.profile:
        raise UsageError("--devices names the devices of several processes: not with --device or --profile")
    names = tuple(f"cuda:{part}" if part.isdecimal() else part for part in text.split(","))
    gpus = [name for name in names if name != "cpu"]
    if not all(name == "cpu" or re.fullmatch(r"cuda:\d+", name) for name in names) or len(set(gpus)) < len(gpus):
        raise UsageError(f"--devices {text}: expected different GPUs by number, as 0,1,2,3, or cpu,cpu")
    for name in gpus:
        chosen_device(name)
    return names


def _write_commands(
    sources: Sequence[str],
    devices: Sequence[str],
    backbone: str,
    options: FeatureOptions,
    config: BackboneOptions,
    compute: ComputeOptions,
    workspace: Workspace,
) -> dict[str, list[str]]:
    """Return the command line of each device's process, which extracts a part of the clips."""
    workers = compute.workers or max(1, decoders.count_spare_cores() // len(devices))
    words = ["extract", "--backbone", backbone, "--workers", str(workers), "--json"]
    for name, value in (
        ("--timesteps", options.timesteps),
        ("--layers", options.layers),
        ("--stored-as", options.stored_as),
        ("--implementation", config.implementation),
        ("--batch", compute.batch),
        ("--compile", compute.compile_),
        ("--workspace", workspace.root),
    ):
        words += [] if value is None else [name, str(value)]
    words += ["--grid"] * options.grid + ["--allow-damaged"] * compute.allow_damaged
    # The processes get what this command was given, so that all of them compute the same features.
    words += [word for change in config.set_ for word in ("--set", change)]
    words += [word for precision in compute.precision for word in ("--precision", precision)]
    # A part of a part: --shard divides between machines, and --devices between the GPUs of this one.
    outer = [f"{number}/{of}" for number, of in parse_shards(options.shard)]
    commands = {}
    for number, device in enumerate(devices, 1):
        shard = ",".join([*outer, f"{number}/{len(devices)}"])
        # Two processes on the CPU are named by their part.
        commands[device if device != "cpu" else f"cpu {number}"] = [
            *words, "--device", device, "--shard", shard, "--", *sources
        ]  # fmt: skip
    return commands


def _extract_on_devices(
    request: "extraction.ExtractRequest",
    commands: Mapping[str, Sequence[str]],
    compute: ComputeOptions,
    common: CommonOptions,
    *,
    as_list: bool,
) -> Exit:
    """Run one process a device, each with a part of the clips, and pack what they stored; several sources are listed as JSON."""
    reporter = Reporter(to_stderr=common.as_json)
    ended = processes.run_processes(commands, reporter)
    parts = [_read_extractions(one.output) for one in ended.values()]
    lost = {name: one.code for (name, one), part in zip(ended.items(), parts, strict=True) if one.code and not part}
    if lost:
        raise MissingError(
            f"{len(lost)} of {len(commands)} processes ended early ({', '.join(f'{n}: exit code {c}' for n, c in lost.items())}): "
            "their reasons are above; run the same command again: finished clips are kept"
        )
    merged = [_merge_extractions(found) for found in zip(*parts, strict=True)]
    if common.as_json:
        print(json.dumps(merged if as_list else merged[0], indent=1))
    failed = sum(len(one["failed"]) for one in merged)
    if failed:
        raise MissingError(
            f"{failed} of {sum(one['clips'] for one in merged)} clips failed and are named above: fix them and run the same command: it "
            "tries them again"
        )
    if not request.shards:
        # Everything is stored: this packs, and computes nothing.
        extraction.extract_collections(request, common.open_workspace(), compute.execution("cpu"), QuietReporter())
    return Exit.OK


def _read_extractions(output: str) -> list[dict[str, Any]]:
    """Return what a process printed of its extractions; empty if it failed before any."""
    try:
        found = json.loads(output)
    except ValueError:  # it was killed
        return []
    if isinstance(found, dict):
        return [] if "error" in found else [found]
    return list(found)


def _merge_extractions(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON of parts of one collection, computed at the same time, as that of one extraction."""
    merged = dict(parts[0])
    for part in parts[1:]:
        merged |= {
            key: merged[key] + part[key] for key in ("clips", "extracted", "reused", "recomputed_frames", "windows")
        }
        merged["failed"] = merged["failed"] | part["failed"]
        merged["seconds"] = max(merged["seconds"], part["seconds"])
        merged["waiting_seconds"] = {
            key: max(value, part["waiting_seconds"][key]) for key, value in merged["waiting_seconds"].items()
        }
    return merged


def _extraction_as_json(extracted: "extraction.Extracted") -> dict[str, object]:
    done = extracted.done
    return {
        "collection": extracted.collection,
        "stores": {r.backbone.name: str(r.store.folder) for r in extracted.requests},
        "cells": {r.backbone.name: [cell.name for cell in r.cells] for r in extracted.requests},
        "clips": extracted.clips,
        "extracted": len(done.extracted),
        "reused": len(done.reused),
        "failed": done.failed,
        "recomputed_frames": done.recomputed_frames,
        "windows": done.windows,
        "seconds": round(done.seconds, 3),
        "waiting_seconds": {"decoder": round(done.waits.decoder, 3), "device": round(done.waits.device, 3)},
    }
