"""Compute the features that stores are missing, clip by clip. Features that exist are never rewritten.

Backbones that sample frames in the same way share one decoding of a clip.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from repro.backbones.compilation import FROM_CLIPS
from repro.backbones.config import UNCOMPILED, Cell, read_precision
from repro.backbones.extractor import Backbone, Execution, Extractor
from repro.backbones.precision import explain_precision
from repro.backbones.registry import open_extractors
from repro.core.console import Reporter
from repro.core.files import write_json
from repro.core.locks import remove_partials
from repro.core.progress.stages import Part
from repro.datasets.split import Clip
from repro.features.collection import Collection
from repro.features.computing import compute_batches, profile_first
from repro.features.gathering import ClipGatherer, Extraction, add_failure
from repro.features.pack_collection import pack_collection
from repro.features.spent import SpentLog
from repro.features.store import FeatureStore
from repro.features.stored_cells import StoredCells
from repro.features.windows import MissingCells, add_noise, batch_windows, estimate_windows, is_needed
from repro.video.decoders import Decoders, Job
from repro.video.published import VideoError, check_file
from repro.video.sampling import ReaderName, Sampling


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """The requested cells of a backbone, and the store they go to."""

    backbone: Backbone
    cells: tuple[Cell, ...]
    store: FeatureStore


def extract_missing(
    collection: Collection,
    requests: Sequence[FeatureRequest],
    execution: Execution,
    origin: Mapping[str, str],
    reporter: Reporter,
    before: Callable[[Sequence[Clip]], None] = lambda todo: None,
) -> Extraction:
    """Compute the features of a collection that are missing from the stores of `requests`.

    A failed clip is reported and tried again by the next run. Backbones are loaded only if something is missing.

    Args:
        collection: The clips, possibly a shard.
        requests: The requested cells of each backbone, with their stores.
        execution: Device, batch and decoding processes.
        origin: Software and machine, stored once and named by every entry.
        reporter: Where progress and failed clips are reported.
        before: Called with the clips to compute, before any is computed.
    """
    result = Extraction()
    for request in requests:
        clips_folder = request.store.folder / "clips"
        clips_folder.mkdir(parents=True, exist_ok=True)
        backbone_folder = request.store.folder.parent
        for folder in (backbone_folder, backbone_folder / "origins", request.store.folder, clips_folder):
            remove_partials(folder)
    missing = _find_missing_cells(collection, requests, execution, result, reporter)
    result.reused = [clip.id for clip in collection.clips if clip.id in result.video_sha256 and clip.id not in missing]
    if missing:
        todo = [clip for clip in collection.clips if clip.id in missing]
        before(todo)
        if execution.compile is None:
            # By all clips of the collection: to compute a few of them again rounds as before. A shard's are some of them.
            execution = replace(execution, compile=execution.device != "cpu" and len(collection.clips) >= FROM_CLIPS)
        elif execution.compile:
            plain = [r.backbone.name for r in requests if read_precision(r.backbone.config) in UNCOMPILED]
            if plain:
                reporter.line(
                    f"{'compile':<11} {', '.join(plain)}: not compiled, as networks in fp32 and tf32 never are"
                )
        _extract_clips(todo, missing, requests, execution, origin, result, reporter)
        if execution.device != "cpu":
            # The networks are gone. A training asks the GPU what is free, which does not count what torch keeps for later.
            torch.cuda.empty_cache()
    elif execution.profile is not None and not execution.profile.exists():
        reporter.line(f"{'profile':<11} not written: no features were missing")
    for request in requests:
        _write_failed(request.store.folder / f"failed{collection.part}.json", result.failed)
    return result


def _write_failed(path: Path, failed: Mapping[str, str]) -> None:
    """Write the failed clips and their reasons to `path`; remove the file if no clip failed."""
    if failed:
        write_json(path, dict(failed))
    else:
        path.unlink(missing_ok=True)


def pack_if_complete(
    collection: Collection, requests: Sequence[FeatureRequest], result: Extraction, reporter: Reporter
) -> None:
    """Pack each store that has features of all clips of `collection`."""
    if result.failed:
        return
    for request in requests:
        stored = StoredCells(request.store, {cell.name for cell in request.cells}, reporter)
        if all(stored.has_all(clip.id) for clip in collection.clips):
            for listed in request.store.folder.glob("failed*.json"):
                listed.unlink()  # of an earlier run of a shard, whose clips have been computed since
            packed = pack_collection(request.store, reporter.warn)
            if packed:
                reporter.line(f"{'packed':<11} {packed} clips' features  {request.store.folder / 'packed'}")


def _find_missing_cells(
    collection: Collection,
    requests: Sequence[FeatureRequest],
    execution: Execution,
    result: Extraction,
    reporter: Reporter,
) -> dict[str, MissingCells]:
    """Return the missing cells of each readable clip, by clip id; clips that cannot be read are added to `result`.

    Features count as present only for the same video bytes: a replaced video is computed again.
    """
    stored = {r.backbone.name: StoredCells(r.store, {c.name for c in r.cells}, reporter) for r in requests}
    missing: dict[str, MissingCells] = {}
    with reporter.progress("hash videos", len(collection.clips), unit="clips") as advance:
        requests[0].store.hashes.cache_all((clip.path for clip in collection.clips), lambda: advance(""))
    for clip in collection.clips:
        try:
            check_file(clip.path)
            sha256 = requests[0].store.hashes.sha256(clip.path)
        except VideoError as error:
            add_failure(result, clip, str(error), reporter)
            continue
        except OSError as error:
            add_failure(result, clip, f"clip {clip.path}: cannot be read ({error.strerror})", reporter)
            continue
        if not execution.allow_damaged and any(cells.is_damaged(clip.id, sha256) for cells in stored.values()):
            reason = (
                f"clip {clip.path}: damaged: its stored features are of the part that decodes: fetch or copy it again, or use them "
                "with --allow-damaged"
            )
            add_failure(result, clip, reason, reporter)
            continue
        result.video_sha256[clip.id] = sha256
        # By cell: a wider grid than the one before computes only what it adds.
        missing_cells: MissingCells = {}
        for request in requests:
            name = request.backbone.name
            present = stored[name].find(clip.id, sha256)
            cells = tuple(cell for cell in request.cells if cell.name not in present)
            if cells:
                missing_cells[name] = cells
                result.incomplete[name] = result.incomplete.get(name, 0) + 1
        if missing_cells:
            missing[clip.id] = missing_cells
    return missing


def _extract_clips(
    todo: Sequence[Clip],
    missing: Mapping[str, MissingCells],
    requests: Sequence[FeatureRequest],
    execution: Execution,
    origin: Mapping[str, str],
    result: Extraction,
    reporter: Reporter,
) -> None:
    """Compute and store the missing cells of the clips `todo`; add to `result` what was done."""
    # Cells that no clip is missing are not computed: layers behind the last missing one are then not even loaded.
    cells_to_compute = [
        (r.backbone, tuple(c for c in r.cells if any(c in m.get(r.backbone.name, ()) for m in missing.values())))
        for r in requests
    ]
    with reporter.run_part(Part("load weights", None, "")):
        extractors = open_extractors([(backbone, cells) for backbone, cells in cells_to_compute if cells], execution)
    stores = {request.backbone.name: request.store for request in requests}
    precisions = {request.backbone.name: read_precision(request.backbone.config) for request in requests}
    # One group per frame sampling: its backbones share the decoding, however they cut the frames into windows.
    groups: dict[tuple[int, float, ReaderName], list[Extractor]] = {}
    for extractor in extractors:
        groups.setdefault(extractor.frames.decoding, []).append(extractor)
    clips_of = {key: [c for c in todo if any(is_needed(e, c, missing) for e in group)] for key, group in groups.items()}
    # On a CPU nothing is launched ahead: a clip is stored before the next one is computed.
    on_cpu = execution.device == "cpu"
    first = requests[0].store
    keys = {name: store.key for name, store in stores.items()}
    spent = SpentLog(first.folder.parents[2], first.folder.name, keys, origin.get("device", execution.device))
    # One for all groups: a clip that fails in one of them is not stored in the others.
    gathering = ClipGatherer(missing, stores, precisions, result, reporter)
    for key, group in groups.items():
        names = f" {', '.join(name for one in group for name in one.backbones)}" if len(groups) > 1 else ""
        # A clip that failed in an earlier group is damaged: decoding it again would fail again.
        clips = [clip for clip in clips_of[key] if clip.id not in result.failed]
        counts = [estimate_windows(clips, extractor.frames) for extractor in group]
        sizes = [sum(some) for some in zip(*counts, strict=True)] if all(counts) else []
        with reporter.progress(
            f"compute{names}", len(clips), unit="clips", sizes=sizes, measure=gathering.measure
        ) as advance:
            stride, last_second, reader = key
            gathering.about = dict(origin)
            notes = {explain_precision(precisions[name], execution.device) for one in group for name in one.backbones}
            if notes - {""}:
                gathering.about["precision"] = "; ".join(sorted(notes - {""}))
            # A chunk completes a window of the longest kind: smaller ones would cost more transfers between processes.
            chunk = max(extractor.frames.window for extractor in group)
            sampling = Sampling(stride, last_second, chunk, reader, execution.allow_damaged)
            jobs = [Job(clip.path, sampling) for clip in clips]
            # Files are written in a thread, in which a GPU's next batch need not wait for the disk.
            with Decoders(min(execution.workers, len(jobs))) as decoders, ThreadPoolExecutor(1, "store") as writer:
                events = add_noise(
                    batch_windows(clips, decoders.decode(jobs), group, missing), result.video_sha256, execution.device,
                    compiled=bool(execution.compile),
                )  # fmt: skip
                computed = compute_batches(events, 0 if on_cpu else 1, result.waits)
                try:
                    for event in profile_first(computed, execution.profile):
                        gathering.add(event, writer)
                        del event  # its frames would stay in memory while the next window is decoded
                        gathering.report_stored(advance, wait=on_cpu)
                        gathering.save_spent(spent)
                    gathering.report_stored(advance, wait=True)
                finally:
                    gathering.save_spent(spent, at_end=True)
    result.extracted = [clip.id for clip in todo if clip.id not in result.failed]
    if result.recomputed_frames:
        reporter.warn(
            f"{result.recomputed_frames} encodings of frames overflowed in fp16 and were computed again as published; recorded "
            "in the origins of their clips' features"
        )
