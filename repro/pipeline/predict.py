"""`repro predict ROW VIDEO...`: a trained readout on any video file."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from repro.backbones.extractor import Execution
from repro.backbones.registry import describe_backbone
from repro.core.console import Reporter
from repro.core.errors import Exit, MissingError, UsageError
from repro.core.workspace import Workspace
from repro.datasets.split import Clip
from repro.features.collection import Collection
from repro.features.extract import Ask, extract
from repro.features.store import FeatureStore
from repro.readout.checkpoints import SELECTED
from repro.readout.trained import Readout, load_readout
from repro.records.record import DamagedRecordError, RunRecord, StoredRun, all_runs, machine, versions
from repro.table.row import Row, row_backbone
from repro.table.rows import SMOKE_ROWS, load_row

COLLECTION = "predicted"
"""Of the feature store: videos that belong to no data set, by their whole path."""


def show(
    name: str, videos: Sequence[Path], seed: int | None, top: int, workspace: Workspace, execution: Execution,
    *, as_json: bool,
) -> Exit:  # fmt: skip
    """Score each video and print its likeliest classes; one that cannot be read is named, the others are scored.

    Raises:
        UsageError: no such row.
        MissingError: the row has no trained readout here; its backbone's checkpoint is not there; some video failed.
    """
    row = load_row(name)
    runs = _trained(name, row, seed, workspace)
    backbone = describe_backbone(row_backbone(row), workspace)
    store = FeatureStore.open(workspace, row.backbone, backbone.identity(), COLLECTION)
    # A grid's may have read features stored as fp16.
    run = next((run for record, run in runs if record.features.key == store.key), runs[0][1])
    readout = load_readout(run.folder / SELECTED, execution.device)
    if store.key != readout.features:
        raise MissingError(
            f"the readout of {name} was trained on features {readout.features}, this machine would make {store.key}: train it "
            f"again with `repro {name}`, or use the checkpoint and implementation it was trained with"
        )
    reporter = Reporter(to_stderr=True)
    clips = tuple(Clip(str(path.absolute()), path, ()) for path in dict.fromkeys(videos))
    origin = versions() | machine(execution.device)
    told = replace(execution, say=reporter.line)
    done = extract(Collection(COLLECTION, clips), [Ask(backbone, (row.features,), store)], told, origin, reporter)
    read = store.cell_reader(row.features.name)
    found = {}
    for clip in clips:
        entry = None if clip.id in done.failed else read(clip.id)
        if entry is not None:
            found[clip.path] = readout.score(entry.features[row.features.name].astype(np.float32))
    if as_json:
        print(
            json.dumps(
                _as_json(
                    readout, found, {str(clip.path): done.failed[clip.id] for clip in clips if clip.id in done.failed}
                ),
                indent=1,
            )
        )
    elif found:
        _print(readout, found, top)
    if done.failed:
        raise MissingError(f"{len(done.failed)} of {len(clips)} videos could not be scored: each is named above")
    return Exit.OK


def _trained(name: str, row: Row, seed: int | None, workspace: Workspace) -> list[tuple[RunRecord, StoredRun]]:
    """Runs of the row, of `seed` where one is given, those of the published protocol first, then the newest; not of
    another cell or head, which a grid leaves, nor trials on fewer clips.

    Raises:
        UsageError: none of that seed.
        MissingError: none at all.
    """
    runs: list[tuple[RunRecord, StoredRun]] = []
    seeds, trials = set(), 0
    for run in all_runs(workspace.runs):
        if run.folder.parent.name == name and (run.folder / SELECTED).is_file():
            try:
                record = run.read()
            except DamagedRecordError:
                continue
            if record is None or (record.features.cell, record.recipe.head) != (row.features.name, row.readout.head):
                continue
            if not record.complete:
                trials += 1
                continue
            if seed in (None, record.seed):
                runs.append((record, run))
            seeds.add(record.seed)
    if not runs and seeds:
        raise UsageError(f"--seed {seed}: {name} has trained readouts of {', '.join(map(str, sorted(seeds)))} here")
    if not runs:
        old = (
            " (the runs there were made by a version that kept none)"
            if any((workspace.runs / name).glob("*/record.json")) and not trials
            else f" but of {trials} trial{'s' if trials > 1 else ''} on fewer clips"
            if trials
            else ""
        )
        raise MissingError(f"row {name}: no trained readout in {workspace.runs / name}{old}: `repro {name}` trains one")
    return sorted(runs, key=lambda found: (found[0].protocol == "published", found[0].made.at), reverse=True)


def _print(readout: Readout, found: dict[Path, np.ndarray], top: int) -> None:
    print(f"{readout.row}, seed {readout.seed}, epoch {readout.epoch}: {readout.backbone} {readout.cell}")
    if readout.recipe.loss.name != "cross_entropy":
        print("each class is scored by itself: scores do not add up to 100 %")
    if readout.row in SMOKE_ROWS:
        print("nothing in this backbone was learnt: these scores mean nothing")
    for path, scores in found.items():
        print(path)
        for place in np.argsort(-scores, kind="stable")[:top]:
            print(f"  {100 * scores[place]:6.2f} %  {readout.classes[place]}")


def _as_json(readout: Readout, found: dict[Path, np.ndarray], failed: dict[str, str]) -> dict[str, object]:
    return {
        "row": readout.row,
        "seed": readout.seed,
        "epoch": readout.epoch,
        "videos": [
            {"path": str(path), "scores": dict(zip(readout.classes, (round(float(s), 6) for s in scores), strict=True))}
            for path, scores in found.items()
        ],
        "failed": failed,
    }
