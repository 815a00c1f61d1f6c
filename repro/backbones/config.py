"""What every backbone's config contains, and which cells (timestep, layer) a backbone has.

Imports no torch: `repro list` reads every config.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from repro.core.config import Config, NamedConfig, Positive
from repro.core.errors import UsageError
from repro.core.remote_file import Address, RemoteFile
from repro.core.workspace import Workspace
from repro.video.sampling import ReaderName

UpLayer = Annotated[str, Field(pattern=r"^up_[1-9]\d?$")]
"""up_1, up_2, ...: a layer of the decoder, numbered from the decoder's input."""
Layer = int | str

GRID_TIMESTEPS = (0, 5, 10, 15, 20, 25, 29)
"""The release's grid, for a schedule of 30 steps; a shorter schedule uses those that it has."""


class Cell(Config):
    """Which of a backbone's features a readout reads: one timestep and one layer."""

    timestep: Annotated[int, Field(ge=0)] | None = None
    """Index into the noise schedule, 0 the noisiest; None for a backbone without one."""
    layer: Positive | Literal["final"] | UpLayer

    @property
    def name(self) -> str:
        """As in file names and records: t20_layer09, t20_up_03, layer12, final. Part of the workspace's file names."""
        # Numbers are padded, so that file names sort in the order of layers.
        side, _, number = str(self.layer).rpartition("_")
        layer = "final" if self.layer == "final" else f"{side}_{int(number):02d}" if side else f"layer{self.layer:02d}"
        return layer if self.timestep is None else f"t{self.timestep:02d}_{layer}"

    @classmethod
    def parse(cls, name: str) -> "Cell":
        """Return the cell that has this name.

        Raises:
            UsageError: no cell has such a name.
        """
        match = re.fullmatch(r"(?:t(\d+)_)?(?:(final)|layer(\d+)|up_(\d+))", name)
        if match is None:
            raise UsageError(f"features '{name}': expected a cell, as t20_layer09, t20_up_03, layer12 or final")
        timestep, final, layer, up = match.groups()
        chosen: int | str = final or (int(layer) if layer else f"up_{int(up)}")
        return cls.model_validate({"timestep": None if timestep is None else int(timestep), "layer": chosen})


class Checkpoint(RemoteFile):
    """Where the weights come from: downloaded by `repro fetch`, generated from a seed, or part of a Python package."""

    source: str
    """Public address of the page."""
    licence: str
    licence_url: Address | None = None
    """Address of the licence's text, or of the publisher's statement about it."""
    assumed: bool = False
    """True if the release does not say which checkpoint was used."""
    drawn_from_seed: int | None = None
    """Seed from which this project generates random weights; nothing is downloaded, and they recognise nothing."""
    package: str | None = None
    """Python package that contains the file; `file` is its path in the package."""
    encoder_file: str | None = None
    """Name under which only the encoder of `file` is kept."""
    extra: str | None = None
    """Extra of this project that installs the package."""

    @model_validator(mode="after")
    def _check_origin(self) -> "Checkpoint":
        # Exactly one origin: otherwise it would depend on the code which of two files is used.
        if [self.is_remote, self.drawn_from_seed is not None, self.package is not None].count(True) != 1:
            raise ValueError("a checkpoint has one of hub, url, drawn_from_seed and package")
        if self.is_remote and self.licence_url is None:
            raise ValueError("a downloaded checkpoint needs a licence_url")
        # Without the extra, no message could say how to install the package.
        if (self.package is None) != (self.extra is None):
            raise ValueError("package and extra belong together: the extra installs the package")
        return self


class FrameSampling(Config):
    """How a clip is cut into windows (for SVD: generate_svd_maps.py with the flags of scripts/extract_*)."""

    stride: Positive = 4
    """Sample every stride-th frame of the file, whatever its frame rate."""
    max_seconds: Annotated[float, Field(gt=0)] | None = 180.0
    """Frames presented later on the file's clock are not read; None: clips are read completely."""
    reader: ReaderName = "pyav"
    """What decodes: pyav reads every clip; decord is faster, and refuses clips of which it would return other frames."""
    window: Positive = 25
    """Sampled frames per window."""
    overlap: Annotated[int, Field(ge=0)] = 0
    """Sampled frames that consecutive windows share."""
    # Left out of dumps if True, so that it does not enter the content keys of features made before the key existed.
    tail_window: bool = Field(default=True, exclude_if=lambda tail: tail is True)
    """Whether the frames after the last complete window get a window, which is shorter. If not, they are in none; a clip
    shorter than a window has its one short window either way."""

    @model_validator(mode="after")
    def _check_overlap(self) -> "FrameSampling":
        if self.overlap >= self.window:
            raise ValueError(f"windows of {self.window} frames overlap in {self.window - 1} at most")
        return self

    @property
    def hop(self) -> int:
        """Sampled frames between the starts of consecutive windows."""
        return self.window - self.overlap

    @property
    def last_second(self) -> float:
        """`max_seconds`, infinite for clips that are read completely."""
        return math.inf if self.max_seconds is None else self.max_seconds

    @property
    def decoding(self) -> tuple[int, float, ReaderName]:
        """Stride, last second and reader: backbones for which they are equal share the decoding, whatever their windows."""
        return self.stride, self.last_second, self.reader

    def count_sampled(self, native: int, fps: float) -> int:
        """Number of sampled frames of a clip with `native` frames at `fps` frames per second; 0 fps: not known."""
        # The reader keeps frames that start at or before max_seconds; frame 0 starts at 0, hence the + 1.
        seconds = self.max_seconds
        read = native if seconds is None or fps <= 0 else min(native, math.floor(seconds * fps) + 1)
        return -(-read // self.stride)  # rounded up: frame 0 is always sampled

    def windows(self, sampled: int) -> int:
        """Number of windows of a clip with `sampled` sampled frames."""
        if sampled == 0:
            return 0
        beyond = max(0, sampled - self.window)
        # A short last window is started only for frames that no earlier window holds; -(-a // b) rounds up.
        return 1 + (-(-beyond // self.hop) if self.tail_window else beyond // self.hop)

    def ends_in_short_window(self, sampled: int) -> bool:
        """Whether the last window of a clip with `sampled` sampled frames is cut short by the clip's end."""
        beyond = sampled - self.window
        return 0 < sampled < self.window or (self.tail_window and beyond > 0 and beyond % self.hop > 0)

    def frames_in_windows(self, sampled: int) -> int:
        """Number of a clip's `sampled` sampled frames that are in a window: all of them, unless there is no tail window."""
        if self.tail_window or sampled <= self.window:
            return sampled
        return (self.windows(sampled) - 1) * self.hop + self.window


Precision = Literal["fp32", "tf32", "published", "fast", "fp16", "bf16"]
"""What networks compute in (repro/backbones/precision.py). Each family has some of them."""
UNCOMPILED: frozenset[Precision] = frozenset(("fp32", "tf32"))
"""Precisions in which networks are never compiled (repro/backbones/compilation.py)."""


class Axes(Config):
    """Which cells a backbone has."""

    timesteps: int | None = None
    """Number of timesteps; None for a backbone without a noise schedule."""
    layers: int | None = None
    """Number of numbered layers; None if only the checkpoint says."""
    ups: int = 0
    """Number of decoder layers up_1, up_2, ... after them."""
    final: bool = False
    """Whether there is an output after the last layer."""
    usual: Cell
    """The default cell."""
    words: str = ""
    """What the numbered layers are, for messages; empty if there are none."""


@dataclass(frozen=True, slots=True)
class OtherInputs:
    """What features depend on besides video, config and checkpoint."""

    identity: Mapping[str, Any] = field(default_factory=dict)
    """Added to the features' identity, and so to their content key."""
    files: Mapping[str, Path] = field(default_factory=dict)


class BackboneConfig(NamedConfig):
    """Keys that the config of every family has."""

    not_in_identity: ClassVar[frozenset[str]] = frozenset({"title", "checkpoint"})
    """Keys that no feature depends on. The checkpoint enters the identity by the sha256 of its file instead."""

    family: str
    title: str
    version: Positive
    """Raised whenever the same config would give other features; part of every content key."""
    checkpoint: Checkpoint | None = None
    frames: FrameSampling = FrameSampling()

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """Values that the key `precision` may have; fp32 alone for a family without the key."""
        key = cls.model_fields.get("precision")
        return ("fp32",) if key is None else get_args(key.annotation)

    @abstractmethod
    def axes(self) -> Axes:
        """Which cells there are."""

    @abstractmethod
    def channels(self, cell: Cell) -> int | None:
        """Width of a cell's vectors; None if only the checkpoint says."""

    def vectors(self, sampled: int) -> int:
        """Number of vectors of a clip with `sampled` sampled frames."""
        return self.frames.frames_in_windows(sampled)

    def describe_arithmetic(self) -> dict[str, int]:
        """Versions of what a precision means, where it has changed; part of the identity."""
        return {}

    def other_inputs(self, workspace: Workspace, to_compute: bool) -> OtherInputs:
        """What features depend on besides video, config and checkpoint. With to_compute=False its files may be missing.

        Raises:
            MissingError: a file is missing or is not the one expected.
        """
        return OtherInputs()

    def missing_inputs(self, workspace: Workspace) -> Mapping[str, str]:
        """Other inputs that are missing, by the name `repro fetch` knows them by: a sentence with the command that helps."""
        return {}


def read_precision(config: BackboneConfig) -> Precision:
    """Return what the networks of `config` compute in; fp32 for a family without the key."""
    precision: Precision = getattr(config, "precision", "fp32")
    return precision


def precision_change(config: BackboneConfig, *precisions: Precision | None) -> dict[str, str]:
    """Return the change of `config`, by dotted key, that makes it compute in the first of `precisions` that it has.

    Empty if it does already, or if there are none (None counts as none).

    Raises:
        UsageError: the family has none of them.
    """
    wanted = [str(precision) for precision in precisions if precision is not None]
    chosen = next((precision for precision in wanted if precision in config.precisions()), None)
    if wanted and chosen is None:
        raise UsageError(f"--precision {' or '.join(wanted)}: {config.name} has {', '.join(config.precisions())}")
    return {} if chosen in (None, read_precision(config)) else {"precision": str(chosen)}


def choose_cells(
    config: BackboneConfig,
    timesteps: Sequence[int] | None = None,
    layers: Sequence[Layer] | None = None,
    grid: bool = False,
) -> tuple[Cell, ...]:
    """Return every pair of the given timesteps and layers; None means the backbone's default.

    Timesteps are ignored for a backbone without a noise schedule, and layers for one without numbered layers, so that such
    a backbone can be requested together with one that has them.

    Args:
        config: The backbone's config.
        timesteps: Indices into its noise schedule.
        layers: Layers.
        grid: The release's 7 timesteps by all numbered layers instead.

    Raises:
        UsageError: a timestep or layer that does not exist; the message says which do.
    """
    axes = config.axes()
    if grid and axes.timesteps is not None:
        # As in the release, the grid has no output blocks.
        timesteps = [t for t in GRID_TIMESTEPS if t < axes.timesteps]
        layers = range(1, (axes.layers or 0) + 1)
    if not axes.words:
        layers = None
    for layer in layers or ():
        if layer in (0, "up_0"):  # neither can be a Cell, whose own message would not say which layers exist
            raise UsageError(f"layer {layer} does not exist: {config.name} has {_describe_layers(axes)}")
    chosen = tuple(
        Cell(timestep=timestep, layer=layer)
        for timestep in ((axes.usual.timestep,) if axes.timesteps is None else timesteps or (axes.usual.timestep,))
        for layer in layers or (axes.usual.layer,)
    )
    for cell in chosen:
        problem = explain_missing_cell(config, cell)
        if problem:
            raise UsageError(problem)
    return chosen


def explain_missing_cell(config: BackboneConfig, cell: Cell) -> str:
    """Return why the backbone has no such cell, and which it has; an empty string if it has it."""
    axes, name = config.axes(), config.name
    if axes.timesteps is None and cell.timestep is not None:
        return f"timestep {cell.timestep} does not exist: {name} has no timesteps"
    if axes.timesteps is not None and (cell.timestep is None or cell.timestep >= axes.timesteps):
        problem = "no timestep given" if cell.timestep is None else f"timestep {cell.timestep} does not exist"
        return f"{problem}: {name} has timesteps 0 (the noisiest) to {axes.timesteps - 1}"
    if isinstance(cell.layer, int):
        # With axes.layers None the depth is read off the checkpoint later: any number may exist.
        known = bool(axes.words) and cell.layer <= (axes.layers or cell.layer)
    else:
        known = axes.final if cell.layer == "final" else int(cell.layer.removeprefix("up_")) <= axes.ups
    return "" if known else f"layer {cell.layer} does not exist: {name} has {_describe_layers(axes)}"


def _describe_layers(axes: Axes) -> str:
    numbered = f"1 to {axes.layers} ({axes.words})" if axes.layers else axes.words
    ups = f"up_1 to up_{axes.ups} (output blocks)" if axes.ups else ""
    return " and ".join(part for part in (numbered, ups, "'final'" if axes.final else "") if part)
