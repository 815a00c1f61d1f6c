"""Gather computed features by clip, and store each clip when it is complete.

A clip that fails is reported and the others continue, so that one damaged file does not end a run of days.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from repro.backbones.compilation import is_compiled
from repro.backbones.config import Precision
from repro.backbones.extractor import Extractor, Noise, WatchesOverflow, WindowFeatures
from repro.core.console import Reporter
from repro.core.errors import MissingError
from repro.core.progress.stages import Measures
from repro.datasets.split import Clip
from repro.features.computing import Computed, Waits
from repro.features.spent import SpentLog
from repro.features.store import Entry, Features, FeatureStore
from repro.features.windows import ClipEnd, MissingCells
from repro.video.published import Frames, VideoError
from repro.video.sampling import label_reader


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


class ClipGatherer:
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
                add_failure(self.result, end.clip, f"{error}{clip.nonfinite}", self.reporter)
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


def add_failure(result: Extraction, clip: Clip, reason: str, reporter: Reporter) -> None:
    result.failed[clip.id] = reason
    reporter.warn(reason)
