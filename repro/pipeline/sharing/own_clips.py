"""Own clips whose features were imported: a table of their labels in place of the original, with no videos.

WORKSPACE/listings/<data set>.csv    ids, labels, splits and groups
WORKSPACE/listings/<data set>.yaml   describes the table; `name:` is its name where the features were exported
WORKSPACE/listings/<data set>_row.yaml   a row file, written once, as it may be edited
"""

import csv
import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.backbones.config import Cell, read_precision
from repro.backbones.registry import load_backbone
from repro.core.console import quote_formulas
from repro.core.errors import MissingError, UsageError, state_reason
from repro.core.files import write_bytes
from repro.core.workspace import Workspace
from repro.datasets.labels import Labels
from repro.datasets.own import OWN_NAME, OwnDataFile, build_own_dataset
from repro.datasets.registry import open_dataset
from repro.features.shared import Card
from repro.table.own import write_config, write_own_row


def is_own(dataset: str) -> bool:
    """Return whether `dataset` is the name of a user's own clips."""
    return re.fullmatch(OWN_NAME, dataset) is not None


def place_own_clips(file: Path, card: Card, labels: Labels, workspace: Workspace) -> Path:
    """Write the files that describe own clips, unless they are there; return the row file.

    Raises:
        MissingError: a table with these labels is not the data set that the card is of, or another was imported under its name.
    """
    try:
        plain, table = _as_table(labels), _as_table(labels, quote_formulas)
        # Tables without such cells do not say so: they and their YAML files are those of earlier versions.
        quoted = {} if table == plain else {"quoted": True}
        described = OwnDataFile(
            clips=f"{card.dataset}.csv", labels=labels.target, licence=card.licence, name=card.dataset, **quoted
        )
        _check_table(table, described, labels, card, workspace)
        computed = read_precision(load_backbone(card.backbone))
        change = {} if card.precision == computed else {"precision": card.precision}
        load_backbone(card.backbone, change)
        cell = Cell.parse(card.cells[0])
    except (UsageError, ValueError, LookupError) as error:
        raise MissingError(f"{file}: not features of a table of clips: {state_reason(error, 300)}") from error
    place = workspace.listings / card.dataset
    data, row = place.with_suffix(".yaml"), place.with_name(f"{card.dataset}_row.yaml")
    listed = place.with_suffix(".csv")
    if listed.is_file() and listed.read_bytes() not in (table, plain):
        raise MissingError(
            f"{file}: other labels of {card.dataset} were imported before ({listed}): import into another --workspace"
        )
    write_bytes(listed, table)
    write_config(data, "Clips whose features were imported", described.model_dump(include=described.model_fields_set))
    if not row.exists():
        write_own_row(row, data.name, card.backbone, cell, change)
    return row


def _as_table(labels: Labels, form: Callable[[str], str] = str) -> bytes:
    """Return the labels as a csv, a line for each label of a clip, with its cells as `form` returns them."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("path", "label", "split", "group"))
    for name, split in labels.splits.items():
        for clip, target, group, _ in split.clips:
            lines.writerows(map(form, (clip, split.classes[label], name, group)) for label in target)
    return text.getvalue().encode()


def _check_table(table: bytes, described: OwnDataFile, labels: Labels, card: Card, workspace: Workspace) -> None:
    """Check that `table` is read as the data set that the labels are of.

    Raises:
        UsageError: the table is not valid.
        ValueError: it is of another data set.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clips.yaml"
        path.with_name(described.clips).write_bytes(table)
        dataset = open_dataset(build_own_dataset(path, described), workspace)
    found: dict[str, Any] = {name: [(c.id, c.group) for c in split.clips] for name, split in dataset.splits.items()}
    stated = {name: [(clip[0], clip[2]) for clip in split.clips] for name, split in labels.splits.items()}
    if not dataset.key == labels.key == card.annotations or found != stated:
        raise ValueError("read again, they are of other clips")
