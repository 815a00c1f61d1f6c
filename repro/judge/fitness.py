"""Whether a run record measures a row as it is configured, and whether two records measure the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.backbones.config import read_precision
from repro.judge.expected import Expected
from repro.judge.grid_selection import grid_cells, has_grid
from repro.records.record import RunRecord
from repro.table.row import Row, row_backbone, row_datasets


@dataclass(frozen=True, slots=True)
class Configured:
    """A row with what its configs state, read once for all records that are compared with it."""

    row: Row
    grid: frozenset[str]
    """Names of the cells of its grid; empty if it has none."""
    identity: Mapping[str, Any]
    """What the backbone's config states of the features, without the precision."""
    precision: str
    recipe: Mapping[str, Any]
    clips: Mapping[str, int | None]
    """Number of clips by name of the split, where the data set's config states it."""


def read_configured(row: Row) -> Configured:
    """Read the configs that a row names."""
    backbone = row_backbone(row)
    return Configured(
        row=row,
        grid=frozenset(cell.name for cell in grid_cells(row)) if has_grid(row) else frozenset(),
        # The record's identity has more keys, such as the checkpoint's sha256: only what the config states is compared.
        identity=backbone.model_dump(mode="json", exclude={*backbone.not_in_identity, "precision"}),
        precision=read_precision(backbone),
        recipe=row.readout.model_dump(exclude={"note"}),
        clips={
            f"{name}/{split}": found.clips
            for name, dataset in row_datasets(row).items()
            for split, found in dataset.splits.items()
        },
    )


def accepted_cells(row: Row, expected: Expected) -> list[str]:
    """Return the names of the cells that count: all of the row's grid if the published value is the best of one, else its
    default cell."""
    judges_grid = expected.best_of_grid and has_grid(row)
    return [cell.name for cell in grid_cells(row)] if judges_grid else [row.features.name]


def explain_unfit(record: RunRecord, row: Row | Configured, cells: Sequence[str]) -> str:
    """Return why `record` cannot be judged as a measurement of `row` at one of `cells`; empty if it can."""
    if not record.complete:
        return "a trial on fewer clips"
    if record.protocol != "published":
        # Published values were selected on the test split (docs/deviations.md 2): only the same rule compares like with like.
        return f"the {record.protocol} protocol: the published rule alone is compared with published values"
    return explain_mismatch(record, row, cells, any_precision=True)


def record_precision(record: RunRecord) -> str:
    """Return what the features of `record` were computed in; fp32 for a backbone without the key."""
    return str(record.features.identity.get("precision", "fp32"))


def explain_mismatch(
    record: RunRecord, row: Row | Configured, cells: Sequence[str] = (), *, any_precision: bool = False
) -> str:
    """Return why `record` does not match the row's current config, whatever its protocol; empty if it does.

    Args:
        record: A run record of the row.
        row: The row as it is configured now; for many records, what `read_configured` returns of it.
        cells: Names of the cells that count [default: the row's default cell].
        any_precision: Features in another precision than the row's match too: the same row, measured with other rounding.
    """
    configured = row if isinstance(row, Configured) else read_configured(row)
    row = configured.row
    for what, theirs, ours in (
        ("row version", record.row_version, row.version),
        ("metric", record.metric, row.metric),
        ("training split", record.train.name, str(row.data.train)),
        ("test split", record.test.name, str(row.data.test)),
    ):
        if theirs != ours:
            return f"{what} {theirs}, the row has {ours}"
    if record.features.cell not in (cells or [row.features.name]):
        if record.features.cell in configured.grid:
            return f"another cell of a grid: the row is {row.features.name}"
        return f"features {record.features.cell}, the row has {row.features.name}"
    if not any_precision and record_precision(record) != configured.precision:
        return f"features in precision {record_precision(record)}, the row's are in {configured.precision}"
    changed = [key for key, value in configured.identity.items() if record.features.identity.get(key) != value]
    if changed:
        return f"another backbone: its {changed[0]} is not the row's"
    if record.features.stored_as != "float32":
        return f"features stored as {record.features.stored_as}, the row reads float32"
    # Of the readout's own matrix products (--training-precision), not of the features.
    if record.precision != "fp32":
        return f"a readout in {record.precision}, the row's is in fp32"
    recipe = record.recipe.model_dump(exclude={"note"})
    differing = [name for name, value in configured.recipe.items() if recipe[name] != value]
    if differing:
        return f"another recipe: {differing[0]} {recipe[differing[0]]}, the row has {configured.recipe[differing[0]]}"
    for split in (record.train, record.test):
        clips = configured.clips[split.name]
        if clips is not None and split.clips + len(split.missing_clips) != clips:
            return f"{split.clips} clips of {split.name}, which has {clips}"
    return ""


def explain_difference(record: RunRecord, first: RunRecord) -> str:
    """Return what two runs of one set do not share though they measure the same; empty if there is nothing.

    Devices may differ, and with them the build of a library: they change rounding, and which random numbers a seed gives, as another
    seed does. Verdicts name them (`describe_machines`). Other code may compute something else.
    """
    for what, ours, theirs in (
        ("training split", record.train.sha256, first.train.sha256),
        ("test split", record.test.sha256, first.test.sha256),
        ("checkpoint", record.features.identity, first.features.identity),
    ):
        if ours != theirs:
            return f"another {what}"
    # A data set may have been audited between two runs.
    for name in record.manifests.keys() & first.manifests.keys():
        if record.manifests[name] != first.manifests[name]:
            return f"another audit of {name}"
    # MLflow shows results, and computes none.
    for name in sorted((record.made.by.keys() | first.made.by.keys()) - {"mlflow"}):
        version, expected = record.made.by.get(name), first.made.by.get(name)
        if _without_build(name, version) != _without_build(name, expected):
            return f"{name} {version}, not {expected}"
    return ""


def _without_build(name: str, version: str | None) -> str | None:
    """Return the part of a version that says which code it is: without +cu128 and the like, and of Python the first two numbers."""
    if version is None:
        return None
    # Builds of torch for CUDA and for the CPU are the same code, and releases of Python differ in their last
    # number by repairs.
    public = version.split("+")[0]
    return ".".join(public.split(".")[:2]) if name == "python" else public


def describe_machines(runs: Sequence[RunRecord]) -> list[str]:
    """Return the devices of runs with their numbers, and the versions that differ; empty if all are the same."""
    devices = count_devices(runs)
    notes = [f"trained on {', '.join(f'{device} ({n})' for device, n in devices.items())}"] if len(devices) > 1 else []
    for name in dict.fromkeys(name for run in runs for name in run.made.by if name != "mlflow"):
        found = dict.fromkeys(str(run.made.by.get(name)) for run in runs)
        if len(found) > 1:
            notes.append(f"{name} {' and '.join(found)}")
    return notes


def count_devices(runs: Sequence[RunRecord]) -> dict[str, int]:
    """Return the number of runs by device, in the order of the runs."""
    return dict(Counter(run.made.on.get("device", "a device that is not recorded") for run in runs))
