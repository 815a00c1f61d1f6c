"""Rows of the results table: one small config each, in configs/rows. The release's other experiments are rows too, of kind
extra: extras.py makes them of configs/extras.yaml."""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from repro.backbones.cells import lacking
from repro.backbones.config import BackboneConfig, Cell, load_backbone
from repro.core.config import Config, NamedConfig, configs_folder, load_config
from repro.core.errors import UsageError
from repro.datasets.config import DatasetConfig, load_dataset
from repro.readout.recipe import Metric, Positive, Recipe

Kind = Literal["published", "smoke", "extra"]
"""published: one of the 24; extra: another experiment, without a published value, never judged."""

SplitName = Annotated[str, Field(pattern="^[a-z0-9_]+/[a-z0-9_]+$")]
"""`<dataset>/<split>`, as in configs/datasets."""


class Data(Config):
    train: SplitName
    """What the readout learns from."""
    test: SplitName
    also: tuple[SplitName, ...] = ()
    """Parts of the test split whose own scores are recorded beside it."""

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets a run needs, each once."""
        return tuple(dict.fromkeys(split.split("/")[0] for split in (self.train, self.test)))


class Published(Config):
    value: float
    digits: Annotated[int, Field(ge=0)]
    """Decimals the release prints."""
    source: str
    command: str
    """The release's own command for this number."""


class Seeds(Config):
    published: Annotated[int, Field(ge=0)]
    planned: Positive = 5
    """Runs a verdict needs, fixed before any was made."""

    def first(self, count: int) -> list[int]:
        """The published seed and those that follow it."""
        return list(range(self.published, self.published + count))


class Row(NamedConfig):
    """One row: what is trained on which features of which data, and what it is compared with. Its name is its file's, or its
    key in configs/extras.yaml."""

    version: Positive
    """Raised, with a line in CHANGELOG.md, when the row's meaning changes."""
    title: str
    kind: Kind
    setting: str
    backbone: str
    changes: Mapping[str, str] = Field(default_factory=dict)
    """Values of the backbone's config that differ for this row, in YAML, by dotted key (frames.window: "16")."""
    features: Cell
    data: Data
    metric: Metric
    """The one the published value is in."""
    published: Published | None = None
    source: str = ""
    """Of an extra: the release's config file it repeats, "" where the release has none."""
    note: str = ""
    """Of an extra: what the release does not say, and what was taken instead."""
    readout: Recipe
    seeds: Seeds


def rows_folder() -> Path:
    return configs_folder() / "rows"


def row_names() -> list[str]:
    """The 24 rows, in the order of the published table: by setting, ActionDiff first."""
    return sorted((path.stem for path in rows_folder().glob("*.yaml")), key=_table_order)


def extra_names() -> tuple[str, ...]:
    """Rows of kind extra, as configs/extras.yaml orders them."""
    from repro.table import extras

    return extras.names()


SETTINGS = ("ak_full", "ak_unseen", "charades_1to1", "charades_3to1", "ucf_hmdb", "hmdb_ucf")
BASELINES = ("videomaev2", "vjepa", "sdv2")


def _table_order(name: str) -> tuple[int, int, str]:
    for place, setting in enumerate(SETTINGS):
        if name == setting:
            return (place, 0, name)
        for column, baseline in enumerate(BASELINES, start=1):
            if name == f"{setting}_{baseline}":
                return (place, column, name)
    return (len(SETTINGS), 0, name)


@cache
def load_row(name: str) -> Row:
    """Read a row's config.

    Raises:
        UsageError: unknown name (the nearest is named), or a config that is not valid.
    """
    if name in (*SMOKE_ROWS, *PRETRAINED_SMOKE_ROWS):
        path = configs_folder() / "smoke" / f"{name}.yaml"
        return resolved(load_config(Row, path), str(path))
    if name in row_names():
        return resolved(load_config(Row, rows_folder() / f"{name}.yaml"), str(rows_folder() / f"{name}.yaml"))

    from repro.table import extras

    if name in extra_names():
        return extras.load_extra(name)
    near = difflib.get_close_matches(name, [*row_names(), *extra_names()], n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"unknown row '{name}'{hint} (`repro list --all` shows all {len(row_names())} and the extras)")


SMOKE_ROWS = ("smoke", "smoke_mean_colour")
PRETRAINED_SMOKE_ROWS = ("smoke_efficientnet_lite0",)
"""On weights that have learnt something, and that an extra brings; run on request, and not judged."""


def resolved(row: Row, where: str) -> Row:
    """`row`, whose names and numbers are all of something that exists; `where` it was read, for the message.

    Raises:
        UsageError: a backbone, cell, data set or split that does not.
    """
    problem = lacking(row.backbone, row_backbone(row), row.features)
    if problem:
        raise UsageError(f"{where}: features: {problem}")
    datasets = row_datasets(row)
    named = [("train", row.data.train), ("test", row.data.test), *(("also", name) for name in row.data.also)]
    for part, name in named:
        dataset, split = name.split("/")
        if part == "also" and dataset != row.data.test.split("/")[0]:
            raise UsageError(f"{where}: data.also: {name} is of another data set than the test split {row.data.test}")
        if split not in datasets[dataset].splits:
            raise UsageError(
                f"{where}: data.{part}: {dataset} has no split '{split}': {', '.join(datasets[dataset].splits)}"
            )
    if (row.kind == "published") != (row.published is not None):
        raise UsageError(
            f"{where}: a row of kind {row.kind} has {'no' if row.published is None else 'a'} published value"
        )
    return row


def row_backbone(row: Row) -> BackboneConfig:
    return load_backbone(row.backbone, row.changes)


def row_datasets(row: Row) -> dict[str, DatasetConfig]:
    return {name: load_dataset(name) for name in row.data.datasets}
