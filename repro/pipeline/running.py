"""`repro ROW` and `repro readout ROW`: a row's data, features and readout joined, and what is said of the result."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets import animal_kingdom
from repro.datasets.config import load_dataset
from repro.datasets.registry import open_dataset
from repro.features.store import DamagedFeaturesError, FeatureStore
from repro.pipeline.row_data import of_these_files, open_row
from repro.pipeline.run_readout import Source, read_out
from repro.readout.compute import Compute
from repro.readout.metrics import Segments
from repro.readout.recipe import Precision, Protocol
from repro.records.record import RunRecord
from repro.table import requirements
from repro.table.row import Row, row_backbone
from repro.table.rows import load_row
from repro.video.decoders import spare_cores


@dataclass(frozen=True, slots=True)
class Options:
    seeds: int = 1
    """How many, the published one first."""
    protocol: Protocol = "published"
    device: str = "cpu"
    deterministic: bool = False
    precision: Precision = "fp32"
    """Of the readout's matrix products."""
    workers: int | None = None
    batch: int | None = None
    allow_missing: bool = False
    limit: int | None = None
    """Clips a split, for a trial: recorded as one, and never judged."""


def run(name: str, options: Options, workspace: Workspace, *, as_json: bool) -> Exit:
    """Features and readouts of a row.

    Raises:
        MissingError: data, a checkpoint or clips are missing or damaged.
        UsageError: no such row; another process runs it.
    """
    row = load_row(name)
    requirements.require_all(row, workspace, gpu=options.device != "cpu")
    workspace.require_writable()
    reporter = Reporter(to_stderr=as_json)

    # Here, as they take seconds, and a row that lacks something needs none of it.
    from repro.pipeline.row import run_row
    from repro.records import mlflow_view as tracking

    with workspace.lock(f"run {name}"):
        data = open_row(row.data, workspace, allow_missing=options.allow_missing)
        complete = True
        if options.limit is not None:
            whole, data = data, data.limited(options.limit)
            complete = data.splits == whole.splits
        if not complete:
            clips = ", ".join(f"{len(split.clips)} of {part}" for part, split in data.splits.items())
            reporter.warn(f"a trial on {clips}: recorded as one, and never judged")
        for part, ids in data.missing.items():
            if ids:
                reporter.warn(f"{part}: {len(ids)} clips are missing and left out, as allowed: {', '.join(ids[:3])}")
        workers = options.workers or spare_cores()
        execution = Execution(options.device, options.batch, workers, reporter.line)
        _, records = run_row(
            name, row, data.splits, row.seeds.first(options.seeds), workspace, reporter, execution, options.protocol, _compute(options),
            row_segments(row, workspace),
            also=data.also, missing=data.missing, manifests=data.manifests, complete=complete,
        )  # fmt: skip
        tracking.sync(workspace, reporter)
    _show(row, records, as_json)
    return Exit.OK


def read_out_alone(name: str, options: Options, workspace: Workspace, *, as_json: bool) -> Exit:
    """Readouts of a row from features that are there; no video is looked at.

    Raises:
        MissingError: features of some clips are not there, or annotation files are not.
    """
    row = load_row(name)
    if row.kind == "smoke":
        raise UsageError(f"{name} is part of the smoke job: run `repro smoke`")
    workspace.require_writable()
    reporter = Reporter(to_stderr=as_json)
    backbone = describe_backbone(row_backbone(row), workspace, to_compute=False)
    datasets = {dataset: open_dataset(dataset, workspace) for dataset in row.data.datasets}
    stores, splits = {}, {}
    videos: dict[str, str] = {}
    for part, place in (("train", row.data.train), ("test", row.data.test)):
        dataset, split = place.split("/")
        splits[part] = datasets[dataset].split(split)
        stores[part] = FeatureStore.open(workspace, row.backbone, backbone.identity(), dataset)
        try:
            read = stores[part].cell_reader(row.features.name)
            found = {clip.id: read(clip.id) for clip in splits[part].clips}
        except DamagedFeaturesError as error:
            raise MissingError(f"features {stores[part].folder}: damaged: {error}: extract them again") from error
        absent = [clip for clip, entry in found.items() if entry is None]
        if absent:
            raise MissingError(
                f"row {name}: {len(absent)} of {len(found)} clips of {place} have no features {row.features.name} in "
                f"{stores[part].folder} ({', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}): "
                f"`{_extraction(dataset, row)}` makes them"
            )
        videos |= {clip: entry.video_sha256 for clip, entry in found.items() if entry is not None}

    from repro.records import mlflow_view as tracking

    with workspace.lock(f"run {name}"):
        # As `repro ROW` would have it, so that the same run is the same run.
        also = tuple(datasets[place.split("/")[0]].split(place.split("/")[1]) for place in row.data.also)
        manifests = {n: audited.sha256 for n, d in datasets.items() if (audited := of_these_files(d, workspace))}
        source = Source(name, row, stores, splits, videos, row_segments(row, workspace), also=also, manifests=manifests)
        records = read_out(
            source, row.seeds.first(options.seeds), workspace, reporter, options.protocol, _compute(options)
        )
        tracking.sync(workspace, reporter)
    _show(row, records, as_json)
    return Exit.OK


def _extraction(dataset: str, row: Row) -> str:
    """The command that makes the row's features of a data set."""
    words = ["repro", "extract", dataset, "--backbone", row.backbone]
    if row.features != row_backbone(row).axes().usual:
        if row.features.timestep is not None:
            words += ["--timesteps", str(row.features.timestep)]
        words += ["--layers", str(row.features.layer)]
    for key, value in row.changes.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)


def row_segments(row: Row, workspace: Workspace) -> Segments | None:
    """Classes by how common they are, for rows of Animal Kingdom where its owners' table of them is there."""
    if row.data.datasets != ("animal_kingdom",):
        return None
    config = load_dataset("animal_kingdom")
    return animal_kingdom.segments(workspace.data / config.folder, config.classes)


def _compute(options: Options) -> Compute:
    return Compute(options.device, options.precision, options.deterministic).checked()


def _show(row: Row, records: Sequence[RunRecord], as_json: bool) -> None:
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
        return
    published = f", published {row.published.value:.{row.published.digits}f}" if row.published else ""
    print()
    for record in records:
        best, last = record.best_epoch_on_test, record.last_epoch
        chosen = f"best epoch on test {100 * best.scores[row.metric]:.2f}"
        if record.best_epoch_on_held_out is not None:
            chosen = f"best epoch on held-out clips {100 * record.best_epoch_on_held_out.scores[row.metric]:.2f}"
        print(
            f"{record.row} seed {record.seed}: {row.metric} {chosen}, last epoch {100 * last.scores[row.metric]:.2f}"
            f"{published}"
        )
    if row.kind == "extra":
        print("an extra: there is no published value to judge it by")
    elif not all(record.complete for record in records):
        print("a trial on fewer clips: never judged")
    elif any(record.protocol != "published" for record in records):
        print("the honest protocol: not comparable with a published value, and not judged")
    else:
        print("`repro check` judges")
