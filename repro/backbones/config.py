"""What every backbone's config says, whatever its family. Imports no torch: `repro list` reads these."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from repro.core.config import Config, configs_folder, load_config
from repro.core.errors import UsageError
from repro.core.remote_file import RemoteFile
from repro.core.workspace import Workspace

Positive = Annotated[int, Field(ge=1)]


UpLayer = Annotated[str, Field(pattern=r"^up_[1-9]\d?$")]
"""up_1, up_2, ...: a layer of the decoder, counted from its begin."""
Layer = int | str


class Cell(Config):
    """Which of a backbone's features a readout reads."""

    timestep: Annotated[int, Field(ge=0)] | None = None
    """Index into the noise schedule, 0 the noisiest; None for a backbone without one."""
    layer: Positive | Literal["final"] | UpLayer

    @property
    def name(self) -> str:
        side, _, number = str(self.layer).rpartition("_")
        layer = "final" if self.layer == "final" else f"{side}_{int(number):02d}" if side else f"layer{self.layer:02d}"
        return layer if self.timestep is None else f"t{self.timestep:02d}_{layer}"


class Checkpoint(RemoteFile):
    """The weights: a file under the workspace's checkpoints/, which `repro fetch` brings; or one that is here anyhow."""

    source: str
    """Public address of the page."""
    licence: str
    licence_url: str | None = None
    """Where its text stands, or what its owners say of it."""
    assumed: bool = False
    """True where the release does not say which checkpoint was used."""
    drawn_from_seed: int | None = None
    """The project draws these weights itself, and fetches none: they recognise nothing."""
    package: str | None = None
    """The Python package that brings the file; `file` is its path there."""
    encoder_file: str | None = None
    """The encoder alone, which is cut from `file` and kept in its place."""
    extra: str | None = None
    """Of this project, that installs the package."""

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> "Checkpoint":
        if [self.is_remote, self.drawn_from_seed is not None, self.package is not None].count(True) != 1:
            raise ValueError("a checkpoint has one of hub, url, drawn_from_seed and package")
        if self.is_remote and self.licence_url is None:
            raise ValueError("what is fetched needs a licence_url")
        if (self.package is None) != (self.extra is None):
            raise ValueError("a package is installed by an extra")
        return self


class Frames(Config):
    """From a clip to windows (for SVD: generate_svd_maps.py with the flags of scripts/extract_*)."""

    stride: Positive = 4
    """Every stride-th native frame; frame rate plays no part."""
    max_seconds: Annotated[float, Field(gt=0)] = 180.0
    window: Positive = 25
    """Sampled frames a window holds."""
    overlap: Annotated[int, Field(ge=0)] = 0
    """Sampled frames a window shares with the one before it."""

    @model_validator(mode="after")
    def _goes_on(self) -> "Frames":
        if self.overlap >= self.window:
            raise ValueError(f"windows of {self.window} frames overlap in {self.window - 1} at most")
        return self

    @property
    def hop(self) -> int:
        """Sampled frames from a window's begin to the next one's."""
        return self.window - self.overlap

    def windows(self, sampled: int) -> int:
        """How many windows a clip of so many sampled frames has."""
        return 0 if sampled == 0 else 1 + max(0, -(-(sampled - self.window) // self.hop))


Precision = Literal["fp32", "tf32", "fp16", "bf16"]
"""Of computing (repro/backbones/precision.py); fp16 is how the release ran SVD."""


class Axes(Config):
    """Which cells a backbone has."""

    timesteps: int | None = None
    """How many; None for a backbone without a noise schedule."""
    layers: int | None = None
    """How many are numbered; None where the config does not say."""
    ups: int = 0
    """How many layers of a decoder, up_1, up_2, ..., there are behind them."""
    final: bool = False
    """Whether it has an output behind the last layer."""
    usual: Cell
    """The one that is taken where nothing is said."""
    words: str = ""
    """What the numbered layers are; none where there are none."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What features depend on beside video, config and checkpoint."""

    identity: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


class BackboneConfig(Config):
    """What every family's config has."""

    beside_features: ClassVar[frozenset[str]] = frozenset({"title", "checkpoint"})
    """Keys that no feature depends on."""

    family: str
    title: str
    version: Positive
    """Raised whenever the same config would give other features; part of every content key."""
    checkpoint: Checkpoint | None = None
    frames: Frames = Frames()

    @abstractmethod
    def axes(self) -> Axes:
        """Which cells there are."""

    @abstractmethod
    def channels(self, cell: Cell) -> int | None:
        """Width of a cell's vectors; None where only the checkpoint says."""

    def vectors(self, sampled: int) -> int:
        """How many vectors a clip of so many sampled frames has."""
        return sampled

    def beside(self, workspace: Workspace, to_compute: bool) -> Beside:
        """What else the features depend on here, where there is anything; not `to_compute`, files of it need not be there.

        Raises:
            MissingError: it is not there, or is something else.
        """
        return Beside()

    def absent_beside(self, workspace: Workspace) -> Mapping[str, str]:
        """What of that is not there, by the name `repro fetch` takes it by: a sentence with what brings it."""
        return {}

    def resolved_implementation(self) -> str | None:
        """Whose modules compute on this machine, where there is a choice.

        Raises:
            MissingError: those asked for are not there.
        """
        return None

    def likely_implementation(self) -> str | None:
        """The same where nothing is to be imported: a package that is there is taken to work."""
        return None


class _Family(Config):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    family: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


def backbone_names() -> list[str]:
    return sorted(path.stem for path in (configs_folder() / "backbones").glob("*.yaml"))


def load_backbone(name: str, changes: Mapping[str, str] | None = None) -> BackboneConfig:
    """Read configs/backbones/<name>.yaml, with `changes` of its values by dotted key.

    Raises:
        UsageError: unknown name, or a config that is not valid.
    """
    if name not in backbone_names():
        raise UsageError(f"unknown backbone '{name}': configs/backbones has {', '.join(backbone_names())}")
    from repro.backbones.family import load_family

    path = configs_folder() / "backbones" / f"{name}.yaml"
    family = load_config(_Family, path).family
    return load_config(load_family(family, path).config, path, changes)
