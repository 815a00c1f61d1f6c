"""configs/plan.yaml: the work of one window, the memory it takes, and the assumed speeds."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, get_args

from pydantic import Field, model_validator

from repro.backbones.config import BackboneConfig, Cell, Precision
from repro.backbones.registry import load_backbone
from repro.core.config import Config, Positive, configs_folder, load_config
from repro.datasets.config import ClipLengths
from repro.readout.recipe import Recipe

Above0 = Annotated[float, Field(gt=0)]


class WindowWork(Config):
    """TFLOP of a window without padding, by what its networks compute of the padding of others."""

    real: float = 0.0
    """Nothing."""
    one_black: float = 0.0
    """A single black frame, whose output serves for all padding of the window."""
    all: float = 0.0
    """All of it."""

    @property
    def total(self) -> float:
        return self.real + self.one_black + self.all

    def plus(self, other: "WindowWork", times: float = 1) -> "WindowWork":
        return WindowWork(
            real=self.real + times * other.real,
            one_black=self.one_black + times * other.one_black,
            all=self.all + times * other.all,
        )


class BackboneWork(Config):
    """Of one window."""

    encoders: WindowWork = WindowWork()
    """What is computed once, also for several timesteps and for other backbones that are computed together with this one."""
    network: WindowWork
    """At each timestep."""


Speeds = dict[Precision, Above0]
"""TFLOP per second, by precision."""


class Gpu(Config):
    """The GPU that is assumed if none was measured."""

    device: str
    tflop_per_second: Speeds
    tflop_per_second_of: Mapping[str, Speeds]
    """By backbone, where it differs."""
    compiled: frozenset[Precision]
    """Precisions whose speeds are those of compiled networks."""
    peak_tflop_per_second: Mapping[str, Above0]
    """By the name that the driver gives."""
    batch_gain: Mapping[str, Above0]
    """By backbone: windows per second in batches over windows one by one."""

    @model_validator(mode="after")
    def _check_precisions(self) -> "Gpu":
        missing = set(get_args(Precision)) - set(self.tflop_per_second)
        if missing:
            raise ValueError(f"tflop_per_second has no value for {', '.join(sorted(missing))}")
        return self

    def find_speed(self, backbone: str, precision: Precision) -> float:
        """Return the TFLOP per second of a backbone in a precision."""
        return self.tflop_per_second_of.get(backbone, {}).get(precision, self.tflop_per_second[precision])


class Cpu(Config):
    """Extraction on a CPU of which no speed was measured."""

    thread_tflop_per_second: Above0


class ReadoutRates(Config):
    gpu_tflop_per_second: Above0
    cpu_thread_tflop_per_second: Above0


class Machine(Config):
    """What a command takes of a machine besides its GPU."""

    cores: Positive
    readout_cores: Positive
    base_gigabytes: Above0
    decoder_gigabytes: Above0


class Assumptions(Config):
    own_clips: ClipLengths
    """Of clips that a user brings."""
    tflop_per_window: dict[str, BackboneWork]
    """By backbone."""
    gpu: Gpu
    gpu_gigabytes: dict[str, dict[Precision, dict[int, Above0]]]
    """By backbone, precision and batch; the first batch is the default."""
    same_gigabytes: dict[str, str]
    cpu: Cpu
    readout: ReadoutRates
    machine: Machine


@cache
def load_assumptions() -> Assumptions:
    """Read configs/plan.yaml.

    Raises:
        UsageError: it is not valid.
    """
    return load_config(Assumptions, configs_folder() / "plan.yaml")


def window_work(backbones: Sequence[tuple[BackboneConfig, Sequence[Cell]]]) -> WindowWork | None:
    """Return the work of one window of backbones that are computed together; None if it is unknown.

    Args:
        backbones: Backbones for which registry.sharing_key is equal, possibly with changes; each with the cells to compute.
    """
    known = load_assumptions().tflop_per_window
    encoders, networks = WindowWork(), WindowWork()
    for config, cells in backbones:
        if config.name not in known:
            return None
        work = known[config.name]
        # Nearly all of the work is proportional to a window's frames.
        scale = config.frames.window / load_backbone(config.name).frames.window
        # If one of the backbones needs the padding encoded, it is encoded for all.
        if work.encoders.total and work.encoders.all >= encoders.all:
            encoders = WindowWork().plus(work.encoders, scale)
        networks = networks.plus(work.network, scale * len({cell.timestep for cell in cells}))
    return encoders.plus(networks)


def gpu_gigabytes(backbone: str, precision: Precision) -> dict[int, float]:
    """Return the GPU memory that a backbone takes, by batch, the default batch first; empty if it is unknown."""
    known = load_assumptions()
    name = known.same_gigabytes.get(backbone, backbone)
    return known.gpu_gigabytes.get(name, {}).get(precision, {})


def cpu_windows_per_second(tflop: float, threads: int) -> float:
    """Return the assumed speed of extraction on a CPU, for windows of `tflop`."""
    return load_assumptions().cpu.thread_tflop_per_second * threads / tflop


def count_threads() -> int:
    """Return the threads that torch would use by default, without importing it: the cores this process may use."""
    return len(os.sched_getaffinity(0))


def count_parameters(recipe: Recipe, width: int, classes: int) -> int:
    """Number of the readout's weights, without biases and norms, which are less than one percent."""
    if recipe.head == "linear":
        return width * recipe.max_length * classes
    # Each layer has four square matrices of attention (query, key, value, output) and two of the feed-forward network.
    return recipe.layers * (4 + 2 * recipe.feedforward_factor) * width**2 + width * classes


def estimate_readout_tflop(recipe: Recipe, width: int, classes: int, train_tokens: float, test_tokens: float) -> float:
    """Return the work of training one readout, in TFLOP.

    Args:
        recipe: The readout's recipe.
        width: Channels of the features.
        classes: Number of classes.
        train_tokens: Tokens of all clips of the training split. A linear head reads a clip as one padded token.
        test_tokens: The same for the test split, which is scored after every epoch.
    """
    # One multiply-add is 2 FLOP per parameter and token. The backward pass takes twice the forward pass, so a training
    # token costs three forward passes and a test token one.
    per_epoch = 2 * count_parameters(recipe, width, classes) * (3 * train_tokens + test_tokens)
    return recipe.epochs * per_epoch / 1e12
