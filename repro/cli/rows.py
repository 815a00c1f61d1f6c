"""The verbs that run a row, or use what it left."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from repro.cli.options import (
    BatchOption,
    DeviceOption,
    FlagOption,
    JsonOption,
    ProtocolOption,
    SeedsOption,
    WorkspaceOption,
    at_least_one,
    only_with,
)
from repro.core.errors import Exit, UsageError
from repro.core.workspace import device_from_environment, open_workspace
from repro.table import rows
from repro.table.requirements import check_device_name


def run(
    row: str,
    /,
    *,
    seeds: SeedsOption = 1,
    protocol: Literal["published", "honest", "both"] = "published",
    grid: FlagOption = False,
    timesteps: str | None = None,
    layers: str | None = None,
    head: Literal["transformer", "linear"] | None = None,
    jobs: int | None = None,
    stored_as: Literal["fp16", "fp32"] | None = None,
    allow_missing: FlagOption = False,
    limit: int | None = None,
    from_: Annotated[Literal["features", "readout"], Parameter(name="--from")] = "features",
    dry_run: FlagOption = False,
    workers: int | None = None,
    device: DeviceOption = None,
    batch: BatchOption = None,
    deterministic: FlagOption = False,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Run a row end to end: features, readout, run record. `repro ROW` is the same.

    Args:
        row: a name from `repro list`.
        seeds: how many readouts; the published seed first, then those that follow it.
        protocol: honest picks the epoch on clips held out of the training split; never judged against the table. A grid
            takes both.
        grid: a readout at each of 7 timesteps and 13 layers, and the best of them by the published and the honest rule.
        timesteps: with --grid: some of its timesteps, as 20 or 0,5,10 [default: all].
        layers: with --grid: some of its layers, as 9, 1,9 or 1-13 [default: all].
        head: with --grid: transformer, or linear as in the release's linear grids [default: the row's].
        jobs: with --grid: processes that train at the same time; they share the cores, and a GPU [default: 1].
        stored_as: with --grid: features on disk; fp16 takes half, but is not what the row itself reads [default: fp32].
        allow_missing: go on without clips that are not there; recorded, and widens an accuracy row's margin.
        limit: at most so many clips of each split, for a trial: recorded as one, and never judged.
        from_: the stage to begin with: features, or readout, for features that are there; no video is looked at then.
        dry_run: print what it would take, as `repro plan ROW`, and do nothing.
        workers: processes that decode [default: one fewer than there are cores].
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        batch: frames the largest networks take at once [default: what a bound on memory allows].
        deterministic: on a GPU, only operations that repeat bit for bit.
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    if row in (*rows.SMOKE_ROWS, *rows.PRETRAINED_SMOKE_ROWS):
        raise UsageError(f"{row} is part of the smoke job: run `repro smoke`")
    found, place = rows.load_row(row), open_workspace(workspace)
    count, processes = at_least_one("--seeds", seeds) or 1, at_least_one("--workers", workers)
    frames, clips = at_least_one("--batch", batch), at_least_one("--limit", limit)
    of_grid = {
        "--timesteps": timesteps, "--layers": layers, "--head": head, "--jobs": jobs, "--stored-as": stored_as,
        "--protocol both": protocol if protocol == "both" else None,
    }  # fmt: skip
    if not grid:
        only_with(of_grid, "--grid")
    elif clips or from_ == "readout" or dry_run:
        raise UsageError("--grid runs whole: not with --limit, --from or --dry-run")
    else:
        from repro.pipeline.grid import grid as grids

        wish = grids.wish(timesteps, layers, head, protocol, stored_as, at_least_one("--jobs", jobs))
        grids.wished_row(row, wish)
    if device is not None:
        check_device_name(device)
    if dry_run and clips:
        raise UsageError("--dry-run plans the whole row: not with --limit")
    if protocol != "both" and dry_run:
        from repro.cli import planning

        return planning.show((row,), place, seeds=count, protocol=protocol, device=device, as_json=json_)
    if protocol != "both" and from_ == "readout":
        if allow_missing or clips:
            raise UsageError("--from readout takes the features of every clip: not with --limit or --allow-missing")
        return readout(
            row,
            seeds=seeds,
            protocol=protocol,
            device=device,
            deterministic=deterministic,
            workspace=workspace,
            json_=json_,
        )

    from repro.table import requirements

    # First what it lacks, which takes no time to find out; a device asked for is one of these things.
    named = device or device_from_environment()
    requirements.require_all(found, place, gpu=named is not None and named != "cpu")
    chosen = requirements.chosen_device(device)
    if grid:
        how = grids.Options(count, chosen, deterministic, processes, frames, allow_missing)
        return grids.run(row, wish, how, place, as_json_=json_)

    from repro.pipeline import running

    assert protocol != "both"
    options = running.Options(
        count,
        protocol,
        chosen,
        deterministic,
        workers=processes,
        batch=frames,
        allow_missing=allow_missing,
        limit=clips,
    )
    return running.run(row, options, place, as_json=json_)


def readout(
    row: str,
    /,
    *,
    seeds: SeedsOption = 1,
    protocol: ProtocolOption = "published",
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
    device: DeviceOption = None,
    deterministic: FlagOption = False,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """The readout of a row alone, from features that are there already.

    Args:
        row: a name from `repro list`.
        seeds: how many readouts; the published seed first, then those that follow it.
        protocol: honest picks the epoch on clips held out of the training split; never judged against the table.
        precision: of matrix products; part of the run's key, and recorded.
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        deterministic: on a GPU, only operations that repeat bit for bit.
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    rows.load_row(row)

    from repro.pipeline import running
    from repro.table.requirements import chosen_device

    count = at_least_one("--seeds", seeds) or 1
    options = running.Options(count, protocol, chosen_device(device), deterministic, precision)
    return running.read_out_alone(row, options, open_workspace(workspace), as_json=json_)


def predict(
    row: str,
    /,
    *videos: Path,
    seed: int | None = None,
    top: int = 5,
    workers: int = 1,
    device: DeviceOption = None,
    batch: BatchOption = None,
    workspace: WorkspaceOption = None,
    json_: JsonOption = False,
) -> Exit:
    """Score any video files with a row's trained readout.

    Args:
        row: a row that has been run here, also smoke.
        videos: files; one that cannot be decoded is named, the others are scored.
        seed: of the readout [default: the newest run's].
        top: classes shown for each video.
        workers: processes that decode.
        device: cpu or cuda [default: REPRO_DEVICE, else cuda where there is one].
        batch: frames the largest networks take at once [default: what a bound on memory allows].
        workspace: folder of data, checkpoints, features and runs [default: REPRO_WORKSPACE, else ./workspace].
        json_: print JSON only.
    """
    rows.load_row(row)
    if not videos:
        raise UsageError("predict: no video named: give one or more files")
    shown, processes = at_least_one("--top", top) or 1, at_least_one("--workers", workers) or 1

    from repro.backbones.extractor import Execution
    from repro.pipeline import predict as predicting
    from repro.table.requirements import chosen_device

    execution = Execution(chosen_device(device), at_least_one("--batch", batch), processes)
    return predicting.show(row, videos, seed, shown, open_workspace(workspace), execution, as_json=json_)
