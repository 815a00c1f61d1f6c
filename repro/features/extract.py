"""Compute the features that stores are missing, clip by clip. Features that exist are never rewritten.

Backbones that sample frames in the same way share one decoding of a clip. A clip that fails is reported and the others
continue, so that one damaged file does not end a run of days.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from repro.backbones.compilation import FROM_CLIPS, is_compiled
from repro.backbones.config import UNCOMPILED, Cell, Precision, read_precision
from repro.backbones.extractor import Backbone, Execution, Extractor, Noise, WatchesOverflow, WindowFeatures
from repro.backbones.precision import explain_precision
from repro.backbones.registry import open_extractors
from repro.core.console import Reporter
from repro.core.errors import MissingError
from repro.core.files import write_json
from repro.core.locks import remove_partials
from repro.core.progress.stages import Measures, Part
from repro.datasets.split import Clip
from repro.features.collection import Collection
from repro.features.computing import Computed, Waits, compute_batches, profile_first
from repro.features.pack_collection import pack_collection
from repro.features.spent import SpentLog
from repro.features.store import Entry, Features, FeatureStore
from repro.features.stored_cells import StoredCells
from repro.features.windows import ClipEnd, MissingCells, add_noise, batch_windows, estimate_windows, is_needed
from repro.video.decoders import Decoders, Job
from repro.video.published import Frames, VideoError, check_file
from repro.video.sampling import ReaderName, Sampling, label_reader


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """The requested cells of a backbone, and the store they go to."""

    backbone: Backbone
    cells: tuple[Cell, ...]
    store: FeatureStore


@dataclass(slots=True)
class Extraction:
    """What an extraction did. Clips are named by id."""

    extracted: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why each failed clip failed, in one line."""
    incomplete: dict[str, int] = field(default_factory=dict)
    """Number of clips that were missing features before, by backbone."""
    video_sha256: dict[str, str] = field(default_factory=dict)
    """sha256 of each readable clip's video."""
    recomputed_frames: int = 0
    """Frames that overflowed in a reduced precision and were computed again in a wider type."""
    windows_by: dict[tuple[str, ...], int] = field(default_factory=dict)
    """Number of windows computed, by the backbones that were computed together."""
    waits: Waits = field(default_factory=Waits)
    seconds: float = 0.0
    """Time spent on decoding and computing; loading the weights is not counted."""
    first: tuple[int, float] = (0, 0.0)
    """Windows of the first batch, and seconds until their features were there, in which networks were compiled if they are."""
    compiled: bool = False
    """Whether networks are compiled, at least in part."""

    @property
    def windows(self) -> int:
        return sum(self.windows_by.values())

    def count_extracted(self, backbone: str) -> int:
        """Return the number of clips whose features of `backbone` were computed."""
        # Exact without failures. With several backbones a failed clip may be missing features of some of them only.
        return min(self.incomplete.get(backbone, 0), len(self.extracted))


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
            _add_failure(result, clip, str(error), reporter)
            continue
        except OSError as error:
            _add_failure(result, clip, f"clip {clip.path}: cannot be read ({error.strerror})", reporter)
            continue
        if not execution.allow_damaged and any(cells.is_damaged(clip.id, sha256) for cells in stored.values()):
            reason = (
                f"clip {clip.path}: damaged: its stored features are of the part that decodes: fetch or copy it again, or use them "
                "with --allow-damaged"
            )
            _add_failure(result, clip, reason, reporter)
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
    gathering = _ClipGatherer(missing, stores, precisions, result, reporter)
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


@dataclass(slots=True)
class _OpenClip:
    """What is known of a clip that is not stored yet."""

    features: list[WindowFeatures] = field(default_factory=list)
    read: int = 0
    """Number of windows whose features are in `features`."""
    batches: set[str] = field(default_factory=set)
    """How much was computed at once, as text for the record."""
    recomputed: int = 0
    """Pictures that overflowed and were computed again."""
    nonfinite: str = ""
    """Where features that are not finite come from."""
    end: ClipEnd | None = None


class _ClipGatherer:
    """Gathers the features of clips, of which several may be computed at once, and stores each clip when it is complete."""

    def __init__(
        self,
        missing: Mapping[str, MissingCells],
        stores: Mapping[str, FeatureStore],
        precisions: Mapping[str, Precision],
        result: Extraction,
        reporter: Reporter,
    ) -> None:
        self.missing, self.stores, self.precisions = missing, stores, precisions
        self.result, self.reporter, self.started = result, reporter, perf_counter()
        self.about: dict[str, str] = {}
        """What is recorded of how features are computed."""
        self.open: dict[str, _OpenClip] = {}
        self.storing: deque[tuple[_OpenClip, ClipEnd, Future[None]]] = deque()

    def add(self, event: Computed | ClipEnd, writer: Executor) -> None:
        """Take features of windows or the end of a clip; have the clips that it completes stored by `writer`."""
        if isinstance(event, ClipEnd):
            self.open.setdefault(event.clip.id, _OpenClip()).end = event
            ids = [event.clip.id]
        else:
            ids = self._add_features(event)
        for clip_id in dict.fromkeys(ids):
            clip = self.open[clip_id]
            # Of a clip whose decoding failed, nothing is waited for or stored.
            if clip.end is not None and (clip.end.error is not None or clip.read == clip.end.windows):
                del self.open[clip_id]
                self.storing.append((clip, clip.end, writer.submit(self._store_clip, clip, clip.end, self.about)))

    def _add_features(self, computed: Computed) -> list[str]:
        """Add features to their clips; returns the ids of these clips."""
        extractor, windows = computed.batch.extractor, computed.batch.windows
        done = self.result.windows_by
        if not done:
            self.result.first = len(windows), perf_counter() - self.started
            self.result.compiled = is_compiled(computed.how)
        done[tuple(extractor.backbones)] = done.get(tuple(extractor.backbones), 0) + len(windows)
        # A batch may hold windows of several clips (mixes_clips).
        ids = [window.clip.id for window in windows]
        for clip_id in ids:
            clip = self.open.setdefault(clip_id, _OpenClip())
            clip.read += 1
            clip.batches.add(computed.how)
        # Pictures are only computed again by extractors that take one clip at a time.
        self.open[ids[0]].recomputed += computed.recomputed
        # zip ends with the shorter one: without `launch`, the features of all windows, of one clip, are one item.
        for clip_id, features in zip(ids, computed.features, strict=False):
            clip = self.open[clip_id]
            clip.features.append(features)
            if not all(np.isfinite(values).all() for cells in features.values() for values in cells.values()):
                frames = [window.frames for window in windows]
                clip.nonfinite = clip.nonfinite or self._explain_nonfinite(extractor, frames, computed.noises)
                self._check_weights(extractor, frames, computed.noises)
        return ids

    def report_stored(self, advance: Callable[[str], None], wait: bool) -> None:
        """Report the clips that have been stored or have failed since the last call; with `wait`, all that are left."""
        while self.storing and (wait or self.storing[0][2].done()):
            clip, end, stored = self.storing.popleft()
            try:
                stored.result()
            except VideoError as error:
                _add_failure(self.result, end.clip, f"{error}{clip.nonfinite}", self.reporter)
            else:
                _report_damage(end, self.reporter)
            self.result.recomputed_frames += clip.recomputed
            self.result.seconds = perf_counter() - self.started
            advance("")

    def save_spent(self, spent: SpentLog, *, at_end: bool = False) -> None:
        """Have the time spent so far written, if that is due."""
        waits = self.result.waits
        seconds = perf_counter() - self.started
        waiting = {"decoder": waits.decoder, "device": waits.device}
        spent.save(self.result.windows, seconds, waiting, at_end=at_end)

    def measure(self) -> Measures:
        """Return windows, failures and shares of the time waited, of all groups so far; another thread may call it."""
        seconds, waits = max(perf_counter() - self.started, 1e-9), self.result.waits
        windows = sum(tuple(self.result.windows_by.values()))
        waiting = {"decoded windows": waits.decoder / seconds, "features": waits.device / seconds} if windows else {}
        return Measures(windows, len(self.result.failed), waiting)

    def _store_clip(self, clip: _OpenClip, end: ClipEnd, about: Mapping[str, str]) -> None:
        """Write the features that a clip was missing; stored ones stay as they are.

        Raises:
            VideoError: the clip was not decoded completely, or its features are not finite.
        """
        # Nothing of a clip that ends early is stored: its features would be those of a shorter video.
        if end.error is not None:
            raise end.error
        if not clip.features:
            raise VideoError(f"clip {end.clip.path}: it holds no video frames")
        complete: dict[str, Features] = {}
        for name, cells in self.missing[end.clip.id].items():
            own = [features[name] for features in clip.features if name in features]
            if not own:  # computed with another group
                continue
            complete[name] = {}
            for cell in (cell.name for cell in cells):
                stored_as = self.stores[name].stored_as
                with np.errstate(over="ignore"):  # values beyond fp16 become infinite, and are refused below
                    values = np.concatenate([features[cell] for features in own]).astype(stored_as)
                if not np.isfinite(values).all():
                    raise VideoError(
                        f"clip {end.clip.path}: its features {name} {cell} hold NaN or infinity in {stored_as}: not stored"
                    )
                complete[name][cell] = values
        # Written only after every cell was checked, so that a clip with bad features gets none of them.
        own_about = {**about, "batch": "; ".join(sorted(clip.batches))}
        if clip.recomputed:
            own_about["recomputed_frames"] = str(clip.recomputed)
        sha256 = self.result.video_sha256[end.clip.id]
        # The reader is stored with what was unusual about the clip: such features are refused later unless
        # they are allowed.
        label = label_reader(
            end.decoding.job.sampling.reader, still=bool(end.decoding.still), damaged=bool(end.decoding.damage)
        )
        for name, found in complete.items():
            origins = (self.stores[name].add_origin(own_about),)
            self.stores[name].write_clip(end.clip.id, Entry(found, sha256, label, origins))

    def _explain_nonfinite(self, extractor: Extractor, windows: Sequence[Frames], noises: Sequence[Noise]) -> str:
        """Return what to add to a message about features that are not finite: where they became so, and the remedy."""
        where = extractor.explain_nonfinite(windows, noises) if isinstance(extractor, WatchesOverflow) else ""
        # Precisions in which fp16 is used: bf16 and TF32 have fp32's range.
        halves = sorted({self.precisions[name] for name in extractor.backbones} & {"published", "fast", "fp16"})
        if not halves:
            return f"; they come from {where}" if where else ""
        return (
            f"; they come from {where or 'the network'} in precision {halves[0]}, where numbers end at 65504: --precision fp32 "
            "has a wider range"
        )

    def _check_weights(self, extractor: Extractor, windows: Sequence[Frames], noises: Sequence[Noise]) -> None:
        """Check that the weights give finite features of a grey picture, after a clip's features were not finite.

        Raises:
            MissingError: they do not, so that every clip would fail alike.
        """
        grey = [np.full_like(window, 128) for window in windows]
        for name, cells in extractor.features(grey, noises).items():
            bad = [cell for cell, values in cells.items() if not np.isfinite(values).all()]
            if bad:
                raise MissingError(
                    f"backbone {name}: its features {bad[0]} hold NaN or infinity even of a grey picture, so every clip would "
                    "fail: its checkpoint is damaged, or its precision too low: fetch it again and compare its sha256"
                    f"{self._explain_nonfinite(extractor, grey, noises)}"
                )


def _report_damage(end: ClipEnd, reporter: Reporter) -> None:
    """Report what of a stored clip is not as published."""
    if end.decoding.still:
        reporter.warn(
            f"clip {end.clip.path}: features of a still picture: {end.decoding.still} (docs/deviations.md 32)"
        )
    if end.decoding.damage:
        reporter.warn(f"clip {end.clip.path}: damaged, used as far as it decodes: {end.decoding.damage}")


def _add_failure(result: Extraction, clip: Clip, reason: str, reporter: Reporter) -> None:
    result.failed[clip.id] = reason
    reporter.warn(reason)
