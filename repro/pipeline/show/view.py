"""What a backbone makes of one clip, to be looked at: sampled frames, vectors, spatial maps and a readout's scores over time.

Nothing is stored but the clip's hash. Principal components of maps are those of all positions of all rows, although the maps
of at most `SHOWN_ROWS` rows are kept: only the covariance grows with the clip, and it does not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional

from repro.backbones.config import BackboneConfig, Cell, FrameSampling, read_precision
from repro.backbones.extractor import Backbone, Execution, Extractor, HasMaps
from repro.backbones.noise import WindowNoise
from repro.backbones.registry import describe_backbone, open_extractors
from repro.core.console import Reporter
from repro.core.errors import MissingError
from repro.core.workspace import Workspace
from repro.features.windows import WindowCutter
from repro.pipeline.predict import load_row_readout
from repro.readout.trained import Readout
from repro.table.row import Row
from repro.video.decoders import Decoders, Job
from repro.video.probe import ClipContents, probe_all
from repro.video.published import Frames, VideoError, check_file
from repro.video.sampling import Sampling

SHOWN_ROWS = 24
"""Rows of which frames and maps are shown, about: every k-th one, so that long clips make no longer pages."""
PREFIXES = 60
"""Prefixes of the clip that a readout scores, at most."""


@dataclass(frozen=True, slots=True)
class Components:
    """The first principal components of some vectors, at most three."""

    scores: Float[np.ndarray, "... P"]
    shares: tuple[float, ...]
    """Share of the variance that each component explains; empty if the vectors do not differ."""


@dataclass(frozen=True, slots=True)
class CellView:
    """One cell over a clip of R rows (frames, tubelets or windows), of which S are shown."""

    cell: str
    vectors: Float[np.ndarray, "R C"]
    maps: Components | None
    """Of the shown rows' maps, `[S, h, w, P]`; None if the backbone has no maps."""

    def compute_similarity(self) -> Float[np.ndarray, "R R"]:
        """Return the cosine similarity of each two rows."""
        vectors = self.vectors.astype(np.float64)
        # A vector of zeros stays zeros and is similar to none, without a division by zero.
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        # Rounding leaves 1 + 2e-16 on the diagonal, which a scale that ends at 1 cannot show.
        similarity: Float[np.ndarray, "R R"] = np.clip(unit @ unit.T, -1, 1)
        return similarity

    def compute_components(self) -> Components:
        """Return the principal components of the vectors, `[R, P]`."""
        spread = _Spread(self.vectors.shape[1])
        spread.add(self.vectors)
        return spread.project(self.vectors)


@dataclass(frozen=True, slots=True)
class ScoresOverTime:
    """A readout's class probabilities on the first 1, 2, ... rows of a clip; the last ones are those of the complete clip."""

    readout: Readout
    lengths: tuple[int, ...]
    scores: Float[np.ndarray, "N K"]


@dataclass(slots=True)
class ClipView:
    """What a backbone makes of a clip."""

    video: Path
    video_sha256: str
    contents: ClipContents
    backbone: Backbone
    device: str
    times: list[tuple[float, float]] = field(default_factory=list)
    """Seconds at which each row's frames start and end, by the clip's mean frame rate."""
    pictures: dict[int, UInt8[np.ndarray, "_ _ 3"]] = field(default_factory=dict)
    """The first frame of each shown row, by row."""
    cells: list[CellView] = field(default_factory=list)
    scores: ScoresOverTime | None = None
    notes: list[str] = field(default_factory=list)
    """What is to be known of the computation: precision, damage."""

    @property
    def has_maps(self) -> bool:
        return all(cell.maps is not None for cell in self.cells)


class _Spread:
    """Mean and scatter matrix of vectors that come in parts."""

    def __init__(self, width: int) -> None:
        self.count, self.mean, self.scatter = 0, np.zeros(width), np.zeros((width, width))

    def add(self, part: Float[np.ndarray, "N C"]) -> None:
        # Chan et al. 1979: exact also where the mean is far from zero, as it is for these features.
        values, total = part.astype(np.float64), self.count + len(part)
        mean = values.mean(axis=0)
        away, values = mean - self.mean, values - mean
        self.scatter += values.T @ values + np.outer(away, away) * (self.count * len(part) / total)
        self.mean, self.count = self.mean + away * (len(part) / total), total

    def project(self, vectors: Float[np.ndarray, "... C"], most: int = 3) -> Components:
        """Project vectors onto the components that explain most."""
        # Ascending: the components that explain most are the last columns.
        variances, axes = np.linalg.eigh(self.scatter)
        variances, axes = variances[::-1][:most], axes[:, ::-1][:, :most]
        # Below it, a variance is rounding: of fp32 features of which none differs from the others.
        least = 1e-12 * (np.trace(self.scatter) + self.count * self.mean @ self.mean)
        kept = int((variances > least).sum())
        # The sign of an eigenvector is arbitrary: the largest entry is made positive, so that a page can be made again.
        axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
        shares = tuple(float(variance / np.trace(self.scatter)) for variance in variances[:kept])
        return Components((vectors - self.mean) @ axes[:, :kept], shares)


@dataclass(frozen=True, slots=True)
class ShowRequest:
    """What to compute of a clip."""

    video: Path
    config: BackboneConfig
    cells: tuple[Cell, ...]
    row: Row | None = None
    """A row with a trained readout that scores the clip; its backbone is `config`, its cell one of `cells`."""


def view_clip(request: ShowRequest, workspace: Workspace, execution: Execution, reporter: Reporter) -> ClipView:
    """Compute what a backbone makes of a clip.

    Raises:
        UsageError: a cell does not exist.
        MissingError: the clip cannot be decoded; a checkpoint, a readout or memory is missing.
    """
    check_file(request.video)
    notes: list[str] = []
    execution = replace(execution, workers=1, say=notes.append)
    if request.row is None:
        backbone, readout = describe_backbone(request.config, workspace), None
    else:
        backbone, readout = load_row_readout(request.row, None, workspace, execution.device)
    ((_, probe),) = probe_all([request.video], 1, workspace.hashes)
    if probe.contents is None:
        raise VideoError(probe.error)
    (extractor,) = open_extractors([(backbone, request.cells)], execution)
    view = ClipView(request.video, probe.sha256, probe.contents, backbone, execution.device, notes=notes)
    _compute_rows(view, extractor, request.cells, execution, reporter)
    if probe.error:
        notes.append(probe.error)
    if readout is not None:
        view.scores = _score_prefixes(readout, view)
    for line in notes:
        reporter.warn(line)
    return view


def _compute_rows(
    view: ClipView, extractor: Extractor, cells: Sequence[Cell], execution: Execution, reporter: Reporter
) -> None:
    """Compute the vectors of every row, the map components, and the pictures of the shown rows; add them to `view`."""
    frames, name = extractor.frames, view.backbone.name
    # A file may state no rate; the times shown are then those of the commonest one.
    fps = view.contents.fps or 25.0
    seconds = min(view.contents.frames / fps, frames.last_second)
    sampled = -(-round(seconds * fps) // frames.stride)
    # Rows of a complete window are of equally many frames.
    span = frames.window // view.backbone.config.vectors(frames.window)
    # -(-a // b) is a / b rounded up.
    every = max(1, -(-view.backbone.config.vectors(sampled) // SHOWN_ROWS))
    vectors: dict[str, list[np.ndarray]] = {cell.name: [] for cell in cells}
    kept: dict[str, list[np.ndarray]] = {cell.name: [] for cell in cells}
    spreads: dict[str, _Spread] = {}
    sampling = Sampling(frames.stride, frames.last_second, frames.window, frames.reader, execution.allow_damaged)
    with reporter.progress("windows", frames.windows(sampled)) as advance:
        for number, window in enumerate(_cut_windows(Job(view.video, sampling), frames)):
            noise = WindowNoise(extractor.noise_seed, view.video_sha256, number)
            maps: dict[str, dict[str, np.ndarray]] = {name: {}}
            if isinstance(extractor, HasMaps):
                features, maps = extractor.features_with_maps(window, noise)
            else:
                features = extractor.features([window], [noise])
            first, count = len(view.times), len(features[name][cells[0].name])
            # A short window may have rows of repeated frames alone: they are of its last frame.
            starts = [min(row * span, len(window) - 1) for row in range(count)]
            for start in starts:
                ends = (number * frames.hop + end for end in (start, min(start + span, len(window))))
                # Fewer than a stride's frames may follow the last sampled one.
                begin, end = (min(frame * frames.stride / fps, view.contents.seconds) for frame in ends)
                view.times.append((begin, end))
            shown = [row for row in range(count) if (first + row) % every == 0]
            pictures = window[[starts[row] for row in shown]]
            if shown:
                pictures = extractor.pictures(pictures) if isinstance(extractor, HasMaps) else pictures
                view.pictures |= {first + row: one for row, one in zip(shown, _shrink(pictures), strict=True)}
            for cell, found in features[name].items():
                if not np.isfinite(found).all():
                    raise MissingError(
                        f"clip {view.video}: its features {cell} hold NaN or infinity in precision "
                        f"{read_precision(view.backbone.config)}: use --precision fp32, or fetch the checkpoint again"
                    )
                vectors[cell].append(found)
            for cell, values in maps[name].items():
                # Every row's maps count for the components; only those of shown rows are kept.
                spread = spreads.setdefault(cell, _Spread(values.shape[-1]))
                for row in values:
                    spread.add(row.reshape(-1, row.shape[-1]))
                kept[cell].append(values[shown])
            advance("")
    if not view.times:
        raise VideoError(f"clip {view.video}: it holds no video frames")
    for cell, parts in vectors.items():
        components = spreads[cell].project(np.concatenate(kept[cell])) if cell in spreads else None
        view.cells.append(CellView(cell, np.concatenate(parts), components))


def _cut_windows(job: Job, frames: FrameSampling) -> Iterator[Frames]:
    """Yield the windows of a clip.

    Raises:
        VideoError: it cannot be decoded.
    """
    cutter = WindowCutter(frames)
    with Decoders() as decoders:
        for decoding in decoders.decode([job]):
            for chunk in decoding:
                yield from cutter.add_chunk(chunk)
    yield from cutter.finish_clip()


def _shrink(pictures: UInt8[np.ndarray, "N _ _ 3"], longest: int = 320) -> UInt8[np.ndarray, "N _ _ 3"]:
    """Make pictures at most `longest` pixels wide and high."""
    factor = longest / max(pictures.shape[1:3])
    if factor >= 1:
        return pictures
    # No side of a very wide picture may round to nothing.
    size = [max(1, round(side * factor)) for side in pictures.shape[1:3]]
    small = functional.interpolate(torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), size=size, mode="area")
    return small.round().byte().permute(0, 2, 3, 1).numpy()


def _score_prefixes(readout: Readout, view: ClipView) -> ScoresOverTime:
    (vectors,) = (cell.vectors for cell in view.cells if cell.cell == readout.cell)
    # Evenly spaced, without duplicates; the last one is the complete clip.
    lengths = sorted({round(length) for length in np.linspace(1, len(vectors), min(len(vectors), PREFIXES))})
    scores = [readout.score(vectors[:length].astype(np.float32)) for length in lengths]
    return ScoresOverTime(readout, tuple(lengths), np.stack(scores))
