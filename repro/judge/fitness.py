"""Whether a run record measures a row as it is configured, and whether two records measure the same."""

from collections.abc import Sequence

from repro.backbones.config import read_precision
from repro.datasets.split import SplitName
from repro.judge.expected import Expected
from repro.judge.grid_selection import grid_cells, has_grid
from repro.records.record import RunRecord
from repro.table.row import Row, row_backbone, row_datasets


def accepted_cells(row: Row, expected: Expected) -> list[str]:
    """Return the names of the cells that count: all of the row's grid if the published value is the best of one, else its
    default cell."""
    judges_grid = expected.best_of_grid and has_grid(row)
    return [cell.name for cell in grid_cells(row)] if judges_grid else [row.features.name]


def explain_unfit(record: RunRecord, row: Row, cells: Sequence[str]) -> str:
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


def explain_mismatch(record: RunRecord, row: Row, cells: Sequence[str] = (), *, any_precision: bool = False) -> str:
    """Return why `record` does not match the row's current config, whatever its protocol; empty if it does.

    Args:
        record: A run record of the row.
        row: The row as it is configured now.
        cells: Names of the cells that count [default: the row's default cell].
        any_precision: Features in another precision than the row's match too: the same row, measured with other rounding.
    """
    for what, theirs, ours in (
        ("row version", record.row_version, row.version),
        ("metric", record.metric, row.metric),
        ("training split", record.train.name, str(row.data.train)),
        ("test split", record.test.name, str(row.data.test)),
    ):
        if theirs != ours:
            return f"{what} {theirs}, the row has {ours}"
    if record.features.cell not in (cells or [row.features.name]):
        if has_grid(row) and record.features.cell in {cell.name for cell in grid_cells(row)}:
            return f"another cell of a grid: the row is {row.features.name}"
        return f"features {record.features.cell}, the row has {row.features.name}"
    backbone = row_backbone(row)
    ours_now = backbone.model_dump(mode="json", exclude=set(backbone.not_in_identity))
    # The record's identity has more keys, such as the checkpoint's sha256: only what the config states is compared.
    precision = read_precision(backbone)
    if not any_precision and record_precision(record) != precision:
        return f"features in precision {record_precision(record)}, the row's are in {precision}"
    ours_now.pop("precision", None)
    changed = [key for key, value in ours_now.items() if record.features.identity.get(key) != value]
    if changed:
        return f"another backbone: its {changed[0]} is not the row's"
    if record.features.stored_as != "float32":
        return f"features stored as {record.features.stored_as}, the row reads float32"
    if record.precision != "fp32":
        return f"a readout in {record.precision}, the row's is in fp32"
    recipe, configured = (r.model_dump(exclude={"note"}) for r in (record.recipe, row.readout))
    differing = [name for name in configured if recipe[name] != configured[name]]
    if differing:
        return f"another recipe: {differing[0]} {recipe[differing[0]]}, the row has {configured[differing[0]]}"
    datasets = row_datasets(row)
    for split in (record.train, record.test):
        name = SplitName.parse(split.name)
        clips = datasets[name.dataset].splits[name.split].clips
        if clips is not None and split.clips + len(split.missing_clips) != clips:
            return f"{split.clips} clips of {split.name}, which has {clips}"
    return ""


def explain_difference(record: RunRecord, first: RunRecord) -> str:
    """Return what two runs of one set do not share though they measure the same; empty if there is nothing."""
    for what, ours, theirs in (
        ("training split", record.train.sha256, first.train.sha256),
        ("test split", record.test.sha256, first.test.sha256),
        ("checkpoint", record.features.identity, first.features.identity),
        ("device", record.made.on.get("device"), first.made.on.get("device")),
    ):
        if ours != theirs:
            found = f" {ours}, not {theirs}" if what == "device" else ""
            return f"another {what}{found}"
    # A data set may have been audited between two runs.
    for name in record.manifests.keys() & first.manifests.keys():
        if record.manifests[name] != first.manifests[name]:
            return f"another audit of {name}"
    # MLflow shows results, and computes none.
    for name in sorted((record.made.by.keys() | first.made.by.keys()) - {"mlflow"}):
        if record.made.by.get(name) != first.made.by.get(name):
            return f"{name} {record.made.by.get(name)}, not {first.made.by.get(name)}"
    return ""
