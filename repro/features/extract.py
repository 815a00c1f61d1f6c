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

from repro.backbones.config import Cell
from repro.backbones.extractor import Backbone, Execution, Extractor
from repro.backbones.registry import open_extractors
from repro.core.console import Reporter
from repro.core.files import remove_partials, set_aside, write_json
from repro.datasets.split import Clip
from repro.features.collection import Collection
from repro.features.feeding import End, Missing, Work, events, lacks, with_noise
from repro.features.pack_collection import pack_collection
from repro.features.packed import DamagedFeaturesError
from repro.features.store import Entry, Features, FeatureStore, read_header
from repro.video.decoders import Decoders, Job
from repro.video.readers import VideoError, check_file


@dataclass(frozen=True, slots=True)
class Ask:
    """The requested cells of a backbone, and the store they go to."""

    backbone: Backbone
    cells: tuple[Cell, ...]
    store: FeatureStore


@dataclass(slots=True)
class Extraction:
    extracted: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why each failed clip failed, in one line, by clip id."""
    lacked: dict[str, int] = field(default_factory=dict)
    """Number of clips that were missing features before, by backbone."""
    video_sha256: dict[str, str] = field(default_factory=dict)
    windows: int = 0
    seconds: float = 0.0
    """Time spent on decoding and computing; loading the weights is not counted."""

    def made_of(self, backbone: str) -> int:
        """Number of clips whose features of `backbone` were computed."""
        return min(self.lacked.get(backbone, 0), len(self.extracted))


Part = dict[str, dict[str, Float[np.ndarray, "_ _"]]]
"""Features of the windows computed together, by backbone and cell."""


def extract(
    collection: Collection,
    asks: Sequence[Ask],
    execution: Execution,
    origin: Mapping[str, str],
    reporter: Reporter,
    before: Callable[[Sequence[Clip]], None] = lambda todo: None,
) -> Extraction:
    """Compute the features of a collection that are missing from the stores of `asks`.

    A failed clip is reported and tried again by the next run. Backbones are loaded only if something is missing.

    Args:
        collection: the clips, possibly a shard.
        asks: the requested cells of each backbone, with their stores.
        execution: device, batch and decoding processes.
        origin: software and machine, stored once and named by every entry.
        reporter: where progress and failed clips are reported.
        before: called with the clips to compute, before any is computed.
    """
    result = Extraction()
    for ask in asks:
        (ask.store.folder / "clips").mkdir(parents=True, exist_ok=True)
        for folder in (ask.store.folder.parent, ask.store.folder, ask.store.folder / "clips"):
            remove_partials(folder)
    missing = _missing(collection, asks, result, reporter)
    result.reused = [clip.id for clip in collection.clips if clip.id in result.video_sha256 and clip.id not in missing]
    if missing:
        todo = [clip for clip in collection.clips if clip.id in missing]
        before(todo)
        _extract(todo, missing, asks, execution, origin, result, reporter)
    for ask in asks:
        _list_failed(ask.store.folder / f"failed{collection.part}.json", result.failed)
    return result


def _list_failed(path: Path, failed: Mapping[str, str]) -> None:
    """Write the failed clips and their reasons to `path`; remove the file if no clip failed."""
    if failed:
        write_json(path, dict(failed))
    else:
        path.unlink(missing_ok=True)


def pack_if_whole(collection: Collection, asks: Sequence[Ask], result: Extraction, reporter: Reporter) -> None:
    """Pack each store that holds all clips of `collection`; `result` may be of a shard of it."""
    if result.failed:
        return
    for ask in asks:
        holds = _Holdings(ask.store, {cell.name for cell in ask.cells}, reporter)
        if all(holds.whole(clip.id) for clip in collection.clips):
            for listed in ask.store.folder.glob("failed*.json"):
                listed.unlink()  # of an earlier run of a shard, whose clips have been computed since
            packed = pack_collection(ask.store, reporter.warn)
            if packed:
                reporter.line(f"{'packed':<11} {packed} clips' features  {ask.store.folder / 'packed'}")


def _missing(collection: Collection, asks: Sequence[Ask], result: Extraction, reporter: Reporter) -> dict[str, Missing]:
    """Return the missing cells of each readable clip, by clip id.

    Features count as present only for the same video bytes: a replaced video is computed again.
    """
    holdings = {ask.backbone.name: _Holdings(ask.store, {c.name for c in ask.cells}, reporter) for ask in asks}
    missing: dict[str, Missing] = {}
    for clip in collection.clips:
        try:
            check_file(clip.path)
            sha256 = asks[0].store.hashes.sha256(clip.path)
        except VideoError as error:
            _fail(result, clip, str(error), reporter)
            continue
        except OSError as error:
            _fail(result, clip, f"clip {clip.path}: cannot be read ({error.strerror})", reporter)
            continue
        result.video_sha256[clip.id] = sha256
        lacking: Missing = {}
        for ask in asks:
            held = holdings[ask.backbone.name].cells(clip.id, sha256)
            cells = tuple(cell for cell in ask.cells if cell.name not in held)
            if cells:
                lacking[ask.backbone.name] = cells
                result.lacked[ask.backbone.name] = result.lacked.get(ask.backbone.name, 0) + 1
        if lacking:
            missing[clip.id] = lacking
    return missing


class _Holdings:
    """Which cells of a clip a store holds, in its packs or else in the clip's own file. Damaged files are renamed and count
    as missing."""

    def __init__(self, store: FeatureStore, cells: set[str], reporter: Reporter) -> None:
        self.store, self.wanted, self.reporter = store, cells, reporter
        self.packs = {
            cell: pack for cell in sorted(cells) if (pack := store.open_pack_or_set_aside(cell, reporter.warn))
        }

    def cells(self, clip_id: str, video_sha256: str) -> set[str]:
        packed = {
            cell
            for cell, pack in self.packs.items()
            if clip_id in pack.places and pack.places[clip_id].video_sha256 == video_sha256
        }
        if packed == self.wanted:
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
        return packed | (own & self.wanted)

    def whole(self, clip_id: str) -> bool:
        """Whether all requested cells are stored, of whatever video bytes."""
        lacking = {cell for cell in self.wanted if cell not in self.packs or clip_id not in self.packs[cell].places}
        if not lacking:
            return True
        try:
            own = read_header(self.store.clip_path(clip_id))
        except DamagedFeaturesError:
            return False
        return own is not None and lacking <= set(own.cells)


def _extract(
    todo: Sequence[Clip],
    missing: Mapping[str, Missing],
    asks: Sequence[Ask],
    execution: Execution,
    origin: Mapping[str, str],
    result: Extraction,
    reporter: Reporter,
) -> None:
    wanted = [
        (ask.backbone, tuple(c for c in ask.cells if any(c in m.get(ask.backbone.name, ()) for m in missing.values())))
        for ask in asks
    ]
    extractors = open_extractors([(backbone, cells) for backbone, cells in wanted if cells], execution)
    stores = {ask.backbone.name: ask.store for ask in asks}
    # One group per frame sampling: its backbones share the decoding, however they cut the frames into windows.
    groups: dict[tuple[int, float], list[Extractor]] = {}
    for extractor in extractors:
        groups.setdefault((extractor.frames.stride, extractor.frames.max_seconds), []).append(extractor)
    begun = perf_counter()
    needing = {at: [c for c in todo if any(lacks(missing, c, e) for e in group)] for at, group in groups.items()}
    with reporter.progress("extract", sum(map(len, needing.values()))) as advance:
        for (stride, max_seconds), group in groups.items():
            about = {**origin, "batch": "; ".join(extractor.batch for extractor in group)}
            origins = {name: (store.add_origin(about),) for name, store in stores.items()}
            chunk = max(extractor.frames.window for extractor in group)
            clips = [clip for clip in needing[stride, max_seconds] if clip.id not in result.failed]
            jobs = [Job(clip.path, stride, max_seconds, chunk) for clip in clips]
            with Decoders(min(execution.workers, len(jobs))) as decoders:
                parts: list[Part] = []
                for event, noises in with_noise(
                    events(clips, decoders.decode(jobs), group, missing), result.video_sha256
                ):
                    if isinstance(event, Work):
                        parts.append(event.extractor.features(event.frames, noises))
                        result.windows += len(event.frames)
                        continue
                    try:
                        _store(event, parts, missing[event.clip.id], stores, origins, result, reporter)
                    except VideoError as error:
                        _fail(result, event.clip, str(error), reporter)
                    parts = []
                    result.seconds = perf_counter() - begun
                    failures = f", {len(result.failed)} failed" if result.failed else ""
                    advance(f"{result.windows / result.seconds:.2f} windows/s{failures}")
    result.extracted = [clip.id for clip in todo if clip.id not in result.failed]


def _store(
    end: End,
    parts: Sequence[Part],
    lacking: Missing,
    stores: Mapping[str, FeatureStore],
    origins: Mapping[str, tuple[str, ...]],
    result: Extraction,
    reporter: Reporter,
) -> None:
    """Write the features that a clip was missing; stored ones stay as they are.

    Raises:
        VideoError: the clip was not decoded completely, or its features are not finite.
    """
    if end.error is not None:
        raise end.error
    if not parts:
        raise VideoError(f"clip {end.clip.path}: it holds no video frames")
    whole: dict[str, Features] = {}
    for name, cells in lacking.items():
        own = [part[name] for part in parts if name in part]
        if not own:  # computed with another group
            continue
        whole[name] = {}
        for cell in (cell.name for cell in cells):
            with np.errstate(over="ignore"):  # values beyond fp16 become infinite, and are refused below
                values = np.concatenate([part[cell] for part in own]).astype(stores[name].stored_as)
            if not np.isfinite(values).all():
                raise VideoError(
                    f"clip {end.clip.path}: its features {name} {cell} hold NaN or infinity in "
                    f"{stores[name].stored_as}: not stored"
                )
            whole[name][cell] = values
    sha256 = result.video_sha256[end.clip.id]
    for name, features in whole.items():
        stores[name].write_clip(end.clip.id, Entry(features, sha256, end.decoding.reader, origins[name]))
    if end.decoding.instead:
        reporter.line(f"decoded by PyAV instead of decord: {end.decoding.instead}")


def _fail(result: Extraction, clip: Clip, reason: str, reporter: Reporter) -> None:
    result.failed[clip.id] = reason
    reporter.warn(reason)
