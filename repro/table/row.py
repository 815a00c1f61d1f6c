"""What a row of the results table is: a small config that names a backbone, a cell, data, a recipe and a published value.

The 24 published rows are files in configs/rows, the smoke job's are in configs/smoke, and the release's other experiments
(kind extra) are entries of configs/extras.yaml. rows.py loads any of them by name.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from repro.backbones.config import BackboneConfig, Cell, Precision, explain_missing_cell, precision_change
from repro.backbones.registry import load_backbone
from repro.core.config import Config, NamedConfig, Positive
from repro.core.errors import UsageError
from repro.datasets.config import DatasetConfig, load_dataset
from repro.datasets.split import SplitName
from repro.readout.recipe import Metric, Protocol, Recipe

RowKind = Literal["published", "smoke", "extra", "own"]
"""published: one of the 24; extra: another experiment; own: a user's own clips. Extras and own rows are never judged."""


class Data(Config):
    """The splits a row trains and tests on."""

    train: SplitName
    """Split the readout is trained on."""
    test: SplitName
    also: tuple[SplitName, ...] = ()
    """Parts of the test split that are also scored on their own."""

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets a run needs, without duplicates."""
        # In this order, which is that of extraction and of what is printed.
        return tuple(dict.fromkeys(name.dataset for name in (self.train, self.test)))


class Published(Config):
    """The published value of a row and where it is printed."""

    value: float
    digits: Annotated[int, Field(ge=0)]
    """Decimals the release prints."""
    source: str
    command: str
    """The release's own command for this number."""


SeedChoice = int | tuple[int, ...]
"""How many readouts (the published seed, then those that follow it), or their seeds."""


class Seeds(Config):
    """Seeds of a row's readouts."""

    published: Annotated[int, Field(ge=0)]
    planned: Positive = 5
    """Runs that a verdict needs. Fixed before the first run, so that nobody stops at a convenient seed."""

    def first(self, count: int) -> list[int]:
        """The published seed and those that follow it."""
        return list(range(self.published, self.published + count))

    def choose(self, choice: "SeedChoice") -> list[int]:
        """Return the seeds of a choice: the first planned ones for a number, else those it names."""
        return self.first(choice) if isinstance(choice, int) else list(choice)


class Row(NamedConfig):
    """One row: what is trained on which features of which data, and what it is compared with.

    Its name is its file's, or for an extra its key in configs/extras.yaml.
    """

    version: Positive
    """Raised, with a line in CHANGELOG.md, when the row's meaning changes."""
    title: str
    kind: RowKind
    setting: str
    backbone: str
    changes: Mapping[str, str] = Field(default_factory=dict)
    """Values of the backbone's config that differ for this row, in YAML, by dotted key (frames.window: "16")."""
    features: Cell
    data: Data
    metric: Metric
    """Metric of the published value."""
    published: Published | None = None
    source: str = ""
    """Extras only: the release's config file it repeats; empty if the release has none."""
    note: str = ""
    """Extras only: what the release does not state, and the value taken instead."""
    readout: Recipe
    seeds: Seeds

    @property
    def argument(self) -> str:
        """What a command takes to name it, quoted for a shell: its name, or the path of its file."""
        return self.name

    @property
    def command(self) -> str:
        """The command that runs the row."""
        return f"repro {self.name}"

    @property
    def default_protocol(self) -> Protocol:
        """The protocol if none is requested."""
        return "published"

    @property
    def own_datasets(self) -> dict[str, DatasetConfig]:
        """Configs of data sets that are not shipped, by name."""
        return {}

    @property
    def own_identity(self) -> dict[str, str]:
        """What a run's key holds of such data sets besides ids, labels and videos of the clips."""
        return {}


def check_references(row: Row, where: str) -> Row:
    """Return `row` if its backbone, cell, data sets and splits exist.

    Args:
        row: a row as it was read.
        where: the file it was read from, for the message.

    Raises:
        UsageError: a backbone, cell, data set or split that does not exist, or a published value where none belongs.
    """
    problem = explain_missing_cell(row_backbone(row), row.features)
    if problem:
        raise UsageError(f"{where}: features: {problem}")
    datasets = row_datasets(row)
    named = [("train", row.data.train), ("test", row.data.test), *(("also", name) for name in row.data.also)]
    for part, name in named:
        # Parts are scored on the test split's predictions: a part of another data set has none.
        if part == "also" and name.dataset != row.data.test.dataset:
            raise UsageError(f"{where}: data.also: {name} is of another data set than the test split {row.data.test}")
        if name.split not in datasets[name.dataset].splits:
            raise UsageError(
                f"{where}: data.{part}: {name.dataset} has no split '{name.split}': "
                f"{', '.join(datasets[name.dataset].splits)}"
            )
    # Only a published value can be judged, and a published row without one would silently never be.
    if (row.kind == "published") != (row.published is not None):
        raise UsageError(
            f"{where}: a row of kind {row.kind} has {'no' if row.published is None else 'a'} published value"
        )
    return row


def row_backbone(row: Row) -> BackboneConfig:
    """Config of the row's backbone, with the row's changes."""
    return load_backbone(row.backbone, row.changes)


def with_precision(row: Row, *precisions: Precision | None) -> Row:
    """`row` with features in the first of `precisions` that its backbone has; the row itself for None, or if that is its own.

    Raises:
        UsageError: the row's backbone has none of them.
    """
    # The first that the backbone has: rows of several families take one list of --precision.
    change = precision_change(row_backbone(row), *precisions)
    return row.model_copy(update={"changes": {**row.changes, **change}}) if change else row


def row_datasets(row: Row) -> dict[str, DatasetConfig]:
    """Configs of the data sets a row reads, by name."""
    return {name: row.own_datasets.get(name) or load_dataset(name) for name in row.data.datasets}
