"""What an extraction will take, reported before it begins: disk, and on a CPU the hours; and after it, how fast it was."""

import shutil
from collections.abc import Sequence

import torch

from repro.backbones.registry import group_by_sharing, load_backbone
from repro.core.console import Reporter, format_duration, format_moment
from repro.core.disk import format_size
from repro.core.errors import MissingError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features import rates
from repro.features.extract import FeatureRequest
from repro.features.gathering import Extraction
from repro.features.store import PRECISION_NAMES
from repro.features.windows import SAMPLED_CLIPS, estimate_windows
from repro.pipeline.assumptions import cpu_windows_per_second, load_assumptions, window_work
from repro.video.published import estimate_frames


def report_disk(clips: Sequence[Clip], requests: Sequence[FeatureRequest], reporter: Reporter) -> None:
    """Report how much disk the features of `clips` take at most, before anything is computed.

    Raises:
        MissingError: less than that is free.
    """
    # Spread over the list: it is ordered by class, and classes differ in the length of their clips.
    sample = clips[:: max(1, len(clips) // SAMPLED_CLIPS)]
    counted = [values for clip in sample if (values := _count_values(clip, requests)) is not None]
    if not counted:
        return
    mean = sum(counted) / len(counted)
    store = requests[0].store
    folder = store.folder.parent.parent
    # Bytes per value: 2 for float16, 4 for float32.
    # Clips whose length is not declared count as average ones.
    size = round(len(clips) * sum(counted) / len(counted) * (2 if store.stored_as == "float16" else 4))
    free = shutil.disk_usage(folder).free
    reporter.line(
        f"{'disk':<11} about {format_size(size)} for {len(clips)} clips ({mean:,.0f} values a clip, "
        f"{PRECISION_NAMES[store.stored_as]}), as much again while they are packed; {format_size(free)} free in {folder}"
    )
    # Packing writes a second copy before the first is removed.
    if 2 * size > free:
        raise MissingError(
            f"features in {folder}: about {format_size(2 * size)} needed, {format_size(free)} free: make room, name another "
            "--workspace, or take fewer --timesteps and --layers"
        )


def _count_values(clip: Clip, requests: Sequence[FeatureRequest]) -> int | None:
    """Count the values in a clip's features, by its declared length; returns None if the file does not declare one."""
    values = 0
    for request in requests:
        config = request.backbone.config
        frames = estimate_frames(clip.path, config.frames.last_second)
        if not frames:
            return None
        # Every stride-th frame is sampled, from the first: ceil(frames / stride).
        vectors = config.vectors(-(-frames // config.frames.stride))
        values += vectors * sum(config.channels(cell) or 0 for cell in request.cells)
    return values


def report_cpu_hours(
    clips: Sequence[Clip], requests: Sequence[FeatureRequest], workspace: Workspace, reporter: Reporter
) -> None:
    """Report how long computing the features of `clips` will take on the CPU, for backbones whose work is known.

    The speed is the one measured in the workspace if there is one, else the assumed one of configs/plan.yaml.
    """
    try:
        measured = rates.load_rates(workspace)
    except rates.DamagedRatesError:  # the next extraction renames it
        measured = ()
    seconds, bases, assumed = 0.0, set(), []
    threads = torch.get_num_threads()
    for group in group_by_sharing(requests, lambda request: request.backbone.config):
        work = window_work([(request.backbone.config, request.cells) for request in group])
        if work is None:
            continue
        # Members of a group see the same windows: counted once.
        windows = sum(estimate_windows(clips, group[0].backbone.config.frames))
        rate = None
        if len(requests) == len(requests[0].cells) == 1:
            rate = rates.find_rate(measured, group[0].backbone.identity(), group[0].cells[0].name, "cpu")
        if rate is None:
            per_second = cpu_windows_per_second(work.total, threads)
            assumed.append(f"{work.total:.4g}")
        else:
            per_second = rate.per_second
            bases.add(f"measured in this workspace, {format_moment(rate.at)}")
        seconds += windows / per_second
    found = sorted(bases)
    if assumed:
        found.append(
            f"assumed, {', '.join(assumed)} TFLOP a window on {threads} thread{'s' * (threads > 1)}: configs/plan.yaml"
        )
    if found:
        reporter.line(f"{'time':<11} about {format_duration(seconds)} on this CPU ({'; '.join(found)})")


def report_speed(done: Extraction, requests: Sequence[FeatureRequest], device: str, reporter: Reporter) -> None:
    """Report how fast windows were computed, and what was waited for.

    Args:
        done: What was computed.
        requests: The requested cells, which decide whether the work of a window is known.
        device: Name of the device as its driver gives it.
        reporter: Prints the line.
    """
    if not done.windows:
        return
    parts = [f"{done.windows / done.seconds:.2f} windows/s"]
    works = [_known_tflop(names, requests) for names in done.windows_by]
    if None not in works:
        # A clip's shorter last window counts as a complete one.
        counts = zip(works, done.windows_by.values(), strict=True)
        speed = sum(work * windows for work, windows in counts if work is not None) / done.seconds
        peak = load_assumptions().gpu.peak_tflop_per_second.get(device)
        parts.append(f"{speed:.3g} TFLOP/s" + (f" ({speed / peak:.0%} of the fp16 peak of {device})" if peak else ""))
    decoder, computing = done.waits.decoder / done.seconds, done.waits.device / done.seconds
    parts.append(f"{decoder:.0%} of the time waiting for decoded windows, {computing:.0%} for their features")
    reporter.line(f"{'speed':<11} {done.windows} windows in {format_duration(done.seconds)}: {', '.join(parts)}")


def _known_tflop(names: Sequence[str], requests: Sequence[FeatureRequest]) -> float | None:
    """Return the work of one window of backbones that were computed together; None unless it is what was counted."""
    group = [(request.backbone.config, request.cells) for request in requests if request.backbone.name in names]
    for config, cells in group:
        # The work was counted up to the usual layer. Precision and the cutting into windows are accounted for.
        own, counted = (c.model_dump(exclude={"precision", "frames"}) for c in (config, load_backbone(config.name)))
        if own != counted or any(cell.layer != config.axes().usual.layer for cell in cells):
            return None
    work = window_work(group)
    return None if work is None else work.total
