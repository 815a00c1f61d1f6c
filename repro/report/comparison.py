"""Two workspaces or bundles side by side: which numbers differ, and which of their inputs differ first.

Runs are paired by row, protocol, cell and seed. What a run depends on is compared in the order in which it takes effect: a
cause stands before what follows from it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro.core.console import format_columns
from repro.core.errors import MissingError, UsageError
from repro.core.reading import describe_absence
from repro.core.workspace import open_workspace
from repro.judge.evidence import SCORE_TOLERANCE, Annotations, read_evidence
from repro.pipeline.bundle.private import REMOVED
from repro.pipeline.bundle.read import open_bundle
from repro.records.record import RunRecord, find_runs

INPUTS = ("data", "backbone", "checkpoint", "precision", "reader", "software", "device", "recipe")
"""What a score depends on besides row, protocol, cell and seed, causes first."""
NO_INPUT = "none"
"""In place of the first input of runs whose inputs are all equal."""
IDENTITY_INPUTS = {
    "precision": "precision",
    "frames.reader": "reader",
    "reader_version": "reader",
    "implementation": "software",
    "version": "software",
}
"""Which input a key of the features' identity belongs to; those of weights end in sha256, all others are the backbone's."""
RULE_NAMES = {"best_epoch_on_held_out": "held-out", "best_epoch_on_test": "best", "last_epoch": "last"}

InputValues = dict[str, dict[str, Any]]
"""Values by input and name."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that two runs do not share."""

    input: str
    """One of INPUTS."""
    name: str
    a: Any
    """None where the run does not state it."""
    b: Any

    def __str__(self) -> str:
        return f"{self.name}: {_format_value(self.a, self.b)} against {_format_value(self.b, self.a)}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Runs of the same row, protocol, cell and seed in both places."""

    row: str
    protocol: str
    cell: str
    seed: int
    runs: tuple[str, str]
    """Their content keys."""
    scores: Mapping[str, tuple[float, float]]
    """Scores that differ, in points, as last_epoch.top1; that by which the row is judged first."""
    inputs: Sequence[Difference]
    """What differs in their inputs, causes first."""

    @property
    def first_input(self) -> str:
        return self.inputs[0].input if self.inputs else NO_INPUT


@dataclass(frozen=True, slots=True)
class ComparedPlace:
    """A workspace or bundle that was read."""

    path: str
    runs: int
    alone: Sequence[str]
    """Runs without a partner in the other place, as `row seed N cell protocol`."""
    earlier: int
    """Runs left out because a later one has the same row, protocol, cell and seed."""
    refused: Sequence[str]
    """Why runs were left out."""


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """What differs between two places."""

    a: ComparedPlace
    b: ComparedPlace
    pairs: Sequence[Pair]

    @property
    def different(self) -> list[Pair]:
        """The pairs with other scores."""
        return [pair for pair in self.pairs if pair.scores]

    def as_json(self) -> dict[str, Any]:
        """Return the report of `repro report --compare --json`; scores in points."""
        return {
            "a": asdict(self.a),
            "b": asdict(self.b),
            "pairs": [asdict(pair) | {"first_input": pair.first_input} for pair in self.pairs],
        }


def compare_places(a: Path, b: Path) -> ComparisonReport:
    """Compare the runs of two workspaces or bundles; each is verified against its predictions, as `repro check` does.

    Raises:
        UsageError: both are the same place, or a bundle is refused.
        MissingError: a path does not exist, or has no run.
    """
    for path in (a, b):
        if not path.exists():
            raise MissingError(f"{path}: {describe_absence(path, 'file or folder')}: expected a workspace or a bundle")
    if a.samefile(b):
        raise UsageError(f"{a} and {b} are the same {'folder' if a.is_dir() else 'file'}: name two to compare")
    (ours, our_refused), (theirs, their_refused) = _read_place(a), _read_place(b)
    by_key, by_their_key = _group_runs(ours), _group_runs(theirs)
    pairs, earlier = [], [0, 0]
    for key in sorted(by_key.keys() | by_their_key.keys()):
        groups = by_key.get(key, []), by_their_key.get(key, [])
        for place, group in enumerate(groups):
            # Of several runs of one cell and seed, one is compared, and the others are counted.
            earlier[place] += max(0, len(group) - 1)
        if all(groups):
            pairs.append(_compare_runs(*_choose_runs(*groups)))
    # Symmetric: what one place has, the other may be missing, both ways.
    alone = [
        [f"{row} seed {seed} {cell} {protocol}" for row, protocol, cell, seed in sorted(keys)]
        for keys in (by_key.keys() - by_their_key.keys(), by_their_key.keys() - by_key.keys())
    ]
    return ComparisonReport(
        ComparedPlace(str(a), len(ours), alone[0], earlier[0], our_refused),
        ComparedPlace(str(b), len(theirs), alone[1], earlier[1], their_refused),
        pairs,
    )


def format_comparison(found: ComparisonReport) -> list[str]:
    """Return the comparison as lines of text: the counts, a table of the scores that differ, and each cause once."""
    different = found.different
    lines = []
    for name, place in (("A", found.a), ("B", found.b)):
        notes = [f"{place.runs} runs"]
        notes += [f"{len(place.alone)} in {name} alone"] if place.alone else []
        notes += [f"{place.earlier} superseded by later ones"] if place.earlier else []
        notes += [f"{len(place.refused)} refused, left out"] if place.refused else []
        lines.append(f"{name}: {place.path}: {', '.join(notes)}")
    silent = sum(bool(pair.inputs) and not pair.scores for pair in found.pairs)
    lines.append(
        f"{len(found.pairs)} runs in both: {len(different)} with other scores, {len(found.pairs) - len(different)} with equal ones"
        + (f" ({silent} of them from other inputs)" if silent else "")
    )
    if different:
        lines += _format_table(different)
    # By the first input that differs: one cause usually explains many runs, and is printed once.
    causes: dict[tuple[str, str, bool], list[Pair]] = {}
    for pair in sorted((one for one in found.pairs if one.scores or one.inputs), key=lambda one: not one.scores):
        first = (
            str(pair.inputs[0]) if pair.inputs else "same inputs, other numbers: rounding of another run, or a fault"
        )
        causes.setdefault((pair.first_input, first, bool(pair.scores)), []).append(pair)
    for (name, why, differ), pairs in causes.items():
        rows = list(dict.fromkeys(pair.row for pair in pairs))
        named = ", ".join(rows[:3]) + (f" and {len(rows) - 3} more rows" if rows[3:] else "")
        also = sorted({one.input for pair in pairs for one in pair.inputs} - {name}, key=INPUTS.index)
        lines.append(
            f"{name}: {why} ({len(pairs)} {'run' if len(pairs) == 1 else 'runs'} of {named}{'' if differ else ', with equal scores'})"
            + (f"; after it also {', '.join(also)}" if also else "")
        )
    return lines


def _format_table(different: Sequence[Pair]) -> list[str]:
    rows: list[tuple[str, ...]] = [("row", "seed", "cell", "score", "A", "B", "B - A", "first input")]
    for pair in different:
        name, (a, b) = next(iter(pair.scores.items()))
        rule, _, metric = name.rpartition(".")
        cell = pair.cell if pair.protocol == "published" else f"{pair.cell} {pair.protocol}"
        score = f"{metric} {RULE_NAMES.get(rule, rule)}"
        # Two decimals hide what rounding changes.
        digits = 2 if abs(b - a) >= 0.005 else 6
        values = (f"{a:.{digits}f}", f"{b:.{digits}f}", f"{b - a:+z.{digits}f}")
        rows.append((pair.row, str(pair.seed), cell, score, *values, pair.first_input))
    # A table of rows' own cells needs no column of them.
    cells = {pair.row: set[tuple[str, str]]() for pair in different}
    for pair in different:
        cells[pair.row].add((pair.cell, pair.protocol))
    if all(len(of_row) == 1 for of_row in cells.values()):
        rows = [(*row[:2], *row[3:]) for row in rows]
    return format_columns(rows, right=("seed", "A", "B", "B - A"))


def _read_place(path: Path) -> tuple[list[RunRecord], list[str]]:
    """Return the records of a workspace or bundle, and why others were left out."""
    if path.is_dir():
        workspace = open_workspace(path)
        records, left_out = read_evidence(find_runs(workspace.runs), Annotations(workspace))
        refused = [why for _, why in left_out]
        if not records:
            also = f" ({len(refused)} refused: {refused[0]})" if refused else ""
            raise MissingError(f"{path}: no run record in {workspace.runs}{also}: expected a workspace with runs")
        return records, refused
    # What it says of its own clips is enough: the other place is what it is compared with.
    with open_bundle(path, lambda name: None) as bundle:
        return bundle.records, []


def _group_runs(records: Iterable[RunRecord]) -> dict[tuple[str, str, str, int], list[RunRecord]]:
    """Return the runs by what pairs them, each group with trials first and the latest last."""
    found: dict[tuple[str, str, str, int], list[RunRecord]] = {}
    for record in sorted(records, key=lambda one: (one.complete, one.made.at)):
        found.setdefault((record.row, record.protocol, record.features.cell, record.seed), []).append(record)
    return found


def _choose_runs(ours: Sequence[RunRecord], theirs: Sequence[RunRecord]) -> tuple[RunRecord, RunRecord]:
    """Return the latest runs that both places have under the same key, else the latest of each."""
    keys = {record.run: record for record in theirs}
    return next(((one, keys[one.run]) for one in reversed(ours) if one.run in keys), (ours[-1], theirs[-1]))


def _compare_runs(ours: RunRecord, theirs: RunRecord) -> Pair:
    a, b = _list_facts(ours), _list_facts(theirs)
    inputs = [
        Difference(name, fact, a[name].get(fact), b[name].get(fact))
        for name in INPUTS
        for fact in dict.fromkeys([*a[name], *b[name]])
        if a[name].get(fact) != b[name].get(fact) and not _is_unknown(name, fact, a, b)
    ]
    scores, other = _list_scores(ours), _list_scores(theirs)
    return Pair(
        row=ours.row,
        protocol=ours.protocol,
        cell=ours.features.cell,
        seed=ours.seed,
        runs=(ours.run, theirs.run),
        # Metrics that one version alone computes are no difference between numbers.
        scores={
            name: (100 * value, 100 * other[name])
            for name, value in scores.items()
            if name in other and abs(value - other[name]) > SCORE_TOLERANCE
        },
        inputs=inputs,
    )


def _is_unknown(name: str, fact: str, a: InputValues, b: InputValues) -> bool:
    """Whether a fact is of the machine or the audit, and one run does not state it, as in a bundle that leaves out what is private."""
    optional = name in ("software", "device") or fact.startswith("audit of")
    values = (a[name].get(fact), b[name].get(fact))
    return optional and any(value is None or REMOVED in str(value) for value in values)


def _list_scores(record: RunRecord) -> dict[str, float]:
    """Return the scores by rule and metric; the row's metric under its protocol's rule first."""
    selections = {rule: getattr(record, rule) for rule in RULE_NAMES}
    found = {
        f"{rule}.{metric}": value
        for rule, selection in selections.items()
        if selection is not None
        for metric, value in sorted(selection.scores.items(), key=lambda one: one[0] != record.metric)
    }
    # Then the row's metric of the other rules: a table shows the first that differs.
    found = dict(sorted(found.items(), key=lambda one: not one[0].endswith(f".{record.metric}")))
    for part in record.subsets:
        for rule in ("best_epoch_on_test", "last_epoch"):
            found |= {f"{part.name} {rule}.{name}": value for name, value in getattr(part, rule).scores.items()}
    return found


def _list_facts(record: RunRecord) -> InputValues:
    """Return all that a run depends on, by input."""
    facts: InputValues = {name: {} for name in INPUTS}
    data, features = facts["data"], record.features
    data["complete"] = record.complete
    for part in (record.train, record.test):
        data |= {f"missing clips of {part.name}": list(part.missing_clips), f"clips of {part.name}": part.clips}
    data["classes"] = list(record.classes)
    data |= {f"audit of {name}, sha256": sha256 for name, sha256 in record.manifests.items()}
    for part in (record.train, record.test):
        data[f"clips, labels and videos of {part.name}, sha256"] = part.sha256
    for name, value in _flatten(features.identity):
        key = "checkpoint" if name.endswith("sha256") else IDENTITY_INPUTS.get(name, "backbone")
        facts[key][name] = value
    facts["precision"] |= {"features stored as": features.stored_as, "readout": record.precision}
    facts["reader"] |= {f"clips read by {name}": count for name, count in features.readers.items()}
    facts["reader"] |= {f"clips imported from {name}": count for name, count in features.imported.items()}
    for name, value in _flatten(record.key_rest):
        if name in ("training", "store"):
            facts["software"][f"version of {name}"] = value
        else:
            facts["recipe"][name] = value
    facts["software"] |= record.made.by | record.made.source
    # Device first: it says more than the kernel's version.
    facts["device"] |= dict(sorted(record.made.on.items(), key=lambda one: one[0] != "device"))
    facts["recipe"] |= {"row version": record.row_version, "assumed checkpoint": record.checkpoint_assumed}
    facts["recipe"] |= dict(_flatten(record.recipe.model_dump(mode="json", exclude={"note"})))
    return facts


def _flatten(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in value.items():
        if isinstance(one, dict) and one:
            yield from _flatten(one, f"{before}{name}.")
        else:
            yield f"{before}{name}", one


def _format_value(value: Any, other: Any) -> str:
    """Return a value as text that is short enough for a line."""
    if value is None:
        return "none"
    numbers = isinstance(value, list) and 0 < len(value) <= 4 and all(isinstance(one, int | float) for one in value)
    if isinstance(value, list) and not numbers:
        # Of a list only what the other does not have: lists of missing clips can be long.
        strange = [one for one in value if one not in (other or [])]
        return f"{len(value)}" + (f" ({str(strange[0])[:40]}{', ...' if strange[1:] else ''})" if strange else "")
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:16] if len(text) == 64 else text[:60]
