"""Train a readout and score it after every epoch (the release's scripts/train.py).

Everything random derives from the seed by name: the order of clips, mixup and dropout of an epoch do not depend on what
was drawn before them.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from repro.errors import MissingError
from repro.readout.losses import loss
from repro.readout.schedule import learning_rate
from repro.readout.scores import all_scores
from repro.readout.sequences import Sequences
from repro.readout.transformer import ClassificationTransformer
from repro.rows import CrossEntropy, Recipe

VERSION = 1
"""Part of a run's key: raised when the same features and seed would give another readout."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training split. Epochs count from 1."""

    number: int
    train_loss: float
    scores: dict[str, float]
    """On the test split, shares of 1."""


@dataclass(frozen=True, slots=True)
class Trained:
    epochs: list[Epoch]
    predictions: list[Float64[np.ndarray, "N K"]]
    """Test scores after each epoch."""
    model: ClassificationTransformer


def derived(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def train(train_split: Sequences, test_split: Sequences, recipe: Recipe, seed: int) -> Trained:
    """Train on one split, score on the other after every epoch.

    Raises:
        MissingError: the features' width suits neither the test split nor the heads, or the loss turns NaN.
    """
    classes = train_split.targets.shape[1]
    if train_split.width != test_split.width:
        raise MissingError(f"features of two widths: {train_split.width} to learn from, {test_split.width} to test on")
    if train_split.width % recipe.heads:
        raise MissingError(f"features of width {train_split.width} cannot be read by {recipe.heads} heads")
    epochs: list[Epoch] = []
    predictions = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(seed, "init"))
        model = ClassificationTransformer(train_split.width, classes, recipe)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=recipe.weight_decay)
        for number in range(1, recipe.epochs + 1):
            train_loss = _one_epoch(model, optimizer, train_split, recipe, seed, number)
            scores = predict(model, test_split, recipe)
            epochs.append(Epoch(number, train_loss, all_scores(scores, test_split.targets.numpy().astype(np.int64))))
            predictions.append(scores)
    return Trained(epochs, predictions, model)


def _one_epoch(
    model: ClassificationTransformer,
    optimizer: torch.optim.Optimizer,
    split: Sequences,
    recipe: Recipe,
    seed: int,
    number: int,
) -> float:
    """Mean loss over the epoch's batches."""
    model.train()
    torch.manual_seed(derived(seed, "dropout", number))
    draw = np.random.default_rng(derived(seed, "epoch", number))
    order = draw.permutation(len(split.clips)).tolist()
    steps = -(-len(order) // recipe.batch_size)
    total = 0.0
    for step in range(steps):
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        features, valid, targets = split.batch(chosen)
        if recipe.mixup > 0:
            features, targets = _mixed(features, targets, draw, recipe.mixup)
        rate = learning_rate(
            (number - 1) * steps + step, steps, recipe.epochs, recipe.warmup_epochs, recipe.learning_rate
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value = loss(recipe.loss, model(features, valid), targets)
        if not torch.isfinite(value):
            raise MissingError(
                f"training stopped in epoch {number}, step {step + 1}: the loss is {value.item()}: "
                "look for a learning rate that is too high or features that are not finite"
            )
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += value.item()
    return total / steps


def _mixed(features: Tensor, targets: Tensor, draw: np.random.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup of a batch with one lambda. Each clip keeps its own mask, as released (docs/deviations.md 6)."""
    share = float(draw.beta(alpha, alpha))
    partner = torch.from_numpy(draw.permutation(len(features)))
    return share * features + (1 - share) * features[partner], share * targets + (1 - share) * targets[partner]


@torch.inference_mode()
def predict(model: ClassificationTransformer, split: Sequences, recipe: Recipe) -> Float64[np.ndarray, "N K"]:
    """Probabilities of every clip: softmax where the loss is cross-entropy, else a sigmoid a class."""
    model.eval()
    logits = torch.cat(
        [
            model(*split.batch(range(start, min(start + recipe.batch_size, len(split.clips))))[:2])
            for start in range(0, len(split.clips), recipe.batch_size)
        ]
    ).double()
    return (logits.softmax(1) if isinstance(recipe.loss, CrossEntropy) else logits.sigmoid()).numpy()
