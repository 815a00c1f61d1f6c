"""What a dataset config may say. Imports nothing heavy: `repro list` reads these."""

from typing import Annotated, Literal

from pydantic import Field

from repro import shipped
from repro.config import Config, load_config
from repro.errors import UsageError


class SplitFacts(Config):
    clips: Annotated[int, Field(ge=1)] | None = None
    """How many the owners' files list; None where that is not known."""


class DatasetConfig(Config):
    title: str
    version: Annotated[int, Field(ge=1)]
    source: str
    """Public address of the owners' page."""
    size: str
    """To read, as about 6.5 GB."""
    licence: str
    folder: str
    """Under the workspace's data/."""
    requires: tuple[str, ...]
    """Paths in that folder without which nothing can be read."""
    obtain: str
    """What brings it to {path}, in one line."""
    adapter: Literal["smoke", "none"]
    """What reads it; none: not in this version."""
    classes: Annotated[int, Field(ge=2)]
    target: Literal["single", "multi"]
    splits: dict[str, SplitFacts]


def dataset_names() -> list[str]:
    return sorted(path.stem for path in (shipped.configs() / "datasets").glob("*.yaml"))


def load_dataset(name: str) -> DatasetConfig:
    """Read configs/datasets/<name>.yaml.

    Raises:
        UsageError: unknown name, or a config that is not valid.
    """
    if name not in dataset_names():
        raise UsageError(f"unknown dataset '{name}': configs/datasets has {', '.join(dataset_names())}")
    return load_config(DatasetConfig, shipped.configs() / "datasets" / f"{name}.yaml")
