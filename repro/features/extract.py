"""Compute the features that stores are missing, clip by clip. Features that exist are never rewritten.

Backbones that sample frames in the same way share one decoding of a clip. A clip that fails is reported and the others
continue, so that one damaged file does not end a run of days.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
from jaxtyping import Float

from repro.backbones.config import Cell, Precision, read_precision
from repro.backbones.extractor import Backbone, Execution, Extractor, Noise, WatchesOverflow
from repro.backbones.precision import explain_precision
from repro.backbones.registry import open_extractors
from repro.core.console import Reporter
from repro.core.errors import MissingError
from repro.core.files import set_aside, write_json
from repro.core.locks import remove_partials
from repro.datasets.split import Clip
from repro.features.collection import Collection
from repro.features.pack_collection import pack_collection
from repro.features.packed import DamagedFeaturesError
from repro.features.store import Entry, Features, FeatureStore, read_clip_header
from repro.features.windows import ClipEnd, MissingCells, WindowBatch, add_noise, batch_windows, is_needed
from repro.video.decoders import Decoders, Job
from repro.video.published import VideoError, check_file
from repro.video.sampling import ReaderName, Sampling, is_of_damaged_clip, label_reader


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
    windows: int = 0
    seconds: float = 0.0
    """Time spent on decoding and computing; loading the weights is not counted."""

    def count_extracted(self, backbone: str) -> int:
        """Return the number of clips whose features of `backbone` were computed."""
        # Exact without failures. With several backbones a failed clip may be missing features of some of them only.
        return min(self.incomplete.get(backbone, 0), len(self.extracted))


BatchFeatures = dict[str, dict[str, Float[np.ndarray, "_ _"]]]
"""Features of the windows computed together, by backbone and cell."""


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
        _extract_clips(todo, missing, requests, execution, origin, result, reporter)
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
    """Pack each store that has features of all clips of `collection`; `result` may be of a shard of it."""
    if result.failed:
        return
    for request in requests:
        stored = _StoredCells(request.store, {cell.name for cell in request.cells}, reporter)
        # Shards run side by side: the last one to end finds the collection complete, and packs it.
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
    stored = {r.backbone.name: _StoredCells(r.store, {c.name for c in r.cells}, reporter) for r in requests}
    missing: dict[str, MissingCells] = {}
    requests[0].store.hashes.cache_all(clip.path for clip in collection.clips)
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


class _StoredCells:
    """Which of the requested cells a store has of a clip, in its packs or else in the clip's own file.

    Damaged files are renamed and count as missing.
    """

    def __init__(self, store: FeatureStore, cells: set[str], reporter: Reporter) -> None:
        self.store, self.requested, self.reporter = store, cells, reporter
        # Opened once: each pack is verified against its hash, and its index has a row per clip.
        self.packs = {
            cell: pack for cell in sorted(cells) if (pack := store.open_pack_or_set_aside(cell, reporter.warn))
        }

    def find(self, clip_id: str, video_sha256: str) -> set[str]:
        """Return the requested cells that are stored and were computed from this video."""
        packed = {
            cell
            for cell, pack in self.packs.items()
            if clip_id in pack.places and pack.places[clip_id].video_sha256 == video_sha256
        }
        if packed == self.requested:
            return packed
        path = self.store.clip_path(clip_id)
        try:
            entry = self.store.read_own_file(clip_id)
        except DamagedFeaturesError as error:
            if not path.exists():  # packed, or renamed, by another process in the meantime
                return packed
            aside = set_aside(path)
            self.reporter.warn(f"features {path}: damaged: {error}: kept as {aside.name}, extracting the clip again")
            return packed
        own = set(entry.features) if entry is not None and entry.video_sha256 == video_sha256 else set()
        return packed | (own & self.requested)

    def is_damaged(self, clip_id: str, video_sha256: str) -> bool:
        """Whether stored features are of a damaged video: this one, as far as it decodes."""
        labels = [
            pack.places[clip_id].reader
            for pack in self.packs.values()
            if clip_id in pack.places and pack.places[clip_id].video_sha256 == video_sha256
        ]
        if not labels:
            try:
                header = read_clip_header(self.store.clip_path(clip_id))
            except DamagedFeaturesError:  # `find` reports it
                return False
            labels = [header.reader] if header is not None and header.video_sha256 == video_sha256 else []
        return any(is_of_damaged_clip(label) for label in labels)

    def has_all(self, clip_id: str) -> bool:
        """Whether all requested cells are stored. Videos are not compared, as that would read all of them again."""
        unpacked = {cell for cell in self.requested if cell not in self.packs or clip_id not in self.packs[cell].places}
        if not unpacked:
            return True
        try:
            header = read_clip_header(self.store.clip_path(clip_id))
        except DamagedFeaturesError:
            return False
        return header is not None and unpacked <= set(header.cells)


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
    extractors = open_extractors([(backbone, cells) for backbone, cells in cells_to_compute if cells], execution)
    stores = {request.backbone.name: request.store for request in requests}
    precisions = {request.backbone.name: read_precision(request.backbone.config) for request in requests}
    # One group per frame sampling: its backbones share the decoding, however they cut the frames into windows.
    groups: dict[tuple[int, float, ReaderName], list[Extractor]] = {}
    for extractor in extractors:
        groups.setdefault(extractor.frames.decoding, []).append(extractor)
    started = perf_counter()
    clips_of = {key: [c for c in todo if any(is_needed(e, c, missing) for e in group)] for key, group in groups.items()}
    with reporter.progress("extract", sum(map(len, clips_of.values()))) as advance:
        for key, group in groups.items():
            stride, last_second, reader = key
            about = {**origin, "batch": "; ".join(extractor.batch for extractor in group)}
            notes = {explain_precision(precisions[name], execution.device) for one in group for name in one.backbones}
            if notes - {""}:
                about["precision"] = "; ".join(sorted(notes - {""}))
            origins = {name: (store.add_origin(about),) for name, store in stores.items()}
            # A chunk completes a window of the longest kind: smaller ones would cost more transfers between processes.
            chunk = max(extractor.frames.window for extractor in group)
            # A clip that failed in an earlier group is damaged: decoding it again would fail again.
            clips = [clip for clip in clips_of[key] if clip.id not in result.failed]
            sampling = Sampling(stride, last_second, chunk, reader, execution.allow_damaged)
            jobs = [Job(clip.path, sampling) for clip in clips]
            with Decoders(min(execution.workers, len(jobs))) as decoders:
                batches: list[BatchFeatures] = []
                nonfinite, recomputed = "", _count_recomputed(group)
                events = batch_windows(clips, decoders.decode(jobs), group, missing)
                for event, noises in add_noise(events, result.video_sha256, execution.device):
                    if isinstance(event, WindowBatch):
                        computed = event.extractor.features(event.windows, noises)
                        if not all(np.isfinite(v).all() for cells in computed.values() for v in cells.values()):
                            nonfinite = nonfinite or _explain_nonfinite(event.extractor, precisions)
                            _check_weights(event, noises, precisions)
                        batches.append(computed)
                        result.windows += len(event.windows)
                        continue
                    own_origins, again = origins, _count_recomputed(group) - recomputed
                    if again:
                        more = about | {"recomputed_frames": str(again)}
                        own_origins = {name: (store.add_origin(more),) for name, store in stores.items()}
                    try:
                        _store_clip(event, batches, missing[event.clip.id], stores, own_origins, result, reporter)
                    except VideoError as error:
                        _add_failure(result, event.clip, f"{error}{nonfinite}", reporter)
                    result.recomputed_frames += again
                    batches, nonfinite, recomputed = [], "", recomputed + again
                    result.seconds = perf_counter() - started
                    failures = f", {len(result.failed)} failed" if result.failed else ""
                    advance(f"{result.windows / result.seconds:.2f} windows/s{failures}")
    result.extracted = [clip.id for clip in todo if clip.id not in result.failed]
    if result.recomputed_frames:
        reporter.warn(
            f"{result.recomputed_frames} encodings of frames overflowed in fp16 and were computed again as published; recorded "
            "in the origins of their clips' features"
        )


def _count_recomputed(extractors: Sequence[Extractor]) -> int:
    return sum(one.recomputed_frames for one in extractors if isinstance(one, WatchesOverflow))


def _explain_nonfinite(extractor: Extractor, precisions: Mapping[str, Precision]) -> str:
    """Return what to add to a message about features that are not finite: where they became so, and the remedy."""
    where = extractor.explain_nonfinite() if isinstance(extractor, WatchesOverflow) else ""
    halves = sorted({precisions[name] for name in extractor.backbones} & {"published", "fast", "fp16"})
    if not halves:
        return f"; they come from {where}" if where else ""
    return (
        f"; they come from {where or 'the network'} in precision {halves[0]}, where numbers end at 65504: --precision fp32 has a "
        "wider range"
    )


def _check_weights(batch: WindowBatch, noises: Sequence[Noise], precisions: Mapping[str, Precision]) -> None:
    """Check that the weights give finite features of a grey picture, after a clip's features were not finite.

    Raises:
        MissingError: they do not, so that every clip would fail alike.
    """
    grey = [np.full_like(window, 128) for window in batch.windows]
    for name, cells in batch.extractor.features(grey, noises).items():
        bad = [cell for cell, values in cells.items() if not np.isfinite(values).all()]
        if bad:
            raise MissingError(
                f"backbone {name}: its features {bad[0]} hold NaN or infinity even of a grey picture, so every clip would fail: "
                "its checkpoint is damaged, or its precision too low: fetch it again and compare its sha256"
                f"{_explain_nonfinite(batch.extractor, precisions)}"
            )


def _store_clip(
    end: ClipEnd,
    batches: Sequence[BatchFeatures],
    missing: MissingCells,
    stores: Mapping[str, FeatureStore],
    origins: Mapping[str, tuple[str, ...]],
    result: Extraction,
    reporter: Reporter,
) -> None:
    """Write the features that a clip was missing; stored ones stay as they are.

    Raises:
        VideoError: the clip was not decoded completely, or its features are not finite.
    """
    # Nothing of a clip that ends early is stored: its features would be those of a shorter video.
    if end.error is not None:
        raise end.error
    if not batches:
        raise VideoError(f"clip {end.clip.path}: it holds no video frames")
    complete: dict[str, Features] = {}
    for name, cells in missing.items():
        own = [batch[name] for batch in batches if name in batch]
        if not own:  # computed with another group
            continue
        complete[name] = {}
        for cell in (cell.name for cell in cells):
            with np.errstate(over="ignore"):  # values beyond fp16 become infinite, and are refused below
                values = np.concatenate([batch[cell] for batch in own]).astype(stores[name].stored_as)
            if not np.isfinite(values).all():
                raise VideoError(
                    f"clip {end.clip.path}: its features {name} {cell} hold NaN or infinity in "
                    f"{stores[name].stored_as}: not stored"
                )
            complete[name][cell] = values
    # Written only after every cell was checked, so that a clip with bad features gets none of them.
    sha256 = result.video_sha256[end.clip.id]
    label = label_reader(
        end.decoding.job.sampling.reader, still=bool(end.decoding.still), damaged=bool(end.decoding.damage)
    )
    for name, features in complete.items():
        stores[name].write_clip(end.clip.id, Entry(features, sha256, label, origins[name]))
    if end.decoding.still:
        reporter.warn(
            f"clip {end.clip.path}: features of a still picture: {end.decoding.still} (docs/deviations.md 32)"
        )
    if end.decoding.damage:
        reporter.warn(f"clip {end.clip.path}: damaged, used as far as it decodes: {end.decoding.damage}")


def _add_failure(result: Extraction, clip: Clip, reason: str, reporter: Reporter) -> None:
    result.failed[clip.id] = reason
    reporter.warn(reason)
