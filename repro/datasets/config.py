"""What a dataset config may say. Imports nothing heavy: `repro list` reads these."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from repro import shipped
from repro.assets import RemoteFile
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
    licence_url: str | None = None
    """Where its text stands, or what its owners say of it."""
    folder: str
    """Under the workspace's data/."""
    requires: tuple[str, ...]
    """Paths in that folder without which nothing can be read."""
    files: tuple[RemoteFile, ...] = ()
    """The archives that `repro fetch` brings to archives/ in that folder."""
    obtain: str | None = None
    """What brings the data to {path} where nothing can be fetched, in one line."""
    adapter: Literal["smoke", "none"]
    """What reads it; none: not in this version."""
    classes: Annotated[int, Field(ge=2)]
    target: Literal["single", "multi"]
    splits: dict[str, SplitFacts]

    @model_validator(mode="after")
    def _can_be_had(self) -> "DatasetConfig":
        if bool(self.files) == (self.obtain is not None) or not all(file.is_remote for file in self.files):
            raise ValueError("a dataset has files, each with hub or url, or says how to obtain it")
        if self.files and self.licence_url is None:
            raise ValueError("what is fetched needs a licence_url")
        return self


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
