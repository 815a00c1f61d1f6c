"""A row's trained readout on any video files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float32, Float64

from repro.backbones.config import BackboneConfig, read_precision
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.errors import MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features.collection import Collection
from repro.features.store import FeatureStore
from repro.pipeline.extract import compute_features, open_stores
from repro.readout.checkpoints import SELECTED
from repro.readout.trained import Readout, load_readout
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, find_runs
from repro.table.row import Row, row_backbone
from repro.video.published import read_frame_rate

COLLECTION = "predicted"
"""Name in the feature store of videos that belong to no data set; their ids are their absolute paths."""


@dataclass(frozen=True, slots=True)
class ScoredVideos:
    """Class scores of videos."""

    readout: Readout
    scores: Mapping[Path, Float64[np.ndarray, " K"]]
    """Probabilities of the readout's classes, for each video that could be read."""
    failed: Mapping[str, str]
    """Why each other video could not be read, by its path."""
    windows: Mapping[Path, Sequence["ScoredWindow"]]
    """Scores over time within each video, if they were requested."""


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """Class scores of one of the backbone's windows alone, as if it were a clip."""

    start: float | None
    """In seconds by the container's mean frame rate; None if it states none."""
    end: float | None
    scores: Float64[np.ndarray, " K"]


def predict_videos(
    row: Row,
    videos: Sequence[Path],
    seed: int | None,
    workspace: Workspace,
    execution: Execution,
    reporter: Reporter,
    *,
    per_window: bool = False,
) -> ScoredVideos:
    """Score videos with a row's trained readout. A video that cannot be read is reported and the others are scored.

    Args:
        row: a row that was run in this workspace.
        videos: paths; duplicates are scored once.
        seed: seed of the readout; None takes the newest run.
        workspace: where runs and features are stored.
        execution: device, batch and decoding processes.
        reporter: where progress is reported.
        per_window: score each window by itself, too.

    Raises:
        UsageError: the row was run, but not with this seed.
        MissingError: the row has no trained readout, or one of other features; its backbone's checkpoint is missing.
    """
    backbone, readout = load_row_readout(row, seed, workspace, execution.device)
    # dict.fromkeys drops duplicates and keeps the order.
    clips = tuple(Clip(str(path.absolute()), path, ()) for path in dict.fromkeys(videos))
    scores, windows = {}, {}
    with _find_writable(workspace, reporter) as place:
        requests = open_stores([(backbone, (row.features,))], COLLECTION, place)
        done = compute_features(
            requests, Collection(COLLECTION, clips), replace(execution, say=reporter.line), reporter
        )
        reader = requests[0].store.cell_reader(row.features.name)
        for clip in clips:
            entry = None if clip.id in done.failed else reader.read(clip.id)
            if entry is not None:
                # Readouts compute in fp32; features may be stored as float16.
                features = entry.features[row.features.name].astype(np.float32)
                # The features of a clip, not the mean of its windows' scores: as the readout was trained.
                scores[clip.path] = readout.score(features)
                if per_window:
                    windows[clip.path] = _score_windows(clip.path, features, readout, backbone.config)
    failed = {str(clip.path): done.failed[clip.id] for clip in clips if clip.id in done.failed}
    return ScoredVideos(readout, scores, failed, windows)


@contextmanager
def _find_writable(workspace: Workspace, reporter: Reporter) -> Iterator[Workspace]:
    """Yield the workspace for features, or a temporary one if it cannot be written, as a published readout's may be."""
    try:
        workspace.require_writable()
    except UsageError:
        reporter.warn(f"{workspace.root} cannot be written: the features of these videos are not kept")
        with TemporaryDirectory(prefix="repro-predict-") as folder:
            yield Workspace(Path(folder))
        return
    yield workspace


def _score_windows(
    video: Path, features: Float32[np.ndarray, "T C"], readout: Readout, config: BackboneConfig
) -> list[ScoredWindow]:
    rate, duration = read_frame_rate(video)
    windows = []
    for part, first, last in locate_windows(len(features), config):
        # By the container's rate and length: a clip's last window may be filled up beyond its end.
        start, end = (first / rate, last / rate) if rate else (None, None)
        windows.append(
            ScoredWindow(start, min(end, duration) if end and duration else end, readout.score(features[part]))
        )
    return windows


def locate_windows(vectors: int, config: BackboneConfig) -> list[tuple[slice, float, float]]:
    """Return the windows of a clip with that many vectors: which vectors are theirs, and their first and last native frame."""
    frames = config.frames
    # Vectors of a window, and from one window's first to the next one's: they differ if windows overlap in frames that have a
    # vector each, and not if each window has vectors of its own.
    length = config.vectors(frames.window)
    step = config.vectors(frames.window + frames.hop) - length
    found: list[tuple[slice, float, float]] = []
    for number, first in enumerate(range(0, max(1, vectors - (length - step)), step)):
        part = slice(first, min(first + length, vectors))
        start = number * frames.hop * frames.stride
        found.append((part, start, start + frames.window * frames.stride * (part.stop - first) / length))
    return found


def load_row_readout(row: Row, seed: int | None, workspace: Workspace, device: str) -> tuple[Backbone, Readout]:
    """Load a row's trained readout, and describe the backbone whose features it reads.

    Raises:
        UsageError, MissingError: as predict_videos.
    """
    runs = _find_runs(row, seed, workspace)
    backbone = describe_backbone(row_backbone(row), workspace)
    store = FeatureStore.locate(workspace, backbone.name, backbone.identity(), COLLECTION)
    # A grid's runs may have been trained on features stored as float16, which have another key: prefer one of this key.
    record, run = next((found for found in runs if found[0].features.key == store.key), runs[0])
    readout = load_readout(run.folder / SELECTED, device)
    # Of all reasons for another key, this one has a remedy of its own.
    computes, trained_on = read_precision(backbone.config), record.features.identity.get("precision", "fp32")
    if store.key != readout.features and trained_on != computes:
        raise MissingError(
            f"the readout of {row.name} was trained on features in precision {trained_on}, not {computes}: pass --precision "
            f"{trained_on}, or train it on those with `{row.command} --precision {computes}`"
        )
    if store.key != readout.features:
        raise MissingError(
            f"the readout of {row.name} was trained on features {readout.features}, this machine would make {store.key}: train "
            f"it again with `{row.command}`, or use the checkpoint and implementation it was trained with"
        )
    return backbone, readout


def _find_runs(row: Row, seed: int | None, workspace: Workspace) -> list[tuple[RunRecord, StoredRun]]:
    """Find runs of the row with a trained readout: those of the row's default protocol first, then the newest.

    Runs of another cell or head and trials on fewer clips are left out.

    Raises:
        UsageError: there are some, but none of `seed`.
        MissingError: there are none.
    """
    runs: list[tuple[RunRecord, StoredRun]] = []
    seeds, trials = set(), 0
    for run in find_runs(workspace.runs):
        if run.folder.parent.name != row.name or not (run.folder / SELECTED).is_file():
            continue
        try:
            record = run.load_record()
        except DamagedRecordError:
            continue
        # A grid leaves runs of other cells and heads in the same folder.
        if record is None or (record.features.cell, record.recipe.head) != (row.features.name, row.readout.head):
            continue
        if not record.complete:
            trials += 1
            continue
        if seed in (None, record.seed):
            runs.append((record, run))
        seeds.add(record.seed)
    folder = workspace.runs / row.name
    if not runs and seeds:
        raise UsageError(
            f"--seed {seed}: {row.name} has trained readouts of {', '.join(map(str, sorted(seeds)))} in {folder}"
        )
    if not runs:
        why = ""
        if trials:
            why = f" but of {trials} trial{'s' if trials > 1 else ''} on fewer clips"
        elif any(folder.glob("*/record.json")):
            why = " (its runs were made by a version that stored no weights)"
        raise MissingError(f"row {row.name}: no trained readout in {folder}{why}: `{row.command}` trains one")
    # False sorts before True and ISO times by date, so reversed: the default protocol first, then the newest.
    return sorted(runs, key=lambda found: (found[0].protocol == row.default_protocol, found[0].made.at), reverse=True)
