"""Walk clips with a frozen backbone into a feature store."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from repro import atomic
from repro.backbones.extractor import Extractor
from repro.backbones.noise import WindowNoise
from repro.datasets import Clip
from repro.decoding import Decoders, Decoding, Job
from repro.features.store import DamagedFeaturesError, Entry, Features, FeatureStore
from repro.features.windows import padded
from repro.keys import file_sha256
from repro.terminal import Reporter
from repro.video import VideoError, check_file


@dataclass(slots=True)
class Extraction:
    extracted: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Clip id to the one line that says why."""
    video_sha256: dict[str, str] = field(default_factory=dict)


def extract(
    clips: Sequence[Clip], extractor: Extractor, store: FeatureStore, reporter: Reporter, workers: int = 1
) -> Extraction:
    """Bring every clip's features into `store`; what is there already, from the same video, is left as it is.

    A clip that fails is reported and the others go on; it is tried again the next time.
    """
    result = Extraction()
    (store.folder / "clips").mkdir(parents=True, exist_ok=True)
    for folder in (store.folder, store.folder / "clips"):
        atomic.remove_partials(folder)
    todo = []
    for clip in clips:
        try:
            check_file(clip.path)
        except VideoError as error:
            _fail(result, clip, str(error), reporter)
            continue
        result.video_sha256[clip.id] = file_sha256(clip.path)
        if _is_there(store, clip, result.video_sha256[clip.id], reporter):
            result.reused.append(clip.id)
        else:
            todo.append(clip)

    frames = extractor.frames
    jobs = [Job(clip.path, frames.stride, frames.max_seconds, frames.window) for clip in todo]
    if jobs:
        with Decoders(min(workers, len(jobs))) as decoders, reporter.progress("extract", len(jobs)) as advance:
            for clip, decoding in zip(todo, decoders.decode(jobs), strict=True):
                sha256 = result.video_sha256[clip.id]
                try:
                    features = _clip_features(decoding, extractor, sha256)
                    store.write(clip.id, Entry(features, sha256, decoding.reader))
                    result.extracted.append(clip.id)
                    if decoding.instead:
                        reporter.line(f"decoded by PyAV instead of decord: {decoding.instead}")
                except VideoError as error:
                    _fail(result, clip, str(error), reporter)
                advance()
    return result


def _clip_features(decoding: Decoding, extractor: Extractor, video_sha256: str) -> Features:
    """All windows of a clip: `[T, C]` per cell, T its sampled frames.

    Raises:
        VideoError: the clip cannot be decoded, or its features are not finite.
    """
    windows = []
    for number, frames in enumerate(decoding):
        noise = WindowNoise(extractor.noise_seed, video_sha256, number)
        windows.append(extractor.window(padded(frames, extractor.frames.window), len(frames), noise))
    if not windows:
        raise VideoError(f"clip {decoding.job.path}: it holds no video frames")
    features = {cell: np.concatenate([window[cell] for window in windows]) for cell in windows[0]}
    for cell, values in features.items():
        if not np.isfinite(values).all():
            raise VideoError(f"clip {decoding.job.path}: its features {cell} hold NaN or infinity: not stored")
    return features


def _is_there(store: FeatureStore, clip: Clip, video_sha256: str, reporter: Reporter) -> bool:
    try:
        entry = store.read(clip.id)
    except DamagedFeaturesError as error:
        path = store.path(clip.id)
        aside = atomic.set_aside(path)
        reporter.warn(f"features {path}: damaged: {error}: kept as {aside.name}, extracting the clip again")
        return False
    return entry is not None and entry.video_sha256 == video_sha256


def _fail(result: Extraction, clip: Clip, reason: str, reporter: Reporter) -> None:
    result.failed[clip.id] = reason
    reporter.warn(reason)
