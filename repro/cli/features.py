"""The verbs that make features and hold them against others."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from repro.cli.options import BatchOption, DeviceOption, JsonOption, SetOption, WorkspaceOption, at_least_one, changes
from repro.core.errors import Exit
from repro.core.workspace import open_workspace


def verify(
    backbone: str,
    /,
    *,
    golden: Path | None = None,
    checkpoint: Path | None = None,
    implementation: str | None = None,
    set_: SetOption = (),
    limit: float | None = None,
    device: DeviceOption = None,
    batch: BatchOption = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Hold a backbone's features against golden ones; exits 1 where a tensor deviates by more than the limit.

    Without golden values, on this machine and these weights: the fast path against the plain one as released, one
    implementation against the other, each precision against fp32.

    Args:
        backbone: a name from configs/backbones.
        golden: folder of golden windows (repro/backbones/comparison.py says what a file holds).
        checkpoint: weights in the published layout [default: the backbone's, in the workspace].
        implementation: whose modules compute: sgm, diffusers or auto [default: the backbone's].
        set_: another value for a key of the backbone's config, as frames.window=16; may be given again.
        limit: largest relative L2 allowed [default: 1e-5].
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        batch: frames the largest networks take at once [default: what a bound on memory allows].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    changed = changes(set_, implementation=implementation)

    from repro.cli import verify as verification
    from repro.table.requirements import chosen_device

    return verification.show(
        backbone,
        golden,
        checkpoint,
        changed,
        limit,
        chosen_device(device),
        at_least_one("--batch", batch),
        open_workspace(workspace),
        as_json=json_,
    )


def extract(
    source: str,
    /,
    *,
    backbone: str = "svd_xt",
    timesteps: str | None = None,
    layers: str | None = None,
    grid: Annotated[bool, Parameter(negative="")] = False,
    stored_as: Literal["fp16", "fp32"] | None = None,
    shard: str | None = None,
    implementation: str | None = None,
    precision: Literal["fp32", "tf32", "fp16", "bf16"] | None = None,
    set_: SetOption = (),
    workers: int | None = None,
    device: DeviceOption = None,
    batch: BatchOption = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Features of a data set or of any folder of videos; without options as the release's quick start.

    What is there already is kept; a clip that fails is named, the others go on, and it is tried again the next time.

    Args:
        source: a data set, one split of it (ucf101/train), or a folder of videos.
        backbone: names from configs/backbones, separated by commas; svd_xt,sdv2 share all but the UNet.
        timesteps: of a backbone that has them, as 20 or 0,5,10 [default: 20].
        layers: as 9, 1,9, 1-13 or up_1-up_12 [default: 9].
        grid: 7 timesteps and 13 layers in one pass, stored as fp16.
        stored_as: numbers on disk [default: fp32; fp16 for the grid].
        shard: i/n, the i-th of n parts; parts may run at the same time, on several machines.
        implementation: whose modules compute: sgm, diffusers or auto [default: the backbone's].
        precision: of computing: fp32, tf32, fp16 (as released) or bf16 [default: the backbone's].
        set_: another value for a key of the backbones' configs, as frames.window=16; may be given again.
        workers: processes that decode [default: one fewer than there are cores].
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        batch: frames the largest networks take at once [default: what a bound on memory allows].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    from repro.pipeline import extract as extraction

    wanted = extraction.Wanted(
        source=source,
        backbones=tuple(backbone.split(",")),
        timesteps=extraction.numbers("--timesteps", timesteps),
        layers=extraction.layers(layers),
        grid=grid,
        stored_as=stored_as or ("fp16" if grid else "fp32"),
        shard=extraction.shard(shard),
        changes=changes(set_, implementation=implementation, precision=precision),
    )

    from repro.table.requirements import chosen_device

    place = open_workspace(workspace)
    return extraction.run(
        wanted,
        place,
        workers=at_least_one("--workers", workers),
        device=chosen_device(device),
        batch=at_least_one("--batch", batch),
        as_json=json_,
    )
