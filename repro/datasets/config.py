"""What a dataset config may say. Imports nothing heavy: `repro list` reads these."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from repro.core.config import Config, NamedConfig, configs_folder, fill_path, load_config
from repro.core.errors import UsageError
from repro.core.remote_file import RemoteFile, fetch_command
from repro.core.workspace import Workspace

Count = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(gt=0)]


class Counted(Config):
    """What a split comes to when its clips are sampled and cut in one way, counted clip by clip."""

    stride: Count
    window: Count
    sampled: Count
    windows: Count


class ClipLengths(Config):
    """How long a split's clips are in native frames, which is reckoned with until an audit has counted them here."""

    total: Count | None = None
    """Of all clips together."""
    mean: tuple[Length, Length] | None = None
    """Of one clip, at least and at most, where the total is not known: an estimate."""
    counted: Counted | None = None
    source: str

    @model_validator(mode="after")
    def _says_how_long(self) -> "ClipLengths":
        if (self.total is None) == (self.mean is None) or (self.counted is not None and self.total is None):
            raise ValueError("frames have a total, which may be counted further, or a mean")
        if self.mean is not None and self.mean[0] > self.mean[1]:
            raise ValueError("mean: the least comes first")
        return self

    @property
    def exact(self) -> bool:
        return self.total is not None


class SplitFacts(Config):
    clips: Count | None = None
    """How many the owners' files list; None where that is not known."""
    estimated_clips: Count | None = None
    """How many there will be, where that is not known: what is reckoned with, and never checked."""
    within: tuple[str, ...] = ()
    """Splits that together hold all clips of this one; splits that are not within others share no clips with them."""
    frames: ClipLengths | None = None


Name = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Part(Config):
    """A file or folder that a dataset's folder must hold."""

    names: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Under which it may stand there; of several that do, the first is read."""
    holds: str = ""
    """A pattern for a file below it by which `repro data prepare` knows such a folder; empty for a file."""

    def find_name(self, folder: Path) -> str:
        """The name under which it stands in `folder`, "" where under none."""
        return next((name for name in self.names if (folder / name).exists()), "")

    def __str__(self) -> str:
        return " or ".join(self.names)


class DatasetConfig(NamedConfig):
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
    parts: tuple[Part, ...]
    """What must lie in that folder: annotations first, videos last."""
    files: tuple[RemoteFile, ...] = ()
    """The archives that `repro fetch` brings to archives/ in that folder."""
    obtain: str | None = None
    """What brings the data to {path} where nothing can be fetched, in one line."""
    adapter: Literal["smoke", "ucf101", "hmdb51", "animal_kingdom", "charades_ego"]
    """What reads it."""
    classes: Annotated[int, Field(ge=2)]
    target: Literal["single", "multi"]
    official_metric: Literal["top1", "map_macro"]
    """The owners' own, by its name in repro/readout/metrics.py; rows may be judged on another."""
    splits: dict[str, SplitFacts]

    @model_validator(mode="after")
    def _can_be_had(self) -> "DatasetConfig":
        if bool(self.files) == (self.obtain is not None) or not all(file.is_remote for file in self.files):
            raise ValueError("a dataset has files, each with hub or url, or says how to obtain it")
        if self.files and self.licence_url is None:
            raise ValueError("what is fetched needs a licence_url")
        return self

    @model_validator(mode="after")
    def _splits_are_named(self) -> "DatasetConfig":
        unknown = {name for facts in self.splits.values() for name in facts.within} - set(self.splits)
        if unknown:
            raise ValueError(f"splits.*.within: there is no split '{min(unknown)}'")
        return self

    def missing_parts(self, folder: Path) -> list[Part]:
        """Parts that `folder` does not hold."""
        return [part for part in self.parts if not part.find_name(folder)]

    def how_to_obtain(self, workspace: Workspace) -> str:
        """The commands that bring the dataset into `workspace`, or how to request it from its publisher."""
        if self.obtain is not None:
            return fill_path(self.obtain, workspace.data / self.folder)
        return f"{fetch_command(self.name, workspace)}, then repro data prepare {self.name}{workspace.command_option}"

    def videos_folder(self, folder: Path) -> str:
        """Name of the folder of clips in `folder`, also where it is not there yet."""
        return self.parts[-1].find_name(folder) or self.parts[-1].names[0]


def dataset_names() -> list[str]:
    return sorted(path.stem for path in (configs_folder() / "datasets").glob("*.yaml"))


def load_dataset(name: str) -> DatasetConfig:
    """Read configs/datasets/<name>.yaml.

    Raises:
        UsageError: unknown name, or a config that is not valid.
    """
    if name not in dataset_names():
        raise UsageError(f"unknown dataset '{name}': configs/datasets has {', '.join(dataset_names())}")
    return load_config(DatasetConfig, configs_folder() / "datasets" / f"{name}.yaml")
