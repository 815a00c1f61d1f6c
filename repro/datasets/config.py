"""The fields of a dataset config, configs/datasets/<name>.yaml. Imports nothing heavy: `repro list` reads these."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from repro.core.config import Config, NamedConfig, Positive, config_names, configs_folder, fill_path, load_config
from repro.core.errors import UsageError, find_nearest
from repro.core.remote_file import Address, RemoteFile, fetch_command
from repro.core.workspace import Workspace
from repro.datasets.annotations import Listing

Length = Annotated[float, Field(gt=0)]


class Counted(Config):
    """Sampled frames and windows of a split for one stride and window length, counted clip by clip."""

    stride: Positive
    window: Positive
    sampled: Positive
    windows: Positive


class ClipLengths(Config):
    """Length of a split's clips in native frames: what `repro plan` assumes until an audit has counted them."""

    total: Positive | None = None
    """Sum over all clips."""
    mean: tuple[Length, Length] | None = None
    """Estimated mean per clip, lowest and highest, if the total is not known."""
    counted: Counted | None = None
    source: str

    @model_validator(mode="after")
    def _check_lengths(self) -> "ClipLengths":
        # Either known or estimated: a plan must say which of the two it assumes.
        if (self.total is None) == (self.mean is None) or (self.counted is not None and self.total is None):
            raise ValueError("frames have a total, which may be counted further, or a mean")
        if self.mean is not None and self.mean[0] > self.mean[1]:
            raise ValueError("mean: the least comes first")
        return self


class SplitFacts(Config):
    clips: Positive | None = None
    """Number of clips in the publishers' files; None if it is not known."""
    estimated_clips: Positive | None = None
    """Assumed number if `clips` is not known; never checked."""
    within: tuple[str, ...] = ()
    """Splits that together hold all clips of this one; splits that are not within others share no clips with them."""
    frames: ClipLengths | None = None


FileName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class RequiredPath(Config):
    """A file or folder that a dataset's folder must contain."""

    names: Annotated[tuple[FileName, ...], Field(min_length=1)]
    """Its possible names; if several exist, the first is read."""
    holds: str = ""
    """Pattern of a file in the folder, by which `repro data prepare` recognises it; empty for a file."""

    def find_name(self, folder: Path) -> str:
        """Return the name it has in `folder`; an empty string if it is missing."""
        return next((name for name in self.names if (folder / name).exists()), "")

    def __str__(self) -> str:
        return " or ".join(self.names)


class DatasetConfig(NamedConfig):
    title: str
    version: Positive
    source: str
    """Address of the publishers' page."""
    size: str
    """Text for readers, such as "about 6.5 GB"."""
    licence: str
    licence_url: Address | None = None
    """Address of the licence's text, or of what the publishers say about it."""
    folder: str
    """Name of its folder in the workspace's data/."""
    parts: tuple[RequiredPath, ...]
    """Required contents of that folder: annotations first, videos last."""
    files: tuple[RemoteFile, ...] = ()
    """The archives that `repro fetch` downloads to archives/ in that folder."""
    obtain: str | None = None
    """One line on how to get the data to {path} if it cannot be downloaded."""
    adapter: Literal["smoke", "ucf101", "hmdb51", "animal_kingdom", "charades_ego", "own"]
    """The code that reads its annotation files (repro/datasets/registry.py; own.py for a user's table of clips)."""
    classes: Annotated[int, Field(ge=2)]
    target: Literal["single", "multi"]
    official_metric: Literal["top1", "map_macro"]
    """The publishers' metric, by its name in repro/readout/metrics.py; rows may be judged on another."""
    splits: dict[str, SplitFacts]

    @model_validator(mode="after")
    def _check_source(self) -> "DatasetConfig":
        if bool(self.files) == (self.obtain is not None) or not all(file.is_remote for file in self.files):
            raise ValueError("a dataset has files, each with hub or url, or says how to obtain it")
        # `repro fetch` shows the address before it downloads.
        if self.files and self.licence_url is None:
            raise ValueError("what is fetched needs a licence_url")
        return self

    @model_validator(mode="after")
    def _check_within(self) -> "DatasetConfig":
        # A misspelled name would make `repro plan` count shared clips twice.
        unknown = {name for facts in self.splits.values() for name in facts.within} - set(self.splits)
        if unknown:
            raise ValueError(f"splits.*.within: there is no split '{min(unknown)}'")
        return self

    @property
    def argument(self) -> str:
        """What a command takes to name it: its name, or for own clips the path of their YAML file."""
        return self.name

    @property
    def own_listing(self) -> Listing | None:
        """The clips of a user's own table (repro/datasets/own.py), which was read with the config; None for other data sets."""
        return None

    def missing_parts(self, folder: Path) -> list[RequiredPath]:
        """Return the parts that are missing from `folder`."""
        return [part for part in self.parts if not part.find_name(folder)]

    def how_to_obtain(self, workspace: Workspace) -> str:
        """Return the command that brings the dataset into `workspace`, or how to request it from its publishers."""
        if self.obtain is not None:
            return fill_path(self.obtain, workspace.data / self.folder)
        return fetch_command(self.name, workspace)

    def videos_folder(self, folder: Path) -> str:
        """Return the name of the folder of clips in `folder`; if it is missing, the name it would have."""
        return self.parts[-1].find_name(folder) or self.parts[-1].names[0]


def dataset_names() -> list[str]:
    return config_names("datasets")


def load_dataset(name: str) -> DatasetConfig:
    """Read configs/datasets/<name>.yaml.

    Raises:
        UsageError: unknown name, or a config that is not valid.
    """
    # Checked against the list, so that a name with `..` reads no other file.
    if name not in dataset_names():
        near = find_nearest(name, dataset_names())
        raise UsageError(f"unknown dataset '{name}'{near} (configs/datasets has {', '.join(dataset_names())})")
    return load_config(DatasetConfig, configs_folder() / "datasets" / f"{name}.yaml")
