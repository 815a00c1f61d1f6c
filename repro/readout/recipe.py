"""The recipe of a readout: head, loss and optimisation, as a row's config states them.

The values follow the release's scripts/train.py, models/Transformer.py and models/MLP.py.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from repro.core.config import Config, Positive

Metric = Literal["map_micro", "top1"]
"""Metrics that a published value may be in; repro/readout/metrics.py defines them."""
Protocol = Literal["published", "held-out"]
"""published: trains on the complete training split and selects the epoch on the test split (docs/deviations.md 2).
held-out: selects the epoch on clips held out of the training split."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
TrainingPrecision = Literal["fp32", "tf32", "bf16"]
"""Precision of the readout's matrix products; weights, losses and the optimizer are always fp32."""


Activation = Literal["softmax", "sigmoid"]
"""What makes probabilities of logits: over the classes of a clip, or of each class alone."""


class Focal(Config):
    """Focal loss (Lin et al. 2017). `alpha` weighs positives and negatives alike, as in the release."""

    name: Literal["focal"]
    alpha: Annotated[float, Field(gt=0)]
    gamma: Annotated[float, Field(ge=0)]


class CrossEntropy(Config):
    """Softmax cross-entropy over the classes, for clips with one label."""

    name: Literal["cross_entropy"]


class Bce(Config):
    """Binary cross-entropy of every class, for clips with any number of labels."""

    name: Literal["bce"]


class Recipe(Config):
    """How the readout is trained. Its dump, without `note`, is part of a run's content key."""

    # Fields without a default differ between the published settings, so that every row must state them.
    head: Literal["transformer", "linear"] = "transformer"
    loss: Annotated[Focal | CrossEntropy | Bce, Field(discriminator="name")]
    epochs: Positive
    warmup_epochs: Annotated[int, Field(ge=0)] = 4
    """Epochs of linear warm-up of the learning rate; included in `epochs`."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate, reached at the end of the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)]
    mixup: Annotated[float, Field(ge=0)]
    """Mixup weights are sampled from Beta(mixup, mixup); 0 disables mixup."""
    batch_size: Positive = 16
    max_length: Positive
    """Sampled frames read from the start of a clip; later frames are ignored."""
    layers: Annotated[int, Field(ge=0)]
    """Layers of the transformer; 0 for the linear head."""
    heads: Positive = 8
    feedforward_factor: Positive = 3
    """Width of the feed-forward layers as a multiple of the feature width."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    note: str = ""
    """Where a value is not in the release, and what it was taken from instead."""

    @property
    def activation(self) -> Activation:
        return "softmax" if isinstance(self.loss, CrossEntropy) else "sigmoid"

    @model_validator(mode="after")
    def _check_layers_suit_the_head(self) -> "Recipe":
        # Otherwise a config that changes the head alone would train another head than it appears to.
        if (self.head == "linear") != (self.layers == 0):
            raise ValueError(f"the {self.head} head has {'no' if self.head == 'linear' else 'at least 1'} layers")
        return self
