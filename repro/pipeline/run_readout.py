"""The readout as a stage: from features on disk to one run record a seed. Runs that are there are reused."""

import dataclasses
import datetime
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ValidationError

from repro.core.console import Reporter
from repro.core.files import remove_partials, set_aside
from repro.core.hashing import canonical_json, content_key, file_sha256
from repro.core.workspace import Workspace
from repro.datasets.split import Split
from repro.features.store import FeatureStore
from repro.readout import checkpoints
from repro.readout.compute import ON_CPU, Compute
from repro.readout.held_out import split_held_out
from repro.readout.metrics import Segments, all_scores, chance_scores, class_prior_scores, constant_scores
from repro.readout.predictions import Predictions, write_predictions
from repro.readout.recipe import Protocol, Recipe
from repro.readout.sequences import Sequences, load_sequences
from repro.readout.train import TrainingResult, best_epoch_on_test, train_readout
from repro.records.record import (
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
from repro.table.row import Row, row_backbone


@dataclass(frozen=True, slots=True)
class Source:
    """What readouts of a row are trained from."""

    name: str
    row: Row
    stores: Mapping[str, FeatureStore]
    """Of "train" and "test": the same key, of one data set or of two."""
    splits: Mapping[str, Split]
    """"train" and "test"."""
    video_sha256: Mapping[str, str]
    """Of every clip."""
    segments: Segments | None = None
    also: tuple[Split, ...] = ()
    """Parts of the test split whose own scores are recorded."""
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids of clips left out of "train" and "test", where that was allowed."""
    manifests: Mapping[str, str] = field(default_factory=dict)
    """Content hash of each data set's audit."""
    complete: bool = True
    """False for a trial on fewer clips."""

    @property
    def store(self) -> FeatureStore:
        return self.stores["test"]


def read_out(
    source: Source,
    seeds: Sequence[int],
    workspace: Workspace,
    reporter: Reporter,
    protocol: Protocol = "published",
    compute: Compute = ON_CPU,
) -> list[RunRecord]:
    """One record a seed; features are read once for all of them.

    Raises:
        MissingError: features are missing or unfit, or a loss turned NaN.
        UsageError: no such device, or a seed's training was begun otherwise and not ended.
    """
    row, facts = source.row, split_facts(source)
    group = _group(source, facts, protocol, compute)
    sequences: dict[str, Sequences] = {}
    records, reused = [], 0
    for seed in seeds:
        stored = stored_run(workspace.runs, source.name, seed, content_key(group | {"seed": seed}))
        record = _stored_record(stored, reporter)
        if record is None:
            _refuse_begun_otherwise(stored, row, protocol)
            if not sequences:
                sequences = {
                    part: load_sequences(source.stores[part], split, row.features.name, row.readout.max_length)
                    for part, split in source.splits.items()
                }
            record = _measure(source, protocol, compute, seed, stored, group, sequences, facts, reporter)
        else:
            reused += 1
        records.append(record)
    reporter.stage(
        "readout",
        total=len(seeds),
        reused=reused,
        made="trained",
        why=f"{source.name}, seeds {', '.join(map(str, seeds))}"
        + ("" if protocol == "published" else f", {protocol} protocol"),
        where=workspace.runs / source.name,
    )
    return records


def finished(
    source: Source,
    seed: int,
    workspace: Workspace,
    reporter: Reporter,
    protocol: Protocol = "published",
    compute: Compute = ON_CPU,
    facts: Mapping[str, SplitRecord] | None = None,
) -> RunRecord | None:
    """The record that read_out would reuse; None where it would train. `facts` saves working them out again."""
    group = _group(source, split_facts(source) if facts is None else facts, protocol, compute)
    run = content_key(group | {"seed": seed})
    return _stored_record(stored_run(workspace.runs, source.name, seed, run), reporter)


def split_facts(source: Source) -> dict[str, SplitRecord]:
    """What records say of the splits: the same whatever the cell and the recipe."""
    return {
        part: _split_record(split, source.video_sha256, source.missing.get(part, ()))
        for part, split in source.splits.items()
    }


def _group(source: Source, facts: Mapping[str, SplitRecord], protocol: Protocol, compute: Compute) -> dict[str, Any]:
    """All a run depends on but its seed."""
    row = source.row
    return {
        "training": checkpoints.VERSION,
        "row": source.name,
        "row_version": row.version,
        "features": {"key": source.store.key, "cell": row.features.name},
        "splits": {part: fact.model_dump() for part, fact in facts.items()},
        "recipe": row.readout.model_dump(mode="json", exclude={"note"}),
        "protocol": protocol,
        "precision": compute.precision,
        "segments": source.segments,
        "also": [split.name for split in source.also],
    }


def _stored_record(stored: StoredRun, reporter: Reporter) -> RunRecord | None:
    """The record of this very run, if it is whole."""
    try:
        return stored.read()
    except DamagedRecordError as error:
        kept = [set_aside(path).name for path in (stored.record_path, stored.predictions_path) if path.exists()]
        reporter.warn(f"{error}: kept as {' and '.join(kept)}, training this seed again")
        return None


def _refuse_begun_otherwise(stored: StoredRun, row: Row, protocol: Protocol) -> None:
    """A row's seed is not trained anew beside an unfinished training of it whose recipe was another. Another cell or head
    is no changed recipe: a grid trains many side by side.

    Raises:
        UsageError: there is one; what differs, and what to do.
    """

    def facts(recipe: Recipe) -> dict[str, object]:
        return {"recipe": recipe.model_dump(mode="json", exclude={"note"})}

    for path in stored.folder.parent.glob(f"{stored.folder.name.split('-')[0]}-*/{checkpoints.STATE}"):
        about = checkpoints.read_header(path)
        if path.parent == stored.folder or about is None or about.get("protocol") != protocol:
            continue
        try:
            began, cell = Recipe.model_validate(about["asked"]["recipe"]), about["cell"]
        except (KeyError, ValidationError):  # another version's: nothing goes on from it
            continue
        if (cell, began.head) == (row.features.name, row.readout.head):
            checkpoints.refuse_changed(path, facts(began), facts(row.readout))


def _measure(
    source: Source,
    protocol: Protocol,
    compute: Compute,
    seed: int,
    stored: StoredRun,
    group: Mapping[str, Any],
    sequences: Mapping[str, Sequences],
    facts: Mapping[str, SplitRecord],
    reporter: Reporter,
) -> RunRecord:
    """Train one seed; weights and predictions are on disk before the record that vouches for them."""
    row, train_split, test_split, held = source.row, sequences["train"], sequences["test"], None
    if protocol == "honest":
        train_split, held = split_held_out(train_split, seed)
    stored.folder.mkdir(parents=True, exist_ok=True)
    remove_partials(stored.folder)
    about = {
        "row": source.name, "backbone": row.backbone, "cell": row.features.name, "features": source.store.key,
        "protocol": protocol, "class_names": list(source.splits["test"].classes),
    }  # fmt: skip
    begun = time.perf_counter()
    with reporter.progress("readout", row.readout.epochs) as advance:
        trained = train_readout(
            checkpoints.TrainingData(train_split, test_split, held, source.segments),
            row.readout,
            seed,
            metric=row.metric,
            compute=compute,
            folder=checkpoints.CheckpointFolder(stored.folder, about, reporter.warn),
            after_epoch=lambda _: advance(""),
        )
    seconds = time.perf_counter() - begun
    best, last = best_epoch_on_test(trained.epochs, row.metric), trained.epochs[-1]
    targets, learned = (split.targets.numpy().astype(np.int64) for split in (test_split, train_split))
    chosen = {e.number: trained.predictions[e.number - 1] for e in (best, trained.selected, last)}
    predictions = Predictions(test_split.clips, source.splits["test"].classes, targets, chosen, test_split.groups)
    write_predictions(stored.predictions_path, predictions)
    backbone = row_backbone(row)
    record = RunRecord(
        run=stored.folder.name.split("-")[1],
        group=content_key(group),
        grid=content_key({**group, "features": {"key": source.store.key}}),
        row=source.name,
        row_version=row.version,
        kind=row.kind,
        complete=source.complete,
        seed=seed,
        protocol=protocol,
        checkpoint_assumed=backbone.checkpoint is not None and backbone.checkpoint.assumed,
        metric=row.metric,
        recipe=row.readout,
        features=FeaturesRecord(
            key=source.store.key,
            cell=row.features.name,
            width=train_split.width,
            identity=source.store.identity,
            stored_as=source.store.stored_as,
            readers=dict(sequences["train"].readers + sequences["test"].readers),
        ),
        train=facts["train"],
        test=facts["test"],
        held_out=None if held is None else _part_record(source, held),
        classes=source.splits["test"].classes,
        epochs=tuple(
            EpochRecord(epoch=e.number, train_loss=e.train_loss, scores=e.scores, held_out=e.held_out)
            for e in trained.epochs
        ),
        best_epoch_on_test=Selection(epoch=best.number, scores=best.scores),
        last_epoch=Selection(epoch=last.number, scores=last.scores),
        best_epoch_on_held_out=None
        if held is None
        else Selection(epoch=trained.selected.number, scores=trained.selected.scores),
        subsets=tuple(_subset_record(split, test_split, trained, row.metric, source.segments) for split in source.also),
        manifests=dict(source.manifests),
        chance=chance_scores(targets),
        class_prior=class_prior_scores(learned, targets, source.segments),
        constant=constant_scores(targets, source.segments),
        precision=compute.precision,
        checkpoints={name: file_sha256(stored.folder / name) for name in (checkpoints.SELECTED, checkpoints.LAST)},
        predictions_sha256=file_sha256(stored.predictions_path),
        made=Made(
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            by=versions(),
            on=machine() | {"device": compute.device_name, "deterministic": str(compute.deterministic).lower()},
        ),
    )
    stored.write(record)
    (stored.folder / checkpoints.STATE).unlink(missing_ok=True)
    return record


def _subset_record(
    split: Split, test: Sequences, trained: TrainingResult, metric: str, segments: Segments | None
) -> SubsetRecord:
    """Scores of the clips of `split`, a part of the test split, by the same rules."""
    wanted = {clip.id for clip in split.clips}
    chosen = np.array([clip in wanted for clip in test.clips])
    targets = test.targets.numpy().astype(np.int64)[chosen]
    scores = [all_scores(predictions[chosen], targets, segments) for predictions in trained.predictions]
    best = max(range(len(scores)), key=lambda epoch: scores[epoch][metric])  # the first of equals
    return SubsetRecord(
        name=split.name,
        clips=len(targets),
        best_epoch_on_test=Selection(epoch=best + 1, scores=scores[best]),
        last_epoch=Selection(epoch=len(scores), scores=scores[-1]),
    )


def _split_record(split: Split, video_sha256: Mapping[str, str], missing: tuple[str, ...] = ()) -> SplitRecord:
    contents = [[clip.id, list(clip.target), video_sha256[clip.id]] for clip in split.clips]
    digest = hashlib.sha256(canonical_json({"classes": list(split.classes), "clips": contents})).hexdigest()
    return SplitRecord(name=split.name, clips=len(split.clips), sha256=digest, missing_clips=missing)


def _part_record(source: Source, held: Sequences) -> SplitRecord:
    split, chosen = source.splits["train"], set(held.clips)
    part = dataclasses.replace(split, clips=tuple(clip for clip in split.clips if clip.id in chosen))
    return _split_record(part, source.video_sha256)
