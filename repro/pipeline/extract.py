"""From clips to stored features: the one path that rows, grids, data sets, folders and predictions take.

describe_backbone -> open_stores -> compute_features (predictions stop here) -> extract_features, which also reports,
remembers the speed and packs what is complete.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from repro.backbones.config import BackboneConfig, Cell, Layer, Precision, choose_cells
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.registry import describe_backbone, load_backbone
from repro.core.config import is_config_path
from repro.core.console import Reporter
from repro.core.errors import UsageError, find_nearest
from repro.core.progress.stages import Part, StageName
from repro.core.workspace import Workspace
from repro.datasets.config import load_dataset
from repro.datasets.manifest import stored_manifest
from repro.datasets.own import find_dataset
from repro.datasets.registry import open_dataset, user_dataset_names
from repro.datasets.split import Clip
from repro.features import rates
from repro.features.collection import Collection, dataset_collection, file_collection, folder_collection
from repro.features.extract import Extraction, FeatureRequest, extract_missing, pack_if_complete
from repro.features.store import FeatureStore, StoredAs
from repro.pipeline.costs import report_cpu_hours, report_disk, report_speed
from repro.records.record import describe_machine, software_versions


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """Features to extract of data sets, splits of them, folders of videos, or single videos."""

    sources: tuple[str, ...]
    """Data sets, `<dataset>/<split>`, or paths."""
    backbones: tuple[str, ...]
    timesteps: tuple[int, ...] | None = None
    layers: tuple[Layer, ...] | None = None
    """None: each backbone's default, which rows read."""
    grid: bool = False
    """All timesteps and layers of the release's grid, in place of `timesteps` and `layers`."""
    stored_as: StoredAs = "float32"
    shards: tuple[tuple[int, int], ...] = ()
    """(i, n): part i of n, counted from 1; a further pair is a part of that part."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Changes of the backbones' configs, as YAML text by dotted key."""
    precisions: tuple[Precision, ...] = ()
    """Each backbone computes in the first that it has; empty: in its own."""


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


def extract_sources(
    request: ExtractRequest, workspace: Workspace, execution: Execution, reporter: Reporter
) -> list[Extracted]:
    """Extract the features of data sets and folders and pack the stores that are complete; splits of a data set are one.

    A clip that fails is reported and the others continue; `Extracted.done.failed` names it.

    Raises:
        UsageError: a source, backbone, timestep, layer or shard that does not exist; then nothing is computed.
        MissingError: a checkpoint or data are missing, or disk or memory do not suffice.
    """
    configs, cells = _choose_backbones(request)
    collections: dict[str, Collection] = {}
    for source in request.sources:
        found = _open_collection(source, workspace)
        if not found.clips:
            raise UsageError(f"{source}: its annotation files list no clips: fetch the publishers' files again")
        before = collections.get(found.name, found)
        # Splits of a data set are one collection: clips in both are extracted once, and the store is packed once.
        both = dataset_collection(found.name, (*before.clips, *found.clips))
        collections[found.name] = replace(found, clips=both.clips)
    parts = {
        name: _take_part(complete, request.shards, configs.values(), workspace)
        for name, complete in collections.items()
    }
    reporter.expect(*(name_stage(name, request.backbones) for name in collections))
    return [
        _extract_collection(part, request, configs, cells, workspace, execution, reporter) for part in parts.values()
    ]


def _take_part(
    complete: Collection, shards: Sequence[tuple[int, int]], configs: Iterable[BackboneConfig], workspace: Workspace
) -> Collection:
    """Return the requested part of a collection.

    Raises:
        UsageError: it has fewer clips than there are parts.
    """
    part = complete
    # Reading the length of every clip takes a while, and only a division needs it.
    lengths = measure_clips(complete, configs, workspace) if shards else {}
    for number, count in shards:
        if number > len(part.clips):
            raise UsageError(
                f"--shard {number}/{count}: no clips are left for it: {complete.name}{part.part} has {len(part.clips)}"
            )
        part = part.take_shard(number, count, lengths)
    return part


def measure_clips(collection: Collection, configs: Iterable[BackboneConfig], workspace: Workspace) -> dict[str, float]:
    """Return how much work each clip is, by id: windows by the data set's audit, else bytes of the files.

    Raises:
        UsageError: the audit's manifest is damaged.
    """
    manifest = stored_manifest(workspace, collection.name)
    facts = {clip.id: clip for clip in manifest.clips} if manifest is not None else {}
    if all(clip.id in facts for clip in collection.clips):
        frames = [config.frames for config in configs]
        return {
            # 1 more, because every clip is opened, also one that does not decode.
            clip.id: 1.0
            + sum(one.windows(one.count_sampled(facts[clip.id].frames, facts[clip.id].fps)) for one in frames)
            for clip in collection.clips
        }
    # Sizes of files are a poor measure of windows, but need no decoding.
    return {clip.id: 1.0 + (clip.path.stat().st_size if clip.path.is_file() else 0) for clip in collection.clips}


def _extract_collection(
    part: Collection,
    request: ExtractRequest,
    configs: Mapping[str, BackboneConfig],
    cells: Mapping[str, tuple[Cell, ...]],
    workspace: Workspace,
    execution: Execution,
    reporter: Reporter,
) -> Extracted:
    workspace.require_writable()
    for note in part.notes:
        reporter.warn(note)
    with ExitStack() as locks:
        # One lock per backbone and shard: two processes on the same shard would compute every clip twice, while processes on
        # different shards work at the same time.
        for name in request.backbones:
            locks.enter_context(workspace.lock(f"extract {name} {part.name}{part.part}"))
        # Reads or checks the sha256 of the weights, which is part of the features' key.
        wanted = [(describe_backbone(config, workspace), cells[name]) for name, config in configs.items()]
        requests = open_stores(wanted, part.name, workspace, request.stored_as)
        done = extract_features(requests, part, workspace, execution, reporter)
    return Extracted(part.name, len(part.clips), requests, done, requests[0].store.folder / f"failed{part.part}.json")


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
    before: Callable[[Sequence[Clip]], None] = lambda todo: None,
) -> Extraction:
    """Compute the features that the stores of `requests` are missing, one clip file each.

    Args:
        requests: cells of each backbone, with the store they go to.
        collection: the clips.
        execution: device, batch and decoding processes.
        reporter: where progress and failed clips are reported.
        before: called with the clips to compute, before any is computed.

    Raises:
        MissingError: a checkpoint is unusable, or disk or memory do not suffice.
    """
    # Stored with the features for the record; no part of their key.
    origin = software_versions() | describe_machine(execution.device)
    with reporter.run_stage(*name_stage(collection.name, [request.backbone.name for request in requests])):
        return extract_missing(collection, requests, execution, origin, reporter, before)


def name_stage(collection: str, backbones: Sequence[str]) -> StageName:
    """Return the name of the stage that extracts features of a collection, by which it is announced."""
    return "extract", f"{collection}, {', '.join(backbones)}"


def report_costs(
    clips: Sequence[Clip],
    requests: Sequence[FeatureRequest],
    workspace: Workspace,
    execution: Execution,
    reporter: Reporter,
) -> None:
    """Report the disk that features of `clips` will take, and on a CPU the hours.

    Raises:
        MissingError: the disk is too full.
    """
    report_disk(clips, requests, reporter)
    if execution.device == "cpu":
        report_cpu_hours(clips, requests, workspace, reporter)


def extract_features(
    requests: Sequence[FeatureRequest],
    collection: Collection,
    workspace: Workspace,
    execution: Execution,
    reporter: Reporter,
) -> Extraction:
    """Do what compute_features does, and report first what it will take, then each store; save the speed; pack complete stores.

    A shard packs nothing: packing is one step, by a process that extracts the complete collection.
    """
    with reporter.run_stage(*name_stage(collection.name, [request.backbone.name for request in requests])):
        return _extract_and_pack(requests, collection, workspace, execution, reporter)


def _extract_and_pack(
    requests: Sequence[FeatureRequest],
    collection: Collection,
    workspace: Workspace,
    execution: Execution,
    reporter: Reporter,
) -> Extraction:
    done = compute_features(
        requests,
        collection,
        execution,
        reporter,
        lambda clips: report_costs(clips, requests, workspace, execution, reporter),
    )
    machine = describe_machine(execution.device)
    report_speed(done, requests, machine["device"], reporter)
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
            machine,
            done.windows,
            done.seconds,
        )
    if not collection.part:
        with reporter.run_part(Part("pack", None, "")):
            pack_if_complete(collection, requests, done, reporter)
    return done


def _choose_backbones(request: ExtractRequest) -> tuple[dict[str, BackboneConfig], dict[str, tuple[Cell, ...]]]:
    """Return the configs and cells of the backbones of a request.

    Raises:
        UsageError: an unknown or repeated backbone, or options that it does not have.
    """
    if len(set(request.backbones)) < len(request.backbones):
        twice = next(name for name in request.backbones if request.backbones.count(name) > 1)
        raise UsageError(f"--backbone {','.join(request.backbones)}: duplicate backbone '{twice}'")
    if request.grid and (request.timesteps or request.layers):
        raise UsageError("--grid is 7 timesteps by 13 layers: it takes no --timesteps or --layers")
    configs = {name: load_backbone(name, request.changes, *request.precisions) for name in request.backbones}
    if (request.grid or request.timesteps) and all(c.axes().timesteps is None for c in configs.values()):
        option = "--grid" if request.grid else "--timesteps"
        raise UsageError(f"{option}: {' and '.join(configs)} {'have' if len(configs) > 1 else 'has'} no timesteps")
    cells = {
        name: choose_cells(config, request.timesteps, request.layers, request.grid) for name, config in configs.items()
    }
    return configs, cells


def _open_collection(source: str, workspace: Workspace) -> Collection:
    if is_config_path(source):
        dataset = open_dataset(find_dataset(source), workspace)
        return dataset_collection(dataset.name, dataset.clips)
    name, _, split = source.partition("/")
    folder = Path(source)
    # A folder named as a data set is only meant if the path continues below it.
    if name in user_dataset_names() and (not split or not folder.exists()):
        dataset = open_dataset(load_dataset(name), workspace)
        return dataset_collection(name, dataset.split(split).clips if split else dataset.clips)
    if not source or not folder.exists():
        raise UsageError(
            f"'{source}' is neither a data set ({', '.join(user_dataset_names())}), nor a split of one (ucf101/train), nor a folder "
            f"of videos or a video{find_nearest(name, user_dataset_names()) or ': name one of them'}"
        )
    if folder.is_file():
        return file_collection(folder)
    return folder_collection(folder, skip=workspace.root if workspace.root.exists() else None)
