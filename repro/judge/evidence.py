"""Run records with the evidence for them: every score that is judged, and the choice of the epoch, is computed again."""

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from repro.core.errors import MissingError, UsageError
from repro.core.hashing import content_sha256, file_sha256
from repro.core.workspace import Workspace
from repro.datasets.config import load_dataset
from repro.datasets.manifest import stored_manifest
from repro.datasets.registry import list_dataset, user_dataset_names
from repro.datasets.split import Split, SplitName
from repro.judge.rescoring import Rescored, hash_labels, hash_test_split, labels_of, rescore_all
from repro.judge.rules import format_refusal
from repro.readout.predictions import read_predictions
from repro.records.keys import explain_keys
from repro.records.record import DamagedRecordError, RunRecord, StoredRun
from repro.table.rows import load_row, row_names

SCORE_TOLERANCE = 1e-9
"""Largest difference between a recorded score and the same computed again, which sums in another order."""
SATURATED_TOLERANCE = 1e-6
"""The same where probabilities are so near 1 that NumPy and torch round them to other ties."""
CLOCK = datetime.timedelta(hours=1)
"""How far the clock of another machine may be ahead."""


@dataclass(slots=True)
class Annotations:
    """Clips and targets by split, from the annotation files in a workspace, or else pinned by its audits; as far as they are there."""

    workspace: Workspace | None = None
    compared: set[str] = field(default_factory=set)
    """Names of the splits whose records were compared with annotation files."""
    _splits: dict[str, Split | None] = field(default_factory=dict)
    _hashes: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    _audits: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    """Of a data set, the audit's sha256 and that of the video of every clip; empty if there is none."""
    _by_audit: dict[tuple[str, ...], tuple[str, str]] = field(default_factory=dict)

    def explain_labels(self, record: RunRecord, run: StoredRun, labels: str) -> tuple[str, str]:
        """Return rule and reason if clips or targets of a run are not those of the annotation files, or without these not those
        of the split's sha256; empty if they are, or if nothing here tells."""
        if record.kind != "published" or not record.complete:
            return "", ""
        split = self._find_split(record.test.name)
        if split is None:
            return self._explain_by_audit(record, run, labels)
        key = (record.test.name, record.test.missing_clips)
        listed = {clip.id: clip.target for clip in split.clips if clip.id not in set(record.test.missing_clips)}
        if key not in self._hashes:
            # One hash for all runs on a split; clips are compared one by one only to name the first that differs.
            self._hashes[key] = hash_labels(listed)
        self.compared.add(record.test.name)
        if labels == self._hashes[key] and record.classes == split.classes:
            return "", ""
        if record.classes != split.classes:
            return "R07", f"its classes are not those of {split.name}"
        found = labels_of(read_predictions(run.predictions_path))
        strange = sorted(found.keys() ^ listed.keys())
        if strange:
            return "R07", f"clip {strange[0]} is {'not ' * (strange[0] in found)}one of {split.name}"
        clip = next(clip for clip in found if sorted(found[clip]) != sorted(listed[clip]))
        return "R08", f"clip {clip} has other targets than in the annotation files of {split.name}"

    def _explain_by_audit(self, record: RunRecord, run: StoredRun, labels: str) -> tuple[str, str]:
        """As `explain_labels`: the sha256 of a split is of clips, targets and videos, and the audit has the videos."""
        dataset = SplitName.parse(record.test.name).dataset
        audit, videos = self._find_audit(dataset)
        if not audit or record.manifests.get(dataset) != audit:
            return "", ""
        key = (record.test.name, record.test.sha256, labels, content_sha256(record.classes))
        if key not in self._by_audit:
            found = read_predictions(run.predictions_path)
            strange = next((clip for clip in found.clips if clip not in videos), None)
            if strange is not None:
                self._by_audit[key] = "R07", f"clip {strange} is not in the audit of {dataset}"
            elif hash_test_split(found, videos) != record.test.sha256:
                why = f"clips or targets are not those that the record's sha256 of {record.test.name} is of"
                self._by_audit[key] = "R08", why
            else:
                self._by_audit[key] = "", ""
        return self._by_audit[key]

    def _find_audit(self, dataset: str) -> tuple[str, dict[str, str]]:
        if dataset not in self._audits:
            try:
                audit = None if self.workspace is None else stored_manifest(self.workspace, dataset)
            except UsageError:  # damaged, which `repro data` says
                audit = None
            self._audits[dataset] = (
                ("", {}) if audit is None else (audit.sha256, {clip.id: clip.sha256 for clip in audit.clips})
            )
        return self._audits[dataset]

    def _find_split(self, name: str) -> Split | None:
        if name not in self._splits:
            parsed, found = SplitName.parse(name), None
            if self.workspace is not None and parsed.dataset in user_dataset_names():
                try:
                    # With keep=False a check writes nothing to the workspace's listings.
                    found = list_dataset(load_dataset(parsed.dataset), self.workspace, keep=False).splits[parsed.split]
                except (MissingError, KeyError):  # not here: the recorded targets are all there is
                    found = None
            self._splits[name] = found
        return self._splits[name]


def read_evidence(
    runs: Iterable[StoredRun],
    annotations: Annotations | None = None,
    warn: Callable[[str], None] = lambda line: None,
) -> tuple[list[RunRecord], list[tuple[StoredRun, str]]]:
    """Read run records and verify each against its predictions.

    Args:
        runs: Folders of runs; those without a record are skipped.
        annotations: What targets are compared with. Computed scores are kept in its workspace.
        warn: Called with a message if scores that were kept are wrong.

    Returns:
        The records that agree with their evidence; and the runs that do not, each with the reason, which begins with the id of
        a rule (rules.py).
    """
    annotations = annotations or Annotations()
    stored: list[tuple[StoredRun, RunRecord]] = []
    damaged: list[tuple[StoredRun, str]] = []
    for run in runs:
        try:
            record = run.load_record()
        except DamagedRecordError as error:
            damaged.append((run, format_refusal(error.rule, str(error))))
            continue
        if record is not None:
            stored.append((run, record))
    scores, apart = rescore_runs(stored, annotations.workspace, warn)
    records: list[RunRecord] = []
    seen: dict[tuple[str, str], StoredRun] = {}
    for run, record in stored:
        rescored = scores[record.predictions_sha256]
        rule, why = explain_predictions(record, rescored)
        if not rule and not rescored.whole and _is_of_own_cell(record):
            rule, why = "R03", "no scores of every clip, which only other cells of a grid do without"
        if not rule and run in apart:
            rule, why = explain_predictions(record, scores[apart[run]])
            if not rule and scores[apart[run]].labels != rescored.labels:
                rule, why = "R08", "other clips or targets"
            why = why and f"{run.scores_path.name}: {why}"
        if not rule:
            rule, why = annotations.explain_labels(record, run, rescored.labels)
        if rule:
            why = f"it does not agree with its predictions: {why}"
        elif keys := explain_keys(record):
            rule, why = "R09", keys
        elif time := explain_time(record):
            rule, why = "R11", time
        else:
            rule, why = _explain_copy(record, rescored, run, seen)
        if rule:
            damaged.append((run, format_refusal(rule, f"{run.record_path}: {why}")))
        else:
            records.append(record)
    return records, damaged


def rescore_runs(
    runs: Iterable[tuple[StoredRun, RunRecord]],
    workspace: Workspace | None,
    warn: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Rescored], dict[StoredRun, str]]:
    """Compute the scores of runs from their predictions.

    Args:
        runs: Runs with their records.
        workspace: Where scores are kept; None keeps none.
        warn: Called with a message if scores that were kept are wrong.

    Returns:
        Scores by the sha256 of the file of predictions; and for runs that keep the scores of every clip in a second file, the sha256
        of that file.
    """
    runs = list(runs)
    apart = {run: _hash_or_empty(run.scores_path) for run, _ in runs if run.scores_path.exists()}
    paths = {record.predictions_sha256: run.predictions_path for run, record in runs}
    paths |= {sha256: run.scores_path for run, sha256 in apart.items()}
    return rescore_all(paths, None if workspace is None else workspace.rescored, warn), apart


def _explain_copy(
    record: RunRecord, rescored: Rescored, run: StoredRun, seen: dict[tuple[str, str], StoredRun]
) -> tuple[str, str]:
    """Return the rule and whose copy a run is; `seen` has what the runs before it must not share."""
    # Networks of other random weights: two seeds never have the same outputs or losses.
    losses = content_sha256([epoch.train_loss for epoch in record.epochs])
    unique = {"losses": losses} | {f"weights {name}": sha256 for name, sha256 in record.checkpoints.items()}
    if rescored.outputs:
        unique = {"predictions": rescored.outputs, **unique}
    # Nor have two published rows, whose features or training clips differ. An extra may repeat what its row trains.
    scope = record.kind if record.kind == "published" else record.row
    for what, value in unique.items():
        first = seen.setdefault((scope, f"{what} {value}"), run)
        if first is not run:
            row = f"{first.folder.parent.name}/" if first.folder.parent != run.folder.parent else ""
            return "R10", f"its {what} are those of {row}{first.folder.name}: a copied run"
    return "", ""


def _hash_or_empty(path: Path) -> str:
    """Return the sha256 of a file; empty if it cannot be read, which `rescore` says of it."""
    try:
        return file_sha256(path)
    except OSError:
        return ""


def _is_of_own_cell(record: RunRecord) -> bool:
    return record.row in row_names() and record.features.cell == load_row(record.row).features.name


def explain_time(record: RunRecord) -> str:
    """Return what is wrong with the time of a record; empty if nothing is."""
    at = datetime.datetime.fromisoformat(record.made.at)
    if at.tzinfo is None:
        return f"its time {record.made.at} has no zone"
    if at > datetime.datetime.now(datetime.UTC) + CLOCK:
        return f"its time {record.made.at} is in the future"
    return ""


def explain_predictions(record: RunRecord, found: Rescored) -> tuple[str, str]:
    """Return where a record and its predictions contradict each other, as rule and reason; empty if they agree.

    Not computed again, and used by no verdict: scores of segments and subsets, because which classes and clips those are is in
    the data set's files; those of the class prior, which takes the training split; metrics that are not the row's of epochs that
    no rule selects, or of all epochs of most cells of a grid; and with records of versions up to 0.1.0 all scores of such epochs.
    """
    if found.problem[0]:
        return found.problem
    assert found.whole is not None
    assert found.others is not None
    if found.format != record.predictions_format:
        return "R01", f"format {found.format}, the record states {record.predictions_format}"
    if found.clips != found.lines or found.clips != record.test.clips:
        return "R07", f"{found.clips} clips in {found.lines} lines, the record has {record.test.clips}"
    if found.classes != content_sha256(record.classes):
        return "R07", "other classes than the record has"
    # Near 1, probabilities have few values, and which of them are equal depends on the library.
    tolerance = SATURATED_TOLERANCE if found.saturated else SCORE_TOLERANCE
    selections = [
        (f"after epoch {one.epoch}", one.scores, found.whole.get(str(one.epoch)))
        for one in (record.best_epoch_on_test, record.last_epoch, record.best_epoch_on_held_out)
        if one is not None and found.whole
    ]
    if record.predictions_format > 1:
        selections += [
            (f"after epoch {one.epoch}", {record.metric: one.scores[record.metric]}, found.others.get(str(one.epoch)))
            for one in record.epochs
            if str(one.epoch) not in found.whole
        ]
    for when, recorded, computed in (
        *selections,
        ("of chance", record.chance, found.chance),
        ("of a constant", record.constant, found.constant),
    ):
        if computed is None or (recorded and not recorded.keys() & computed.keys()):
            return "R03", f"no scores of every clip {when}"
        for name in recorded.keys() & computed.keys():
            # Not `>`: NaN must not pass.
            if not abs(recorded[name] - computed[name]) <= tolerance:
                return "R05", f"{name} {when} is {computed[name]:.6g}, the record has {recorded[name]:.6g}"
    return "", ""
