"""The release's other experiments, and what the paper's claim asks for beside them: rows of kind extra.

One file, configs/extras.yaml, says of each which of the 24 rows it is like and what differs; docs/extras.md says which of
the release's configs is which row.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from repro.backbones.config import Cell
from repro.core.config import Config, configs_folder, load_config, validated
from repro.core.errors import UsageError
from repro.table.rows import Data, Row, load_row, resolved, row_names


class Extra(Config):
    """What an extra has anew; all else is its base row's."""

    like: str
    """Its base: one of the 24 rows."""
    version: Annotated[int, Field(ge=1)] = 1
    title: str
    setting: str | None = None
    backbone: str | None = None
    changes: Mapping[str, str] = Field(default_factory=dict)
    """Of the backbone's config, as in Row."""
    features: Cell | None = None
    data: Data | None = None
    readout: Mapping[str, Any] = Field(default_factory=dict)
    """Keys of the recipe, each replaced whole."""
    seed: int | None = None
    source: str = ""
    """The release's config file, as svd/charades1-1.bash, below generative-models/configs."""
    note: str = ""
    """What the release does not say, and what was taken instead."""


class _Extras(Config):
    extras: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")], Extra]


def extras_path() -> Path:
    return configs_folder() / "extras.yaml"


@cache
def _read() -> dict[str, Extra]:
    return load_config(_Extras, extras_path()).extras


def names() -> tuple[str, ...]:
    """In the file's order."""
    return tuple(_read())


def load_extra(name: str) -> Row:
    """The whole row.

    Raises:
        UsageError: its base is none of the 24, or what differs is not valid.
    """
    extra, where = _read()[name], f"{extras_path()}: {name}"
    if extra.like not in row_names():
        raise UsageError(f"{where}: like: '{extra.like}' is none of the 24 rows")
    base = load_row(extra.like)
    raw = base.model_dump(mode="json", exclude={"published"})
    # A note on the base's recipe says nothing of another one.
    raw["readout"] |= {"note": ""} | dict(extra.readout)
    if extra.seed is not None:
        raw["seeds"]["published"] = extra.seed
    for key in ("setting", "backbone", "features", "data"):
        value = getattr(extra, key)
        if value is not None:
            raw[key] = value.model_dump(mode="json") if isinstance(value, Config) else value
    raw |= {
        "name": name,
        "kind": "extra",
        "version": extra.version,
        "title": extra.title,
        "changes": dict(extra.changes),
    }
    raw |= {"source": extra.source, "note": extra.note}
    return resolved(validated(Row, raw, where), where)
