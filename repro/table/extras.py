"""Rows of kind extra: the release's other experiments, and controls that the paper's claim needs.

configs/extras.yaml states for each which of the 24 rows it is based on and what differs; docs/extras.md lists which config
of the release is which row. configs/lineargrid.yaml has the recipe of its linear grids, for any row (`repro grid ROW --head linear`).
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from repro.backbones.config import Cell
from repro.core.config import Config, Positive, configs_folder, load_config, validate_config
from repro.core.errors import UsageError
from repro.readout.recipe import Recipe
from repro.table.row import Data, Row, check_references


class Extra(Config):
    """What an extra changes; everything else is its base row's."""

    like: str
    """Name of the base row, one of the 24."""
    version: Positive | None = None
    """None: the base row's, whose meaning an extra shares."""
    title: str
    setting: str | None = None
    backbone: str | None = None
    changes: Mapping[str, str] = Field(default_factory=dict)
    """Changes of the backbone's config, as in Row."""
    features: Cell | None = None
    data: Data | None = None
    readout: Mapping[str, Any] = Field(default_factory=dict)
    """Keys of the recipe; each replaces the base row's value completely."""
    seed: int | None = None
    source: str = ""
    """The release's config file, as svd/charades1-1.bash, below generative-models/configs."""
    note: str = ""
    """What the release does not state, and the value taken instead."""


class _Extras(Config):
    extras: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")], Extra]


def extras_path() -> Path:
    return configs_folder() / "extras.yaml"


@cache
def read_extras() -> dict[str, Extra]:
    """Every extra by name, in the file's order."""
    return load_config(_Extras, extras_path()).extras


def extra_row(name: str, extra: Extra, base: Row) -> Row:
    """The complete row of an extra.

    Raises:
        UsageError: what differs is not valid.
    """
    where = f"{extras_path()}: {name}"
    # The row is rebuilt from its base's dump and validated as a file would be, so that a wrong key is reported by name.
    raw = base.model_dump(mode="json", exclude={"published"})
    # Drop the base recipe's note: it does not apply to the changed recipe.
    raw["readout"] |= {"note": ""} | dict(extra.readout)
    # Only the first seed differs; how many runs are planned stays the base row's.
    if extra.seed is not None:
        raw["seeds"]["published"] = extra.seed
    for key in ("setting", "backbone", "features", "data"):
        value = getattr(extra, key)
        if value is not None:
            raw[key] = value.model_dump(mode="json") if isinstance(value, Config) else value
    raw |= {"name": name, "kind": "extra", "title": extra.title}
    raw["version"] = base.version if extra.version is None else extra.version
    raw |= {"changes": dict(extra.changes), "source": extra.source, "note": extra.note}
    return check_references(validate_config(Row, raw, where), where)


class LinearGrid(Config):
    """What a linear grid changes in a row's recipe."""

    head: Literal["linear"]
    layers: Literal[0]
    epochs: Positive
    learning_rate: float
    weight_decay: float
    mixup: float
    note: str
    max_length: dict[str, Positive]
    """By the data set that is trained on."""


@cache
def load_linear_grid() -> LinearGrid:
    """Read configs/lineargrid.yaml.

    Raises:
        UsageError: it is not valid.
    """
    return load_config(LinearGrid, configs_folder() / "lineargrid.yaml")


def with_head(row: Row, head: Literal["transformer", "linear"]) -> Row:
    """`row` with the recipe of another head; itself if it has that head already.

    Raises:
        UsageError: there is no recipe of that head for the row.
    """
    if head == row.readout.head:
        return row
    if head == "transformer":
        raise UsageError(f"--head transformer: {row.name} has a linear readout, and no recipe of a transformer")
    grid, dataset = load_linear_grid(), row.data.train.dataset
    # The linear head has a weight for each token of a clip's maximal length, so that a length is part of its recipe.
    if dataset not in grid.max_length:
        raise UsageError(
            f"--head linear: the release has linear grids of {', '.join(grid.max_length)}, none of {dataset}: leave --head out"
        )
    # The grid's keys are names of the recipe's, so that its values replace the row's; the loss, batch and seed stay.
    changes = grid.model_dump() | {"max_length": grid.max_length[dataset]}
    return row.model_copy(update={"readout": Recipe.model_validate(row.readout.model_dump() | changes)})
