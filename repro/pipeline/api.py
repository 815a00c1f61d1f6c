"""From Python: features of a video, stored features as arrays, running a row, training a readout, and scoring videos.

Re-exported by `repro`; docs/api.md has an example. Workspaces are folders [default: REPRO_WORKSPACE, else ./workspace].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from repro.backbones.config import BackboneConfig, Cell, Layer, Precision, choose_cells
from repro.backbones.extractor import Execution
from repro.backbones.registry import DEFAULT_BACKBONE, describe_backbone, load_backbone
from repro.core.console import Reporter
from repro.core.errors import MissingError, UsageError
from repro.core.workspace import Workspace, open_workspace
from repro.datasets.own import find_split
from repro.datasets.registry import open_dataset
from repro.datasets.split import Clip
from repro.features.collection import Collection
from repro.features.imported import find_stored_identity
from repro.features.store import FeatureStore
from repro.pipeline.extract import compute_features, open_stores
from repro.pipeline.predict import COLLECTION, predict_videos
from repro.pipeline.row import RowRequest, run_row
from repro.readout.checkpoints import TrainingData
from repro.readout.compute import Compute
from repro.readout.recipe import Metric, Protocol, Recipe
from repro.readout.sequences import Sequences, load_sequences
from repro.readout.train import TrainingResult, train_readout
from repro.readout.trained import Readout
from repro.records.record import RunRecord
from repro.table.imported import explain_imported, has_imported_features
from repro.table.requirements import chosen_device, missing_items
from repro.table.rows import load_any_row
from repro.video.decoders import count_spare_cores

ANY_LENGTH = 2**31
"""Maximal number of frames read from a clip if no recipe limits it."""


@dataclass(frozen=True, slots=True)
class SplitFeatures:
    """Stored features of a split, with its targets."""

    classes: tuple[str, ...]
    """A class's index is its label id."""
    sequences: Sequences
    """What `train_split_features` trains on."""
    backbone: str
    cell: str
    key: str
    """Content key of the features."""

    @property
    def clips(self) -> tuple[str, ...]:
        """Ids of the clips, in the split's order."""
        return self.sequences.clips

    @property
    def features(self) -> tuple[Float32[np.ndarray, "_ C"], ...]:
        """One read-only array `[T, C]` per clip: sampled frames by channels. Copy those that you want to change."""
        arrays = tuple(features.numpy() for features in self.sequences.features)
        for array in arrays:
            array.flags.writeable = False  # writing to a mapped file would kill the process
        return arrays

    @property
    def targets(self) -> Int64[np.ndarray, "N K"]:
        """1 where a clip has a class, else 0."""
        targets: Int64[np.ndarray, "N K"] = self.sequences.targets.numpy().astype(np.int64)
        return targets


@dataclass(frozen=True, slots=True)
class TrainedReadout:
    """A readout after its last epoch, and how it was trained."""

    readout: Readout
    result: TrainingResult
    """Losses and test scores of every epoch, and the test probabilities."""


def extract_video_features(
    video: Path | str,
    backbone: str = DEFAULT_BACKBONE,
    timestep: int | None = None,
    layer: Layer | None = None,
    *,
    changes: Mapping[str, str] | None = None,
    workspace: Path | str | None = None,
    device: str | None = None,
) -> Float32[np.ndarray, "T C"]:
    """Extract the features of one video. They are stored in the workspace and not computed again.

    Args:
        video: A video file.
        backbone: A name from configs/backbones.
        timestep: Index into the noise schedule, 0 the noisiest [default: the backbone's usual one].
        layer: A layer's number, "up_7" or "final" [default: the backbone's usual one].
        changes: Changes of the backbone's config, as YAML text by dotted key: {"frames.window": "16"}.
        workspace: Folder with the checkpoint.
        device: cpu, cuda or cuda:N [default: REPRO_DEVICE, else cuda if a GPU is visible].

    Returns:
        Features `[T, C]`: one vector per sampled frame (of V-JEPA and VideoMAEv2 one per tubelet or window).

    Raises:
        UsageError: no such backbone, timestep, layer or device.
        MissingError: the video cannot be decoded, or the checkpoint or a GPU is missing.
    """
    config = load_backbone(backbone, changes)
    cells = _choose_cells(config, timestep, None if layer is None else (layer,))
    return next(iter(_extract_cells(Path(video), config, cells, workspace, device).values()))


def extract_video_layers(
    video: Path | str,
    backbone: str,
    layers: Sequence[Layer],
    timestep: int | None = None,
    *,
    changes: Mapping[str, str] | None = None,
    workspace: Path | str | None = None,
    device: str | None = None,
) -> dict[Layer, Float32[np.ndarray, "T _"]]:
    """Extract the features of one video at several layers, in one pass.

    Args:
        video: A video file.
        backbone: A name from configs/backbones.
        layers: Numbers, "up_7" or "final"; each once.
        timestep: Index into the noise schedule, 0 the noisiest [default: the backbone's usual one].
        changes: As for extract_video_features.
        workspace: As for extract_video_features.
        device: As for extract_video_features.

    Returns:
        Features `[T, C]` by layer, in the order of `layers`. `C` differs between layers of SVD; where it is equal,
        `np.stack(list(found.values()), axis=1)` is one array `[T, L, C]`.

    Raises:
        UsageError: `layers` is empty, has duplicates, or has one that does not exist; or as for extract_video_features.
        MissingError: As for extract_video_features.
    """
    if not layers or len(set(layers)) < len(layers):
        raise UsageError(f"layers {list(layers)}: expected one or more, each once")
    config = load_backbone(backbone, changes)
    cells = _choose_cells(config, timestep, layers)
    if [cell.layer for cell in cells] != list(layers):  # a backbone without numbered layers
        raise UsageError(f"layers {list(layers)}: {config.name} has '{cells[0].layer}' alone")
    found = _extract_cells(Path(video), config, cells, workspace, device)
    return {layer: found[cell.name] for layer, cell in zip(layers, cells, strict=True)}


def load_features(
    split: str,
    backbone: str = DEFAULT_BACKBONE,
    timestep: int | None = None,
    layer: int | str | None = None,
    *,
    changes: Mapping[str, str] | None = None,
    workspace: Path | str | None = None,
) -> SplitFeatures:
    """Load the features of a split that `repro extract` or a row stored.

    Args:
        split: `<data set>/<split>`: "ucf101/train", or of own clips "my.yaml/train".
        backbone: A name from configs/backbones.
        timestep: As for extract_video_features.
        layer: As for extract_video_features.
        changes: As for extract_video_features.
        workspace: Folder with data set annotations and features.

    Raises:
        UsageError: no such split, backbone, timestep or layer.
        MissingError: annotation files, or the features of some clips, are missing or damaged.
    """
    dataset, part = find_split(split)
    if not part:
        raise UsageError(f"split '{split}': expected <data set>/<split>, such as ucf101/train or my.yaml/train")
    place, config = _open_workspace(workspace), load_backbone(backbone, changes)
    (cell,) = _choose_cells(config, timestep, None if layer is None else (layer,))
    found = open_dataset(dataset, place).split(part)
    identity = find_stored_identity(config, place, cell, (dataset.name,))
    store = FeatureStore.locate(place, config.name, identity, dataset.name)
    sequences = load_sequences(store, found, cell.name, ANY_LENGTH)
    return SplitFeatures(found.classes, sequences, config.name, cell.name, store.key)


def train_split_features(
    train: SplitFeatures,
    test: SplitFeatures,
    recipe: Recipe,
    seed: int,
    *,
    metric: Metric = "map_micro",
    device: str = "cpu",
) -> TrainedReadout:
    """Train a readout on one split's features and score another split after every epoch. Nothing is stored.

    Args:
        train: Features to learn from.
        test: Features to score.
        recipe: How to train: a row's, `load_row("ucf_hmdb").readout`.
        seed: Determines initial weights, order of clips, mixup and dropout.
        metric: Selects the best epoch on the test split (docs/deviations.md 2).
        device: cpu, cuda or cuda:N.

    Raises:
        MissingError: the splits have other classes or features, or the loss is not finite.
        UsageError: no such device.
    """
    # Label ids and channels mean the same only if classes, backbone and cell are the same.
    if (train.classes, train.key, train.cell) != (test.classes, test.key, test.cell):
        raise MissingError("the two splits differ in their classes, backbone or cell: load both in the same way")
    data = TrainingData(
        _truncate_clips(train.sequences, recipe.max_length), _truncate_clips(test.sequences, recipe.max_length)
    )
    result = train_readout(data, recipe, seed, metric=metric, compute=Compute(device).require_available())
    # row="": no row describes this training.
    readout = Readout(
        model=result.model, recipe=recipe, classes=train.classes, width=train.sequences.width, row="",
        backbone=train.backbone, cell=train.cell, features=train.key, seed=seed, epoch=result.epochs[-1].number,
    )  # fmt: skip
    return TrainedReadout(readout, result)


def run_any_row(
    row: str | Path,
    *,
    seeds: int = 1,
    protocol: Protocol | None = None,
    workspace: Path | str | None = None,
    device: str | None = None,
) -> list[RunRecord]:
    """Run a row as `repro ROW` does: features, readouts, and a record for each seed. What is stored is not computed again.

    Args:
        row: A row, or the path of a row file of own clips.
        seeds: Number of readouts: the row's seed, then those that follow it.
        protocol: "published" or "held-out" [default: the row's].
        workspace: Folder with data and checkpoints; features and runs are written there.
        device: As for extract_video_features.

    Returns:
        Records, by seed. Scores are fractions of 1.

    Raises:
        UsageError: no such row or device, or the workspace cannot be written.
        MissingError: data, a checkpoint, clips or a GPU are missing.
    """
    found, place = load_any_row(row), _open_workspace(workspace)
    missing = ", ".join(item.what for item in missing_items(found, place))
    if missing:
        imported = f"; {explain_imported(found)}" if has_imported_features(found, place) else ""
        raise MissingError(
            f"row {found.name} cannot run: missing in {place.root}: {missing}: `repro plan` says how to get it{imported}"
        )
    computes, reporter = chosen_device(device), Reporter(to_stderr=True)
    execution = Execution(computes, workers=count_spare_cores(), say=reporter.line)
    compute = Compute(computes).require_available()
    return run_row(found, RowRequest(seeds, protocol), place, execution, compute, reporter)


def score_video(
    row: str | Path,
    video: Path | str,
    *,
    seed: int | None = None,
    precision: Precision | None = None,
    workspace: Path | str | None = None,
    device: str | None = None,
) -> dict[str, float]:
    """Score one video with a row's trained readout.

    Args:
        row: A row that was run in the workspace, or the path of a row file of own clips.
        video: A video file.
        seed: Seed of the readout [default: the newest run's].
        precision: Precision of the features that the readout was trained on [default: the row's].
        workspace: Folder of the row's run.
        device: As for extract_video_features.

    Returns:
        Probability by class name, the likeliest first.

    Raises:
        UsageError: no such row or seed, or a precision that the row does not have.
        MissingError: the row has no trained readout, or the video cannot be decoded.
    """
    path, found = Path(video), load_any_row(row, precision)
    reporter = Reporter(to_stderr=True)
    execution = Execution(chosen_device(device), say=reporter.line)
    scored = predict_videos(found, [path], seed, _open_workspace(workspace), execution, reporter)
    if path not in scored.scores:
        raise MissingError(next(iter(scored.failed.values()), f"clip {path}: it could not be scored"))
    pairs = zip(scored.readout.classes, scored.scores[path].tolist(), strict=True)
    # A stable sort: equal probabilities keep the order of the label ids.
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def _choose_cells(config: BackboneConfig, timestep: int | None, layers: Sequence[Layer] | None) -> tuple[Cell, ...]:
    return choose_cells(config, None if timestep is None else (timestep,), layers)


def _extract_cells(
    path: Path, config: BackboneConfig, cells: Sequence[Cell], workspace: Path | str | None, device: str | None
) -> dict[str, Float32[np.ndarray, "T _"]]:
    """Return a video's features by the name of the cell, in the order of `cells`."""
    place = _open_workspace(workspace)
    # The path is the id: a video that belongs to no data set has no other name. Its labels are unknown.
    clip = Clip(str(path.absolute()), path, ())
    requests = open_stores([(describe_backbone(config, place), tuple(cells))], COLLECTION, place)
    reporter = Reporter(to_stderr=True)
    execution = Execution(chosen_device(device), say=reporter.line)
    done = compute_features(requests, Collection(COLLECTION, (clip,)), execution, reporter)
    store, names = requests[0].store, [cell.name for cell in cells]
    entry = None if done.failed else store.read_clip(clip.id, names)
    if entry is None:
        raise MissingError(done.failed.get(clip.id, f"clip {path}: its features are not in {store.folder}"))
    return {name: entry.features[name].astype(np.float32) for name in names}


def _open_workspace(workspace: Path | str | None) -> Workspace:
    return open_workspace(None if workspace is None else Path(workspace))


def _truncate_clips(sequences: Sequences, max_length: int) -> Sequences:
    """Keep at most `max_length` frames of each clip, from its start, as rows do."""
    return replace(sequences, features=tuple(features[:max_length] for features in sequences.features))
