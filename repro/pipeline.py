"""A row from its clips to its run records: extract, train, record. Each stage is reused where nothing it depends on has
changed."""

import datetime
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import torch

from repro import atomic
from repro.backbones.config import MeanColourConfig
from repro.backbones.extractor import Execution, describe
from repro.datasets import Clip, Split
from repro.errors import MissingError
from repro.features.collection import dataset_collection
from repro.features.extract import Ask, Extraction, extract, pack_if_whole
from repro.features.store import FeatureStore
from repro.keys import canonical_json, content_key, file_sha256
from repro.readout import train as training
from repro.readout.predictions import write_predictions
from repro.readout.scores import all_scores
from repro.readout.sequences import Sequences, load_sequences
from repro.rows import Row, row_backbone
from repro.runs import (
    DamagedRecordError,
    EpochRecord,
    FeaturesRecord,
    Made,
    RunRecord,
    Selection,
    SplitRecord,
    StoredRun,
    SubsetRecord,
    machine,
    stored_run,
    versions,
)
from repro.terminal import Reporter
from repro.workspace import Workspace

PROTOCOL = "published"


def run_row(
    name: str,
    row: Row,
    splits: Mapping[str, Split],
    seeds: Sequence[int],
    workspace: Workspace,
    reporter: Reporter,
    execution: Execution,
    readout_threads: int | None = None,
    *,
    also: Sequence[Split] = (),
    missing: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    manifests: Mapping[str, str] = MappingProxyType({}),
) -> tuple[FeatureStore, list[RunRecord]]:
    """The test split's features and one record per seed. `splits` holds "train" and "test". `also`, `missing` and
    `manifests` are as in repro/datasets/opening.py and go into the records.

    Raises:
        MissingError: a checkpoint is missing or clips could not be read (each is named before).
    """
    stores, extraction = _extract(name, row, splits, workspace, reporter, execution)
    store = stores["test"]
    facts = {
        part: _split_record(split, extraction.video_sha256, missing.get(part, ())) for part, split in splits.items()
    }
    group = {
        "training": training.VERSION,
        "row": name,
        "row_version": row.version,
        "features": {"key": store.key, "cell": row.features.name},
        "splits": {part: fact.model_dump() for part, fact in facts.items()},
        "recipe": row.readout.model_dump(mode="json", exclude={"note"}),
        "protocol": PROTOCOL,
    }
    if also:
        group["also"] = {split.name: [clip.id for clip in split.clips] for split in also}
    sequences: dict[str, Sequences] = {}
    records, reused = [], 0
    for seed in seeds:
        stored = stored_run(workspace.runs, name, seed, content_key(group | {"seed": seed}))
        record = _stored_record(stored, reporter)
        if record is None:
            if not sequences:
                sequences = {
                    part: load_sequences(stores[part], split, row.features.name, row.readout.max_length)
                    for part, split in splits.items()
                }
            with _torch_threads(readout_threads):
                record = _train(
                    name, row, seed, stored, content_key(group), store, sequences, facts, splits["test"].classes, also,
                    manifests,
                )  # fmt: skip
        else:
            reused += 1
        records.append(record)
    reporter.stage(
        "readout",
        total=len(seeds),
        reused=reused,
        made="trained",
        why=f"{name}, seeds {_listed(seeds)}",
        where=workspace.runs / name,
    )
    return store, records


def _extract(
    name: str, row: Row, splits: Mapping[str, Split], workspace: Workspace, reporter: Reporter, execution: Execution
) -> tuple[dict[str, FeatureStore], Extraction]:
    """Features of all splits: the store of each, and what was extracted."""
    backbone = describe(row.backbone, row_backbone(row), workspace)
    collections: dict[str, list[Clip]] = {}
    for part, split in splits.items():
        collections.setdefault(_dataset(row, part), []).extend(split.clips)
    stores: dict[str, FeatureStore] = {}
    whole = Extraction()
    for dataset, clips in collections.items():
        store = FeatureStore.open(workspace, row.backbone, backbone.identity(), dataset)
        asks = [Ask(backbone, (row.features,), store)]
        collection = dataset_collection(dataset, clips)
        done = extract(collection, asks, execution, versions() | machine(execution.device), reporter)
        reporter.stage(
            "features",
            total=len(collection.clips) - len(done.failed),
            reused=len(done.reused),
            made="extracted",
            why=f"{dataset}, {row.backbone}, {row.features.name}",
            where=store.folder,
        )
        pack_if_whole(collection, asks, done, reporter)
        stores |= {part: store for part in splits if _dataset(row, part) == dataset}
        whole.failed |= done.failed
        whole.video_sha256 |= done.video_sha256
    if whole.failed:
        failed, total = list(whole.failed), sum(len(clips) for clips in collections.values())
        raise MissingError(
            f"row {name}: {len(failed)} of {total} clips could not be read "
            f"({', '.join(failed[:3])}{', ...' if len(failed) > 3 else ''}): mend or fetch them again and run the same "
            "command: the other clips' features are kept"
        )
    return stores, whole


def _dataset(row: Row, part: str) -> str:
    return (row.data.train if part == "train" else row.data.test).split("/")[0]


def _stored_record(stored: StoredRun, reporter: Reporter) -> RunRecord | None:
    """The record of this very run, if it is whole."""
    try:
        return stored.read()
    except DamagedRecordError as error:
        kept = [atomic.set_aside(path).name for path in (stored.record_path, stored.predictions_path) if path.exists()]
        reporter.warn(f"{error}: kept as {' and '.join(kept)}, training this seed again")
        return None


def _train(
    name: str,
    row: Row,
    seed: int,
    stored: StoredRun,
    group: str,
    store: FeatureStore,
    sequences: Mapping[str, Sequences],
    facts: Mapping[str, SplitRecord],
    classes: tuple[str, ...],
    also: Sequence[Split],
    manifests: Mapping[str, str],
) -> RunRecord:
    """Train one seed; predictions are on disk before the record that vouches for them."""
    stored.folder.mkdir(parents=True, exist_ok=True)
    atomic.remove_partials(stored.folder)
    begun = time.perf_counter()
    trained = training.train(sequences["train"], sequences["test"], row.readout, seed)
    seconds = time.perf_counter() - begun
    best = max(trained.epochs, key=lambda epoch: epoch.scores[row.metric])  # the first of equals
    last = trained.epochs[-1]
    targets = sequences["test"].targets.numpy().astype(np.int64)
    selected = {e.number: trained.predictions[e.number - 1] for e in (best, last)}
    write_predictions(stored.predictions_path, sequences["test"].clips, classes, targets, selected)
    backbone = row_backbone(row)
    record = RunRecord(
        run=stored.folder.name.split("-")[1],
        group=group,
        row=name,
        row_version=row.version,
        kind=row.kind,
        seed=seed,
        checkpoint_assumed=not isinstance(backbone, MeanColourConfig) and backbone.checkpoint.assumed,
        metric=row.metric,
        recipe=row.readout,
        features=FeaturesRecord(
            key=store.key,
            cell=row.features.name,
            width=sequences["train"].width,
            identity=store.identity,
            readers=dict(sequences["train"].readers + sequences["test"].readers),
        ),
        train=facts["train"],
        test=facts["test"],
        classes=classes,
        epochs=tuple(EpochRecord(epoch=e.number, train_loss=e.train_loss, scores=e.scores) for e in trained.epochs),
        best_epoch_on_test=Selection(epoch=best.number, scores=best.scores),
        last_epoch=Selection(epoch=last.number, scores=last.scores),
        subsets=tuple(_subset_record(split, sequences["test"], trained, row.metric) for split in also),
        manifests=dict(manifests),
        chance=chance(targets),
        predictions_sha256=file_sha256(stored.predictions_path),
        made=Made(
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            by=versions(),
            on=machine(),
        ),
    )
    stored.write(record)
    return record


def _subset_record(split: Split, test: Sequences, trained: training.Trained, metric: str) -> SubsetRecord:
    """Scores of the clips of `split`, a part of the test split, by the same rules."""
    wanted = {clip.id for clip in split.clips}
    chosen = np.array([clip in wanted for clip in test.clips])
    targets = test.targets.numpy().astype(np.int64)[chosen]
    scores = [all_scores(predictions[chosen], targets) for predictions in trained.predictions]
    best = max(range(len(scores)), key=lambda epoch: scores[epoch][metric])  # the first of equals
    return SubsetRecord(
        name=split.name,
        clips=len(targets),
        best_epoch_on_test=Selection(epoch=best + 1, scores=scores[best]),
        last_epoch=Selection(epoch=len(scores), scores=scores[-1]),
    )


def _split_record(split: Split, video_sha256: Mapping[str, str], missing: tuple[str, ...]) -> SplitRecord:
    contents = [[clip.id, list(clip.target), video_sha256[clip.id]] for clip in split.clips]
    digest = hashlib.sha256(canonical_json({"classes": list(split.classes), "clips": contents})).hexdigest()
    return SplitRecord(name=split.name, clips=len(split.clips), sha256=digest, missing_clips=missing)


def chance(targets: np.ndarray) -> dict[str, float]:
    """What a guesser scores on `targets` `[N, K]`: one class in K right, every ranking at the share of positives."""
    return {"top1": float(targets.mean()), "map_micro": float(targets.mean())}


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads in the block; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(n) for n in numbers)
