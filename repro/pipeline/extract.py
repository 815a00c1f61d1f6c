"""From clips to stored features: the one path that rows, grids, data sets, folders and predictions take.

describe_backbone -> open_stores -> compute_features (predictions stop here) -> extract_features, which also reports,
remembers the speed and packs what is complete.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from repro.backbones.config import BackboneConfig, Cell
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.errors import UsageError
from repro.core.progress.stages import Part, StageName
from repro.core.workspace import Workspace
from repro.datasets.manifest import stored_manifest
from repro.datasets.split import Clip
from repro.features import rates
from repro.features.collection import Collection
from repro.features.extract import FeatureRequest, extract_missing, pack_if_complete
from repro.features.gathering import Extraction
from repro.features.store import FeatureStore, StoredAs
from repro.pipeline.costs import report_cpu_hours, report_disk, report_speed
from repro.records.record import describe_machine, software_versions


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """Features to extract of data sets, folders of videos, or single videos."""

    collections: tuple[Collection, ...]
    """Complete ones; splits of a data set are one."""
    wanted: tuple[tuple[BackboneConfig, tuple[Cell, ...]], ...]
    """Backbones with the cells to extract."""
    stored_as: StoredAs = "float32"
    shards: tuple[tuple[int, int], ...] = ()
    """(i, n): part i of n, counted from 1; a further pair is a part of that part."""


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


def extract_collections(
    request: ExtractRequest, workspace: Workspace, execution: Execution, reporter: Reporter
) -> list[Extracted]:
    """Extract the features of data sets and folders and pack the stores that are complete.

    A clip that fails is reported and the others continue; `Extracted.done.failed` names it.

    Raises:
        UsageError: a shard that has no clips; then nothing is computed.
        MissingError: a checkpoint is missing, or disk or memory do not suffice.
    """
    configs = [config for config, _ in request.wanted]
    parts = [_take_part(complete, request.shards, configs, workspace) for complete in request.collections]
    reporter.expect(*(name_stage(part.name, [config.name for config in configs]) for part in parts))
    return [_extract_collection(part, request, workspace, execution, reporter) for part in parts]


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
        for config, _ in request.wanted:
            locks.enter_context(workspace.lock(f"extract {config.name} {part.name}{part.part}"))
        # Reads or checks the sha256 of the weights, which is part of the features' key.
        wanted = [(describe_backbone(config, workspace), cells) for config, cells in request.wanted]
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
            # Without what is done once, or a hundred short clips would give the speed of compiling networks.
            done.windows - done.first[0],
            done.seconds - done.first[1],
            compiled=done.compiled,
        )
    if not collection.part:
        with reporter.run_part(Part("pack", None, "")):
            pack_if_complete(collection, requests, done, reporter)
    return done
