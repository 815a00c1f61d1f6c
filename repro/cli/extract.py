"""`repro extract SOURCE`: features of a data set or of a folder of videos."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

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
    parse_shard,
)
from repro.core.console import Reporter
from repro.core.errors import Exit, MissingError
from repro.table.requirements import chosen_device

if TYPE_CHECKING:
    from repro.pipeline.extract import Extracted


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
        Parameter(help="i/n: only part i of n; parts may run at the same time, also on several machines."),
    ] = None


FEATURES = FeatureOptions()


def extract(
    source: DatasetName,
    /,
    *more: DatasetName,
    backbone: BackboneName = "svd_xt",
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
        source: A data set, one of its splits (ucf101/train), a folder of videos, or a video.
        more: Further ones.
        backbone: Names from configs/backbones, separated by commas; svd_xt,sdv2 share all networks but the UNet.
    """
    timesteps, layers = parse_numbers("--timesteps", options.timesteps), parse_layers(options.layers)
    shard = parse_shard(options.shard)

    # Imports torch, which takes seconds: mistakes in the options are reported before.
    from repro.pipeline.extract import ExtractRequest, extract_sources

    request = ExtractRequest(
        sources=(source, *more),
        backbones=tuple(backbone.split(",")),
        timesteps=timesteps,
        layers=layers,
        grid=options.grid,
        stored_as=STORED_AS[options.stored_as or ("fp16" if options.grid else "fp32")],
        shard=shard,
        changes=config.changes(),
        precisions=compute.precision,
    )
    # With --json, stdout has the JSON alone.
    reporter = Reporter(to_stderr=common.as_json)
    execution = compute.execution(chosen_device(compute.device), reporter.line)
    workspace = common.open_workspace()
    with follow_work(reporter, f"extract {' '.join((source, *more))}", workspace, execution.device) as work:
        extracted = extract_sources(request, workspace, execution, reporter)
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
    return Exit.OK


def _extraction_as_json(extracted: "Extracted") -> dict[str, object]:
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
