"""configs/plan.yaml: the work of one window, and the assumed speeds."""

from functools import cache
from typing import Annotated, get_args

from pydantic import Field, model_validator

from repro.backbones.config import Precision
from repro.core.config import Config, configs_folder, load_config
from repro.readout.recipe import Recipe

Above0 = Annotated[float, Field(gt=0)]


class Together(Config):
    backbones: tuple[str, ...]
    tflop: Above0
    """Work of one window for all of them together."""


class Gpu(Config):
    device: str
    tflop_per_second: dict[Precision, Above0]

    @model_validator(mode="after")
    def _for_each(self) -> "Gpu":
        lacking = set(get_args(Precision)) - set(self.tflop_per_second)
        if lacking:
            raise ValueError(f"tflop_per_second says nothing for {', '.join(sorted(lacking))}")
        return self


class ReadoutRates(Config):
    gpu_tflop_per_second: Above0
    cpu_thread_tflop_per_second: Above0


class Reckoning(Config):
    tflop_per_window: dict[str, Above0]
    """By backbone."""
    together: tuple[Together, ...] = ()
    gpu: Gpu
    readout: ReadoutRates


@cache
def reckoning() -> Reckoning:
    """
    Raises:
        UsageError: the file is not valid.
    """
    return load_config(Reckoning, configs_folder() / "plan.yaml")


def parameters(recipe: Recipe, width: int, classes: int) -> int:
    """Number of the readout's weights, without biases and norms, which are less than one percent."""
    if recipe.head == "linear":
        return width * recipe.max_length * classes
    return recipe.layers * (4 + 2 * recipe.feedforward_factor) * width**2 + width * classes


def readout_tflop(recipe: Recipe, width: int, classes: int, train_tokens: float, test_tokens: float) -> float:
    """Return the work of one readout in TFLOP.

    One multiply-add (2 FLOP) per parameter and token in the forward pass of both splits, and twice as much in the backward pass
    of the training split. A linear head reads a clip as one padded token.
    """
    per_epoch = 2 * parameters(recipe, width, classes) * (3 * train_tokens + test_tokens)
    return recipe.epochs * per_epoch / 1e12
