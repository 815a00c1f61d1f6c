"""Extract random clips again and compare them with what is stored, and say what such a sample cannot see."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, comb
from pathlib import Path
from random import SystemRandom

import numpy as np

from repro.backbones.comparison import relative_l2
from repro.backbones.compilation import is_compiled
from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.errors import MissingError, NothingToCheckError
from repro.core.workspace import Workspace
from repro.datasets.config import DatasetConfig, load_dataset
from repro.datasets.presence import find_missing
from repro.datasets.registry import open_dataset, user_dataset_names
from repro.datasets.split import Clip
from repro.features.audit_store import find_feature_files
from repro.features.collection import Collection
from repro.features.packed import DamagedFeaturesError, list_packed_cells
from repro.features.store import Entry, FeatureStore, read_clip_header
from repro.pipeline.extract import compute_features, open_stores
from repro.video.sampling import is_of_damaged_clip

SHARES = (0.01, 0.05, 0.1, 0.2)
"""Shares of wrong features for which a result says how likely the sample would have missed them all."""
UNSEEN = 0.05
"""Probability of missing them all from which on a share of wrong features counts as one that may have been missed."""


@dataclass(frozen=True, slots=True)
class SampleCheck:
    """Clips of one collection that were extracted again."""

    dataset: str
    stored: int
    """Clips with stored features whose video is present: those that were sampled from."""
    deviations: Mapping[str, float]
    """Largest relative L2 over the cells, by clip; infinite for other shapes and NaN."""
    failed: Mapping[str, str]
    """Why other sampled clips could not be compared."""
    compiled: int
    """Sampled clips whose stored features were computed by compiled networks."""

    @property
    def missed(self) -> dict[float, float]:
        """By share of wrong clips: the probability that such a sample has none of them."""
        return {
            share: miss_probability(self.stored, ceil(round(share * self.stored, 9)), self.sampled) for share in SHARES
        }

    @property
    def most_missed(self) -> int:
        """The largest number of wrong clips that such a sample misses with a probability of at least UNSEEN."""
        return most_missed(self.stored, self.sampled)

    @property
    def sampled(self) -> int:
        return len(self.deviations)


def miss_probability(clips: int, wrong: int, sampled: int) -> float:
    """Return the probability that `sampled` of `clips` clips, chosen without replacement, include none of `wrong` wrong ones.

    Hypergeometric: C(clips - wrong, sampled) / C(clips, sampled), at most (1 - wrong / clips) ** sampled.
    """
    return comb(clips - wrong, sampled) / comb(clips, sampled)


def most_missed(clips: int, sampled: int) -> int:
    """Return the largest number of wrong clips that a sample misses with a probability of at least UNSEEN."""
    low, high = 0, clips
    while low < high:  # the probability falls with the number of wrong clips
        middle = (low + high + 1) // 2
        low, high = (middle, high) if miss_probability(clips, middle, sampled) >= UNSEEN else (low, middle - 1)
    return low


def recheck_sample(
    config: BackboneConfig,
    count: int,
    workspace: Workspace,
    execution: Execution,
    reporter: Reporter,
    own: DatasetConfig | None = None,
) -> list[SampleCheck]:
    """Extract `count` random clips of every data set with stored features of a backbone again, and compare. Nothing is changed.

    Args:
        config: The backbone.
        count: Number of clips of each data set.
        workspace: Where the features are.
        execution: Where to compute. Networks are compiled for the clips whose stored features were computed so, or for all or none as
            `compile` says.
        reporter: Gets a warning for each data set that is not compared.
        own: Own clips, which are then the only data set.

    Raises:
        NothingToCheckError: no features of this config are stored, or none of a clip whose video is present.
        MissingError: the checkpoint or annotation files are missing, or stored features are damaged.
    """
    backbone = describe_backbone(config, workspace)
    checks = []
    for name in user_dataset_names() if own is None else [own.name]:
        store = FeatureStore.locate(workspace, config.name, backbone.identity(), name)
        if not find_feature_files(store.folder):
            continue
        dataset = open_dataset(own or load_dataset(name), workspace)
        gone = {clip for split in dataset.splits.values() for clip in find_missing(split, dataset.boundary)}
        cells = _stored_cells(store)
        stored = {clip for cell in cells for clip in store.stored_clips(cell.name)}
        present = [clip for clip in dataset.clips if clip.id in stored and clip.id not in gone]
        if not present:
            reporter.warn(f"{name}: none of {len(stored)} clips with features has its video here: not compared")
            continue
        # Nobody can foresee the sample, and so leave only its clips right.
        chosen = SystemRandom().sample(present, min(count, len(present)))
        checks.append(_compare_with_store(backbone, cells, chosen, store, execution, reporter, len(present)))
    # Their features do not say which file lists them.
    for name in _find_own(config.name, workspace) if own is None else ():
        reporter.warn(
            f"{name}: own clips, not compared: name their row file, as in `repro verify my_row.yaml --sample {count}`"
        )
    if not checks:
        raise NothingToCheckError(
            f"nothing to check: no features of {config.name} that this machine would compute, of clips whose videos are here, are in "
            f"{workspace.features} (--set and --implementation select others)"
        )
    return checks


def _find_own(backbone: str, workspace: Workspace) -> list[str]:
    """Return the names of the own clips with features of a backbone."""
    folders = workspace.features.glob(f"{backbone}-*/own_*")
    return sorted({folder.name for folder in folders if find_feature_files(folder)})


def _compare_with_store(
    backbone: Backbone,
    cells: Sequence[Cell],
    chosen: Sequence[Clip],
    store: FeatureStore,
    execution: Execution,
    reporter: Reporter,
    stored: int,
) -> SampleCheck:
    """Extract the clips `chosen` of `stored` into a temporary folder and compare them with the store."""
    before: dict[str, dict[str, Entry]] = {clip.id: {} for clip in chosen}
    deviations, failed = {}, {}
    try:
        for cell in cells:
            reader = store.cell_reader(cell.name)
            for clip in chosen:
                entry = reader.read(clip.id)
                if entry is not None:
                    before[clip.id][cell.name] = entry
    except DamagedFeaturesError as error:
        raise MissingError(f"features {store.folder}: damaged: {error}: extract them again") from error
    damaged = any(is_of_damaged_clip(entry.reader) for entries in before.values() for entry in entries.values())
    # Clips that were stored as far as they decode are compared so.
    execution = replace(execution, allow_damaged=execution.allow_damaged or damaged)
    compiled = {clip.id for clip in chosen if _was_compiled(before[clip.id].values(), store)}
    if compiled:
        how = "as before" if execution.compile is None else f"with --compile {'yes' if execution.compile else 'no'}"
        reporter.line(
            f"{store.folder.name}: {len(compiled)} of {len(chosen)} clips were computed with compiled networks: computed again {how}"
        )
    groups: dict[bool, list[Clip]] = {}
    for clip in chosen:
        groups.setdefault(clip.id in compiled if execution.compile is None else execution.compile, []).append(clip)
    found: dict[str, Entry | str] = {}
    for compile_, clips in groups.items():
        collection = Collection(store.folder.name, tuple(clips))
        found |= extract_again(backbone, cells, collection, replace(execution, compile=compile_), reporter)
    for name, again in found.items():
        if isinstance(again, str):
            failed[name] = again
        elif any(again.video_sha256 != was.video_sha256 for was in before[name].values()):
            failed[name] = f"clip {name}: another video than the one its stored features are of"
        else:
            deviations[name] = max(
                _deviation(again.features[cell], was.features[cell]) for cell, was in before[name].items()
            )
    return SampleCheck(store.folder.name, stored, deviations, failed, len(compiled))


def _was_compiled(entries: Iterable[Entry], store: FeatureStore) -> bool:
    """Whether the record of a clip's features says that networks were compiled for any of them."""
    origins = {name for entry in entries for name in entry.origins}
    return any(is_compiled(str(store.read_origin(name).get("batch", ""))) for name in origins)


def extract_again(
    backbone: Backbone, cells: Sequence[Cell], collection: Collection, execution: Execution, reporter: Reporter
) -> dict[str, Entry | str]:
    """Extract clips into a temporary folder; returns each clip's features, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        requests = open_stores([(backbone, tuple(cells))], collection.name, Workspace(Path(folder)))
        done = compute_features(requests, collection, execution, reporter)
        return {
            clip.id: done.failed.get(clip.id)
            or requests[0].store.read_own_file(clip.id)
            or f"clip {clip.path}: it was not extracted"
            for clip in collection.clips
        }


def _deviation(ours: np.ndarray, stored: np.ndarray) -> float:
    return relative_l2(ours, stored) if ours.shape == stored.shape else float("inf")


def _stored_cells(store: FeatureStore) -> tuple[Cell, ...]:
    """Return the cells that a store has of any clip."""
    names = set(list_packed_cells(store.folder / "packed"))
    for path in store.clip_files():
        try:
            header = read_clip_header(path)
        except DamagedFeaturesError as error:
            raise MissingError(f"features {path}: damaged: {error}: extract them again") from error
        names |= set(header.cells if header else ())
    return tuple(Cell.parse(name) for name in sorted(names))
