"""From clips to stored features: the one path that rows, grids, data sets, folders and predictions take.

describe_backbone -> open_stores -> compute_features (predictions stop here) -> extract_features, which also reports,
remembers the speed and packs what is complete.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from repro.backbones.config import BackboneConfig, Cell, Layer, choose_cells
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.registry import describe_backbone, load_backbone
from repro.core.console import Reporter, format_size
from repro.core.errors import MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets.config import load_dataset
from repro.datasets.registry import open_dataset, user_dataset_names
from repro.datasets.split import Clip
from repro.features import rates
from repro.features.collection import Collection, dataset_collection, folder_collection
from repro.features.extract import Extraction, FeatureRequest, extract_missing, pack_if_complete
from repro.features.store import FeatureStore, StoredAs
from repro.records.record import describe_machine, software_versions
from repro.video.published import estimate_frames

SAMPLED_CLIPS = 200
"""Clips whose length is read to estimate how much disk all of them will take."""
PRECISION_NAMES: dict[StoredAs, str] = {"float32": "fp32", "float16": "fp16"}
"""How options, messages and reports spell the types that stores and records spell as NumPy does."""


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """Features to extract of a data set, a split of it, or a folder of videos."""

    source: str
    """A data set, `<dataset>/<split>`, or a path."""
    backbones: tuple[str, ...]
    timesteps: tuple[int, ...] | None = None
    layers: tuple[Layer, ...] | None = None
    """None: each backbone's default, which rows read."""
    grid: bool = False
    """All timesteps and layers of the release's grid, in place of `timesteps` and `layers`."""
    stored_as: StoredAs = "float32"
    shard: tuple[int, int] | None = None
    """(i, n): part i of n, counted from 1."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Changes of the backbones' configs, as YAML text by dotted key."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What an extraction did."""

    collection: str
    """Name of the collection, of which `clips` may be a part."""
    clips: int
    requests: tuple[FeatureRequest, ...]
    """The cells of each backbone and the store that holds them."""
    done: Extraction
    failed_list: Path
    """File that names the clips that failed; it exists only if some did."""


def extract_source(
    request: ExtractRequest, workspace: Workspace, execution: Execution, reporter: Reporter
) -> Extracted:
    """Extract the features of a data set or a folder and pack the stores that are complete.

    A clip that fails is reported and the others continue; `Extracted.done.failed` names it.

    Raises:
        UsageError: a source, backbone, timestep, layer or shard that does not exist.
        MissingError: a checkpoint or data are missing, or disk or memory do not suffice.
    """
    configs, cells = _choose_backbones(request)
    complete = _open_collection(request.source, workspace)
    if not complete.clips:
        raise UsageError(f"{request.source}: its annotation files list no clips: fetch the publishers' files again")
    part = complete.take_shard(*request.shard) if request.shard else complete
    if not part.clips and request.shard:
        number, count = request.shard
        raise UsageError(
            f"--shard {number}/{count}: no clips are left for it: {request.source} has {len(complete.clips)}"
        )
    workspace.require_writable()
    for note in complete.notes:
        reporter.warn(note)
    with ExitStack() as locks:
        # One lock per backbone and shard: two processes on the same shard would compute every clip twice, while processes on
        # different shards work at the same time.
        for name in request.backbones:
            locks.enter_context(workspace.lock(f"extract {name} {complete.name}{part.part}"))
        # Reads or checks the sha256 of the weights, which is part of the features' key.
        wanted = [(describe_backbone(config, workspace), cells[name]) for name, config in configs.items()]
        requests = open_stores(wanted, complete.name, workspace, request.stored_as)
        done = extract_features(requests, part, workspace, execution, reporter, complete=complete, show_disk=True)
    return Extracted(
        complete.name, len(part.clips), requests, done, requests[0].store.folder / f"failed{part.part}.json"
    )


def open_stores(
    wanted: Sequence[tuple[Backbone, tuple[Cell, ...]]],
    collection: str,
    workspace: Workspace,
    stored_as: StoredAs = "float32",
) -> tuple[FeatureRequest, ...]:
    """Open the store of each backbone's features of a collection; returned with the cells that it is to hold."""
    return tuple(
        FeatureRequest(
            backbone,
            cells,
            FeatureStore.open(workspace, backbone.name, backbone.identity(), collection, stored_as),
        )
        for backbone, cells in wanted
    )


def compute_features(
    requests: Sequence[FeatureRequest],
    collection: Collection,
    execution: Execution,
    reporter: Reporter,
    *,
    show_disk: bool = False,
) -> Extraction:
    """Compute the features that the stores of `requests` are missing, one clip file each.

    Args:
        requests: cells of each backbone, with the store they go to.
        collection: the clips.
        execution: device, batch and decoding processes.
        reporter: where progress and failed clips are reported.
        show_disk: report first how much disk the features will take, and stop if there is less.

    Raises:
        MissingError: a checkpoint is unusable, or disk or memory do not suffice.
    """

    def report_disk(clips: Sequence[Clip]) -> None:
        if show_disk:
            _report_disk(clips, requests, reporter)

    # Stored with the features for the record; no part of their key.
    origin = software_versions() | describe_machine(execution.device)
    return extract_missing(collection, requests, execution, origin, reporter, report_disk)


def extract_features(
    requests: Sequence[FeatureRequest],
    collection: Collection,
    workspace: Workspace,
    execution: Execution,
    reporter: Reporter,
    *,
    complete: Collection | None = None,
    show_disk: bool = False,
) -> Extraction:
    """Do what compute_features does; then report each store, save the speed for `repro plan`, and pack complete stores.

    `complete` is the collection of which `collection` is a shard.
    """
    done = compute_features(requests, collection, execution, reporter, show_disk=show_disk)
    # A clip that failed is neither extracted nor reused.
    readable = len(collection.clips) - len(done.failed)
    for request in requests:
        cells = request.cells[0].name if len(request.cells) == 1 else f"{len(request.cells)} cells"
        reporter.stage(
            "features",
            total=readable,
            reused=readable - done.count_extracted(request.backbone.name),
            made="extracted",
            why=f"{collection.name}, {request.backbone.name}, {cells}",
            where=request.store.folder,
            failed=len(done.failed),
        )
    if len(requests) == 1:  # backbones that share work have no speed of their own
        (request,) = requests
        rates.record_rate(
            workspace,
            request.backbone.name,
            request.backbone.identity(),
            tuple(cell.name for cell in request.cells),
            describe_machine(execution.device),
            done.windows,
            done.seconds,
        )
    # A shard packs only if it was the last: packs hold complete collections.
    pack_if_complete(complete or collection, requests, done, reporter)
    return done


def _choose_backbones(request: ExtractRequest) -> tuple[dict[str, BackboneConfig], dict[str, tuple[Cell, ...]]]:
    """Return the configs and cells of the backbones of a request.

    Raises:
        UsageError: an unknown or repeated backbone, or options that it does not have.
    """
    if len(set(request.backbones)) < len(request.backbones):
        raise UsageError(f"--backbone {','.join(request.backbones)}: duplicate backbone")
    if request.grid and (request.timesteps or request.layers):
        raise UsageError("--grid is 7 timesteps by 13 layers: it takes no --timesteps or --layers")
    configs = {name: load_backbone(name, request.changes) for name in request.backbones}
    if (request.grid or request.timesteps) and all(c.axes().timesteps is None for c in configs.values()):
        option = "--grid" if request.grid else "--timesteps"
        raise UsageError(f"{option}: {' and '.join(configs)} {'have' if len(configs) > 1 else 'has'} no timesteps")
    cells = {
        name: choose_cells(config, request.timesteps, request.layers, request.grid) for name, config in configs.items()
    }
    return configs, cells


def _open_collection(source: str, workspace: Workspace) -> Collection:
    name, _, split = source.partition("/")
    folder = Path(source)
    # A folder named as a data set is only meant if the path continues below it.
    if name in user_dataset_names() and (not split or not folder.exists()):
        dataset = open_dataset(load_dataset(name), workspace)
        return dataset_collection(name, dataset.split(split).clips if split else dataset.clips)
    if not source or not folder.exists():
        raise UsageError(
            f"'{source}' is neither a data set ({', '.join(user_dataset_names())}), nor a split of one (ucf101/train), nor a folder "
            "of videos: name one of them"
        )
    return folder_collection(folder, skip=workspace.root if workspace.root.exists() else None)


def _report_disk(clips: Sequence[Clip], requests: Sequence[FeatureRequest], reporter: Reporter) -> None:
    """Report how much disk the features of `clips` take at most, before anything is computed.

    Raises:
        MissingError: less than that is free.
    """
    # Spread over the list: it is ordered by class, and classes differ in the length of their clips.
    sample = clips[:: max(1, len(clips) // SAMPLED_CLIPS)]
    counted = [values for clip in sample if (values := _count_values(clip, requests)) is not None]
    if not counted:
        return
    mean = sum(counted) / len(counted)
    store = requests[0].store
    folder = store.folder.parent.parent
    # Bytes per value: 2 for float16, 4 for float32.
    size = round(len(clips) * sum(counted) / len(counted) * (2 if store.stored_as == "float16" else 4))
    free = shutil.disk_usage(folder).free
    reporter.line(
        f"{'disk':<11} about {format_size(size)} for {len(clips)} clips ({mean:,.0f} values a clip, "
        f"{PRECISION_NAMES[store.stored_as]}), as much again while they are packed; {format_size(free)} free in {folder}"
    )
    # Packing writes a second copy before the first is removed.
    if 2 * size > free:
        raise MissingError(
            f"features in {folder}: about {format_size(2 * size)} needed, {format_size(free)} free: make room, name another "
            "--workspace, or take fewer --timesteps and --layers"
        )


def _count_values(clip: Clip, requests: Sequence[FeatureRequest]) -> int | None:
    """Count the values in a clip's features, by its declared length; returns None if the file does not declare one."""
    values = 0
    for request in requests:
        config = request.backbone.config
        frames = estimate_frames(clip.path, config.frames.last_second)
        if not frames:
            return None
        # Every stride-th frame is sampled, from the first: ceil(frames / stride).
        vectors = config.vectors(-(-frames // config.frames.stride))
        values += vectors * sum(config.channels(cell) or 0 for cell in request.cells)
    return values
